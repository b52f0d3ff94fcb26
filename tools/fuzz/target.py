"""What one input goes through, and what may come of it. Runs on Python 3.9 beside any engine."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vitsd_runtime.errors import VitsdError
from vitsd_runtime.types import ResizeMode

MODULES = {
    "runtime": (
        "vitsd_runtime.classifier",
        "vitsd_runtime.images.loading",
        "vitsd_runtime.cli.bench",
        "ai_edge_litert.interpreter",
        "tflite_runtime.interpreter",
        "onnxruntime",
        "PIL.Image",
    ),
    "data": (
        "vitsd.data.sources",
        "vitsd.training.run",
        "vitsd_export.quantization.recipe",
        "vitsd_runtime.cli.bench",
    ),
    "keras": ("vitsd.backend", "vitsd.model.vit", "vitsd.hub.saving"),
    "serving": (
        "vitsd_runtime.serving.server",
        "ai_edge_litert.interpreter",
        "tflite_runtime.interpreter",
        "PIL.Image",
    ),
}
"""What is imported once, before inputs are tried in forked processes: no more than they need."""


def group(kind: str, suffix: str) -> str:
    """Of the modules that an input needs."""
    if suffix == ".keras":
        return "keras"
    if kind == "http":
        return "serving"
    return "data" if kind in ("npz", "json") else "runtime"


_LONGEST_MESSAGE = 1500
"""Characters; names and messages of others in it are cut at 300 each."""


def outcome(kind: str, path: Path) -> dict[str, str]:
    """What became of an input.

    ``ok``; ``refused`` with a clear error; or a fault: ``answer`` (not finite, or of another
    shape), ``message`` (not one printable line), ``traceback``.
    """
    try:
        TARGETS[kind](path)
    except VitsdError as error:
        text = str(error)
        clean = text.isprintable() and len(text) <= _LONGEST_MESSAGE
        return {"outcome": "refused" if clean else "message", "detail": text[:2000]}
    except _AnswerError as error:
        return {"outcome": "answer", "detail": str(error)}
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "vitsd" in frame.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
        text = f"{type(error).__name__} in {place}: {error}"
        return {"outcome": "traceback", "detail": text[:500]}
    return {"outcome": "ok", "detail": ""}


class _AnswerError(Exception):
    """The model answered with something else than one finite row per image."""


class _UnforeseenError(Exception):
    """A command ended with an error that it does not know."""


def _classify(path: Path) -> None:
    from vitsd_runtime import Classifier

    classifier = Classifier.load(path, num_threads=1, batch_size=2)
    size = classifier.spec.input_size
    ramp = np.arange(np.prod(size)).reshape(size) % 256
    images = np.stack([ramp, 255 - ramp, 0 * ramp]).astype(np.uint8)
    answers = classifier.predict_proba(images)
    expected = (len(images), classifier.spec.num_classes)
    if answers.shape != expected:
        raise _AnswerError(f"shape {answers.shape} instead of {expected}")
    if not np.isfinite(answers).all():
        raise _AnswerError("not finite")
    classifier.predict(images[0])


def _load_keras(path: Path) -> None:
    from vitsd.hub.saving import load_model

    load_model(path)


def _spec(path: Path) -> None:
    (_load_keras if path.suffix == ".keras" else _classify)(path)


def _load_dataset(path: Path) -> None:
    from vitsd.data.sources import load_dataset

    load_dataset(str(path))


def _load_image(path: Path) -> None:
    from vitsd_runtime.images.loading import load_image

    wanted: tuple[tuple[tuple[int, int, int], ResizeMode], ...] = (
        ((32, 24, 3), "crop"),
        ((8, 8, 1), "stretch"),
    )
    for size, mode in wanted:
        image = load_image(path, size, mode)
        if image.shape != size or image.dtype != np.uint8:
            raise _AnswerError(f"{image.dtype} {image.shape} instead of uint8 {size}")


def _read_document(path: Path) -> None:
    readers: dict[str, Callable[[Path], Any]] = {
        "results": _compare,
        "recipe": _read_recipe,
        "run": _read_run,
    }
    readers[path.stem](path)


def _compare(path: Path) -> None:
    from vitsd_runtime.cli import bench

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = bench.main(["--compare", str(path), str(path)])
    if "nobody foresaw" in err.getvalue():  # the last handler of every command
        raise _UnforeseenError(err.getvalue())
    texts = [line for text in (out, err) for line in text.getvalue().splitlines()]
    if not all(line.isprintable() for line in texts) or (code and len(texts) != 1):
        raise VitsdError("\n".join(texts))


def _read_recipe(path: Path) -> None:
    from vitsd_export.quantization.recipe import read_recipe

    read_recipe(path)


def _read_run(path: Path) -> None:
    from vitsd.training.run import RunFolder

    RunFolder(path.parent).read_options()


def _ask(path: Path) -> None:
    """Send a request to the server of this process, and nothing after it."""
    with socket.create_connection(_server[0]) as connection:
        # It may close before it has read all.
        with contextlib.suppress(OSError):
            connection.sendall(path.read_bytes())
            connection.shutdown(socket.SHUT_WR)
        answer = bytearray()
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answer += part
    first = answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"", 1)
    head, _, body = bytes(first).partition(b"\r\n\r\n")
    status = int(head[9:12]) if head else 400
    if status >= 500:
        raise _UnforeseenError(f"{status}: {body[:300]!r}")
    if status >= 400:
        error = json.loads(body)["error"] if body.startswith(b"{") else "no answer"
        raise VitsdError(error)


TARGETS: dict[str, Callable[[Path], None]] = {
    "tflite": _classify,
    "onnx": _classify,
    "spec": _spec,
    "keras": _load_keras,
    "npz": _load_dataset,
    "image": _load_image,
    "json": _read_document,
    "http": _ask,
}


def _start_keras() -> None:
    from vitsd.hub.pretrained import from_pretrained
    from vitsd_runtime.models.catalog import BUNDLED

    from_pretrained(BUNDLED)


_server: list[Any] = []
"""The address of the server of this process."""


def _start_serving() -> None:
    from vitsd_runtime.models.catalog import bundled_model
    from vitsd_runtime.serving.models import Source
    from vitsd_runtime.serving.server import listen, serve
    from vitsd_runtime.serving.settings import Settings

    settings = Settings(port=0, max_body=2, num_threads=1, workers=1)
    listener = listen(settings)
    _server[:] = [listener.getsockname()]
    sources = [Source.parse(str(bundled_model()))]
    threading.Thread(target=serve, args=(sources, settings, listener), daemon=True).start()


START: dict[str, Callable[[], None]] = {"keras": _start_keras, "serving": _start_serving}
"""What the processes of a group do first, because threads don't live on in them: TensorFlow's
(and it takes 700 MB), and a server's."""
