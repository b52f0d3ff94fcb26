"""The same code trains on every Keras backend, and TensorFlow stays away where it is not the backend."""

import importlib.util
import json

import numpy as np
import pytest

SCRIPT = """
import json, sys
import numpy as np
from vitsd.cli.train import main
assert main(["--preset", "tiny", "--data", "digits", "--epochs", "2", "--depth", "1", "--output", "run", "--ema", "0.5",
             "--mixup", "0.1", "--flip"]) == 0
from vitsd import load_model, load_dataset
model, _ = load_model(sys.argv[1])
logits = np.asarray(model.predict(load_dataset("digits").test.images[:20], verbose=0))
print(json.dumps({"logits": logits.tolist(), "modules": sorted({m.split(".")[0] for m in sys.modules})}))
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_training_and_loading_on_other_backends(command, trained, tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = command("python", "-c", SCRIPT, trained / "model.keras", cwd=tmp_path, env={"KERAS_BACKEND": backend})
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert "tensorflow" not in result["modules"]
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[3]) for row in rows[1:]]
    assert losses[1] < losses[0]

    from vitsd import load_dataset, load_model

    model, _ = load_model(trained / "model.keras")
    expected = model.predict(load_dataset("digits").test.images[:20], verbose=0)
    np.testing.assert_allclose(result["logits"], expected, atol=1e-2)
