"""All layouts, one row for each."""

from __future__ import annotations

from collections.abc import Mapping

from vitsd_export.layouts import firmware, kserve, tfserving, triton
from vitsd_export.layouts.layout import Layout

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "triton",
            "NVIDIA Triton",
            formats=("onnx",),
            model_path=triton.model_path,
            files=triton.files,
            kept=triton.KEPT,
        ),
        Layout(
            "tfserving",
            "TensorFlow Serving",
            formats=("saved_model",),
            model_path=tfserving.model_path,
            files=tfserving.files,
            kept=tfserving.KEPT,
        ),
        Layout(
            "kserve",
            "KServe",
            formats=("onnx", "saved_model"),
            model_path=kserve.model_path,
            files=kserve.files,
            kept=kserve.KEPT,
        ),
        Layout(
            "c",
            "C sources for firmware",
            formats=("tflite",),
            model_path=firmware.model_path,
            files=firmware.files,
            kept=firmware.KEPT,
            firmware=True,
        ),
    )
}
