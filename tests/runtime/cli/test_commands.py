"""The device's commands: what they print, and how they fail."""

import csv
import hashlib
import io
import json
import os
import signal

import pytest
from PIL import Image

import vitsd_runtime
from vitsd_runtime.accuracy import wilson_interval
from vitsd_runtime.system import machine as hardware


@pytest.fixture
def pictures(digits, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, label in enumerate(digits.labels[:5]):
        Image.fromarray(digits.images[i, ..., 0]).resize((50, 50)).save(folder / f"{i}_{label}.png")
    return folder


def test_predict_prints_one_line_per_image(command, exported_model, pictures):
    done = command("vitsd-predict", exported_model("-int8.tflite", ".onnx"), pictures, "--top-k", 2)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0].rsplit("/")[-1] for line in lines] == sorted(
        p.name for p in pictures.iterdir()
    )


def test_predict_json_and_csv_say_the_same(command, exported_model, pictures):
    model = exported_model(".onnx")
    as_json = command("vitsd-predict", model, pictures, "--json", "--top-k", 3, "--tta", "flip")
    as_csv = command("vitsd-predict", model, pictures, "--csv", "--top-k", 3, "--tta", "flip")
    records = [json.loads(line) for line in as_json.stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert len(rows) == 3 * len(records) == 15
    assert [p["label"] for r in records for p in r["predictions"]] == [row["label"] for row in rows]


def test_one_bad_image_among_many_is_reported_and_the_others_are_done(
    command, exported_model, pictures
):
    (pictures / "1_bad.png").write_bytes(b"broken")
    (pictures / "9_empty.jpg").touch()
    done = command("vitsd-predict", exported_model("-float32.tflite", ".onnx"), pictures, "--json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert sum("predictions" in record for record in records) == 5
    assert [record["image"] for record in records] == sorted(record["image"] for record in records)
    assert {record["image"].rsplit("/")[-1] for record in records if "error" in record} == {
        "1_bad.png",
        "9_empty.jpg",
    }
    assert "2 of 7 images failed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_counts_although_its_exception_was_dropped(number, code):
    import argparse

    from vitsd_runtime.cli import app
    from vitsd_runtime.system.signals import forget_signals

    handlers = {
        n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }

    def main(arguments):
        try:
            signal.raise_signal(number)
        except BaseException:  # as native code does with what its callbacks raise
            return 0

    try:
        if number == signal.SIGINT:
            assert (
                app.run(main, argparse.ArgumentParser(), [], distribution="vitsd-runtime") == code
            )
        else:
            with pytest.raises(SystemExit, match=str(code)):
                app.run(main, argparse.ArgumentParser(), [], distribution="vitsd-runtime")
    finally:
        forget_signals()
        for n, handler in handlers.items():
            signal.signal(n, handler)


def test_an_interrupt_in_a_weak_references_callback_is_no_traceback(command, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import argparse, signal, sys, weakref\n"
        "from vitsd_runtime.cli import app\n"
        # Ignored where the tests run in the background of a shell.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Resource: pass\n"
        "def main(arguments):\n"
        "    resource = Resource()\n"
        "    weakref.finalize(resource, signal.raise_signal, signal.SIGINT)\n"
        "    keep = weakref.ref(resource, lambda _: signal.raise_signal(signal.SIGINT))\n"
        "    del resource\n"
        "parser = argparse.ArgumentParser(prog='program')\n"
        "sys.exit(app.run(main, parser, [], distribution='vitsd-runtime'))\n"
    )
    done = command("python", program)
    assert done.returncode == 130
    assert done.stderr == "program: error: interrupted\n"


def test_predict_reads_every_image_once(exported_model, pictures, monkeypatch, capsys):
    from vitsd_runtime.cli import predict

    read = []
    real = predict.load_for_model
    monkeypatch.setattr(
        predict, "load_for_model", lambda path, *rest: read.append(path) or real(path, *rest)
    )
    monkeypatch.setattr(
        "vitsd_runtime.classifier.load_for_model", lambda *rest: pytest.fail("read once more")
    )
    model = exported_model("-float32.tflite", ".onnx")
    assert predict.main([str(model), str(pictures), "--batch-size", "2", "--num-threads", "1"]) == 0
    assert sorted(read) == sorted(pictures.iterdir())  # by several workers
    assert len(capsys.readouterr().out.splitlines()) == len(read)


def test_a_closed_pipe_is_no_crash(command, exported_model, pictures):
    model = exported_model("-float32.tflite", ".onnx")
    read, write = os.pipe()
    os.close(read)
    import subprocess
    import sys

    tool = os.path.join(os.path.dirname(sys.executable), "vitsd-predict")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [tool, model, pictures], stdout=closed, stderr=subprocess.PIPE, text=True, env=buffered
        )
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_output_to_a_full_disk_is_reported(exported_model, pictures):
    import subprocess
    import sys

    tool = os.path.join(os.path.dirname(sys.executable), "vitsd-predict")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [tool, exported_model("-float32.tflite", ".onnx"), pictures],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=buffered,
        )
    assert done.returncode == 1
    assert "disk is full" in done.stderr


def test_file_names_that_are_not_text_can_be_printed(command, exported_model, pictures):
    os.rename(next(pictures.iterdir()), os.fsencode(pictures) + b"/caf\xe9.png")
    done = command(
        "vitsd-predict",
        exported_model("-float32.tflite", ".onnx"),
        pictures,
        env={"PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


def test_native_output_is_held_back_by_threads_in_turn(capfd):
    import threading

    from vitsd_runtime.system.stderr import own_stderr, quiet_stderr

    def work():
        for _ in range(20):
            with quiet_stderr():
                os.write(2, b"noise")

    with own_stderr():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.write(2, b"heard")
        with pytest.raises(RuntimeError), quiet_stderr():
            os.write(2, b" reason")
            raise RuntimeError
    assert capfd.readouterr().err == "heard reason"
    with quiet_stderr():
        os.write(2, b"outside of a command")
    assert capfd.readouterr().err == "outside of a command"


def test_commands_say_nothing_of_an_engines_start(command, exported_model):
    done = command("vitsd-inspect", exported_model("-float32.tflite", ".onnx"), "--json")
    assert done.returncode == 0
    assert done.stderr == ""


def test_bench_measures_every_setting(command, exported_model):
    done = command(
        "vitsd-bench",
        exported_model("-float32.tflite", ".onnx"),
        exported_model("-int8.tflite", ".onnx"),
        *"--num-threads 1,2 --batch-sizes 1,4 --seconds 0.05 --json".split(),
    )
    report = json.loads(done.stdout)
    assert len(report["results"]) == 8
    for row in report["results"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["images_per_second"] > 0
    assert report["machine"]["cores"] >= 1
    assert report["peak_rss_mb"] > 10


def test_bench_tells_files_of_the_same_name_apart(command, exported_model, artifact):
    first, copy = exported_model("-int8.tflite", ".onnx"), artifact("-int8.tflite", ".onnx")
    done = command(
        "vitsd-bench", first, copy, *"--num-threads 1 --batch-sizes 1 --seconds 0.01 --json".split()
    )
    names = [row["model"] for row in json.loads(done.stdout)["results"]]
    assert names == [f"{first.parent.name}/{copy.name}", f"{copy.parent.name}/{copy.name}"]


def test_saved_results_can_be_compared(command, exported_model, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    model, settings = (
        exported_model("-int8.tflite", ".onnx"),
        "--batch-sizes 1 --seconds 0.05".split(),
    )
    command(
        "vitsd-bench",
        model,
        exported_model("-float32.tflite", "-dynamic.onnx"),
        "--num-threads",
        1,
        *settings,
        "--save",
        first,
    )
    command("vitsd-bench", model, "--num-threads", "1,2", *settings, "--save", second)
    results = json.loads(second.read_text())
    results["machine"] |= {"board": "Raspberry Pi 5 Model B Rev 1.0", "emulated": True}
    results["results"][0].update(
        p50_ms=2 * json.loads(first.read_text())["results"][0]["p50_ms"],
        engine="tflite-runtime 2.14",
    )
    second.write_text(json.dumps(results))

    rows = json.loads(command("vitsd-bench", "--compare", first, second, "--json").stdout)[
        "results"
    ]
    assert [(row["file"], row["threads"]) for row in rows] == [(1, 1), (2, 1), (1, 1), (2, 2)]
    assert [row["speedup"] for row in rows] == pytest.approx([1, 0.5, 1, 1])
    text = command("vitsd-bench", "--compare", first, second).stdout
    assert "\n2: " in text
    assert "Raspberry Pi 5" in text
    assert "Different machines" in text
    assert "emulated" in text
    assert "tflite-runtime 2.14" in text
    results["models"][0].update(accuracy=None, data_sha256=[])
    second.write_text(json.dumps(results))
    refused = command("vitsd-bench", "--compare", first, second)
    assert refused.returncode == 2
    assert "is not a file of results of vitsd-bench" in refused.stderr


@pytest.fixture
def photos(digits, tmp_path):
    """A folder of class folders with an image of each digit."""
    for label in range(10):
        path = tmp_path / "photos" / str(label) / "a.png"
        path.parent.mkdir(parents=True)
        first = list(digits.labels).index(label)
        Image.fromarray(digits.images[first, ..., 0]).save(path)
    return tmp_path / "photos"


ONCE = "--num-threads 1 --batch-sizes 1 --seconds 0.01".split()


def test_a_result_to_publish_says_what_was_measured_where(
    command_here, exported_model, photos, tmp_path
):
    model, saved = exported_model("-int8.tflite", ".onnx"), tmp_path / "a.json"
    measured = ["vitsd-bench", model, *ONCE, "--accuracy", photos, "--save", saved]
    done = command_here(*measured)
    assert done.returncode == 0, done.stderr
    report = json.loads(saved.read_text())
    (about,) = report["models"]
    accuracy = about["accuracy"]
    low, high = accuracy["top1_interval"]
    assert low < accuracy["top1"] < high or accuracy["top1"] == high == 1
    assert (low, high) == wilson_interval(round(10 * accuracy["top1"]), 10)
    assert about["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert "governor" in report["machine"]
    assert {"throttled", "temperature_c"} <= set(report["before"]) & set(report["after"])
    assert f"top-1 {100 * accuracy['top1']:.2f} % (95 % interval {100 * low:.2f}" in done.stdout
    assert str(tmp_path) not in saved.read_text()

    (photos / "3" / "a.png").rename(photos / "3" / "b.png")  # the same images
    report["models"][0]["accuracy"]["top1"] = 0.125
    three = [saved, tmp_path / "b.json", tmp_path / "c.json"]
    three[1].write_text(json.dumps(report))
    command_here(*measured[:-1], three[2])
    text = command_here("vitsd-bench", "--compare", *three).stdout
    assert "12.50" in text
    assert "Different" not in text
    assert "different images" not in text
    Image.new("L", (8, 8)).save(photos / "3" / "b.png")
    command_here(*measured[:-1], three[2])
    assert "different images" in command_here("vitsd-bench", "--compare", *three).stdout


def test_a_wrong_folder_ends_a_benchmark_before_it_measures(
    command_here, exported_model, photos, monkeypatch
):
    monkeypatch.setattr("vitsd_runtime.cli.bench.measure", None)
    (photos / "3").rename(photos / "dachshund")
    model = exported_model(".onnx")
    done = command_here("vitsd-bench", model, "--accuracy", photos)
    assert done.returncode == 2
    assert "dachshund" in done.stderr


def saved_result(**changes):
    """A report as ``--save`` writes it, with entries replaced by their paths ``a__0__b``."""
    machine = {"cpu": "x", "cores": 1, "physical_cores": 1, "system": "", "python": ""}
    report = {
        "machine": {**machine, "governor": None},
        "after": {"throttled": None, "temperature_c": 50.0},
        "results": [{"model": "m", "engine": "e", "threads": 1, "batch_size": 1, "p50_ms": 2}],
        "models": [
            {
                "model": "m",
                "sha256": "0" * 64,
                "data_sha256": "1" * 64,
                "accuracy": {"top1": 0.5, "top1_interval": [0.4, 0.6], "images": 100},
            }
        ],
    }
    for path, value in changes.items():
        *way, last = (int(part) if part.isdigit() else part for part in path.split("__"))
        entry = report
        for part in way:
            entry = entry[part]
        entry[last] = value
    return json.dumps(report)


def test_what_others_measured_is_printed_harmlessly(command_here, assert_harmless, tmp_path):
    evil = "a\x1b[31m\n\u202eb"
    places = ("machine__governor", "results__0__model", "results__0__engine")
    contents = [
        saved_result(),
        saved_result(**dict.fromkeys(places, evil), after__throttled=[evil]),
        saved_result(models__0__sha256=evil, models__0__data_sha256=evil),
    ]
    files = [tmp_path / f"{number}.json" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_text(content)
    done = command_here("vitsd-bench", "--compare", *files)
    assert done.returncode == 0, done.stderr
    assert_harmless(done)
    printed = command_here("vitsd-bench", "--compare", *files, "--json").stdout
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed)["results"][-1]["model"] == evil


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("results__0__p50_ms", 0),
        ("results__0__p50_ms", 1e-300),
        ("results__0__p50_ms", True),
        ("results__0__threads", "1"),
        ("machine__governor", ["a"]),
        ("after", 3),
        ("after__throttled", [3]),
        ("after__temperature_c", "hot"),
        ("models", 3),
        ("models__0", []),
        ("models__0__model", ["m"]),
        ("models__0__accuracy__top1", 1.5),
        ("models__0__accuracy__top1_interval", [0.1]),
        ("models__0__accuracy__top1_interval", [0.1, "a"]),
        ("models__0__accuracy", "all"),
    ],
)
def test_what_vitsd_bench_does_not_write_is_refused(command_here, tmp_path, place, value):
    (tmp_path / "a.json").write_text(saved_result(**{place: value}))
    done = command_here("vitsd-bench", "--compare", tmp_path / "a.json")
    assert done.returncode == 2
    assert "a.json is not a file of results" in done.stderr


NAMELESS = (
    '{"results": [], "machine": {"cpu": null, "cores": 1, "physical_cores": 1, "system": "", '
    '"python": ""}}'
)


NUMBERED = (
    '{"results": [{"model": "a", "engine": 8, "threads": 1, "batch_size": 1, "p50_ms": 1}], '
    '"machine": {"cpu": "", "cores": 1, "physical_cores": 1, "system": "", "python": ""}}'
)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "no JSON",
        "[]",
        '{"results": [{}], "machine": {}}',
        '{"results": 3}',
        NAMELESS,
        NUMBERED,
    ],
)
def test_what_holds_no_results_is_not_compared(command, tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    done = command("vitsd-bench", "--compare", tmp_path / "a.json", tmp_path / "a.json")
    assert done.returncode == 2
    assert "a.json is not a file of results" in done.stderr or content is None
    assert "a.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("ending", "expected"),
    [("-int8.tflite", "FULLY_CONNECTED"), (".onnx", "MatMul"), ("_saved_model", "MatMul")],
)
def test_inspect_shows_spec_operations_and_tensors(command, exported_model, ending, expected):
    if ending == ".onnx":
        pytest.importorskip("onnx")
    done = command("vitsd-inspect", exported_model(ending), "--json")
    report = json.loads(done.stdout)
    assert expected in report["operations"]
    assert report["inputs"][0]["name"].split(":")[0].endswith("images")
    assert report["inputs"][0]["shape"][1:] == [24, 24, 1]
    assert report["spec"]["class_names"] == list("0123456789")
    text = command("vitsd-inspect", exported_model(ending))
    assert text.returncode == 0
    assert "SHA-256 matches" in text.stdout
    assert f"This machine: {hardware.format_machine(report['machine'])}" in text.stdout


@pytest.mark.parametrize("tool", ["vitsd-predict", "vitsd-bench", "vitsd-inspect"])
def test_versions(command, tool):
    assert command(tool, "--version").stdout == f"vitsd_runtime {vitsd_runtime.__version__}\n"


def test_inspect_reads_training_models_without_keras(command, trained):
    done = command("vitsd-inspect", trained / "model.keras", "--json")
    assert json.loads(done.stdout)["spec"]["architecture"]["hidden_dim"] == 64


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["vitsd-predict", "missing.tflite", "x.png"], 2, "no model at missing.tflite"),
        (["vitsd-predict", "MODEL", "missing.png"], 2, "no image at missing.png"),
        (["vitsd-predict", "MODEL", "EMPTY"], 2, "No images in"),
        (["vitsd-predict", "MODEL", "x.png", "--top-k", "0"], 2, "whole number from 1"),
        (["vitsd-predict", "MODEL", "x.png", "--tta", "spin"], 2, "whole number from 1"),
        (["vitsd-predict", "MODEL", "x.png", "--spec", "none.json"], 2, "none.json"),
        (["vitsd-predict"], 2, "nothing to classify"),
        (["vitsd-bench", "missing.onnx"], 2, "no model at"),
        (
            ["vitsd-bench", "MODEL", "--compare", "a.json", "b.json"],
            2,
            "measure with MODEL and --save first",
        ),
        (["vitsd-bench", "--compare", "a.json", "--batch-sizes", "4"], 2, "no option but --json"),
        (["vitsd-bench", "MODEL", "--save", "EMPTY"], 2, "empty is a folder"),
        (["vitsd-bench", "MODEL", "--seconds", "nan"], 2, "must be a number in (0, 86400]"),
        (["vitsd-inspect", "EMPTY"], 2, "without a SavedModel"),
        (["vitsd-predict", "CUT", "x.png"], 1, "cut off"),
    ],
)
def test_misuse_ends_with_a_message(command, exported_model, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    model = exported_model("-float32.tflite", ".onnx")
    cut = tmp_path / f"cut{model.suffix}"
    cut.write_bytes(model.read_bytes()[:-100])
    names = {"MODEL": model, "EMPTY": "empty", "CUT": cut.name}
    done = command(*(names.get(a, a) for a in arguments), cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
