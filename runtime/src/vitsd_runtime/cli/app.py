"""What every vitsd command does: parse, log, catch errors, exit."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional, TextIO

from vitsd_runtime.cli.options import flag_of
from vitsd_runtime.errors import VitsdError
from vitsd_runtime.system.signals import catch_signals, check_interrupted
from vitsd_runtime.system.stderr import own_stderr
from vitsd_runtime.system.streams import drop_unwritable_messages, open_missing_streams
from vitsd_runtime.system.text import DEBUG, printable, unforeseen
from vitsd_runtime.system.version import version_of

if TYPE_CHECKING:
    _TextHandler = logging.StreamHandler[TextIO]
else:  # before Python 3.11 the class takes no parameter
    _TextHandler = logging.StreamHandler

_LOGGERS = ("vitsd_runtime", "vitsd", "vitsd_export")
_MAX_LINE = 10_000
"""Characters; messages that list names may be long."""

_PARAMETER = re.compile(r"`(?P<name>\w+)(=(?P<value>[^`]*))?`")
"""In a library's message: a parameter, maybe with a value."""

Main = Callable[[argparse.Namespace], Optional[int]]


def run(
    main: Main,
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    distribution: str,
    renamed: Mapping[str, str] | None = None,
) -> int:
    """Parse, run, and turn errors into a message on stderr and an exit code.

    Args:
        main: does the work; returns an exit code, None is 0.
        parser: of the command.
        argv: words of the command line; None: those of the process.
        distribution: whose version ``--version`` prints.
        renamed: options that have another name now, by their old one: they still work.

    Returns:
        0 success, 1 failure, 2 misuse, 130 interrupted by Ctrl-C, 141 nobody reads the output. No
        traceback, unless the environment has VITSD_DEBUG.

    Raises:
        SystemExit: after --help, --version and misuse; with 129 and 143 after SIGHUP and SIGTERM.
    """
    open_missing_streams()
    drop_unwritable_messages()
    parser.add_argument("--version", action=_Version, distribution=distribution)
    catch_signals()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names need not be valid text
            stream.reconfigure(errors="backslashreplace")
    arguments = argparse.Namespace()
    try:
        arguments = _parse(parser, sys.argv[1:] if argv is None else argv, renamed or {})
        with (
            warnings.catch_warnings(),
            _without_current_folder(),
            own_stderr(),
            _logging(_progress_stream(arguments), arguments),
        ):
            # Pillow warns of what does not matter, with a file's own words in it.
            warnings.filterwarnings("ignore", module="PIL")
            code = main(arguments) or 0
        if code == 0:
            check_interrupted()
        sys.stdout.flush()  # here, where a full disk or a closed pipe is still handled
        return code
    except SystemExit:  # --help, --version, misuse, a signal
        try:
            sys.stdout.flush()
        except OSError as error:
            return _fail(parser.prog, error, arguments)
        raise
    except (KeyboardInterrupt, Exception) as error:
        return _fail(parser.prog, error, arguments)


@contextlib.contextmanager
def _without_current_folder() -> Iterator[None]:
    """Import nothing from the current folder: one of photos is no place for programs.

    ``python -m`` and ``python -c`` put it before all others, and engines are imported late.
    """
    module = getattr(sys.modules["__main__"], "__spec__", None)
    ours = module is not None and module.name.split(".")[0] in _LOGGERS
    try:
        here = ["", os.getcwd()] if ours else [""]
    except OSError:  # it was removed
        here = [""]
    removed = [path for path in sys.path[:1] if path in here]
    del sys.path[: len(removed)]
    try:
        yield
    finally:
        sys.path[:0] = removed


def _parse(
    parser: argparse.ArgumentParser, words: Sequence[str], renamed: Mapping[str, str]
) -> argparse.Namespace:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # argparse repeats words as they are
            words = _with_new_names(words, renamed, parser.prog)
            # Options may stand between a model and its images.
            return parser.parse_intermixed_args(words)
    finally:
        _say(said.getvalue())


def _progress_stream(arguments: argparse.Namespace) -> TextIO:
    """Where progress is shown: not in what another program reads."""
    for_programs = getattr(arguments, "json", False) or getattr(arguments, "csv", False)
    return sys.stderr if for_programs else sys.stdout


def _fail(command: str, error: BaseException, arguments: argparse.Namespace) -> int:
    """Say what happened on stderr; returns the exit code."""
    _flush_or_drop(sys.stdout)
    if isinstance(error, BrokenPipeError):  # `vitsd-predict ... | head`
        return 128 + getattr(signal, "SIGPIPE", 13)
    if os.environ.get(DEBUG):
        _say("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    message, code = _explain(error)
    _say(f"{command}: error: {with_flags(message, arguments)}\n")
    return code


def _say(text: str) -> None:
    """Write to stderr, safe to show."""
    sys.stderr.write(_visible(text))


def _visible(text: str) -> str:
    """The text's lines, with control characters as escapes."""
    return "\n".join(printable(line, _MAX_LINE) for line in text.split("\n"))


def with_flags(message: str, arguments: argparse.Namespace) -> str:
    """A library's message with ``--max-drop`` where it says ```max_drop```."""

    def flag(found: re.Match[str]) -> str:
        if found["name"] not in vars(arguments):
            return found[0]
        value = f" {found['value']}" if found["value"] else ""
        return f"{flag_of(found['name'])}{value}"

    return _PARAMETER.sub(flag, message)


def _explain(error: BaseException) -> tuple[str, int]:
    if isinstance(error, VitsdError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, OSError):
        return _explain_os_error(error), 1
    if isinstance(error, MemoryError):
        return "out of memory; try fewer or smaller images at once", 1
    return unforeseen(error), 1


class _Version(argparse.Action):
    """Print the version of a distribution; it is looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, distribution: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")
        self._distribution = distribution

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        print(self._distribution.replace("-", "_"), version_of(self._distribution))
        parser.exit()


def _with_new_names(words: Sequence[str], renamed: Mapping[str, str], command: str) -> list[str]:
    """The words of a command line, with options under their new names.

    What follows ``--`` is no option. argparse forgets that where options and other words are mixed,
    so names that begin with ``-`` get a ``./``.
    """
    end = words.index("--") if "--" in words else len(words)
    result: list[str] = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        if name in renamed:
            new = renamed[name]
            print(f"{command}: note: {name} is called {new} now", file=sys.stderr)
            word = f"{new}{equals}{value}"
        result.append(word)
    names = words[end + 1 :]
    return result + [f"./{n}" if n.startswith("-") and n != "-" else n for n in names]


class _Handler(_TextHandler):
    """Lets a closed pipe or a full disk end the command, as it does for what is printed."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text, safe to show."""
        return _visible(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Called in the handler of the exception."""
        if isinstance(sys.exc_info()[1], OSError):
            raise
        super().handleError(record)


class _Warning(logging.Formatter):
    """A library's warning, with the command's names of its parameters."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__("warning: %(message)s")
        self._arguments = arguments

    def format(self, record: logging.LogRecord) -> str:
        """The warning as the command shows it."""
        return with_flags(super().format(record), self._arguments)


@contextlib.contextmanager
def _logging(stream: TextIO, arguments: argparse.Namespace) -> Iterator[None]:
    """Show what the libraries log: progress on ``stream``, warnings on stderr."""
    progress = _Handler(stream)
    progress.addFilter(lambda record: record.levelno < logging.WARNING)
    warnings = _Handler(sys.stderr)
    warnings.setLevel(logging.WARNING)
    warnings.setFormatter(_Warning(arguments))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.propagate = False  # TensorFlow adds a handler to the root: all would show twice
        logger.addHandler(progress)
        logger.addHandler(warnings)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
            logger.propagate = True
            logger.removeHandler(progress)
            logger.removeHandler(warnings)


def _flush_or_drop(stream: TextIO) -> None:
    """Write what is buffered, or discard it: Python would fail again when flushing at exit."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _explain_os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return (
            f"the disk is full{where}; nothing was left half-written. Free some space and run it "
            "again."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for{where}: change its permissions, or choose another place."
    return f"{error.strerror or error}{where}"
