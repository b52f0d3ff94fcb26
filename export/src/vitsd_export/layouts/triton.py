"""NVIDIA Triton: ``config.pbtxt`` beside the folder of a version.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

from collections.abc import Mapping

from vitsd_export.layouts.layout import BATCH_DELAY_MICROSECONDS, LABELS, Served
from vitsd_runtime.types import Format

KEPT = ("1/", "config.pbtxt", LABELS, "warmup/")
_CONFIG = """\
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {batch}
input [
  {{ name: "images" data_type: TYPE_UINT8 dims: [ {size} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "{labels}" }}
]
# One copy, on a GPU if there is one. Each copy takes all cores, unless the line below limits it:
# more copies are for many cores.
instance_group [
  {{ count: 1 kind: KIND_AUTO }}
]
# parameters {{ key: "intra_op_thread_count" value {{ string_value: "4" }} }}
{batching}{warmup}"""
_BATCHING = """\
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
"""
# An image becomes a whole batch by being taken as often.
_WARMUP = """\
model_warmup [
  {{
    name: "golden-{index}"
    batch_size: {batch}
    inputs {{
      key: "images"
      value {{ data_type: TYPE_UINT8 dims: [ {size} ] input_data_file: "golden-{index}" }}
    }}
  }}
]
"""


def model_path(name: str, format: Format) -> str:
    """The only version."""
    return "1/model.onnx"


def files(served: Served, format: Format) -> Mapping[str, bytes]:
    """The configuration, the labels, and the golden images as raw bytes for the warm-up."""
    size = ", ".join(map(str, served.spec.input_size))
    batch = served.max_batch_size
    warmup = "".join(
        _WARMUP.format(index=index, batch=1 if index else batch, size=size)
        for index in range(len(served.golden))
    )
    config = _CONFIG.format(
        name=served.name,
        batch=batch,
        size=size,
        classes=served.spec.num_classes,
        labels=LABELS,
        batching=_BATCHING.format(delay=BATCH_DELAY_MICROSECONDS) if batch > 1 else "",
        warmup=warmup,
    )
    images = {f"warmup/golden-{i}": image.tobytes() for i, image in enumerate(served.golden)}
    return {"config.pbtxt": config.encode(), LABELS: served.labels, **images}
