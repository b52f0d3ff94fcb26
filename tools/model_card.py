"""Write the model card of a trained model: figures on the whole test set, pictures, and what disturbs it.

    python tools/model_card.py MODEL ARTIFACT.tflite --data cifar100 --notes NOTES.md --output DIR

The figures of the card are computed here; what a program can't know (intended use, limits, how long training took) comes
from NOTES.md, which is put at its beginning.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from vitsd.cli import load_keras
from vitsd.evaluation.evaluate import labelled_images, load_matching, model_logits, require_spec
from vitsd.evaluation.metrics import accuracy_report, paired_difference, top_k_hits
from vitsd.hub.pretrained import locate
from vitsd_runtime.cli import app, options
from vitsd_runtime.system.files import write_text


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert(image.mode)


def blur(image: Image.Image, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma))


def noise(image: Image.Image, sigma: float) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    seed = int(pixels.sum()) % 2**32  # the same noise for every model
    pixels = pixels + np.random.default_rng(seed).normal(0, sigma, pixels.shape)
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


DISTURBANCES = {
    **{f"JPEG, quality {q}": (jpeg, q) for q in (90, 50, 20, 10)},
    **{f"Gaussian blur, sigma {s:g} pixels": (blur, s) for s in (0.5, 1, 2)},
    **{f"Gaussian noise, sigma {s} of 255": (noise, s) for s in (4, 8, 16, 32)},
}


def disturb(images: np.ndarray, how, amount) -> np.ndarray:
    """uint8 images ``(n, height, width, channels)``, each disturbed alone."""
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    return np.stack(
        [np.asarray(how(Image.fromarray(image), amount)) for image in squeezed]
    ).reshape(images.shape)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "model", metavar="MODEL", help="the trained model: .keras file, run folder, or name"
    )
    parser.add_argument(
        "artifact", type=Path, metavar="ARTIFACT", help="the shipped, quantised file"
    )
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument(
        "--notes", type=Path, required=True, metavar="NOTES.md", help="beginning of the card"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--limit",
        type=options.positive_int,
        metavar="N",
        help="use at most N test images, to try it out",
    )
    return app.run(_main, parser, argv)


def _main(arguments) -> int:
    load_keras()
    from vitsd.plots import plot_reliability

    trained = locate(arguments.model)
    spec = require_spec(arguments.artifact)
    test = labelled_images(load_matching(arguments.data, spec), spec, "test", arguments.limit)
    models = {
        "float32 (Keras)": trained,
        f"{spec.export.get('quantization', 'none')} ({arguments.artifact.name})": arguments.artifact,
    }
    logits = {name: model_logits(path, test.images) for name, path in models.items()}
    reports = {
        name: accuracy_report(found, test.labels, spec.class_names)
        for name, found in logits.items()
    }
    float_hits, quantized_hits = (top_k_hits(found, test.labels, 1) for found in logits.values())
    change, low, high = paired_difference(float_hits, quantized_hits)
    agreement = float(np.mean(np.equal(*(found.argmax(axis=1) for found in logits.values()))))

    disturbed = {}
    for name, (how, amount) in DISTURBANCES.items():
        images = disturb(test.images, how, amount)
        disturbed[name] = [
            float(top_k_hits(model_logits(p, images), test.labels, 1).mean())
            for p in models.values()
        ]

    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    plot_reliability(reports, output / "reliability.png")
    write_text(
        output / "figures.json",
        json.dumps(
            {
                "models": reports,
                "agreement": agreement,
                "top1_change": [change, low, high],
                "disturbed": disturbed,
            }
        ),
    )
    card = [
        arguments.notes.read_text(encoding="utf-8").rstrip(),
        f"\n## Accuracy\n\nOn {'all ' * (not arguments.limit)}{len(test)} test images:\n",
        _table(
            ["model", "top-1 %", "top-5 %", "expected calibration error %", "size"],
            [
                [
                    name,
                    f"{100 * report['top1']:.2f}",
                    f"{100 * report['top5']:.2f}",
                    f"{100 * report['ece']:.2f}",
                    f"{models[name].stat().st_size / 1e6:.2f} MB",
                ]
                for name, report in reports.items()
            ],
        ),
        f"\nQuantisation changes top-1 by {100 * change:+.2f} points (95 % interval {100 * low:+.2f} to {100 * high:+.2f}); "
        f"both give the same answer on {100 * agreement:.2f} % of the images.\n\n![Reliability](reliability.png)",
        "\n## Disturbed images\n\nTop-1 accuracy (%) on the same images, disturbed at their original size:\n",
        _table(
            ["disturbance", *models],
            [
                ["none", *(f"{100 * report['top1']:.2f}" for report in reports.values())],
                *(
                    [name, *(f"{100 * value:.2f}" for value in values)]
                    for name, values in disturbed.items()
                ),
            ],
        ),
        "\n## Class by class\n",
        _classes(*reports.values()),
    ]
    write_text(output / "README.md", "\n".join(card) + "\n")
    print(f"{output}/README.md, reliability.png, figures.json")
    return 0


def _classes(trained: dict, quantized: dict) -> str:
    others = {row["class"]: row for row in quantized["per_class"]}
    rows = sorted(trained["per_class"], key=lambda row: -(row["recall"] or 0))
    return _table(
        ["class", "top-1 % (recall)", "precision %", "top-5 %", "recall % quantised"],
        [
            [
                row["class"],
                *(_percent(row[key]) for key in ("recall", "precision", "top5")),
                _percent(others.get(row["class"], {}).get("recall")),
            ]
            for row in rows
        ],
    )


def _percent(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"


def _table(headers: list[str], rows: list[list[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
