"""The Open Inference Protocol."""

from __future__ import annotations

from typing import Any


class Inference:
    def __init__(self, *a: Any) -> None: ...
    def routes(self) -> list[Any]:
        return []
