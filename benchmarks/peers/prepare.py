"""Fill a workshop's folder: the model, its images as graphs take them, and Keras' answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from benchmarks.models import untrained
from benchmarks.peers.workshop import MODEL, Workshop
from vitsd.data.dataset import Split
from vitsd.evaluation.evaluate import labeled_images, load_matching
from vitsd.evaluation.predict import predict_logits
from vitsd.hub.pretrained import locate
from vitsd.hub.saving import save_model
from vitsd.presets import list_presets
from vitsd_runtime import preprocess
from vitsd_runtime.spec import ModelSpec

CALIBRATION_IMAGES = 256
RANDOM_IMAGES = 500
"""At most, of those without labels: more would not tell more about agreement."""


def prepare(name: str, data: str | None, images: int, folder: Path) -> Workshop:
    """Write what :class:`Workshop` reads, unless it is there; answers to other images are removed.

    Args:
        name: a preset, for a model with weights at random; or what :func:`vitsd.load_model` takes.
        data: labeled images of the model; None: images at random.
        images: how many of them tell what a file answers; at random at most
            :data:`RANDOM_IMAGES`.
        folder: to fill.
    """
    workshop = Workshop(folder)
    trained = name not in list_presets()
    if not (trained and data):
        data, images = None, min(images, RANDOM_IMAGES)
    asked, wanted = folder / "asked.json", json.dumps({"data": data, "images": images})
    if asked.exists() and asked.read_text() == wanted:
        return workshop
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("answers-*.npy"):
        stale.unlink()
    if trained:
        shutil.copy(locate(name), folder / MODEL)
    else:
        model, spec = untrained(name)
        save_model(model, folder / MODEL, spec)
    (folder / "data.json").write_text(json.dumps(data))
    test, train = _images(workshop.spec, data, images)
    if data:
        np.save(folder / "labels.npy", test.labels)
    np.save(folder / "images.npy", preprocess(test.images[:], workshop.spec))
    np.save(folder / "calibration.npy", preprocess(train.images[:], workshop.spec))
    np.save(folder / "reference.npy", predict_logits(workshop.trained, test.images))
    asked.write_text(wanted)
    return workshop


def _images(spec: ModelSpec, data: str | None, count: int) -> tuple[Split, Split]:
    """Test images, and training images for calibration."""
    if data is None:
        random = np.random.default_rng(0)
        made = [
            random.integers(0, 256, (number, *spec.input_size), np.uint8)
            for number in (count, CALIBRATION_IMAGES)
        ]
        test, train = (Split(images, np.zeros(len(images), np.int64)) for images in made)
        return test, train
    dataset = load_matching(data, spec)
    return (
        labeled_images(dataset, spec, "test", count),
        labeled_images(dataset, spec, "train", CALIBRATION_IMAGES),
    )
