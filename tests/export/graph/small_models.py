"""Untrained models of every kind, small enough to be quantized in a second."""

import keras
import numpy as np

from vitsd import VitConfig, build_vit
from vitsd_export.formats.saved_model import write_saved_model
from vitsd_export.formats.tflite import to_tflite
from vitsd_export.graph.folding import fold
from vitsd_export.graph.layer_names import kernels
from vitsd_export.graph.module import inference_module
from vitsd_export.graph.options import GraphOptions
from vitsd_export.graph.weights import read_weights
from vitsd_export.quantization.tflite import TFLiteQuantizer
from vitsd_runtime import ModelSpec

SMALL = {
    "input_size": (8, 8, 1),
    "num_classes": 3,
    "image_size": 8,
    "patch_size": 4,
    "hidden_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_units": (24, 16),
    "head_units": (),
    "pooling": "gap",
}
CONFIGS = {
    "as tiny": {"key_dim": 8},
    "merged, flatten, hidden head layer": {
        "key_dim": 40,
        "pooling": "flatten",
        "head_units": (12,),
    },
    "odd patches, relu": {"key_dim": 8, "patch_size": 3, "image_size": 9, "activation": "relu"},
    "no shifts, no mask": {"key_dim": 8, "spt": False, "lsa": False},
    "convolutions": {"key_dim": 8, "spt": False, "stem_filters": (6,), "mlp_convolution": True},
    "pooled tokens": {"key_dim": 8, "patch_size": 2, "num_layers": 2, "pool_tokens_after": 1},
}


def make_quantizer(folder, masks=(-20.0, -20.0), **options):
    """The quantizer of such a model, and inputs that it takes."""
    keras.utils.set_random_seed(0)
    config = VitConfig(**{**SMALL, **options})
    spec = ModelSpec(
        name="example",
        class_names=("cat", "dog", "owl"),
        input_size=config.input_size,
        image_size=config.image_size,
        mean=(100.0,) * config.input_size[2],
        variance=(4000.0,) * config.input_size[2],
        architecture=config.architecture,
    )
    folded = fold(read_weights(build_vit(config), config), config)
    graph = GraphOptions(integer_masks=masks)
    write_saved_model(inference_module(folded, spec, options=graph), folder)
    layers = [name for name, _ in kernels(folded)]
    shape = (4, config.image_size, config.image_size, config.input_size[2])
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return TFLiteQuantizer(to_tflite(folder), layers, images), images
