"""What the files are made of, seen with the engines' and formats' own tools."""

from collections import Counter

import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from vitsd.config import VitConfig
from vitsd.hub.saving import load_model
from vitsd_export.formats import onnx as onnx_format
from vitsd_export.formats.onnx import to_onnx
from vitsd_export.graph.folding import fold
from vitsd_export.graph.module import inference_module
from vitsd_export.graph.weights import read_weights
from vitsd_runtime import preprocess, read_spec
from vitsd_runtime.engines import load_engine
from vitsd_runtime.engines.onnx import import_onnxruntime

TFLITE = ["float32", "float16", "dynamic", "int8", "int4"]


def run_tflite(path, images):
    interpreter = Interpreter(str(path))
    runner = interpreter.get_signature_runner("serving_default")
    return runner(images=images)["logits"]


@pytest.fixture(scope="module")
def batch(exported, digits):
    return preprocess(digits.images[:5], read_spec(exported / "digits.onnx"))


@pytest.mark.parametrize("quantization", TFLITE)
def test_tflite_signature_and_dynamic_batch(exported, batch, quantization):
    path = exported / f"digits-{quantization}.tflite"
    interpreter = Interpreter(str(path))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["logits"]}
    }
    details = interpreter.get_input_details()[0]
    assert details["shape_signature"].tolist() == [-1, 24, 24, 1]
    assert details["dtype"] == np.float32
    together = run_tflite(path, batch)
    single = np.concatenate([run_tflite(path, image[None]) for image in batch])
    np.testing.assert_allclose(together, single, atol=1e-4)


@pytest.mark.parametrize("quantization", TFLITE)
def test_tflite_has_builtin_operations_only_and_no_variables(exported, quantization):
    engine = load_engine(exported / f"digits-{quantization}.tflite", "tflite")
    names = set(engine.describe()["operations"])
    assert not [
        name
        for name in names
        if name.startswith("Flex") or name in ("CUSTOM", "VAR_HANDLE", "READ_VARIABLE")
    ]
    assert "FULLY_CONNECTED" in names
    assert "GELU" in names  # the erf form was recognized
    assert "WHILE" not in names


def test_quantized_files_are_smaller(exported):
    def size(ending):
        return (exported / f"digits{ending}").stat().st_size

    assert size("-float16.tflite") < 0.65 * size("-float32.tflite")
    assert size("-dynamic.tflite") < 0.45 * size("-float32.tflite")
    assert size("-int8.tflite") < 0.5 * size("-float32.tflite")
    assert size("-int4.tflite") < 0.8 * size("-dynamic.tflite")
    assert size("-int8.onnx") < 0.5 * size(".onnx")
    assert size("-dynamic.onnx") < 0.45 * size(".onnx")


def test_onnx_is_checked_named_dynamic_and_folded(exported, batch):
    model = onnx.load(exported / "digits.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    for tensors, name, shape in (
        (model.graph.input, "images", ["batch", 24, 24, 1]),
        (model.graph.output, "logits", ["batch", 10]),
    ):
        assert [t.name for t in tensors] == [name]
        dims = [d.dim_param or d.dim_value for d in tensors[0].type.tensor_type.shape.dim]
        assert dims == shape
    # Constant-folded: every operation depends on the input.
    known = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        assert not set(node.input) <= known, f"{node.op_type} could have been computed at export"
        assert node.op_type not in ("Identity", "Constant", "Cast", "Shape")
    session = import_onnxruntime().InferenceSession(str(exported / "digits.onnx"))
    together = session.run(["logits"], {"images": batch})[0]
    single = np.concatenate(
        [session.run(["logits"], {"images": image[None]})[0] for image in batch]
    )
    np.testing.assert_allclose(together, single, atol=1e-4)
    assert "vitsd.json" in session.get_modelmeta().custom_metadata_map


def test_large_weights_pass_the_converter_by(trained, batch, monkeypatch):
    model, spec = load_model(trained / "model.keras")
    config = VitConfig.from_spec(spec)
    module = inference_module(fold(read_weights(model, config), config), spec)
    whole = to_onnx(module, 17)
    monkeypatch.setattr(onnx_format, "_LARGE_WEIGHT", 5_000)
    taken = to_onnx(module, 17)
    names = [{tensor.name for tensor in m.graph.initializer} for m in (whole, taken)]
    assert names[0] != names[1]  # they were taken
    assert [tensor.name for tensor in taken.graph.input] == ["images"]
    logits = [
        load_engine(converted.SerializeToString(), "onnx").run(batch)
        for converted in (whole, taken)
    ]
    np.testing.assert_array_equal(*logits)


def optimized(path, folder):
    """The operations that onnxruntime makes of a file, with how often."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_onnxruntime_runs_norms_gelu_and_biases_as_parts_of_single_operations(exported, tmp_path):
    operations = optimized(exported / "digits.onnx", tmp_path)
    # Two in each of two blocks, one of the patches, and the last.
    assert operations["LayerNormalization"] == 2 * 2 + 2
    assert operations["Gelu"] == 2 * 2
    assert not {"Erf", "Sqrt", "BiasGelu"} & set(operations)
    # In each block query, output and two of the MLP; the logits. Keys and values have no bias.
    assert operations["Gemm"] == 2 * 4 + 1
    # The patches' alone, which has to be exact.
    assert operations["GlobalAveragePool"] == 1


def test_onnxruntime_runs_static_layers_on_integers(exported, tmp_path):
    chosen = read_spec(exported / "digits-int8.onnx").export.recipe["layers"].values()
    static = [choice for choice in chosen if choice["precision"] == "static"]
    operations = optimized(exported / "digits-int8.onnx", tmp_path)
    assert operations["QGemm"] + operations["MatMulIntegerToFloat"] == len(static) > 0


def test_saved_model_serves_in_tensorflow_servings_layout(exported, batch):
    folder = exported / "digits_saved_model"
    assert (folder / "1" / "saved_model.pb").is_file()
    assert (folder / "1" / "assets.extra" / "vitsd.json").is_file()
    loaded = tf.saved_model.load(str(folder / "1"))
    assert list(loaded.signatures) == ["serving_default"]
    signature = loaded.signatures["serving_default"]
    assert signature.structured_input_signature[1]["images"].shape.as_list() == [None, 24, 24, 1]
    assert signature.structured_outputs["logits"].shape.as_list() == [None, 10]
    assert not signature.variables
    logits = signature(images=tf.constant(batch))["logits"]
    np.testing.assert_allclose(
        logits, run_tflite(exported / "digits-float32.tflite", batch), atol=1e-3
    )
