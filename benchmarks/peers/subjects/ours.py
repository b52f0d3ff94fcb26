"""What vitsd-export writes, run by the runtime's own engines."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.subject import OURS, Precision, Run, Subject
from benchmarks.peers.workshop import MODEL, Workshop
from vitsd_runtime.types import Format, Quantization


def _subject(format: Format, quantization: Quantization, precision: Precision) -> Subject:
    def build(workshop: Workshop, batch: int) -> Path:
        return _export(workshop, format, quantization)

    def start(path: Path, threads: int, batch: int) -> Run:
        from vitsd_runtime.engines import load_engine

        return load_engine(path, format, threads, batch).run

    shown = {"tflite": "TFLite", "onnx": "ONNX"}[format]
    kind = "float32" if quantization == "none" else quantization
    return Subject(f"vitsd {shown} {kind}", OURS, precision, build, start)


SUBJECTS = (
    _subject("tflite", "none", "float32"),
    _subject("tflite", "dynamic", "int8"),
    _subject("tflite", "int8", "int8"),
    _subject("tflite", "int8-full", "int8"),
    _subject("onnx", "none", "float32"),
    _subject("onnx", "dynamic", "int8"),
    _subject("onnx", "int8", "int8"),
)


def _export(workshop: Workshop, format: Format, quantization: Quantization) -> Path:
    """With all checks if there are images to check with, else with all layers at the lowest."""
    from vitsd_export.options import artifact_name

    folder = workshop.folder / "vitsd"
    path = folder / artifact_name(workshop.spec.name, format, quantization)
    if path.exists():
        return path
    if workshop.data:
        from vitsd_export import export

        export(workshop.folder / MODEL, format, quantization, folder, workshop.data)
    else:
        from benchmarks.models import export_model

        folder.mkdir(exist_ok=True)
        export_model(workshop.trained, workshop.spec, folder, [(format, quantization)])
    return path
