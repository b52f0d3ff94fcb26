"""Versions, also of what is not installed."""

import re

from vitsd_runtime.system.version import version_of


def test_sources_that_are_not_installed_have_a_version_too():
    assert re.match(r"\d+\.\d+", version_of("numpy"))
    assert version_of("no-such-distribution") == "0+source"
