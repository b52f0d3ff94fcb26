"""LiteRT.js, the engine of browsers: from the npm registry, or from a copy of its package."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import logging
import os
import tarfile
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.json_files import parse_json
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import PathLike

PACKAGE = "@litertjs/core"
VERSION = "2.5.3"
_SHA512 = "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ=="
"""Of its archive, as the registry states it ("integrity")."""
_REGISTRY = "https://registry.npmjs.org"
_MODULE = "dist/index.js"
_BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")
"""Of its WebAssembly; the second for browsers without relaxed SIMD. Those with threads need HTTP
headers that static hosts don't send."""
_FILES = ("package.json", _MODULE, *(f"wasm/{b}.{end}" for b in _BUILDS for end in ("js", "wasm")))
_MAX_BYTES = 64 * 2**20
"""Of the archive and of each file in it."""
_MAX_UNPACKED = 4 * _MAX_BYTES
_TIMEOUT = 60.0
"""Seconds."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiteRtJs:
    """What a page needs of the package."""

    version: str
    module: bytes
    """A JavaScript module."""
    builds: Mapping[str, bytes]
    """By name: WebAssembly, and the script that loads it."""


def find_litert_js(path: PathLike | None = None) -> LiteRtJs:
    """Read the package, or download its pinned version.

    Args:
        path: the package as a folder or as npm's ``.tgz``; None downloads it, about 12 MB.

    Raises:
        UsageError: there is no such package at ``path``.
        VitsdError: it can't be downloaded, or is damaged.
    """
    if path is None:
        return _from_files(_unpack(_download(), PACKAGE), PACKAGE)
    path, name = Path(path), printable(path)
    if path.is_dir():
        return _from_files(_read_folder(path), name)
    if not path.is_file():
        raise UsageError(f"There is no {PACKAGE} package at {name}.")
    return _from_files(_unpack(path.read_bytes(), name), name)


def _download() -> bytes:
    """The archive, from the registry that npm would use here."""
    registry = os.environ.get("NPM_CONFIG_REGISTRY", _REGISTRY).rstrip("/")
    url = f"{registry}/{PACKAGE}/-/core-{VERSION}.tgz"
    if not url.startswith("https://"):
        raise UsageError(f"NPM_CONFIG_REGISTRY must begin with https://; got {printable(url)}.")
    _log.info("Downloading %s %s ...", PACKAGE, VERSION)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            content: bytes = response.read(_MAX_BYTES)
    except (OSError, HTTPException, ValueError) as error:
        raise VitsdError(
            f"{PACKAGE} can't be downloaded from {printable(url)}: {first_line(error)}. Get it "
            f"where there is a network, npm pack {PACKAGE}@{VERSION}, and say where it lies with "
            "`litert_js`."
        ) from error
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != _SHA512:
        raise VitsdError(f"{printable(url)} is not what {PACKAGE} {VERSION} was: not used.")
    return content


def _unpack(archive: bytes, name: str) -> dict[str, bytes]:
    files = {}
    try:
        # Whole, because its checksum stands at its end.
        with gzip.GzipFile(fileobj=io.BytesIO(archive)) as packed:
            unpacked = packed.read(_MAX_UNPACKED + 1)
        if len(unpacked) > _MAX_UNPACKED:
            raise VitsdError(f"{name} is no npm package: it is too large.")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            for member in tar:
                wanted = member.name.removeprefix("package/")
                if wanted in _FILES and member.isfile() and member.size <= _MAX_BYTES:
                    content = tar.extractfile(member)
                    files[wanted] = content.read() if content else b""
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise VitsdError(f"{name} is no npm package: {first_line(error)}.") from error
    return files


def _read_folder(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}


def _from_files(files: Mapping[str, bytes], name: str) -> LiteRtJs:
    if missing := [file for file in _FILES if file not in files]:
        raise UsageError(f"{name} is not the package {PACKAGE}: it has no {missing[0]}.")
    try:
        package = parse_json(files["package.json"], _MAX_BYTES)
        version = printable(package["version"], 40)
    except (ValueError, TypeError, KeyError) as error:
        raise VitsdError(f"{name}/package.json is damaged: {first_line(error)}.") from error
    if version != VERSION:
        _log.warning("%s is %s %s; tested is %s.", name, PACKAGE, version, VERSION)
    builds = {file.removeprefix("wasm/"): files[file] for file in _FILES if "wasm/" in file}
    return LiteRtJs(version, _with_own_loader(files[_MODULE], name), builds)


def _with_own_loader(module: bytes, name: str) -> bytes:
    """The module, which finds beside it what it wants of another package: browsers resolve none."""
    line = b'from "@litertjs/wasm-utils"'
    if module.count(line) != 1:
        raise VitsdError(f"{name} imports other packages than version {VERSION} does.")
    module = module.replace(line, b'from "./wasm-utils.js"')
    note = b"// Changed by vitsd: imports ./wasm-utils.js instead of @litertjs/wasm-utils.\n"
    return note + module.partition(b"\n//# sourceMappingURL=")[0]
