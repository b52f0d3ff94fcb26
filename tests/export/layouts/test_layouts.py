"""Folders for model servers, read with the servers' own schemas where those are installed."""

import struct
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from vitsd_export import ExportOptions, export
from vitsd_export.layouts import LAYOUTS, Served, served_name
from vitsd_export.options import NO_LAYOUT, LayoutName
from vitsd_runtime import Classifier, UsageError
from vitsd_runtime.formats import read_spec
from vitsd_runtime.spec import ExportInfo

yaml = pytest.importorskip("yaml")


@pytest.fixture
def served(spec):
    golden = np.random.default_rng(0).integers(0, 256, (3, *spec.input_size), np.uint8)
    return Served("cats", spec.replace(export=ExportInfo("onnx")), golden)


def test_triton_gets_a_configuration_labels_and_golden_images(served):
    files = LAYOUTS["triton"].files(served, "onnx")
    config = files["config.pbtxt"].decode()
    assert "max_batch_size: 32\n" in config
    assert '{ name: "images" data_type: TYPE_UINT8 dims: [ 32, 24, 3 ] }' in config
    assert "dynamic_batching { max_queue_delay_microseconds: 500 }" in config
    assert files["labels.txt"].decode().splitlines() == ["cat", "dog", "owl"]
    images = [files[f"warmup/golden-{i}"] for i in range(3)]
    assert images == [golden.tobytes() for golden in served.golden]


def test_models_whose_batches_change_answers_get_images_one_by_one(served):
    export_info = ExportInfo("onnx", "dynamic", batch_invariant=False)
    alone = Served("cats", served.spec.replace(export=export_info), served.golden)
    config = LAYOUTS["triton"].files(alone, "onnx")["config.pbtxt"].decode()
    assert "dynamic_batching" not in config
    assert "batch_size: 32" not in config
    assert "max_batch_size: 1\n" in config


@pytest.mark.cluster
def test_triton_reads_its_configuration(servers, served):
    files = LAYOUTS["triton"].files(served, "onnx")
    config = servers.read("triton", files["config.pbtxt"])
    assert (config["name"], config["platform"]) == ("cats", "onnxruntime_onnx")
    assert config["max_batch_size"] == 32
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": "500"}
    assert config["instance_group"] == [{"count": 1}]  # its kind is the default
    assert config["input"] == [
        {"name": "images", "data_type": "TYPE_UINT8", "dims": ["32", "24", "3"]}
    ]
    (logits,) = config["output"]
    assert (logits["name"], logits["dims"]) == ("logits", ["3"])
    assert logits["label_filename"] in files
    for sample in config["model_warmup"]:
        image = sample["inputs"]["images"]
        assert image["dims"] == ["32", "24", "3"]
        assert f"warmup/{image['input_data_file']}" in files
    assert [sample["batch_size"] for sample in config["model_warmup"]] == [32, 1, 1]


@pytest.mark.cluster
def test_tensorflow_serving_reads_its_configuration_and_requests(servers, served):
    files = LAYOUTS["tfserving"].files(served, "saved_model")
    models = servers.read("models", files["models.config"])
    expected = {"name": "cats", "base_path": "/models/cats", "model_platform": "tensorflow"}
    assert models == {"model_config_list": {"config": [expected]}}
    requests = servers.read("warmup", files["1/assets.extra/tf_serving_warmup_requests"])
    assert requests[:3] == [
        ["cats", "serving_default", [1, 32, 24, 3], int(golden.sum())] for golden in served.golden
    ]
    assert requests[3][2] == [32, 32, 24, 3]


def records(content):
    """Of a TFRecord file, without its checksums, which TensorFlow compares."""
    while content:
        (length,) = struct.unpack_from("<Q", content)
        yield content[12 : 12 + length]
        content = content[16 + length :]


def read_fields(content):
    """A protobuf message of fields of bytes, by TensorFlow's own parser for any message."""
    from google.protobuf import descriptor_pb2, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="any.proto", package="any")
    message = file.message_type.add(name="Any")
    for number in (1, 2, 3, 6):
        message.field.add(name=f"f{number}", number=number, label=3, type=12)
    any_message = message_factory.GetMessages([file])["any.Any"]
    parsed = any_message.FromString(content)
    assert parsed.SerializeToString() == content
    return parsed


def read_requests(content):
    """Name, signature and images of every request to warm up with."""
    import tensorflow as tf

    for record in records(content):
        (log,) = read_fields(record).f6
        (predict,) = read_fields(log).f1
        fields = read_fields(predict)
        model, entry = read_fields(fields.f1[0]), read_fields(fields.f2[0])
        assert entry.f1 == [b"images"]
        images = tf.make_ndarray(tf.make_tensor_proto(0).FromString(entry.f2[0]))
        yield model.f1[0].decode(), model.f3[0].decode(), images


def test_tensorflow_serving_gets_requests_to_warm_up_with(served):
    files = LAYOUTS["tfserving"].files(served, "saved_model")
    requests = list(read_requests(files["1/assets.extra/tf_serving_warmup_requests"]))
    assert len(requests) == 4
    for request, expected in zip(requests, [*served.golden[:, None], None], strict=True):
        name, signature, images = request
        assert (name, signature) == ("cats", "serving_default")
        assert images.dtype == np.uint8
        if expected is None:
            assert len(images) == 32
        else:
            assert (images == expected).all()


@pytest.mark.parametrize(
    ("format", "runtime", "protocol", "stored"),
    [
        ("onnx", "kserve-tritonserver", "v2", "storage/cats/config.pbtxt"),
        ("saved_model", "kserve-tensorflow-serving", "v1", "storage/models.config"),
    ],
)
def test_kserve_gets_a_service_and_a_storage(served, format, runtime, protocol, stored):
    files = LAYOUTS["kserve"].files(served, format)
    service = yaml.safe_load(files["inferenceservice.yaml"])
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    model = service["spec"]["predictor"]["model"]
    assert (model["runtime"], model["protocolVersion"]) == (runtime, protocol)
    assert stored in files


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("Cats_2.1", "cats-2-1"),
        ("9lives", "model-9lives"),
        ("x" * 80, "x" * 50),
        ("_", "model"),
        ("no", "no"),  # which YAML takes for false
        ("null", "null"),
    ],
)
def test_kubernetes_takes_the_names_of_services(served, name, service):
    files = LAYOUTS["kserve"].files(Served(name, served.spec, served.golden), "onnx")
    assert yaml.safe_load(files["inferenceservice.yaml"])["metadata"]["name"] == service


def test_every_layout_can_be_asked_for():
    assert get_args(LayoutName) == (NO_LAYOUT, *LAYOUTS)


def test_names_are_plain_ascii():
    assert served_name("digits-int8") == "digits-int8"
    assert served_name("Häuser.v2") == "H-user.v2"
    assert served_name("ä") == "model"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layout": "torchserve"}, "layout must be one of none, triton, tfserving, kserve"),
        ({"layout": "triton"}, "takes `format=onnx`, one at a time; got tflite"),
        ({"layout": "triton", "format": "saved_model"}, "takes `format=onnx`"),
        ({"layout": "tfserving", "format": "onnx"}, "takes `format=saved_model`"),
        (
            {"layout": "kserve", "format": ["onnx", "saved_model"]},
            "takes `format=onnx` or `format=saved_model`, one at a time",
        ),
        ({"layout": "kserve", "format": "web"}, "got web"),
    ],
)
def test_formats_that_a_server_does_not_run_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        ExportOptions(**values)


@pytest.mark.parametrize(
    ("layout", "model"),
    [("triton", "digits/1/model.onnx"), ("tfserving", "digits")],
)
def test_models_take_pixels_and_answer_as_without_a_layout(
    repositories, exported, digits, layout, model
):
    path = repositories / layout / model
    loaded = Classifier.load(path, num_threads=1)  # with its digests, also those around it
    assert read_spec(path).preprocessing_embedded
    assert loaded.engine.input_dtype == np.uint8
    expected = Classifier.load(exported / "digits.onnx", num_threads=1).logits(digits.images[:9])
    np.testing.assert_allclose(loaded.logits(digits.images[:9]), expected, atol=1e-4)
    row = LAYOUTS[layout]
    assert row.owns(repositories / layout / "digits")


def test_requests_to_warm_up_with_are_answered(repositories):
    import tensorflow as tf

    version = repositories / "tfserving/digits/1"
    model = tf.saved_model.load(str(version))
    content = (version / "assets.extra/tf_serving_warmup_requests").read_bytes()
    sizes = []
    for name, signature, images in read_requests(content):
        assert name == "digits"
        logits = model.signatures[signature](images=tf.constant(images))["logits"]
        assert logits.shape == (len(images), 10)
        sizes.append(len(images))
    assert sizes == [1] * 8 + [32]


def fill(folder, row, format, served):
    """Fill a folder as an export does, with a stand-in for the model; returns the model's path."""
    model = folder / row.model_path(folder.name, format)
    if format == "saved_model":
        model /= "1/saved_model.pb"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"model")
    for name, content in row.files(replace(served, name=folder.name), format).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return model


SERVERS = [row for row in LAYOUTS.values() if not row.firmware]


@pytest.fixture(params=[(row, format) for row in SERVERS for format in row.formats])
def folder(request, served, tmp_path):
    """A folder as an export leaves it, and its layout."""
    row, format = request.param
    model = fill(tmp_path / "cats", row, format, served)
    return SimpleNamespace(path=tmp_path / "cats", layout=row, model=model)


def test_an_earlier_export_is_ours(folder):
    assert folder.layout.owns(folder.path)


@pytest.mark.parametrize(
    "added",
    [
        "2/model.onnx",
        "storage/2/x",
        "storage/cats/2/x",
        "storage/x/1/x",
        "notes.md",
        "1x",
        ".git/x",
    ],
)
def test_a_folder_with_anything_else_is_not_ours(folder, added):
    (folder.path / added).parent.mkdir(parents=True, exist_ok=True)
    (folder.path / added).write_text("somebody's")
    assert not folder.layout.owns(folder.path)


def test_a_folder_without_our_model_is_not_ours(folder):
    folder.model.unlink()
    assert not folder.layout.owns(folder.path)


def test_other_folders_are_not_replaced(trained, tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/notes.md").write_text("somebody's")
    options = {"output": tmp_path, "layout": "triton"}
    with pytest.raises(UsageError, match="replace it with `overwrite`"):
        export(trained / "model.keras", "onnx", **options)
    with pytest.raises(UsageError, match="not just an earlier export for NVIDIA Triton"):
        export(trained / "model.keras", "onnx", **options, overwrite=True)
    assert (tmp_path / "digits/notes.md").read_text() == "somebody's"


def test_the_command_knows_the_format_and_replaces_what_is_ours(
    trained, served, tmp_path, command_here
):
    model = fill(tmp_path / "digits", LAYOUTS["kserve"], "onnx", served)
    words = (trained / "model.keras", "--layout", "kserve", "--output", tmp_path)
    assert command_here("vitsd-export", *words, "--overwrite").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert read_spec(model).preprocessing_embedded
    refused = command_here("vitsd-export", *words, "--overwrite", "--deploy", tmp_path / "d")
    assert refused.returncode == 2
    assert "leave out --deploy" in refused.stderr
