"""vitsd-predict --shard: together the answers of the whole, however often it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import Classifier, UsageError
from vitsd_runtime.engines.travel import ModelSource
from vitsd_runtime.sharding import Shard

SHARDS = 5


@pytest.fixture
def run(command_here, monkeypatch, spec, tmp_path):
    """The command in ``tmp_path`` with a stand-in for the model; ``run.broken`` ends it."""

    def logits(batch):
        brightness = batch.mean(axis=(1, 2, 3))
        run.images += len(batch)
        if run.images > run.broken:
            raise KeyboardInterrupt
        return np.stack([brightness, -brightness, np.zeros_like(brightness)], axis=1)

    source = ModelSource(Path("m.tflite"), "tflite", 1, 2, (), sha256="0" * 64)
    engine = SimpleNamespace(run=logits)
    classifier = Classifier(engine, spec, Path("m.tflite"), 1, batch_size=2, source=source)
    monkeypatch.setattr(Classifier, "load", lambda path, **_: classifier)

    def run(*words):
        return command_here("vitsd-predict", "m.tflite", *words, cwd=tmp_path)

    run.images, run.broken = 0, 10**9
    return run


def fill(folder, count):
    """Images under names of all kinds, links and broken ones among them."""
    kinds = ("a{}.png", "sub/b {}.png", "sub/deep/ä\u202e{}.png", "new\nline{}.png", "-{}.png")
    for i in range(count):
        path = folder / kinds[i % len(kinds)].format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 5 * i % 256, np.uint8)).save(path)
    (folder / "broken.png").write_text("no image")
    if sys.platform == "linux":  # others want valid text
        os.link(folder / "a0.png", os.fsencode(folder) + b"/\xff.png")
    (folder / "link.png").symlink_to("a0.png")
    (folder / "elsewhere").symlink_to(folder / "sub")
    return folder


def lines(*paths):
    return sorted(line for path in paths for line in path.read_text().splitlines())


def shards(tmp_path, count=SHARDS):
    return [tmp_path / f"out/{i}.jsonl" for i in range(1, count + 1)]


def test_shards_are_together_what_the_whole_is(run, tmp_path):
    fill(tmp_path / "photos", 40)
    for i, path in enumerate(shards(tmp_path), 1):
        done = run("photos", "--shard", f"{i}/{SHARDS}", "--output", path)
        assert done.returncode == 0
        assert f"Shard {i}/{SHARDS}: " in done.stdout
    whole = run("photos", "--json")
    assert lines(*shards(tmp_path)) == sorted(whole.stdout.splitlines())
    assert len(whole.stdout.splitlines()) > 40
    assert sum("error" in json.loads(line) for line in lines(*shards(tmp_path))) == 1
    kept = {f"{i}.jsonl{end}" for i in range(1, SHARDS + 1) for end in ("", ".job")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept


def test_an_image_that_is_named_in_several_ways_is_in_one_shard_once(run, tmp_path):
    fill(tmp_path / "photos", 40)
    ways = ("photos", "photos/sub", "photos/sub/../a0.png", "./photos", "photos/a0.png")
    for i, path in enumerate(shards(tmp_path), 1):
        run(*ways, "--shard", f"{i}/{SHARDS}", "--output", path)
    whole = run("photos", "--json")
    assert lines(*shards(tmp_path)) == sorted(whole.stdout.splitlines())


def test_a_share_may_have_no_images(run, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos/a.png")
    numbers = [i for i in range(1, 6) if not Shard(i, 5).holds("a.png")]
    done = run("photos", "--shard", f"{numbers[0]}/5", "--output", tmp_path / "out.jsonl")
    assert (done.returncode, (tmp_path / "out.jsonl").read_text()) == (0, "")
    assert "no image is in this share" in done.stdout


def test_a_finished_shard_is_not_done_again(run, tmp_path):
    fill(tmp_path / "photos", 8)
    words = ("photos", "--shard", "1/1", "--output", tmp_path / "out.jsonl")
    run(*words)
    before, stamp = run.images, os.stat(tmp_path / "out.jsonl")
    done = run(*words, "--json")
    assert json.loads(done.stdout) == {
        "shard": "1/1",
        "images": 11,
        "answered_before": 11,
        "failed": 1,
        "output": str(tmp_path / "out.jsonl"),
    }
    assert run.images == before
    assert os.stat(tmp_path / "out.jsonl").st_mtime_ns == stamp.st_mtime_ns

    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "photos/added.png")
    assert "1 of 12 images answered, the others before" in run(*words).stdout
    assert run.images == before + 1
    assert len(lines(tmp_path / "out.jsonl")) == 12


def test_half_a_shard_is_continued(run, tmp_path):
    fill(tmp_path / "photos", 20)
    output = tmp_path / "out.jsonl"
    words = ("photos", "--shard", "1/1", "--output", output)
    run.broken = 9
    assert run(*words).returncode == 130
    assert not output.exists()  # it is whole or not there
    part = tmp_path / "out.jsonl.part"
    answered = len(lines(part))
    assert answered > 0
    with open(part, "a") as file:
        file.write('{"image": "photos/a')  # as of a power cut
    run.broken = 10**9
    done = run(*words)
    assert f"{23 - answered} of 23 images answered" in done.stdout
    assert lines(output) == sorted(run("photos", "--json").stdout.splitlines())
    assert not part.exists()


def test_an_image_that_ended_the_program_three_times_is_passed_over(run, tmp_path):
    fill(tmp_path / "photos", 4)
    (tmp_path / "out.jsonl.part.lock").write_text('[3, "photos/a0.png"]')
    done = run("photos", "--shard", "1/1", "--output", "out.jsonl")
    assert done.returncode == 0
    found = [json.loads(line) for line in lines(tmp_path / "out.jsonl")]
    (passed_over,) = [line for line in found if "passed over" in line.get("error", "")]
    assert passed_over["image"] == "photos/a0.png"
    assert not (tmp_path / "out.jsonl.part.lock").exists()


def test_two_at_once_do_not_mix(run, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    fill(tmp_path / "photos", 4)
    with open(tmp_path / "out.jsonl.part.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("photos", "--shard", "1/1", "--output", "out.jsonl")
    assert done.returncode == 1
    assert "Another vitsd-predict writes to out.jsonl.part" in done.stderr
    assert run.images == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--top-k", "2"), "with another top k"),
        (("--tta", "flip"), "with another tta"),
        (("--shard", "1/3"), "with another shard"),
    ],
)
def test_answers_of_another_job_are_not_continued(run, tmp_path, words, said):
    fill(tmp_path / "photos", 9)
    usual = ("photos", "--shard", "1/2", "--output", "out.jsonl")
    run(*usual)
    before = (tmp_path / "out.jsonl").read_bytes()
    done = run(*usual, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert not (tmp_path / "out.jsonl.part").exists()


@pytest.mark.parametrize("content", ["", "my diary\n", '{"image": "a.png", "labels": []}\n'])
def test_a_file_of_something_else_is_left_alone(run, tmp_path, content):
    fill(tmp_path / "photos", 2)
    for name in ("out.jsonl", "half.jsonl.part"):
        (tmp_path / name).write_text(content)
    for name in ("out.jsonl", "half.jsonl"):
        done = run("photos", "--shard", "1/1", "--output", name)
        if content or name == "out.jsonl":
            assert done.returncode == 2
            assert "name another file with --output" in done.stderr
    assert (tmp_path / "out.jsonl").read_text() == content


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shard", "1/2"), "--shard needs a file"),
        (("--shard", "1/2", "--output", ""), "is a folder"),
        (("--shard", "1/2", "--output", "photos"), "is a folder"),
        (("--shard", "1/2", "--output", "/dev/null"), "is no regular file"),
        (
            ("--shard", "1/2", "--output", "o", "--watch", "photos"),
            "not allowed with argument --shard",
        ),
        (("--shard", "1/2", "--output", "o", "--csv"), "leave out --csv"),
        (("--shard", "1/2", "--output", "o", "-"), "Standard input can't be shared"),
        (("--shard", "0/2", "--output", "o"), "add 1"),
        (("--shard", "3/2", "--output", "o"), "must be I/N"),
        (("--shard", "1/0", "--output", "o"), "must be I/N"),
        (("--shard", "1", "--output", "o"), "must be I/N"),
        (("--shard", "/", "--output", "o"), "must be I/N"),
        (("--shard", "1/2\n", "--output", "o"), "must be I/N"),
        (("--shard", "\u0661/\u0662", "--output", "o"), "must be I/N"),
        (("--shard", "1/99999999", "--output", "o"), "must be I/N"),
        (("--output", "o"), "--output belongs to --watch, --shard and --engine"),
    ],
)
def test_misuse_is_told_and_writes_nothing(run, tmp_path, words, said):
    fill(tmp_path / "photos", 2)
    done = run("photos", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"photos"}


def test_shares_are_those_that_are_documented():
    assert Shard(1, 4).holds("cats/1.jpg")  # 0xdedaa2dc216fd404 % 4 == 0
    with pytest.raises(UsageError):
        Shard.parse("2/1")
    names = [f"folder/{i}.png" for i in range(10_000)]
    shares = [[n for n in names if Shard(i, 8).holds(n)] for i in range(1, 9)]
    assert sorted(name for share in shares for name in share) == sorted(names)
    assert all(1100 < len(share) < 1400 for share in shares)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_killed_shards_are_continued(tmp_path):
    pytest.importorskip("ai_edge_litert")
    fill(tmp_path / "photos", 150)
    words = [sys.executable, "-m", "vitsd_runtime.cli.predict", "--num-threads", "1", "photos"]
    kills = 0
    both = shards(tmp_path, 2)
    for i, path in enumerate(both, 1):
        command = [*words, "--shard", f"{i}/2", "--output", path]
        part = path.with_name(f"{path.name}.part")
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert kills
    whole = subprocess.run([*words, "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert lines(*both) == sorted(whole.stdout.splitlines())
