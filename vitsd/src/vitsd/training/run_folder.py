"""A run folder's ``run.json``: what is trained, on what, how; it decides whether a run may be resumed."""

from __future__ import annotations

import json
from pathlib import Path

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.files import write_text


def open_run(output: Path, description: dict, resume: bool) -> None:
    """Start a run in ``output``, or check that the one there is the same and may be resumed.

    Raises:
        UsageError: a run is in the way, none is there to resume, or it was started differently.
    """
    path = output / "run.json"
    if not resume:
        if path.exists():
            raise UsageError(
                f"{output} already holds a run: continue it with --resume, or choose another --output (or delete it)."
            )
        write_text(path, json.dumps(description, indent=1))
        return
    if not path.exists():
        raise UsageError(f"There is no run to resume in {output} (no run.json).")
    found = read_run(output)
    if differing := list(_differences(found, description)):
        raise UsageError(
            f"{output} was started differently, so it can't be resumed: {'; '.join(differing[:6])}. Give the same options, "
            "or start a new run."
        )


def read_run(output: str | Path) -> dict:
    """The contents of ``run.json`` in a run folder.

    Raises:
        UsageError: there is none.
        VitsdError: it is damaged.
    """
    path = Path(output) / "run.json"
    if not path.is_file():
        raise UsageError(f"There is no run in {output} (no run.json).")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(run, dict) or not isinstance(
            run.get("origin", {}).get("options", {}), dict
        ):
            raise ValueError("it does not describe a run")
    except (ValueError, AttributeError) as error:
        raise VitsdError(f"{path} is damaged: {error}") from error
    return run


def _differences(found: dict, wanted: dict, prefix: str = ""):
    for key in found.keys() | wanted.keys():
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key} was {_short(a)}, now {_short(b)}"


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + " ..."


def newest_run(root: str | Path = "runs", containing: str = "run.json") -> Path:
    """The run folder under ``root`` that holds a file and was written last.

    Raises:
        UsageError: there is none.
    """
    files = sorted(Path(root).glob(f"*/{containing}"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UsageError(f"There is no run under {root}/ (no {root}/NAME/{containing}).")
    return files[-1].parent
