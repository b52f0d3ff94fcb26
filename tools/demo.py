"""``make demo``: the whole path on real images, with the commands that a person would type.

Trains preset `tiny` on scikit-learn's handwritten digits, exports every format, checks that all give the same answers,
classifies held-out images, and closes with one table. Everything goes to runs/demo.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from vitsd.data.dataset import load_dataset
from vitsd_runtime.system.text import table

RUN = Path("runs/demo")
SOURCE = "digits"


def main() -> int:
    start = time.perf_counter()
    shutil.rmtree(RUN, ignore_errors=True)
    run(f"vitsd-train --preset tiny --data {SOURCE} --output {RUN}")
    run(f"vitsd-export {RUN}/model.keras --format all --quantize none dynamic int8")
    artifacts = [
        f"{RUN}/demo_saved_model",
        *sorted(map(str, [*RUN.glob("*.tflite"), *RUN.glob("*.onnx")])),
    ]
    parity = capture(f"vitsd-parity {RUN}/model.keras {' '.join(artifacts)} --data {SOURCE} --json")
    save_held_out_images(RUN / "images", 8)
    run(f"vitsd-predict {RUN}/demo-int8.tflite {RUN}/images --top-k 2")
    bench = capture(
        f"vitsd-bench {' '.join(artifacts)} --threads 1 --batch-sizes 1 --seconds 0.5 --json"
    )

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
        for row in parity["models"]
    ]
    print()
    print(
        table(
            rows, ["artifact", "size MB", "top-1 %", "agreement %", "max |logit diff|", "median ms"]
        )
    )
    machine = bench["machine"]
    print(
        f"{parity['models'][0]['images']} held-out images; agreement and differences against model.keras; latency of one "
        f"image on one thread of {machine['cpu']}, {machine['cores']} cores."
    )
    print(
        f"Pictures: {RUN}/curves.png (training), {RUN}/confusion.png (errors), {RUN}/images/ (the images above)"
    )
    print(f"Done in {time.perf_counter() - start:.0f} s.")
    if min(row["top1"] for row in parity["models"]) < 0.95:
        print("A model is below 95 % top-1: something is wrong.", file=sys.stderr)
        return 1
    return 0


def run(command: str) -> None:
    print(f"\n$ {command}", flush=True)
    subprocess.run(shlex.split(command), check=True)


def capture(command: str) -> dict:
    print(f"\n$ {command}", flush=True)
    return json.loads(
        subprocess.run(shlex.split(command), check=True, stdout=subprocess.PIPE).stdout
    )


def save_held_out_images(folder: Path, count: int) -> None:
    """One PNG per image, named after its true class."""
    folder.mkdir(parents=True)
    dataset = load_dataset(SOURCE)
    for i, (image, label) in enumerate(
        zip(dataset.test.images[:count], dataset.test.labels[:count], strict=True)
    ):
        Image.fromarray(image[..., 0]).save(folder / f"{i}-is-a-{dataset.class_names[label]}.png")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
