"""Train a model from scratch, in a run folder that can be resumed.

A run folder holds ``run.json`` (what is trained, on what, how), ``metrics.csv``, ``last.weights.h5`` (for resuming),
``best.npz``, and at the end ``model.keras``, ``results.json``, ``curves.png`` and ``confusion.png``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import platform
import random
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

import vitsd
from vitsd.config import VitConfig
from vitsd.data.dataset import Dataset, pixel_statistics
from vitsd.evaluation.metrics import accuracy_report, confusion_matrix
from vitsd.hub.saving import model_name, save_model
from vitsd.model.vit import build_vit
from vitsd.plots import plot_confusion, plot_curves
from vitsd.recipe import TrainingRecipe
from vitsd.training import callbacks as cb
from vitsd.training.augmentation import BatchAugmentation, augmentation_ranges, model_augmentation
from vitsd.training.batches import Batches
from vitsd.training.run_folder import open_run
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.spec import ModelSpec, Provenance
from vitsd_runtime.spec.sections import from_dict as section_from_dict
from vitsd_runtime.system.files import write_text
from vitsd_runtime.system.machine import describe_machine
from vitsd_runtime.types import ResizeMode

if TYPE_CHECKING:
    from vitsd.training.fine_tuning import Start


def train(
    config: VitConfig,
    recipe: TrainingRecipe,
    dataset: Dataset,
    output: str | Path,
    *,
    name: str | None = None,
    resize_mode: ResizeMode = "stretch",
    resume: bool = False,
    tensorboard: bool = False,
    origin: dict | None = None,
    start: Start | None = None,
) -> dict:
    """Train, and leave ``model.keras`` and its pictures in ``output``.

    Args:
        config: the architecture; its input size and classes are taken from the dataset.
        recipe: how to train.
        dataset: labelled images; a validation split is cut off if it has none.
        output: the run folder; it must not hold a run, unless ``resume``.
        name: of the model, for file names; by default the folder's.
        resize_mode: how the dataset's images were brought to their size, for the spec.
        resume: continue the run in ``output`` after its last complete epoch, with the same schedule.
        tensorboard: also write TensorBoard logs to ``output/tensorboard``.
        origin: noted in ``run.json`` and the model's provenance, e.g. ``{"preset": ..., "data": ...}``.
        start: the model to be fine-tuned; without, training starts from scratch.

    Returns:
        The contents of ``results.json``: test top-1, top-5, per-class figures, the path of the model.

    Raises:
        UsageError: the folder holds another run, or ``resume`` finds none or a different one.
        VitsdError: the loss became NaN.
    """
    output = Path(output)
    name = model_name(name or output.resolve().name)
    dataset = dataset.with_validation(recipe.validation_fraction)
    config = config.for_data(dataset.image_shape, dataset.num_classes)
    # The weights of a trained model fit the pixels as it was trained on them.
    mean, variance = start.statistics(config) if start else pixel_statistics(dataset.train.images)
    description = {
        "name": name,
        "resize_mode": resize_mode,
        "config": config.to_dict(),
        "recipe": recipe.to_dict(),
        "data": {
            "name": dataset.name,
            "classes": list(dataset.class_names),
            "images": {s: len(getattr(dataset, s) or ()) for s in ("train", "val", "test")},
            "mean": mean.tolist(),
            "variance": variance.tolist(),
        },
        "origin": origin or {},
        **({"start": start.description} if start else {}),
    }
    spec = (
        ModelSpec(  # made first: what is wrong with it should not come out after hours of training
            name=name,
            class_names=dataset.class_names,
            input_size=config.input_size,
            image_size=config.image_size,
            mean=mean,
            variance=variance,
            resize_mode=resize_mode,
            augmentation=augmentation_ranges(recipe),
            architecture=config.architecture,
        )
    )
    if tensorboard and not all(
        importlib.util.find_spec(module) for module in ("tensorboard", "tensorflow")
    ):
        raise UsageError(
            'TensorBoard logs need tensorboard and tensorflow: pip install "vitsd[tensorboard,tensorflow]".'
        )
    open_run(output, description, resume)
    if resume and (output / "results.json").exists() and (output / "model.keras").exists():
        print(f"{output} is finished already; nothing is left to train.")
        return json.loads((output / "results.json").read_text(encoding="utf-8"))
    history = _fit(config, recipe, dataset, spec, output, resume, tensorboard, start)
    provenance = section_from_dict(
        Provenance,
        {
            **(origin or {}),
            "fine_tuned_from": start.description if start else {},
            "images": description["data"]["images"],
            "recipe": recipe.to_dict(),
        },
        "origin",
    )
    return _finish(config, dataset, spec.replace(provenance=provenance), output, history)


def _fit(
    config, recipe, dataset, spec, output: Path, resume: bool, tensorboard: bool, start
) -> list[dict]:
    """Train for the epochs that are left; returns the rows of ``metrics.csv``."""
    # Keras takes the seeds that it is not given from this generator; keras.utils.set_random_seed would import TensorFlow.
    random.seed(recipe.seed)
    augmentation = model_augmentation(recipe)
    model = build_vit(
        config,
        mean=spec.mean,
        variance=spec.variance,
        augmentation=augmentation,
        dtype=recipe.precision,
    )
    if start:
        start.apply(model)
    batches = Batches(
        dataset.train, config.num_classes, recipe.batch_size, recipe.seed, BatchAugmentation(recipe)
    )
    compile_model(model, recipe, steps_per_epoch=len(batches))

    checkpoint = output / "last.weights.h5"
    history = (
        _restore(model, checkpoint, output / "metrics.csv")
        if resume and checkpoint.exists()
        else []
    )
    if history:
        print(f"Resuming {output} after epoch {len(history)} of {recipe.epochs}.")
    if len(history) == recipe.epochs:
        return history
    batches.epoch = len(history)  # Keras fetches the first batches before the first epoch begins

    swap = (
        keras.callbacks.SwapEMAWeights() if recipe.ema_momentum else None
    )  # validates with the averaged weights
    chain = [
        cb.Interruptible(),
        cb.EpochSeeds(batches, recipe.seed),
        cb.MetricsLog(output / "metrics.csv", len(dataset.train), history),
        swap,
        cb.BestWeights(output / "best.npz", swap),
        # Last of those that save: a run that is killed before it repeats the epoch, and finds the same best weights.
        cb.LastCheckpoint(checkpoint),
        cb.Progress(len(batches), recipe.batch_size),
        keras.callbacks.TensorBoard(output / "tensorboard", profile_batch=0)
        if tensorboard
        else None,
    ]
    model.fit(
        batches,
        validation_data=Batches(dataset.val, config.num_classes, recipe.batch_size)
        if dataset.val
        else None,
        initial_epoch=len(history),
        epochs=recipe.epochs,
        shuffle=False,  # Batches shuffles by the seed; Keras would shuffle again, differently in a resumed run
        verbose=0,
        callbacks=[callback for callback in chain if callback is not None],
    )
    return history


def _restore(model: keras.Model, checkpoint: Path, metrics: Path) -> list[dict]:
    """Load weights and optimizer state; returns the rows of the epochs that they stand for."""
    model.optimizer.build(model.trainable_variables)  # else its state in the file is passed over
    try:
        model.load_weights(checkpoint)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        message = (
            f"The checkpoint {checkpoint} can't be read ({error}); delete the run and start anew."
        )
        raise VitsdError(message) from error
    # A run killed between the two writes has a row more than its checkpoint. (Epochs are not counted by steps, because
    # mixed_float16 skips some.)
    step = int(model.optimizer.iterations)
    history = [row for row in cb.read_history(metrics) if row["step"] <= step]
    if not history or history[-1]["step"] != step:
        raise VitsdError(f"{metrics} does not fit the checkpoint; delete the run and start anew.")
    return history


def _finish(
    config: VitConfig, dataset: Dataset, spec: ModelSpec, output: Path, history: list[dict]
) -> dict:
    """Save the best weights as a model as it is used: float32, without training's layers. Test it and draw pictures."""
    epoch, _, weights = cb.read_best(output / "best.npz")
    model = build_vit(config, mean=spec.mean, variance=spec.variance)
    model.set_weights(weights)
    logits = predict_logits(model, dataset.test.images)
    report = accuracy_report(logits, dataset.test.labels, dataset.class_names)
    provenance = dataclasses.replace(
        spec.provenance,
        dataset=dataset.name,
        epoch=epoch,
        validation_top1=history[epoch - 1].get("val_top1"),
        test_top1=report["top1"],
        test_top5=report["top5"],
        versions=versions(),
        machine=describe_machine()["cpu"],
    )
    save_model(model, output / "model.keras", spec.replace(provenance=provenance))
    plot_curves(history, output / "curves.png")
    matrix = confusion_matrix(logits.argmax(axis=1), dataset.test.labels, dataset.num_classes)
    plot_confusion(matrix, dataset.class_names, output / "confusion.png")
    results = {"model": str(output / "model.keras"), "epoch": epoch, **report}
    write_text(output / "results.json", json.dumps(results, indent=1))
    return results


def compile_model(model: keras.Model, recipe: TrainingRecipe, steps_per_epoch: int) -> None:
    """Compile for one-hot labels: AdamW with linear warm-up and cosine decay, label smoothing, top-1 and top-5."""
    optimizer = keras.optimizers.AdamW(
        learning_rate_schedule(recipe, steps_per_epoch),
        weight_decay=recipe.weight_decay,
        global_clipnorm=recipe.global_clipnorm or None,
        use_ema=bool(recipe.ema_momentum),
        ema_momentum=recipe.ema_momentum or 0.99,
    )
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if v.name != "kernel"]
    )
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="top1"),
            keras.metrics.TopKCategoricalAccuracy(5, name="top5"),
        ],
        # XLA on the CPU is a quarter slower here than TensorFlow's own kernels; JAX is nothing without it.
        jit_compile=keras.backend.backend() == "jax",
    )


def learning_rate_schedule(recipe: TrainingRecipe, steps_per_epoch: int):
    """Linear from 0 to the peak over the warm-up, then a cosine to 0 at the last step."""
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_fraction * total), total - 1)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total)
    return keras.optimizers.schedules.CosineDecay(
        0.0, total - warmup, warmup_target=recipe.learning_rate, warmup_steps=warmup
    )


def predict_logits(model: keras.Model, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Float32 logits ``(n, classes)`` of uint8 images of the model's input size."""
    return np.asarray(model.predict(images, batch_size=batch_size, verbose=0), np.float32)


def versions() -> dict:
    """Versions of what trained the model."""
    found = {
        "vitsd": vitsd.__version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
    }
    backend = keras.backend.backend()
    found[backend] = __import__(backend).__version__
    return found
