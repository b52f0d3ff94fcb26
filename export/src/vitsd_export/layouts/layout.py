"""What a layout is: where in a folder a model goes, and what lies around it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.types import Format, UInt8Array

MAX_BATCH_SIZE = 32
"""Images that a server puts together: more make no CPU faster."""
BATCH_DELAY_MICROSECONDS = 500
"""That the first of them waits for others."""
LABELS = "labels.txt"


@dataclass(frozen=True)
class Served:
    """A model, as the files around it describe it."""

    name: str
    """That clients ask for; see :func:`served_name`."""
    spec: ModelSpec
    """With its export."""
    golden: UInt8Array
    """``(n, *input_size)``, to warm up with."""
    model: Path | None = None
    """The model, without its spec."""

    @property
    def max_batch_size(self) -> int:
        """1 if other images of a batch would change the answer."""
        export = self.spec.export
        return MAX_BATCH_SIZE if export is None or export.batch_invariant else 1

    @property
    def labels(self) -> bytes:
        """The names of the classes, one a line."""
        return "".join(f"{name}\n" for name in self.spec.class_names).encode()


@dataclass(frozen=True)
class Layout:
    """What a server wants to find. To add one: a module like those here, and its row."""

    name: str
    help: str
    """A few words for help texts."""
    formats: tuple[Format, ...]
    """That the server runs, the usual one first."""
    model_path: Callable[[str, Format], str]
    """From the name and the format to where the model goes, in the model's folder."""
    files: Callable[[Served, Format], Mapping[str, bytes]]
    """Everything else, by its path in the folder."""
    kept: tuple[str, ...]
    """How the paths in the folder begin, ``{}`` stands for the name: with others in it, it is not
    all ours."""
    firmware: bool = False
    """Whether it is for microcontrollers, with the preprocessing beside the model; servers have it
    in the model's graph."""

    def owns(self, folder: Path) -> bool:
        """Whether all files in a folder may have been written here."""
        beginnings = tuple(beginning.format(folder.name) for beginning in self.kept)
        paths = [
            os.path.relpath(os.path.join(parent, name), folder)
            for parent, _, names in os.walk(folder)
            for name in names
        ]
        return not self._marks(folder.name).isdisjoint(paths) and all(
            path.replace(os.sep, "/").startswith(beginnings) for path in paths
        )

    def _marks(self, name: str) -> set[str]:
        """Paths of models, one of which is in a folder of ours."""
        places = {format: Path(self.model_path(name, format)) for format in self.formats}
        return {
            str(place / "1/saved_model.pb" if format == "saved_model" else place)
            for format, place in places.items()
        }


def served_name(name: str) -> str:
    """A model's name as it may stand in addresses, paths and configurations."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"
