"""Simulate staged roll-outs to many devices: ``python tools/simulate_rollout.py --output DIR``.

Every simulated device decides with the agent's own rule (``vitsd_runtime.release.rollout``) what it
takes. A publisher widens a release stage by stage, and halts it when too many of the devices that
tried it report that it failed; then it mends it and publishes the next version the same way. Writes
rollout.json and rollout.png, and prints the JSON. The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitsd_runtime.cli.options import positive_int, positive_number, random_seed
from vitsd_runtime.release.rollout import choose
from vitsd_runtime.release.statements import Offer, Release
from vitsd_runtime.system.files import atomic_write, write_text

_STAGES = (1.0, 10.0, 50.0, 100.0)
_HOUR = 3600
_STEP = 60
_DAYS = 14
_DAILY = 0.2
"""Share of the devices that are switched on for a third of each day."""
_AWAY = 0.01
"""Share that comes back at some time in the two weeks."""
_OWN = 0.003
"""Share on which every release fails, for reasons of their own: full or broken disks."""
_FEWEST = 5
"""Failures that are no accident."""
_LOOKS = 900
"""Seconds between two looks of the publisher at what the devices report."""


@dataclass(frozen=True)
class Scenario:
    """What is wrong with version 2; version 3, which mends it, is good."""

    title: str
    refused: float = 0.0
    """Share of the devices on which it fails its verification: it is never in use there."""
    harmful: float = 0.0
    """Share on which it works at first, and is reported to fail about an hour later."""


SCENARIOS = {
    "good": Scenario("a good release"),
    "refused": Scenario("fails its verification on 30 % of the devices", refused=0.3),
    "rare": Scenario("fails its verification on 2 % of the devices", refused=0.02),
    "harmful": Scenario("passes, and harms every third device an hour later", harmful=0.33),
}


class Fleet:
    """Devices, and what each of them has.

    Args:
        count: of the devices.
        interval: seconds between two pulls of a device.
        random: source of all chance.
    """

    def __init__(self, count: int, interval: int, random: np.random.Generator) -> None:
        self.names = [f"{number:032x}" for number in random.integers(0, 2**63, count)]
        self.interval, self._random = interval, random
        self.version = np.ones(count, np.int64)
        self.refused = np.zeros(count, np.int64)
        """The newest version that was given up; 0: none."""
        self.next = random.uniform(0, interval, count)
        kind = random.random(count)
        self._daily = kind < _DAILY
        self._phase = random.uniform(0, 24 * _HOUR, count)
        self._back = np.where(
            kind > 1 - _AWAY, random.uniform(0, _DAYS * 24 * _HOUR, count), -np.inf
        )
        self._known: dict[tuple[float, ...], dict[str, int]] = {}

    def pulling(self, now: float) -> NDArray[np.int64]:
        """The devices that ask the host in the step that begins now; their next time is drawn."""
        due = np.nonzero(self.next < now + _STEP)[0]
        on = self._starts(due, now) <= now
        off = due[~on]
        # After being switched on, within minutes.
        self.next[off] = self._starts(off, now) + self._random.uniform(60, 360, len(off))
        found = due[on]
        jitter = self._random.uniform(-0.25, 0.25, len(found)) * self.interval
        self.next[found] += self.interval + jitter
        return found

    def _starts(self, devices: NDArray[np.int64], now: float) -> NDArray[np.float64]:
        """When each is on for the first time from now on."""
        day = (now - self._phase[devices]) % (24 * _HOUR)
        sleeping = self._daily[devices] & (day > 8 * _HOUR)
        starts = np.where(sleeping, now + 24 * _HOUR - day, now)
        return np.maximum(starts, self._back[devices])

    def wanted(self, device: int, offers: Sequence[Offer]) -> int:
        """The version that a device takes; 0 if none."""

        def suits(release: Release) -> bool:
            return bool(release.version != self.refused[device])

        offer = choose(offers, self.names[device], suits)
        return offer.release.version if offer else 0


class Publisher:
    """Widens a release, halts it, mends it.

    Args:
        soak: seconds that a stage lasts.
        halt: share of failures at which a release is halted.
        mend: seconds from the halt to the next version.
    """

    def __init__(self, soak: float, halt: float, mend: float) -> None:
        self._soak, self._halt, self._mend = soak, halt, mend
        self._version, self._since, self._stage = 2, 0.0, 0
        self.halted: float | None = None
        self.mended: float | None = None

    def offers(self, now: float, tried: int, failed: int) -> list[Offer]:
        """What the index offers, after it was told how the release does."""
        if self._version == 2:
            many = failed >= _FEWEST and failed > self._halt * tried
            if self.halted is None and many and now % _LOOKS == 0:
                self.halted = now
            if self.halted is not None and now >= self.halted + self._mend:
                self._version, self._since, self._stage = 3, now, 0
                self.mended = now
        going = self._version == 3 or self.halted is None
        if going and now - self._since >= self._soak and self._stage < len(_STAGES) - 1:
            self._since, self._stage = now, self._stage + 1
        rollout = _STAGES[self._stage] if going else 0.0
        return [_offer(self._version, rollout), _offer(1, 100.0)]


def _offer(version: int, rollout: float) -> Offer:
    return Offer(Release("cats", version, 0, ()), rollout, {})


def simulate(
    scenario: Scenario, fleet: Fleet, publisher: Publisher, random: np.random.Generator
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Two weeks of a release.

    Returns:
        Figures, and for each step: hours, shares of the devices with version 2 and with the last
        good version, requests per second.
    """
    count, rows = len(fleet.names), []
    chance = random.random(count)
    own, fails = chance < _OWN, chance < _OWN + scenario.refused
    harms = np.where(
        random.random(count) < scenario.harmful, random.exponential(_HOUR, count), np.inf
    )
    since, until = np.full(count, np.inf), np.full(count, np.inf)
    tried = failed = 0
    good = 3 if scenario.refused or scenario.harmful else 2
    for now in np.arange(0, _DAYS * 24 * _HOUR, _STEP, dtype=float):
        reported = int((since + harms < now).sum()) + failed
        offers = publisher.offers(now, tried, reported)
        pulling = fleet.pulling(now)
        for device in pulling[fleet.version[pulling] < offers[0].release.version]:
            wanted = fleet.wanted(device, offers)
            if wanted <= fleet.version[device]:
                continue
            tried += wanted == 2
            if own[device] or (wanted == 2 and fails[device]):
                failed += wanted == 2
                fleet.refused[device] = wanted
                continue
            if wanted == 2:
                since[device] = now
            elif fleet.version[device] == 2:
                until[device] = now
            fleet.version[device] = wanted
        on_bad = float((fleet.version == 2).mean())
        done = float((fleet.version == good).mean())
        rows.append((now / _HOUR, on_bad, done, len(pulling) / _STEP))
    table = np.array(rows)
    used = since < np.inf
    harmed = used & (since + harms < until)
    counts = {"tried": tried, "used": int(used.sum()), "were_harmed_by": int(harmed.sum())}
    return _figures(scenario, publisher, table, counts), table


def _figures(
    scenario: Scenario,
    publisher: Publisher,
    table: NDArray[np.float64],
    counts: dict[str, int],
) -> dict[str, Any]:
    hours, _, done, requests = table.T
    shares = (0.5, 0.9, 0.98, 0.99)
    reached: dict[str, float | None] = {
        f"{100 * share:g} %": round(float(hours[np.argmax(done >= share)]), 1)
        if (done >= share).any()
        else None
        for share in shares
    }
    return {
        "what": scenario.title,
        **{f"devices_that_{what}_version_2": number for what, number in counts.items()},
        "halted_after_hours": publisher.halted and round(publisher.halted / _HOUR, 2),
        "mended_after_hours": publisher.mended and round(publisher.mended / _HOUR, 2),
        "hours_until_this_share_has_a_good_new_version": reached,
        "share_after_two_weeks": round(float(done[-1]), 4),
        "requests_per_second": {
            "mean": round(float(requests.mean()), 1),
            "largest_in_a_minute": round(float(requests.max()), 1),
        },
    }


def draw(path: Path, tables: dict[str, NDArray[np.float64]]) -> None:
    """One picture: the share of the devices with each version, and the requests."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(tables) + 1, 1, figsize=(8, 2.2 * (len(tables) + 1)))
    for axis, (name, table) in zip(axes, tables.items(), strict=False):
        axis.plot(table[:, 0], 100 * table[:, 2], label="a good new version")
        axis.plot(table[:, 0], 100 * table[:, 1], label="version 2")
        axis.set(title=SCENARIOS[name].title, ylabel="% of devices", xlim=(0, 48))
        axis.legend(loc="center right")
    requests = next(iter(tables.values()))
    axes[-1].plot(requests[:, 0], requests[:, 3])
    axes[-1].set(ylabel="requests/s", xlabel="hours", xlim=(0, 48))
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)


def _at_the_full_hour(devices: int) -> int:
    """In the worst second, with clocks that are a second off."""
    seconds = np.random.default_rng(0).normal(0, 1, devices).round().astype(int)
    return int(np.bincount(seconds - seconds.min()).max())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scenarios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=positive_int, default=100_000)
    parser.add_argument("--seed", type=random_seed, default=1)
    parser.add_argument(
        "--interval", type=positive_int, default=_HOUR, help="seconds between two pulls"
    )
    parser.add_argument("--soak", type=positive_number, default=6, help="hours that a stage lasts")
    parser.add_argument(
        "--halt", type=positive_number, default=1, help="percent of failures that halt it"
    )
    parser.add_argument(
        "--mend", type=positive_number, default=4, help="hours from the halt to version 3"
    )
    parser.add_argument("--output", type=Path, default=Path("."), metavar="DIR")
    arguments = parser.parse_args(argv)
    start, found, tables = time.monotonic(), {}, {}
    for name, scenario in SCENARIOS.items():
        random = np.random.default_rng(arguments.seed)
        fleet = Fleet(arguments.devices, arguments.interval, random)
        publisher = Publisher(arguments.soak * _HOUR, arguments.halt / 100, arguments.mend * _HOUR)
        found[name], tables[name] = simulate(scenario, fleet, publisher, random)
    options = {name: value for name, value in vars(arguments).items() if name != "output"}
    report = {
        **options,
        "stages": _STAGES,
        "requests_per_second_if_all_ask_at_the_full_hour": _at_the_full_hour(arguments.devices),
        "scenarios": found,
    }
    text = json.dumps(report, indent=1)
    write_text(arguments.output / "rollout.json", text + "\n")
    draw(arguments.output / "rollout.png", tables)
    print(text)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
