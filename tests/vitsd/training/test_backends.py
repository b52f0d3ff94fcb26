"""The same code trains on every Keras backend, also where TensorFlow is not installed."""

import importlib.util
import json

import numpy as np
import pytest

# Keras itself imports TensorFlow where it is installed, when it saves a model; here it is hidden.
SCRIPT = """
import importlib.machinery, json, sys

find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.split(".")[0] == "tensorflow" else find(name, *rest)
)
import numpy as np
from vitsd.cli.train import main
from vitsd.training import optimizer
optimizer.on_accelerator = lambda: True  # several steps at once, where Keras can
options = "--preset tiny --data digits --epochs 2 --num-layers 1 --output run"
options += " --ema-momentum 0.5 --mixup-alpha 0.1 --flip"
assert main(options.split()) == 0
import dataclasses
from vitsd import TrainingRecipe, VitConfig, build_vit, load_dataset, load_model
model, spec = load_model(sys.argv[1])
two = build_vit(dataclasses.replace(VitConfig.from_spec(spec), num_classes=2))
optimizer.compile_model(two, TrainingRecipe(), 1)  # fewer classes than a top 5 has
results = two.evaluate(np.zeros((3, 8, 8, 1)), np.eye(2)[[0, 1, 1]], verbose=0, return_dict=True)
assert results["top5"] == 1
logits = np.asarray(model.predict(load_dataset("digits").test.images[:20], verbose=0))
assert "tensorflow" not in sys.modules
print(json.dumps(logits.tolist()))
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_training_and_loading_on_other_backends(command, trained, tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = command(
        "python",
        "-c",
        SCRIPT,
        trained / "model.keras",
        cwd=tmp_path,
        env={"KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[3]) for row in rows[1:]]
    assert losses[1] < losses[0]

    from vitsd import load_dataset, load_model

    model, _ = load_model(trained / "model.keras")
    expected = model.predict(load_dataset("digits").test.images[:20], verbose=0)
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, atol=1e-2)
