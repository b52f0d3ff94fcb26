"""A run that comes in small files from another machine is whole again when they are joined."""

import io
import tarfile

import numpy as np

from tools import pack_run
from vitsd import load_model


def test_the_parts_joined_are_the_run(trained, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_run, "MEGABYTE", 10_000)  # bytes
    assert pack_run.main([str(trained), str(tmp_path / "parts")]) == 0
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) > 1
    assert max(part.stat().st_size for part in parts) == 150_000
    joined = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=joined) as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / trained.name
    assert (folder / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()
    sizes = [(run / "model.keras").stat().st_size for run in (trained, folder)]
    assert sizes[1] < 0.7 * sizes[0]
    (before, spec), (after, same) = (load_model(run / "model.keras") for run in (trained, folder))
    assert same.replace(integrity=None) == spec.replace(integrity=None)
    logits = [model.predict(digits.images[:50], verbose=0) for model in (before, after)]
    np.testing.assert_allclose(*logits, atol=0.05)


def test_a_run_that_is_not_finished_is_refused(tmp_path, capsys):
    assert pack_run.main([str(tmp_path), str(tmp_path / "parts")]) == 2
    assert "holds no finished run" in capsys.readouterr().err
