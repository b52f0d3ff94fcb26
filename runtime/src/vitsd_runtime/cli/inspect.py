"""``vitsd-inspect``: what is inside a model file."""

from __future__ import annotations

import argparse
import collections
import json
import sys
from pathlib import Path

from vitsd_runtime.cli import common as console
from vitsd_runtime.formats.spec_io import detect_format, read_spec, saved_model_folder
from vitsd_runtime.models.catalog import BUNDLED, bundled_model
from vitsd_runtime.system.machine import (
    describe_machine,
    format_machine,
    format_thermal,
    thermal_state,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-inspect",
        description="Show a model's spec, operations and tensors, and the machine.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=bundled_model(),
        metavar="MODEL",
        help=f".tflite, .onnx or .keras file, or SavedModel folder (default: {BUNDLED}, which comes with the runtime)",
    )
    parser.add_argument("--no-verify", action="store_true", help="do not check the model's SHA-256")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv=None) -> int:
    return console.run(_main, build_parser(), argv)


def _main(arguments) -> int:
    path = Path(arguments.model)
    kind = detect_format(path)
    spec = read_spec(path, verify=not arguments.no_verify)
    report = {"path": str(path), "format": kind, "bytes": _size(path)}
    report.update(_CONTENTS[kind](path))
    report["spec"] = json.loads(spec.to_json()) if spec else None
    machine, state = describe_machine(), thermal_state()
    report["machine"] = {**machine, **state}
    if arguments.json:
        print(json.dumps(report, indent=1))
        return 0
    print(f"{path}: {kind}, {report['bytes']:,} bytes")
    for name in ("inputs", "outputs"):
        for tensor in report.get(name, ()):
            scale = (
                f", scale {tensor['scale']:.6g}, zero point {tensor['zero_point']}"
                if "scale" in tensor
                else ""
            )
            print(
                f"  {name[:-1]:7} {_plain(tensor['name'])}  {tensor['dtype']} {tensor['shape']}{scale}"
            )
    if "operations" in report:
        total = sum(report["operations"].values())
        print(
            f"  {total} operations: "
            + ", ".join(f"{_plain(op)} {n}" for op, n in report["operations"].items())
        )
    if "tensor_dtypes" in report:
        print(
            "  tensors: "
            + ", ".join(f"{n} {dtype}" for dtype, n in report["tensor_dtypes"].items())
        )
    if "note" in report:
        print(f"  {report['note']}")
    if spec is None:
        print("  no vitsd spec")
    else:
        _print_spec(spec, arguments.no_verify)
    print(
        f"This machine: {'; '.join(filter(None, (format_machine(machine), format_thermal(state))))}"
    )
    return 0


def _print_spec(spec, unverified: bool) -> None:
    print(
        f"  spec of {spec.name!r}, {spec.num_classes} classes: {_shorten(', '.join(spec.class_names))}"
    )
    print(
        f"  images {spec.input_size} -> {spec.image_size}x{spec.image_size}, {spec.resize_method}, fit {spec.fit}"
    )
    statistics = [
        ", ".join(f"{value:.1f}" for value in values) for values in (spec.mean, spec.variance)
    ]
    print(f"  normalised by mean {statistics[0]} and variance {statistics[1]} (0-255 units)")
    for section in ("architecture", "augmentation", "provenance", "export"):
        for name, value in getattr(spec, section).items():
            print(f"  {section}.{_plain(name)}: {_shorten(json.dumps(value))}")
    print(
        "  SHA-256 "
        + (
            "is not in the spec"
            if not spec.integrity
            else "not checked"
            if unverified
            else "matches"
        )
    )


def _plain(name: str) -> str:
    """A name from an untrusted file, without characters that would steer the terminal."""
    return json.dumps(name)[1:-1]


def _shorten(text: str, limit: int = 110) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def _size(path: Path) -> int:
    return (
        sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


def _tflite(path: Path) -> dict:
    from vitsd_runtime.engines.base import load_engine

    interpreter, inputs, outputs = load_engine(path, "tflite", 1, 1)._interpreter(1)
    report = {"inputs": [_tflite_tensor(inputs)], "outputs": [_tflite_tensor(outputs)]}
    dtypes = collections.Counter(
        str(_dtype_name(t["dtype"])) for t in interpreter.get_tensor_details()
    )
    report["tensor_dtypes"] = dict(dtypes.most_common())
    if hasattr(interpreter, "_get_ops_details"):
        operations = collections.Counter(op["op_name"] for op in interpreter._get_ops_details())
        operations.pop("DELEGATE", None)
        report["operations"] = dict(operations.most_common())
    return report


def _tflite_tensor(details) -> dict:
    shape = [None if n < 0 else int(n) for n in details.get("shape_signature", details["shape"])]
    tensor = {"name": details["name"], "dtype": _dtype_name(details["dtype"]), "shape": shape}
    if details["quantization"][0]:
        tensor["scale"], tensor["zero_point"] = (
            float(details["quantization"][0]),
            int(details["quantization"][1]),
        )
    return tensor


def _dtype_name(dtype) -> str:
    return getattr(dtype, "__name__", str(dtype))


def _onnx(path: Path) -> dict:
    from vitsd_runtime.engines.base import load_engine

    session = load_engine(path, "onnx", 1, 1)._session
    report = {
        name: [{"name": t.name, "dtype": t.type, "shape": t.shape} for t in tensors]
        for name, tensors in (("inputs", session.get_inputs()), ("outputs", session.get_outputs()))
    }
    try:
        import onnx
    except ImportError:
        return {
            **report,
            "note": "operations are listed where the onnx package is installed (pip install onnx)",
        }
    model = onnx.load(str(path), load_external_data=False)
    report["opset"] = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    report["operations"] = dict(
        collections.Counter(node.op_type for node in model.graph.node).most_common()
    )
    return report


def _saved_model(path: Path) -> dict:
    from vitsd_runtime.engines.base import load_engine

    function = load_engine(path, "saved_model", 1, 1)._function
    inputs = function.structured_input_signature[1]
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return {
        "inputs": [_tf_tensor(name, tensor) for name, tensor in inputs.items()],
        "outputs": [
            _tf_tensor(name, tensor) for name, tensor in function.structured_outputs.items()
        ],
        "operations": dict(collections.Counter(node.op for node in nodes).most_common()),
        "version": saved_model_folder(path).name,
    }


def _tf_tensor(name, tensor) -> dict:
    return {"name": name, "dtype": tensor.dtype.name, "shape": tensor.shape.as_list()}


_CONTENTS = {
    "tflite": _tflite,
    "onnx": _onnx,
    "saved_model": _saved_model,
    "keras": lambda path: {},
}


if __name__ == "__main__":
    sys.exit(main())
