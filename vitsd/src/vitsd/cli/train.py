"""``vitsd-train``: train a Vision Transformer from scratch."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import inspect
import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from vitsd.cli import load_keras
from vitsd.config import POOLINGS, VitConfig
from vitsd.data.dataset import BUILT_IN, load_dataset
from vitsd.presets import get_preset, list_presets
from vitsd.recipe import PRECISIONS, Preset, Recipe
from vitsd.training.run_folder import newest_run, read_run
from vitsd_runtime.cli import common as console
from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import MAX_SIDE

if TYPE_CHECKING:
    from vitsd.training.fine_tuning import Start


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-train",
        description="Train a Vision Transformer on labelled images, from scratch or (--from) from a trained model. Options "
        "override the preset.",
    )
    parser.add_argument(
        "--preset", metavar="P", help=f"{', '.join(list_presets())} (default: vit-small-ds)"
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help=f"{', '.join(BUILT_IN)}, a folder of class folders (with or without train/, val/, test/), or an .npz file",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="fine-tune: start with the architecture and the weights of a trained model (vit-edge-cifar100, a .keras file, "
        "a run folder, or owner/name on the Hugging Face Hub) and a new last layer",
    )
    parser.add_argument(
        "--freeze-body",
        action="store_const",
        const=True,
        help="with --from: train the new last layer alone",
    )
    parser.add_argument("--output", metavar="DIR", help="run folder (default: runs/PRESET-DATA)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --output after its last whole epoch",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard logs (needs tensorboard)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON at the end")
    parser.add_argument(
        "--backend", choices=("tensorflow", "jax", "torch"), help="Keras backend (or KERAS_BACKEND)"
    )

    recipe = parser.add_argument_group("recipe")
    explain = _field_docstrings(Recipe)
    for field in dataclasses.fields(Recipe):
        option, explanation = f"--{field.name.replace('_', '-')}", explain.get(field.name)
        if field.name == "precision":
            recipe.add_argument(option, choices=PRECISIONS, help=explanation)
        elif field.type == "bool":
            recipe.add_argument(
                option, action=argparse.BooleanOptionalAction, default=None, help=explanation
            )
        else:
            kind, unit = (int, "N") if field.type == "int" else (float, "X")
            recipe.add_argument(option, type=kind, metavar=unit, help=explanation)

    model = parser.add_argument_group("architecture")
    explain = _field_docstrings(VitConfig)
    for names, kind, unit in (
        (
            ("image_size", "patch_size", "hidden_dim", "num_layers", "num_heads", "key_dim"),
            int,
            "N",
        ),
        (("mlp_units", "head_units"), _units, "N,N"),
        (("attention_dropout", "mlp_dropout", "head_dropout", "stochastic_depth"), float, "RATE"),
    ):
        for name in names:
            model.add_argument(
                f"--{name.replace('_', '-')}", type=kind, metavar=unit, help=explain.get(name)
            )
    model.add_argument("--pooling", choices=POOLINGS, help=explain["pooling"])
    model.add_argument(
        "--spt",
        action=argparse.BooleanOptionalAction,
        help="Shifted Patch Tokenization",
        default=None,
    )
    model.add_argument(
        "--lsa", action=argparse.BooleanOptionalAction, help="Locality Self-Attention", default=None
    )
    side = "side that images of a folder are brought to before training (default: the image size)"
    model.add_argument("--input-size", type=console.positive_int, metavar="N", help=side)
    model.add_argument("--fit", choices=("stretch", "crop"), help="how (default: stretch)")
    return parser


def main(argv=None) -> int:
    return console.run(_main, build_parser(), argv)


def _main(arguments) -> int:
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    wanted = _wanted(arguments)
    if arguments.resume:
        output = Path(arguments.output) if arguments.output else newest_run()
        stored = read_run(output).get("origin", {}).get("options", {})
        if differing := [
            f"{k} was {stored.get(k)}, now {v}" for k, v in wanted.items() if stored.get(k) != v
        ]:
            raise UsageError(
                f"{output} was started differently, so it can't be resumed: {'; '.join(differing)}. Leave the options out "
                "when resuming (they are remembered), or start a new run."
            )
        wanted = stored
    if "start" in wanted:
        preset_name, preset, start = _fine_tuning(wanted)
    else:
        if "freeze_body" in wanted:
            raise UsageError("--freeze-body is for fine-tuning: say of which model, with --from.")
        preset_name, start = wanted.setdefault("preset", "vit-small-ds"), None
        preset = _customise(get_preset(preset_name), wanted)
    if "data" not in wanted:
        raise UsageError(
            f"Say what to train on: --data with {', '.join(BUILT_IN)}, a folder, or an .npz file."
        )
    if not arguments.resume:
        output = (
            Path(arguments.output)
            if arguments.output
            else _free_folder(preset_name, wanted["data"])
        )
        if (output / "run.json").exists():  # before the data is read, which can take a while
            raise UsageError(
                f"{output} already holds a run: continue it with --resume, or choose another --output."
            )

    if not Path(wanted["data"]).is_dir() and (
        fixed := [o for o in ("input_size", "fit") if o in wanted]
    ):
        raise UsageError(
            f"--{fixed[0].replace('_', '-')} is for folders of images; those of {wanted['data']} have a size."
        )
    side = wanted.get("input_size", start.spec.input_size[0] if start else preset.config.image_size)
    fit = wanted.get("fit", start.spec.fit if start else "stretch")
    if side > MAX_SIDE:
        raise UsageError(f"--input-size must be at most {MAX_SIDE} pixels; got {side}.")
    dataset = load_dataset(wanted["data"], input_size=(side, side), fit=fit)
    progress = sys.stderr if arguments.json else sys.stdout
    print(
        f"{dataset.name}: {len(dataset.train)} training and {len(dataset.test)} test images of {dataset.image_shape}, "
        f"{dataset.num_classes} classes. Run folder: {output}",
        file=progress,
        flush=True,
    )
    load_keras()
    from vitsd.training.train import train

    try:
        with contextlib.redirect_stdout(progress):
            results = train(
                preset.config,
                preset.recipe,
                dataset,
                output,
                fit=fit,
                resume=arguments.resume,
                tensorboard=arguments.tensorboard,
                origin={"preset": preset_name, "source": wanted["data"], "options": wanted},
                start=start,
            )
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. Continue with: vitsd-train --resume --output {output}", file=sys.stderr
        )
        return 130
    if arguments.json:
        print(json.dumps(results, indent=1))
        return 0
    print(f"Test accuracy: {100 * results['top1']:.2f}%")
    if dataset.num_classes > 5:
        print(f"Test top 5 accuracy: {100 * results['top5']:.2f}%")
    print(
        f"Model: {results['model']} (epoch {results['epoch']}); pictures: {output}/curves.png, {output}/confusion.png"
    )
    return 0


def _wanted(arguments) -> dict:
    """The options that were given, without those that say where and how to run."""
    aside = ("output", "resume", "tensorboard", "json", "backend")
    given = {k: v for k, v in vars(arguments).items() if v is not None and k not in aside}
    if given.get("data") and given["data"] not in BUILT_IN:
        given["data"] = str(
            Path(given["data"]).resolve()
        )  # a resumed run may be started from elsewhere
    if "start" in given and Path(given["start"]).exists():
        given["start"] = str(Path(given["start"]).resolve())
    return given


def _customise(preset: Preset, wanted: dict) -> Preset:
    def override(options):
        fields = {field.name for field in dataclasses.fields(options)}
        changes = {name: value for name, value in wanted.items() if name in fields}
        return dataclasses.replace(
            options, **{k: v for k, v in changes.items() if k != "input_size"}
        )

    config: VitConfig = preset.config
    if "hidden_dim" in wanted and "mlp_units" not in wanted:  # the last one must follow it
        wanted = {**wanted, "mlp_units": [*config.mlp_units[:-1], wanted["hidden_dim"]]}
    return Preset(override(config), override(preset.recipe))


def _fine_tuning(wanted: dict) -> tuple[str, Preset, Start]:
    """Name, architecture and recipe for training on from a trained model."""
    from vitsd.training.fine_tuning import Start, recipe_for

    architecture = (field.name for field in dataclasses.fields(VitConfig))
    if clashing := [name for name in ("preset", *architecture) if name in wanted]:
        raise UsageError(
            f"--from brings its architecture: leave out --{clashing[0].replace('_', '-')}."
        )
    start = Start.load(wanted["start"], wanted.get("freeze_body", False))
    recipe = recipe_for(start.spec, start.freeze_body)
    preset = _customise(Preset(VitConfig.from_dict(start.spec.architecture), recipe), wanted)
    return start.spec.name, preset, start


def _free_folder(preset: str, data: str) -> Path:
    base = Path("runs") / f"{preset}-{Path(data).stem}"
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _field_docstrings(cls) -> dict[str, str]:
    """The docstrings below a dataclass's fields, as help texts."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    return {
        field.target.id: " ".join(text.value.value.replace("``", "").replace("%", "%%").split())
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _units(text: str) -> list[int]:
    return [console.positive_int(part) for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(main())
