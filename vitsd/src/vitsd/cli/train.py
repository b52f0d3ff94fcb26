"""``vitsd-train``: train a Vision Transformer from scratch."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitsd.cli import load_keras
from vitsd.config import VitConfig
from vitsd.data.dataset import BUILT_IN, load_dataset
from vitsd.presets import Preset, get_preset, list_presets
from vitsd.recipe import TrainingRecipe
from vitsd.training.run_folder import newest_run, read_run
from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import positive_int
from vitsd_runtime.errors import UsageError
from vitsd_runtime.spec import MAX_SIDE
from vitsd_runtime.types import RESIZE_MODES
from vitsd_runtime.validation import options

if TYPE_CHECKING:
    from vitsd.training.fine_tuning import Start


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vitsd-train",
        description="Train a Vision Transformer on labelled images, from scratch or (--pretrained) from a trained model. Options "
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
        "--pretrained",
        metavar="MODEL",
        help="fine-tune: start with the architecture and the weights of a trained model (vit-edge-cifar100, a .keras file, "
        "a run folder, or owner/name on the Hugging Face Hub) and a new last layer",
    )
    parser.add_argument(
        "--freeze-backbone",
        action="store_const",
        const=True,
        help="with --pretrained: train the new last layer alone",
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

    _add_options(parser.add_argument_group("recipe"), TrainingRecipe, ())
    architecture = parser.add_argument_group("architecture")
    _add_options(architecture, VitConfig, _NOT_ARCHITECTURE)
    architecture.add_argument(
        "--input-size",
        type=positive_int,
        metavar="N",
        help="side that images of a folder are brought to before training (default: the image "
        "size)",
    )
    architecture.add_argument("--resize-mode", choices=RESIZE_MODES, help="how (default: stretch)")
    return parser


def _add_options(group: Any, cls: type, left_out: Collection[str]) -> None:
    """An option for every declared field of a dataclass; None where it is not given."""
    for name, declared in options(cls):
        if name in left_out:
            continue
        flag, help = f"--{name.replace('_', '-')}", declared.help.replace("%", "%%")
        if declared.type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help)
        elif declared.type is str:
            group.add_argument(flag, choices=declared.choices, help=help)
        else:
            kind, unit = _NUMBERS[declared.type]
            group.add_argument(flag, type=kind, metavar=unit, help=help)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd", renamed=_RENAMED)


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
    if "pretrained" in wanted:
        preset_name, preset, start = _fine_tuning(wanted)
    else:
        if "freeze_backbone" in wanted:
            raise UsageError(
                "--freeze-backbone is for fine-tuning: say of which model, with --pretrained."
            )
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
        fixed := [o for o in ("input_size", "resize_mode") if o in wanted]
    ):
        raise UsageError(
            f"--{fixed[0].replace('_', '-')} is for folders of images; those of {wanted['data']} have a size."
        )
    side = wanted.get("input_size", start.spec.input_size[0] if start else preset.config.image_size)
    resize_mode = wanted.get("resize_mode", start.spec.resize_mode if start else "stretch")
    if side > MAX_SIDE:
        raise UsageError(f"--input-size must be at most {MAX_SIDE} pixels; got {side}.")
    dataset = load_dataset(wanted["data"], input_size=(side, side), resize_mode=resize_mode)
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
                resize_mode=resize_mode,
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
    if "pretrained" in given and Path(given["pretrained"]).exists():
        given["pretrained"] = str(Path(given["pretrained"]).resolve())
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
            f"--pretrained brings its architecture: leave out --{clashing[0].replace('_', '-')}."
        )
    start = Start.load(wanted["pretrained"], wanted.get("freeze_backbone", False))
    recipe = recipe_for(start.spec, start.freeze_backbone)
    preset = _customise(Preset(VitConfig.from_spec(start.spec), recipe), wanted)
    return start.spec.name, preset, start


def _free_folder(preset: str, data: str) -> Path:
    base = Path("runs") / f"{preset}-{Path(data).stem}"
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _units(text: str) -> list[int]:
    return [positive_int(part) for part in text.split(",") if part.strip()]


_NUMBERS: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (int, "N"),
    float: (float, "X"),
    tuple: (_units, "N,N"),
}
"""How a field's type is read from the command line, and what stands for it in the help."""
_NOT_ARCHITECTURE = ("input_size", "num_classes", "activation", "layer_norm_epsilon")
"""Given by the data, or no choice that anyone has asked for."""
_RENAMED = {
    "--from": "--pretrained",
    "--freeze-body": "--freeze-backbone",
    "--fit": "--resize-mode",
    "--width": "--hidden-dim",
    "--depth": "--num-layers",
    "--warmup": "--warmup-fraction",
    "--validation": "--validation-fraction",
    "--clip-norm": "--global-clipnorm",
    "--mixup": "--mixup-alpha",
    "--cutmix": "--cutmix-alpha",
    "--ema": "--ema-momentum",
}
"""Options by the names they once had."""


if __name__ == "__main__":
    sys.exit(main())
