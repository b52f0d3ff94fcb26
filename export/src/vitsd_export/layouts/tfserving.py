"""TensorFlow Serving: versions of a SavedModel, with requests to warm up with.

https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vitsd_export.layouts.layout import BATCH_DELAY_MICROSECONDS, LABELS, MAX_BATCH_SIZE, Served
from vitsd_runtime.structure.protobuf import varint
from vitsd_runtime.system.files import temporary_folder
from vitsd_runtime.types import Format, UInt8Array

KEPT = ("1/", "models.config", "batching.config", LABELS)
_SIGNATURE = "serving_default"
_MODELS = """\
# tensorflow_model_server --model_config_file=/models/{name}/models.config
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
}}
"""
_BATCHING = f"""\
# tensorflow_model_server --enable_batching --batching_parameters_file=FILE
max_batch_size {{ value: {MAX_BATCH_SIZE} }}
batch_timeout_micros {{ value: {BATCH_DELAY_MICROSECONDS} }}
"""


def model_path(name: str, format: Format) -> str:
    """The folder itself: the exported SavedModel has its version in it."""
    return ""


def files(served: Served, format: Format) -> Mapping[str, bytes]:
    """The configurations, the labels, and requests that the server answers before others."""
    return {
        "models.config": _MODELS.format(name=served.name).encode(),
        "batching.config": _BATCHING.encode(),
        LABELS: served.labels,
        "1/assets.extra/tf_serving_warmup_requests": _records(_warmup(served)),
    }


def _records(contents: Iterator[bytes]) -> bytes:
    """A TFRecord file."""
    import tensorflow as tf

    with temporary_folder() as folder:
        path = Path(folder, "records")
        with tf.io.TFRecordWriter(str(path)) as writer:
            for content in contents:
                writer.write(content)
        return path.read_bytes()


def _warmup(served: Served) -> Iterator[bytes]:
    """Each golden image alone, and a whole batch."""
    for image in served.golden:
        yield _prediction_log(served.name, image[None])
    batch = np.resize(served.golden, (MAX_BATCH_SIZE, *served.golden.shape[1:]))
    yield _prediction_log(served.name, batch)


def _prediction_log(name: str, images: UInt8Array) -> bytes:
    """A ``tensorflow.serving.PredictionLog`` with a ``PredictRequest``, in protobuf's wire format.

    TensorFlow does not come with these messages, and a package for six fields would be a lot.
    """
    import tensorflow as tf

    tensor = tf.make_tensor_proto(images).SerializeToString()
    model = _field(1, name.encode()) + _field(3, _SIGNATURE.encode())  # ModelSpec
    entry = _field(1, b"images") + _field(2, tensor)  # of the map of inputs
    request = _field(1, model) + _field(2, entry)  # PredictRequest
    return _field(6, _field(1, request))  # PredictionLog.predict_log.request


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content
