"""``vitsd-inspect``: what is inside a model file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import add_check_options, add_model_argument
from vitsd_runtime.compatibility import ENGINES, Compatibility, compatibility
from vitsd_runtime.engines import load_engine
from vitsd_runtime.formats import detect_format, model_bytes, read_spec
from vitsd_runtime.spec import Integrity, ModelSpec
from vitsd_runtime.system.machine import (
    describe_machine,
    format_machine,
    format_thermal,
    thermal_state,
)
from vitsd_runtime.system.text import printable

_WIDTH = 110
"""Columns of one entry of a spec."""
_MATCHES = {True: "matches", False: "not checked"}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-inspect",
        description="Show a model's spec, operations and tensors, and the machine.",
    )
    add_model_argument(parser, ".tflite, .onnx or .keras file, or SavedModel folder")
    add_check_options(parser)
    parser.add_argument(
        "--compat",
        action="store_true",
        help="tell which engines, microcontrollers and NPUs take every operation",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime")


def _main(arguments: argparse.Namespace) -> None:
    path, allow = arguments.model, arguments.allow_any_operation
    format = detect_format(path)
    compatible = compatibility(path, format, allow) if arguments.compat else None
    spec = read_spec(path, verify=arguments.verify)
    contents = {}
    if format != "keras":
        contents = load_engine(path, format, allow_any_operation=allow).describe()
    machine, state = describe_machine(), thermal_state()
    if arguments.json:
        report = {
            "path": str(path),
            "format": format,
            "bytes": model_bytes(path),
            **contents,
            **({"compatibility": compatible._asdict()} if compatible else {}),
            "spec": spec.to_dict() if spec else None,
            "machine": {**machine, **state},
        }
        print(json.dumps(report, indent=1))
        return
    print(f"{printable(path)}: {format}, {model_bytes(path):,} bytes")
    _print_contents(contents)
    if compatible:
        _print_compatibility(compatible)
    if spec is None:
        print("  no vitsd spec")
    else:
        _print_spec(spec, arguments.verify)
    print(
        f"This machine: {'; '.join(filter(None, (format_machine(machine), format_thermal(state))))}"
    )


def _print_contents(contents: Mapping[str, Any]) -> None:
    for title, name in (("input", "inputs"), ("output", "outputs")):
        for tensor in contents.get(name, ()):
            shape = printable(tensor["shape"])
            line = f"  {title:7} {printable(tensor['name'])}  {tensor['dtype']} {shape}"
            if "scale" in tensor:
                line += f", scale {tensor['scale']:.6g}, zero point {tensor['zero_point']}"
            print(line)
    if "operations" in contents:
        operations = contents["operations"]
        listed = ", ".join(f"{printable(name)} {count}" for name, count in operations.items())
        print(f"  {sum(operations.values())} operations: {listed}")
    if "tensor_dtypes" in contents:
        dtypes = contents["tensor_dtypes"].items()
        print("  tensors: " + ", ".join(f"{count} {dtype}" for dtype, count in dtypes))
    if "note" in contents:
        print(f"  {contents['note']}")


def _print_compatibility(compatible: Compatibility) -> None:
    batch = "any number of images" if compatible.any_batch else "one image"
    print(f"  tensors of at most {compatible.dimensions} dimensions, for {batch} at a time")
    free = "unknown: other operations than vitsd-export's" if compatible.unknown else "yes"
    for name, objections in compatible.objections.items():
        verdict = f"no: {', '.join(objections)}" if objections else free
        print(f"  {ENGINES[name].title:22} {verdict}")


def _print_spec(spec: ModelSpec, verified: bool) -> None:
    size = spec.image_size
    names = printable(", ".join(spec.class_names), _WIDTH)
    print(f"  spec of {spec.name!r}, {spec.num_classes} classes: {names}")
    print(f"  images {spec.input_size} -> {size}x{size}, {spec.interpolation}, {spec.resize_mode}")
    mean, variance = (
        ", ".join(f"{value:.1f}" for value in values) for values in (spec.mean, spec.variance)
    )
    print(f"  normalized by mean {mean} and variance {variance} (0-255 units)")
    content = spec.to_dict()
    for section in ("architecture", "augmentation", "provenance", "export", "confidence"):
        for name, value in content.get(section, {}).items():
            print(f"  {section}.{printable(name)}: {printable(json.dumps(value), _WIDTH)}")
    if spec.golden is not None:
        print(f"  golden: {len(spec.golden.images)} images with known answers (vitsd-verify)")
    print(f"  SHA-256 {_describe_integrity(spec.integrity, verified)}")


def _describe_integrity(integrity: Integrity | None, verified: bool) -> str:
    if integrity is None:
        return "is not in the spec"
    covered = f"{integrity.size:,} bytes of the model"
    covered += f", {len(integrity.files)} other files" if integrity.files else ""
    if integrity.spec_sha256 is None:
        return f"{_MATCHES[verified]}: {covered}; the spec has none of its own, as in older files"
    return f"{_MATCHES[verified]}: {covered}, and the spec"


if __name__ == "__main__":
    sys.exit(main())
