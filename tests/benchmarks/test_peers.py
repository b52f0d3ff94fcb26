"""The comparison with other engines: what it says must be what was measured."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from benchmarks.peers import goals, page, prepare, race
from benchmarks.peers.limits import count_macs
from benchmarks.peers.phases import Phases
from benchmarks.peers.profiles import group_of
from benchmarks.peers.race import SubjectError, ask, ratio
from benchmarks.peers.registry import all_subjects

from vitsd.config import VitConfig

SMALL = VitConfig(
    input_size=(8, 8, 1),
    num_classes=3,
    image_size=8,
    patch_size=4,
    hidden_dim=8,
    num_layers=2,
    num_heads=2,
    key_dim=4,
    mlp_units=(16, 8),
    head_units=(5,),
)


def row(subject: str, ms: float, ours: bool = False, right: bool = True) -> dict:
    timings = [
        {
            "subject": subject,
            "threads": threads,
            "batch": batch,
            "p10_ms": 0.9 * ms * batch,
            "p50_ms": ms * batch,
            "p90_ms": 1.1 * ms * batch,
            "rounds_ms": [ms * batch] * 4,
        }
        for batch, threads in ((1, 1), (32, 1), (1, 2))
    ]
    return {
        "subject": subject,
        "group": "vitsd" if ours else subject,
        "ours": ours,
        "precision": "float32",
        "bytes": 10_000,
        "agreement": 1.0 if right else 0.1,
        "top1": 60.0 if right else 5.0,
        "top1_change": [0.0, -0.1, 0.1],
        "right": right,
        "timings": timings,
    }


def model(*rows: dict) -> dict:
    return {
        "name": "some <model>",
        "images": 100,
        "labeled": True,
        "macs": {"weights": 10**6, "attention": 10**5},
        "weights": 1000,
        "rows": list(rows),
        "skipped": {"broken <peer>": "it <fails>"},
        "profiles": {"a file": {"softmax": 0.2, "layout": 0.1}},
    }


def test_subjects_have_names_and_files_of_their_own():
    subjects = all_subjects()
    assert len({s.slug for s in subjects}) == len(subjects) > 30


def test_a_ratio_is_that_of_each_round():
    slower, faster = [2.0, 40.0, 6.0], [1.0, 20.0, 3.0]  # the machine was slow in the second
    assert ratio(slower, faster) == pytest.approx((2, 2, 2))


def test_the_interval_of_a_ratio_tells_how_much_rounds_differ():
    noise = np.exp(np.random.default_rng(0).normal(0, 0.2, 20))
    middle, low, high = ratio(2 * noise, np.ones(20))
    assert low < middle < high
    assert high / low > 1.05


def test_a_fast_wrong_file_is_no_competitor():
    rows = (
        row("vitsd TFLite int8", 1.0, ours=True),
        row("right peer", 2.5),
        row("wrong peer", 0.1, right=False),
    )
    verdicts = {name: rest for _, name, *rest in goals.judge(model(*rows))}
    measured, asked, verdict = verdicts["TFLite int8, batch 1, on the best peer"]
    assert measured == "2.50x (2.50 to 2.50) right peer"
    assert (asked, verdict) == ("2.0x", "reached")


def test_a_missed_goal_says_by_how_much():
    rows = row("vitsd TFLite int8", 1.0, ours=True), row("peer", 1.5)
    verdicts = {name: rest[-1] for _, name, *rest in goals.judge(model(*rows))}
    assert verdicts["TFLite int8, batch 1, on the best peer"] == "short by 25 %"


def test_a_cut_off_run_keeps_what_it_measured(tmp_path):
    path = tmp_path / "phases.json"
    first = Phases(path, resume=False)
    first.once("race", lambda: [1.5])
    with pytest.raises(KeyboardInterrupt):
        first.once("profiles", _interrupt)
    again = Phases(path, resume=True)
    assert again.once("race", _interrupt) == [1.5]
    assert again.once("profiles", lambda: {}) == {}
    assert Phases(path, resume=False).once("race", lambda: "measured anew") == "measured anew"


def _interrupt():
    raise KeyboardInterrupt


def test_images_without_labels_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "RANDOM_IMAGES", 3)
    workshop = prepare.prepare("tiny", "photos/", 10_000, tmp_path / "tiny")
    assert len(workshop.array("images")) == len(workshop.array("reference")) == 3
    assert workshop.data is None


def test_a_subject_that_takes_too_long_is_ended(tmp_path):
    subject = all_subjects()[0]
    with pytest.raises(SubjectError, match=r"took over 0\.01 seconds"):
        ask(tmp_path, subject, "build", "1", seconds=0.01)


def test_a_subject_that_is_killed_is_said_to_be(tmp_path, monkeypatch):
    code = "import os; os.write(2, b'Error 0 so far\\n'); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(race, "_command", lambda *_, **__: [sys.executable, "-c", code])
    with pytest.raises(SubjectError, match="ended by SIGKILL"):
        ask(tmp_path, all_subjects()[0], "build", "1", seconds=60)


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    code = """
import sys, threading
from benchmarks.peers.worker import _orders
_orders()
print("ready", flush=True)
threading.Event().wait()
"""
    worker = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert worker.stdout.readline() == b"ready\n"
    worker.stdin.close()
    assert worker.wait(timeout=30) != 0
    worker.stdout.close()


def test_multiply_adds_are_counted():
    tokens, patches, inner = 4, 5 * 16, 8
    block = 8 * 3 * inner + inner * 8 + 8 * 16 + 16 * 8
    head = tokens * 8 * 5 + 5 * 3
    assert count_macs(SMALL) == {
        "weights": tokens * (patches * 8 + 2 * block) + head,
        "attention": 2 * 2 * tokens * tokens * inner,
    }
    convolved = dataclasses.replace(SMALL, spt=False, stem_filters=(6,), mlp_convolution=True)
    stem = 4**2 * 9 * 6 + 2**2 * 9 * 6 * 8
    weights = stem + tokens * 2 * (block + 9 * 16) + head
    assert count_macs(convolved)["weights"] == weights
    wide = {"input_size": (16, 16, 1), "image_size": 16, "num_layers": 3}
    pooled = dataclasses.replace(SMALL, **wide, pool_tokens_after=1)
    head = 4 * 8 * 5 + 5 * 3
    assert count_macs(pooled) == {
        "weights": 16 * patches * 8 + (16 + 2 * 4) * block + head,
        "attention": 2 * (16 * 16 + 2 * 4 * 4) * inner,
    }


@pytest.mark.parametrize(
    ("operation", "group"),
    [
        ("FULLY_CONNECTED", "products with weights"),
        ("MatMul", "products with weights"),
        ("BATCH_MATMUL", "attention's products"),
        ("SkipLayerNormalization", "norms"),
        ("DEQUANTIZE", "conversions"),
        ("ADD", "elementwise and other"),
    ],
)
def test_operations_have_groups(operation, group):
    assert group_of(operation) == group


def test_the_page_needs_no_network_and_shows_text_as_text(tmp_path):
    report = {
        "command": "make bench-peers",
        "date": "2026-01-01",
        "machine": {"cpu": "a <cpu>", "cores": 2, "system": "Linux", "python": "3.11"},
        "missing": {"peer": "no <wheel>"},
        "limits": {
            "products_by": "PyTorch",
            "macs": {"float32": 5e10, "bfloat16": 1e11, "int8": 2e11},
            "bytes": 1e10,
            "bytes_cached": 1e11,
        },
        "goals": [["m", "g", "1x", "2x", "short"]],
        "models": [
            model(row("vitsd", 1.0, ours=True), row("peer", 2.0), row("bad", 1, right=False))
        ],
    }
    page.write_page(report, tmp_path / "peers.html")
    text = (tmp_path / "peers.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 7
    assert not re.search(r"""(src|href)=["']?https?:""", text)
    assert not re.search(r"<(script|link|img|model|peer|fails|wheel|cpu)\b", text)
    assert "broken &lt;peer&gt;: it &lt;fails&gt;" in text


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"spt": False, "lsa": False, "pooling": "gap"},
        {"spt": False, "stem_filters": (5, 7), "patch_size": 2, "mlp_output_activation": False},
        {"patch_size": 2, "pool_tokens_after": 1},
    ],
)
def test_the_model_in_pytorch_gives_the_same_logits(change):
    pytest.importorskip("torch")  # only where the peers are installed
    import dataclasses

    import torch
    from benchmarks.peers.torch_vit import import_model

    from vitsd.model.vit import build_vit

    config = dataclasses.replace(SMALL, **change)
    keras_model = build_vit(config)
    random = np.random.default_rng(0)
    keras_model.set_weights(
        [w + random.normal(0, 0.1, w.shape).astype(w.dtype) for w in keras_model.get_weights()]
    )
    images = random.normal(size=(5, 8, 8, 1)).astype(np.float32)
    with torch.inference_mode():
        found = import_model(keras_model, config)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, np.asarray(keras_model(images)), atol=1e-5)
