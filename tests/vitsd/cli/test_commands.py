"""vitsd-train and vitsd-evaluate as a person types them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitsd.cli import train


def test_train_then_evaluate(command, tmp_path):
    done = command(
        "vitsd-train",
        *["--preset", "tiny", "--data", "digits", "--epochs", "3", "--num-layers", "1"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("Test accuracy: ") and line.endswith("%") for line in lines)
    assert any(line.startswith("Test top 5 accuracy: ") for line in lines)
    model = tmp_path / "runs" / "tiny-digits" / "model.keras"
    report = json.loads(command("vitsd-evaluate", model, "--data", "digits", "--json").stdout)
    assert report["images"] == 359
    assert f"Test accuracy: {100 * report['top1']:.2f}%" in lines
    assert len(report["per_class"]) == 10
    before = model.read_bytes()
    finished = command("vitsd-train", "--resume", "--output", "runs/tiny-digits", cwd=tmp_path)
    assert finished.returncode == 0
    assert "nothing is left to train" in finished.stdout
    assert model.read_bytes() == before

    broken = command(
        "vitsd-evaluate", model, "--data", "digits", env={"KERAS_BACKEND": "tensorflw"}
    )
    assert broken.returncode == 2
    assert "KERAS_BACKEND" in broken.stderr
    assert "Traceback" not in broken.stderr

    again = command(
        "vitsd-train", "--resume", "--output", "runs/tiny-digits", "--epochs", "5", cwd=tmp_path
    )
    assert again.returncode == 2
    assert "epochs was 3, now 5" in again.stderr


def test_evaluate_gives_the_same_for_an_artifact(command, trained, exported):
    keras_report, tflite_report = (
        json.loads(
            command("vitsd-evaluate", model, "--data", "digits", "--json", "--limit", 100).stdout
        )
        for model in (trained / "model.keras", exported / "digits-float32.tflite")
    )
    assert keras_report["top1"] == tflite_report["top1"]
    text = command("vitsd-evaluate", exported / "digits.onnx", "--data", "digits").stdout
    assert "Test top 5 accuracy" in text


def test_evaluate_shows_how_far_probabilities_can_be_trusted(command_here, exported, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (20, 20), np.uint8)
        Image.fromarray(noise).save(others / f"{i}.png")
    words = (
        *("vitsd-evaluate", exported / "digits.onnx", "--data", "digits"),
        *("--strangers", others, "--strangers", "digits"),
    )
    for name in (others, tmp_path / "r", tmp_path / "r.xyz"):
        refused = command_here(*words, "--reliability", name)
        assert (refused.returncode, refused.stdout) == (2, "")
    picture = tmp_path / "r.png"
    text = command_here(*words, "--reliability", picture).stdout
    assert "% without the temperature)" in text
    assert "Known at its threshold of" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    report = json.loads(command_here(*words, "--json").stdout)
    folder, same = report["strangers"]
    assert (folder["data"], folder["images"]) == (str(others), 3)
    assert same["auroc"] == pytest.approx(0.5, abs=0.1)
    assert report["known"] == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize(
    ("layout", "output", "refused"),
    [
        ("", None, True),
        ("", "cat/run", True),
        ("train/", "train/run", True),
        ("train/", "run", False),  # beside the splits, where nothing is read
        ("", "../run", False),
    ],
)
def test_a_run_folder_among_the_images_would_be_a_class(
    command_here, tmp_path, layout, output, refused
):
    photos = tmp_path / "photos"
    for name in ("cat", "dog"):
        (photos / layout / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng(i + len(name)).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(photos / layout / name / f"{i}.png")
    where = [] if output is None else ["--output", output]
    # What is refused later on comes after the check.
    words = ("vitsd-train", "--preset", "tiny", "--data", ".", "--teacher", "nobody", *where)
    done = command_here(*words, cwd=photos)
    assert done.returncode == 2
    assert ("would lie among the images" in done.stderr) == refused
    assert ("nobody" in done.stderr) != refused


def test_what_means_nothing_is_not_printed(command, exported, digits, tmp_path):
    few = digits.labels < 3
    images, labels = digits.images[few], digits.labels[few]
    data = tmp_path / "few.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    text = command("vitsd-evaluate", exported / "digits.onnx", "--data", data).stdout
    assert [line.split()[0] for line in text.splitlines()[2:5]] == ["0", "1", "2"]
    assert text.splitlines()[5] == ""  # no rows of classes that have no images
    done = command(
        "vitsd-train",
        *["--preset", "tiny", "--epochs", "1", "--num-layers", "1", "--output", "run", "--data"],
        data,
        cwd=tmp_path,
    )
    assert "Test accuracy" in done.stdout
    assert "top 5" not in done.stdout


def test_ctrl_c_leaves_a_run_that_can_be_resumed(command, tmp_path):
    tool = Path(sys.executable).parent / "vitsd-train"
    arguments = [
        tool,
        *["--preset", "tiny", "--data", "digits", "--num-layers", "1", "--epochs", "6"],
        *["--output", "run"],
    ]
    process = subprocess.Popen(
        arguments,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.npz").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "vitsd-train --resume --output run" in errors
    assert "Traceback" not in errors
    done = command("vitsd-train", "--resume", "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 7
    assert "Resuming" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [100, 300], ids=["best.npz", "last.npz"])
def test_a_full_disk_ends_training_with_one_line(tmp_path, kilobytes):
    # Files that may not grow: writing fails as on a full disk, and no other user of it is hurt.
    limited = f"""
import resource, sys
from vitsd.cli.train import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes * 1000}, {kilobytes * 1000}))
sys.exit(main())
"""
    options = ["--preset", "tiny", "--data", "digits", "--epochs", "1", "--num-layers", "1"]
    words = [sys.executable, "-c", limited, *options, "--output", "run"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr[-2000:]
    assert "File too large" in done.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names <= {"run.json", "metrics.csv", "best.npz"}


def test_a_place_that_cannot_be_written_to_is_named(command, tmp_path):
    done = command(
        "vitsd-train",
        *["--preset", "tiny", "--data", "digits", "--output", "/proc/none/run"],
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "/proc/none" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_photos(command, tmp_path):
    for split, count in (("train", 12), ("val", 4)):
        for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40 + i, 50), tuple(c + 2 * i for c in color)).save(
                    folder / f"{i}.jpg"
                )
    done = command(
        "vitsd-train",
        *["--preset", "tiny", "--data", "photos", "--epochs", "3", "--num-layers", "1"],
        *["--batch-size", "8"],
        *["--output", "run", "--json", "--resize-mode", "crop"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "top1" in json.loads(done.stdout)
    inspected = json.loads(
        command("vitsd-inspect", tmp_path / "run" / "model.keras", "--json").stdout
    )["spec"]
    assert inspected["class_names"] == ["blue", "red"]
    assert inspected["input_size"] == [24, 24, 3]
    assert inspected["resize_mode"] == "crop"


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("--from", "pretrained", "model.keras"),
        ("--freeze-body", "freeze_backbone", True),
        ("--fit", "resize_mode", "crop"),
        ("--width", "hidden_dim", 32),
        ("--depth", "num_layers", 3),
        ("--warmup", "warmup_fraction", 0.2),
        ("--validation", "validation_fraction", 0.3),
        ("--clip-norm", "global_clipnorm", 1.5),
        ("--mixup", "mixup_alpha", 0.4),
        ("--cutmix", "cutmix_alpha", 0.5),
        ("--ema", "ema_momentum", 0.9),
    ],
)
def test_options_by_their_old_names_still_work_and_say_so(monkeypatch, capsys, old, new, value):
    parsed = []
    monkeypatch.setattr(train, "_main", parsed.append)
    words = [old] if value is True else [old, str(value)]
    assert train.main(words) == 0
    assert getattr(parsed[0], new) == value
    new_option = f"--{new.replace('_', '-')}"
    assert f"note: {old} is called {new_option} now" in capsys.readouterr().err
    assert train.main([new_option, *words[1:]]) == 0
    assert capsys.readouterr().err == ""


def test_every_old_name_is_tested():
    tested = test_options_by_their_old_names_still_work_and_say_so.pytestmark[0].args[1]
    assert {old for old, _, _ in tested} == set(train._RENAMED)  # noqa: SLF001 - all of them


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["vitsd-train", "--preset", "vit-smal-ds", "--data", "digits"],
            "Did you mean 'vit-small-ds'",
        ),
        (["vitsd-train"], "--data"),
        (["vitsd-train", "--data", "nowhere"], "There is no dataset"),
        (["vitsd-train", "--data", "digits", "--image-size", "70"], "multiple of patch_size"),
        (
            ["vitsd-train", "--data", "digits", "--num-heads", "0"],
            "--num-heads: must be a whole number from 1",
        ),
        (
            ["vitsd-train", "--data", "digits", "--epochs", "0"],
            "--epochs: must be a whole number from 1",
        ),
        (["vitsd-train", "--data", "digits", "--learning-rate", "-1"], "--learning-rate: must be"),
        (["vitsd-train", "--resume"], "no run under runs/"),
        (["vitsd-train", "--resume", "--output", "none"], "no run in none"),
        (["vitsd-train", "--data", "empty"], "no class folders"),
        (["vitsd-train", "--data", "digits", "--input-size", "0"], "whole number from 1"),
        (["vitsd-train", "--data", "digits", "--input-size", "32"], "is for folders"),
        (["vitsd-train", "--data", "digits", "--value-range", "0,16"], "leave out --value-range"),
        (["vitsd-train", "--data", "digits", "--value-range", "16,0"], "two rising numbers"),
        (["vitsd-train", "--data", "digits", "--value-range", "0,nan"], "two rising numbers"),
        (["vitsd-train", "--data", "float.npz"], "--value-range 0,1"),
        (["vitsd-train", "--data", "digits", "--output", "file/run"], "not a folder"),
        (["vitsd-evaluate", "none.keras", "--data", "digits"], "no model at"),
        (["vitsd-evaluate", "MODEL", "--data", "color.npz"], "3 channels"),
        (["vitsd-evaluate", "MODEL", "--data", "digits", "--split", "dev"], "invalid choice"),
    ],
)
def test_misuse_ends_with_a_message(command_here, trained, tmp_path, arguments, message):
    import numpy as np

    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    y = np.arange(20) % 10
    x = np.zeros((20, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "color.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    np.savez(tmp_path / "float.npz", x_train=x / 255, y_train=y, x_test=x / 255, y_test=y)
    done = command_here(
        *(trained / "model.keras" if a == "MODEL" else a for a in arguments), cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
