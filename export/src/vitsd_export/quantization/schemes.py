"""What each quantization is: one row per quantization, and everything that depends on which it is.

To add one: its name in ``vitsd_runtime.types``, its row here, and, where its layers or tensors take
a new kind of number, the quantizer of its format beside this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from vitsd_export.quantization.ranges import MINMAX, MSE, USUAL_METHODS, RangeMethod
from vitsd_runtime.types import Format, Quantization

Precision = Literal["int4", "static", "dynamic", "float"]
"""Of a dense layer, from the coarsest: int4 weights and activations quantized at run time; int8
with ranges fixed by calibration; int8 weights and activations quantized at run time; not
quantized."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Output = Format | Literal["web"]
"""What models are exported to: a file of a format, or a folder for browsers, with a ``.tflite``."""
Ladder = tuple[Precision, ...]
"""Precisions of a dense layer, from the fastest (or smallest) to the most exact."""
RANGE_METHODS: Mapping[Precision, tuple[RangeMethod, ...]] = {
    "static": USUAL_METHODS,
    "int4": (MSE, MINMAX),
}
"""Ways to choose ranges that a search tries, for the precisions that have a choice."""


@dataclass(frozen=True)
class Tolerance:
    """What a model may differ from its reference. None: not limited."""

    logit_difference: float | None
    """Largest difference of a logit, in standard deviations of the reference's logits."""
    agreement: float
    """Smallest fraction of images with the same top-1 class."""
    top1_drop: float | None
    """Largest loss of top-1 accuracy, as a fraction of all images."""


@dataclass(frozen=True)
class Scheme:
    """A quantization."""

    name: Quantization
    help: str
    """One line for help texts."""
    ladders: Mapping[Format, Ladder]
    """The formats that take it; for each the precisions that its layers may get, if searched."""
    tolerance: Tolerance
    """Of the parity gate. The searched ones met a stricter budget on validation images before; the
    extra margin covers sampling noise."""
    machine_difference: float
    """By which a logit of the same file may differ on other CPUs and engines, in standard
    deviations of the reference's logits."""
    agreement: float | None = None
    """Smallest agreement with the float model that a search settles for: somewhat above what the
    parity gate asks. None: nothing is searched."""
    needs_calibration: bool = False
    """Whether it can't be made without images; else all layers take its first precision then."""
    integer_only: bool = False
    """Every tensor is int8, so the search chooses ranges instead of precisions."""
    optional_integer_io: bool = False
    """Whether TFLite files may take int8 inputs and give int8 outputs."""
    float16_weights: bool = False
    """Whether all weights are rounded to float16."""
    cost_per_weight: bool = False
    """Whether the search weighs what a layer costs by its size: for files that are to be small."""

    def __post_init__(self) -> None:
        """Refuse rows that no search could follow; for whoever adds one."""
        shortest = min(len(ladder) for ladder in self.ladders.values())
        steps = 0 if not self.searched else 1 if self.integer_only else 2
        if shortest < steps:
            raise ValueError(f"{self.name}: every ladder needs at least {steps} precisions")

    @property
    def searched(self) -> bool:
        """Whether it is searched within an accuracy budget, on validation images."""
        return self.agreement is not None

    def fits(self, output: Output) -> bool:
        """Whether models can be exported to ``output`` like this."""
        if output == "web":  # LiteRT.js takes no int8 inputs
            return "tflite" in self.ladders and not self.integer_only
        return output in self.ladders


_ANY: dict[Format, Ladder] = {"saved_model": (), "tflite": (), "onnx": ()}

SCHEMES: dict[Quantization, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "none",
            "float32",
            ladders=_ANY,
            # Rounding is 5e-6 on test images, 4e-5 on those made to be as bad as can be: flat but
            # for one pixel. Two classes that tie may change places.
            tolerance=Tolerance(2e-4, 0.999, 0.001),
            machine_difference=5e-4,
        ),
        Scheme(
            "float16",
            "weights rounded to float16: half the size",
            ladders={"tflite": ()},
            tolerance=Tolerance(None, 0.995, 0.005),
            machine_difference=5e-3,
            float16_weights=True,
        ),
        Scheme(
            "dynamic",
            "int8 weights; activations quantized at run time",
            ladders={"tflite": ("dynamic", "float"), "onnx": ("dynamic", "float")},
            tolerance=Tolerance(None, 0.97, 0.01),
            machine_difference=0.3,
            agreement=0.98,
        ),
        Scheme(
            "int8",
            "int8 dense layers with calibrated ranges, the rest in float: fastest on most CPUs",
            ladders={"tflite": ("static", "dynamic", "float"), "onnx": ("static", "float")},
            tolerance=Tolerance(None, 0.96, 0.015),
            machine_difference=0.45,
            agreement=0.975,
            needs_calibration=True,
            optional_integer_io=True,
        ),
        Scheme(
            "int8-full",
            "every operation in int8, for hardware without floating point",
            ladders={"tflite": ("static",)},
            tolerance=Tolerance(None, 0.94, 0.015),
            machine_difference=0.7,
            agreement=0.95,
            needs_calibration=True,
            integer_only=True,
        ),
        Scheme(
            "int4",
            "int4 weights: smallest",
            ladders={"tflite": ("int4", "dynamic", "float")},
            tolerance=Tolerance(None, 0.90, 0.015),
            machine_difference=0.3,
            agreement=0.93,
            needs_calibration=True,
            cost_per_weight=True,
        ),
    )
}
"""By name, in the order of :data:`vitsd_runtime.types.QUANTIZATIONS`."""

EXPORT_FORMATS: tuple[Format, ...] = tuple(_ANY)
"""Formats that models are exported to."""
OUTPUTS: tuple[Output, ...] = (*EXPORT_FORMATS, "web")
SEARCHED: tuple[Quantization, ...] = tuple(s.name for s in SCHEMES.values() if s.searched)
"""Quantizations that are searched within an accuracy budget."""


def quantizations_of(output: Output) -> tuple[Quantization, ...]:
    """The quantizations that ``output`` takes."""
    return tuple(scheme.name for scheme in SCHEMES.values() if scheme.fits(output))


def format_of(output: Output) -> Format:
    """Of the model file in it."""
    return "tflite" if output == "web" else output
