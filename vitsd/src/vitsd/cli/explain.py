"""``vitsd-explain``: a picture of what a model sees."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitsd.backend import load_keras
from vitsd.cli.options import check_picture
from vitsd.hub.pretrained import locate
from vitsd_runtime.cli import app
from vitsd_runtime.models.catalog import MODELS
from vitsd_runtime.system.text import printable

if TYPE_CHECKING:
    from vitsd.evaluation.explain import Explanation


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-explain",
        description="Draw what a model sees in an image: shifted patches, attention of every "
        "block, attention rollout, learned temperatures, and the answer.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"a trained model: .keras file, run folder, {', '.join(MODELS)}, or owner/name on the "
        "Hugging Face Hub (exported models don't show their attention)",
    )
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument(
        "--output",
        metavar="FILE.png",
        help="default: IMAGE's name with -explained.png, in this folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    output = Path(arguments.output or f"{Path(arguments.image).stem}-explained.png")
    check_picture(output)
    trained = locate(arguments.model)
    load_keras()
    from vitsd.evaluation.explain import explain
    from vitsd.hub.saving import load_model
    from vitsd.plots import plot_explanation

    model, spec = load_model(trained)
    explanation = explain(model, spec, arguments.image)
    plot_explanation(explanation, output)
    if arguments.json:
        _print_json(explanation, arguments.image, output)
    else:
        _print(explanation, arguments.image, output)


def _print_json(explanation: Explanation, image: str, picture: Path) -> None:
    temperatures = explanation.temperatures
    report = {
        "image": image,
        "picture": str(picture),
        "probabilities": _answers(explanation),
        "temperatures": None if temperatures is None else temperatures.tolist(),
        "rollout": explanation.rollout.tolist(),
    }
    print(json.dumps(report, indent=1))


def _print(explanation: Explanation, image: str, picture: Path) -> None:
    answers = (f"{printable(label)} {100 * p:.1f} %" for label, p in _answers(explanation).items())
    print(f"{printable(image)}: {', '.join(answers)}")
    if explanation.temperatures is not None:
        values = ", ".join(f"{t:.2f}" for t in explanation.temperatures)
        print(f"Temperatures relative to sqrt(key_dim): {values}")
    print(f"Picture: {printable(picture)}")


def _answers(explanation: Explanation) -> dict[str, float]:
    return dict(zip(explanation.labels, explanation.probabilities.tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(main())
