"""Load an exported model and classify images with it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitsd_runtime.engines import Engine
from vitsd_runtime.engines.travel import EngineOptions, ModelSource, Opened
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.formats import detect_format, model_identity, read_spec
from vitsd_runtime.images.loading import is_single_image, load_for_model
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.images.tta import Tta, Views, make_views
from vitsd_runtime.models.catalog import bundled_model, bundled_name, find_model
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.spec.limits import MAX_CLASSES
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import (
    BACKENDS,
    AnyArray,
    Float32Array,
    Format,
    PathLike,
    ResizeMode,
    UInt8Array,
)
from vitsd_runtime.validation import Option

if TYPE_CHECKING:
    from typing_extensions import Unpack

BATCH_SIZE = Option("images that the engine gets at once", int, at_least=1, at_most=4096)
NUM_THREADS = Option("of the engine", int, at_least=1, at_most=1024)
BACKEND = Option("engine that runs the models", str, choices=BACKENDS)
MIN_CONFIDENCE = Option(
    "largest probability below which an image shows nothing known", float, at_least=0, below=1
)
TOP_K = Option("classes to show", int, at_least=1, at_most=MAX_CLASSES)
DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Prediction:
    """One class of an answer."""

    label: str
    index: int
    """Of the class in the spec's ``class_names``."""
    probability: float
    """In 0..1."""
    known: bool = True
    """Whether the model knows what the image shows: False for all classes of an image whose largest
    probability is below the threshold."""


def answer_dict(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """One image's classes as all JSON of this package has them, the best first; at least one.

    Returns:
        ``{"known": bool, "predictions": [{"label", "index", "probability"}, ...]}``
    """
    ranked = [
        {"label": p.label, "index": p.index, "probability": p.probability} for p in predictions
    ]
    return {"known": predictions[0].known, "predictions": ranked}


class Classifier:
    """An exported model, ready to classify. Make one with :meth:`load`.

    *Images* below means: an image file (its path, its content as bytes, or the file, open in binary
    mode), a PIL image, or a uint8 or uint16 array ``(height, width[, channels])``; or a list, an
    iterator or an array ``(n, height, width, channels)`` of any number of them, of any sizes.
    Memory does not grow with their number. Results keep the input order and match single-image
    calls, but for the rounding of float32 sums (about 1e-6 of the logits). An image that can't be
    read ends the call; to go on, call once for each image.

    Arrays are RGB. OpenCV's frames are BGR: ``cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)``. picamera2
    gives RGB arrays for the format it calls ``"BGR888"``.

    Threads: calls from several threads at once are safe, and run at once. Under TFLite, memory
    grows by an interpreter for each thread that runs at the same time as others.

    Processes: a loaded classifier may be used after a fork, and be pickled. It travels as the
    model's path, SHA-256, spec and options, and opens the model at its first use where it comes to:
    the same path must hold the same model there (the bundled model is found by itself), else that
    use raises VitsdError. All that come to a process with the same model share one engine.
    """

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        path: Path,
        num_threads: int,
        batch_size: int,
        min_confidence: float | None = None,
        source: ModelSource | None = None,
    ) -> None:
        self.spec, self.path, self.batch_size = spec, path, batch_size
        self.min_confidence = spec.threshold if min_confidence is None else min_confidence
        self._opened: Opened | None = Opened(engine, num_threads)
        self._source = source

    @classmethod
    def load(
        cls,
        path: PathLike | None = None,
        *,
        num_threads: int | None = None,
        batch_size: int = 8,
        min_confidence: float | None = None,
        spec: ModelSpec | None = None,
        verify: bool = True,
        **engine_options: Unpack[EngineOptions],
    ) -> Classifier:
        """Load a ``.tflite`` or ``.onnx`` file or a SavedModel folder.

        Args:
            path: the model, or the name of one that comes with the runtime; by default
                ``vit-edge-cifar100``. They know CIFAR-100's classes.
            num_threads: of the engine. None measures one thread against all cores on this model
                and takes the faster: small models are slower on more threads.
            batch_size: images that the engine gets at once.
            min_confidence: largest probability below which an image shows nothing that the model
                knows (:attr:`Prediction.known`), in [0, 1); by default the one in its spec.
            spec: for a model that carries none, or to override what it carries.
            verify: check the model's SHA-256 against its spec.
            **engine_options: ``backend``, ``allow_any_operation`` and ``in_memory``.
            backend: the engine, of :data:`vitsd_runtime.types.BACKENDS`; by default the first that
                is installed. ``.onnx`` files run in ``onnxruntime``, ``openvino`` or, rounded
                to bfloat16 and no longer within a float model's tolerance, ``openvino-bf16``.
            allow_any_operation: also run models with operations that vitsd-export does not write,
                after a try in a process of its own. Only for files that you trust: what such
                operations do with memory and time is not known.
            in_memory: read a model file as a whole, so that it may be changed later on; else
                nobody may write into it while it is loaded.

        Raises:
            UsageError: no such model, a wrong option, or a model without spec and none given.
            VitsdError: the file is damaged, its structure is unsound, its engine is missing or
                refuses it, or it does not fit its spec.
        """
        path = bundled_model() if path is None else find_model(path)
        batch_size = BATCH_SIZE.check("batch_size", batch_size)
        if num_threads is not None:
            num_threads = NUM_THREADS.check("num_threads", num_threads)
        if min_confidence is not None:
            min_confidence = MIN_CONFIDENCE.check("min_confidence", min_confidence)
        if engine_options.get("backend") is not None:
            BACKEND.check("backend", engine_options["backend"])
        format = _exported_format(path)
        identity = model_identity(path)
        if spec is None:
            spec = _carried_spec(path, verify)
        elif not isinstance(spec, ModelSpec):
            raise UsageError(f"`spec` must be a ModelSpec, as read_spec returns; got {type(spec)}.")
        if spec.export is not None and not spec.export.batch_invariant:
            batch_size = 1  # other images of a batch would change the answer
        source = ModelSource(
            path=bundled_name(path) or path.absolute(),
            format=format,
            num_threads=num_threads,
            batch_size=batch_size,
            identity=identity,
            **engine_options,
        )
        engine, num_threads = source.open()
        _check_engine_fits_spec(engine, spec, path)
        return cls(engine, spec, path, num_threads, batch_size, min_confidence, source)

    @property
    def engine(self) -> Engine:
        """The inference engine, with the model loaded."""
        return self._open().engine

    @property
    def num_threads(self) -> int:
        """Of the engine."""
        return self._open().num_threads

    @property
    def sha256(self) -> str:
        """Of the model's file; of a SavedModel, that of the names and SHA-256s of its files.

        Raises:
            VitsdError: it was changed or removed since it was loaded.
        """
        return str(self._travelling().sha256)

    def fingerprint(self) -> dict[str, Any]:
        """What answers depend on, beside the options of a call; can be JSON.

        Raises:
            VitsdError: the model was changed or removed since it was loaded.
        """
        spec = hashlib.sha256(self.spec.to_json().encode()).hexdigest()
        return {
            "model_sha256": self.sha256,
            "spec_sha256": spec,  # not always the model's own
            "min_confidence": self.min_confidence,
            "backend": self._travelling().backend,
        }

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: no engine.

        Raises:
            UsageError: it was not made by :meth:`load`.
            VitsdError: the model was changed or removed since it was loaded.
        """
        return {**self.__dict__, "_source": self._travelling(), "_opened": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled; the model is opened at its first use."""
        self.__dict__.update(state)
        self.path = self._travelling().find()

    def _travelling(self) -> ModelSource:
        if self._source is None:
            raise UsageError("This classifier was not made by Classifier.load: it can't be sent.")
        self._source = self._source.with_digest()
        return self._source

    def _open(self) -> Opened:
        if self._opened is None:
            self._opened = self._travelling().reopen()
        return self._opened

    def predict(
        self,
        images: Any,
        top_k: int = DEFAULT_TOP_K,
        *,
        tta: Tta = None,
        resize_mode: ResizeMode | None = None,
    ) -> list[list[Prediction]]:
        """The ``top_k`` most probable classes of every image, best first.

        Args:
            images: see the class.
            top_k: 1 to the number of classes; more is cut to that.
            tta: test-time augmentation: the probabilities of several views are averaged.
                ``"flip"``: the image and its mirror image. A number N: the image and N - 1 views
                drawn from the augmentation used in training (seeded).
            resize_mode: ``"stretch"`` or ``"crop"`` for photos of other sizes; by default what
                the model was trained with.

        Returns:
            One list of :class:`Prediction` per image, also for a single image.

        Raises:
            UsageError: a wrong option, or something that is no image.
            VitsdError: an image can't be read, or the engine fails.
        """
        size = self.batch_size
        return list(self.stream(images, top_k, tta=tta, resize_mode=resize_mode, batch_size=size))

    def stream(
        self,
        images: Any,
        top_k: int = DEFAULT_TOP_K,
        *,
        tta: Tta = None,
        resize_mode: ResizeMode | None = None,
        batch_size: int = 1,
    ) -> Iterator[list[Prediction]]:
        """:meth:`predict` as an iterator that reads images as it goes.

        Args:
            images: see the class; also endless ones, such as a camera's.
            top_k: as for :meth:`predict`.
            tta: as for :meth:`predict`.
            resize_mode: as for :meth:`predict`.
            batch_size: how many images are read before they are answered. With 1, each is
                answered before the next is asked for.

        Raises:
            UsageError, VitsdError: as for :meth:`predict`.
        """
        top_k = TOP_K.check("top_k", top_k)
        batch_size = BATCH_SIZE.check("batch_size", batch_size)
        views = make_views(tta, self.spec)
        for pixels in self._pixel_batches(images, resize_mode, batch_size):
            for row in self.probabilities(pixels, views):
                yield self.top(row, top_k)

    def predict_proba(
        self, images: Any, *, tta: Tta = None, resize_mode: ResizeMode | None = None
    ) -> Float32Array:
        """Class probabilities, float32 ``(n, classes)``; a single image gives n = 1.

        Args:
            images: see the class.
            tta: as for :meth:`predict`.
            resize_mode: as for :meth:`predict`.

        Raises:
            UsageError, VitsdError: as for :meth:`predict`.
        """
        views = make_views(tta, self.spec)
        batches = self._pixel_batches(images, resize_mode, self.batch_size)
        return self._stack(self.probabilities(pixels, views) for pixels in batches)

    def logits(self, images: Any, *, resize_mode: ResizeMode | None = None) -> Float32Array:
        """The model's raw outputs, float32 ``(n, classes)``; a single image gives n = 1.

        Args:
            images: see the class.
            resize_mode: as for :meth:`predict`.

        Raises:
            UsageError, VitsdError: as for :meth:`predict`.
        """
        batches = self._pixel_batches(images, resize_mode, self.batch_size)
        return self._stack(self.forward(self.prepare(pixels)) for pixels in batches)

    def top(self, probabilities: Float32Array, top_k: int) -> list[Prediction]:
        """Name the ``top_k`` largest of one image's probabilities ``(classes,)``."""
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        names = self.spec.class_names
        known = self.knows(probabilities)
        return [Prediction(names[i], int(i), float(probabilities[i]), known) for i in best]

    def knows(self, probabilities: Float32Array) -> bool:
        """Whether one image's largest probability ``(classes,)`` reaches the threshold."""
        return float(probabilities.max()) >= self.min_confidence

    def prepare(self, pixels: UInt8Array) -> AnyArray:
        """What the engine takes for uint8 pixels ``(n, *input_size)``.

        Returns:
            float32 ``(n, image_size, image_size, channels)``; or the pixels themselves, if the
            model preprocesses them.
        """
        return pixels if self.spec.preprocessing_embedded else preprocess(pixels, self.spec)

    def forward(self, batch: AnyArray) -> Float32Array:
        """The engine's logits, float32 ``(n, classes)``, for what :meth:`prepare` returned.

        Raises:
            VitsdError: the engine fails, or gives no finite logit for each image and class.
        """
        size = self.batch_size
        if len(batch) <= size:
            return self._run(batch)
        parts = [self._run(batch[i : i + size]) for i in range(0, len(batch), size)]
        return np.concatenate(parts)

    def _run(self, batch: AnyArray) -> Float32Array:
        logits = self.engine.run(batch)
        expected = (len(batch), self.spec.num_classes)
        if logits.shape != expected or logits.dtype != np.float32:
            raise VitsdError(
                f"{printable(self.path)} answers {len(batch)} images with {logits.dtype} "
                f"{logits.shape} instead of float32 {expected}."
            )
        if not np.isfinite(logits).all():
            raise VitsdError(
                f"{printable(self.path)} answers with numbers that are not finite (NaN or "
                "infinite): export it again."
            )
        return logits

    def probabilities(self, pixels: UInt8Array, views: Views) -> Float32Array:
        """Class probabilities, float32 ``(n, classes)``, the mean over the views of each image.

        Each view's logits are divided by the spec's temperature.

        Args:
            pixels: uint8 ``(n, *input_size)``, as :func:`vitsd_runtime.load_image` gives them:
                scaled already, where the spec has a ``value_range``.
            views: see :func:`vitsd_runtime.images.tta.make_views`.
        """
        prepared, temperature = self.prepare(pixels), self.spec.temperature
        mean: Float32Array = np.mean(
            [softmax(self.forward(view), temperature) for view in views(prepared)], axis=0
        )
        return mean

    def _pixel_batches(
        self, images: Any, resize_mode: ResizeMode | None, batch_size: int
    ) -> Iterator[UInt8Array]:
        """uint8 ``(n, *input_size)``, n up to ``batch_size``."""
        ready = _is_array_of_size(images, self.spec.input_size)
        if ready and self.spec.value_range is None:  # nothing to do for each image
            for start in range(0, len(images), batch_size):
                yield images[start : start + batch_size]
            return
        remaining = iter(images if _is_many(images) else [images])
        while chunk := list(itertools.islice(remaining, batch_size)):
            yield np.stack([load_for_model(image, self.spec, resize_mode) for image in chunk])

    def _stack(self, batches: Iterable[Float32Array]) -> Float32Array:
        parts = list(batches)
        if not parts:
            return np.zeros((0, self.spec.num_classes), np.float32)
        return np.concatenate(parts)


def softmax(logits: AnyArray, temperature: float = 1.0) -> AnyArray:
    """Probabilities along the last axis, of finite logits divided by ``temperature``."""
    with np.errstate(over="ignore"):  # far below the largest is a probability of 0
        below = (logits - logits.max(axis=-1, keepdims=True)) / logits.dtype.type(temperature)
    exponentials = np.exp(below)
    probabilities: AnyArray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def _exported_format(path: Path) -> Format:
    format = detect_format(path)
    if format == "keras":
        raise UsageError(
            f"{printable(path)} is a training model, which needs Keras. Export it first: "
            f"vitsd-export {printable(path)} --format tflite"
        )
    return format


def _carried_spec(path: Path, verify: bool) -> ModelSpec:
    spec = read_spec(path, verify=verify)
    if spec is None:
        raise UsageError(
            f"{printable(path)} carries no vitsd spec: it is cut off, or was not exported by "
            "vitsd. In the second case say how its images are prepared, with a spec: "
            "spec=ModelSpec(...) in Python, --spec FILE.json for a command."
        )
    return spec


def _is_array_of_size(images: Any, size: tuple[int, int, int]) -> bool:
    is_batch = isinstance(images, np.ndarray) and images.ndim == 4
    return is_batch and images.dtype == np.uint8 and images.shape[1:] == size


def _is_many(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim == 4 or (images.ndim == 1 and images.dtype.kind in "OU")  # of paths
    if is_single_image(images):
        return False
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise UsageError(
            "Images must be files (paths, bytes or open ones), PIL images or NumPy arrays; got "
            f"{type(images).__name__}."
        )
    return True


def _check_engine_fits_spec(engine: Engine, spec: ModelSpec, path: Path) -> None:
    side = spec.image_size
    embedded = spec.preprocessing_embedded
    expected = spec.input_size if embedded else (side, side, spec.input_size[2])
    if engine.input_shape != expected:
        raise VitsdError(
            f"{printable(path)} takes images of shape {engine.input_shape}, but its spec says "
            f"{expected}."
        )
    possible = (np.uint8,) if embedded else (np.float32, np.int8, np.uint8)
    if engine.input_dtype not in possible:
        expected_input = "raw pixels (uint8)" if embedded else "preprocessed ones (float32)"
        raise VitsdError(
            f"{printable(path)} takes {engine.input_dtype} images, but its spec says that it takes "
            f"{expected_input}."
        )
    if engine.num_classes != spec.num_classes:
        raise VitsdError(
            f"{printable(path)} has {engine.num_classes} outputs, but its spec names "
            f"{spec.num_classes} classes."
        )
