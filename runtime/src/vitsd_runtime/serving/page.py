"""The page that classifies images in a browser, as files; and the policy that it is served with.

The same files are the page of a server and of an export for the web (``vitsd_export.web``), where
another ``answers.js`` runs the model in the browser itself.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

INDEX = "index.html"
"""The page itself; the others are loaded by it, from ``page/NAME`` beside it."""
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",  # blob: shows the image that was chosen
    "connect-src": "'self'",
    "form-action": "'none'",
    "base-uri": "'none'",
}
"""Content-Security-Policy: nothing but the page's own files, so nothing else can be loaded, run or
sent to, whatever a name of a class may hold."""
CSP = "; ".join(f"{name} {value}" for name, value in POLICY.items()) + "; frame-ancestors 'none'"
"""The same as a header's value; only as such can it forbid frames."""

_FOLDER = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@lru_cache(maxsize=1)
def page_files() -> dict[str, bytes]:
    """All files of the page, by name."""
    return {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir())}


def page_file(name: str) -> tuple[bytes, str] | None:
    """Content and content type of one file; None if there is no such file."""
    content = page_files().get(name)
    return None if content is None else (content, f"{_TYPES[Path(name).suffix]}; charset=utf-8")
