"""Make a folder to copy to a device: model, runtime wheel, scripts to install and run them."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitsd_export.deploy.wheels import RUNTIME_PACKAGE, DevicePlatform, download, pack_runtime
from vitsd_runtime.engines.load import engine_extra
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import detect_format, require_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import Format, PathLike

_log = logging.getLogger(__name__)
_TEMPLATES = Path(__file__).with_name("templates")
_TFLITE_RUNTIME = "tflite-runtime"
"""Targets whose names begin like this need the extra of the same name."""


def deploy(
    model: PathLike,
    folder: PathLike,
    wheels: Sequence[DevicePlatform] = (),
    *,
    overwrite: bool = False,
) -> Path:
    """Write a folder with everything a device needs.

    There, ``install.sh`` makes a Python environment and ``run.sh IMAGE`` classifies.

    Args:
        model: an exported file, or a SavedModel folder.
        folder: to be created.
        wheels: devices whose engine, NumPy and Pillow are downloaded, so that ``install.sh`` needs
            no network there.
        overwrite: replace an earlier deployment.

    Returns:
        The folder.

    Raises:
        UsageError: ``model`` is not an exported one, or something is in the way.
        VitsdError: a wheel was not found.
    """
    model, folder = Path(model), Path(folder).resolve()
    format = detect_format(model)
    if format == "keras":
        raise UsageError(f"{printable(model)} is a trained model: export it first.")
    spec = require_spec(model)
    check_folder(folder, overwrite)
    extra = _engine_extra(format, spec)
    with atomic_write(folder) as temporary:
        wheel_folder = temporary / "wheels"
        wheel_folder.mkdir(parents=True)
        name = _copy_model(model, temporary)
        runtime = pack_runtime(wheel_folder)
        for platform in wheels:
            _log.info("Downloading wheels for %s ...", platform)
            download([f"{runtime}[{extra}]"], platform, wheel_folder)
        _fill_templates(
            temporary,
            {
                "MODEL": name,
                "NAME": spec.name,
                "CLASSES": str(spec.num_classes),
                # By its path: an index may have another package of this name.
                "REQUIREMENT": f"./wheels/{runtime.name}[{extra}]",
                # Files of earlier versions have nothing to be verified with.
                "CHECK": "verify" if spec.golden else "inspect",
                "CONTENTS": _describe_contents(wheels),
            },
        )
    return folder


def check_folder(folder: PathLike, overwrite: bool) -> None:
    """Check that a deployment can be written, before the work that leads to it.

    Raises:
        UsageError: ``folder`` is the current one or above it, or holds anything but an earlier
            deployment that may be replaced.
    """
    folder, here = Path(folder).resolve(), Path.cwd()
    if folder == here or folder in here.parents:
        raise UsageError(
            f"{printable(folder)} is the current folder, or above it: a deployment needs a folder "
            "of its own."
        )
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not _is_deployment(folder):
        raise UsageError(
            f"{printable(folder)} exists and is not an earlier deployment: choose another one."
        )
    if not overwrite:
        raise UsageError(
            f"{printable(folder)} exists; replace the earlier deployment with `overwrite`."
        )


def _is_deployment(folder: Path) -> bool:
    wheel = any(folder.glob(f"wheels/{RUNTIME_PACKAGE}-*.whl"))
    return wheel and (folder / "run.sh").is_file()


def _engine_extra(format: Format, spec: ModelSpec) -> str:
    """The runtime's extra that installs the engine this file was exported for."""
    if spec.export is not None and spec.export.target.startswith(_TFLITE_RUNTIME):
        return _TFLITE_RUNTIME
    return engine_extra(format)


def _copy_model(model: Path, folder: Path) -> str:
    """Copy the model; returns the copy's name, which is safe in a shell script."""
    safe = re.fullmatch(r"\w[\w.\-]*", model.name, re.ASCII)
    name = model.name if safe else f"model{model.suffix}"
    if model.is_dir():
        shutil.copytree(model, folder / name)
    else:
        shutil.copyfile(model, folder / name)
    return name


def _describe_contents(wheels: Sequence[DevicePlatform]) -> str:
    """What the folder of wheels does, for the end of a sentence."""
    if not wheels:
        return "holds the runtime, but no engine"
    return f"holds all that is needed by {' and '.join(map(str, wheels))}"


def _fill_templates(folder: Path, values: Mapping[str, str]) -> None:
    for template in sorted(_TEMPLATES.iterdir()):
        text = template.read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        path = folder / template.name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if path.suffix == ".sh" else 0o644)
