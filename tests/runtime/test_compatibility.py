"""The tables of what engines take, held against the engines that are installed."""

import importlib.util
import json

import pytest

from vitsd_runtime import UsageError
from vitsd_runtime.compatibility import ENGINES, compatibility, newest_versions
from vitsd_runtime.engines import load_engine
from vitsd_runtime.structure.tflite_rules import RULES

FILES = [
    "-float32.tflite",
    "-float16.tflite",
    "-dynamic.tflite",
    "-int8.tflite",
    "-int8-full.tflite",
    "-int4.tflite",
    ".onnx",
    "-dynamic.onnx",
    "-int8.onnx",
]


def format_of(path):
    return path.suffix.removeprefix(".")


def open_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    Interpreter(str(path)).allocate_tensors()


def open_tflite_runtime(path):
    from tflite_runtime.interpreter import Interpreter

    Interpreter(str(path)).allocate_tensors()


def open_micro(path):
    from tflite_micro import runtime

    runtime.Interpreter.from_bytes(path.read_bytes(), arena_size=1 << 22).invoke()


def open_onnxruntime(path):
    load_engine(path, "onnx")


def open_openvino(path):
    import openvino

    core = openvino.Core()
    core.compile_model(core.read_model(str(path)), "CPU")


@pytest.mark.parametrize("ending", FILES)
@pytest.mark.parametrize(
    ("engine", "module", "opened"),
    [
        ("litert", "ai_edge_litert", open_litert),
        ("tflite-runtime-2.14", "tflite_runtime", open_tflite_runtime),
        ("tflite-micro", "tflite_micro", open_micro),
        ("onnxruntime-1.12", "onnxruntime", open_onnxruntime),
        ("openvino", "openvino", open_openvino),
    ],
)
def test_the_tables_say_what_the_engine_does(exported_model, engine, module, opened, ending):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    path = exported_model(ending)
    found = compatibility(path, format_of(path)).objections
    if engine not in found:
        assert bool(ENGINES[engine].opset) != (path.suffix == ".onnx")
        return
    if engine == "tflite-runtime-2.14" and found[engine]:
        return  # with some it crashes instead of refusing
    if found[engine]:
        with pytest.raises((RuntimeError, ValueError)):
            opened(path)
    else:
        opened(path)


def test_what_stands_in_the_way_is_named(exported_model):
    float32, dynamic, integer = (
        compatibility(exported_model(f"-{name}.tflite"), "tflite")
        for name in ("float32", "dynamic", "int8-full")
    )
    assert float32.objections["litert"] == []
    assert dynamic.objections["tflite-runtime-2.14"] == ["FULLY_CONNECTED 12 (at most 10)"]
    assert dynamic.objections["tflite-micro"] == ["GELU", "integer weights of float layers"]
    assert "float32 numbers" in float32.objections["ethos-u55"]
    assert integer.objections["ethos-u85"] == ["SPACE_TO_DEPTH"]
    assert (float32.any_batch, integer.any_batch) == (True, False)
    assert float32.dimensions == integer.dimensions == 4


def test_new_operator_sets_are_refused_by_old_engines(exported_model, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported_model(".onnx"))
    model.opset_import[0].version = 18
    onnx.save(model, tmp_path / "new.onnx")
    found = compatibility(tmp_path / "new.onnx", "onnx").objections
    assert found == {"onnxruntime-1.12": ["operator set 18 (at most 17)"], "openvino": []}


def test_of_operations_of_others_nothing_is_known(tmp_path, command_here):
    onnx = pytest.importorskip("onnx")
    make, path = onnx.helper.make_tensor_value_info, tmp_path / "theirs.onnx"
    images = make("images", onnx.TensorProto.FLOAT, [1, 8, 8, 3])
    logits = make("logits", onnx.TensorProto.FLOAT, [1, 192])
    step = onnx.helper.make_node("Flatten", ["images"], ["logits"])
    graph = onnx.helper.make_graph([step], "theirs", [images], [logits])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    found = compatibility(path, "onnx", allow_any_operation=True)
    assert found.unknown
    assert found.objections == {"onnxruntime-1.12": [], "openvino": []}
    shown = command_here("vitsd-inspect", path, "--compat", "--allow-any-operation")
    assert "unknown: other operations than vitsd-export's" in shown.stdout


def test_every_operation_that_is_written_is_in_the_table():
    assert newest_versions("litert").keys() == RULES.keys()


def test_every_engine_has_its_operations():
    for name, engine in ENGINES.items():
        if name.startswith("onnx"):
            continue
        versions = newest_versions(name)
        assert ("GELU" in versions) == (name != "tflite-micro")
        assert min(versions.values()) > 0
        assert engine.title


def test_inspect_shows_it(exported_model, command_here):
    path = exported_model("-int8-full.tflite")
    shown = command_here("vitsd-inspect", path, "--compat")
    assert shown.returncode == 0, shown.stderr
    assert "tensors of at most 4 dimensions, for one image at a time" in shown.stdout
    assert "TensorFlow Lite Micro" in shown.stdout
    assert "no: GELU" in shown.stdout
    report = json.loads(command_here("vitsd-inspect", path, "--compat", "--json").stdout)
    assert report["compatibility"]["objections"]["litert"] == []
    assert "compatibility" not in json.loads(command_here("vitsd-inspect", path, "--json").stdout)


def test_other_formats_have_no_tables(tmp_path, command_here, trained):
    with pytest.raises(UsageError, match="not of saved_model models"):
        compatibility(tmp_path, "saved_model")
    refused = command_here("vitsd-inspect", trained / "model.keras", "--compat")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--compat tells of .tflite and .onnx files, not of keras models" in refused.stderr
