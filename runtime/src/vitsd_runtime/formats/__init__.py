"""Model files and the spec inside them.

Where the spec lives, so that one copied file is enough on the device:

=========== ==================================================================================
``.tflite`` ``vitsd.json`` in a zip appended to the flatbuffer: the associated-file format of
            TFLite Metadata
``.onnx``   ``metadata_props["vitsd.json"]``, the last field of the file; onnxruntime shows it
            as model metadata
SavedModel  ``assets.extra/vitsd.json`` beside ``saved_model.pb``
``.keras``  ``vitsd.json`` beside ``config.json`` in the archive
=========== ==================================================================================

In each the spec holds size and SHA-256 of the model itself: what stands before the spec in
``.tflite`` and ``.onnx``, ``saved_model.pb``, or the archive's ``model.weights.h5``; SHA-256 of the
other files or members; and its own.
"""

from vitsd_runtime.formats.detect import SUFFIXES, detect_format, model_bytes
from vitsd_runtime.formats.spec_io import (
    digest_model,
    model_identity,
    read_spec,
    require_spec,
    write_spec,
)

__all__ = [
    "SUFFIXES",
    "detect_format",
    "digest_model",
    "model_bytes",
    "model_identity",
    "read_spec",
    "require_spec",
    "write_spec",
]
