"""The simulation halts what does harm, uses the agent's rule, and repeats itself."""

import numpy as np
import pytest
from tools.simulate_rollout import SCENARIOS, Fleet, Publisher, simulate

from tools import simulate_rollout


@pytest.fixture(autouse=True)
def two_days(monkeypatch):
    monkeypatch.setattr(simulate_rollout, "_DAYS", 2)


def run(name, halt=0.01, devices=500):
    random = np.random.default_rng(7)
    publisher = Publisher(soak=6 * 3600, halt=halt, mend=4 * 3600)
    return simulate(SCENARIOS[name], Fleet(devices, 3600, random), publisher, random)


def test_what_does_harm_is_halted_and_mended():
    figures, _ = run("harmful")
    assert figures["halted_after_hours"] is not None
    assert figures["devices_that_tried_version_2"] < 100  # of 500
    assert figures["devices_that_were_harmed_by_version_2"] > 0
    assert figures["share_after_two_weeks"] > 0.9  # of the version that mends it
    again, _ = run("harmful")
    assert again == figures


def test_without_a_halt_all_devices_try_it():
    figures, table = run("harmful", halt=2.0)
    assert figures["halted_after_hours"] is None
    assert figures["devices_that_tried_version_2"] > 450
    assert table[-1, 1] > 0.9


def test_devices_decide_by_the_agents_rule(monkeypatch):
    monkeypatch.setattr("vitsd_runtime.release.rollout.takes_part", lambda *_: False)
    figures, _ = run("good")
    assert figures["devices_that_tried_version_2"] == 0
