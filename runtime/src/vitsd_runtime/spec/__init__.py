"""The contract between training and device: what a model expects and what its answers mean."""

from vitsd_runtime.spec.architecture import Architecture
from vitsd_runtime.spec.limits import MAX_JSON_BYTES, MAX_MODEL_BYTES, MAX_SIDE
from vitsd_runtime.spec.model_spec import SCHEMA_VERSION, ModelSpec
from vitsd_runtime.spec.sections import (
    AugmentationRanges,
    Confidence,
    ExportInfo,
    Golden,
    Integrity,
    MicroFigures,
    NpuFigures,
    ParityFigures,
    Provenance,
)

__all__ = [
    "MAX_JSON_BYTES",
    "MAX_MODEL_BYTES",
    "MAX_SIDE",
    "SCHEMA_VERSION",
    "Architecture",
    "AugmentationRanges",
    "Confidence",
    "ExportInfo",
    "Golden",
    "Integrity",
    "MicroFigures",
    "ModelSpec",
    "NpuFigures",
    "ParityFigures",
    "Provenance",
]
