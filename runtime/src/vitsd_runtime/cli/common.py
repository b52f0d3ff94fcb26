"""What all command-line tools share: exit codes, error messages, tables."""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from vitsd_runtime.errors import UsageError, VitsdError

T = TypeVar("T")
_received: list[int] = []
"""Signals that this process was sent."""
_stderr_lock = threading.RLock()


def run(
    main: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser, argv=None
) -> int:
    """Parse, run, and turn errors into a message on stderr and an exit code; adds ``--version``.

    0 success, 1 failure, 2 misuse, 130 interrupted by Ctrl-C. No traceback for errors that a person can act on.
    """
    # By its globals, because its module is called __main__ under `python -m`.
    package = (main.__globals__["__package__"] or "").partition(".")[0]
    if version := getattr(sys.modules.get(package), "__version__", None):
        parser.add_argument("--version", action="version", version=f"{package} {version}")
    arguments = parser.parse_intermixed_args(
        argv
    )  # options may stand between a model and its images
    _catch_signals()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names need not be valid text
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main(arguments) or 0
        if code == 0:
            check_interrupted()
        sys.stdout.flush()  # here, where a full disk or a closed pipe is still handled
        return code
    except VitsdError as error:
        return _fail(parser, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(parser, "interrupted", 130)
    except BrokenPipeError:  # `vitsd-predict ... | head`
        _drop_unwritten_output()
        return 128 + getattr(signal, "SIGPIPE", 13)
    except MemoryError:
        return _fail(parser, "out of memory; try fewer or smaller images at once", 1)
    except OSError as error:
        _drop_unwritten_output()
        return _fail(parser, _explain_os_error(error), 1)


def _fail(parser, message: str, code: int) -> int:
    print(f"{parser.prog}: error: {message}", file=sys.stderr)
    return code


def check_interrupted() -> None:
    """Raise again what Ctrl-C or a signal to end has raised already.

    An exception that a signal raises can come up inside a callback of native code, which drops it. Long work asks here
    between its steps.
    """
    if _received:
        raise (
            KeyboardInterrupt if _received[-1] == signal.SIGINT else SystemExit(128 + _received[-1])
        )


def _catch_signals() -> None:
    """Leave through `finally` when ended from outside, so that nothing half-written stays."""
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        return

    def on_signal(number, frame):
        _received.append(number)
        check_interrupted()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if (
            number is not None and signal.getsignal(number) is not signal.SIG_IGN
        ):  # nohup, or a job in the background
            signal.signal(number, on_signal)


def _drop_unwritten_output() -> None:
    """What stdout still holds can't be written; the interpreter would try once more at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain_os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; nothing was left half-written. Free some space and run it again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for{where}: change its permissions, or choose another place."
    return f"{error.strerror or error}{where}"


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A plain table; columns of numbers are right-aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    numeric = [
        bool(cells) and all(_looks_numeric(row[i]) for row in cells) for i in range(len(headers))
    ]

    def line(row):
        return "  ".join(
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric)
        ).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *map(line, cells)])


def distinct_names(paths: Iterable[str | os.PathLike]) -> list[str]:
    """File names for a table; where several are equal, with as many of their folders as tell them apart."""
    parts = [Path(path).resolve().parts for path in paths]
    longest = max(map(len, parts), default=0)
    for length in range(1, longest + 1):
        names = [str(Path(*own[-length:])) for own in parts]
        if len(set(names)) == len(set(parts)):
            break
    plain = collections.Counter(own[-1] for own in parts)
    return [own[-1] if plain[own[-1]] == 1 else name for own, name in zip(parts, names)]


def _looks_numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "+-" or cell in ("", "n/a")


def positive_int(text: str) -> int:
    """An argparse type."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1; got {text!r}")
    return number


def positive_float(text: str) -> float:
    """An argparse type."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {text!r}")
    return number


def positive_ints(text: str) -> list[int]:
    """An argparse type: ``1,2,4``."""
    return [positive_int(part) for part in text.split(",")]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options of every tool that loads an exported model."""
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="engine threads (default: measured)"
    )
    parser.add_argument("--spec", metavar="FILE", help="JSON spec for a model that carries none")
    parser.add_argument("--no-verify", action="store_true", help="do not check the model's SHA-256")


def read_spec_option(path: str | None):
    """The value of ``--spec``."""
    if path is None:
        return None
    from vitsd_runtime.spec import ModelSpec

    try:
        with open(path, encoding="utf-8") as file:
            return ModelSpec.from_json(file.read())
    except OSError as error:
        raise UsageError(f"The spec {path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"The spec {path} is not a text file.") from error


def progress(items: Iterable[T], label: str) -> Iterator[T]:
    """Pass the items on; on a terminal, show on stderr how many are done and the time left."""
    items = list(items)
    start = shown = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and sys.stderr.isatty() and now - shown > 0.2:
            shown = now
            left = (now - start) / done * (len(items) - done)
            print(
                f"\r{label}: {100 * done // len(items)} %, {left:.0f} s left ",
                end="",
                file=sys.stderr,
                flush=True,
            )
        yield item
    if shown > start:
        print(f"\r{' ' * (len(label) + 24)}\r", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet_stderr():
    """Hold back what native libraries print to stderr; it is shown if an error leaves the block.

    TensorFlow logs to the file descriptor while it is imported, before any of its settings takes effect. The descriptor
    belongs to the process, so threads take turns.
    """
    with _stderr_lock, tempfile.TemporaryFile() as held:
        try:
            saved = os.dup(2)
        except OSError:  # there is no stderr
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(saved, held.read()[-20_000:])
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
