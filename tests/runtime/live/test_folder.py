"""Which images of a watched folder are answered, and when: with a clock that the test moves."""

import io
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.images.loading import load_image
from vitsd_runtime.live import folder as folder_module
from vitsd_runtime.live.folder import Watch
from vitsd_runtime.live.ledger import Ledger, Stamp


class StopError(Exception):
    """Ends an endless watch."""


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Watch ``photos`` for some seconds; returns what it answered as {name: "ok" or an error}."""
    clock = SimpleNamespace(now=0.0, end=0.0, between=lambda: None)
    said = []

    def sleep(seconds):
        clock.now += max(seconds, 0.01)
        clock.between()
        if clock.now >= clock.end:
            raise StopError

    stand_in = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(folder_module, "time", stand_in)
    (tmp_path / "photos").mkdir()

    def load(file):
        return load_image(file, (8, 8, 3))

    def run(seconds=3.0, between=lambda now: None, output=None):
        answered = []
        clock.end, clock.between = clock.now + seconds, lambda: between(clock.now)
        state = output or tmp_path / "photos" / ".state.jsonl"
        with Ledger(state, with_answers=output is not None) as ledger:
            try:
                watch = Watch(tmp_path / "photos", ledger, load, said.append)
                for arrival in watch.arrivals():
                    error = arrival.content if isinstance(arrival.content, str) else "ok"
                    answered.append((arrival.name, error))
                    ledger.add(arrival.name, arrival.stamp, {"answer": error})
            except StopError:
                pass
        return answered

    run.said = said
    run.photos = tmp_path / "photos"
    run.clock = clock
    return run


def png(seed=0):
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def test_what_is_there_is_answered_once_across_restarts(watch):
    (watch.photos / "b.png").write_bytes(png())
    (watch.photos / "sub").mkdir()
    (watch.photos / "sub" / "a.png").write_bytes(png(1))
    assert watch() == [("b.png", "ok"), ("sub/a.png", "ok")]
    assert watch() == []


def test_a_file_that_is_being_written_is_waited_for(watch):
    content = png()
    (watch.photos / "a.png").write_bytes(content[:50])
    sizes = []

    def write(now):
        if now < 5:  # slower than a file takes to look complete
            with open(watch.photos / "a.png", "ab") as file:
                file.write(content[50 + 5 * len(sizes) : 55 + 5 * len(sizes)])
            sizes.append(now)
        elif now < 6:
            (watch.photos / "a.png").write_bytes(content)

    assert watch(10, write) == [("a.png", "ok")]


def test_half_a_file_that_could_be_read_is_waited_for(watch):
    path = watch.photos / "a.png"
    path.write_bytes(b"0")

    def write():
        if watch.clock.now < 5:
            path.write_bytes(path.read_bytes() + b"0")

    watch.clock.between, watch.clock.end = write, 99
    with Ledger(watch.photos / ".state.jsonl") as ledger:
        everything = Watch(watch.photos, ledger, lambda file: np.zeros((8, 8, 3), np.uint8), print)
        assert next(everything.arrivals()).stamp.size == path.stat().st_size
    assert watch.clock.now >= 5


def test_a_writer_that_pauses_is_waited_for_and_a_broken_file_has_one_error(watch):
    (watch.photos / "slow.png").write_bytes(png()[:50])
    (watch.photos / "broken.png").write_bytes(png()[:50])

    def write(now):
        if 8 < now < 9.5:
            (watch.photos / "slow.png").write_bytes(png())

    slow, broken = sorted(watch(20, write), key=lambda answer: answer[1] != "ok")
    assert slow == ("slow.png", "ok")
    assert "broken.png can't be read as an image" in broken[1]
    assert watch(20) == []
    (watch.photos / "broken.png").write_bytes(png())
    assert watch() == [("broken.png", "ok")]


def test_a_file_that_is_written_to_while_it_is_read_is_read_again(watch):
    path = watch.photos / "a.png"
    path.write_bytes(png())
    reads = []

    def load(file):
        reads.append(file.name)
        if len(reads) == 1:
            path.write_bytes(png(1) + b"more")
        return np.zeros((8, 8, 3), np.uint8)

    with Ledger(watch.photos / ".state.jsonl") as ledger:
        watch.clock.end = 5.0
        arrivals = Watch(watch.photos, ledger, load, print).arrivals()
        arrival = next(arrivals)
    assert len(reads) == 2
    assert arrival.stamp.size == len(png(1)) + 4


def test_a_renamed_image_is_not_answered_again(watch):
    (watch.photos / "a.png").write_bytes(png())
    assert watch() == [("a.png", "ok")]
    (watch.photos / "a.png").rename(watch.photos / "b.png")
    assert watch() == []
    # Its old name is free for another one.
    (watch.photos / "a.png").write_bytes(png(1))
    assert watch() == [("a.png", "ok")]


def test_a_rename_while_it_runs_is_noticed(watch):
    (watch.photos / "a.png").write_bytes(png())

    def rename(now):
        if now > 3 and (watch.photos / "a.png").exists():
            (watch.photos / "a.png").rename(watch.photos / "b.png")

    assert watch(8, rename) == [("a.png", "ok")]


@pytest.mark.parametrize("restart", [False, True])
def test_images_that_are_renamed_in_a_ring_are_not_answered_again(watch, restart):
    """As cameras keep the newest: 2.png becomes 3.png, 1.png 2.png, then comes another 1.png."""
    for i in (1, 2, 3):
        (watch.photos / f"{i}.png").write_bytes(png(i))

    def turn(now):
        if now >= 4 and not (watch.photos / "4.png").exists():
            for i in (3, 2, 1):
                (watch.photos / f"{i}.png").rename(watch.photos / f"{i + 1}.png")
            (watch.photos / "1.png").write_bytes(png(4))

    answered = watch(4 if restart else 9, turn) + watch()
    assert sorted(name for name, _ in answered) == ["1.png", "1.png", "2.png", "3.png"]


def test_images_that_exchange_their_names_are_not_answered_again(watch):
    for name in "ab":
        (watch.photos / name).write_bytes(png(ord(name)))
    assert len(watch()) == 2
    for old, new in ("ac", "ba", "cb"):
        (watch.photos / old).rename(watch.photos / new)
    assert watch() == []


def test_a_copy_and_new_content_under_an_old_name_are_answered(watch):
    path = watch.photos / "a.png"
    path.write_bytes(png())
    watch()
    shutil.copy2(path, watch.photos / "copy.png")
    os.link(path, watch.photos / "link.png")
    assert sorted(watch()) == [("copy.png", "ok"), ("link.png", "ok")]
    path.unlink()
    path.write_bytes(png(1))
    assert watch() == [("a.png", "ok")]


def test_another_image_with_the_number_and_time_of_a_deleted_one_is_answered(watch):
    """File systems give the number of a deleted file to the next, copies keep their time."""
    path = watch.photos / "a.png"
    path.write_bytes(png())
    watch()
    times = path.stat().st_mtime_ns
    other = png(1)[: len(png())].ljust(len(png()), b"\0")
    with open(path, "r+b") as file:  # the same inode
        file.write(other)
    os.utime(path, ns=(times, times))
    path.rename(watch.photos / "b.png")
    assert [name for name, _ in watch(20)] == ["b.png"]


def test_times_of_files_are_not_compared_with_the_clock(watch):
    for i, when in enumerate((0, 1, 2**33)):
        (watch.photos / f"{i}.png").write_bytes(png(i))
        os.utime(watch.photos / f"{i}.png", (when, when))
    assert len(watch()) == 3


def test_a_file_that_can_not_be_opened_yet_is_tried_again(watch, monkeypatch):
    (watch.photos / "a.png").write_bytes(png())

    def refuse(path, *_):
        if watch.clock.now < 6:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, "rb")

    monkeypatch.setattr(folder_module, "open", refuse, raising=False)
    assert watch(12) == [("a.png", "ok")]
    assert len([text for text in watch.said if "can't be read (Permission denied)" in text]) == 1


def test_a_permission_that_comes_late_is_soon_noticed(watch, monkeypatch):
    (watch.photos / "a.png").write_bytes(png())

    def refuse(path, *_):
        if watch.clock.now < 3600:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, "rb")

    monkeypatch.setattr(folder_module, "open", refuse, raising=False)
    assert watch(3640) == [("a.png", "ok")]


def test_an_image_that_can_not_be_opened_has_not_ended_the_program(watch, monkeypatch):
    (watch.photos / "a.png").write_bytes(png())
    lock = watch.photos / ".state.jsonl.lock"

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "open", refuse, raising=False)
        left = []
        for _ in range(3):  # power cuts, while nothing is done
            watch(between=lambda _: left.append(lock.read_bytes()))
            lock.write_bytes(left[-1])
    assert watch() == [("a.png", "ok")]


def test_an_image_that_ends_the_program_is_passed_over_in_the_end(watch):
    (watch.photos / "a.png").write_bytes(png())
    (watch.photos / "deadly.png").write_bytes(png(1))
    found = os.stat(watch.photos / "deadly.png")
    lock = watch.photos / ".state.jsonl.lock"
    for _ in range(3):  # as a crash leaves it
        with Ledger(watch.photos / ".state.jsonl") as ledger:
            ledger.begin("deadly.png", [found.st_size, found.st_mtime_ns, found.st_ino])
            left = lock.read_bytes()
        lock.write_bytes(left)
    answered = dict(watch())
    assert answered["a.png"] == "ok"
    assert "deadly.png is passed over" in answered["deadly.png"]
    assert watch() == []


def test_a_stop_in_peace_does_not_count_against_an_image(watch):
    for _ in range(9):
        with Ledger(watch.photos / ".state.jsonl") as ledger:
            assert ledger.begin("a.png", [1, 2, 3]) == 0


def test_what_is_remembered_does_not_grow_for_ever(tmp_path):
    for batch in range(30):
        names = [f"{batch}-{i}.png" for i in range(100)]
        with Ledger(tmp_path / "state") as ledger:
            for i, name in enumerate(names):
                ledger.add(name, Stamp(1, 2, batch * 100 + i, 3), {})
            ledger.tidy(names, all_seen=True)
            assert set(names) <= set(ledger.known)
    assert (tmp_path / "state").read_bytes().count(b"\n") < 1500


def test_a_latest_picture_that_is_overwritten_for_ever_does_not_grow_it(tmp_path):
    with Ledger(tmp_path / "state") as ledger:
        for i in range(5000):
            ledger.add("latest.jpg", Stamp(1, i, 1, 3), {})
            ledger.tidy({"latest.jpg"}, all_seen=True)
    assert (tmp_path / "state").stat().st_size < 200_000


def test_a_part_of_the_folder_that_can_not_be_seen_is_not_forgotten(tmp_path):
    with Ledger(tmp_path / "state") as ledger:
        for i in range(3000):
            ledger.add(f"sub/{i}.jpg", Stamp(1, i, i, 3), {})
        ledger.tidy(set(), all_seen=False)
        assert len(ledger.known) == 3000


def test_answers_are_never_removed_from_their_file(watch, tmp_path):
    output = tmp_path / "answers.jsonl"
    with Ledger(output, with_answers=True) as ledger:
        for i in range(3000):
            ledger.add(f"{i}.jpg", Stamp(1, i, i, 3), {"known": True})
        ledger.tidy(set(), all_seen=True)  # a disk that was taken away and comes back
        assert len(ledger.known) == 3000
    assert output.read_bytes().count(b'"known": true') == 3000


def test_a_removed_state_file_is_made_anew(watch):
    (watch.photos / "a.png").write_bytes(png())

    def remove(now):
        if 3 < now < 4.5:
            (watch.photos / ".state.jsonl").unlink(missing_ok=True)

    assert watch(8, remove) == [("a.png", "ok")]
    assert watch() == []


def test_half_a_line_of_a_program_that_was_killed_goes(tmp_path):
    path = tmp_path / "answers.jsonl"
    with Ledger(path, with_answers=True) as ledger:
        ledger.add("a.png", Stamp(1, 2, 3, 4), {"known": True})
    whole = path.read_bytes()
    for end in (b'{"im', b'{"image": "b.png", "kn', b"\0\0\0"):
        path.write_bytes(whole + end)
        with Ledger(path, with_answers=True) as ledger:
            assert set(ledger.known) == {"a.png"}
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        *(b"precious", b"precious\n", b"[1]\n", b"7\n", b"\xff\n"),
        b'{"image": 1, "file": [1,2,3,4]}\n',
        b'{"image": "a", "file": [1,2,3]}\n',
        b'{"image": "a", "file": "1234"}\n',
    ],
)
def test_a_file_that_holds_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="holds something else"):
        Ledger(path)
    assert path.read_bytes() == content


def test_nothing_is_written_through_a_link(tmp_path):
    """Others may write into a watched folder."""
    target = tmp_path / "precious"
    target.write_bytes(b"")
    (tmp_path / "state").symlink_to(target)
    with pytest.raises(VitsdError, match="`output`"):
        Ledger(tmp_path / "state")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VitsdError, match="regular file"):
        Ledger(tmp_path / "pipe")


def test_a_place_that_is_taken_away_is_said(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(VitsdError, match="can't be kept"), Ledger(place / "state") as ledger:
        shutil.rmtree(place)
        ledger.tidy(set(), all_seen=True)


def test_what_is_no_file_gets_none_beside_it(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(VitsdError, match="directory"):
        Ledger(tmp_path / "folder")
    with pytest.raises(VitsdError, match="directory"):
        Ledger(tmp_path.__class__("."))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_two_programs_do_not_share_a_file(tmp_path):
    pytest.importorskip("fcntl")
    with Ledger(tmp_path / "state"), pytest.raises(VitsdError, match="Another vitsd-predict"):
        Ledger(tmp_path / "state")
    with Ledger(tmp_path / "state"):
        pass


def test_a_read_only_place_is_said(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise OSError(30, "Read-only file system", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(VitsdError, match=r"Read-only file system\. Name a file elsewhere"):
        Ledger(tmp_path / "state")


def test_names_that_are_no_text_are_remembered(watch):
    name = os.fsdecode(b"\xff\n.png")
    (watch.photos / name).write_bytes(png())
    assert watch() == [(name, "ok")]
    assert watch() == []
