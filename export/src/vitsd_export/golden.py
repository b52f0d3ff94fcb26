"""Golden images: test images whose answers an exported file carries, for ``vitsd-verify``."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vitsd.evaluation.predict import predict_logits
from vitsd_export.data import ParityData
from vitsd_export.quantization.schemes import SCHEMES
from vitsd_runtime import verification
from vitsd_runtime.images.loading import load_for_model
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import Golden, ModelSpec
from vitsd_runtime.types import AnyArray, Float32Array, UInt8Array

_IMAGES = 8
_IMAGE_BYTES = 3300
"""Of one PNG: a color image of 32x32 pixels takes up to 3,150. All 8 and the photo are 40 kB."""
_PHOTO_SIDES = (160, 240)
"""Of the upright photo, for a square input; its shape is never that of the input."""
_PHOTO_QUALITY = 85
_ORIENTATION = 0x0112
"""The EXIF tag; 6 means: to be turned by 90 degrees, clockwise."""


@dataclass(frozen=True)
class GoldenImages:
    """What is the same for all files of a model."""

    images: tuple[bytes, ...]
    """PNGs."""
    pixels: UInt8Array
    """Of the images, ``(n, *input_size)``."""
    photo: bytes
    """A JPEG."""
    reference: Float32Array
    """``(n, classes)``, the Keras model's logits."""

    @classmethod
    def choose(cls, model: Any, spec: ModelSpec, test: ParityData) -> GoldenImages:
        """One test image of each of eight classes; more of a class where there are fewer.

        Args:
            model: the Keras model.
            spec: its spec.
            test: images to choose from; the choice is the same for the same images.
        """
        chosen = test.images[_one_of_each_class(test)[:_IMAGES]]
        images, pixels = zip(*map(_small_png, chosen), strict=True)
        stacked = np.stack(pixels)
        # The one with most contrast shows best what is done to it.
        photo = _photo(max(chosen, key=np.std))
        return cls(images, stacked, photo, predict_logits(model, stacked))

    def record(self, spec: ModelSpec, logits: Float32Array) -> Golden:
        """What a file's spec says of them.

        Args:
            spec: of the file, with its export.
            logits: the file's own, ``(n, classes)``.
        """
        prepared = self.pixels if spec.preprocessing_embedded else preprocess(self.pixels, spec)
        photo = load_for_model(self.photo, spec)
        columns = verification.columns(spec.num_classes)
        return Golden(
            images=tuple(map(_text, self.images)),
            pixels_sha256=verification.digest_pixels(self.pixels),
            photo=_text(self.photo),
            photo_pixels=_text(_png(verification.coarse(photo))),
            tensor=verification.encode(verification.sample(prepared)),
            logits=verification.encode(logits[:, columns]),
            reference=verification.encode(self.reference[:, columns]),
            tolerance=_tolerance(spec, self.reference),
            labels=tuple(spec.class_names[i] for i in logits.argmax(axis=1)),
            class_names_sha256=verification.digest_names(spec.class_names),
        )


def _tolerance(spec: ModelSpec, reference: Float32Array) -> float:
    quantization = spec.export.quantization if spec.export else "none"
    return float(SCHEMES[quantization].machine_difference * max(reference.std(), 1e-6))


def _one_of_each_class(test: ParityData) -> AnyArray:
    """Indices of all images, shuffled: one of each class first, then the second of each ...

    Those that the model knows come before those that it does not.
    """
    shuffled = np.random.default_rng(0).permutation(len(test.labels))
    right = (test.reference.argmax(axis=1) == test.labels)[shuffled]
    shuffled = np.concatenate([shuffled[right], shuffled[~right]])
    seen: Counter[int] = Counter()
    turns = []
    for label in test.labels[shuffled].tolist():
        turns.append(seen[label])
        seen[label] += 1
    turns_of_known = np.array(turns) + np.sort(~right) * len(turns)
    return shuffled[np.argsort(turns_of_known, kind="stable")]


def _small_png(image: UInt8Array) -> tuple[bytes, UInt8Array]:
    """A PNG and its pixels: of large images one of coarser pixels, as many as there were."""
    step, pixels = 1, image
    while len(content := _png(pixels)) > _IMAGE_BYTES and step < max(image.shape):
        step *= 2
        repeated = image[::step, ::step].repeat(step, axis=0).repeat(step, axis=1)
        pixels = repeated[: image.shape[0], : image.shape[1]]
    return content, pixels


def _png(pixels: UInt8Array) -> bytes:
    content = io.BytesIO()
    _picture(pixels).save(content, "PNG", optimize=True)
    return content.getvalue()


def _photo(image: UInt8Array) -> bytes:
    """A JPEG of the image, enlarged smoothly, of another shape, and lying on its side."""
    height, width = image.shape[:2]
    short, long = _PHOTO_SIDES
    size = (long, max(1, short * height // width))
    picture = _picture(verification.coarse(image)).resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    content = io.BytesIO()
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    lying.save(content, "JPEG", quality=_PHOTO_QUALITY, exif=exif)
    return content.getvalue()


def _picture(pixels: UInt8Array) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
