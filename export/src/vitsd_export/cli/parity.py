"""``vitsd-parity``: do several models give the same answers?"""

from __future__ import annotations

import argparse
import json
import sys

from vitsd.cli import add_data_options, load_keras
from vitsd_export.cli import print_comparisons
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-parity",
        description="Compare models on labelled images; the first is the reference. Exit code 1 if one is beyond the "
        "tolerance of its quantisation.",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=".keras, .tflite, .onnx files and SavedModel folders",
    )
    add_data_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv=None) -> int:
    return app.run(_main, build_parser(), argv, distribution="vitsd-export")


def _main(arguments) -> int:
    if len(arguments.models) < 2:
        raise UsageError("Give at least two models: the reference first.")
    load_keras()
    from vitsd.evaluation.evaluate import labelled_images, load_matching, model_logits, require_spec
    from vitsd.hub.pretrained import locate_any
    from vitsd_export.gate import compare

    models = [locate_any(model) for model in arguments.models]
    specs = [require_spec(model) for model in models]
    for model, spec in zip(models, specs, strict=True):
        if (spec.class_names, spec.input_size) != (specs[0].class_names, specs[0].input_size):
            raise UsageError(f"{model} has other classes or another input size than {models[0]}.")
    images = labelled_images(
        load_matching(arguments.data, specs[0]), specs[0], arguments.split, arguments.limit
    )
    reference = model_logits(models[0], images.images)
    comparisons = [
        compare(model, spec, images.images, images.labels, reference, reference if i == 0 else None)
        for i, (model, spec) in enumerate(zip(models, specs, strict=True))
    ]
    if arguments.json:
        print(
            json.dumps(
                {"reference": arguments.models[0], "models": [c.to_dict() for c in comparisons]},
                indent=1,
            )
        )
    else:
        print_comparisons(comparisons)
        print(
            f"Reference: {arguments.models[0]}; {len(images)} {arguments.split} images of {arguments.data}"
        )
    return 0 if all(c.passed for c in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
