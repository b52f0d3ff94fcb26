"""Make a folder for static hosts: a page, the model, and the engine that runs it in browsers."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from vitsd_export.web.litert_js import PACKAGE, LiteRtJs
from vitsd_runtime.serving.page import INDEX, POLICY, page_files
from vitsd_runtime.spec import ModelSpec

WEB_MODEL = "model.tflite"
_WORKER = "service-worker.js"
_OWN = Path(__file__).with_name("files")
_PLACES = {"wasm-utils.js": "litert", "LICENSE": "litert", _WORKER: "", "README.md": ""}
"""Folders of our files; the others go to ``page``."""
_POLICY = {
    **POLICY,
    "script-src": f"{POLICY['script-src']} 'wasm-unsafe-eval'",  # to compile WebAssembly, no more
    "worker-src": "'self'",
}
_NOT_KEPT = (_WORKER, "README.md", "litert/LICENSE", INDEX)  # the page is kept as ./


def write_web_folder(folder: Path, spec: ModelSpec, litert_js: LiteRtJs) -> None:
    """Put everything around the model that is in ``folder`` already.

    Args:
        folder: with the model as :data:`WEB_MODEL`.
        spec: that the model carries.
        litert_js: the engine.
    """
    builds = {f"litert/{name}": content for name, content in litert_js.builds.items()}
    files = {
        WEB_MODEL: (folder / WEB_MODEL).read_bytes(),
        "spec.json": spec.to_json().encode(),
        "litert/index.js": litert_js.module,
        **builds,
        **{f"page/{name}": content for name, content in page_files().items() if name != INDEX},
        **_own_files(),  # answers.js takes the place of the one that asks a server
        INDEX: _with_policy(page_files()[INDEX]),
    }
    values = {"NAME": spec.name, "PACKAGE": PACKAGE, "LITERT_JS": litert_js.version}
    files["README.md"] = _fill(files["README.md"], values)
    files[_WORKER] = _fill(files[_WORKER], _kept_offline(files, builds))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def _own_files() -> dict[str, bytes]:
    paths = {path: _PLACES.get(path.name, "page") for path in sorted(_OWN.iterdir())}
    return {str(Path(place, path.name)): path.read_bytes() for path, place in paths.items()}


def _with_policy(index: bytes) -> bytes:
    """The page, with the policy that a server would send as a header."""
    policy = "; ".join(f"{name} {value}" for name, value in _POLICY.items())
    first = b'<meta charset="utf-8">\n'
    element = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    return index.replace(first, first + element.encode())


def _kept_offline(files: Mapping[str, bytes], builds: Collection[str]) -> dict[str, str]:
    """What the service worker keeps, each with its digest, and a name for this very content."""
    digests = {name: _integrity(files[name]) for name in sorted(files)}
    version = hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]
    kept = {name: digests[name] for name in digests if name not in (*_NOT_KEPT, *builds)}
    return {
        "VERSION": version,
        "FILES": json.dumps({"./": "", **kept}, indent=2),  # hosts may add to the page
        "BUILDS": json.dumps({name: digests[name] for name in builds}, indent=2),
    }


def _integrity(content: bytes) -> str:
    """As browsers compare it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}"


def _fill(template: bytes, values: Mapping[str, str]) -> bytes:
    text = template.decode()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text.encode()
