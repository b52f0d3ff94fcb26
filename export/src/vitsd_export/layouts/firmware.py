"""Firmware: the model as C sources for TensorFlow Lite Micro, and its preprocessing in C99."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files as resources

import numpy as np

from vitsd_export.layouts.layout import Served
from vitsd_runtime.engines.affine import quantize
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.images.resizing import neighbors
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import AnyArray, Format

_STATIC = ("preprocess.c", "preprocess.h", "README.md")
_GENERATED = ("model.c", "model.h", "operations.h")
KEPT = ("{}.tflite", *_STATIC, *_GENERATED)
_HEAD = "/* Written by vitsd-export. */\n"
_PER_LINE = 24


def model_path(name: str, format: Format) -> str:
    """Beside the sources."""
    return f"{name}.tflite"


def files(served: Served, format: Format) -> Mapping[str, bytes]:
    """The sources.

    Raises:
        VitsdError: nobody has measured how much memory the model needs.
    """
    export = served.spec.export
    if export is None or export.micro is None or served.model is None:
        raise VitsdError("Sources for firmware need a model that ran in TensorFlow Lite Micro.")
    from vitsd_export.formats.tflite_schema import end_quantizations  # takes LiteRT to import

    content = served.model.read_bytes()
    inputs, outputs = end_quantizations(content)
    spec = served.spec
    arrays = _arrays(spec, *inputs)
    sizes = {
        "MODEL_BYTES": len(content),
        "ARENA_BYTES": export.micro.arena,
        "HEIGHT": spec.input_size[0],
        "WIDTH": spec.input_size[1],
        "CHANNELS": spec.input_size[2],
        "SIZE": spec.image_size,
        "INPUT_BYTES": spec.image_size**2 * spec.input_size[2],
        "INPUT_SCALE": _number(inputs[0]),
        "INPUT_ZERO_POINT": f"({inputs[1]})",
        "OUTPUT_SCALE": _number(outputs[0]),
        "OUTPUT_ZERO_POINT": f"({outputs[1]})",
        "CLASSES": spec.num_classes,
        "RESIZES": int(_resizes(spec)),
    }
    sources = {
        "model.h": _header(sizes, arrays),
        "model.c": _source(content, spec, arrays),
        "operations.h": _operations(export.operations),
    }
    static = resources("vitsd_export.layouts") / "c99"
    return {
        **{name: text.encode() for name, text in sources.items()},
        **{name: (static / name).read_bytes() for name in _STATIC},
    }


def _resizes(spec: ModelSpec) -> bool:
    return tuple(spec.input_size[:2]) != (spec.image_size, spec.image_size)


def _arrays(spec: ModelSpec, scale: float, zero_point: int) -> dict[str, AnyArray]:
    """What preprocessing looks up, by the declaration of each array.

    All 256 values of each channel are normalized here, as the runtime does it; where nothing is
    resized, they are quantized too.
    """
    channels = spec.input_size[2]
    factors, offsets = spec.normalization()
    normalized = (np.arange(256, dtype=np.uint8)[:, None] * factors + offsets).T
    if not _resizes(spec):
        codes = quantize(normalized, scale, zero_point, np.int8)
        return {f"int8_t vitsd_codes[{channels}][256]": codes}
    arrays: dict[str, AnyArray] = {f"float vitsd_normalized[{channels}][256]": normalized}
    for axis, (line, lines) in enumerate((("row", "rows"), ("column", "columns"))):
        low, _, share = neighbors(spec.input_size[axis], spec.image_size)
        arrays[f"uint16_t vitsd_{lines}[VITSD_SIZE]"] = low.astype(np.uint16)
        arrays[f"float vitsd_{line}_shares[VITSD_SIZE]"] = share
    return arrays


def _header(sizes: Mapping[str, object], arrays: Iterable[str]) -> str:
    names = "".join(f"#define VITSD_{name} {value}\n" for name, value in sizes.items())
    declared = "".join(f"extern const {declaration};\n" for declaration in arrays)
    return (
        f"{_HEAD}#ifndef VITSD_MODEL_H\n#define VITSD_MODEL_H\n\n#include <stdint.h>\n\n{names}\n"
        '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        "extern const unsigned char vitsd_model[VITSD_MODEL_BYTES];\n"
        "extern const char *const vitsd_labels[VITSD_CLASSES]; /* UTF-8 */\n"
        f"{declared}\n#ifdef __cplusplus\n}}\n#endif\n\n#endif\n"
    )


def _source(content: bytes, spec: ModelSpec, arrays: Mapping[str, AnyArray]) -> str:
    labels = ",\n".join(f'    "{_escaped(name)}"' for name in spec.class_names)
    tables = "".join(
        f"const {declaration} = {_values(values)};\n\n" for declaration, values in arrays.items()
    )
    model = np.frombuffer(content, np.uint8)
    return (
        f'{_HEAD}#include "model.h"\n\n'
        f"const char *const vitsd_labels[VITSD_CLASSES] = {{\n{labels}\n}};\n\n{tables}"
        "#if defined(__GNUC__) /* Clang, too */\n__attribute__((aligned(16)))\n"
        "#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L\n_Alignas(16)\n#endif\n"
        f"const unsigned char vitsd_model[VITSD_MODEL_BYTES] = {_values(model)};\n"
    )


def _values(values: AnyArray) -> str:
    """An initializer."""
    if values.ndim > 1:
        return "{\n" + ",\n".join(map(_values, values)) + "\n}"
    texts = [_number(value) if values.dtype.kind == "f" else str(value) for value in values]
    lines = [",".join(texts[i : i + _PER_LINE]) for i in range(0, len(texts), _PER_LINE)]
    return "{\n" + ",\n".join(lines) + "\n}"


def _number(value: float) -> str:
    """A float32 to the bit: C99 reads hexadecimal ones."""
    return f"{float(np.float32(value)).hex()}f"


def _escaped(text: str) -> str:
    """For a string literal: ASCII, with octal escapes, which end after three digits."""
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b" -_.," else f"\\{byte:03o}"
        for byte in text.encode()
    )


def _operations(names: Iterable[str]) -> str:
    adds = list(_resolver_calls(sorted(names)))
    calls = "".join(f"  TF_LITE_ENSURE_STATUS(resolver.{call}());\n" for call in adds)
    return (
        f"{_HEAD}#ifndef VITSD_OPERATIONS_H\n#define VITSD_OPERATIONS_H\n\n"
        '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"\n\n'
        f"using VitsdResolver = tflite::MicroMutableOpResolver<{len(adds)}>;\n\n"
        "inline TfLiteStatus vitsd_add_operations(VitsdResolver &resolver) {\n"
        f"{calls}  return kTfLiteOk;\n}}\n\n#endif\n"
    )


def _resolver_calls(names: Iterable[str]) -> Iterator[str]:
    """``AddFullyConnected``, ``AddConv2D`` ..."""
    for name in names:
        words = name.replace("2D", "2_D").replace("MATMUL", "MAT_MUL").split("_")
        yield "Add" + "".join(map(str.capitalize, words))
