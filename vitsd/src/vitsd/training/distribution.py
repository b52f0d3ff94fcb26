"""Processes that train one model together, on JAX: what they share, and how they end.

Keras 3 distributes over JAX alone (``keras.distribution``): every process holds all weights, and
feeds its share of each global batch. All of them draw the same random numbers, so together they
compute what one process would compute.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from vitsd.training.run import MOST_NAMED, differences
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.text import first_line
from vitsd_runtime.types import AnyArray

_Result = TypeVar("_Result")
_FAILURES: dict[int, type[VitsdError]] = {
    error.exit_code: error for error in (VitsdError, UsageError)
}
"""What the first process may tell instead of a content, by its exit code."""
_KERAS = "KERAS_DISTRIBUTION_"
"""Prefix of the environment variables from which Keras takes the processes."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one model together; by default there is one, with one device.

    What is documented to be called by all processes must be called by all, in the same order: each
    call waits for the others. Where these raise an error in all processes, they part before, so
    that the end of the first is no loss to the others.
    """

    index: int = 0
    """Of this process."""
    size: int = 1
    """Number of processes."""
    devices: int = 1
    """Number of devices of all processes, equally many each."""

    @classmethod
    def join(
        cls,
        coordinator: str | None = None,
        num_processes: int | None = None,
        process_id: int | None = None,
    ) -> ProcessGroup:
        """Wait for the other processes, at most five minutes; before Keras is imported.

        What is not given is taken from Keras' environment variables
        (``KERAS_DISTRIBUTION_JOB_ADDRESSES``, ``..._NUM_PROCESSES``, ``..._PROCESS_ID``), or found
        by ``jax.distributed.initialize``: in ``JAX_COORDINATOR_ADDRESS``, from Slurm, Open MPI or
        Kubernetes.

        Args:
            coordinator: ``HOST:PORT`` of the first process, a free port.
            num_processes: of all; 1 needs neither of the others.
            process_id: from 0, of this one; the first writes all files.

        Raises:
            UsageError: JAX is missing, or the processes can't be found.
            VitsdError: they did not come together.
        """
        try:
            import jax
        except ImportError as error:
            raise UsageError('`distribute` needs JAX: pip install "vitsd[jax]".') from error
        # Defaults of newer versions. The second makes random numbers the same on any number of
        # devices.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_threefry_partitionable", True)
        coordinator, num_processes, process_id = _from_environment(
            coordinator, num_processes, process_id
        )
        if process_id is not None and num_processes is not None:
            _check_index(process_id, num_processes)
        if num_processes != 1:
            _initialize(coordinator, num_processes, process_id)
        _Joined.group = cls._connected()
        return _Joined.group

    @classmethod
    def _connected(cls) -> ProcessGroup:
        import jax

        group = cls(jax.process_index(), jax.process_count(), jax.device_count())
        local = {int(count) for count in group._gather(str(jax.local_device_count()).encode())}
        if len(local) > 1:
            group.leave()
            raise UsageError(
                f"The processes have different numbers of devices, {min(local)} to {max(local)}: "
                "give all the same number."
            )
        return group

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files, and says what happens."""
        return self.index == 0

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Distribute the models that are built and trained in this block.

        Raises:
            VitsdError: another process was lost.
        """
        if self.devices == 1:
            yield
            return
        import keras

        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        with parallel.scope(), self._until_one_is_lost():
            yield

    def require_divisible(self, batch_size: int) -> None:
        """Raise UsageError if the devices can't get equal parts of a batch."""
        if batch_size % self.devices:
            raise UsageError(
                f"`batch_size` is that of all {self.devices} devices together, so it must be a "
                f"multiple of {self.devices}; got {batch_size}."
            )

    def padded(self, count: int) -> int:
        """The size of a batch of ``count`` images, filled up so that all devices get as many."""
        return -(-count // self.devices) * self.devices

    def share(self, count: int) -> slice:
        """This process' part of ``count`` images in a row, which may be filled up."""
        own = self.padded(count) // self.size
        return slice(self.index * own, (self.index + 1) * own)

    def together(self, make: Callable[[], _Result]) -> _Result:
        """Do something in every process; if one fails, all raise. To be called by all.

        Raises:
            VitsdError: it failed here, or elsewhere.
        """
        if self.size == 1:
            return make()
        failure: VitsdError | OSError | MemoryError | None = None
        try:
            result = make()
        except (VitsdError, OSError, MemoryError) as error:
            failure = error
        said = self._gather(b"" if failure is None else _said(failure).encode())
        if any(said):
            self.leave()
        if failure is not None:
            raise failure
        for index, text in enumerate(said):
            if text:
                raise VitsdError(f"Process {index} failed: {text.decode()}")
        return result

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """Do something in the first process, and have the result in all. To be called by all.

        Raises:
            VitsdError: what the first process raised.
        """
        if self.size == 1:
            return make()
        failure = 0
        content = b""
        if self.is_first:
            try:
                content = make()
            except VitsdError as error:
                failure, content = error.exit_code, str(error).encode()
        failure, length = map(int, self._broadcast(np.array([failure, len(content)])))
        received = self._broadcast(np.frombuffer(content.ljust(length), np.uint8)).tobytes()
        if failure:
            self.leave()
            raise _FAILURES.get(failure, VitsdError)(received.decode())
        return received

    def value_from_first(self, make: Callable[[], Any]) -> Any:
        """:meth:`from_first` of a value that can be JSON."""
        if self.size == 1:
            return make()
        return json.loads(self.from_first(lambda: json.dumps(make()).encode()))

    def total(self, make: Callable[[], AnyArray]) -> AnyArray:
        """The sum of what ``make`` returns in each process. To be called by all.

        Raises:
            VitsdError: it failed in one of them.
        """
        own = self.together(make)
        parts = [np.frombuffer(part, own.dtype) for part in self._gather(own.tobytes())]
        total: AnyArray = np.sum(parts, axis=0).reshape(own.shape)
        return total

    def require_same(self, description: Mapping[str, Any]) -> None:
        """Compare something with the other processes. To be called by all.

        Args:
            description: can be JSON.

        Raises:
            UsageError: it is another one elsewhere; the message says what differs first.
        """
        first, *others = map(json.loads, self._gather(json.dumps(description).encode()))
        for index, other in enumerate(others, 1):
            if found := list(differences(first, other)):
                self.leave()
                what = "; ".join(f"{key} is {old} in process 0, {new}" for key, old, new in found)
                raise UsageError(
                    f"Process {index} was started differently, or has other files: {what}."
                    if len(found) <= MOST_NAMED
                    else f"Process {index} was started to train something else than process 0."
                )

    def leave(self) -> None:
        """Part from the others: from here on each process is alone. To be called by all.

        Raises:
            VitsdError: another process was lost.
        """
        if self.size > 1:
            import jax

            with self._until_one_is_lost():
                jax.distributed.shutdown()
        _Joined.group = ALONE

    def _gather(self, content: bytes) -> list[bytes]:
        """What each process says, the first first."""
        if self.size == 1:
            return [content]
        from jax.experimental import multihost_utils

        with self._until_one_is_lost():
            lengths = multihost_utils.process_allgather(np.array(len(content)))
            padded = np.frombuffer(content.ljust(int(lengths.max())), np.uint8)
            rows = multihost_utils.process_allgather(padded)
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]

    def _broadcast(self, values: AnyArray) -> AnyArray:
        from jax.experimental import multihost_utils

        with self._until_one_is_lost():
            received: AnyArray = multihost_utils.broadcast_one_to_all(values)
        return received

    @contextlib.contextmanager
    def _until_one_is_lost(self) -> Iterator[None]:
        """JAX notices lost processes when it next waits for them; its errors have many types."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, VitsdError) or self.size == 1:
                raise
            raise VitsdError(
                f"Process {self.index} can't go on with the others ({first_line(error)}). See what "
                "they say, and start all of them again with `resume`."
            ) from error


ALONE = ProcessGroup()
"""One process, with one device."""


class _Joined:
    """JAX' processes are a matter of the whole program, too."""

    group: ClassVar[ProcessGroup] = ALONE


def joined() -> ProcessGroup:
    """The processes that this one has joined, until it leaves them."""
    return _Joined.group


def _from_environment(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> tuple[str | None, int | None, int | None]:
    """What is not given, as Keras' own ``initialize`` finds it."""

    def number(name: str) -> int | None:
        text = os.environ.get(_KERAS + name)
        if text is not None and not text.isdecimal():
            raise UsageError(f"{_KERAS}{name} must be a whole number; got {text!r:.80}.")
        return None if text is None else int(text)

    addresses = os.environ.get(_KERAS + "JOB_ADDRESSES", "").split(",")
    return (
        coordinator or addresses[0] or None,
        number("NUM_PROCESSES") if num_processes is None else num_processes,
        number("PROCESS_ID") if process_id is None else process_id,
    )


def _initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    import jax

    if coordinator is not None and not _is_address(coordinator):
        raise UsageError(f"`coordinator` must be HOST:PORT; got {coordinator!r:.80}.")
    if coordinator is not None and process_id == 0:
        _check_port(int(coordinator.rpartition(":")[2]))
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"The other processes can't be found ({first_line(error)}): give `coordinator`, "
            "`num_processes` and `process_id`, or start them with Slurm, Open MPI or Kubernetes. "
            "For all devices of one machine: `num_processes=1`."
        ) from error
    except RuntimeError as error:
        raise VitsdError(
            f"The {num_processes or ''} processes did not come together: {first_line(error)}"
        ) from error


def _check_index(process_id: int, num_processes: int) -> None:
    if not 0 <= process_id < num_processes:
        raise UsageError(f"`process_id` must be from 0 to {num_processes - 1}; got {process_id}.")


def _check_port(port: int) -> None:
    """Raise VitsdError if the first process can't wait at a port: JAX would end with a crash."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise VitsdError(
            f"The port {port} of `coordinator` can't be used here: "
            f"{os.strerror(error.errno or 0)}. Choose another."
        ) from error


def _said(error: Exception) -> str:
    """A line that is never empty."""
    return first_line(error) or type(error).__name__


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16
