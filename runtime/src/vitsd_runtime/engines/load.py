"""Choose and start the engine for a model."""

from __future__ import annotations

import importlib.util
import time

from vitsd_runtime.engines.base import Engine, Model, NotInstalledError, blank_images
from vitsd_runtime.engines.onnx import OnnxEngine
from vitsd_runtime.engines.openvino import OpenVinoEngine
from vitsd_runtime.engines.saved_model import SavedModelEngine
from vitsd_runtime.engines.tflite import TFLiteEngine
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.types import Format

_ENGINES: dict[Format, tuple[type[Engine], ...]] = {
    "tflite": (TFLiteEngine,),
    "onnx": (OnnxEngine, OpenVinoEngine),
    "saved_model": (SavedModelEngine,),
}
"""The first that is installed runs a model of the format."""
_TIMED_RUNS = 5


def load_engine(
    model: Model,
    format: Format,
    num_threads: int = 1,
    batch_size: int = 1,
    allow_any_operation: bool = False,
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

    Raises:
        UsageError: no engine runs this format.
        VitsdError: the model is refused, or its engine is not installed or refuses it.
    """
    _check(model, format, allow_any_operation)
    return start_engine(model, format, num_threads, batch_size)


def start_engine(model: Model, format: Format, num_threads: int = 1, batch_size: int = 1) -> Engine:
    """:func:`load_engine` for a model whose structure has been checked."""
    missing: NotInstalledError | None = None
    for engine in _ENGINES[format]:
        try:
            return engine(model, num_threads, batch_size)
        except NotInstalledError as error:
            missing = missing or error
    raise missing or UsageError(f"No engine runs {format} models.")


def engine_extra(format: Format) -> str:
    """The runtime's extra that installs the preferred engine of a format."""
    return _ENGINES[format][0].extra


def packages_of(format: Format) -> tuple[str, ...]:
    """Python packages that run a format, the preferred ones first."""
    return tuple(package for engine in _ENGINES.get(format, ()) for package in engine.packages)


def installed_package(format: Format) -> str | None:
    """The package that runs a format here; None if there is none. Nothing is imported."""
    return next(filter(importlib.util.find_spec, packages_of(format)), None)


def load_fastest_engine(
    model: Model, format: Format, batch_size: int, allow_any_operation: bool = False
) -> tuple[Engine, int]:
    """The engine with one thread or with all usable cores, whichever runs this model faster.

    Small models are slower on more threads.

    Returns:
        The engine and its number of threads.

    Raises:
        UsageError, VitsdError: as for :func:`load_engine`.
    """
    _check(model, format, allow_any_operation)
    cores = usable_cores()
    if format == "saved_model":  # TensorFlow's threads are set once per process
        return start_engine(model, format, cores, batch_size), cores
    counts = sorted({1, cores})
    engines = [start_engine(model, format, count, batch_size) for count in counts]
    if len(engines) == 1:
        return engines[0], counts[0]
    times = [_seconds_per_image(engine) for engine in engines]
    fastest = times.index(min(times))
    return engines[fastest], counts[fastest]


def _check(model: Model, format: Format, allow_any_operation: bool) -> None:
    if format not in _ENGINES:
        raise UsageError(f"No engine runs {format} models; use {', '.join(_ENGINES)}.")
    from vitsd_runtime.structure.check import check_structure  # 5 ms of import

    unsafe_dtypes = [dtype for engine in _ENGINES[format] for dtype in engine.unsafe_dtypes()]
    check_structure(model, format, allow_any_operation, unsafe_dtypes)
    if allow_any_operation and format != "saved_model":
        from vitsd_runtime.engines.probe import try_in_child

        try_in_child(model, format)


def _seconds_per_image(engine: Engine) -> float:
    image = blank_images(engine, 1)
    engine.run(image)
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        engine.run(image)
        times.append(time.perf_counter() - start)
    return min(times)
