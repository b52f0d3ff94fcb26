"""Runs on the emulated machine: logits of every model in a folder, for the same images."""

import sys
from pathlib import Path

import numpy as np

from vitsd_runtime import Classifier

models, images, output = map(Path, sys.argv[1:])
pixels = np.load(images)
logits = {}
for path in sorted(p for p in models.iterdir() if p.suffix in (".tflite", ".onnx")):
    logits[path.name] = Classifier.load(path, num_threads=1, batch_size=8).logits(pixels)
np.savez(output, **logits)
