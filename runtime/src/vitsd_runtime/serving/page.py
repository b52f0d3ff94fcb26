"""The files of the page, and what it may do."""

from __future__ import annotations

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: nothing from elsewhere."""


def page_file(name: str) -> tuple[bytes, str] | None:
    """Content and content type of a file of the page; None if there is no such file."""
    if name == "index.html":
        return b"<!doctype html><title>vitsd</title>", "text/html; charset=utf-8"
    return None
