"""``make demo``: the whole pipeline on real images, with the commands that a person would type.

Trains preset ``tiny`` on scikit-learn's handwritten digits, exports every format, checks that all
give the same answers, classifies held-out images, serves one, and closes with one table. Everything
goes to runs/demo.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.serving.process import ServerProcess
from vitsd.data.sources import load_dataset
from vitsd_runtime.system.text import table

RUN = Path("runs/demo")
DATA = "digits"
LEAST_TOP1 = 0.95
"""A model that is less accurate fails the demo."""
HEADERS = ["artifact", "size MB", "top-1 %", "agreement %", "max |logit diff|", "median ms"]


def main() -> int:
    """Run the demo; returns its exit code."""
    start = time.perf_counter()
    shutil.rmtree(RUN, ignore_errors=True)
    run(f"vitsd-train --preset tiny --data {DATA} --output {RUN}")
    run(f"vitsd-export {RUN}/model.keras --format all --quantization none dynamic int8")
    files = sorted(map(str, [*RUN.glob("*.tflite"), *RUN.glob("*.onnx")]))
    artifacts = " ".join([f"{RUN}/demo_saved_model", *files])
    parity = capture(f"vitsd-parity {RUN}/model.keras {artifacts} --data {DATA} --json")
    save_held_out_images(RUN / "images", 8)
    run(f"vitsd-predict {RUN}/demo-int8.tflite {RUN}/images --top-k 2")
    bench = capture(f"vitsd-bench {artifacts} --num-threads 1 --batch-sizes 1 --seconds 0.5 --json")
    serve(RUN / "demo-int8.tflite", next((RUN / "images").iterdir()))
    print_summary(parity["models"], bench)
    print(f"Done in {time.perf_counter() - start:.0f} s.")
    if min(row["top1"] for row in parity["models"]) < LEAST_TOP1:
        print(f"A model is below {LEAST_TOP1:.0%} top-1: something is wrong.", file=sys.stderr)
        return 1
    return 0


def run(command: str) -> None:
    """Print a command and run it."""
    print(f"\n$ {command}", flush=True)
    subprocess.run(shlex.split(command), check=True)


def capture(command: str) -> dict[str, Any]:
    """Print a command and run it; returns the JSON object that it prints."""
    print(f"\n$ {command}", flush=True)
    done = subprocess.run(shlex.split(command), check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def serve(model: Path, image: Path) -> None:
    """Start the server for one request."""
    print(f"\n$ vitsd-serve {model}", flush=True)
    with ServerProcess(model) as server:
        print(*server.log, sep="\n")
        address = f"{server.host}:{server.port}"
        print(f"\n$ curl --data-binary @{image} '{address}/v1/predict?top_k=2'")
        request = urllib.request.Request(
            f"http://{address}/v1/predict?top_k=2",
            image.read_bytes(),
            {"Content-Type": "image/png"},
        )
        with urllib.request.urlopen(request) as response:
            print(response.read().decode())
        server.stop()
    print(f"To open its page: vitsd-serve {model}, and http://127.0.0.1:8000 in a browser.")


def save_held_out_images(folder: Path, count: int) -> None:
    """One PNG per image, named after its true class."""
    folder.mkdir(parents=True)
    dataset = load_dataset(DATA)
    images, labels = dataset.test.images[:count], dataset.test.labels[:count]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image[..., 0]).save(folder / f"{i}-is-a-{dataset.class_names[label]}.png")


def print_summary(models: list[dict[str, Any]], bench: dict[str, Any]) -> None:
    """One table of what ``vitsd-parity`` and ``vitsd-bench`` measured."""
    latency = {row["model"]: f"{row['p50_ms']:.2f}" for row in bench["results"]}
    rows = [
        [
            Path(row["path"]).name,
            f"{row['bytes'] / 1e6:.2f}",
            f"{100 * row['top1']:.2f}",
            f"{100 * row['agreement']:.2f}",
            f"{row['max_difference']:.1e}",
            latency.get(Path(row["path"]).name, "n/a"),
        ]
        for row in models
    ]
    machine = bench["machine"]
    print(f"\n{table(rows, HEADERS)}")
    print(
        f"{models[0]['images']} held-out images; agreement and differences against model.keras; "
        f"latency of one image on one thread of {machine['cpu']}, {machine['cores']} cores."
    )
    print(
        f"Pictures: {RUN}/curves.png (training), {RUN}/confusion.png (errors), {RUN}/images/ (the "
        "images above)"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
