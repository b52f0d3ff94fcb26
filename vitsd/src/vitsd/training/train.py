"""Train a model from scratch, in a run folder that can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import platform
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import keras
import numpy as np

from vitsd.config import VitConfig
from vitsd.data.dataset import SPLITS, Dataset, Split, distort, say_flattered
from vitsd.data.fingerprint import Fingerprint
from vitsd.data.statistics import Counts, moments, odd_values, pixel_counts
from vitsd.data.stored import choose
from vitsd.evaluation.confidence import FEWEST_IMAGES, fit_confidence
from vitsd.evaluation.evaluate import overlap_with, trained_on
from vitsd.evaluation.metrics import accuracy_report, confusion_matrix
from vitsd.evaluation.predict import predict_logits
from vitsd.hub.saving import save_model
from vitsd.model.vit import build_vit
from vitsd.plots import MOST_CLASSES, plot_confusion, plot_curves
from vitsd.recipe import TrainingRecipe
from vitsd.training import callbacks as cb
from vitsd.training.augmentation import BatchAugmentation, augmentation_ranges, model_augmentation
from vitsd.training.class_balance import balanced_weights, describe_imbalance, describe_scarcity
from vitsd.training.distribution import ProcessGroup, joined
from vitsd.training.fine_tuning import PretrainedStart
from vitsd.training.history import Row, read_history
from vitsd.training.optimizer import compile_model
from vitsd.training.run import RunFolder
from vitsd.training.sequence import ImageSequence, workers
from vitsd.training.teacher import Answers, Teacher
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.spec import Confidence, ModelSpec, Provenance
from vitsd_runtime.spec.sections import from_dict as section_from_dict
from vitsd_runtime.system.files import write_text
from vitsd_runtime.system.machine import describe_machine
from vitsd_runtime.system.version import version_of
from vitsd_runtime.types import Float32Array, PathLike

_log = logging.getLogger(__name__)
_ORIGIN = ("preset", "source", "options")
"""Entries of a model's provenance that only the caller knows."""


def train(  # noqa: PLR0913 - most have a default
    config: VitConfig,
    recipe: TrainingRecipe,
    dataset: Dataset,
    output: PathLike | RunFolder,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    origin: Mapping[str, Any] | None = None,
    pretrained: PretrainedStart | None = None,
    teacher: Answers | None = None,
) -> dict[str, Any]:
    """Train, and leave ``model.keras`` and its pictures in ``output``.

    Python's random generator is left as it was found.

    Processes that have joined others (:meth:`vitsd.training.distribution.ProcessGroup.join`) train
    one model together, if all call this with the same arguments. They part at the end. Only the
    first uses ``output``.

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
        teacher: from uint8 images to logits, by the model that ``recipe.teacher`` then only names:
            one that vitsd can't open.

    Returns:
        The contents of ``results.json``: the path of the model, the epoch whose weights it has
        (from 1), and the report of :func:`vitsd.evaluation.metrics.accuracy_report` on the test
        images. Nothing in other processes than the first.

    Raises:
        UsageError: the folder holds another run, or ``resume`` finds none or a different one; or
            the processes were started differently, or can't share a batch.
        VitsdError: the loss became NaN, a checkpoint is damaged, or another process was lost.
    """
    folder = output if isinstance(output, RunFolder) else RunFolder(output)
    # All that can be wrong with the request should come out before hours of training.
    group = joined()
    group.require_divisible(recipe.batch_size)
    run = _Run.plan(config, recipe, dataset, folder, origin or {}, pretrained, group, teacher)
    if tensorboard:
        _require_tensorboard()
    start = folder.resume if resume else folder.start
    group.value_from_first(lambda: start(run.description()))
    if resume and group.value_from_first(lambda: folder.is_finished):
        _log.info("%s is finished already; nothing is left to train.", folder)
        group.leave()
        return folder.read_results() if group.is_first else {}
    with _python_seed(recipe.seed):
        history = _fit(run, resume, tensorboard)
        group.leave()
        return _finish(run, history) if group.is_first else {}


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
    group: ProcessGroup
    teacher: Teacher | None

    @classmethod
    def plan(
        cls,
        config: VitConfig,
        recipe: TrainingRecipe,
        dataset: Dataset,
        folder: RunFolder,
        origin: Mapping[str, Any],
        pretrained: PretrainedStart | None,
        group: ProcessGroup,
        answers: Answers | None,
    ) -> _Run:
        """Cut off the validation images, and make the spec."""
        dataset = group.together(lambda: dataset.with_validation(recipe.validation_fraction))
        content = _content(dataset)
        group.require_same({f"{dataset.name}.{name}": digest for name, digest in content.items()})
        _say_what_is_known(dataset, pretrained)
        config = config.for_data(dataset.image_shape, dataset.num_classes)
        input_size = config.input_size
        teacher = group.together(lambda: _find_teacher(recipe, answers, dataset, input_size))
        images = dataset.train.images
        counts = group.total(lambda: pixel_counts(choose(images, group.share(len(images)))))
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
            reducing_gap=dataset.reducing_gap,
            augmentation=augmentation_ranges(recipe),
            architecture=config.architecture,
        )
        if unknown := sorted(set(origin) - set(_ORIGIN)):
            raise UsageError(f"`origin` knows {', '.join(_ORIGIN)}; got {', '.join(unknown)}.")
        run = cls(config, recipe, dataset, folder, spec, pretrained, origin, group, teacher)
        run.provenance()  # checks the types
        group.require_same({**run.description(), "origin": None, "versions": _alike(_versions())})
        if group.is_first:
            run.warn(counts)
        return run

    def warn(self, counts: Counts) -> None:
        """Log what is odd about the training images, whose pixels were counted."""
        name, train = self.dataset.name, self.dataset.train
        for oddity in odd_values(train.images, counts):
            _log.warning("%s: %s", name, oddity)
        class_names, balanced = self.dataset.class_names, self.recipe.class_weights != "none"
        # The trained model that comes with vitsd takes color images.
        from_scratch = self.pretrained is None and self.config.input_size[2] == 3
        imbalance = None if balanced else describe_imbalance(train.labels, class_names)
        said = imbalance or describe_scarcity(train.labels, class_names, from_scratch=from_scratch)
        if said:
            _log.warning("%s: %s", name, said)

    def description(self) -> dict[str, Any]:
        """For ``run.json``; a run may be resumed by one with the same description."""
        description = {
            "name": self.spec.name,
            "resize_mode": self.spec.resize_mode,
            "value_range": self.spec.value_range and list(self.spec.value_range),
            "reducing_gap": self.spec.reducing_gap,
            "config": self.config.to_dict(),
            "recipe": self.recipe.to_dict(),
            "data": {
                "name": self.dataset.name,
                "classes": list(self.dataset.class_names),
                "images": self.image_counts(),
                "split_rule": self.dataset.split_rule,
                "mean": list(self.spec.mean),
                "variance": list(self.spec.variance),
                "content": _content(self.dataset),
            },
            "origin": dict(self.origin),
        }
        if self.pretrained is not None:
            description["pretrained"] = self.pretrained.description
        if self.teacher is not None and self.teacher.sha256 is not None:
            description["teacher"] = self.teacher.sha256
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
            self.teacher,
            self._class_weights(self.dataset.train),
            self.group,
            workers=workers(),
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
            group=self.group,
        )

    def _class_weights(self, split: Split) -> Float32Array | None:
        """By the split's own numbers: then the weighted top-1 is the mean of the classes' top-1."""
        if self.recipe.class_weights == "none":
            return None
        return balanced_weights(split.labels, self.config.num_classes)


def _find_teacher(
    recipe: TrainingRecipe,
    answers: Answers | None,
    dataset: Dataset,
    input_size: Sequence[int],
) -> Teacher | None:
    if answers is not None:
        return Teacher(answers, recipe.teacher_share)
    if not recipe.teacher:
        return None
    share, batch_size = recipe.teacher_share, recipe.batch_size
    return Teacher.load(recipe.teacher, share, batch_size, dataset.class_names, input_size)


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
    images = run.training_images()
    with contextlib.closing(images), run.group.scope():
        return _fit_in_scope(run, images, resume, tensorboard)


def _fit_in_scope(run: _Run, images: ImageSequence, resume: bool, tensorboard: bool) -> list[Row]:
    recipe, folder = run.recipe, run.folder
    model = build_vit(
        run.config,
        mean=run.spec.mean,
        variance=run.spec.variance,
        augmentation=model_augmentation(recipe),
        dtype=recipe.precision,
    )
    if run.pretrained is not None:
        run.pretrained.apply(model, run.spec.class_names)
    compile_model(model, recipe, steps_per_epoch=len(images))
    history: list[Row] = []
    best = cb.NO_SCORE
    if resume:
        history, best = _restore(model, folder, run.group)
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
        callbacks=_callbacks(run, images, history, best)
        + (_first_callbacks(run, images, tensorboard) if run.group.is_first else []),
    )
    return history


def _callbacks(
    run: _Run, images: ImageSequence, history: list[Row], best: float
) -> list[keras.callbacks.Callback]:
    """Those of every process: they change the model, or end the training."""
    recipe, folder, writes = run.recipe, run.folder, run.group.is_first
    # Validates with the averaged weights.
    swap = keras.callbacks.SwapEMAWeights() if recipe.ema_momentum else None
    chain = [
        cb.Interruptible(),
        cb.EpochSeeds(images, recipe.seed),
        cb.MetricsLog(folder.metrics if writes else None, len(run.dataset.train), history),
        swap,
        cb.BestWeights(folder.best if writes else None, swap, best),
    ]
    return [callback for callback in chain if callback is not None]


def _first_callbacks(
    run: _Run, images: ImageSequence, tensorboard: bool
) -> list[keras.callbacks.Callback]:
    """Those of the first process: they write, and say what happens."""
    chain = [
        # After all that save: if killed earlier, the epoch is repeated and yields the same files.
        cb.LastCheckpoint(run.folder.checkpoint),
        cb.Progress(len(images), run.recipe.batch_size),
    ]
    if tensorboard:
        chain.append(keras.callbacks.TensorBoard(run.folder.tensorboard, profile_batch=0))
    return chain


def _restore(model: keras.Model, folder: RunFolder, group: ProcessGroup) -> tuple[list[Row], float]:
    """Load weights and optimizer state that the first process reads.

    Returns:
        The rows of the epochs that they stand for, and the best epoch's score.
    """
    history, best = group.value_from_first(lambda: _read_progress(folder))
    if not history:
        return [], best
    content = group.from_first(lambda: cb.read_checkpoint(folder.checkpoint))
    cb.restore_checkpoint(content, folder.checkpoint, model)
    # A run that was killed may have more rows than its checkpoint: those epochs are repeated, and
    # yield the same. (Steps don't tell the epoch: mixed_float16 skips some.)
    step = int(model.optimizer.iterations)
    history = [row for row in history if (row["step"] or 0) <= step]
    if not history or history[-1]["step"] != step:
        raise VitsdError(
            f"{folder.metrics} does not fit the checkpoint; delete the run and start anew."
        )
    return history, best


def _read_progress(folder: RunFolder) -> tuple[list[Row] | None, float]:
    """The rows of ``metrics.csv``, None without a checkpoint; and the best epoch's score."""
    history = read_history(folder.metrics)
    best = cb.read_best(folder.best)[1] if folder.best.exists() else cb.NO_SCORE
    killed_early = not folder.checkpoint.exists() and len(history) < 2  # before its first one
    return None if killed_early else history, best


def _finish(run: _Run, history: list[Row]) -> dict[str, Any]:
    """Save the inference model (float32, no augmentation layers), test it and draw pictures."""
    folder, dataset = run.folder, run.dataset
    epoch, _, weights = cb.read_best(folder.best)
    model = build_vit(run.config, mean=run.spec.mean, variance=run.spec.variance)
    model.set_weights(weights)
    if run.pretrained is not None:
        run.pretrained.blend(model, dataset.class_names)
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
    results = {"model": str(folder.model), "epoch": epoch, **report}
    write_text(folder.results, json.dumps(results, indent=1))
    plot_curves(history, folder.curves)
    if dataset.num_classes <= MOST_CLASSES:
        predicted = np.argmax(logits, axis=1)
        matrix = confusion_matrix(predicted, dataset.test.labels, dataset.num_classes)
        plot_confusion(matrix, dataset.class_names, folder.confusion)
    return results


def _confidence(run: _Run, model: keras.Model) -> Confidence | None:
    """From the validation images; None where they are too few, or the model has seen them."""
    val = run.dataset.val
    count = 0 if val is None else len(val)
    overlap = overlap_with(val, run.pretrained.spec) if val and run.pretrained else None
    if val is not None and overlap is not None and distort(overlap.images, count):
        reason = f"the pretrained model has seen {overlap.images} of {count} validation images"
    elif val is None or count < FEWEST_IMAGES:
        reason = f"there are {count} validation images, fewer than {FEWEST_IMAGES}"
    else:
        return fit_confidence(predict_logits(model, val.images), val.labels, run.recipe.coverage)
    _log.warning(
        "%s: %s. So the model's probabilities are not calibrated, and it never says that it does "
        "not know.",
        run.dataset.name,
        reason,
    )
    return None


def _require_tensorboard() -> None:
    if not all(importlib.util.find_spec(module) for module in ("tensorboard", "tensorflow")):
        raise UsageError(
            "TensorBoard logs need tensorboard and tensorflow: "
            'pip install "vitsd[tensorboard,tensorflow]".'
        )


def _say_what_is_known(dataset: Dataset, pretrained: PretrainedStart | None) -> None:
    """Log how many validation and test images the model trains on, or was trained on before."""
    for name, count in dataset.repeats().items():
        total = len(getattr(dataset, name))
        say_flattered(f"{count} of {total} {name} images are training images too", count, total)
    if pretrained is not None:
        for name in ("val", "test"):
            if (split := getattr(dataset, name)) is not None:
                trained_on(split, pretrained.spec, name)


def _content(dataset: Dataset) -> dict[str, str]:
    """By split, what tells whether it has the same images and labels, in the same order."""
    splits = {name: getattr(dataset, name) for name in SPLITS}
    return {
        name: hashlib.sha256(split.identities.tobytes() + split.labels.tobytes()).hexdigest()[:16]
        for name, split in splits.items()
        if split is not None
    }


def _alike(versions: dict[str, str]) -> dict[str, str]:
    """What must be the same in all processes: Python's patch releases compute the same."""
    return {**versions, "python": versions["python"].rpartition(".")[0]}


def _versions() -> dict[str, str]:
    """Versions of what trained the model."""
    backend = keras.backend.backend()
    return {
        "vitsd": version_of("vitsd"),
        "python": platform.python_version(),
        "keras": keras.__version__,
        backend: import_module(backend).__version__,
    }
