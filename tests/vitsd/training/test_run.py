"""Run folders: which is the newest, and what may be resumed."""

import json
import os

import pytest

from vitsd.training.run import RunFolder, newest_run
from vitsd_runtime import UsageError, VitsdError


def run_folder(root, name, *files, written):
    folder = root / name
    folder.mkdir(parents=True)
    for file in ("run.json", *files):
        (folder / file).write_text("{}")
        os.utime(folder / file, (written, written))
    return folder


def test_the_newest_run_is_the_one_that_training_wrote_to_last(tmp_path):
    old = run_folder(tmp_path, "old", "model.keras", written=1000)
    running = run_folder(tmp_path, "running", "metrics.csv", written=3000)
    finished = run_folder(tmp_path, "finished", "model.keras", written=2000)
    assert newest_run(tmp_path) == running
    assert newest_run(tmp_path, containing="model.keras") == finished
    (old / "exported.tflite").write_text("an export is no training")
    assert newest_run(tmp_path, containing="model.keras") == finished
    os.utime(old / "model.keras", (4000, 4000))
    assert newest_run(tmp_path) == old


def test_folders_name_models_in_a_way_that_files_can_be_called(tmp_path):
    names = {"my run": "myrun", "(-x": "x", "n" * 120: "n" * 100}
    assert {folder: RunFolder(tmp_path / folder).name for folder in names} == names
    assert RunFolder(tmp_path / "my run", name="better").name == "better"


def test_results_that_are_none_are_refused(tmp_path):
    folder = RunFolder(tmp_path)
    for text in ("[]", "{}", '{"top1": 0.5}'):
        folder.results.write_text(text)
        with pytest.raises(VitsdError, match=r"results\.json is not the results of a run"):
            folder.read_results()


def test_without_runs_there_is_no_newest(tmp_path):
    with pytest.raises(UsageError, match="no run under"):
        newest_run(tmp_path)
    run_folder(tmp_path, "running", written=1000)
    with pytest.raises(UsageError, match=r"model\.keras"):
        newest_run(tmp_path, containing="model.keras")


def test_a_run_is_started_once_and_resumed_as_it_was_started(tmp_path):
    folder = RunFolder(tmp_path / "run")
    description = {"recipe": {"epochs": 4, "seed": 1}, "data": {"name": "digits"}}
    with pytest.raises(UsageError, match="no run in"):
        folder.resume(description)
    folder.start(description)
    assert folder.read() == description
    assert folder.read_options() == {}
    with pytest.raises(UsageError, match="already holds a run"):
        folder.start(description)
    folder.resume(description)
    other = {"recipe": {"epochs": 5, "seed": 1}, "data": {"name": "cifar10"}}
    differences = r'data.name was "digits", now "cifar10"; recipe.epochs was 4, now 5\.'
    with pytest.raises(UsageError, match=differences):
        folder.resume(other)


@pytest.mark.parametrize("content", ["{", "[]", '{"origin": 1}', '{"origin": {"options": []}}'])
def test_a_damaged_description_is_named(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.run_file.write_text(content)
    with pytest.raises(VitsdError, match=r"run\.json is (damaged|not the description of a run)"):
        folder.read_options()


def test_damaged_results_are_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.results.write_text("{")
    with pytest.raises(VitsdError, match=r"results\.json is not the results of a run"):
        folder.read_results()


def test_the_name_is_the_folders_or_one_that_was_given(tmp_path):
    assert RunFolder(tmp_path / "my run").name == "myrun"
    assert RunFolder(tmp_path / "my run", name="other").name == "other"


def test_remembered_options_are_those_of_the_command(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start({"origin": {"options": {"epochs": 3, "mlp_units": [8, 4]}}})
    assert json.loads(folder.run_file.read_text())["origin"]["options"]["epochs"] == 3
    assert folder.read_options() == {"epochs": 3, "mlp_units": [8, 4]}


def test_a_run_of_0_1_0_is_named_as_one(tmp_path):
    (tmp_path / "run.json").write_text('{"fit": "stretch", "config": {"width": 64}}')
    with pytest.raises(UsageError, match=r"vitsd 0\.1\.0"):
        RunFolder(tmp_path).read()
