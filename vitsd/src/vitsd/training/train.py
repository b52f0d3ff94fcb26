"""Train a model from scratch, in a run folder that can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import platform
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import keras
import numpy as np

from vitsd.config import VitConfig
from vitsd.data.dataset import SPLITS, Dataset, Split, say_flattered
from vitsd.data.fingerprint import Fingerprint
from vitsd.data.statistics import Counts, moments, odd_values, pixel_counts
from vitsd.evaluation.confidence import FEWEST_IMAGES, fit_confidence
from vitsd.evaluation.metrics import accuracy_report, confusion_matrix
from vitsd.evaluation.predict import predict_logits
from vitsd.hub.saving import save_model
from vitsd.model.vit import build_vit
from vitsd.plots import plot_confusion, plot_curves
from vitsd.recipe import TrainingRecipe
from vitsd.training import callbacks as cb
from vitsd.training.augmentation import BatchAugmentation, augmentation_ranges, model_augmentation
from vitsd.training.class_balance import balanced_weights, describe_imbalance
from vitsd.training.fine_tuning import PretrainedStart
from vitsd.training.history import Row, read_history
from vitsd.training.optimizer import compile_model
from vitsd.training.run import RunFolder
from vitsd.training.sequence import ImageSequence
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.spec import Confidence, ModelSpec, Provenance
from vitsd_runtime.spec.sections import from_dict as section_from_dict
from vitsd_runtime.system.files import write_text
from vitsd_runtime.system.machine import describe_machine
from vitsd_runtime.types import Float32Array, PathLike

_log = logging.getLogger(__name__)
_ORIGIN = ("preset", "source", "options")
"""Entries of a model's provenance that only the caller knows."""


def train(
    config: VitConfig,
    recipe: TrainingRecipe,
    dataset: Dataset,
    output: PathLike | RunFolder,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    origin: Mapping[str, Any] | None = None,
    pretrained: PretrainedStart | None = None,
) -> dict[str, Any]:
    """Train, and leave ``model.keras`` and its pictures in ``output``.

    Python's random generator is left as it was found.

    Args:
        config: the architecture; its input size and classes are taken from the dataset.
        recipe: how to train.
        dataset: labeled images; a validation split is cut off if it has none.
        output: the run folder; it must not hold a run, unless ``resume``. A :class:`RunFolder` can
            give the model another name than the folder's.
        resume: continue the run in ``output`` after its last complete epoch, with the same
            schedule.
        tensorboard: also write TensorBoard logs to ``output/tensorboard``.
        origin: ``preset``, ``source`` and ``options``, for the model's provenance.
        pretrained: the model to be fine-tuned; without, training starts from scratch.

    Returns:
        The contents of ``results.json``: the path of the model, the epoch whose weights it has
        (from 1), and the report of :func:`vitsd.evaluation.metrics.accuracy_report` on the test
        images.

    Raises:
        UsageError: the folder holds another run, or ``resume`` finds none or a different one.
        VitsdError: the loss became NaN, or a checkpoint is damaged.
    """
    folder = output if isinstance(output, RunFolder) else RunFolder(output)
    # All that can be wrong with the request should come out before hours of training.
    run = _Run.plan(config, recipe, dataset, folder, origin or {}, pretrained)
    if tensorboard:
        _require_tensorboard()
    if resume:
        folder.resume(run.description())
    else:
        folder.start(run.description())
    if resume and folder.is_finished:
        _log.info("%s is finished already; nothing is left to train.", folder)
        return folder.read_results()
    with _python_seed(recipe.seed):
        history = _fit(run, resume, tensorboard)
        return _finish(run, history)


@dataclass(frozen=True)
class _Run:
    """What is trained, on what, how, and where its files go."""

    config: VitConfig
    recipe: TrainingRecipe
    dataset: Dataset
    folder: RunFolder
    spec: ModelSpec
    pretrained: PretrainedStart | None
    origin: Mapping[str, Any]

    @classmethod
    def plan(
        cls,
        config: VitConfig,
        recipe: TrainingRecipe,
        dataset: Dataset,
        folder: RunFolder,
        origin: Mapping[str, Any],
        pretrained: PretrainedStart | None,
    ) -> _Run:
        """Cut off the validation images, and make the spec."""
        dataset = dataset.with_validation(recipe.validation_fraction)
        for split, count in dataset.repeats().items():
            total = len(getattr(dataset, split))
            say_flattered(
                f"{count} of {total} {split} images are training images too", count / total
            )
        config = config.for_data(dataset.image_shape, dataset.num_classes)
        counts = pixel_counts(dataset.train.images)
        # The weights of a trained model fit pixels normalized as in its training.
        mean, variance = (
            pretrained.statistics(config) if pretrained is not None else moments(counts)
        )
        spec = ModelSpec(
            name=folder.name,
            class_names=dataset.class_names,
            input_size=config.input_size,
            image_size=config.image_size,
            mean=tuple(mean.tolist()),
            variance=tuple(variance.tolist()),
            resize_mode=dataset.resize_mode,
            value_range=dataset.value_range,
            augmentation=augmentation_ranges(recipe),
            architecture=config.architecture,
        )
        if unknown := sorted(set(origin) - set(_ORIGIN)):
            raise UsageError(f"`origin` knows {', '.join(_ORIGIN)}; got {', '.join(unknown)}.")
        run = cls(config, recipe, dataset, folder, spec, pretrained, origin)
        run.provenance()  # checks the types
        run.warn(counts)
        return run

    def warn(self, counts: Counts) -> None:
        """Log what is odd about the training images, whose pixels were counted."""
        name, train = self.dataset.name, self.dataset.train
        for oddity in odd_values(train.images, counts):
            _log.warning("%s: %s", name, oddity)
        if self.recipe.class_weights == "none":
            imbalance = describe_imbalance(train.labels, self.dataset.class_names)
            if imbalance:
                _log.warning("%s: %s", name, imbalance)

    def description(self) -> dict[str, Any]:
        """For ``run.json``; a run may be resumed by one with the same description."""
        description = {
            "name": self.spec.name,
            "resize_mode": self.spec.resize_mode,
            "value_range": self.spec.value_range and list(self.spec.value_range),
            "config": self.config.to_dict(),
            "recipe": self.recipe.to_dict(),
            "data": {
                "name": self.dataset.name,
                "classes": list(self.dataset.class_names),
                "images": self.image_counts(),
                "split_rule": self.dataset.split_rule,
                "mean": list(self.spec.mean),
                "variance": list(self.spec.variance),
            },
            "origin": dict(self.origin),
        }
        if self.pretrained is not None:
            description["pretrained"] = self.pretrained.description
        return description

    def image_counts(self) -> dict[str, int]:
        """Number of images by split."""
        return {split: len(getattr(self.dataset, split) or ()) for split in SPLITS}

    def fingerprint(self) -> Fingerprint:
        """Of the images that the weights have seen, those of the pretrained model included."""
        own = Fingerprint.of(self.dataset.train.identities)
        before = self.pretrained.spec.provenance.trained_on if self.pretrained else None
        return own if before is None else own.union(Fingerprint.from_text(before))

    def provenance(self) -> Provenance:
        """Where the model comes from, as far as it is known before training."""
        entries = {
            **self.origin,
            "fine_tuned_from": self.pretrained.description if self.pretrained else {},
            "images": self.image_counts(),
            "split_rule": self.dataset.split_rule,
            "trained_on": self.fingerprint().to_text(),
            "recipe": self.recipe.to_dict(),
            "versions": _versions(),
        }
        return section_from_dict(Provenance, entries, "origin")

    def training_images(self) -> ImageSequence:
        """Batches that are shuffled and augmented."""
        recipe = self.recipe
        return ImageSequence(
            self.dataset.train,
            self.config.num_classes,
            recipe.batch_size,
            recipe.seed,
            BatchAugmentation(recipe),
            self._class_weights(self.dataset.train),
        )

    def validation_images(self) -> ImageSequence | None:
        """Batches in order; None without a validation split."""
        val = self.dataset.val
        if val is None:
            return None
        return ImageSequence(
            val,
            self.config.num_classes,
            self.recipe.batch_size,
            class_weights=self._class_weights(val),
        )

    def _class_weights(self, split: Split) -> Float32Array | None:
        """By the split's own numbers: then the weighted top-1 is the mean of the classes' top-1."""
        if self.recipe.class_weights == "none":
            return None
        return balanced_weights(split.labels, self.config.num_classes)


@contextlib.contextmanager
def _python_seed(seed: int) -> Iterator[None]:
    """Seed Python's generator, from which Keras takes the seeds that it is not given.

    ``keras.utils.set_random_seed`` would import TensorFlow, and leave the seed set.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _fit(run: _Run, resume: bool, tensorboard: bool) -> list[Row]:
    """Train for the epochs that are left; returns the rows of ``metrics.csv``."""
    recipe, folder = run.recipe, run.folder
    model = build_vit(
        run.config,
        mean=run.spec.mean,
        variance=run.spec.variance,
        augmentation=model_augmentation(recipe),
        dtype=recipe.precision,
    )
    if run.pretrained is not None:
        run.pretrained.apply(model)
    images = run.training_images()
    compile_model(model, recipe, steps_per_epoch=len(images))
    history: list[Row] = []
    if resume:
        history = _restore(model, folder)
        _log.info("Resuming %s after epoch %d of %d.", folder, len(history), recipe.epochs)
    if len(history) == recipe.epochs:
        return history
    images.epoch = len(history)  # Keras fetches the first batches before the first epoch begins
    model.fit(
        images,
        validation_data=run.validation_images(),
        initial_epoch=len(history),
        epochs=recipe.epochs,
        # The sequence shuffles by the seed; Keras would do it differently in a resumed run.
        shuffle=False,
        verbose=0,
        callbacks=_callbacks(run, images, history, tensorboard),
    )
    return history


def _callbacks(
    run: _Run, images: ImageSequence, history: list[Row], tensorboard: bool
) -> list[keras.callbacks.Callback]:
    recipe, folder = run.recipe, run.folder
    # Validates with the averaged weights.
    swap = keras.callbacks.SwapEMAWeights() if recipe.ema_momentum else None
    chain = [
        cb.Interruptible(),
        cb.EpochSeeds(images, recipe.seed),
        cb.MetricsLog(folder.metrics, len(run.dataset.train), history),
        swap,
        cb.BestWeights(folder.best, swap),
        # After all that save: if killed earlier, the epoch is repeated and yields the same files.
        cb.LastCheckpoint(folder.checkpoint),
        cb.Progress(len(images), recipe.batch_size),
        keras.callbacks.TensorBoard(folder.tensorboard, profile_batch=0) if tensorboard else None,
    ]
    return [callback for callback in chain if callback is not None]


def _restore(model: keras.Model, folder: RunFolder) -> list[Row]:
    """Load weights and optimizer state; returns the rows of the epochs that they stand for."""
    history = read_history(folder.metrics)
    if not folder.checkpoint.exists() and len(history) < 2:
        return []  # killed before it was first written
    cb.restore_checkpoint(folder.checkpoint, model)
    # A run killed between the two writes has a row more than its checkpoint. (Steps don't tell the
    # epoch: mixed_float16 skips some.)
    step = int(model.optimizer.iterations)
    history = [row for row in history if (row["step"] or 0) <= step]
    if not history or history[-1]["step"] != step:
        raise VitsdError(
            f"{folder.metrics} does not fit the checkpoint; delete the run and start anew."
        )
    return history


def _finish(run: _Run, history: list[Row]) -> dict[str, Any]:
    """Save the inference model (float32, no augmentation layers), test it and draw pictures."""
    folder, dataset = run.folder, run.dataset
    epoch, _, weights = cb.read_best(folder.best)
    model = build_vit(run.config, mean=run.spec.mean, variance=run.spec.variance)
    model.set_weights(weights)
    logits = predict_logits(model, dataset.test.images)
    confidence = _confidence(run, model)
    report = accuracy_report(logits, dataset.test.labels, dataset.class_names, confidence)
    provenance = dataclasses.replace(
        run.provenance(),
        dataset=dataset.name,
        epoch=epoch,
        validation_top1=history[epoch - 1].get("val_top1"),
        test_top1=report["top1"],
        test_top5=report["top5"],
        machine=describe_machine()["cpu"],
    )
    save_model(model, folder.model, run.spec.replace(provenance=provenance, confidence=confidence))
    plot_curves(history, folder.curves)
    predicted = np.argmax(logits, axis=1)
    matrix = confusion_matrix(predicted, dataset.test.labels, dataset.num_classes)
    plot_confusion(matrix, dataset.class_names, folder.confusion)
    results = {"model": str(folder.model), "epoch": epoch, **report}
    write_text(folder.results, json.dumps(results, indent=1))
    return results


def _confidence(run: _Run, model: keras.Model) -> Confidence | None:
    """From the validation images; None where they are too few."""
    val = run.dataset.val
    fitted = None
    if val is not None:
        logits = predict_logits(model, val.images)
        fitted = fit_confidence(logits, val.labels, run.recipe.coverage)
    if fitted is None:
        _log.warning(
            "%s has %d validation images, fewer than %d: the model's probabilities are not "
            "calibrated, and it never says that it does not know.",
            run.dataset.name,
            0 if val is None else len(val),
            FEWEST_IMAGES,
        )
    return fitted


def _require_tensorboard() -> None:
    if not all(importlib.util.find_spec(module) for module in ("tensorboard", "tensorflow")):
        raise UsageError(
            "TensorBoard logs need tensorboard and tensorflow: "
            'pip install "vitsd[tensorboard,tensorflow]".'
        )


def _versions() -> dict[str, str]:
    """Versions of what trained the model."""
    backend = keras.backend.backend()
    return {
        "vitsd": metadata.version("vitsd"),
        "python": platform.python_version(),
        "keras": keras.__version__,
        backend: import_module(backend).__version__,
    }
