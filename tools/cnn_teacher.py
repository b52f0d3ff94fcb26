"""Train a residual network, and let it teach a Vision Transformer (distillation).

    python tools/cnn_teacher.py TEACHER.npz --data cifar100
    python tools/cnn_teacher.py TEACHER.npz --data cifar100 --preset vit-edge --output runs/edge

Both take options of a recipe as vitsd-train does, the second also those of an architecture.

Convolutions learn more from few images than a transformer does: that is what it passes on. It is no
model of this toolkit: nothing is exported, and nothing of it but its answers gets into the student.

Sources: K. He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027;
S. Zagoruyko, N. Komodakis, "Wide Residual Networks", arXiv:1605.07146.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitsd.backend import load_keras
from vitsd.cli.options import add_field_options
from vitsd.config import VitConfig
from vitsd.data.dataset import Dataset
from vitsd.presets import NO_OPTIONS, Preset, get_preset, list_presets
from vitsd.recipe import TrainingRecipe
from vitsd_runtime.cli import app
from vitsd_runtime.errors import UsageError
from vitsd_runtime.system.files import atomic_write

if TYPE_CHECKING:
    from vitsd.training.teacher import Answers

_STUDENT_ONLY = ("class_weights", "coverage", "ema_momentum", "teacher_share")
"""Options of a recipe that a teacher's training does not follow."""
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Filters of a stage, and the stride of its first block; two blocks each (a ResNet-18)."""
RECIPE = TrainingRecipe(
    epochs=70,
    batch_size=500,
    optimizer="muon",
    learning_rate=1e-3,
    weight_decay=0.2,
    rotation=0.0,
    zoom=0.0,
    crop_padding=4,
    camera=0.1,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
    precision="mixed_bfloat16",
)


def build_resnet(dataset: Dataset, precision: str, augmentation: Sequence[Any] = ()) -> Any:
    """A Keras model from images of values 0-255 to logits."""
    from keras import Input, Model, layers

    from vitsd.data.statistics import moments, pixel_counts

    policy = {"dtype": precision}

    def convolution(values: Any, filters: int, size: int, stride: int = 1) -> Any:
        return layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, **policy
        )(values)

    def activated(values: Any) -> Any:
        normalized = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **policy)(values)
        return layers.ReLU(**policy)(normalized)

    mean, variance = moments(pixel_counts(dataset.train.images))
    images = Input(dataset.image_shape)
    values = layers.Normalization(mean=mean.tolist(), variance=variance.tolist(), dtype="float32")(
        images
    )
    for layer in augmentation:
        values = layer(values)
    values = convolution(values, _STAGES[0][0], 3)
    for filters, stride in _STAGES:
        for stride_here in (stride, 1):
            before = activated(values)
            shortcut = values
            if values.shape[-1] != filters or stride_here > 1:
                shortcut = convolution(before, filters, 1, stride_here)
            branch = convolution(before, filters, 3, stride_here)
            values = layers.Add(**policy)([shortcut, convolution(activated(branch), filters, 3)])
    features = layers.GlobalAveragePooling2D(**policy)(activated(values))
    logits = layers.Dense(dataset.num_classes, dtype="float32", name="logits")(features)
    return Model(images, logits)


def train_teacher(dataset: Dataset, recipe: TrainingRecipe, output: Path) -> Any:
    """Train, and write the weights of the last epoch to an ``.npz`` file; returns the model."""
    from vitsd.training.augmentation import BatchAugmentation, model_augmentation
    from vitsd.training.callbacks import EpochSeeds, Progress
    from vitsd.training.optimizer import compile_model
    from vitsd.training.sequence import ImageSequence, workers

    images = ImageSequence(
        dataset.train,
        dataset.num_classes,
        recipe.batch_size,
        recipe.seed,
        BatchAugmentation(recipe),
        workers=workers(),
    )
    random.seed(recipe.seed)  # from which Keras takes its own
    with contextlib.closing(images):
        model = build_resnet(dataset, recipe.precision, model_augmentation(recipe))
        compile_model(model, recipe, steps_per_epoch=len(images))
        callbacks = [EpochSeeds(images, recipe.seed), Progress(len(images), recipe.batch_size)]
        model.fit(images, epochs=recipe.epochs, shuffle=False, verbose=0, callbacks=callbacks)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as temporary, temporary.open("wb") as file:
        np.savez(file, *model.get_weights())
    return model


def open_teacher(path: Path, dataset: Dataset) -> Answers:
    """Its answers."""
    from vitsd.evaluation.predict import compiled

    model = build_resnet(dataset, RECIPE.precision)
    with np.load(path) as weights:
        model.set_weights([weights[f"arr_{i}"] for i in range(len(weights))])
    return compiled(model)


def teach(
    arguments: argparse.Namespace, options: dict[str, Any], student: Preset, dataset: Dataset
) -> dict[str, Any]:
    """Train a student, made from a preset by options, with the teacher's answers."""
    from vitsd.training.train import train

    origin = {"preset": arguments.preset, "source": arguments.data, "options": options}
    return train(
        student.config,
        student.recipe,
        dataset,
        arguments.output,
        origin=origin,
        teacher=open_teacher(arguments.weights, dataset),
    )


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of recipe and architecture that were given."""
    own = ("weights", "data", "preset", "output")
    given = {name: value for name, value in vars(arguments).items() if name not in own}
    return {name: value for name, value in given.items() if value is not None}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="cnn_teacher",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,  # --teacher would be --teacher-share
    )
    parser.add_argument("weights", type=Path, metavar="TEACHER.npz", help="of the teacher")
    parser.add_argument("--data", required=True, help="as for vitsd-train")
    parser.add_argument(
        "--preset", choices=list_presets(), help="let a trained teacher teach this preset"
    )
    parser.add_argument("--output", help="the folder of this preset's run")
    left_out = ("teacher", "validation_fraction")  # both hold out the same images
    add_field_options(parser.add_argument_group("recipe"), TrainingRecipe, left_out)
    add_field_options(parser.add_argument_group("architecture"), VitConfig, NO_OPTIONS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(_main, build_parser(), argv, distribution="vitsd")


def _main(arguments: argparse.Namespace) -> None:
    if (arguments.preset is None) != (arguments.output is None):
        raise UsageError("A preset and its output go together: give --preset and --output.")
    if arguments.preset and not arguments.weights.is_file():
        raise UsageError(f"There is no teacher {arguments.weights}: train it first.")
    given = _given(arguments)
    options = {**given, "teacher": arguments.weights.stem}
    student = arguments.preset and get_preset(arguments.preset).with_options(options)
    known = {field.name for field in dataclasses.fields(TrainingRecipe)} - {*_STUDENT_ONLY}
    if not student and (odd := sorted(given.keys() - known)):
        raise UsageError(f"Without a preset there is no student: leave out {', '.join(odd)}.")
    recipe = RECIPE if student else dataclasses.replace(RECIPE, **given)
    load_keras()
    from vitsd.data.sources import load_dataset
    from vitsd.evaluation.metrics import top_k_hits
    from vitsd.evaluation.predict import predict_logits

    dataset = load_dataset(arguments.data).with_validation(RECIPE.validation_fraction)
    if student:
        print(json.dumps({"top1": teach(arguments, options, student, dataset)["top1"]}))
        return
    model, test = train_teacher(dataset, recipe, arguments.weights), dataset.test
    hits = top_k_hits(predict_logits(model, test.images), test.labels, 1)
    print(json.dumps({"top1": float(hits.mean())}))


if __name__ == "__main__":
    sys.exit(main())
