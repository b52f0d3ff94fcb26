"""Folders with a page that runs a model in the browser, without a server."""

from vitsd_export.web.folder import WEB_MODEL, write_web_folder
from vitsd_export.web.litert_js import LiteRtJs, find_litert_js

__all__ = ["WEB_MODEL", "LiteRtJs", "find_litert_js", "write_web_folder"]
