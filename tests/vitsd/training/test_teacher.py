"""Learning from a trained model's answers."""

import dataclasses
import shutil

import numpy as np
import pytest

from vitsd import load_dataset, load_model
from vitsd.config import VitConfig
from vitsd.evaluation.predict import model_logits
from vitsd.hub.saving import save_model
from vitsd.presets import get_preset
from vitsd.recipe import TrainingRecipe
from vitsd.training.augmentation import BatchAugmentation
from vitsd.training.fine_tuning import recipe_for
from vitsd.training.sequence import ImageSequence
from vitsd.training.teacher import Teacher
from vitsd.training.train import train
from vitsd_runtime import UsageError, read_spec
from vitsd_runtime.classifier import softmax

pytestmark = pytest.mark.slow


@pytest.fixture(params=["keras", "exported"])
def teaching(request, trained):
    """A trained model as it is, and as an engine has it."""
    if request.param == "keras":
        return trained / "model.keras"
    return request.getfixturevalue("exported_model")("-int8.tflite")


def test_its_answers_to_what_the_student_sees_get_their_share(teaching):
    digits = load_dataset("digits")
    images, labels = digits.test.images[:20], np.eye(10, dtype=np.float32)[digits.test.labels[:20]]
    teacher = Teacher.load(teaching, 0.25, 8, digits.class_names, digits.image_shape)
    taught = teacher.labels(images, labels)
    expected = 0.75 * labels + 0.25 * softmax(model_logits(teaching, images))
    np.testing.assert_allclose(taught, expected, atol=1e-6)
    assert taught.dtype == np.float32


def test_a_teacher_sees_what_the_student_sees():
    digits = load_dataset("digits")
    seen = []

    def answers(images):
        seen.append(images)
        return np.zeros((len(images), 10), np.float32)

    teacher = Teacher(answers, 1.0)
    plain, images = (
        ImageSequence(digits.train, 10, 16, 0, BatchAugmentation(recipe), teacher)[0][0]
        for recipe in (TrainingRecipe(), TrainingRecipe(crop_padding=1))
    )
    assert (plain != images).any()
    np.testing.assert_array_equal(seen[1], images)


def test_a_student_learns_from_a_teacher_what_wrong_labels_hide(trained, tmp_path):
    digits = load_dataset("digits")
    shuffled = np.random.default_rng(0).permutation(digits.train.labels)
    data = dataclasses.replace(digits, train=dataclasses.replace(digits.train, labels=shuffled))
    config = VitConfig.from_spec(read_spec(trained / "model.keras"))
    config = dataclasses.replace(config, num_layers=1)
    recipe = TrainingRecipe(
        epochs=6,
        batch_size=64,
        learning_rate=3e-3,
        flip=False,
        rotation=0,
        zoom=0,
        validation_fraction=0,
        teacher=str(trained),
        teacher_share=1.0,
    )
    results = train(config, recipe, data, tmp_path / "run")
    assert results["top1"] > 0.5
    spec = read_spec(tmp_path / "run" / "model.keras")
    assert spec.provenance.recipe["teacher"] == str(trained)
    # Whoever fine-tunes this model has classes of their own.
    assert recipe_for(spec).teacher == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": tuple("abcdefghij")}, "has other classes than the data"),
        ({"input_size": (9, 8, 1)}, "takes images of 8x8x1; these are 9x8x1"),
    ],
)
def test_a_teacher_of_other_things_is_refused(trained, change, message):
    spec = read_spec(trained / "model.keras")
    fitting = {"class_names": spec.class_names, "input_size": spec.input_size}
    Teacher.load(trained, 0.5, 8, **fitting)
    with pytest.raises(UsageError, match=message):
        Teacher.load(trained, 0.5, 8, **{**fitting, **change})


def test_the_command_says_what_is_wrong_with_a_teacher(command_here, tmp_path):
    options = ("vitsd-train", "--data", "digits", "--output", tmp_path / "run", "--preset", "tiny")
    for teacher, message in (
        ("nobody", "nobody"),
        ("vit-edge-cifar100", "--teacher"),
        ("runs/none-int8.tflite", "no model at runs/none-int8.tflite"),
    ):
        done = command_here(*options, "--teacher", teacher)
        assert done.returncode == 2
        assert message in done.stderr
        assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_with_the_teacher_that_it_was_started_with(trained, tmp_path):
    teacher = tmp_path / "teacher.keras"
    shutil.copyfile(trained / "model.keras", teacher)
    data = load_dataset("digits")
    config = dataclasses.replace(get_preset("tiny").config, num_layers=1)
    recipe = TrainingRecipe(epochs=1, batch_size=512, teacher=str(teacher))
    train(config, recipe, data, tmp_path / "run")
    train(config, recipe, data, tmp_path / "run", resume=True)
    model, spec = load_model(trained / "model.keras")
    model.weights[-1].assign(model.weights[-1] + 1.0)
    save_model(model, teacher, spec)
    with pytest.raises(UsageError, match="teacher was"):
        train(config, recipe, data, tmp_path / "run", resume=True)
