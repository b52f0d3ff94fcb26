"""``make soak``: a server under load for ten minutes; its memory and latency over time.

Clients send good and bad requests of every kind, break off uploads, come in bursts, and the model's
file is replaced now and then. Exit code 1 if a request was lost or answered by an error of the
server, or if memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.serving.load import Reply, ask_all, repeat
from tools.serving.process import ServerProcess
from tools.serving.requests import mixed
from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import positive_number
from vitsd_runtime.models.catalog import bundled_model
from vitsd_runtime.system.files import atomic_write, write_text

_STEP = 10.0
"""Seconds between two samples."""
_BURST = 300
"""Connections at once, at the end of every step."""
_GROWTH = 1.05
"""Of memory from the second third of the time to the last, that is taken for noise."""
_ALLOWED = (200, 400, 404, 503)
_log = logging.getLogger("vitsd.tools.serving")


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="soak", description="Keep a server under load; exit code 1 if it does not stand it."
    )
    add = parser.add_argument
    add("--seconds", type=positive_number, default=600, metavar="S", help="default: 600")
    add(
        "--rate",
        type=positive_number,
        default=100,
        metavar="N",
        help="requests per second (default: 100)",
    )
    add("--output", type=Path, default=Path("soak"), metavar="DIR", help="default: soak")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd-runtime")


def _main(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.tflite"
        shutil.copyfile(bundled_model(), model)
        with ServerProcess(model, "--timeout", 5) as server:
            samples = asyncio.run(_load(server, model, arguments))
            code, log = server.stop(), server.log
    report = {"samples": samples, "exit_code": code, **judge(samples, code)}
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output / "soak.json", json.dumps(report, indent=1))
    write_text(arguments.output / "server.log", "\n".join(log))
    _draw(samples, arguments.output / "soak.png")
    for fault in report["faults"]:
        print(fault)
    requests = sum(report["statuses"].values())
    first, last = samples[0], samples[-1]
    print(
        f"{requests:,} requests in {last['time']:.0f} s; memory {first['memory_mb']:.0f} to "
        f"{last['memory_mb']:.0f} MiB. See {arguments.output}/soak.png."
    )
    return 1 if report["faults"] else 0


async def _load(
    server: ServerProcess, model: Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    address, requests = (server.host, server.port), mixed(model.stem)
    samples: list[dict[str, Any]] = []
    start = time.monotonic()
    while (now := time.monotonic() - start) < arguments.seconds:
        steady, burst, _ = await asyncio.gather(
            ask_all(address, repeat(requests, int(arguments.rate * _STEP)), 32, arguments.rate),
            _burst(address, requests),
            _break_off(address, requests),
        )
        if len(samples) % 3 == 2:
            with atomic_write(model) as new:
                shutil.copyfile(bundled_model(), new)
        samples.append(_sample(now, server, steady, burst))
        _log.info("%s", json.dumps(samples[-1]))
    return samples


async def _burst(address: tuple[str, int], requests: Sequence[bytes]) -> list[Reply]:
    await asyncio.sleep(_STEP / 2)
    return await ask_all(address, repeat(requests, _BURST), _BURST)


async def _break_off(address: tuple[str, int], requests: Sequence[bytes]) -> None:
    """Uploads that end in the middle, some at once and some never."""
    for request in requests[:20]:
        _, writer = await asyncio.open_connection(*address)
        writer.write(request[: len(request) // 2])
        await asyncio.sleep(_STEP / 50)
        writer.close()


def _sample(
    now: float, server: ServerProcess, steady: Sequence[Reply], burst: Sequence[Reply]
) -> dict[str, Any]:
    times = [1e3 * reply.seconds for reply in steady if reply.status == 200]
    return {
        "time": round(now + _STEP, 1),
        "memory_mb": round(server.memory_mb(), 1),
        "open_files": len(os.listdir(f"/proc/{server.process.pid}/fd")),
        "p50_ms": round(float(np.percentile(times, 50)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
        "statuses": dict(collections.Counter(str(r.status) for r in (*steady, *burst))),
    }


def judge(samples: Sequence[dict[str, Any]], code: int) -> dict[str, Any]:
    """What is wrong with it."""
    statuses = collections.Counter[str]()
    for sample in samples:
        statuses.update(sample["statuses"])
    allowed = set(map(str, _ALLOWED))
    faults = [
        f"{count} requests ended with {s}" for s, count in statuses.items() if s not in allowed
    ]
    third = len(samples) // 3
    memory = [sample["memory_mb"] for sample in samples]
    growth = (
        float(np.median(memory[-third:]) / np.median(memory[third : 2 * third])) if third else 1
    )
    if growth > _GROWTH:
        faults.append(f"memory grew by {100 * (growth - 1):.1f} % in the last third")
    if code:
        faults.append(f"the server ended with exit code {code}")
    return {"statuses": dict(statuses), "memory_growth": round(growth, 4), "faults": faults}


def _draw(samples: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, sharex=True, figsize=(8, 6), layout="constrained"
    )
    minutes = [sample["time"] / 60 for sample in samples]
    above.plot(minutes, [sample["memory_mb"] for sample in samples])
    above.set_ylabel("memory, MiB")
    above.set_ylim(bottom=0)
    for name in ("p50_ms", "p99_ms"):
        below.semilogy(minutes, [sample[name] for sample in samples], label=name[:3])
    below.set_ylabel("latency, ms")
    below.set_xlabel("minutes")
    below.legend()
    with atomic_write(path) as new:
        figure.savefig(new, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
