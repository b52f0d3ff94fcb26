"""A convolutional network that teaches a preset."""

import dataclasses
import json

import pytest

from tools import cnn_teacher
from vitsd import load_dataset
from vitsd_runtime import read_spec

pytestmark = pytest.mark.slow


def test_it_is_trained_and_teaches(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cnn_teacher, "_STAGES", ((8, 1),))
    small = dataclasses.replace(
        cnn_teacher.RECIPE, batch_size=50, flip=False, crop_padding=1, precision="float32"
    )
    monkeypatch.setattr(cnn_teacher, "RECIPE", small)
    teacher = tmp_path / "new" / "teacher.npz"
    assert cnn_teacher.main([str(teacher), "--data", "digits", "--epochs", "1"]) == 0
    learned = json.loads(capsys.readouterr().out.splitlines()[-1])["top1"]
    digits = load_dataset("digits").with_validation(0.1)
    answers = cnn_teacher.open_teacher(teacher, digits)
    assert cnn_teacher.accuracy(answers, digits.test) == learned

    run = tmp_path / "student"
    words = ["--preset", "tiny", "--data", "digits", "--epochs", "1", "--output", str(run)]
    assert cnn_teacher.main([str(teacher), *words]) == 0
    spec = read_spec(run / "model.keras")
    assert spec.provenance.recipe["teacher"] == "teacher"
    assert spec.provenance.preset == "tiny"


def test_a_student_without_a_teacher_is_refused(tmp_path, capsys):
    words = ["--preset", "tiny", "--data", "digits", "--output", str(tmp_path / "run")]
    assert cnn_teacher.main([str(tmp_path / "none.npz"), *words]) == 2
    assert "none.npz" in capsys.readouterr().err
