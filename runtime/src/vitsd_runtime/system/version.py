"""Versions of installed distributions."""

from __future__ import annotations


def version_of(distribution: str) -> str:
    """Its version; ``0+source`` where the sources run without being installed."""
    from importlib import metadata  # 17 ms

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0+source"
