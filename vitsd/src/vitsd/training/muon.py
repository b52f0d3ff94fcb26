"""Muon: the steps of matrices are made orthogonal, so that every direction learns alike."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from vitsd.model import names

Tensor = Any
"""A tensor of Keras' backend."""

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: singular values from 0 to 1 come near 1 in few steps."""
_ITERATIONS = 5
_MOMENTUM = 0.95
_BETA_1, _BETA_2 = 0.9, 0.999
"""Adam's."""
_EPSILON = 1e-7


class Muon(keras.optimizers.Optimizer):
    """Muon for the kernels between the image and the logits, AdamW for everything else.

    Both take one learning rate: an orthogonal step is scaled to a root mean square of 1 before it
    is multiplied by it, which is what AdamW's steps have at most. Kernels of more than two axes
    (attention's, by head, and those of convolutions) count as the matrix of their inputs by their
    outputs. (``keras.optimizers.Muon`` gives them to AdamW.)

    Source: K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024; J. Liu et
    al., "Muon is Scalable for LLM Training", arXiv:2502.16982 (one learning rate).

    Args:
        learning_rate: a number or a schedule.
        orthogonalize_in: dtype of the products that make steps orthogonal.
        **kwargs: of ``keras.optimizers.Optimizer``.
    """

    def __init__(
        self, learning_rate: Any, *, orthogonalize_in: str = "float32", **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.orthogonalize_in = orthogonalize_in
        self._momentums: list[Any] = []
        self._velocities: list[Any] = []
        """None for what Muon changes."""
        self._orthogonal_steps: dict[int, Tensor] = {}
        """Those of the step under way that are computed already, by a variable's index."""

    def build(self, variables: list[Any]) -> None:
        """Make the state for these variables."""
        if self.built:
            return
        super().build(variables)
        add = self.add_variable_from_reference
        for variable in variables:
            self._momentums.append(add(variable, name="momentum"))
            self._velocities.append(None if is_matrix(variable) else add(variable, name="velocity"))

    def _backend_update_step(
        self, grads: list[Tensor], trainable_variables: list[Any], learning_rate: Tensor
    ) -> None:
        # Keras' hook for all variables at once. The matrices are small, and there are many of them:
        # a GPU takes as long to start a product as to compute it.
        if keras.backend.backend() == "jax":
            self._orthogonal_steps = self._all_steps(grads, trainable_variables)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """Change one variable by its gradient."""
        gradient = ops.cast(gradient, variable.dtype)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        # TensorFlow's own variable comes here, which knows nothing of Keras' paths.
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        if velocity is not None:
            step = self._adam(gradient, momentum, velocity)
        elif index in self._orthogonal_steps:
            step = self._orthogonal_steps.pop(index)
        else:
            step = self._scaled(orthogonalized(self._nesterov(gradient, momentum)), momentum)
        self.assign_sub(variable, learning_rate * step)

    def _all_steps(self, grads: list[Tensor], variables: list[Any]) -> dict[int, Tensor]:
        """The steps of all matrices by their index; those of one shape are computed together."""
        by_shape: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
        for gradient, variable in zip(grads, variables, strict=True):
            index = self._get_variable_index(variable)
            if self._velocities[index] is None:
                gradient = ops.cast(gradient, variable.dtype)
                matrix = self._nesterov(gradient, self._momentums[index])
                by_shape.setdefault(matrix.shape, []).append((index, matrix))
        steps = {}
        for alike in by_shape.values():
            indices, matrices = zip(*alike, strict=True)
            orthogonal = orthogonalized(ops.stack(matrices))
            for place, index in enumerate(indices):
                steps[index] = self._scaled(orthogonal[place], self._momentums[index])
        return steps

    def _nesterov(self, gradient: Tensor, momentum: Any) -> Tensor:
        """What is to be made orthogonal, as a matrix; the momentum takes the gradient in."""
        average = _MOMENTUM * momentum + gradient
        self.assign(momentum, average)
        nesterov = ops.reshape(gradient + _MOMENTUM * average, matrix_shape(momentum.shape))
        return ops.cast(nesterov, self.orthogonalize_in)

    def _scaled(self, step: Tensor, momentum: Any) -> Tensor:
        """A step in the variable's shape, with a root mean square of 1."""
        scaled = ops.cast(step, momentum.dtype) * math.sqrt(max(step.shape))
        return ops.reshape(scaled, momentum.shape)

    def _adam(self, gradient: Tensor, momentum: Any, velocity: Any) -> Tensor:
        mean = _BETA_1 * momentum + (1 - _BETA_1) * gradient
        square = _BETA_2 * velocity + (1 - _BETA_2) * ops.square(gradient)
        self.assign(momentum, mean)
        self.assign(velocity, square)
        steps = ops.cast(self.iterations + 1, gradient.dtype)
        mean = mean / (1 - ops.power(_BETA_1, steps))
        square = square / (1 - ops.power(_BETA_2, steps))
        return mean / (ops.sqrt(square) + _EPSILON)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "orthogonalize_in": self.orthogonalize_in}


def is_matrix(variable: Any) -> bool:
    """Whether Muon changes it: no norms, biases, embeddings; no depthwise kernels, nor logits."""
    path, shape = variable.path.split("/"), variable.shape
    return path[-1] == "kernel" and names.LOGITS not in path and shape[-1] > 1


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of a kernel: the most nearly square matrix of its entries in order."""
    splits = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
    return min(splits, key=lambda split: max(split) / min(split))


def orthogonalized(matrices: Tensor) -> Tensor:
    """About U V' of each matrix U S V', by Newton and Schulz's iteration.

    Args:
        matrices: ``(..., rows, columns)``, none all 0.

    Returns:
        Matrices of the same shape and dtype, whose singular values are between 0.7 and 1.2.
    """
    rows, columns = matrices.shape[-2:]
    wide = _transposed(matrices) if rows > columns else matrices
    wide = wide / (ops.norm(wide, axis=(-2, -1), keepdims=True) + _EPSILON)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = wide @ _transposed(wide)
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return _transposed(wide) if rows > columns else wide


def _transposed(matrices: Tensor) -> Tensor:
    return ops.swapaxes(matrices, -2, -1)
