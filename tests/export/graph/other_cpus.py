"""Evaluate a TensorFlow graph in NumPy, with the rounding of other CPUs.

Engines agree on what they compute, not on how: in which order they sum, in how many lanes and
blocks, and whether a product is rounded before it is added (fused multiply-add). Everything else is
one IEEE operation, which is the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf

import numpy as np
import tensorflow as tf

_ERF = np.vectorize(erf, otypes=[np.float64])


@dataclass(frozen=True)
class Cpu:
    """How sums are rounded."""

    lanes: int
    """Partial sums, which are added up at the end."""
    fused: bool
    """Whether products are not rounded before they are added."""
    reverse: bool = False
    """Whether sums begin at their last term."""
    dtype: type = np.float32

    def sum(self, values):
        """Along the last axis."""
        return self.matmul(values[..., None, :], np.ones((values.shape[-1], 1)))[..., 0, 0]

    def matmul(self, a, b):
        """A matrix product."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if self.dtype is np.float64:
            return a @ b
        if self.reverse:
            a, b = a[..., ::-1], b[..., ::-1, :]
        lanes = [
            self._sequential(a[..., i :: self.lanes], b[..., i :: self.lanes, :])
            for i in range(self.lanes)
        ]
        return sum(lanes[1:], lanes[0])

    def _sequential(self, a, b):
        shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        total = np.zeros((*shape, a.shape[-2], b.shape[-1]), np.float32)
        for k in range(a.shape[-1]):
            product = a[..., k, None] * b[..., k, None, :]  # float64: exact
            if not self.fused:
                product = product.astype(np.float32)
            total = (total + product.astype(np.float64)).astype(np.float32)
        return total


EXACT = Cpu(lanes=1, fused=False, dtype=np.float64)


def evaluate(function, images, cpu):
    """The output ``logits`` of a concrete function whose only input is ``images``."""
    values = {}
    for operation in function.graph.get_operations():
        if operation.type in ("NoOp", "Assert"):
            continue
        inputs = [_as(values[tensor.name], cpu.dtype) for tensor in operation.inputs]
        output = images if operation.type == "Placeholder" else _run(operation, inputs, cpu)
        values[operation.outputs[0].name] = _as(np.asarray(output), cpu.dtype)
    return values[function.structured_outputs["logits"].name]


def _as(value, dtype):
    return value.astype(dtype) if value.dtype.kind == "f" else value


def _run(operation, inputs, cpu):
    if operation.type in _SIMPLE:
        return _SIMPLE[operation.type](*inputs)
    return _OTHERS[operation.type](operation, inputs, cpu)


def _mean(operation, inputs, cpu):
    values, axis = inputs[0], int(np.ravel(inputs[1])[0])
    total = cpu.sum(np.moveaxis(values, axis, -1))
    if operation.type == "Mean":
        total = (total * cpu.dtype(1 / values.shape[axis])).astype(cpu.dtype)
    return np.expand_dims(total, axis) if operation.get_attr("keep_dims") else total


def _softmax(operation, inputs, cpu):
    exponentials = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
    return exponentials / cpu.sum(exponentials)[..., None]


def _matmul(operation, inputs, cpu):
    names = ("transpose_a", "transpose_b") if operation.type == "MatMul" else ("adj_x", "adj_y")
    a, b = (
        value.swapaxes(-1, -2) if operation.get_attr(name) else value
        for value, name in zip(inputs, names, strict=True)
    )
    return cpu.matmul(a, b)


def _space_to_depth(operation, inputs, cpu):
    block, (batch, height, width, channels) = operation.get_attr("block_size"), inputs[0].shape
    grid = inputs[0].reshape(batch, height // block, block, width // block, block, channels)
    shape = (batch, height // block, width // block, block * block * channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def _strided_slice(operation, inputs, cpu):
    def marked(name, axis):
        return operation.get_attr(name) >> axis & 1

    index = []
    for axis, (start, stop, step) in enumerate(zip(*inputs[1:], strict=True)):
        if marked("ellipsis_mask", axis):
            index.append(Ellipsis)
        elif marked("shrink_axis_mask", axis):
            index.append(start)
        else:
            first = None if marked("begin_mask", axis) else start
            index.append(slice(first, None if marked("end_mask", axis) else stop, step))
    return inputs[0][tuple(index)]


_SIMPLE = {
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "RealDiv": np.divide,
    "Exp": np.exp,
    "Erf": _ERF,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    "Relu": lambda x: np.maximum(x, 0),
    "Identity": lambda x: x,
    "Cast": lambda x: x.astype(np.float64),
    "Reshape": np.reshape,
    "Transpose": np.transpose,
    "Pad": np.pad,
    "GatherV2": lambda x, indices, axis: np.take(x, indices, axis=int(axis)),
    "ConcatV2": lambda *x: np.concatenate(x[:-1], axis=int(x[-1])),
    "Pack": lambda *x: np.stack(x),
    "Shape": lambda x: np.array(x.shape),
}
_OTHERS = {
    "Const": lambda operation, inputs, cpu: tf.make_ndarray(operation.get_attr("value")),
    "Mean": _mean,
    "Sum": _mean,
    "Softmax": _softmax,
    "MatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "SpaceToDepth": _space_to_depth,
    "StridedSlice": _strided_slice,
}
