"""``vitsd-explain``: a picture of what a model sees."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vitsd.cli import load_keras
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-explain",
        description="Draw what a model sees in an image: shifted patches, attention of every block, attention rollout, "
        "learned temperatures, and the answer.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a trained model: .keras file, run folder, vit-edge-cifar100, or owner/name on the Hugging Face Hub (exported "
        "ones don't show their attention)",
    )
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument(
        "--output",
        metavar="FILE.png",
        help="default: IMAGE's name with -explained.png, in this folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv=None) -> int:
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments) -> int:
    output = Path(arguments.output or f"{Path(arguments.image).stem}-explained.png")
    if output.suffix.lower() != ".png":
        raise UsageError(f"The picture is a PNG file: let its name end in .png; got {output}.")
    load_keras()
    from vitsd.evaluation.explain import explain
    from vitsd.hub.pretrained import from_pretrained
    from vitsd.plots import plot_explanation

    model, spec = from_pretrained(arguments.model)
    explanation = explain(model, spec, arguments.image)
    plot_explanation(explanation, output)
    answers = dict(zip(explanation.labels, map(float, explanation.probabilities), strict=True))
    temperatures = None if explanation.temperatures is None else explanation.temperatures.tolist()
    if arguments.json:
        report = {
            "image": arguments.image,
            "picture": str(output),
            "probabilities": answers,
            "temperatures": temperatures,
        }
        print(json.dumps({**report, "rollout": explanation.rollout.tolist()}, indent=1))
        return 0
    print(
        f"{arguments.image}: "
        + ", ".join(f"{label} {100 * p:.1f} %" for label, p in answers.items())
    )
    if temperatures:
        print(
            "Temperatures relative to sqrt(key_dim): " + ", ".join(f"{t:.2f}" for t in temperatures)
        )
    print(f"Picture: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
