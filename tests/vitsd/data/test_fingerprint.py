"""What a model says of the images it was trained on."""

import numpy as np
import pytest

from vitsd.data.fingerprint import Fingerprint
from vitsd_runtime import VitsdError
from vitsd_runtime.spec.limits import MAX_FINGERPRINT_HASHES


def identities(*seeds: int, count: int = 1000):
    parts = [np.random.default_rng(s).integers(0, 2**64, count, np.uint64) for s in seeds]
    return np.concatenate(parts)


def test_small_sets_are_counted_exactly():
    fingerprint = Fingerprint.of(identities(0, count=120))
    again = np.concatenate([identities(0, count=32), identities(1, count=88)])
    overlap = fingerprint.overlap(again)
    assert (overlap.images, overlap.exact) == (32, True)
    assert fingerprint.overlap(identities(1)).images == 0


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_large_sets_are_estimated(share):
    trained = identities(0, count=50_000)
    fingerprint = Fingerprint.of(trained)
    new = identities(1, count=10_000)
    new[: int(share * 10_000)] = trained[: int(share * 10_000)]
    overlap = fingerprint.overlap(new)
    assert not overlap.exact
    assert overlap.images == pytest.approx(share * 10_000, abs=800)


def test_a_fingerprint_says_when_it_cannot_tell():
    fingerprint = Fingerprint.of(identities(0, count=50_000))
    assert fingerprint.overlap(np.array([2**64 - 1], np.uint64)) is None


def test_text_is_bounded_and_holds_everything():
    for count in (0, 1, 100, 100_000):
        fingerprint = Fingerprint.of(identities(0, count=count))
        text = fingerprint.to_text()
        assert len(text) == 8 * min(count, MAX_FINGERPRINT_HASHES)
        np.testing.assert_array_equal(Fingerprint.from_text(text).hashes, fingerprint.hashes)


@pytest.mark.parametrize("sizes", [(100, 300), (1500, 1500), (9000, 5000)])
def test_a_union_is_that_of_all_images(sizes):
    first, second = identities(0, count=sizes[0]), identities(1, count=sizes[1])
    union = Fingerprint.of(first).union(Fingerprint.of(second))
    both = Fingerprint.of(np.concatenate([first, second]))
    np.testing.assert_array_equal(union.hashes, both.hashes)


@pytest.mark.parametrize(
    "text", ["A", "AAAAAAA=", "AAAAAAA\n", "\u0660" * 8, "A" * 8 * 2049, 3, ["A"]]
)
def test_a_strangers_fingerprint_is_checked_when_a_spec_is_read(spec, text):
    with pytest.raises(VitsdError, match="trained_on"):
        spec.replace(provenance={"trained_on": text})


@pytest.mark.parametrize("rule", ["chance", 1, ["content"]])
def test_a_strangers_rule_is_checked_when_a_spec_is_read(spec, rule):
    with pytest.raises(VitsdError, match="split_rule"):
        spec.replace(provenance={"split_rule": rule})
