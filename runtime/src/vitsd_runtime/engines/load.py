"""Choose and start the engine for a model."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence

from vitsd_runtime.engines.base import Engine, Model, NotInstalledError, blank_images
from vitsd_runtime.engines.onnx import OnnxEngine
from vitsd_runtime.engines.openvino import OpenVinoBf16Engine, OpenVinoEngine
from vitsd_runtime.engines.saved_model import SavedModelEngine
from vitsd_runtime.engines.tflite import TFLiteEngine
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.types import Backend, Format

_ENGINES: dict[Format, tuple[type[Engine], ...]] = {
    "tflite": (TFLiteEngine,),
    "onnx": (OnnxEngine, OpenVinoEngine, OpenVinoBf16Engine),
    "saved_model": (SavedModelEngine,),
}
"""The first that is installed runs a model of the format, unless one is asked for."""
_TIMED_RUNS = 5


def load_engine(
    model: Model,
    format: Format,
    num_threads: int = 1,
    batch_size: int = 1,
    allow_any_operation: bool = False,
    backend: Backend | None = None,
) -> Engine:
    """Check the structure of a model, and start its engine.

    Args:
        model: path of a file or SavedModel folder, or a file's content.
        format: the model's.
        num_threads: of the engine.
        batch_size: images that :meth:`Engine.run` will usually get at once.
        allow_any_operation: also run models with operations that vitsd-export does not write. What
            they would do to the engine can't be proven, so the model is run in a process of its own
            first.
        backend: the engine; None: the first that is installed.

    Raises:
        UsageError: no engine runs this format, or not this one.
        VitsdError: the model is refused, or its engine is not installed or refuses it.
    """
    _check(model, format, allow_any_operation, backend)
    return start_engine(model, format, num_threads, batch_size, backend)


def start_engine(
    model: Model,
    format: Format,
    num_threads: int = 1,
    batch_size: int = 1,
    backend: Backend | None = None,
) -> Engine:
    """:func:`load_engine` for a model whose structure has been checked."""
    missing: NotInstalledError | None = None
    for engine in _engines(format, backend):
        try:
            return engine(model, num_threads, batch_size)
        except NotInstalledError as error:
            missing = missing or error
    raise missing or UsageError(f"No engine runs {format} models.")


def _engines(format: Format, backend: Backend | None) -> Sequence[type[Engine]]:
    """Those that may run the format, the preferred one first."""
    if format not in _ENGINES:
        raise UsageError(f"No engine runs {format} models; use {', '.join(_ENGINES)}.")
    chosen = [engine for engine in _ENGINES[format] if backend in (None, engine.backend)]
    if not chosen:
        known = ", ".join(engine.backend for engine in _ENGINES[format])
        raise UsageError(f"`backend={backend}` runs no {format} models: use {known}.")
    return chosen


def engine_extra(format: Format) -> str:
    """The runtime's extra that installs the preferred engine of a format."""
    return _ENGINES[format][0].extra


def packages_of(format: Format) -> tuple[str, ...]:
    """Python packages that run a format, the preferred ones first."""
    names = [package for engine in _ENGINES.get(format, ()) for package in engine.packages]
    return tuple(dict.fromkeys(names))


def installed_package(format: Format) -> str | None:
    """The package that runs a format here; None if there is none. Nothing is imported."""
    return next(filter(importlib.util.find_spec, packages_of(format)), None)


def load_fastest_engine(
    model: Model,
    format: Format,
    batch_size: int,
    allow_any_operation: bool = False,
    backend: Backend | None = None,
) -> tuple[Engine, int]:
    """The engine with one thread or with all usable cores, whichever runs this model faster.

    Small models are slower on more threads.

    Returns:
        The engine and its number of threads.

    Raises:
        UsageError, VitsdError: as for :func:`load_engine`.
    """
    _check(model, format, allow_any_operation, backend)
    cores = usable_cores()
    if format == "saved_model":  # TensorFlow's threads are set once per process
        return start_engine(model, format, cores, batch_size, backend), cores
    counts = sorted({1, cores})
    engines = [start_engine(model, format, count, batch_size, backend) for count in counts]
    if len(engines) == 1:
        return engines[0], counts[0]
    times = [_seconds_per_image(engine) for engine in engines]
    fastest = times.index(min(times))
    return engines[fastest], counts[fastest]


def _check(
    model: Model, format: Format, allow_any_operation: bool, backend: Backend | None
) -> None:
    engines = _engines(format, backend)
    from vitsd_runtime.structure.check import check_structure  # 5 ms of import

    unsafe_dtypes = [dtype for engine in engines for dtype in engine.unsafe_dtypes()]
    check_structure(model, format, allow_any_operation, unsafe_dtypes)
    if allow_any_operation and format != "saved_model":
        from vitsd_runtime.engines.probe import try_in_child

        try_in_child(model, format, backend)


def _seconds_per_image(engine: Engine) -> float:
    image = blank_images(engine, 1)
    engine.run(image)
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        engine.run(image)
        times.append(time.perf_counter() - start)
    return min(times)
