"""Load an exported model and classify images with it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitsd_runtime.engines.base import Engine, load_engine
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats.spec_io import detect_format, read_spec
from vitsd_runtime.images.augmentation import Augmenter
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.models.catalog import bundled_model
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.machine import physical_cores


@dataclass(frozen=True)
class Prediction:
    """One class of an answer."""

    label: str
    index: int
    probability: float


class Classifier:
    """An exported model, ready to classify. Make one with :meth:`load`.

    *Images* below means: a path, a PIL image or a uint8 array ``(height, width[, channels])``; or a list, an iterator or a
    uint8 array ``(n, height, width, channels)`` of any number of them, of any sizes. Memory does not grow with their number.
    Answers come in order and are those of one-by-one calls, but for the rounding of float32 sums (about 1e-6 of the logits).

    Threads: calls from several threads at once are safe. Under TFLite they wait for each other; for parallel work load one
    classifier per thread.
    """

    def __init__(
        self, engine: Engine, spec: ModelSpec, path: Path, num_threads: int, batch_size: int
    ):
        self.engine, self.spec, self.path = engine, spec, path
        self.num_threads, self.batch_size = num_threads, batch_size

    @classmethod
    def load(
        cls,
        path: str | os.PathLike | None = None,
        *,
        num_threads: int | None = None,
        batch_size: int = 8,
        spec: ModelSpec | None = None,
        verify: bool = True,
    ) -> Classifier:
        """Load a ``.tflite`` or ``.onnx`` file or a SavedModel folder; the engine is chosen by the kind of file.

        Args:
            path: the model; by default the one that comes with the runtime, which knows CIFAR-100's classes.
            num_threads: of the engine. None measures one thread against all cores on this model and takes the faster:
                small models are slower on more threads.
            batch_size: images that the engine gets at once.
            spec: for a model that carries none, or to override what it carries.
            verify: check the model's SHA-256 against its spec.

        Raises:
            UsageError: no such model, a wrong option, or a model without spec and none given.
            VitsdError: the file is damaged, its engine is missing or refuses it, or it does not fit its spec.
        """
        path = bundled_model() if path is None else Path(path)
        if batch_size < 1 or (num_threads is not None and num_threads < 1):
            raise UsageError(
                f"batch_size and num_threads must be at least 1; got {batch_size} and {num_threads}."
            )
        kind = detect_format(path)
        if kind == "keras":
            raise UsageError(
                f"{path} is a training model, which needs Keras. Export it first: vitsd-export {path} --format tflite"
            )
        spec = spec or read_spec(path, verify=verify)
        if spec is None:
            raise UsageError(
                f"{path} carries no vitsd spec: it is cut off, or was not exported by vitsd. In the second case say how its "
                "images are prepared: spec=ModelSpec(...) in Python, --spec FILE.json for vitsd-predict and vitsd-bench."
            )
        if not spec.export.get("batch_invariant", True):
            batch_size = 1  # its activations are quantised by the range of the whole batch: neighbours would matter
        if num_threads is None:
            num_threads = _fastest_threads(path, kind)
        engine = load_engine(path, kind, num_threads, batch_size)
        _check_fit(engine, spec, path)
        return cls(engine, spec, path, num_threads, batch_size)

    def predict(
        self, images, top_k: int = 5, *, tta: str | int | None = None, fit: str | None = None
    ):
        """The ``top_k`` most probable classes of every image, best first.

        Args:
            images: see the class.
            top_k: 1 to the number of classes; more is cut to that.
            tta: test-time augmentation: the probabilities of several views are averaged. ``"flip"``: the image and its
                mirror image. A number N: the image and N - 1 views drawn from the augmentation used in training (seeded).
            fit: ``"stretch"`` or ``"crop"`` for photos of other sizes; by default what the model was trained with.

        Returns:
            One list of :class:`Prediction` per image, also for a single image.
        """
        return list(self._answers(images, top_k, tta, fit, self.batch_size))

    def stream(self, images, top_k: int = 5, *, tta=None, fit=None) -> Iterator[list[Prediction]]:
        """:meth:`predict` as an iterator that reads images as it goes, for endless or very many images.

        Of an iterator, such as a camera, each image is answered before the next is asked for; lists and arrays are read and
        answered in batches.
        """
        return self._answers(
            images, top_k, tta, fit, 1 if isinstance(images, Iterator) else self.batch_size
        )

    def _answers(self, images, top_k, tta, fit, batch_size) -> Iterator[list[Prediction]]:
        if not isinstance(top_k, (int, np.integer)) or top_k < 1:
            raise UsageError(f"top_k must be a whole number from 1; got {top_k!r}.")
        for probabilities in self._probability_batches(images, tta, fit, batch_size):
            for row in probabilities:
                yield self.top(row, top_k)

    def top(self, probabilities: np.ndarray, top_k: int) -> list[Prediction]:
        """Name the ``top_k`` largest of one image's probabilities."""
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return [Prediction(self.spec.class_names[i], int(i), float(probabilities[i])) for i in best]

    def predict_proba(
        self, images, *, tta: str | int | None = None, fit: str | None = None
    ) -> np.ndarray:
        """Class probabilities, float32 ``(n, classes)``; a single image gives n = 1. Options as in :meth:`predict`."""
        return self._stack(self._probability_batches(images, tta, fit, self.batch_size))

    def logits(self, images, *, fit: str | None = None) -> np.ndarray:
        """The model's raw outputs, float32 ``(n, classes)``; a single image gives n = 1."""
        return self._stack(
            self._run(self._prepare(pixels))
            for pixels in self._pixel_batches(images, fit, self.batch_size)
        )

    def _stack(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        batches = list(batches)
        return (
            np.concatenate(batches) if batches else np.zeros((0, self.spec.num_classes), np.float32)
        )

    def _pixel_batches(self, images, fit, batch_size) -> Iterator[np.ndarray]:
        """uint8 ``(n, *input_size)``, n up to ``batch_size``."""
        if isinstance(images, np.ndarray) and images.ndim == 4:
            if (
                images.dtype == np.uint8 and images.shape[1:] == self.spec.input_size
            ):  # nothing to do for each image
                for start in range(0, len(images), batch_size):
                    yield images[start : start + batch_size]
                return
        elif not _is_many(images):
            images = [images]
        images = iter(images)
        while chunk := list(itertools.islice(images, batch_size)):
            yield np.stack([load_image(image, self.spec, fit) for image in chunk])

    def _prepare(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self.spec.preprocessing_embedded else preprocess(pixels, self.spec)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) <= self.batch_size:
            return self.engine.run(batch)
        return np.concatenate(
            [
                self.engine.run(batch[i : i + self.batch_size])
                for i in range(0, len(batch), self.batch_size)
            ]
        )

    def _probability_batches(self, images, tta, fit, batch_size) -> Iterator[np.ndarray]:
        views = _make_views(tta, self.spec)
        for pixels in self._pixel_batches(images, fit, batch_size):
            prepared = self._prepare(pixels)
            yield np.mean([softmax(self._run(view)) for view in views(prepared)], axis=0)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _is_many(images) -> bool:
    if isinstance(images, (str, os.PathLike, np.ndarray)) or hasattr(images, "convert"):
        return False
    if not isinstance(images, Iterable):
        raise UsageError(
            f"Images must be paths, PIL images or uint8 arrays; got {type(images).__name__}."
        )
    return True


def _make_views(tta, spec: ModelSpec):
    """A function from a prepared batch to the batches whose probabilities are averaged."""
    if tta is None:
        return lambda batch: [batch]
    if tta == "flip":
        return lambda batch: [batch, np.ascontiguousarray(batch[:, :, ::-1])]
    if not isinstance(tta, int) or isinstance(tta, bool) or tta < 1:
        raise UsageError(f'tta must be "flip" or a number of views from 1; got {tta!r}.')
    if tta == 1:
        return lambda batch: [batch]
    if spec.preprocessing_embedded:
        raise UsageError(
            "The model normalises and resizes by itself, so random views can't be made as in training: use the view flip, "
            "or export without --embed-preprocessing."
        )

    def views(batch):
        yield batch
        for view in range(1, tta):
            # The same draw for every image: an answer does not depend on its place in the batch.
            draw = Augmenter.from_spec(spec, seed=view).draw(1)
            draw = type(draw)(*(np.repeat(value, len(batch)) for value in vars(draw).values()))
            yield Augmenter.from_spec(spec).apply(batch, draw)

    return views


def _fastest_threads(path: Path, kind: str) -> int:
    cores = physical_cores()
    if cores == 1 or kind == "saved_model":  # TensorFlow's threads are set once per process
        return cores
    best, fastest = 1, float("inf")
    for threads in (1, cores):
        engine = load_engine(path, kind, threads, 1)
        batch = np.zeros(
            (1, *engine.input_shape), np.uint8 if engine.input_dtype == np.uint8 else np.float32
        )
        engine.run(batch)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            engine.run(batch)
            times.append(time.perf_counter() - start)
        if min(times) < fastest:
            best, fastest = threads, min(times)
    return best


def _check_fit(engine: Engine, spec: ModelSpec, path: Path) -> None:
    size = spec.image_size
    expected = spec.input_size if spec.preprocessing_embedded else (size, size, spec.input_size[2])
    if engine.input_shape != expected:
        raise VitsdError(
            f"{path} takes images of shape {engine.input_shape}, but its spec says {expected}."
        )
    possible = (np.uint8,) if spec.preprocessing_embedded else (np.float32, np.int8, np.uint8)
    if engine.input_dtype not in possible:
        raise VitsdError(
            f"{path} takes {engine.input_dtype} images, but its spec says that it takes "
            f"{'raw pixels (uint8)' if spec.preprocessing_embedded else 'preprocessed ones (float32)'}."
        )
    if engine.num_classes != spec.num_classes:
        raise VitsdError(
            f"{path} has {engine.num_classes} outputs, but its spec names {spec.num_classes} classes."
        )
