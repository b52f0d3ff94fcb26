"""vitsd-predict: what its words mean, which images it answers, and what it prints."""

import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import Classifier, Prediction
from vitsd_runtime.cli import output
from vitsd_runtime.images import antialias


@pytest.fixture
def classifier(spec):
    """Knows light from dark; no engine is needed for what a command prints."""

    def logits(batch):
        brightness = batch.mean(axis=(1, 2, 3))
        return np.stack([brightness, -brightness, np.zeros_like(brightness)], axis=1)

    spec = spec.replace(class_names=("light", "=1+1", "grey"))
    return Classifier(SimpleNamespace(run=logits), spec, Path("m.tflite"), 1, batch_size=4)


@pytest.fixture
def run(command_here, monkeypatch, classifier, tmp_path):
    """The command in ``tmp_path`` with a stand-in for every model; also says what it loaded."""
    loaded = []

    def load(path, **_):
        loaded.append(os.fspath(path))
        return classifier

    monkeypatch.setattr(Classifier, "load", load)

    def run(*words, stdin=b""):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        done = command_here("vitsd-predict", *words, cwd=tmp_path)
        done.loaded = loaded
        return done

    return run


@pytest.fixture
def photos(photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(photo).save(folder / name)
    return folder


def hide_a_saved_model_in(folder):
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(b"a program")


def test_a_folder_is_never_taken_for_a_model(run, photos):
    hide_a_saved_model_in(photos)
    hide_a_saved_model_in(photos / "1")
    done = run("photos", "photos/a.png", "--json")
    assert done.returncode == 0, done.stderr
    images = [json.loads(line)["image"] for line in done.stdout.splitlines()]
    assert images == ["photos/a.png", "photos/b.png", "photos/a.png"]
    assert [path.split("/")[-1] for path in done.loaded] == ["vit-edge-cifar100.tflite"]
    assert "2 .pb left out" in done.stderr


def test_a_saved_model_is_named_by_the_option(run, photos, tmp_path):
    hide_a_saved_model_in(tmp_path / "model")
    refused = run("model", "photos/a.png")
    assert refused.returncode == 2
    assert "--model" in refused.stderr
    assert refused.loaded == []
    assert run("--model", "model", "photos/a.png").loaded == ["model"]


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["m.tflite", "photos"], "m.tflite"),
        (["M.ONNX", "photos"], "M.ONNX"),
        (["--model", "m.tflite", "photos"], "m.tflite"),
        (["photos", "--model", "m.onnx"], "m.onnx"),
    ],
)
def test_a_model_is_a_first_word_with_its_ending_or_the_option(run, photos, words, model):
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert done.loaded == [model]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photos", "m.tflite"], "m.tflite is a model: name one, before the images"),
        (["m.tflite", "n.onnx", "photos"], "n.onnx is a model"),
        (["--model", "m.tflite", "n.tflite", "photos"], "n.tflite is a model"),
        (["m.tflite"], "no images"),
        (["nothing", "photos"], "no image or folder 'nothing'"),
        (["model.bin", "photos"], "model.bin is neither an image nor the name of a model"),
        (["", "photos"], "name of an image is empty"),
        (["photos", ""], "name of an image is empty"),
        (["-", "photos", "-"], "Standard input holds one image"),
        (["http://a.b/c.jpg"], "download it first"),
        ([], "name images, or use --camera or --watch"),
        (["photos", "--camera"], "photos is one word too many"),
        (["m.tflite", "photos", "--watch", "photos"], "photos is one word too many"),
        (["--camera", "m.tflite"], "m.tflite is a model: name it before --camera"),
        (["--camera", "0", "--watch", "photos"], "not allowed with"),
        (["--camera", "--csv"], "use --json here"),
        (["photos", "--every", "1"], "--every belongs to --camera and --watch"),
        (["--camera", "--workers", "2"], "With --camera, images are answered one by one"),
        (["--watch", ".", "--workers", "2"], "leave out --workers"),
        (["photos", "--shard", "1/2", "--workers", "2"], "With --shard, images are"),
        (["--camera", "--every", "-1"], "from 0 to 86,400"),
        (["--camera", "--output", "a"], "--output belongs to --watch"),
        (["--watch", ""], "--watch is empty"),
        (["--watch", "nothing"], "no folder 'nothing'"),
        (["--watch", "photos", "--output", "photos"], "'photos' is a folder: name a file in it"),
        (["--camera", "nothing"], "no camera or video 'nothing'"),
        (["--camera", "photos"], "photos is a folder: --watch takes those"),
    ],
)
def test_words_that_make_no_sense_are_misuse(run, photos, words, said):
    (photos.parent / "model.bin").write_bytes(b"\x13\x37 something")
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_bundled_model_is_named_like_a_file(run, photos):
    done = run("vit-micro-cifar100", "photos/a.png", "--json")
    assert done.returncode == 0, done.stderr
    assert done.loaded == ["vit-micro-cifar100"]


def test_images_from_standard_input_and_pipes(run, photos):
    content = (photos / "a.png").read_bytes()
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    done = run("-", f"/dev/fd/{read}", "photos/a.png", "--json", stdin=content)
    os.close(read)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line)["predictions"] for line in done.stdout.splitlines()]
    assert answers[0] == answers[1] == answers[2]


def test_names_may_begin_like_options(run, photos):
    for name in ("-a.png", "--fit"):
        (photos.parent / name).write_bytes((photos / "a.png").read_bytes())
    done = run("--json", "--", "-a.png", "--fit", "photos/a.png")
    assert done.returncode == 0, done.stderr
    names = [json.loads(line)["image"] for line in done.stdout.splitlines()]
    assert names == ["./-a.png", "./--fit", "photos/a.png"]


def test_a_first_image_without_an_ending_is_an_image(run, photos):
    (photos / "a.png").rename(photos / "IMG_1")
    assert run("photos/IMG_1").returncode == 0


BAD_IMAGES = ["wide.png", "broken.jpg", "photo.HEIC", "huge.png", "missing.png", "notes", "empty"]


@pytest.mark.parametrize("bad", BAD_IMAGES)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_good_images_are_answered_whatever_stands_between_them(run, photos, tmp_path, bad, place):
    Image.new("1", (100_001, 1)).save(tmp_path / "wide.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (tmp_path / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "notes").write_text("a list")
    (tmp_path / "empty").touch()
    with open(tmp_path / "huge.png", "wb") as huge:
        huge.truncate(2**33)
    words = ["photos/a.png"] * 5
    words.insert(place, bad)
    done = run(*words, "--json")
    assert done.returncode == 1
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["image"] for record in records] == words
    assert [record["image"] for record in records if "error" in record] == [bad]
    assert "1 of 6 images failed" in done.stderr


@pytest.mark.parametrize("options", [[], ["--num-threads", "1"], ["--batch-size", "3"]])
def test_workers_answer_in_the_order_of_the_images(run, photos, tmp_path, options):
    for i in range(40):
        Image.new("L", (40 + i, 40), 6 * i).save(photos / f"c{i:02}.png")
    (photos / "c07.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    alone = run("photos", "missing.png", "--json", "--workers", "1", *options)
    assert len(alone.stdout.splitlines()) == 43
    together = run("photos", "missing.png", "--json", "--workers", "3", *options)
    assert (together.stdout, together.stderr) == (alone.stdout, alone.stderr)
    assert together.returncode == alone.returncode == 1


@pytest.mark.parametrize(
    ("words", "num_threads"),
    [
        ([], 1),  # many batches: engines have one thread each
        (["--num-threads", "3"], 3),
        (["--workers", "1"], None),  # measured
        (["--batch-size", "40"], None),
    ],
)
def test_engines_of_several_workers_have_one_thread_each(
    command_here, photos, monkeypatch, classifier, words, num_threads
):
    for i in range(38):
        Image.new("L", (8, 8), 6 * i).save(photos / f"c{i:02}.png")
    given = []

    def load(_, **options):
        given.append(options["num_threads"])
        return classifier

    monkeypatch.setattr(Classifier, "load", load)
    monkeypatch.setattr("vitsd_runtime.cli.predict.usable_cores", lambda: 4)
    assert command_here("vitsd-predict", os.fspath(photos), *words).returncode == 0
    assert given == [num_threads]


def test_an_image_that_memory_does_not_suffice_for_is_one_failure(run, photos, monkeypatch):
    real, calls = antialias.resize, itertools.count()

    def resize(*arguments):
        if next(calls) == 0:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(antialias, "resize", resize)
    done = run("photos", "--csv", "--top-k", "1")
    assert done.returncode == 1
    _, first, second = csv.reader(io.StringIO(done.stdout))
    assert "more memory than there is" in first[-1]
    assert second[1:3] == ["1", "'=1+1"]


def test_what_a_folder_holds_beside_images_is_told(run, photos):
    for i in range(17):
        (photos / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (photos / ".hidden.png").write_bytes(b"x")
    done = run("photos")
    assert len(done.stdout.splitlines()) == 2
    assert "note: photos: 17 .heic left out (accepted: .png, .jpg" in done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((40, 40), 7, np.uint8), "all its pixels are equal"),
        (np.arange(1600).reshape(40, 40).astype(np.uint16), "almost black"),
        (np.arange(1600).reshape(40, 40).astype(np.uint16) * 40, None),
    ],
)
def test_an_image_without_content_is_noted(run, tmp_path, values, said):
    Image.fromarray(values).save(tmp_path / "a.png")
    done = run("a.png")
    assert done.returncode == 0
    assert (said or "") in done.stderr
    assert ("note" in done.stderr) == (said is not None)


def test_the_value_range_of_the_model_is_used_once(run, classifier, tmp_path):
    values = np.linspace(0, 4095, 1600).reshape(40, 40).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    (dark,) = json.loads(run("a.png", "--json", "--top-k", "1").stdout)["predictions"]
    assert dark["label"] == "=1+1"
    classifier.spec = classifier.spec.replace(value_range=(0, 4095))
    (best, *_) = json.loads(run("a.png", "--json").stdout)["predictions"]
    (expected, *_) = classifier.predict(values)[0]
    assert best["probability"] == expected.probability
    assert best["label"] == "light"


def test_what_the_model_does_not_know_is_said(run, classifier, photos):
    classifier.min_confidence = 0.8
    for name, color in (("a.png", (255, 255, 255)), ("b.png", (120, 110, 100))):
        Image.new("RGB", (8, 8), color).save(photos / name)
    sure, unsure = (json.loads(line) for line in run("photos", "--json").stdout.splitlines())
    assert sure["known"] is True
    assert unsure["known"] is False
    assert set(sure["predictions"][0]) == {"label", "index", "probability"}
    first, second = run("photos", "--top-k", "1").stdout.splitlines()
    assert "don't know" not in first
    assert re.fullmatch(r"photos/b.png: don't know \(\S+ \d\d\.\d %\)", second)
    rows = csv.DictReader(io.StringIO(run("photos", "--csv", "--top-k", "2").stdout))
    assert [row["known"] for row in rows] == ["true", "true", "false", "false"]


@pytest.mark.parametrize("value", ["1", "-0.1", "nan", "80", "inf", "x"])
def test_a_confidence_that_is_no_probability_is_misuse(run, photos, value):
    done = run("photos", f"--min-confidence={value}")
    assert done.returncode == 2
    assert "--min-confidence" in done.stderr


HOSTILE = "-=\n\x1b[2J\u202eb.png"


def test_text_and_csv_are_safe_and_json_is_exact(run, photos):
    (photos / "a.png").rename(photos.parent / HOSTILE)
    (photos / "b.png").unlink()
    (photos.parent / HOSTILE).rename(photos / HOSTILE)
    options = ([], ["--csv"], ["--json"])
    text, table, lines = (run("photos", *option, "--top-k", "1") for option in options)
    assert text.stdout.rstrip("\n").isprintable()
    assert r"\n\x1b[2J\u202eb.png: =1+1" in text.stdout
    (row,) = csv.DictReader(io.StringIO(table.stdout))
    assert row["label"] == "'=1+1"
    assert all(cell.isprintable() for cell in row.values())
    (record,) = [json.loads(line) for line in lines.stdout.splitlines()]
    assert record["image"] == f"photos/{HOSTILE}"
    assert record["predictions"][0]["label"] == "=1+1"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n@", "\uff1d"])
def test_no_cell_is_a_formula(capsys, start):
    show = output.csv_printer()
    show(f"{start}HYPERLINK(1).png", [Prediction(f"{start}1", 0, 0.5)])
    show("a.png", f"{start}error")
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    for cell in [cell for row in rows[1:] for cell in row]:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))


@pytest.mark.parametrize("append", [False, True])
def test_output_that_does_not_fit_ends_with_a_whole_row(tmp_path, append):
    # The limit on a file's size stands for a full disk.
    program = (
        "import resource, signal, sys\n"
        "from vitsd_runtime import Prediction\n"
        "from vitsd_runtime.cli import output\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "show = output.csv_printer()\n"
        "answer = [Prediction('cat', i, 0.5) for i in range(3)]\n"
        "try:\n"
        "    for i in range(1000): show(f'{i}.png', answer)\n"
        "except OSError: sys.exit(7)\n"
    )
    path = tmp_path / "answers.csv"
    before = "kept\n" if append else ""
    path.write_text(before)
    with open(path, "a" if append else "w") as file:
        done = subprocess.run([sys.executable, "-c", program], stdout=file)
    assert done.returncode == 7
    content = path.read_bytes().decode()
    assert content.startswith(before + "image,rank")
    assert content.endswith("\n")
    assert len(content) > 2800
    last = [line.split(",") for line in content.splitlines()[-3:]]
    assert [row[1] for row in last] == ["1", "2", "3"]  # all rows of the last image
