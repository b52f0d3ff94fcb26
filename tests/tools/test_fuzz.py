"""The fuzzer notices every kind of fault, and makes the same inputs again."""

import importlib
import os
import time
from pathlib import Path
from random import Random

import pytest

from vitsd_runtime import UsageError, VitsdError

ROOT = Path(__file__).parents[2]

if not hasattr(os, "pidfd_open"):
    pytest.skip("watches processes with pidfd_open", allow_module_level=True)


@pytest.fixture
def fuzz(monkeypatch):
    """A function that imports a module of tools/fuzz."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"tools.fuzz.{name}")


def clear(path):
    raise VitsdError(f"{path} is damaged.")


def several_lines(path):
    raise VitsdError("one line\nand \x1b[31manother")


def unforeseen(path):
    raise KeyError("weights")


def endless(path):
    while True:
        pass


def waiting(path):
    time.sleep(60)


def greedy(path):
    block = bytearray(300 << 20)
    for i in range(0, len(block), 4096):
        block[i] = 1


FAULTS = {
    "ok": lambda path: None,
    "refused": clear,
    "message": several_lines,
    "traceback": unforeseen,
    "crash": lambda path: os.abort(),
    "hang": endless,
    "hang, waiting": waiting,
    "memory": greedy,
}


@pytest.mark.parametrize("outcome", FAULTS)
def test_every_fault_is_told_from_the_others(fuzz, monkeypatch, tmp_path, outcome):
    server, target = fuzz("server"), fuzz("target")
    monkeypatch.setitem(target.TARGETS, "image", FAULTS[outcome])
    request = {"kind": "image", "path": str(tmp_path / "image.png")}
    with server.Trials(0.25 if "hang" in outcome else 60.0, 100) as trials:
        answers = [trials.answer(request) for _ in range(2)]
    assert [answer["outcome"] for answer in answers] == [outcome.split(",")[0]] * 2
    answer = answers[0]
    where = {"crash": "SIGABRT", "traceback": "KeyError in test_fuzz.py:unforeseen"}
    assert where.get(outcome, "") in answer["detail"]


def test_what_a_commands_last_handler_says_is_a_fault(fuzz, monkeypatch, tmp_path):
    monkeypatch.setattr("vitsd_runtime.cli.comparison.read_results", unforeseen)
    answer = fuzz("target").outcome("json", tmp_path / "results.json")
    assert answer["outcome"] == "traceback"
    assert "KeyError: 'weights'" in answer["detail"]


def test_a_crash_that_an_earlier_input_caused_is_told_from_others(fuzz, monkeypatch, tmp_path):
    tried = []

    def late(path):
        tried.append(path)
        if len(tried) == 2:
            os.abort()

    monkeypatch.setitem(fuzz("target").TARGETS, "image", late)
    request = {"kind": "image", "path": str(tmp_path / "image.png")}
    with fuzz("server").Trials(60.0, 100) as trials:
        answers = [trials.answer(request) for _ in range(2)]
    assert [answer["outcome"] for answer in answers] == ["ok", "crash"]
    assert "only after other inputs" in answers[1]["detail"]


def test_faults_are_counted_by_what_tells_them_apart(fuzz):
    signature = fuzz("run").signature
    same = ["at byte 12 of /tmp/a/x.onnx: 'relu'", "at byte 9 of /tmp/b/x.onnx: 'gelu'"]
    assert signature(same[0]) == signature(same[1]) != signature("at byte 12: no weights")


def test_an_unknown_kind_is_misuse(fuzz):
    with pytest.raises(UsageError, match="kind 'video'"):
        fuzz("run").choose_kinds("tflite,video")


@pytest.mark.parametrize(
    "words", [["--inputs", "0"], ["--seconds", "nan"], ["--jobs", "-1"], ["--seed", "x"]]
)
def test_numbers_that_make_no_sense_are_misuse(fuzz, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        fuzz("run").main(words)
    assert f"{words[0]}: must be" in capsys.readouterr().err


def test_cheap_inputs_are_many_and_all_kinds_come_early(fuzz):
    inputs = fuzz("inputs")
    numbered = list(inputs.numbered(inputs.KINDS, 200))
    assert {kind for kind, _ in numbered[:20]} == set(inputs.KINDS)
    assert len(set(numbered)) == 200
    assert numbered.count(("tflite", 5)) == 1


def test_any_document_can_be_changed(fuzz):
    mutate = fuzz("mutators.document").mutate
    document = {"large": 10**400, "small": -1e-300, "text": "\ud800", "none": None, "list": []}
    changed = {mutate(Random(seed), document) for seed in range(300)}
    assert len(changed) > 100


@pytest.fixture
def samples(fuzz, trained, exported):
    made = fuzz("samples")
    models = [exported / "digits-int8.tflite", exported / "digits.onnx", trained / "model.keras"]
    run = {"name": "digits", "config": {"num_layers": 2}, "origin": {"options": {}}}
    return made.Samples(
        [made.read_model(path) for path in models],
        made.dataset(),
        {"run": run},
        fuzz("mutators.images").samples(),
        importlib.import_module("tools.serving.requests").mixed("m"),
    )


def test_an_input_can_be_made_again(fuzz, samples):
    inputs = fuzz("inputs")
    for kind in inputs.KINDS:
        made = [inputs.make(samples, 7, kind, number) for number in range(20)]
        assert made == [inputs.make(samples, 7, kind, number) for number in range(20)]
        assert len({content for _, content in made}) > 10, kind


def test_a_sample_that_is_not_changed_is_accepted(fuzz, samples, tmp_path):
    signing, target = fuzz("signing"), fuzz("target")
    for model in samples.models:
        path = tmp_path / f"model.{model.format}"
        path.write_bytes(signing.packed(model.format, model.payload, model.spec))
        assert target.outcome(model.format, path) == {"outcome": "ok", "detail": ""}
