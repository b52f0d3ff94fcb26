"""Other model servers, and their schemas, in an environment of their own: ``make test-servers``."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

_SCRIPT = Path(__file__).with_name("schemas.py")


@pytest.fixture(scope="session")
def servers():
    """The folder of an environment's commands, and a function that reads with its schemas."""
    named = os.environ.get("VITSD_TEST_SERVERS")
    if not named:
        pytest.skip("VITSD_TEST_SERVERS names no environment with other servers")
    binaries = Path(named).absolute() / "bin"
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def read(kind, content):
        command = [binaries / "python", _SCRIPT, kind]
        done = subprocess.run(command, input=content, capture_output=True, env=plain)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return json.loads(done.stdout)

    return SimpleNamespace(binaries=binaries, environment=plain, read=read)


@pytest.fixture(scope="session")
def repositories(trained, tmp_path_factory):
    """Folders with a model exported for Triton and for TensorFlow Serving. Only read them."""
    from vitsd_export import export
    from vitsd_export.layouts import LAYOUTS

    root = tmp_path_factory.mktemp("served")
    for layout in ("triton", "tfserving"):
        format = LAYOUTS[layout].formats[0]
        export(trained / "model.keras", format, output=root / layout, layout=layout)
    return root
