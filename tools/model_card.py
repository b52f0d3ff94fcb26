"""Write the model card of a trained model: figures on the whole test set, pictures, disturbances.

    python tools/model_card.py MODEL ARTIFACT.tflite --data cifar100 --strangers digits \
        --notes NOTES.md --output DIR

The card's figures are computed here; what a program can't know (intended use, limits, how long
training took) comes from NOTES.md, which the card begins with.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from vitsd.backend import load_keras
from vitsd.data.dataset import Split
from vitsd.evaluation.evaluate import labeled_images, largest_probabilities, load_matching
from vitsd.evaluation.metrics import (
    accuracy_report,
    agreement,
    paired_difference,
    top_k_hits,
)
from vitsd.evaluation.predict import model_logits
from vitsd.evaluation.strangers import load_strangers, strangers_report
from vitsd.hub.pretrained import locate
from vitsd_runtime.cli import app, options
from vitsd_runtime.formats import require_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.files import write_text
from vitsd_runtime.types import AnyArray, UInt8Array

Disturbance = Callable[[Image.Image], Image.Image]
FLOAT = "float32 (Keras)"
STRANGERS = 2000
"""Images of each source at most."""


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG compression."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert(image.mode)


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """The image blurred by a Gaussian; ``sigma`` in pixels."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def noise(image: Image.Image, sigma: float) -> Image.Image:
    """The image with Gaussian noise, the same for every model; ``sigma`` in 0-255 units."""
    pixels = np.asarray(image, np.float32)
    random = np.random.default_rng(int(pixels.sum()) % 2**32)
    pixels = pixels + random.normal(0, sigma, pixels.shape)
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


DISTURBANCES: dict[str, Disturbance] = {
    **{f"JPEG, quality {q}": functools.partial(jpeg, quality=q) for q in (90, 50, 20, 10)},
    **{f"Gaussian blur, sigma {s:g} pixels": functools.partial(blur, sigma=s) for s in (0.5, 1, 2)},
    **{
        f"Gaussian noise, sigma {s} of 255": functools.partial(noise, sigma=s)
        for s in (4, 8, 16, 32)
    },
}


def disturb(images: UInt8Array, disturbance: Disturbance) -> UInt8Array:
    """uint8 images ``(n, height, width, channels)``, each disturbed alone."""
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    disturbed = [np.asarray(disturbance(Image.fromarray(image))) for image in squeezed]
    stacked: UInt8Array = np.stack(disturbed).reshape(images.shape)
    return stacked


@dataclass(frozen=True)
class Figures:
    """What is measured; lists are in the order of ``models``. Fractions are in 0..1."""

    models: dict[str, dict[str, Any]]
    """Accuracy reports, of the trained model first and then of the quantized file."""
    agreement: float
    """Fraction of images with the same answer."""
    top1_change: tuple[float, float, float]
    """By quantization, with its 95 % interval."""
    disturbed: dict[str, list[float]]
    """Top-1 by disturbance."""
    strangers: dict[str, list[dict[str, Any]]]
    """By source, what :func:`vitsd.evaluation.strangers.strangers_report` returns."""


def measure(
    models: dict[str, Path], test: Split, spec: ModelSpec, strangers: Sequence[str] = ()
) -> Figures:
    """Measure the trained model and the quantized file, in this order."""
    specs = {name: require_spec(path) for name, path in models.items()}
    logits = {name: model_logits(path, test.images) for name, path in models.items()}
    float_logits, quantized_logits = logits.values()
    change = paired_difference(
        top_k_hits(float_logits, test.labels, 1), top_k_hits(quantized_logits, test.labels, 1)
    )
    return Figures(
        models={
            name: accuracy_report(values, test.labels, spec.class_names, specs[name].confidence)
            for name, values in logits.items()
        },
        agreement=agreement(quantized_logits, float_logits),
        top1_change=change,
        disturbed={
            name: _top1(models, disturb(test.images[:], disturbance), test)
            for name, disturbance in DISTURBANCES.items()
        },
        strangers={
            source: [
                _about_strangers(source, models[name], specs[name], values)
                for name, values in logits.items()
            ]
            for source in strangers
        },
    )


def _about_strangers(source: str, path: Path, spec: ModelSpec, known: AnyArray) -> dict[str, Any]:
    images = load_strangers(source, spec, STRANGERS)
    logits = model_logits(path, images)
    return strangers_report(
        source,
        largest_probabilities(known, spec),
        largest_probabilities(logits, spec),
        spec.threshold,
    )


def _top1(models: dict[str, Path], images: UInt8Array, test: Split) -> list[float]:
    return [
        float(top_k_hits(model_logits(path, images), test.labels, 1).mean())
        for path in models.values()
    ]


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="model_card", description="Write the model card of a trained model."
    )
    parser.add_argument(
        "model", metavar="MODEL", help="the trained model: .keras file, run folder, or name"
    )
    parser.add_argument(
        "artifact", type=Path, metavar="ARTIFACT", help="the shipped, quantized file"
    )
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument(
        "--notes", type=Path, required=True, metavar="NOTES.md", help="beginning of the card"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--strangers",
        action="append",
        default=[],
        metavar="SOURCE",
        help=f"images of other things; at most {STRANGERS} are used",
    )
    parser.add_argument(
        "--limit", type=options.positive_int, metavar="N", help="use at most N test images"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    load_keras()
    from vitsd.plots import plot_reliability

    artifact, output = arguments.artifact, arguments.output
    spec = require_spec(artifact)
    quantization = spec.export.quantization if spec.export else "none"
    models = {FLOAT: locate(arguments.model), f"{quantization} ({artifact.name})": artifact}
    test = labeled_images(load_matching(arguments.data, spec), spec, "test", arguments.limit)
    figures = measure(models, test, spec, arguments.strangers)
    sizes = {name: path.stat().st_size for name, path in models.items()}
    subject = f"{len(test)} test images" if arguments.limit else f"all {len(test)} test images"
    notes = arguments.notes.read_text(encoding="utf-8").rstrip()

    output.mkdir(parents=True, exist_ok=True)
    plot_reliability(figures.models, output / "reliability.png")
    write_text(output / "figures.json", json.dumps(asdict(figures)))
    card = [
        notes,
        *_accuracy(figures, subject, sizes),
        *_confidence(figures),
        *_disturbed(figures),
        *_classes(figures),
    ]
    write_text(output / "README.md", "\n".join(card) + "\n")
    print(f"{output}/README.md, reliability.png, figures.json")


def _accuracy(figures: Figures, subject: str, sizes: dict[str, int]) -> Iterator[str]:
    headers = ["model", "top-1 %", "top-5 %", "size"]
    rows = [
        [
            name,
            *(f"{100 * report[figure]:.2f}" for figure in ("top1", "top5")),
            f"{sizes[name] / 1e6:.2f} MB",
        ]
        for name, report in figures.models.items()
    ]
    change, low, high = (100 * value for value in figures.top1_change)
    yield f"\n## Accuracy\n\nOn {subject}:\n"
    yield _markdown_table(headers, rows)
    yield (
        f"\nQuantization changes top-1 by {change:+.2f} points (95 % interval {low:+.2f} to "
        f"{high:+.2f}); both give the same answer on {100 * figures.agreement:.2f} % of the "
        "images."
    )


def _confidence(figures: Figures) -> Iterator[str]:
    columns = ("ece_without_temperature", "ece", "known", "known_top1")
    rows = [
        [name, *(_percent(report[column], 2) for column in columns)]
        for name, report in figures.models.items()
    ]
    yield (
        "\n## Confidence\n\nExpected calibration error, without and with the temperature, and what "
        "is known at the threshold:\n"
    )
    headers = ["model", "error before %", "error %", "images known %", "right of those %"]
    yield _markdown_table(headers, rows)
    yield "\n![Reliability](reliability.png)"
    if not figures.strangers:
        return
    yield (
        "\n### Strangers\n\nImages of other things: how many are taken for known at the threshold, "
        "and how well the probability tells them from the test images (AUROC; false positives "
        "where 95 % of the test images are known):\n"
    )
    rows = [
        [
            Path(source).stem,
            name,
            str(found["images"]),
            _percent(found["known"]),
            f"{found['auroc']:.3f}",
            _percent(found["fpr_at_95_coverage"]),
        ]
        for source, reports in figures.strangers.items()
        for name, found in zip(figures.models, reports, strict=True)
    ]
    headers = ["strangers", "model", "images", "taken for known %", "AUROC", "false positives %"]
    yield _markdown_table(headers, rows)


def _disturbed(figures: Figures) -> Iterator[str]:
    undisturbed = [report["top1"] for report in figures.models.values()]
    rows = [
        [name, *(f"{100 * top1:.2f}" for top1 in values)]
        for name, values in {"none": undisturbed, **figures.disturbed}.items()
    ]
    yield (
        "\n## Disturbed images\n\nTop-1 accuracy (%) on the same images, disturbed at their "
        "original size:\n"
    )
    yield _markdown_table(["disturbance", *figures.models], rows)


def _classes(figures: Figures) -> Iterator[str]:
    trained, quantized = (report["per_class"] for report in figures.models.values())
    recall = {row["class"]: row["recall"] for row in quantized}
    rows = [
        [
            row["class"],
            *(_percent(row[figure]) for figure in ("recall", "precision", "top5")),
            _percent(recall.get(row["class"])),
        ]
        for row in sorted(trained, key=lambda row: -(row["recall"] or 0))
    ]
    headers = ["class", "top-1 % (recall)", "precision %", "top-5 %", "recall % quantized"]
    yield "\n## Class by class\n"
    yield _markdown_table(headers, rows)


def _percent(fraction: float | None, decimals: int = 1) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.{decimals}f}"


def _markdown_table(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
