"""Which images a batch means, and how they are divided. No engine is needed for this."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from vitsd_runtime import Classifier, UsageError
from vitsd_runtime.batch.answers import Options, answer_rows
from vitsd_runtime.batch.chunks import Chunk
from vitsd_runtime.batch.plan import make_plan
from vitsd_runtime.batch.storage import locate


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(num_threads=1, batch_size=4)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for i in range(40):
        path = folder / f"{i % 3}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (i, 6 * i, 99)).save(path)
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    return folder


def names_of(plan):
    return [name for chunk in plan.chunks for name in chunk.names]


def test_a_folder_means_the_images_in_it_by_the_rule_of_all_commands(photos):
    plan = make_plan([str(photos)], set(), 5)
    assert names_of(plan) == sorted(map(str, photos.rglob("[0-9]*.png")))
    assert (plan.images, plan.done, plan.repeated) == (40, 0, 0)


def test_the_plan_is_the_same_each_time_but_for_what_is_done(photos):
    first = make_plan([str(photos)], set(), 5)
    assert make_plan([str(photos)], set(), 5) == first
    assert len(first.chunks) == 3
    done = set(first.chunks[1].names)
    rest = make_plan([str(photos)], done, 5)
    assert [c.part() for c in rest.chunks] == [first.chunks[0].part(), first.chunks[2].part()]
    assert (rest.images, rest.done) == (40 - len(done), len(done))


@pytest.fixture
def web(photos):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=photos))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_images_come_from_the_web(web, photos, classifier):
    urls = [f"{web}/0/00.png", f"{web}/missing.png", "http://127.0.0.1:1/x.png"]
    (chunk,) = make_plan(urls, set(), 5).chunks
    first, missing, refused = answer_rows(classifier, chunk.images())
    ((expected, *_),) = classifier.predict(photos / "0" / "00.png")
    assert (first["path"], first["label"]) == (urls[0], expected.label)
    assert "404" in missing["error"]
    assert "refused" in refused["error"]
    with pytest.raises(UsageError, match="the web has images, no folders"):
        make_plan([f"{web}/table.parquet"], set(), 5)


@pytest.mark.parametrize("name", ["../x.png", "new\nline.png", "\udcff.png", "späť 图.png"])
def test_names_of_all_kinds_come_through_as_json(tmp_path, name):
    chunk = Chunk((name,), folder=os.fspath(tmp_path))
    assert chunk.to_json().isascii()
    assert Chunk.from_json(chunk.to_json()) == chunk
    assert list(chunk.images()) == [(name, os.path.join(tmp_path, name))]


def test_patterns_are_those_of_a_shell(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert len(names_of(make_plan(["1/*.png"], set(), 5))) == 13
    assert len(names_of(make_plan(["**/0[0-3].png"], set(), 5))) == 4
    assert len(names_of(make_plan(["[01]"], set(), 5))) == 27  # folders
    Path("0[0-3].png").write_bytes(b"x")
    assert names_of(make_plan(["0[0-3].png"], set(), 5)) == [str(photos / "0[0-3].png")]


def test_what_is_named_twice_is_done_once(photos):
    plan = make_plan([str(photos / "1"), str(photos), str(photos / "1" / "01.png")], set(), 5)
    assert (plan.images, plan.repeated) == (40, 14)


def test_answers_of_many_classes_come_in_small_chunks(photos):
    assert max(len(c.names) for c in make_plan([str(photos)], set(), 100_000).chunks) == 10


@pytest.mark.parametrize("source", ["missing.png", "missing/*.png", "."])
def test_sources_without_images_are_misuse(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"There is no image|No images in"):
        make_plan([source], set(), 5)


def test_rows_are_the_answers_and_bad_images_are_rows_too(classifier, photos):
    bad = photos / "bad.png"
    bad.write_bytes(b"no image")
    paths = [str(photos / "0" / "00.png"), str(bad), str(photos / "missing.png")]
    rows = list(answer_rows(classifier, [(p, p) for p in paths], Options(top_k=2)))
    ((first, second),) = classifier.predict(paths[:1], top_k=2)
    assert rows[0] == {
        "path": paths[0],
        "label": first.label,
        "probability": first.probability,
        "known": first.known,
        "top_k": [
            {"label": p.label, "index": p.index, "probability": p.probability}
            for p in (first, second)
        ],
        "error": None,
        "model_sha256": classifier.sha256,
    }
    assert "can't be read as an image: it is text" in rows[1]["error"]
    assert "no image at" in rows[2]["error"]
    for row in rows[1:]:
        assert row["label"] is row["probability"] is row["known"] is row["top_k"] is None
        assert row["model_sha256"] == classifier.sha256


@pytest.mark.parametrize("name", ["s3://", "S3:/x", "gs:///x"])
def test_urls_without_a_bucket_are_misuse(name):
    with pytest.raises(UsageError, match="names no bucket"):
        make_plan([name], set(), 5)


def test_keys_of_objects_may_have_any_characters(monkeypatch):
    monkeypatch.setattr("vitsd_runtime.batch.storage._object_store", lambda *place: place)
    place = locate("S3://bucket/a#1?b%20.png")
    assert place == (("s3", "bucket"), "bucket/a#1?b%20.png", "s3://")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["x.png", "--address", "a"], "--address belongs to --engine"),
        (["x.png", "--engine", "ray"], "name the folder for the answers with --output"),
        (["x.png", "--engine", "ray", "--output", ""], "name the folder"),
        (["x.png", "--engine", "ray", "--output", "r", "--csv"], "--csv is for answers that are"),
        (["--watch", "d", "--engine", "ray", "--output", "r"], "not allowed with"),
        (["--camera", "--engine", "spark", "--output", "r"], "not allowed with"),
        (["x", "--shard", "1/2", "--engine", "ray", "--output", "r"], "not allowed with"),
        (["x.png", "--every", "1", "--engine", "ray", "--output", "r"], "--every belongs to"),
        (["--engine", "ray", "--output", "r"], "There is nothing to classify"),
        (["-", "--engine", "ray", "--output", "r"], "named by paths and URLs"),
        (["x.png", "--engine", "dask", "--output", "r"], "invalid choice"),
        (["x.png", "--engine", "ray", "--output", "r", "--workers", "0"], "from 1"),
    ],
)
def test_misuse_is_said(command_here, words, reason):
    result = command_here("vitsd-predict", *words)
    assert result.returncode == 2
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_a_missing_engine_is_said_with_what_installs_it(
    command_here, engine, photos, tmp_path, monkeypatch
):
    package = {"ray": "ray", "spark": "pyspark"}[engine]
    monkeypatch.setattr("vitsd_runtime.batch.storage.import_optional", lambda name: None)
    output = tmp_path / "r"
    result = command_here("vitsd-predict", photos, "--engine", engine, "--output", output)
    assert result.returncode == 1
    assert f'{package} is not installed: pip install "vitsd-runtime[{engine}]"' in result.stderr
    assert not output.exists()
