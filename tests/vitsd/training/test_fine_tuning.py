"""Fine-tuning starts with what a model has learned, and changes no more than it is told to."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from vitsd import VitConfig, load_dataset, load_model
from vitsd.cli.train import main
from vitsd.data.dataset import Dataset, Split
from vitsd.training.fine_tuning import PretrainedStart, epochs_for, recipe_for
from vitsd.training.train import train
from vitsd_runtime import UsageError, VitsdError, read_spec
from vitsd_runtime.formats import write_spec
from vitsd_runtime.spec import Provenance

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def even_or_odd():
    """Digits with two classes, few of them."""
    digits = load_dataset("digits")

    def halve(split, count):
        chosen = split.sample(count)
        return dataclasses.replace(chosen, labels=chosen.labels % 2)

    train_images, test_images = halve(digits.train, 200), halve(digits.test, 200)
    return dataclasses.replace(
        digits, train=train_images, test=test_images, class_names=("even", "odd"), name="parity"
    )


def fine_tune(trained, data, output, freeze_backbone):
    start = PretrainedStart.load(trained, freeze_backbone)
    config = VitConfig.from_spec(start.spec)
    recipe = recipe_for(start.spec, freeze_backbone, epochs=10)
    results = train(config, recipe, data, output, pretrained=start)
    return results, load_model(output / "model.keras")


def by_path(model):
    return {weight.path: np.asarray(weight) for weight in model.weights}


@pytest.mark.parametrize("freeze_backbone", [False, True])
def test_what_was_learned_helps_and_a_frozen_backbone_stays(
    trained, even_or_odd, tmp_path, freeze_backbone
):
    results, (model, spec) = fine_tune(trained, even_or_odd, tmp_path / "run", freeze_backbone)
    before, after = by_path(load_model(trained / "model.keras")[0]), by_path(model)
    backbone = [path for path in before if not path.startswith(("logits", "normalization"))]
    same = [np.array_equal(before[path], after[path]) for path in backbone]
    assert all(same) if freeze_backbone else not any(same[: len(same) // 2])
    assert after["logits/kernel"].shape == (64, 2)
    assert spec.mean == read_spec(trained / "model.keras").mean
    assert spec.class_names == ("even", "odd")
    assert spec.provenance.fine_tuned_from["name"] == "digits"
    assert results["top1"] > (0.7 if freeze_backbone else 0.8)


def test_the_command_fine_tunes_resumes_and_exports(command, trained, even_or_odd, tmp_path):
    np.savez(
        tmp_path / "parity.npz",
        x_train=even_or_odd.train.images,
        y_train=even_or_odd.train.labels,
        x_test=even_or_odd.test.images,
        y_test=even_or_odd.test.labels,
        class_names=np.array(["even", "odd"]),
    )
    run = tmp_path / "run"
    words = (
        "vitsd-train",
        "--pretrained",
        trained,
        "--freeze-backbone",
        "--data",
        tmp_path / "parity.npz",
        "--epochs",
        10,
    )
    options = ("--output", run, "--json")
    done = command(*words, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["top1"] > 0.6
    assert json.loads((run / "run.json").read_text())["pretrained"]["freeze_backbone"] is True
    again = command("vitsd-train", "--resume", "--output", run)
    assert "finished already" in again.stdout
    done = command("vitsd-export", run / "model.keras")
    assert done.returncode == 0, done.stderr
    assert (run / "run-float32.tflite").exists()


@pytest.mark.parametrize(("dataset", "rule"), [("digits", "position"), ("other-digits", "content")])
def test_on_its_own_data_the_model_is_validated_on_what_it_has_not_seen(
    command_here, trained, tmp_path, dataset, rule
):
    model = tmp_path / "model.keras"
    shutil.copy(trained / "model.keras", model)
    spec = read_spec(model)
    entries = {**dataclasses.asdict(spec.provenance), "dataset": dataset, "split_rule": None}
    write_spec(model, spec.replace(provenance=Provenance(**entries)))
    options = ("--freeze-backbone", "--data", "digits", "--epochs", 1)
    command_here("vitsd-train", "--pretrained", model, *options, "--output", tmp_path / "run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["data"]["split_rule"] == rule


def test_images_that_the_pretrained_model_has_seen_prove_nothing(trained, digits, tmp_path, caplog):
    seen = load_dataset("digits").split("train").take(np.arange(60))
    new = Split(digits.images[:60], digits.labels[:60])
    dataset = Dataset("mixed", tuple("0123456789"), new, test=seen, val=seen)
    start = PretrainedStart.load(trained, freeze_backbone=True)
    recipe = dataclasses.replace(recipe_for(start.spec, freeze_backbone=True), epochs=1)
    config = VitConfig.from_spec(start.spec)
    train(config, recipe, dataset, tmp_path / "run", pretrained=start)
    for kind in ("val", "test"):
        assert f"60 of 60 {kind} images were trained on" in caplog.text
    assert "has seen 60 of 60 validation images. So the model's probabilities" in caplog.text
    assert read_spec(tmp_path / "run" / "model.keras").confidence is None


@pytest.mark.parametrize("same_classes", [True, False])
def test_the_last_layer_goes_on_where_the_classes_are_the_same(trained, same_classes):
    start = PretrainedStart.load(trained, freeze_backbone=True)
    before = by_path(load_model(trained / "model.keras")[0])
    model, _ = load_model(trained / "model.keras")
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    names = start.spec.class_names
    start.apply(model, names if same_classes else names[::-1])
    for path, weight in by_path(model).items():
        new = path.startswith("logits") and not same_classes
        assert np.array_equal(weight, before[path]) != new
    assert [weight.path for weight in model.trainable_weights] == ["logits/kernel", "logits/bias"]


@pytest.mark.parametrize("same_classes", [True, False])
def test_a_share_of_the_trained_weights_comes_back(trained, same_classes):
    start = PretrainedStart.load(trained, share=0.25)
    before = by_path(load_model(trained / "model.keras")[0])
    tuned, _ = load_model(trained / "model.keras")
    tuned.set_weights([weight + 4 for weight in tuned.get_weights()])
    names = start.spec.class_names
    start.blend(tuned, names if same_classes else names[::-1])
    for path, weight in by_path(tuned).items():
        kept = path.startswith("logits") and not same_classes
        np.testing.assert_allclose(weight - before[path], 4 if kept else 3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--freeze-backbone", "--data", "digits"], "--pretrained"),
        (["--pretrained-share", "0.5", "--data", "digits"], "say of which model"),
        (["--pretrained", "MODEL", "--pretrained-share", "1", "--data", "digits"], "in [0, 1)"),
        (
            ["--pretrained", "MODEL", "--num-layers", "3", "--data", "digits"],
            "leave out --num-layers",
        ),
        (["--pretrained", "MODEL", "--preset", "tiny", "--data", "digits"], "leave out --preset"),
        (["--pretrained", "nothing", "--data", "digits"], "No model is found"),
        (["--pretrained", "EXPORTED", "--data", "digits"], "starts from a .keras file"),
        (["--pretrained", "MODEL", "--data", "COLOR"], "1 channels"),
    ],
)
def test_misuse(command_here, trained, exported, tmp_path, arguments, message):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "color.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    names = {
        "MODEL": trained,
        "COLOR": tmp_path / "color.npz",
        "EXPORTED": exported / "digits-float32.tflite",
    }
    done = command_here(
        "vitsd-train", *(names.get(a, a) for a in arguments), "--output", tmp_path / "run"
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_recipe_is_the_models_own_gentler_and_in_float32(trained):
    spec = read_spec(trained / "model.keras")
    stored = {**spec.provenance.recipe, "precision": "mixed_bfloat16", "mixup_alpha": 0.2}
    recipe = recipe_for(spec.replace(provenance={"recipe": stored}), epochs=7)
    assert (recipe.epochs, recipe.batch_size, recipe.precision, recipe.mixup_alpha) == (
        7,
        32,
        "float32",
        0.2,
    )
    assert recipe.learning_rate == stored["learning_rate"] / 4
    again = {"recipe": stored, "fine_tuned_from": {"name": "another"}}
    assert recipe_for(spec.replace(provenance=again)).learning_rate == stored["learning_rate"]
    small = recipe_for(spec.replace(provenance={"recipe": {**stored, "batch_size": 8}}))
    assert small.batch_size == 8


def test_few_images_are_seen_more_often():
    assert [epochs_for(images, 32) for images in (5, 32, 33, 140, 256, 100_000)] == [
        150,
        150,
        75,
        30,
        20,
        20,
    ]


@pytest.mark.parametrize(("options", "epochs"), [([], 75), (["--epochs", "3"], 3)])
def test_the_command_trains_as_long_as_its_images_need(
    trained, monkeypatch, tmp_path, options, epochs
):
    def note(config, recipe, *_, **__):
        started.append(recipe.epochs)
        raise VitsdError("that is all")

    started = []
    monkeypatch.setattr("vitsd.training.train.train", note)
    few = load_dataset("digits").train.sample(40)
    splits = {"x_train": few.images, "y_train": few.labels}
    np.savez(tmp_path / "few.npz", **splits, x_test=few.images, y_test=few.labels)
    words = ["--pretrained", trained, "--data", tmp_path / "few.npz", "--output", tmp_path / "run"]
    assert main([*map(str, words), *options]) == 1
    assert started == [epochs]


def test_an_unknown_recipe_is_replaced_by_the_default(trained):
    spec = read_spec(trained / "model.keras").replace(provenance={"recipe": {"unknown": 1}})
    recipe = recipe_for(spec)
    assert (recipe.epochs, recipe.batch_size) == (20, 32)
    for wrong in (
        {"learning_rate": -1},
        {"epochs": "x"},
        {"warmup_fraction": None},
        {"flip": 2},
        {"validation_fraction": float("nan")},
    ):
        with pytest.raises(UsageError):
            recipe_for(spec.replace(provenance={"recipe": wrong}))
