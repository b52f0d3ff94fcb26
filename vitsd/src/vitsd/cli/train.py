"""``vitsd-train``: train a Vision Transformer from scratch, or fine-tune one."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitsd.backend import load_keras
from vitsd.cli import distribution
from vitsd.cli.class_balance import balance_lines
from vitsd.cli.options import SIDE, add_field_options, value_range
from vitsd.config import VitConfig
from vitsd.data.dataset import Dataset
from vitsd.data.folders import dataset_name
from vitsd.data.layout import is_among_images
from vitsd.data.packed import is_packed
from vitsd.data.sources import BUILT_IN, is_folder, load_dataset, reading_of
from vitsd.presets import NO_OPTIONS, Preset, get_preset, list_presets
from vitsd.recipe import PRETRAINED_SHARE, TrainingRecipe
from vitsd.training.run import RunFolder, newest_run
from vitsd_runtime.cli import app
from vitsd_runtime.cli.options import flag_of, type_of
from vitsd_runtime.errors import UsageError
from vitsd_runtime.models.catalog import MODELS
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import RESIZE_MODES, SplitRule
from vitsd_runtime.validation import REDUCING_GAP

if TYPE_CHECKING:
    from vitsd.training.distribution import ProcessGroup
    from vitsd.training.fine_tuning import PretrainedStart

_DEFAULT_PRESET = "vit-small-ds"
_NOT_REMEMBERED = (
    *("output", "resume", "tensorboard", "json", "backend"),
    *("distribute", "coordinator", "num_processes", "process_id"),
)
"""Options that say where and how to run, not what is trained."""
_OF_FINE_TUNING = ("freeze_backbone", "pretrained_share")
_OF_READING = ("input_size", "resize_mode", "value_range", "reducing_gap")
_OWN_PATHS = ("data", "pretrained")
"""Options that may differ between processes: what lies there must be the same."""
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
_log = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="vitsd-train",
        description="Train a Vision Transformer on labeled images, from scratch or (--pretrained) "
        "from a trained model. Options override the preset.",
    )
    parser.add_argument(
        "--preset", metavar="P", help=f"{', '.join(list_presets())} (default: {_DEFAULT_PRESET})"
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help=f"{', '.join(BUILT_IN)}, a folder of class folders (with or without train/, val/, "
        "test/), a folder made by `vitsd-data pack`, or an .npz file",
    )
    parser.add_argument(
        "--pretrained",
        metavar="MODEL",
        help="fine-tune: start with the architecture and the weights of a trained model "
        f"({', '.join(MODELS)}, a .keras file, a run folder, or owner/name on the Hugging Face "
        "Hub), and a new last layer for other classes",
    )
    parser.add_argument(
        "--freeze-backbone",
        action="store_const",
        const=True,
        help="with --pretrained: train the last layer alone",
    )
    parser.add_argument(
        "--pretrained-share",
        type=type_of(PRETRAINED_SHARE),
        metavar="X",
        help=f"with --pretrained: {PRETRAINED_SHARE.help} (default: 0)",
    )
    parser.add_argument("--output", metavar="DIR", help="run folder (default: runs/PRESET-DATA)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --output (default: the newest under runs/) after its last whole "
        "epoch",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard logs (needs tensorboard)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON at the end")
    parser.add_argument(
        "--backend", choices=("tensorflow", "jax", "torch"), help="Keras backend (or KERAS_BACKEND)"
    )
    distribution.add_distribution_options(parser)
    add_field_options(parser.add_argument_group("recipe"), TrainingRecipe)
    _add_architecture_options(parser)
    return parser


def _add_architecture_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("architecture")
    add_field_options(group, VitConfig, NO_OPTIONS)
    group.add_argument(
        "--input-size",
        type=type_of(SIDE),
        metavar="N",
        help="side that images of a folder are brought to before training (default: the image "
        "size)",
    )
    group.add_argument("--resize-mode", choices=RESIZE_MODES, help="how (default: stretch)")
    group.add_argument(
        "--value-range",
        type=value_range,
        metavar="LOW,HIGH",
        help="the values in a folder's or an .npz file's images that become black and white, "
        "before training and on the device: 0,4095 for 12 bits in 16-bit files (default: 0,255 "
        "or, for 16 bits, 0,65535)",
    )
    group.add_argument(
        "--reducing-gap",
        type=type_of(REDUCING_GAP),
        metavar="X",
        help=f"{REDUCING_GAP.help}, as 2, before training and on the device (default: in full)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    code: Any = 1
    try:
        code = app.run(_main, build_parser(), argv, distribution="vitsd", renamed=_RENAMED)
    except SystemExit as end:
        code = end.code
        raise
    finally:
        distribution.end(code)
    return int(code)


def _main(arguments: argparse.Namespace) -> int:
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    group = distribution.join(arguments)
    folder, options = _choose_run(arguments, group)
    job = group.together(lambda: _Job.from_options(options))
    dataset = group.together(job.load_data)
    recipe = job.recipe_for(dataset)
    _log.info(
        "%s: %d training and %d test images of %s, %d classes. Run folder: %s",
        printable(dataset.name),
        len(dataset.train),
        len(dataset.test),
        dataset.image_shape,
        dataset.num_classes,
        folder,
    )
    load_keras()
    from vitsd.training.train import train

    try:
        results = train(
            job.preset.config,
            recipe,
            dataset,
            folder,
            resume=arguments.resume,
            tensorboard=arguments.tensorboard,
            origin=job.origin,
            pretrained=job.pretrained,
        )
    except KeyboardInterrupt:
        output = shlex.quote(str(folder.path))
        hint = f" Continue with: vitsd-train --resume --output {output}"
        begun = folder.run_file.exists()
        print(f"\nInterrupted.{hint if begun else ''}", file=sys.stderr)
        return 130
    if not group.is_first:
        return 0
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        _print(results, dataset, folder)
    return 0


def _print(results: Mapping[str, Any], dataset: Dataset, folder: RunFolder) -> None:
    print(f"Test accuracy: {100 * results['top1']:.2f}%")
    if dataset.num_classes > 5:
        print(f"Test top 5 accuracy: {100 * results['top5']:.2f}%")
    for line in balance_lines(results):
        print(line)
    print(
        f"Model: {printable(results['model'])} (epoch {results['epoch']}); pictures: "
        + ", ".join(printable(path) for path in (folder.curves, folder.confusion) if path.exists())
    )


@dataclass(frozen=True)
class _Job:
    """What is trained, on what, how."""

    name: str
    """Of the preset, or of the model that is fine-tuned."""
    preset: Preset
    options: Mapping[str, Any]
    """Those that were given, by their field's or parameter's name."""
    pretrained: PretrainedStart | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> _Job:
        """Start from a preset or a trained model; options override it.

        Raises:
            UsageError: options don't fit each other.
        """
        if "pretrained" in options:
            job = cls._fine_tuning(options)
        elif of_fine_tuning := [name for name in _OF_FINE_TUNING if name in options]:
            raise UsageError(
                f"{flag_of(of_fine_tuning[0])} is for fine-tuning: say of which model, with "
                "--pretrained."
            )
        else:
            name = options.get("preset", _DEFAULT_PRESET)
            preset = get_preset(name).with_options(options)
            job = cls(name, preset, {**options, "preset": name})
        if "data" not in options:
            raise UsageError(
                f"Say what to train on: --data with {', '.join(BUILT_IN)}, a folder, or an .npz "
                "file."
            )
        return job

    @classmethod
    def _fine_tuning(cls, options: Mapping[str, Any]) -> _Job:
        from vitsd.training.fine_tuning import PretrainedStart, recipe_for

        architecture = (field.name for field in dataclasses.fields(VitConfig))
        if clashing := [name for name in ("preset", *architecture) if name in options]:
            raise UsageError(
                f"--pretrained brings its architecture: leave out {flag_of(clashing[0])}."
            )
        freeze_backbone = options.get("freeze_backbone", False)
        share = options.get("pretrained_share", 0.0)
        pretrained = PretrainedStart.load(options["pretrained"], freeze_backbone, share)
        spec = pretrained.spec
        preset = Preset(VitConfig.from_spec(spec), recipe_for(spec, freeze_backbone))
        return cls(spec.name, preset.with_options(options), options, pretrained)

    @property
    def origin(self) -> dict[str, Any]:
        """For ``run.json`` and the model's provenance."""
        source = self.options["data"]
        return {"preset": self.name, "source": source, "options": dict(self.options)}

    def recipe_for(self, dataset: Dataset) -> TrainingRecipe:
        """The recipe, with as many epochs as the images need."""
        recipe = self.preset.recipe
        if self.pretrained is None or "epochs" in self.options:
            return recipe
        from vitsd.training.fine_tuning import epochs_for

        epochs = epochs_for(len(dataset.train), recipe.batch_size)
        return dataclasses.replace(recipe, epochs=epochs)

    def load_data(self) -> Dataset:
        """The images, in the size that the options ask for.

        Raises:
            UsageError: no such source, or an option is not for it.
            VitsdError: a file is unreadable, or a download failed.
        """
        source = self.options["data"]
        if not is_folder(source):
            for name in ("input_size", "resize_mode", "reducing_gap"):
                if name in self.options:
                    raise UsageError(
                        f"{flag_of(name)} is for folders of images; those of {printable(source)} "
                        "have a size."
                    )
        side = self.preset.config.image_size
        reading: dict[str, Any] = {"input_size": (side, side)}
        split_rule: SplitRule = "content"
        if self.pretrained is not None:
            spec = self.pretrained.spec
            reading = reading_of(source, spec)
            if is_packed(source):
                reading["value_range"] = None  # new images may have been packed with another
            if spec.provenance.dataset in (Path(source).stem, dataset_name(Path(source))):
                # What its training held out is held out again, and is new to the model.
                split_rule = spec.provenance.split_rule or "position"
        given = {n: self.options[n] for n in _OF_READING if n in self.options}
        if "input_size" in given:
            given["input_size"] = (given["input_size"], given["input_size"])
        return load_dataset(source, split_rule=split_rule, **{**reading, **given})


def _choose_run(
    arguments: argparse.Namespace, group: ProcessGroup
) -> tuple[RunFolder, dict[str, Any]]:
    """The run folder and the options of what is trained; the first process decides."""
    given = group.together(lambda: _given_options(arguments))
    comparable = {name: value for name, value in given.items() if name not in _OWN_PATHS}
    group.require_same({**comparable, "resume": arguments.resume})
    choose = _resume_run if arguments.resume else _new_run
    output, options = group.value_from_first(lambda: choose(arguments.output, given))
    own_paths = {name: given[name] for name in _OWN_PATHS if name in given}
    return RunFolder(output), {**options, **own_paths}


def _new_run(output: str | None, given: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    path = output or _free_folder(f"{_Job.from_options(given).name}-{Path(given['data']).stem}")
    RunFolder(path).require_new()  # before the data is read, which can take a while
    data = given.get("data", "")
    if is_folder(data) and is_among_images(Path(path), Path(data)):
        raise UsageError(
            f"The run folder {printable(path)} would lie among the images of {printable(data)}, as "
            "a class: choose an `output` elsewhere."
        )
    return str(path), given


def _resume_run(output: str | None, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    folder = RunFolder(output or newest_run())
    stored = folder.read_options()
    folder.require_same({name: stored.get(name) for name in given}, given)
    return str(folder.path), stored


def _given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given and say what is trained."""
    given = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None and name not in _NOT_REMEMBERED
    }
    # A run may be resumed from another folder than it was started from.
    if given.get("data") and given["data"] not in BUILT_IN:
        given["data"] = str(Path(given["data"]).resolve())
    for name in ("pretrained", "teacher"):
        if name in given and Path(given[name]).exists():
            given[name] = str(Path(given[name]).resolve())
    return given


def _free_folder(name: str) -> Path:
    """``runs/NAME``; with a number where that is taken."""
    base = Path("runs") / name
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


if __name__ == "__main__":
    sys.exit(main())
