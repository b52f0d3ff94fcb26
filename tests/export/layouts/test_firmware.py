"""C sources for firmware: compiled, and held against the runtime's Python."""

import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest

from vitsd_export import ExportOptions
from vitsd_export.formats.tflite_rewrites import rewrite
from vitsd_export.formats.tflite_schema import end_quantizations, operation_versions
from vitsd_export.layouts import LAYOUTS, Served
from vitsd_runtime import UsageError, VitsdError, preprocess, read_spec
from vitsd_runtime.compatibility import newest_versions
from vitsd_runtime.engines.affine import quantize
from vitsd_runtime.spec import ExportInfo, MicroFigures

COMPILER = shutil.which("gcc") or shutil.which("cc")
CPP_COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler is installed")
FLAGS = "-std=c99 -Wall -Wextra -Wpedantic -Werror -O3 -ffp-contract=fast -g"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
MAIN = """
#include <stdint.h>
#include <stdio.h>
#include "model.h"
#include "preprocess.h"

int main(void)
{
    static uint8_t pixels[VITSD_HEIGHT * VITSD_WIDTH * VITSD_CHANNELS];
    static int8_t input[VITSD_INPUT_BYTES];

    if ((uintptr_t)vitsd_model % 16) {
        return 3;
    }
    fwrite(vitsd_model, 1, sizeof vitsd_model, stdout);
    for (int i = 0; i < VITSD_CLASSES; i++) {
        printf("%s\\n", vitsd_labels[i]);
    }
    while (fread(pixels, sizeof pixels, 1, stdin) == 1) {
        vitsd_preprocess(pixels, input);
        fwrite(input, sizeof input, 1, stdout);
    }
    return 0;
}
"""
RESOLVER = """
AddAdd AddBatchMatMul AddCast AddConcatenation AddConv2D AddDepthwiseConv2D AddDequantize AddDiv
AddExp AddFullyConnected AddGather AddMean AddMul AddPad AddQuantize AddReshape AddRsqrt AddSoftmax
AddSpaceToDepth AddSplit AddStridedSlice AddSub AddSum AddTranspose
"""
"""Functions of the real resolver (``micro_mutable_op_resolver.h``), those for our operations."""
INTERPRETER = """
#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
#define TF_LITE_ENSURE_STATUS(a) if ((a) != kTfLiteOk) return kTfLiteError
struct TfLiteTensor { union { int8_t *int8; } data; };
namespace tflite {
struct Model;
const Model *GetModel(const void *);
struct MicroOpResolver {};
template <unsigned int Count> struct MicroMutableOpResolver : MicroOpResolver {
  TfLiteStatus @FUNCTIONS@;
};
struct MicroInterpreter {
  MicroInterpreter(const Model *, const MicroOpResolver &, uint8_t *, size_t);
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor *input(size_t);
  TfLiteTensor *output(size_t);
};
}
"""
"""The part of the real interpreter's interface that firmware uses."""
NAMES = ("cat", "caf\u00e9 ??/", 'a"b\\n', "x" * 300)


@pytest.fixture(scope="module")
def model(exported, tmp_path_factory):
    """A file for microcontrollers, without its spec; and the spec."""
    source = exported / "digits-int8-full.tflite"
    path = tmp_path_factory.mktemp("firmware") / "model.tflite"
    path.write_bytes(rewrite(source.read_bytes(), ["GELU"]))
    return path, read_spec(source)


def served(model, **changes):
    path, spec = model
    export = ExportInfo(
        "tflite",
        "int8-full",
        "tflite-micro",
        operations=operation_versions(path.read_bytes()),
        micro=MicroFigures("tflite-micro 0", 57_296, 100, 1, 1.0),
    )
    changed = spec.replace(export=export, architecture=None, golden=None, **changes)
    return Served("digits", changed, np.zeros((1, *changed.input_size), np.uint8), path)


def sources(served):
    return LAYOUTS["c"].files(served, "tflite")


def run(folder, served, images):
    """What the sources, compiled, print for images."""
    for name, content in {**sources(served), "main.c": MAIN.encode()}.items():
        (folder / name).write_bytes(content)
    program = folder / "program"
    command = [COMPILER, *FLAGS.split(), *SANITIZERS.split(), *map(str, folder.glob("*.c"))]
    built = subprocess.run([*command, "-o", program], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], input=images.tobytes(), capture_output=True)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout


@needs_compiler
@pytest.mark.parametrize(
    ("input_size", "image_size"),
    [((8, 8, 1), 24), ((8, 8, 1), 8), ((30, 20, 3), 17), ((1, 5, 3), 6), ((16, 16, 3), 16)],
)
def test_pixels_become_the_integers_of_the_runtime(model, tmp_path, input_size, image_size):
    random = np.random.default_rng(0)
    channels = input_size[2]
    one = served(
        model,
        class_names=NAMES,
        input_size=input_size,
        image_size=image_size,
        mean=tuple(random.uniform(0, 255, channels).tolist()),
        variance=tuple(random.uniform(1, 5000, channels).tolist()),
    )
    images = random.integers(0, 256, (1000, *input_size), np.uint8)
    images[0], images[1] = 0, 255
    content = one.model.read_bytes()
    (scale, zero_point), _ = end_quantizations(content)
    expected = quantize(preprocess(images, one.spec), scale, zero_point, np.int8)
    labels = "".join(f"{name}\n" for name in NAMES).encode()
    assert run(tmp_path, one, images) == content + labels + expected.tobytes()


def test_what_firmware_needs_stands_in_the_header(model):
    files = sources(served(model))
    header = files["model.h"].decode()
    values = dict(re.findall(r"#define VITSD_(\w+) (.+)", header))
    content = model[0].read_bytes()
    (scale, zero_point), (step, shift) = end_quantizations(content)
    assert int(values["MODEL_BYTES"]) == len(content)
    assert (int(values["ARENA_BYTES"]), int(values["CLASSES"])) == (57_296, 10)
    numbers = [float.fromhex(values[f"{end}_SCALE"].rstrip("f")) for end in ("INPUT", "OUTPUT")]
    assert numbers == [scale, step]
    assert values["INPUT_ZERO_POINT"] == f"({zero_point})"
    assert values["OUTPUT_ZERO_POINT"] == f"({shift})"
    calls = re.findall(r"resolver\.(\w+)\(\)", files["operations.h"].decode())
    assert {"AddFullyConnected", "AddGather", "AddSpaceToDepth", "AddSoftmax"} <= set(calls)
    assert f"MicroMutableOpResolver<{len(calls)}>" in files["operations.h"].decode()
    assert set(LAYOUTS["c"].kept) == {*files, "{}.tflite"}


def test_the_resolver_has_a_function_for_every_operation(model):
    one = served(model)
    operations = newest_versions("tflite-micro")
    spec = one.spec.replace(export=dataclasses.replace(one.spec.export, operations=operations))
    text = sources(dataclasses.replace(one, spec=spec))["operations.h"].decode()
    assert re.findall(r"resolver\.(\w+)\(\)", text) == RESOLVER.split()


@pytest.mark.skipif(CPP_COMPILER is None, reason="no C++ compiler is installed")
def test_the_firmware_in_the_readme_compiles(model, tmp_path):
    files = sources(served(model))
    (firmware,) = re.findall("```cpp\n(.*?)```", files["README.md"].decode(), re.DOTALL)
    functions = INTERPRETER.replace("@FUNCTIONS@", "(), ".join(RESOLVER.split()) + "()")
    folder = tmp_path / "tensorflow" / "lite" / "micro"
    folder.mkdir(parents=True)
    for name in ("micro_interpreter.h", "micro_mutable_op_resolver.h"):
        (folder / name).write_text(functions)
    for name, content in {**files, "main.cpp": firmware.encode()}.items():
        (tmp_path / name).write_bytes(content)
    flags = "-std=c++17 -Wall -Wextra -Wpedantic -Werror -fsyntax-only"
    command = [CPP_COMPILER, *flags.split(), f"-I{tmp_path}", tmp_path / "main.cpp"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_earlier_export_is_ours(model, tmp_path):
    layout = LAYOUTS["c"]
    folder = tmp_path / "digits"
    folder.mkdir()
    for name, content in {**sources(served(model)), "digits.tflite": b""}.items():
        (folder / name).write_bytes(content)
    assert layout.owns(folder)
    (folder / "main.cpp").touch()
    assert not layout.owns(folder)


def test_a_model_that_was_never_run_has_no_sources(model):
    one = served(model)
    unmeasured = one.spec.replace(export=ExportInfo("tflite", "int8-full", "tflite-micro"))
    with pytest.raises(VitsdError, match="ran in TensorFlow Lite Micro"):
        sources(Served("digits", unmeasured, one.golden, one.model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layout": "c", "quantization": "int8-full"}, "`layout=c` needs `target=tflite-micro`"),
        ({"layout": "c", "format": "onnx"}, "`layout=c` takes `format=tflite`"),
        ({"layout": "c", "target": "tflite-micro"}, "takes `quantization` int8-full"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        ExportOptions(**values)
    good = ExportOptions("tflite", "int8-full", layout="c", target="tflite-micro")
    assert not good.preprocesses
