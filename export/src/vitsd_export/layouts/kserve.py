"""KServe: an InferenceService, and the folder that its storage holds.

https://kserve.github.io/website/docs/reference/crd-api; the storage is that of the server which
runs the format: Triton or TensorFlow Serving.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vitsd_export.layouts import tfserving, triton
from vitsd_export.layouts.layout import Served
from vitsd_runtime.types import Format

_SERVICE = """\
# Copy what is in storage/ to an object store or a volume, and say where in storageUri; then
# kubectl apply -f inferenceservice.yaml
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: "{service}"
spec:
  predictor:
    minReplicas: 1
    maxReplicas: 3
    model:
      modelFormat:
        name: {format}
      runtime: {runtime}
      protocolVersion: {protocol}
      storageUri: "s3://BUCKET/{name}"
      resources:
        requests:
          cpu: "1"
          memory: 1Gi
        limits:
          memory: 2Gi
"""
_RUNTIMES: Mapping[Format, Mapping[str, str]] = {
    "onnx": {"format": "onnx", "runtime": "kserve-tritonserver", "protocol": "v2"},
    "saved_model": {
        "format": "tensorflow",
        "runtime": "kserve-tensorflow-serving",
        "protocol": "v1",
    },
}
_SERVICE_FILE = "inferenceservice.yaml"
_NAME_MAX = 50
"""Characters; KServe adds to them, and Kubernetes takes 63."""
KEPT = (
    _SERVICE_FILE,
    *(f"storage/{{}}/{path}" for path in triton.KEPT),
    *(f"storage/{path}" for path in tfserving.KEPT),
)


def model_path(name: str, format: Format) -> str:
    """In the storage, as its server wants it."""
    if format == "onnx":
        return f"storage/{name}/{triton.model_path(name, format)}"
    return "storage"


def files(served: Served, format: Format) -> Mapping[str, bytes]:
    """The InferenceService, and the files of the server."""
    service = re.sub(r"[^a-z0-9]+", "-", served.name.lower())[:_NAME_MAX].strip("-") or "model"
    if not service[0].isalpha():
        service = f"model-{service}"
    text = _SERVICE.format(service=service, name=served.name, **_RUNTIMES[format])
    if format == "onnx":
        prefix, stored = f"storage/{served.name}/", triton.files(served, format)
    else:
        prefix, stored = "storage/", tfserving.files(served, format)
    return {
        _SERVICE_FILE: text.encode(),
        **{f"{prefix}{path}": content for path, content in stored.items()},
    }
