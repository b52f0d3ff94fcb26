"""``vitsd-export``: turn a trained model into SavedModel, TFLite and ONNX."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitsd.backend import load_keras
from vitsd.hub.pretrained import locate
from vitsd.hub.saving import MODEL_FILE
from vitsd.training.run import newest_run
from vitsd_export.cli import add_options, print_comparisons
from vitsd_export.deploy import DevicePlatform, check_folder, deploy
from vitsd_export.devices.proof import DEVICES
from vitsd_export.exporter import Artifact, ParityError, export
from vitsd_export.gate import Comparison
from vitsd_export.layouts import LAYOUTS
from vitsd_export.options import (
    ALL,
    FORMAT_ALIASES,
    NO_LAYOUT,
    ExportOptions,
    compiled_path,
    sidecar_paths,
)
from vitsd_export.quantization.recipe import read_recipe
from vitsd_export.quantization.schemes import EXPORT_FORMATS, OUTPUTS, SCHEMES, quantizations_of
from vitsd_export.quantization.search import CHOICE_HEADERS, describe_choices
from vitsd_export.web import WEB_MODEL
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.text import printable, table
from vitsd_runtime.validation import options

_RENAMED = {"--quantize": "--quantization"}
_log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(
        prog="vitsd-export",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Export a trained model. Every file is checked against the Keras model on "
        "held-out images before it\nis kept; a SavedModel folder, .tflite and .onnx give float32 "
        "logits for the same input.",
        epilog=_describe_quantizations(),
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=".keras file, run folder, vit-edge-cifar100, or owner/name on the Hugging Face Hub "
        "(default: the newest run under runs/)",
    )
    _add_file_options(parser)
    add_options(parser, ExportOptions)
    parser.add_argument(
        "--recipe",
        metavar="FILE",
        help="replay the .recipe.json of an earlier export, without a search",
    )
    parser.add_argument(
        "--litert-js",
        metavar="PATH",
        help="for web, without network: the npm package @litertjs/core, as .tgz or unpacked "
        "(default: it is downloaded)",
    )
    _add_deployment_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        nargs="+",
        action="extend",
        metavar="F",
        help=f"one or several of {', '.join(EXPORT_FORMATS)} (also {', '.join(FORMAT_ALIASES)}), "
        f"{ALL} of these, and web, a folder with a page that runs the model in browsers (default: "
        "tflite, or what --layout takes)",
    )
    parser.add_argument(
        "--quantization",
        nargs="+",
        action="extend",
        metavar="Q",
        help="one or several of those below (default: none). Raspberry Pi and other CPUs: int8",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="folder for the files (default: the model's, or this one)"
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="images for calibration and checking (default: what the model was trained on, if "
        "that is a built-in dataset or the model lies in its run folder)",
    )


def _add_deployment_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--deploy",
        metavar="DIR",
        help="also make a folder to copy to a device: the file, the runtime, install.sh, run.sh",
    )
    parser.add_argument(
        "--wheels",
        action="append",
        metavar="PLATFORM,PYTHON",
        help="download for --deploy what a device needs, so that it installs without network; "
        "several times for several devices. Raspberry Pi OS, 64-bit: aarch64,3.11 (bookworm), "
        "aarch64,3.13 (trixie)",
    )


def _describe_quantizations() -> str:
    rows = [f"  {scheme.name:<10} {scheme.help}" for scheme in SCHEMES.values()]
    formats = [f"  {format:<11} {', '.join(quantizations_of(format))}" for format in OUTPUTS]
    return "\n".join(["quantizations:", *rows, "", "formats and what they take:", *formats])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-export", renamed=_RENAMED)


@dataclass(frozen=True)
class _Result:
    """What an export has left."""

    artifacts: list[Artifact]
    comparisons: list[Comparison]
    failure: ParityError | None


def _main(arguments: argparse.Namespace) -> int:
    formats = _names("--format", arguments.format) or [_usual_format(arguments.layout)]
    quantizations = _names("--quantization", arguments.quantization) or ["none"]
    wheels = [DevicePlatform.parse(text) for text in arguments.wheels or ()]
    _check_deployment(arguments, formats, quantizations)
    keywords = _keywords(arguments)
    model = arguments.model or _newest_model()
    # What is wrong is refused here, before Keras takes its seconds to start.
    ExportOptions(formats, quantizations, **keywords)
    if arguments.recipe:
        read_recipe(arguments.recipe)
    locate(model)
    load_keras()
    result = _export(model, formats, quantizations, arguments, keywords)
    if not arguments.json:
        _print(model, result)
    deployed = None
    if arguments.deploy and result.failure is None:
        path = result.artifacts[0].path
        deployed = deploy(path, arguments.deploy, wheels, overwrite=arguments.overwrite)
    if arguments.json:
        print(json.dumps(_report(model, result, deployed), indent=1))
    elif deployed:
        print(
            f"Copy {printable(deployed)}/ to the device; there: ./install.sh, then ./run.sh IMAGE"
        )
    return _exit_code(result)


def _exit_code(result: _Result) -> int:
    """1 if a file that failed was kept; raises the failure if it was not."""
    if result.failure is not None:
        raise result.failure
    return 0 if all(comparison.passed for comparison in result.comparisons) else 1


def _newest_model() -> Path:
    model = newest_run(containing=MODEL_FILE) / MODEL_FILE
    _log.info("Exporting the newest run: %s", printable(model))
    return model


def _usual_format(layout: str) -> str:
    return LAYOUTS[layout].formats[0] if layout in LAYOUTS else "tflite"


def _names(flag: str, words: Sequence[str] | None) -> list[str]:
    """The names in the words that followed a flag, which may be separated by commas too."""
    names = [name for word in words or () for name in word.split(",") if name]
    for name in names:
        # argparse can't tell a model from one more name.
        if name.endswith(".keras") or "/" in name:
            raise UsageError(
                f"{printable(name)} was taken for one of the names of {flag}: put the model before "
                f"{flag}."
            )
    return names


def _check_deployment(
    arguments: argparse.Namespace, formats: Sequence[str], quantizations: Sequence[str]
) -> None:
    if not arguments.deploy:
        if arguments.wheels:
            raise UsageError("--wheels are for a deployment: say where with --deploy DIR.")
        return
    if len({*formats}) > 1 or ALL in formats or len({*quantizations}) > 1:
        raise UsageError("--deploy takes one file: give one --format and one --quantization.")
    if arguments.layout != NO_LAYOUT:
        raise UsageError("A model for a server is a folder to copy already: leave out --deploy.")
    if "web" in formats:
        raise UsageError("A web export is a folder to copy already: leave out --deploy.")
    if arguments.target in DEVICES:
        raise UsageError(f"No Python runs on {arguments.target}: leave out --deploy.")
    check_folder(Path(arguments.deploy), arguments.overwrite)
    output = arguments.output
    if output and Path(output).resolve() == Path(arguments.deploy).resolve():
        raise UsageError(
            "--output and --deploy are two folders: the deployment gets a copy of the file."
        )


def _keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of :class:`ExportOptions`."""
    names = [name for name, _ in options(ExportOptions)]
    return {name: getattr(arguments, name) for name in (*names, "recipe", "litert_js")}


def _export(
    model: str | Path,
    formats: Sequence[str],
    quantizations: Sequence[str],
    arguments: argparse.Namespace,
    keywords: Mapping[str, Any],
) -> _Result:
    try:
        artifacts = export(
            model, formats, quantizations, arguments.output, arguments.data, **keywords
        )
    except ParityError as error:
        return _Result(error.artifacts, error.comparisons, error)
    return _Result(artifacts, [artifact.comparison for artifact in artifacts], None)


def _device_lines(artifact: Artifact) -> Iterator[str]:
    """What is known of a file on its microcontroller or NPU."""
    export = artifact.spec.export
    if export is not None and export.micro is not None:
        micro = export.micro
        yield (
            f"{printable(artifact.path.name)} ran in {micro.interpreter} on {micro.images} test "
            f"images, in an arena of {micro.arena:,} bytes: the classes of LiteRT for "
            f"{100 * micro.agreement:.1f} %, logits within {micro.steps} steps"
        )
    if export is not None and export.npu is not None:
        npu = export.npu
        compiled = compiled_path(artifact.path, npu.accelerator)
        yield (
            f"{printable(compiled.name)}, by {npu.compiler}: {npu.npu_operators} operators on the "
            f"NPU, {npu.cpu_operators} on the CPU; estimated: {npu.sram:,} bytes of SRAM, "
            f"{npu.off_chip:,} of flash or DRAM, {npu.cycles:,} cycles, {npu.milliseconds:.2f} ms"
        )


def _report(model: str | Path, result: _Result, deployed: Path | None) -> dict[str, Any]:
    measured = {artifact.comparison.path: _measured(artifact) for artifact in result.artifacts}
    rows = [{**c.to_dict(), **measured.get(c.path, {})} for c in result.comparisons]
    folder = {"deployed": str(deployed)} if deployed else {}
    return {"model": str(model), "artifacts": rows, **folder}


def _measured(artifact: Artifact) -> dict[str, Any]:
    """Beside the comparison: what the search found, and the device's figures."""
    export = artifact.spec.export
    figures = {"micro": export.micro, "npu": export.npu} if export else {}
    found = {name: vars(section) for name, section in figures.items() if section}
    search = {"quantization_search": artifact.search.measured()} if artifact.search else {}
    return {**search, **found}


def _print(model: str | Path, result: _Result) -> None:
    for artifact in result.artifacts:
        if artifact.search and artifact.search.sensitivity:
            recipe, picture = sidecar_paths(artifact.path)
            print(
                f"\n{printable(artifact.path.name)}, layer by layer (again with --recipe "
                f"{printable(recipe)}; picture: {printable(picture)}):"
            )
            print(table(describe_choices(artifact.search), CHOICE_HEADERS) + "\n")
    print_comparisons(result.comparisons)
    first = result.comparisons[0]
    folder = printable(Path(first.path).parent)
    print(f"Compared with {printable(model)} on {first.images} test images. Files: {folder}/")
    for artifact in result.artifacts:
        for line in _device_lines(artifact):
            print(line)
        if (artifact.path / WEB_MODEL).is_file():
            folder = printable(artifact.path)
            print(f"Try it: python3 -m http.server --bind 127.0.0.1 --directory {folder}")


if __name__ == "__main__":
    sys.exit(main())
