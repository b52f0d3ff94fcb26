"""Choose and start the engine for a model."""

from __future__ import annotations

import time

import numpy as np

from vitsd_runtime.engines.base import Engine, Model, NotInstalledError
from vitsd_runtime.engines.onnx import OnnxEngine
from vitsd_runtime.engines.saved_model import SavedModelEngine
from vitsd_runtime.engines.tflite import TFLiteEngine
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.cores import usable_cores
from vitsd_runtime.types import Format

_ENGINES: dict[Format, tuple[type[Engine], ...]] = {
    "tflite": (TFLiteEngine,),
    "onnx": (OnnxEngine,),
    "saved_model": (SavedModelEngine,),
}
"""The first that is installed runs a model of the format."""
_TIMED_RUNS = 5


def load_engine(model: Model, format: Format, num_threads: int = 1, batch_size: int = 1) -> Engine:
    """Start the engine for a model.

    Args:
        model: path of a file or SavedModel folder, or a file's content.
        format: the model's.
        num_threads: of the engine.
        batch_size: images that :meth:`Engine.run` will usually get at once.

    Raises:
        UsageError: no engine runs this format.
        VitsdError: the engine is not installed, or refuses the model.
    """
    if format not in _ENGINES:
        raise UsageError(f"No engine runs {format} models; use {', '.join(_ENGINES)}.")
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


def load_fastest_engine(model: Model, format: Format, batch_size: int) -> tuple[Engine, int]:
    """The engine with one thread or with all usable cores, whichever runs this model faster.

    Small models are slower on more threads.

    Returns:
        The engine and its number of threads.

    Raises:
        UsageError, VitsdError: as for :func:`load_engine`.
    """
    cores = usable_cores()
    if format == "saved_model":  # TensorFlow's threads are set once per process
        return load_engine(model, format, cores, batch_size), cores
    counts = sorted({1, cores})
    engines = [load_engine(model, format, count, batch_size) for count in counts]
    if len(engines) == 1:
        return engines[0], counts[0]
    times = [_seconds_per_image(engine) for engine in engines]
    fastest = times.index(min(times))
    return engines[fastest], counts[fastest]


def _seconds_per_image(engine: Engine) -> float:
    dtype = np.uint8 if engine.input_dtype == np.uint8 else np.float32
    image = np.zeros((1, *engine.input_shape), dtype)
    engine.run(image)
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        engine.run(image)
        times.append(time.perf_counter() - start)
    return min(times)
