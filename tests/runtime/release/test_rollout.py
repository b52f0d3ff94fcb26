"""Staged roll-outs: the share that was asked for, and always the same devices."""

import pytest

from vitsd_runtime.release.rollout import takes_part

DEVICES = [f"device-{i}" for i in range(20_000)]


def part(version, rollout):
    return {device for device in DEVICES if takes_part(device, "cats", version, rollout)}


@pytest.mark.parametrize("rollout", [0, 0.5, 1, 10, 50, 99, 100])
def test_the_share_is_as_asked(rollout):
    share = 100 * len(part(1, rollout)) / len(DEVICES)
    assert share == (rollout if rollout in (0, 100) else pytest.approx(rollout, abs=1))


def test_who_is_in_stays_in():
    assert part(1, 1) < part(1, 10) < part(1, 50) < part(1, 100)


def test_every_version_begins_with_other_devices():
    assert len(part(1, 10) & part(2, 10)) == pytest.approx(200, abs=60)


def test_the_rule_does_not_change():
    # Devices with an older agent must come to the same answer.
    taken = [version for version in range(1, 9) if takes_part("a", "cats", version, 50)]
    assert taken == [1, 3, 7]
