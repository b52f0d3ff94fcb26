"""A convolutional network that teaches a preset."""

import numpy as np
import pytest

from tools import cnn_teacher
from vitsd import load_dataset
from vitsd_runtime import read_spec

pytestmark = pytest.mark.slow


def test_its_answers_teach_a_preset(tmp_path, monkeypatch):
    monkeypatch.setattr(cnn_teacher, "_STAGES", ((8, 1), (16, 2)))
    digits = load_dataset("digits").with_validation(0.1)
    model = cnn_teacher.build_resnet(digits, "float32")
    path, run = tmp_path / "cnn.npz", tmp_path / "student"
    np.savez(path, *model.get_weights())
    answers = cnn_teacher.open_teacher(path, digits)
    np.testing.assert_allclose(
        answers(digits.test.images[:5]), model.predict(digits.test.images[:5], verbose=0), atol=0.02
    )
    words = ["--preset", "tiny", "--data", "digits", "--epochs", "1", "--output", str(run)]
    other = ["--num-layers", "2", "--pool-tokens-after", "1", "--camera", "0.2"]
    assert cnn_teacher.main([str(path), *words, *other]) == 0
    spec = read_spec(run / "model.keras")
    assert (spec.provenance.preset, spec.provenance.recipe["teacher"]) == ("tiny", "cnn")
    assert (spec.architecture.pool_tokens_after, spec.provenance.recipe["camera"]) == (1, 0.2)


@pytest.mark.parametrize("words", [["--preset", "tiny", "--output", "run"], ["--preset", "tiny"]])
def test_what_is_missing_is_said(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cnn_teacher.main(["none.npz", "--data", "digits", *words]) == 2
    assert ("none.npz" if len(words) > 2 else "--output") in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--num-layers", "2"), ("--ema-momentum", "0.9")])
def test_the_teacher_has_no_options_of_a_student(option, capsys):
    assert cnn_teacher.main(["none.npz", "--data", "digits", *option]) == 2
    assert f"leave out {option[0][2:].replace('-', '_')}" in capsys.readouterr().err
