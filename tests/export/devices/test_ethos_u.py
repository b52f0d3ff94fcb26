"""Files for Ethos-U NPUs, and their compiler."""

import dataclasses
import os
import stat

import numpy as np
import pytest

from vitsd_export.devices import ethos_u, proof
from vitsd_export.devices.ethos_u import ACCELERATORS, compile_with_vela, find_vela
from vitsd_export.devices.proof import Limits, check_installed, prove
from vitsd_export.formats.tflite_rewrites import rewrite
from vitsd_export.formats.tflite_targets import TARGETS
from vitsd_export.options import compiled_path
from vitsd_runtime import VitsdError
from vitsd_runtime.spec import ExportInfo, NpuFigures
from vitsd_runtime.spec.sections import from_dict, to_dict

needs_vela = pytest.mark.skipif(find_vela() is None, reason="Vela is not installed")
FIGURES = NpuFigures("Vela 5", "ethos-u55-128", 7, 0, 1000, 2000, 3000, 1.5)
LOGITS = np.zeros((1, 10), np.float32)
ANY = Limits(0, 1.0)


@pytest.fixture
def content(exported):
    return (exported / "digits-int8-full.tflite").read_bytes()


def fake_vela(folder, body):
    """A program called ``vela``."""
    program = folder / "vela"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@needs_vela
@pytest.mark.parametrize("target", ACCELERATORS)
def test_every_operation_is_placed_on_the_npu(content, target):
    info = ExportInfo("tflite", "int8-full", target)
    made = prove(rewrite(content, TARGETS[target].rewritten), info, LOGITS, LOGITS, ANY)
    npu = made.info.npu
    assert made.failures == ()
    assert (npu.cpu_operators, npu.accelerator) == (0, ACCELERATORS[target].config)
    assert min(npu.npu_operators, npu.sram, npu.off_chip, npu.cycles, npu.milliseconds) > 0
    assert made.compiled[4:8] == b"TFL3"


@needs_vela
def test_what_stays_on_the_cpu_fails(content):
    made = prove(content, ExportInfo("tflite", "int8-full", "ethos-u55"), LOGITS, LOGITS, ANY)
    assert made.failures == ("2 of its operators stay on the CPU",)


@needs_vela
def test_a_file_that_it_refuses(tmp_path):
    with pytest.raises(VitsdError, match="Vela refuses the file: ") as caught:
        compile_with_vela(find_vela(), b"none", ACCELERATORS["ethos-u85"], tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="the program is a shell script")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo first >&2; echo out of paper >&2; exit 3", "Vela refuses the file: out of paper$"),
        ("exit 1", "no reason given"),
        ("echo 9.9", r"Vela 9.9 gives no report .* pip install \"vitsd-export\[ethos-u\]\""),
    ],
)
def test_a_compiler_of_another_kind(tmp_path, body, message):
    vela = fake_vela(tmp_path, body)
    with pytest.raises(VitsdError, match=message):
        compile_with_vela(vela, b"", ACCELERATORS["ethos-u55"], tmp_path)


def test_without_the_compiler_files_are_only_written(monkeypatch, caplog):
    monkeypatch.setattr(proof, "find_vela", lambda: None)
    check_installed("ethos-u65")
    assert 'pip install "vitsd-export[ethos-u]"' in caplog.text
    info = ExportInfo("tflite", "int8-full", "ethos-u65")
    made = prove(b"", info, LOGITS, LOGITS, ANY)
    assert (made.info, made.compiled) == (info, None)


def test_it_is_found_beside_this_python_first(tmp_path, monkeypatch):
    vela = fake_vela(tmp_path, "exit 0")
    monkeypatch.setattr(ethos_u.sys, "executable", str(tmp_path / "python"))
    assert find_vela() == vela


def test_the_compiled_file_lies_beside_the_plain_one(tmp_path):
    path = compiled_path(tmp_path / "m-int8-full.tflite", "ethos-u55-128")
    assert path == tmp_path / "m-int8-full.ethos-u55-128.tflite"


def test_figures_travel_in_the_spec():
    info = ExportInfo("tflite", "int8-full", "ethos-u55", npu=FIGURES)
    assert from_dict(ExportInfo, to_dict(info), "export") == info
    with pytest.raises(VitsdError, match="npu must hold whole numbers"):
        dataclasses.replace(FIGURES, cycles=-1)
