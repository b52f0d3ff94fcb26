"""Metadata of the toolkit: it has no files, but needs the three distributions beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # hatchling needs it too


class ToolkitMetadata(MetadataHookInterface):
    """The distributions of this checkout as requirements, under all the extras that they have."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in version, dependencies and extras."""
        extras: dict[str, list[str]] = {}
        dependencies = []
        for folder in ("runtime", "vitsd", "export"):
            path = Path(self.root, folder)
            project = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))[
                "project"
            ]
            metadata["version"] = project["version"]
            dependencies.append(f"{project['name']} @ {path.as_uri()}")
            for extra in project.get("optional-dependencies", {}):
                requirement = f"{project['name']}[{extra}] @ {path.as_uri()}"
                extras.setdefault(extra, []).append(requirement)
        metadata["dependencies"] = dependencies
        metadata["optional-dependencies"] = extras
