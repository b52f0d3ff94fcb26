"""Import a Keras 2 SavedModel of the public example, such as ``keras-io/vit-small-ds``.

The example (https://keras.io/examples/vision/vit_small_ds/) saves its model without class names,
statistics or augmentation. The import is rejected unless the logits match those of the SavedModel's
own signature.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitsd.config import VitConfig
from vitsd.data.dataset import Dataset
from vitsd.data.sources import load_dataset
from vitsd.data.statistics import pixel_statistics
from vitsd.evaluation.predict import predict_logits
from vitsd.hub.saving import model_name, save_model
from vitsd.model.vit import build_vit
from vitsd_export.keras2.architecture import infer_config
from vitsd_export.keras2.checkpoint import Layer, read_checkpoint
from vitsd_export.keras2.signature import Signature
from vitsd_export.keras2.weights import assign_weights, name_weights
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import ModelSpec, Provenance
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import AnyArray, PathLike, UInt8Array

TOLERANCE = 1e-4
"""Largest difference of a logit between the SavedModel and the imported model."""
IMAGES = 64
"""On which both are compared."""
_EPSILONS = (1e-6, 1e-3)
"""Of LayerNormalization: the example's, and Keras' default."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportReport:
    """What was imported, and how it compared with the SavedModel."""

    variables: int
    """Of the model, each of which was used once."""
    training_state: int
    """Variables of the optimizer and the like, which were left out."""
    images: int
    """On which the logits were compared."""
    real_images: bool
    """Whether those were images of the dataset; else they were random."""
    max_difference: float
    """Largest absolute difference of a logit."""


def import_saved_model(
    folder: PathLike,
    output: PathLike,
    *,
    data: str | None = None,
    mean: Sequence[float] | None = None,
    variance: Sequence[float] | None = None,
    overwrite: bool = False,
) -> tuple[ModelSpec, ImportReport]:
    """Write a ``.keras`` file with a spec from a Keras 2 SavedModel.

    Args:
        folder: the SavedModel. Its Python code, if any, is not run, but a SavedModel is a
            TensorFlow program: import only those that you trust.
        output: the ``.keras`` file.
        data: labeled images like those it was trained on: they give the class names, the
            statistics where the SavedModel has none, and the images on which both are compared.
            Without it, those are random and classes are numbered.
        mean: per channel in 0-255 pixel units, instead of that of ``data``.
        variance: per channel in squared 0-255 pixel units, instead of that of ``data``.
        overwrite: replace the file.

    Returns:
        The spec, and a report.

    Raises:
        UsageError: not a SavedModel, missing or unsuitable statistics, unsuitable data, something
            in the way.
        VitsdError: another architecture, or different logits.
    """
    folder, output = Path(folder), Path(output)
    _check_paths(folder, output, overwrite)
    if (mean is None) != (variance is None):
        raise UsageError("Give both `mean` and `variance`, or neither.")
    checkpoint, signature = read_checkpoint(folder), Signature.load(folder)
    config = infer_config(checkpoint.body, signature.input_size)
    size = f"{config.parameter_count():,} weights"
    _log.info(
        "%d transformer blocks, hidden_dim %d, %s", config.num_layers, config.hidden_dim, size
    )
    dataset = _load_data(data, config) if data else None
    given = (mean, variance) if mean is not None and variance is not None else None
    statistics = _statistics(checkpoint.statistics, given, dataset, config.input_size[2])
    comparison = _Comparison(signature, normalizes=checkpoint.statistics is not None)
    config = dataclasses.replace(config, input_size=comparison.input_size(config, dataset))
    spec = _make_spec(output, folder, config, dataset, statistics)
    images = _comparison_images(spec, dataset)
    expected = comparison.logits(images, spec)
    model, config, difference = _match_logits(checkpoint.body, config, spec, images, expected)
    report = ImportReport(
        variables=checkpoint.variables,
        training_state=checkpoint.training_state,
        images=len(images),
        real_images=dataset is not None,
        max_difference=difference,
    )
    return save_model(model, output, spec.replace(architecture=config.architecture)), report


def _check_paths(folder: Path, output: Path, overwrite: bool) -> None:
    if not (folder / "saved_model.pb").exists():
        raise UsageError(f"{printable(folder)} is not a SavedModel: it has no saved_model.pb.")
    if output.suffix != ".keras":
        raise UsageError(f"The output must end in .keras; got {printable(output)}.")
    if output.exists() and not overwrite:
        raise UsageError(f"{printable(output)} exists; replace it with `overwrite`.")


def _load_data(source: str, config: VitConfig) -> Dataset:
    """The dataset, which must have the model's classes and channels."""
    height, width, channels = config.input_size
    dataset = load_dataset(source, input_size=(height, width))
    if dataset.image_shape[2] != channels or dataset.num_classes != config.num_classes:
        raise UsageError(
            f"{printable(dataset.name)} has {dataset.num_classes} classes and "
            f"{dataset.image_shape[2]} channels, the model {config.num_classes} and {channels}."
        )
    return dataset


_Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and variance per channel, in 0-255 pixel units."""


def _statistics(
    own: Layer | None, given: _Statistics | None, dataset: Dataset | None, channels: int
) -> _Statistics:
    """The statistics of the SavedModel, of the caller or of the data: the first that there are."""
    if given is not None:
        _check_given(own, *given, channels)
        return given
    if own is not None:
        return own.get("mean").reshape(-1).tolist(), own.get("variance").reshape(-1).tolist()
    if dataset is None:
        raise UsageError(
            "The SavedModel has no normalization statistics: give its training data as `data`, or "
            "`mean` and `variance`."
        )
    mean, variance = pixel_statistics(dataset.train.images)
    return mean.tolist(), variance.tolist()


def _check_given(
    own: Layer | None, mean: Sequence[float], variance: Sequence[float], channels: int
) -> None:
    if own is not None:
        raise UsageError(
            "The SavedModel has statistics of its own: leave out `mean` and `variance`."
        )
    sized = len(mean) == len(variance) == channels
    if not (sized and np.isfinite([*mean, *variance]).all() and min(variance) > 0):
        raise UsageError(
            f"The model needs {channels} finite means and {channels} positive variances."
        )


def _make_spec(
    output: Path, folder: Path, config: VitConfig, dataset: Dataset | None, statistics: _Statistics
) -> ModelSpec:
    numbers = tuple(str(i) for i in range(config.num_classes))
    mean, variance = (tuple(map(float, values)) for values in statistics)
    return ModelSpec(
        name=model_name(output.stem),
        class_names=dataset.class_names if dataset else numbers,
        input_size=config.input_size,
        image_size=config.image_size,
        mean=mean,
        variance=variance,
        architecture=config.architecture,
        provenance=Provenance(imported_from=folder.resolve().name, format="Keras 2 SavedModel"),
    )


@dataclass(frozen=True)
class _Comparison:
    """How a SavedModel wants its images."""

    signature: Signature
    normalizes: bool
    """It takes raw pixels; else normalized ones."""

    def _resizes(self, image_size: int) -> bool:
        return self.signature.input_size[:2] != (image_size, image_size)

    def input_size(self, config: VitConfig, dataset: Dataset | None) -> tuple[int, int, int]:
        """Size of the images that the imported model takes.

        A SavedModel that normalizes or resizes was trained on images of its signature's size; any
        other on preprocessed ones, which may have had any size.
        """
        any_size = not self.normalizes and not self._resizes(config.image_size)
        if any_size and dataset is not None:
            return dataset.image_shape
        return self.signature.input_size

    def logits(self, images: UInt8Array, spec: ModelSpec) -> AnyArray:
        """The SavedModel's logits ``(n, classes)`` of images ``(n, *spec.input_size)``."""
        if self.normalizes:
            return self.signature.run(images.astype(np.float32))
        if self._resizes(spec.image_size):
            scale, offset = spec.normalization()
            return self.signature.run(images * scale + offset)
        return self.signature.run(preprocess(images, spec))


def _comparison_images(spec: ModelSpec, dataset: Dataset | None) -> UInt8Array:
    """uint8 ``(n, *spec.input_size)``: test images, or random ones without a dataset."""
    random = np.random.default_rng(0)
    if dataset is None:
        return random.integers(0, 256, (IMAGES, *spec.input_size), dtype=np.uint8)
    images: UInt8Array = dataset.split("test").sample(IMAGES).images[:]
    # On flat patches, such as a drawing's background, the tokenization's norm amplifies rounding
    # errors of both models about 1000x. Noise of one gray level avoids flat patches.
    noise = random.integers(0, 2, images.shape, dtype=np.uint8)
    return np.where(images < 255, images + noise, images - noise)


def _match_logits(
    body: Sequence[Layer],
    config: VitConfig,
    spec: ModelSpec,
    images: UInt8Array,
    expected: AnyArray,
) -> tuple[Any, VitConfig, float]:
    """Choose what the variables leave open, by the logits.

    Returns:
        The Keras model, its architecture, and the largest difference of a logit.

    Raises:
        VitsdError: no choice gives the expected logits.
    """

    def build(candidate: VitConfig) -> tuple[Any, VitConfig, float]:
        model = build_vit(candidate, mean=spec.mean, variance=spec.variance)
        assign_weights(model, name_weights(body, candidate))
        difference = float(np.abs(predict_logits(model, images) - expected).max())
        return model, candidate, difference

    best = min(map(build, _candidates(body, config)), key=lambda built: built[2])
    # Not `>`: NaN must be refused too.
    if not best[2] <= TOLERANCE:
        raise VitsdError(
            f"The imported model's logits differ by {best[2]:.2g} from the SavedModel's, more than "
            f"{TOLERANCE:g}: it is not the public example's architecture (exact GELU, diagonal "
            "mask, dense layers as read)."
        )
    return best


def _candidates(body: Sequence[Layer], config: VitConfig) -> Iterator[VitConfig]:
    """The architectures that the variables allow."""
    # Without a stored temperature, attention is either masked with a constant one, or ordinary.
    has_temperature = any(layer.has("tau") for layer in body)
    for lsa, epsilon in itertools.product((True,) if has_temperature else (True, False), _EPSILONS):
        yield dataclasses.replace(config, lsa=lsa, layer_norm_epsilon=epsilon)
