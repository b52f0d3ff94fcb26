"""Candidates are run in batches, and a batch changes no answer."""

import numpy as np
import pytest

from vitsd_export.quantization.candidates import EngineCandidate
from vitsd_runtime import preprocess, read_spec
from vitsd_runtime.engines import load_engine


@pytest.mark.parametrize(
    ("ending", "batch_size"),
    [("-int8.tflite", 32), ("-int8-full.tflite", 32), ("-int8.onnx", 32), ("-dynamic.onnx", 1)],
)
def test_the_logits_are_the_engines(exported, digits, ending, batch_size):
    path = exported / f"digits{ending}"
    images = preprocess(digits.images[:70], read_spec(path))
    format = path.suffix[1:]
    candidate = EngineCandidate(format, lambda choices: path.read_bytes(), images, batch_size)
    for count in (32, 50, 70):
        logits = candidate.logits({}, count, 1)
        assert logits.shape == (count, 10)
        engine = load_engine(path, format)
        expected = np.concatenate([engine.run(image[None]) for image in images[:count]])
        np.testing.assert_allclose(logits, expected, atol=1e-4)
