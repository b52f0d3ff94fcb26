"""Optimizer, learning rate, loss and metrics."""

from __future__ import annotations

from typing import Any

import keras

from vitsd.backend import on_accelerator
from vitsd.recipe import TrainingRecipe
from vitsd.training.muon import Muon

_CHUNK = 50
"""Steps that an accelerator computes without waiting for the callbacks: a second or less."""


def compile_model(model: keras.Model, recipe: TrainingRecipe, steps_per_epoch: int) -> None:
    """Compile a model for one-hot labels, with top-1 and top-5 accuracy as metrics.

    With balanced class weights also ``balanced_accuracy``: top-1 in which images count by their
    weight, so all classes alike.

    AdamW or Muon with linear warm-up and cosine decay; weight decay on matrices only.

    Args:
        model: made by :func:`vitsd.build_vit`.
        recipe: optimizer, learning rate, weight decay, clipping, averaging, label smoothing, class
            weights, precision.
        steps_per_epoch: batches in an epoch.
    """
    optimizer = _optimizer(recipe, steps_per_epoch)
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if v.name != "kernel"]
    )
    if recipe.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing
    )
    balanced = recipe.class_weights == "balanced"
    model.compile(
        optimizer,
        loss,
        metrics=[
            _Top1(name="top1"),
            _TopK(min(5, model.output_shape[-1]), name="top5"),
        ],
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="balanced_accuracy")]
        if balanced
        else None,
        # On the CPU, XLA is a quarter slower here than TensorFlow's own kernels; JAX requires it.
        jit_compile=keras.backend.backend() == "jax",
        steps_per_execution=min(_chunk(), steps_per_epoch),
    )
    # TensorFlow traces a step twice if the first time makes variables.
    optimizer.build(model.trainable_variables)


def _optimizer(recipe: TrainingRecipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    options = {
        "learning_rate": learning_rate_schedule(recipe, steps_per_epoch),
        "weight_decay": recipe.weight_decay,
        "global_clipnorm": recipe.global_clipnorm or None,
        "use_ema": bool(recipe.ema_momentum),
        "ema_momentum": recipe.ema_momentum or 0.99,
    }
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(**options)
    dtype = "bfloat16" if recipe.precision == "mixed_bfloat16" else "float32"
    return Muon(**options, orthogonalize_in=dtype)


def _chunk() -> int:
    """Steps after which callbacks are called; one where steps take long, and on PyTorch.

    There Keras knows no chunks.
    """
    return _CHUNK if on_accelerator() and keras.backend.backend() != "torch" else 1


class _OfImages(keras.metrics.Metric):
    """Goes before a metric, which then counts the images alone."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch."""
        super().update_state(y_true, y_pred, _is_image(y_true))


class _Top1(_OfImages, keras.metrics.CategoricalAccuracy):
    """The share of images whose class comes first."""


class _TopK(_OfImages, keras.metrics.TopKCategoricalAccuracy):
    """The share of images whose class is among the first."""


def _is_image(y_true: Any) -> Any:
    """False for rows without a label, which only fill up a batch, see :class:`ImageSequence`.

    (Keras counts them in the mean of the loss over an epoch, where they hardly matter.)
    """
    return keras.ops.any(y_true > 0, axis=-1)


def learning_rate_schedule(
    recipe: TrainingRecipe, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear from 0 to the peak over the warm-up, then a cosine to 0 at the last step."""
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_fraction * total), total - 1)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total)
    return keras.optimizers.schedules.CosineDecay(
        0.0, total - warmup, warmup_target=recipe.learning_rate, warmup_steps=warmup
    )
