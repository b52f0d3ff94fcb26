"""Batches on real Ray and Spark: ``make test-batch``."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime import Classifier, UsageError, VitsdError
from vitsd_runtime.batch.answers import Options
from vitsd_runtime.batch.chunks import Chunk
from vitsd_runtime.batch.plan import make_plan
from vitsd_runtime.batch.results import Results
from vitsd_runtime.batch.run import classify
from vitsd_runtime.batch.spark import Cluster
from vitsd_runtime.batch.work import Work

pytestmark = pytest.mark.cluster
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = ["path", "label", "probability", "known", "top_k", "error", "model_sha256"]
MARK = "VITSD_TEST_CLUSTER"
"""In the environment of all processes that a test starts: no others are ended."""


@pytest.fixture(params=["ray", "spark"])
def engine(request, monkeypatch):
    need(request.param)
    monkeypatch.setenv("RAY_ADDRESS", "local")  # not a cluster that somebody else started here
    return request.param


def need(engine):
    module = {"ray": "ray", "spark": "pyspark"}[engine]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(num_threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    make_images(folder, 100)
    (folder / "bad.png").write_bytes(b"no image")
    (folder / os.fsdecode(b"odd \xff\n.png")).write_bytes((folder / "00001.png").read_bytes())
    return folder


def make_images(folder, count):
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = random.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{i:05}.png")


def start(*words, env=None):
    return subprocess.Popen(
        [sys.executable, "-m", "vitsd_runtime.cli.predict", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


def run(*words, env=None):
    process = start(*words, env=env)
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def batch(*words, env=None):
    code, out, err = run(*words, "--json", env=env)
    assert code == 0, err
    return json.loads(out)


def rows_of(folder):
    return parquet.read_table(folder).to_pylist()


def check_same(rows, classifier, names):
    """Each image has one row, with the answer that it has alone."""
    assert sorted(row["path"] for row in rows) == sorted(names)
    for row in rows:
        if row["error"] is None:
            (answer,) = classifier.predict(row["path"].replace("\\udcff", "\udcff"))
            assert [p["index"] for p in row["top_k"]] == [p.index for p in answer]
            assert [p["label"] for p in row["top_k"]] == [p.label for p in answer]
            assert row["label"] == answer[0].label
            assert row["known"] == answer[0].known
            np.testing.assert_allclose(row["probability"], answer[0].probability, atol=1e-5)
        assert row["model_sha256"] == classifier.sha256


def test_each_image_has_one_row_and_a_second_run_goes_on(engine, photos, classifier, tmp_path):
    output = tmp_path / "results"
    done = batch(photos, "--engine", engine, "--output", output, "--workers", "2")
    assert (done["images"], done["errors"], done["done_before"]) == (102, 1, 0)
    assert done["workers"] == 2
    rows = rows_of(output)
    assert list(rows[0]) == COLUMNS
    names = [str(path).replace("\udcff", "\\udcff") for path in photos.iterdir()]
    check_same(rows, classifier, names)
    (bad,) = [row for row in rows if row["error"]]
    assert bad["path"].endswith("bad.png")
    assert {path.suffix for path in output.iterdir()} == {".parquet"}

    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    again = batch(photos, "--engine", engine, "--output", output)
    assert (again["images"], again["done_before"]) == (0, 102)
    new = tmp_path / "new.png"
    new.write_bytes((photos / "00000.png").read_bytes())
    third = batch(photos, new, "--engine", engine, "--output", output)
    assert (third["images"], third["done_before"]) == (1, 102)
    assert sorted(row["path"] for row in rows_of(output)) == sorted([*names, str(new)])
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_more_workers_than_cpus_do_not_wait_for_each_other(engine, photos, tmp_path):
    workers = 2 * len(os.sched_getaffinity(0)) + 1
    done = batch(photos, "--engine", engine, "--output", tmp_path / "r", "--workers", workers)
    assert done["images"] == 102


def test_nothing_readable_is_a_failure(engine, tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    code, _, err = run(tmp_path, "--engine", engine, "--output", tmp_path / "r")
    assert code == 1
    assert "None of 1 images could be read" in err


def test_an_address_where_nobody_is_is_said(engine, photos, tmp_path):
    address = {"ray": "127.0.0.1:1", "spark": "spark://127.0.0.1:1"}[engine]
    words = ["--engine", engine, "--address", address, "--output", tmp_path / "r"]
    code, _, err = run(photos, *words)
    assert code == 1
    assert f"{engine.capitalize()} can't be reached at {address}" in err


# --- workers that are killed


def marked_processes(mark, word):
    """The processes of a test, by what their command line holds."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment and word in command:
            found.append(int(folder.name))
    return found


def kill_in_the_middle(output, mark, word):
    """Once a part is there, SIGKILL one process; returns its number."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(output.glob("*.parquet")) and (found := marked_processes(mark, word)):
            os.kill(found[0], signal.SIGKILL)
            return found[0]
        time.sleep(0.01)
    raise AssertionError("nobody works")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    make_images(folder, 5000)
    return folder


def check_kill(many, output, words, mark, word, classifier):
    process = start(
        many, "--output", output, "--json", *words, env={MARK: mark, "PYTHONUNBUFFERED": "1"}
    )
    try:
        kill_in_the_middle(output, mark, word)
        parts = len(list(output.glob("*.parquet")))
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert parts < len(list(output.glob("*.parquet")))
    done = json.loads(out)
    assert (done["images"], done["errors"]) == (5000, 0)
    rows = rows_of(output)
    assert len({row["path"] for row in rows}) == len(rows) == 5000
    check_same(rows[::25], classifier, [row["path"] for row in rows[::25]])


def test_a_worker_of_two_ray_nodes_is_killed(many, classifier, tmp_path, monkeypatch):
    need("ray")
    from ray.cluster_utils import Cluster

    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        words = ["--engine", "ray", "--address", cluster.address]
        check_kill(many, tmp_path / "r", words, mark, b"ray::MapWorker", classifier)
    finally:
        cluster.shutdown()


@pytest.mark.parametrize("word", [b"CoarseGrainedExecutorBackend", b"pyspark.daemon"])
def test_an_executor_of_two_or_its_python_is_killed(many, classifier, tmp_path, word):
    need("spark")
    words = ["--engine", "spark", "--address", "local-cluster[2,1,1024]"]
    check_kill(many, tmp_path / "r", words, uuid.uuid4().hex, word, classifier)


def test_a_run_that_is_killed_is_gone_on_with(engine, many, tmp_path):
    output, mark = tmp_path / "r", uuid.uuid4().hex
    process = start(many, "--engine", engine, "--output", output, env={MARK: mark})
    try:
        deadline = time.monotonic() + 120
        while len(list(output.glob("*.parquet"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    again = batch(many, "--engine", engine, "--output", output)
    assert again["done_before"] > 0
    assert again["images"] + again["done_before"] == 5000
    rows = rows_of(output)
    assert len({row["path"] for row in rows}) == len(rows) == 5000


# --- a worker's own work, without an engine


def work_on(classifier, output, top_k=5):
    made_with = {"top_k": top_k, "model_sha256": classifier.sha256}
    return Work(classifier, Options(top_k), Results(str(output), made_with))


def test_an_image_that_ends_the_worker_three_times_is_passed_over(
    classifier, photos, tmp_path, monkeypatch
):
    from vitsd_runtime.batch import answers

    class Killed(BaseException):
        pass

    def load(image, *rest):
        if image.endswith("00003.png"):
            raise Killed
        return load_for_model(image, *rest)

    load_for_model = answers.load_for_model
    monkeypatch.setattr(answers, "load_for_model", load)
    work = work_on(classifier, tmp_path / "r")
    chunk = make_plan([str(photos)], set(), 5).chunks[0]
    for _ in range(3):
        with pytest.raises(Killed):
            work(chunk.to_json())
        assert not list((tmp_path / "r").glob("*.parquet"))
    assert work(chunk.to_json()) == {"images": len(chunk.names), "errors": 1, "failure": ""}
    rows = rows_of(tmp_path / "r")
    assert [row["path"] for row in rows] == list(chunk.names)
    assert rows[3]["error"] == "Reading it ended the program 3 times."
    assert work(chunk.to_json())["errors"] == 1  # its part is there: nothing is done


def test_work_that_is_done_twice_at_the_same_time_leaves_one_part(classifier, photos, tmp_path):
    work = work_on(classifier, tmp_path / "r")
    text = make_plan([str(photos)], set(), 5).chunks[0].to_json()
    threads = [threading.Thread(target=work, args=(text,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "r").glob("*.parquet"))) == 1
    assert len(rows_of(tmp_path / "r")) == len(Chunk.from_json(text).names)


def test_answers_of_another_kind_are_not_mixed(classifier, photos, tmp_path):
    text = make_plan([str(photos)], set(), 5).chunks[0].to_json()
    work_on(classifier, tmp_path / "r")(text)
    with pytest.raises(UsageError, match=r"made with top_k 5, not 3: name another folder"):
        work_on(classifier, tmp_path / "r", top_k=3).results.done()


def test_folders_with_something_else_are_not_written_to(classifier, tmp_path):
    results = work_on(classifier, tmp_path).results
    assert results.done() == set()
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UsageError, match=r"photo\.jpg, which is no part of a result"):
        results.done()
    (tmp_path / "photo.jpg").unlink()
    (tmp_path / "half.parquet").write_bytes(b"PAR1")
    with pytest.raises(VitsdError, match=r"half\.parquet can't be read as a Parquet file"):
        results.done()
    parquet.write_table(table(path=["x"]), tmp_path / "half.parquet")
    with pytest.raises(UsageError, match="is no part of a result"):
        results.done()


def test_a_full_disk_ends_all_with_a_reason(classifier, photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    work = work_on(classifier, tmp_path / "r")
    text = make_plan([str(photos)], set(), 5).chunks[0].to_json()
    monkeypatch.setattr("vitsd_runtime.batch.results.atomic_write", full)
    assert "No space left" in work(text)["failure"]


# --- tables and object stores


def table(**columns):
    return pyarrow.table(columns)


def answers_to(source, classifier, output, done=()):
    work = work_on(classifier, output)
    for chunk in make_plan([str(source)], set(done), 5).chunks:
        assert work(chunk.to_json())["failure"] == ""
    return rows_of(output)


def test_a_table_of_images_or_of_paths_is_a_source(classifier, photos, tmp_path):
    files = sorted(photos.glob("0000*.png"))
    contents = [file.read_bytes() for file in files]
    source = tmp_path / "t.parquet"
    expected = [p[0].label for p in classifier.predict(files)]

    parquet.write_table(table(content=[*contents, b"", None]), source, row_group_size=4)
    rows = answers_to(source, classifier, tmp_path / "r1")
    assert sorted(row["path"] for row in rows) == sorted(f"{source}#{i}" for i in range(12))
    labels = {row["path"]: row["label"] for row in rows}
    assert [labels[f"{source}#{i}"] for i in range(12)] == [*expected, None, None]

    nested = [{"bytes": c, "path": f.name} for c, f in zip(contents, files, strict=True)]
    parquet.write_table(table(image=nested, label=[1] * 10), source)
    rows = answers_to(source, classifier, tmp_path / "r2")
    assert [row["path"] for row in rows] == [file.name for file in files]
    assert [row["label"] for row in rows] == expected
    rest = answers_to(source, classifier, tmp_path / "r3", done=[f.name for f in files[:7]])
    assert [row["label"] for row in rest] == expected[7:]

    names = [*(str(f) for f in files), files[0].as_uri(), "missing.png"]
    parquet.write_table(table(path=names), source)
    rows = answers_to(source, classifier, tmp_path / "r4")
    assert [row["label"] for row in rows] == [*expected, expected[0], None]
    assert [row["path"] for row in rows] == names


def damage(source, column, row_group=1):
    """Overwrite what is stored of a column."""
    found = parquet.ParquetFile(source).metadata.row_group(row_group)
    (stored,) = [
        c for c in map(found.column, range(found.num_columns)) if c.path_in_schema == column
    ]
    begin = stored.dictionary_page_offset or stored.data_page_offset
    content = bytearray(source.read_bytes())
    content[begin : begin + stored.total_compressed_size] = b"\xff" * stored.total_compressed_size
    source.write_bytes(content)


@pytest.mark.parametrize("damaged", ["image", "path"])
def test_damaged_parts_of_a_table_are_errors_of_their_rows(damaged, classifier, photos, tmp_path):
    files = sorted(photos.glob("0000*.png"))
    source = tmp_path / "t.parquet"
    columns = {"path": [str(file) for file in files]}
    if damaged == "image":
        columns["image"] = [file.read_bytes() for file in files]
    parquet.write_table(table(**columns), source, row_group_size=4)
    damage(source, damaged)
    rows = answers_to(source, classifier, tmp_path / "r")
    assert len(rows) == 10
    errors = [row["error"] for row in rows if row["error"]]
    assert len(errors) == 4
    assert all("t.parquet is damaged in its row group 1" in error for error in errors)
    done = work_on(classifier, tmp_path / "r").results.done()
    assert make_plan([str(source)], done, 5).images == 0


def test_images_whose_names_are_damaged_have_numbers(classifier, photos, tmp_path):
    content = (photos / "00001.png").read_bytes()
    source = tmp_path / "t.parquet"
    parquet.write_table(table(path=["a", "b", "c"], image=[content] * 3), source, row_group_size=1)
    damage(source, "path")
    rows = answers_to(source, classifier, tmp_path / "r")
    assert sorted(row["path"] for row in rows) == [f"{source}#1", "a", "c"]
    assert not any(row["error"] for row in rows)


def test_tables_that_can_not_be_reached_are_no_errors_of_rows(
    classifier, photos, tmp_path, monkeypatch
):
    source = tmp_path / "t.parquet"
    parquet.write_table(table(image=[(photos / "00001.png").read_bytes()]), source)
    (chunk,) = make_plan([str(source)], set(), 5).chunks
    damage(source, "image", 0)

    def gone(*_):
        raise VitsdError("the store is gone")

    monkeypatch.setattr("vitsd_runtime.batch.chunks._read_bytes", gone)
    failure = work_on(classifier, tmp_path / "r")(chunk.to_json())["failure"]
    assert "the store is gone" in failure


def test_a_result_that_can_not_be_written_ends_all_before_it_begins(engine, photos):
    code, _, err = run(photos, "--engine", engine, "--output", "/proc/x/r")
    assert code == 1
    assert "The result can't be written to /proc/x/r: No such file or directory. Name" in err
    assert "another folder with --output" in err


def test_ray_leaves_the_end_to_the_command(many, tmp_path, monkeypatch):
    need("ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    process = start(many, "--engine", "ray", "--output", tmp_path / "r", "--workers", "1")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("r/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM" not in err, err


def test_tables_that_are_none_of_images_are_misuse(tmp_path):
    source = tmp_path / "t.parquet"
    parquet.write_table(table(a=["x"], b=[1]), source)
    with pytest.raises(UsageError, match="it has a, b"):
        make_plan([str(source)], set(), 5)
    parquet.write_table(table(a=[b"x"], b=[b"x"]), source)
    with pytest.raises(UsageError, match="one column of images as bytes"):
        make_plan([str(source)], set(), 5)
    parquet.write_table(table(a=[b"x", b"y"], path=["x", "x"]), source)
    with pytest.raises(UsageError, match="x is the name of two images, row 0 of"):
        make_plan([str(source)], set(), 5)
    source.write_bytes(b"nonsense")
    with pytest.raises(VitsdError, match="can't be read as a Parquet file"):
        make_plan([str(source)], set(), 5)


@pytest.fixture
def bucket(monkeypatch):
    """A store that speaks S3, on this machine."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    yield client
    server.stop()


def test_an_object_store_holds_images_and_the_result(bucket, photos, classifier, tmp_path, engine):
    files = sorted(photos.glob("0000*.png"))
    for file in files:
        bucket.upload_file(str(file), "photos", f"in/sub/{file.name}")
    bucket.put_object(Bucket="photos", Key="in/.hidden/x.png", Body=files[0].read_bytes())
    bucket.put_object(Bucket="photos", Key="in/notes.txt", Body=b"x")
    bucket.put_object(Bucket="photos", Key="in/no-ending", Body=files[0].read_bytes())
    bucket.put_object(Bucket="photos", Key="in/bad.png", Body=b"x")
    output = "s3://photos/results"
    done = batch("s3://photos/in", "--engine", engine, "--output", output)
    assert (done["images"], done["errors"]) == (12, 1)
    again = batch("s3://photos/in/**/*.png", "--engine", engine, "--output", output)
    assert (again["images"], again["done_before"]) == (1, 11)  # the pattern names the hidden one
    keys = [o["Key"] for o in bucket.list_objects_v2(Bucket="photos", Prefix="results")["Contents"]]
    rows = []
    for key in keys:
        if key.endswith(".parquet"):
            bucket.download_file("photos", key, str(tmp_path / Path(key).name))
            rows += rows_of(tmp_path / Path(key).name)
    assert len({row["path"] for row in rows}) == len(rows) == 13
    labels = {row["path"]: row["label"] for row in rows}
    expected = [p[0].label for p in classifier.predict(files)]
    assert [labels[f"s3://photos/in/sub/{file.name}"] for file in files] == expected
    assert labels["s3://photos/in/no-ending"] == expected[0]


def test_tables_are_read_however_their_columns_are_stored(photos, classifier, tmp_path):
    files = sorted(photos.glob("0*.png"))[:2]
    ((first, *_), (second, *_)) = classifier.predict(files)
    source = tmp_path / "t.parquet"
    names = pyarrow.array(["a", "b"])
    for text, content in [
        (names.dictionary_encode(), pyarrow.binary()),
        (names.cast(pyarrow.large_string()), pyarrow.large_binary()),
        (names.cast(pyarrow.string_view()), pyarrow.binary_view()),
    ]:
        images = pyarrow.array([file.read_bytes() for file in files], content)
        parquet.write_table(pyarrow.table({"path": text, "image": images}), source)
        rows = answers_to(source, classifier, tmp_path / f"r{content}")
        assert [(row["path"], row["label"]) for row in rows] == [
            ("a", first.label),
            ("b", second.label),
        ]


def test_tables_in_a_folder_are_its_visible_files_but_not_the_result(classifier, photos, tmp_path):
    folder = tmp_path / "tables"
    content = (photos / "00001.png").read_bytes()
    for name in ("spark.parquet/part-0.parquet", ".hidden/t.parquet"):
        (folder / name).parent.mkdir(parents=True)
        parquet.write_table(table(image=[content]), folder / name)
    result = folder / "result"
    results = Results(str(result), {})
    for images in (1, 0):
        plan = make_plan([str(folder)], results.done(), 5, results.folder)
        assert plan.images == images
        for chunk in plan.chunks:
            Work(classifier, Options(), results)(chunk.to_json())
    with pytest.raises(UsageError, match="There is no image"):
        make_plan([str(result)], set(), 5, results.folder)


def test_a_name_means_one_image_in_all_tables(photos, tmp_path):
    sources = [tmp_path / "a" / "t.parquet", tmp_path / "b" / "t.parquet"]
    for source in sources:
        source.parent.mkdir()
        parquet.write_table(table(path=["0.png"]), source)
    with pytest.raises(UsageError, match=r"0\.png is the name of two images, .*a/0.png and"):
        make_plan([*map(str, sources)], set(), 5)
    plan = make_plan([str(sources[0]), str(sources[0].parent)], set(), 5)
    assert plan.images == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text")
def test_folders_and_tables_may_have_names_that_are_no_text(classifier, photos, tmp_path):
    folder = tmp_path / os.fsdecode(b"odd \xff")
    folder.mkdir()
    source = folder / "t.parquet"
    with source.open("wb") as file:
        parquet.write_table(table(image=[(photos / "00001.png").read_bytes()], path=["x"]), file)
    work = work_on(classifier, folder / "result")
    (chunk,) = make_plan([str(source)], set(), 5).chunks
    assert work(chunk.to_json())["failure"] == ""
    assert work.results.done() == {"x"}
    with pytest.raises(UsageError, match=r"holds t\.parquet|is no part of a result"):
        Results(str(folder), {}).done()


def test_odd_addresses_in_a_table_are_errors_of_their_rows(classifier, photos, tmp_path):
    good = (photos / "00001.png").as_uri()
    odd = ["http://[bad", "file://[bad", "s3://[", "s3://", "data:image/png;base64,", "ftp://x/y"]
    source = tmp_path / "t.parquet"
    parquet.write_table(table(path=[good, good.replace("file", "FILE"), *odd]), source)
    rows = answers_to(source, classifier, tmp_path / "r")
    assert [row["error"] is None for row in rows] == [True] * 2 + [False] * len(odd)


def test_a_folder_for_the_result_that_is_a_file_is_misuse(photos):
    with pytest.raises(UsageError, match="is no folder"):
        Results(str(photos / "00001.png"), {}).done()


def test_a_cluster_that_the_program_uses_already_stays_its_own(
    engine, photos, classifier, tmp_path, monkeypatch
):
    if engine == "ray":
        used = pytest.importorskip("ray")
        used.init("local", num_cpus=1, log_to_driver=False)
        stop, works = used.shutdown, used.is_initialized
    else:
        monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # as its program must
        used = pytest.importorskip("pyspark").SparkContext("local[1]", "mine")
        stop, works = used.stop, lambda: used.parallelize([1]).collect() == [1]
    try:
        assert classify(classifier, [str(photos)], str(tmp_path / "r"), engine).images == 102
        assert works()
    finally:
        stop()


@pytest.mark.parametrize("address", ["foo", "sc://h:1", "local[x]", "spark://h", "spark://h:x"])
def test_addresses_of_no_spark_master_are_misuse(address):
    need("spark")
    with pytest.raises(UsageError, match="is no `address` of a Spark master"):
        Cluster(address, None, 1)
