"""What TensorFlow Lite's operations make of their inputs, and which inputs they can have.

Only what vitsd-export writes. Beyond that, some kernels of some versions end the process instead
of refusing: shapes that don't fit, numbers of scales, products of scales out of range, axes that
are not there, constants where they expect results, or the reverse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable

from vitsd_runtime.structure import shapes
from vitsd_runtime.structure.graph import Depth, FlawError, Operation, Rule, Shape, Tensor, require

Inputs = Sequence[Tensor]
Declared = Sequence[Tensor]
_MAX_RANK = 4
"""Of what most kernels loop over."""
_ACTIVATIONS = (0, 1, 3)
"""None, ReLU and ReLU6."""
_MAX_MULTIPLIER = 256.0
"""XNNPACK frees memory twice where it refuses larger ones."""
_PER_CHANNEL_BIAS = {"float32": "float32", "int8": "int32"}


def _same(tensor: Tensor, shape: Shape) -> list[Tensor]:
    return [Tensor(tensor.dtype, shape)]


def _real_or_int8(*tensors: Tensor) -> None:
    """Of one type, and with a single scale each."""
    dtype = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype != dtype or dtype not in ("float32", "int8"):
            raise FlawError(f"takes {dtype} and {tensor.dtype}")
        if len(tensor.shape) > _MAX_RANK:
            raise FlawError(f"takes a tensor of shape {tensor.shape}")
        if dtype == "int8":
            _one_scale(tensor)


def _one_scale(tensor: Tensor) -> None:
    count = tensor.quantization.scales if tensor.quantization else 0
    require(count == 1 or tensor.dtype != "int8", "takes an int8 tensor with {} scales", count)


def _scale(tensor: Tensor) -> float:
    return tensor.quantization.most if tensor.quantization else 1.0


def _multiplier(number: float, limit: float = _MAX_MULTIPLIER) -> None:
    require(2.0**-60 < number < limit, "rescales by {:g}", number)


def _elementwise(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    first, second = inputs
    require(step.options["activation"] in _ACTIVATIONS, "has an unknown activation")
    if step.kind == "ADD" and first.dtype == second.dtype == "int32":  # an index of GATHER
        shapes.values(second)
    else:
        _real_or_int8(first, second, *outputs)
    if first.dtype == "int8":
        a, b, result = _scale(first), _scale(second), _scale(outputs[0])
        if step.kind == "MUL":
            _multiplier(a * b / result)
        else:
            require(step.kind != "DIV", "takes int8")
            # The kernels work with 20 more bits, and shift the sum back.
            _multiplier(2 * max(a, b) / (2**20 * result), 1.0)
            _multiplier(min(a, b) / max(a, b))
    return _same(first, shapes.broadcast(first.shape, second.shape))


def _gather(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    value, indices = inputs
    _real_or_int8(value, *outputs)
    require(not step.options["batch_dims"], "picks in another way than along an axis")
    if value.constant and len(value.shape) == 1:  # a table; engines refuse indices beyond its end
        require(indices.dtype == "int32" and not step.options["axis"], "has an odd table")
        return _same(value, indices.shape)
    require(len(indices.shape) == 1, "picks in another way than along an axis")
    numbers = shapes.values(indices)
    return _same(value, shapes.gather(value.shape, numbers, step.options["axis"]))


def _matmul(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    left, right = inputs
    _real_or_int8(left, right)
    require(left.dtype == "float32" and not step.options["left"], "multiplies in another way")
    return _same(left, shapes.matmul(left.shape, right.shape, step.options["right"]))


def _fully_connected(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    image, weights, *others = inputs
    bias = others[0] if others else None
    _real_or_int8(image, *outputs)
    options = step.options
    plain = not options["layout"] and not options["bias_type"]
    require(plain and options["activation"] in _ACTIVATIONS, "has unknown options")
    require(
        len(weights.shape) == 2 and len(image.shape) >= 2 and image.shape[-1] == weights.shape[1],
        "multiplies {} and {}",
        image.shape,
        weights.shape,
    )
    units = weights.shape[0]
    _check_product(image, weights, bias, outputs[0])
    rows = image.shape[:-1] if options["keep"] else (image.elements // image.shape[-1],)
    return _same(image, (*rows, units))


def _convolve(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    image, weights, bias = inputs
    _real_or_int8(image, *outputs)
    options = step.options
    plain = not options["padding"] and not options.get("bias_type") and options["apart_x"] < 2
    require(plain and options["activation"] in _ACTIVATIONS, "has unknown options")
    require(options["apart_x"] == options["apart_y"], "has unknown options")
    require(len(weights.shape) == 4, "has weights of shape {}", weights.shape)
    require(weights.dtype != "int4", "has int4 weights")
    filters, rows, columns, channels = weights.shape
    groups, axis = 1, 0
    if step.kind == "DEPTHWISE_CONV_2D":
        require(filters == options["multiplier"] == 1, "has a multiplier")
        filters, channels, groups, axis = channels, 1, channels, 3
    kernel, strides = (rows, columns, channels, filters), (options["rows"], options["columns"])
    shape = shapes.convolve(image.shape, kernel, groups, strides, (1, 2, 3))
    _check_product(image, weights, bias, outputs[0], axis)
    return _same(image, shape)


def _check_product(
    image: Tensor, weights: Tensor, bias: Tensor | None, output: Tensor, axis: int = 0
) -> None:
    """Check a product of an image and weights, whose outputs are along the axis."""
    _check_weights(image, weights, axis)
    _check_bias(image, bias, weights.shape[axis])
    if image.dtype == "int8":
        least, most = weights.quantization[1:3] if weights.quantization else (0.0, 0.0)
        for scale in (least, most):
            _multiplier(_scale(image) * scale / _scale(output))


def _check_weights(image: Tensor, weights: Tensor, axis: int) -> None:
    known = {"float32": ("float32", "int8", "int4"), "int8": ("int8",)}[image.dtype]
    require(weights.dtype in known, "multiplies {} and {}", image.dtype, weights.dtype)
    quantization = weights.quantization
    if weights.dtype == "float32" or quantization is None:
        return
    require(image.dtype == "int8" or weights.constant, "has weights that are no constant")
    count = quantization.scales
    fits = count == 1 or (quantization.axis == axis and count == weights.shape[axis])
    require(fits and (weights.constant or count == 1), "has weights with {} scales", count)
    require(not weights.constant or not quantization.shifted, "has weights with an offset")


def _check_bias(image: Tensor, bias: Tensor | None, units: int) -> None:
    if bias is None:
        # tflite-runtime 2.14 reads it whether there is one or not on Arm.
        require(image.dtype == "float32", "has no bias")
        return
    dtype = _PER_CHANNEL_BIAS[image.dtype]
    require(bias.dtype == dtype and bias.shape == (units,), "adds {} {}", bias.dtype, bias.shape)
    require(bias.constant or dtype == "float32", "has a bias that is no constant")


def _concatenate(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    _real_or_int8(*inputs, *outputs)
    require(not step.options["activation"], "has an unknown activation")
    parts = [tensor.shape for tensor in inputs]
    return _same(inputs[0], shapes.concatenate(parts, step.options["axis"]))


def _dequantize(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    (value,) = inputs
    _one_scale(value)
    known = value.dtype == "int8" or (value.dtype == "float16" and value.constant)
    require(known, "takes {}", value.dtype)
    return [Tensor("float32", value.shape)]


def _quantize(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    (value,) = inputs
    _real_or_int8(value)
    _one_scale(outputs[0])
    if value.dtype == "int8":  # to another scale, before what was put together has one
        _multiplier(_scale(value) / _scale(outputs[0]))
    return [Tensor("int8", value.shape)]


def _cast(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    (value,) = inputs
    made = {"uint8": "float32", "int8": "int32"}.get(value.dtype)  # of pixels, for a table's index
    if made is None:
        raise FlawError(f"takes {value.dtype}")
    return [Tensor(made, value.shape)]


def _real(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    (value,) = inputs
    _real_or_int8(value)
    require(value.dtype == "float32", "takes int8")
    return _same(value, value.shape)


def _table(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    (value,) = inputs
    _real_or_int8(value, *outputs)
    return _same(value, value.shape)


def _softmax(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    (value,) = inputs
    _real_or_int8(value, *outputs)
    require(value.shape, "takes a single number")
    require(step.options["beta"] == 1.0, "has an unknown beta")
    if value.dtype == "int8":
        require(_scale(value) > 2.0**-25, "takes a scale that is too small")
    return _same(value, value.shape)


def _reduce(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    value, axes = inputs
    _real_or_int8(value, *outputs)
    require(value.dtype == "float32" or step.kind == "MEAN", "takes int8")
    if value.dtype == "int8":
        _multiplier(_scale(value) / _scale(outputs[0]))
    return _same(value, shapes.reduce(value.shape, shapes.values(axes), step.options["keep"]))


def _pad(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    value, margins = inputs
    _real_or_int8(value, *outputs)
    numbers = shapes.values(margins)
    require(margins.shape == (len(value.shape), 2), "has margins of shape {}", margins.shape)
    return _same(value, shapes.pad(value.shape, numbers[::2], numbers[1::2]))


def _reshape(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    value, target = inputs
    _real_or_int8(value, *outputs)
    require(len(target.shape) == 1, "has a target of shape {}", target.shape)
    return _same(value, shapes.reshape(value.shape, shapes.values(target)))


def _space_to_depth(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    (value,) = inputs
    _real_or_int8(value, *outputs)
    block = step.options["block"]
    return _same(value, shapes.space_to_depth(value.shape, block, channels_last=True))


def _split(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    number, value = inputs
    _real_or_int8(value, *outputs)
    parts = step.options["parts"]
    require(len(shapes.values(number)) == 1 and parts == len(outputs), "makes {} parts", parts)
    along = shapes.axis(shapes.values(number)[0], len(value.shape))
    length, rest = divmod(value.shape[along], parts)
    require(not rest, "cuts {} into {} parts", value.shape, parts)
    shape = (*value.shape[:along], length, *value.shape[along + 1 :])
    return [Tensor(value.dtype, shape)] * parts


def _strided_slice(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    value, *constants = inputs
    _real_or_int8(value, *outputs)
    options, rank = step.options, len(value.shape)
    starts, ends, strides = (shapes.values(tensor) for tensor in constants)
    plain = not any(options[name] for name in ("ellipsis", "new", "gone", "relative"))
    require(plain and set(strides) == {1}, "cuts in another way than by start and end")
    require(len(starts) == len(ends) == len(strides) == rank, "cuts {}", value.shape)

    def length(i: int) -> int:
        start = 0 if options["begin"] >> i & 1 else starts[i]
        end = value.shape[i] if options["end"] >> i & 1 else ends[i]
        return shapes.cut(value.shape[i], start, end)

    return _same(value, tuple(map(length, range(rank))))


def _transpose(step: Operation, inputs: Inputs, outputs: Declared) -> list[Tensor]:
    value, order = inputs
    _real_or_int8(value, *outputs)
    return _same(value, shapes.transpose(value.shape, shapes.values(order)))


_Function = Callable[[Operation, Inputs, Declared], Sequence[Tensor]]


def _rule(function: _Function, fewest: int, most: int | None = None) -> Rule:
    """With the number of inputs that it takes; one more than the fewest may be left out."""
    most = most or fewest

    def rule(
        step: Operation, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        if len(inputs) == most == fewest + 1 and inputs[-1] is None:
            inputs = inputs[:-1]
        given = [tensor for tensor in inputs if tensor is not None]
        if not fewest <= len(given) == len(inputs) <= most:
            raise FlawError(f"has {len(given)} inputs")
        declared = [tensor for tensor in outputs if tensor is not None]
        if len(declared) < len(outputs):
            raise FlawError("writes a constant")
        return function(step, given, declared)

    return rule


RULES: Mapping[str, Rule] = {
    "ADD": _rule(_elementwise, 2),
    "BATCH_MATMUL": _rule(_matmul, 2),
    "CAST": _rule(_cast, 1),
    "CONCATENATION": _rule(_concatenate, 1, 64),
    "CONV_2D": _rule(_convolve, 3),
    "DEPTHWISE_CONV_2D": _rule(_convolve, 3),
    "DEQUANTIZE": _rule(_dequantize, 1),
    "DIV": _rule(_elementwise, 2),
    "EXP": _rule(_real, 1),
    "FULLY_CONNECTED": _rule(_fully_connected, 2, 3),
    "GATHER": _rule(_gather, 2),
    "GELU": _rule(_table, 1),
    "MEAN": _rule(_reduce, 2),
    "MUL": _rule(_elementwise, 2),
    "PAD": _rule(_pad, 2),
    "QUANTIZE": _rule(_quantize, 1),
    "RESHAPE": _rule(_reshape, 2),
    "RSQRT": _rule(_table, 1),
    "SOFTMAX": _rule(_softmax, 1),
    "SPACE_TO_DEPTH": _rule(_space_to_depth, 1),
    "SPLIT": _rule(_split, 2),
    "STRIDED_SLICE": _rule(_strided_slice, 4),
    "SUB": _rule(_elementwise, 2),
    "SUM": _rule(_reduce, 2),
    "TRANSPOSE": _rule(_transpose, 2),
}
PRODUCTS: Mapping[str, Depth] = {
    "BATCH_MATMUL": shapes.matmul_depth,
    "CONV_2D": shapes.convolution_depth,
    "DEPTHWISE_CONV_2D": lambda inputs: 9,
    "FULLY_CONNECTED": shapes.matmul_depth,
}
