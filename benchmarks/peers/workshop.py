"""What every subject is made from: one trained model, its images, and the plain graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vitsd.config import VitConfig
from vitsd_runtime.formats import require_spec
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.files import atomic_write
from vitsd_runtime.types import AnyArray, Float32Array

MODEL = "model.keras"


class Workshop:
    """A folder with a model, its test images as the graphs take them, and what is made of them.

    Args:
        folder: made by :func:`benchmarks.peers.prepare.prepare`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def spec(self) -> ModelSpec:
        """Of the model."""
        return require_spec(self.folder / MODEL)

    @cached_property
    def config(self) -> VitConfig:
        """The model's architecture."""
        return VitConfig.from_spec(self.spec)

    @cached_property
    def data(self) -> str | None:
        """Labeled images that the model was trained on, if they are at hand."""
        source: str | None = json.loads((self.folder / "data.json").read_text())
        return source

    @cached_property
    def trained(self) -> Any:
        """The Keras model, from pixels to logits."""
        from vitsd.hub.saving import load_model

        return load_model(self.folder / MODEL)[0]

    @cached_property
    def plain(self) -> Any:
        """The Keras model from preprocessed images, which is what all files take, to logits."""
        from benchmarks.baselines import plain_model

        return plain_model(self.trained, self.config)

    @cached_property
    def calibration(self) -> Float32Array:
        """Preprocessed training images for quantizers."""
        images: Float32Array = self.array("calibration")
        return images

    def array(self, name: str) -> AnyArray:
        """``images``, ``labels``, ``reference`` (Keras' logits) or ``calibration``."""
        found: AnyArray = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return found

    def make(self, name: str, write: Callable[[Path], object]) -> Path:
        """The file of that name; if there is none yet, what ``write`` puts there."""
        path = self.folder / name
        if not path.exists():
            with atomic_write(path) as temporary:
                write(temporary)
        return path

    def plain_onnx(self) -> Path:
        """The plain graph by tf2onnx, which Keras' own exporter calls too, for any batch size.

        What that writes can't be loaded: it holds TensorFlow's operator Erfc.
        """

        def write(path: Path) -> None:
            from benchmarks import baselines

            module = baselines.plain_module(self.trained, self.config, None)
            path.write_bytes(baselines.to_onnx(module))

        return self.make("plain.onnx", write)

    def torch(self) -> Any:
        """The plain model in PyTorch."""
        from benchmarks.peers.torch_vit import import_model

        return import_model(self.trained, self.config)

    def torch_onnx(self) -> Path:
        """The plain model by PyTorch's exporter, for any batch size."""
        import torch

        size, channels = self.config.image_size, self.config.input_size[2]
        example = (torch.zeros(2, size, size, channels),)

        def write(path: Path) -> None:
            torch.onnx.export(
                self.torch(),
                example,
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
                dynamo=False,
                opset_version=17,
            )

        return self.make("torch.onnx", write)
