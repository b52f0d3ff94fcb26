"""Run folders: where training leaves its files, and whether a run may be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitsd.data.sources import BUILT_IN
from vitsd.hub.saving import MODEL_FILE, model_name
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.spec import MAX_SIDE, ModelSpec
from vitsd_runtime.system.files import write_text
from vitsd_runtime.system.json_files import read_json
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import RESIZE_MODES, PathLike
from vitsd_runtime.validation import Option

RUN_FILE = "run.json"
MOST_NAMED = 6
"""Differences that an error names."""
_IN_RESULTS = {"model", "epoch", "top1", "top5", "per_class"}
_MAX_BYTES = 8 * 2**20
"""Of ``run.json`` and ``results.json``."""
_OPTIONS = {
    **{name: Option("what is trained", str) for name in ("data", "preset", "pretrained")},
    "freeze_backbone": Option("with `pretrained`", bool),
    "input_size": Option("side of images", int, at_least=1, at_most=MAX_SIDE),
    "resize_mode": Option("how they become so large", str, choices=RESIZE_MODES),
}
"""Options of ``vitsd-train`` beside the recipe and the architecture."""


class RunFolder:
    """Where a training run leaves its files.

    Args:
        path: of the folder; it is made when the run starts.
        name: of the model, for the names of exported files; by default the folder's.
    """

    def __init__(self, path: PathLike, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = model_name(name or self.path.resolve().name)
        self.run_file = self.path / RUN_FILE
        """What is trained, on what, how."""
        self.metrics = self.path / "metrics.csv"
        """One row per epoch, see :mod:`vitsd.training.history`."""
        self.checkpoint = self.path / "last.npz"
        """Weights and optimizer state after the last whole epoch, for resuming."""
        self.best = self.path / "best.npz"
        """Weights of the best epoch, see :class:`vitsd.training.callbacks.BestWeights`."""
        self.model = self.path / MODEL_FILE
        self.results = self.path / "results.json"
        """What :func:`vitsd.train` returns."""
        self.curves = self.path / "curves.png"
        self.confusion = self.path / "confusion.png"
        self.tensorboard = self.path / "tensorboard"

    def __str__(self) -> str:
        return printable(self.path)

    @property
    def is_finished(self) -> bool:
        """Whether there are a model and its results."""
        return self.results.exists() and self.model.exists()

    @property
    def last_written(self) -> float:
        """When training last wrote one of its files, in seconds since the epoch; 0: never."""
        files = (self.run_file, self.metrics, self.checkpoint, self.best, self.model, self.results)
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)

    def start(self, description: Mapping[str, Any]) -> None:
        """Make the folder, and write what is going to be trained.

        Raises:
            UsageError: the folder already holds a run.
        """
        self.require_new()
        write_text(self.run_file, json.dumps(description, indent=1))

    def resume(self, description: Mapping[str, Any]) -> None:
        """Check that the run in the folder is the one that ``description`` describes.

        Raises:
            UsageError: there is no run to resume, or it was started differently.
            VitsdError: its description is damaged.
        """
        stored = self.read()
        data = stored.get("data")
        if isinstance(data, dict) and "content" not in data:
            # It was started when only numbers and statistics were compared.
            now = {name: value for name, value in description["data"].items() if name != "content"}
            description = {**description, "data": now}
        if "teacher" not in stored:  # as above, or it has none; then its recipe differs
            description = {n: value for n, value in description.items() if n != "teacher"}
        self.require_same(stored, description)

    def require_new(self) -> None:
        """Raise UsageError if the folder already holds a run."""
        if self.run_file.exists():
            raise UsageError(
                f"{self} already holds a run: continue it with `resume`, or choose another "
                "`output` (or delete it)."
            )

    def require_same(self, stored: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
        """Raise UsageError if a run was started with other options than are requested now."""
        if found := list(differences(stored, requested))[:MOST_NAMED]:
            differing = "; ".join(f"{name} was {old}, now {new}" for name, old, new in found)
            raise UsageError(
                f"{self} was started differently, so it can't be resumed: {differing}. Leave the "
                "options out when resuming (they are remembered), or start a new run."
            )

    def read(self) -> dict[str, Any]:
        """What is trained: the contents of ``run.json``.

        Raises:
            UsageError: there is no run.
            VitsdError: its description is damaged.
        """
        if not self.run_file.is_file():
            raise UsageError(f"There is no run in {self} (no {RUN_FILE}).")
        run: dict[str, Any] = _read_object(self.run_file, "the description of a run")
        try:
            _check_options(_options(run))
        except (UsageError, AttributeError) as error:
            raise VitsdError(
                f"{printable(self.run_file)} is damaged: {first_line(error)}"
            ) from error
        if "fit" in run:  # resize_mode since then
            raise UsageError(
                f"{self} was started by vitsd 0.1.0, whose runs can't be resumed: start a new run."
            )
        return run

    def read_options(self) -> dict[str, Any]:
        """The options that ``vitsd-train`` was started with; raises as :meth:`read`."""
        options: dict[str, Any] = _options(self.read())
        return options

    def read_source(self) -> Any:
        """Where the images are that are trained on; raises as :meth:`read`."""
        return self.read().get("origin", {}).get("source")

    def read_results(self) -> dict[str, Any]:
        """The results of a finished run.

        Raises:
            VitsdError: they are damaged.
        """
        results = _read_object(self.results, "the results of a run")
        if _IN_RESULTS - results.keys():
            raise VitsdError(f"{printable(self.results)} is not the results of a run.")
        return results


def newest_run(root: PathLike = "runs", containing: str = RUN_FILE) -> Path:
    """The run folder under ``root`` that training wrote to last.

    Args:
        root: a folder of run folders.
        containing: a file that the run folder must hold; ``model.keras`` finds finished runs.

    Raises:
        UsageError: there is none.
    """
    folders = [RunFolder(file.parent) for file in Path(root).glob(f"*/{containing}")]
    if not folders:
        raise UsageError(
            f"There is no run under {printable(root)}/ (none of its folders holds {containing}): "
            "train one, or name it."
        )
    return max(folders, key=lambda folder: folder.last_written).path


def recorded_source(model: Path, spec: ModelSpec) -> str | None:
    """Where the images are that a model was trained on; None if this machine can't know.

    A model file may come from anyone, and name any path as its source. So that is believed only
    where a built-in dataset is named, or where the run that the file lies in names the same one.

    Args:
        model: its file.
        spec: of the model.

    Raises:
        VitsdError: the run's description is damaged.
    """
    source = spec.provenance.source
    if source in BUILT_IN:
        return source
    folder = RunFolder(model.parent)
    if not source or not folder.run_file.is_file():
        return None
    return source if folder.read_source() == source else None


def _read_object(path: Path, what: str) -> dict[str, Any]:
    values = read_json(path, what, _MAX_BYTES, VitsdError)
    if not isinstance(values, dict):
        raise VitsdError(f"{printable(path)} is not {what}.")
    return values


def _check_options(options: Any) -> None:
    """Raise UsageError for options that ``vitsd-train`` did not write.

    Those of the recipe and the architecture are checked by these.
    """
    if not isinstance(options, dict):
        raise UsageError("its options are no object")
    for name, declared in _OPTIONS.items():
        if name in options:
            declared.check(name, options[name])


def _options(run: Mapping[str, Any]) -> Any:
    return run.get("origin", {}).get("options", {})


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Where two descriptions differ: the name, and what each has there; short, safe to show."""
    for key in sorted(first.keys() | second.keys()):
        old, new = first.get(key), second.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield printable(prefix + key, 80), _short(old), _short(new)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + " ..."
