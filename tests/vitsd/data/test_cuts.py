"""What is held out: by each image's own content, and as models once held out by position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitsd.data.cuts import cut_by_position
from vitsd.data.dataset import Dataset, Split, hold_out
from vitsd.data.identity import file_identity, pixel_identities, uniform_draws
from vitsd.data.sources import load_dataset
from vitsd_runtime import UsageError


def split_of(identities, labels) -> Split:
    """Images that are told apart by their pixels."""
    images = np.array(identities, np.uint32).view(np.uint8).reshape(-1, 2, 2, 1)
    return Split(images, np.array(labels, np.int64))


def ids(split: Split) -> set[int]:
    return set(split.images.reshape(-1, 4).view(np.uint32).ravel().tolist())


@given(st.sets(st.integers(0, 2**32 - 1), min_size=30, max_size=60), st.randoms())
def test_images_that_come_go_or_change_places_move_no_other(numbers, random):
    numbers = list(numbers)
    _, held_before = hold_out(split_of(numbers, np.zeros(len(numbers))), 0.5, "test")
    random.shuffle(numbers)
    kept = numbers[:25]
    _, held_after = hold_out(split_of(kept, np.zeros(25)), 0.5, "test")
    assert ids(held_after) == ids(held_before) & set(kept)


def test_a_photo_more_in_every_class_moves_no_other():
    random = np.random.default_rng(0)
    numbers = random.choice(2**32, 123, replace=False)
    labels = np.arange(123) % 3
    first = [ids(part) for part in hold_out(split_of(numbers[3:], labels[3:]), 0.2, "test")]
    second = [ids(part) for part in hold_out(split_of(numbers, labels), 0.2, "test")]
    assert all(old <= new for old, new in zip(first, second, strict=True))
    assert not first[0] & second[1]


def test_about_the_fraction_is_held_out_and_cuts_are_independent():
    split = split_of(np.arange(20_000), np.arange(20_000) % 4)
    rest, test = hold_out(split, 0.2, "test")
    assert len(test) == pytest.approx(4000, abs=250)
    _, val = hold_out(rest, 0.1, "val")
    assert len(val) == pytest.approx(1600, abs=160)


def test_equal_images_stay_together():
    numbers = np.repeat(np.arange(500), 3)
    rest, held_out = hold_out(split_of(numbers, numbers % 5), 0.3, "test")
    assert len(held_out) > 300
    assert not ids(rest) & ids(held_out)


@pytest.mark.parametrize("rule", ["content", "position"])
@pytest.mark.parametrize("fraction", [0.01, 0.6, 0.99])
def test_every_class_of_two_images_is_in_both_parts(rule, fraction):
    labels = [0, 0, 1, 1, 2, 2, 3, 3, 4]
    split = split_of(np.arange(9), labels)
    held = Dataset("x", tuple("abcde"), split, split, split_rule=rule).with_validation(fraction)
    assert set(held.train.labels) == {0, 1, 2, 3, 4}
    assert set(held.val.labels) == {0, 1, 2, 3}


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, 1, 2, 2, 3, 3]])
def test_one_image_a_class_is_too_few(numbers):
    with pytest.raises(UsageError, match="one training image per class"):
        hold_out(split_of(numbers, numbers), 0.5, "test")


def test_the_cut_by_position_is_that_of_earlier_versions():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 0, 2, 1, 0, 3])
    assert np.flatnonzero(cut_by_position(labels, 0.4)).tolist() == [4, 6, 9, 10]
    test = load_dataset("digits").test
    assert len(test) == 359
    assert test.labels[:12].tolist() == [5, 9, 2, 4, 6, 7, 9, 3, 4, 6, 8, 5]


def test_an_identity_is_that_of_the_content(tmp_path):
    for name, content in (("a.png", b"1"), ("b.jpg", b"1"), ("c.png", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (file_identity(tmp_path / name) for name in ("a.png", "b.jpg", "c.png"))
    assert a == b != c
    assert a == 0x6B86B273FF34FCE1  # SHA-256 of "1"
    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2)
    strided = np.repeat(images, 2, axis=2)[:, :, ::2]
    np.testing.assert_array_equal(pixel_identities(images), pixel_identities(strided))


def test_draws_are_uniform_and_fixed():
    identities = np.arange(10_000, dtype=np.uint64)
    draws = uniform_draws(identities, "test")
    assert 0 <= draws.min() < 0.001 < 0.999 < draws.max() < 1
    assert draws.mean() == pytest.approx(0.5, abs=0.02)
    assert draws[:3].round(6).tolist() == [0.721866, 0.393122, 0.595511]
    assert abs(np.corrcoef(draws, uniform_draws(identities, "val"))[0, 1]) < 0.03
