"""A real Chromium, and hosts for pages. Whatever a test does: no policy violated, nothing foreign.

Skipped where Playwright or Chromium is missing; tests of web exports also where npm can't fetch.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

NPM = {"@litertjs/core": "2.5.3", "axe-core": "4.14.1"}
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Plain tracebacks: while Playwright's greenlets live, CPython 3.11 can't parse sources."""
    option = item.config.option
    style, option.tbstyle = option.tbstyle, "native"
    try:
        return (yield)
    finally:
        option.tbstyle = style


@pytest.fixture(scope="session")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or pytest.skip("needs chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """A function that opens an address in a browser of its own, with the options of a context."""
    contexts, complaints, requests, homes = [], [], [], []

    def open_(url: str, **options):
        context = chromium.new_context(**options)
        contexts.append(context)
        homes.append(url)
        context.on("request", lambda request: requests.append(request.url))
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on(
            "console",
            lambda message: (
                complaints.append(message.text)
                if "Content Security Policy" in message.text
                else None
            ),
        )
        page = context.new_page()
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
    own = (*homes, *(f"blob:{home}" for home in homes))
    assert [url for url in requests if not url.startswith(own)] == []


@pytest.fixture
def host():
    """A function that serves a folder, or what a handler answers; returns address and server."""
    with contextlib.ExitStack() as stack:

        def serve(place):
            handler = place
            if isinstance(place, Path):
                handler = functools.partial(_Quiet, directory=str(place))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/", server

        yield serve


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="session")
def npm_package(request):
    """A function that fetches a package once for all runs; returns the path of its archive."""

    def fetch(name: str) -> Path:
        folder = request.config.cache.mkdir("npm")
        archive = folder / f"{name.strip('@').replace('/', '-')}-{NPM[name]}.tgz"
        if not archive.exists():
            npm = shutil.which("npm") or pytest.skip("needs npm")
            command = [npm, "pack", "--silent", f"{name}@{NPM[name]}"]
            if subprocess.run(command, cwd=folder, capture_output=True).returncode:
                pytest.skip(f"npm can't fetch {name}")
        return archive

    return fetch
