"""What ONNX's operations make of their inputs, and which inputs they can have.

Only what vitsd-export writes, in operator sets from 13. onnxruntime checks much of this itself, but
late: after it has computed what follows from constants alone, with any amount of memory and time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable

from vitsd_runtime.structure import shapes
from vitsd_runtime.structure.graph import Depth, Operation, Rule, Shape, Tensor, require

Inputs = Sequence[Tensor]


def _real(*tensors: Tensor) -> None:
    dtypes = sorted({tensor.dtype for tensor in tensors})
    require(dtypes == ["float32"], "takes {}", ", ".join(dtypes))


def _float32(shape: Shape) -> list[Tensor]:
    return [Tensor("float32", shape)]


def _elementwise(step: Operation, inputs: Inputs) -> list[Tensor]:
    first, second = inputs
    _real(first, second)
    return _float32(shapes.broadcast(first.shape, second.shape))


def _unary(step: Operation, inputs: Inputs) -> list[Tensor]:
    (value,) = inputs
    _real(value)
    return _float32(value.shape)


def _softmax(step: Operation, inputs: Inputs) -> list[Tensor]:
    shapes.axis(step.options.get("axis", -1), len(inputs[0].shape))
    return _unary(step, inputs)


def _cast(step: Operation, inputs: Inputs) -> list[Tensor]:
    (value,) = inputs
    require(step.options.get("to") == 1 and value.dtype in ("int32", "uint8"), "casts otherwise")
    return _float32(value.shape)


def _concat(step: Operation, inputs: Inputs) -> list[Tensor]:
    _real(*inputs)
    parts = [tensor.shape for tensor in inputs]
    return _float32(shapes.concatenate(parts, step.options.get("axis", 0)))


def _quantized(integers: str, value: Tensor, scale: Tensor, zero: Tensor, number: int) -> None:
    """Check the scale and zero point of quantized values."""
    _real(scale)
    # Biases are int32.
    known = integers in ("int8", "uint8") or (integers == "int32" and value.constant)
    require(known and zero.dtype == integers, "takes {}", integers)
    fits = scale.shape == zero.shape and scale.constant and zero.constant
    if scale.shape:
        along = shapes.axis(number, len(value.shape))
        fits = fits and scale.shape == (value.shape[along],)
    require(fits, "has scales of shape {} for {}", scale.shape, value.shape)


def _dequantize(step: Operation, inputs: Inputs) -> list[Tensor]:
    value, scale, zero = inputs
    _quantized(value.dtype, value, scale, zero, step.options.get("axis", 1))
    return _float32(value.shape)


def _quantize(step: Operation, inputs: Inputs) -> list[Tensor]:
    value, scale, zero = inputs
    _real(value)
    _quantized(zero.dtype, value, scale, zero, step.options.get("axis", 1))
    return [Tensor(zero.dtype, value.shape)]


def _dynamic_quantize(step: Operation, inputs: Inputs) -> list[Tensor]:
    (value,) = inputs
    _real(value)
    return [Tensor("uint8", value.shape), Tensor("float32", ()), Tensor("uint8", ())]


def _average_pool(step: Operation, inputs: Inputs) -> list[Tensor]:
    (value,) = inputs
    _real(value)
    rank = len(value.shape)
    require(rank >= 3, "takes a tensor of shape {}", value.shape)
    return _float32((*value.shape[:2], *[1] * (rank - 2)))


def _layer_norm(step: Operation, inputs: Inputs) -> list[Tensor]:
    value, *scales = inputs
    _real(value, *scales)
    require(value.shape and step.options.get("axis", -1) == -1, "has another axis than the last")
    fits = all(scale.shape == value.shape[-1:] for scale in scales)
    require(fits, "has a scale of another shape than {}", value.shape[-1:])
    return _float32(value.shape)


def _convolve(step: Operation, inputs: Inputs) -> list[Tensor]:
    image, weights, *bias = inputs
    _real(image, weights, *bias)
    options = step.options
    plain = set(options.get("dilations", ())) <= {1} and len(weights.shape) == 4
    filters, channels, *sides = weights.shape
    require(plain and options.get("kernel_shape") == tuple(sides), "has unknown options")
    kernel, strides = (*sides, channels, filters), options.get("strides", (1, 1))
    shape = shapes.convolve(image.shape, kernel, options.get("group", 1), strides, (2, 3, 1))
    sizes = zip(image.shape[2:], shape[2:], strides)
    margins = [(made - 1) * stride + 3 - size for size, made, stride in sizes]
    pads = (*(n // 2 for n in margins), *((n + 1) // 2 for n in margins))
    require(options.get("pads") == pads, "has other margins than {}", pads)
    require(all(tensor.shape == weights.shape[:1] for tensor in bias), "has an unknown bias")
    return _float32(shape)


def _gather(step: Operation, inputs: Inputs) -> list[Tensor]:
    value, indices = inputs
    _real(value)
    numbers = shapes.values(indices)
    require(len(indices.shape) == 1, "picks in another way than along an axis")
    return _float32(shapes.gather(value.shape, numbers, step.options.get("axis", 0)))


def _matmul(step: Operation, inputs: Inputs) -> list[Tensor]:
    left, right = inputs
    _real(left, right)
    return _float32(shapes.matmul(left.shape, right.shape))


def _gemm(step: Operation, inputs: Inputs) -> list[Tensor]:
    left, right, bias = inputs
    _real(left, right, bias)
    shape = shapes.matmul(left.shape, right.shape)
    fits = len(shape) == 2 and bias.shape == shape[1:]
    require(fits, "adds a bias of shape {} to {}", bias.shape, shape)
    return _float32(shape)


def _integer_matmul(step: Operation, inputs: Inputs) -> list[Tensor]:
    left, right, *zeros = inputs
    integers = left.dtype == "uint8" and right.dtype in ("int8", "uint8")
    require(integers, "multiplies {} and {}", left.dtype, right.dtype)
    shape = shapes.matmul(left.shape, right.shape)
    known: tuple[list[Shape], ...] = ([()], [(), right.shape[-1:]])
    for value, zero, fitting in zip((left, right), zeros, known):
        fits = zero.dtype == value.dtype and zero.shape in fitting
        require(fits, "has a zero point {} {}", zero.dtype, zero.shape)
    require(right.constant, "has weights that are no constant")
    return [Tensor("int32", shape)]


def _pad(step: Operation, inputs: Inputs) -> list[Tensor]:
    value, margins = inputs
    _real(value)
    numbers = shapes.values(margins)
    half = len(numbers) // 2
    return _float32(shapes.pad(value.shape, numbers[:half], numbers[half:]))


def _reduce(step: Operation, inputs: Inputs) -> list[Tensor]:
    value, *others = inputs
    _real(value)
    axes = shapes.values(others[0]) if others else step.options.get("axes", ())
    require(isinstance(axes, tuple), "has unknown options")
    return _float32(shapes.reduce(value.shape, axes, bool(step.options.get("keepdims", 1))))


def _reshape(step: Operation, inputs: Inputs) -> list[Tensor]:
    value, target = inputs
    _real(value)
    numbers = shapes.values(target)
    require(len(target.shape) == 1 and numbers.count(0) == 0, "reshapes to {}", numbers)
    return _float32(shapes.reshape(value.shape, numbers))


def _slice(step: Operation, inputs: Inputs) -> list[Tensor]:
    value, *constants = inputs
    _real(value)
    starts, ends, axes, *steps = (shapes.values(tensor) for tensor in constants)
    lengths = {len(starts), len(ends), len(axes), *map(len, steps)}
    require(len(lengths) == 1 and not any(set(part) != {1} for part in steps), "cuts otherwise")
    shape = list(value.shape)
    numbers = [shapes.axis(number, len(shape)) for number in axes]
    require(len(set(numbers)) == len(numbers), "cuts along an axis twice")
    for along, start, end in zip(numbers, starts, ends):
        shape[along] = shapes.cut(shape[along], start, end)
    return _float32(tuple(shape))


def _space_to_depth(step: Operation, inputs: Inputs) -> list[Tensor]:
    (value,) = inputs
    _real(value)
    block = step.options.get("blocksize", 0)
    return _float32(shapes.space_to_depth(value.shape, block, channels_last=False))


def _transpose(step: Operation, inputs: Inputs) -> list[Tensor]:
    (value,) = inputs
    _real(value)
    return _float32(shapes.transpose(value.shape, step.options.get("perm", ())))


_Function = Callable[[Operation, Inputs], Sequence[Tensor]]


def _rule(function: _Function, fewest: int, most: int | None = None, **options: type) -> Rule:
    """With the number of inputs that it takes, and the types of its options."""

    def rule(
        step: Operation, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        given = [tensor for tensor in inputs if tensor is not None]
        fits = fewest <= len(given) == len(inputs) <= (most or fewest)
        require(fits, "has {} inputs", len(given))
        for name, value in step.options.items():
            require(isinstance(value, options.get(name, ())), "has an unknown option")
        return function(step, given)

    return rule


RULES: Mapping[str, Rule] = {
    **{kind: _rule(_elementwise, 2) for kind in ("Add", "Sub", "Mul", "Div")},
    **{kind: _rule(_unary, 1) for kind in ("Erf", "Exp", "Reciprocal", "Relu", "Sqrt")},
    **{
        kind: _rule(_reduce, 1, 2, axes=tuple, keepdims=int, noop_with_empty_axes=int)
        for kind in ("ReduceMean", "ReduceSum")
    },
    "Cast": _rule(_cast, 1, to=int),
    "Concat": _rule(_concat, 1, 64, axis=int),
    "Conv": _rule(
        _convolve, 2, 3, dilations=tuple, group=int, kernel_shape=tuple, pads=tuple, strides=tuple
    ),
    "DequantizeLinear": _rule(_dequantize, 3, axis=int),
    "DynamicQuantizeLinear": _rule(_dynamic_quantize, 1),
    "Gather": _rule(_gather, 2, axis=int),
    "Gemm": _rule(_gemm, 3),
    "GlobalAveragePool": _rule(_average_pool, 1),
    "LayerNormalization": _rule(_layer_norm, 2, 3, axis=int, epsilon=float),
    "MatMul": _rule(_matmul, 2),
    "MatMulInteger": _rule(_integer_matmul, 4),
    "Pad": _rule(_pad, 2),
    "QuantizeLinear": _rule(_quantize, 3, axis=int),
    "Reshape": _rule(_reshape, 2),
    "Slice": _rule(_slice, 4, 5),
    "Softmax": _rule(_softmax, 1, axis=int),
    "SpaceToDepth": _rule(_space_to_depth, 1, blocksize=int),
    "Transpose": _rule(_transpose, 1, perm=tuple),
}
PRODUCTS: Mapping[str, Depth] = {
    "Conv": shapes.convolution_depth,
    "Gemm": shapes.matmul_depth,
    "MatMul": shapes.matmul_depth,
    "MatMulInteger": shapes.matmul_depth,
}
