"""The emulated machine, with a Python environment for each engine."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.arm64.artifacts import TESTS_NEED, Engine
from tools.arm64.emulation import Guest
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.files import remove
from vitsd_runtime.system.signals import check_interrupted
from vitsd_runtime.types import PathLike

_PIP_INSTALL = ("install", "--quiet", "--no-compile", "--no-index")


class Device:
    """A guest that sees a folder of this machine as /work.

    Args:
        root: the root file system; environments are kept in it.
        work: the folder.
    """

    def __init__(self, root: Path, work: Path) -> None:
        self._guest = Guest(root, {"/work": work})

    def run(
        self,
        cpu: str,
        command: Sequence[PathLike],
        *,
        folder: str = "/work",
        environment: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as :meth:`Guest.run` does."""
        check_interrupted()
        return self._guest.run(
            command, cpu=cpu, folder=folder, environment=environment, timeout=timeout
        )

    def python(
        self,
        engine: Engine,
        cpu: str,
        *words: PathLike,
        folder: str = "/work",
        environment: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run the Python of an engine's environment."""
        command = [f"{_home(engine)}/bin/python", *words]
        return self.run(cpu, command, folder=folder, environment=environment, timeout=timeout)

    def has_environment(self, engine: Engine, wheels: Path) -> bool:
        """Whether the engine's environment is there, and made of these wheels."""
        mark = self._mark(engine)
        return mark.exists() and mark.read_text() == wheels.name

    def make_environment(self, engine: Engine, wheels: Path) -> None:
        """Make the engine's environment anew.

        Raises:
            VitsdError: it failed.
        """
        mark = self._mark(engine)
        remove(mark.parent)
        self._must(self._guest, ["python3", "-m", "venv", _home(engine)])
        with_wheels = dataclasses.replace(
            self._guest, binds={**self._guest.binds, "/wheels": wheels}
        )
        pip = [f"{_home(engine)}/bin/pip", *_PIP_INSTALL]
        requirements = [*engine.requirements, *TESTS_NEED]
        self._must(with_wheels, [*pip, "--find-links", "/wheels", *requirements])
        mark.write_text(wheels.name)

    def install(self, engine: Engine, wheel: Path) -> None:
        """Install a wheel from the folder /work into the engine's environment.

        Raises:
            VitsdError: it failed.
        """
        pip = [f"{_home(engine)}/bin/pip", *_PIP_INSTALL, "--no-deps", "--force-reinstall"]
        self._must(self._guest, [*pip, f"/work/{wheel.name}"])

    def _mark(self, engine: Engine) -> Path:
        """A file that says what the environment is made of."""
        return self._guest.root / _home(engine).lstrip("/") / "made-of"

    def _must(self, guest: Guest, command: Sequence[str]) -> None:
        check_interrupted()
        done = guest.run(command)
        if done.returncode:
            output = (done.stdout + done.stderr).strip()[-1000:]
            raise VitsdError(f"{' '.join(command)} failed on arm64: {output}")


def _home(engine: Engine) -> str:
    return f"/opt/vitsd/{engine.name}"
