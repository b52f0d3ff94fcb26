"""Import a Keras 2 SavedModel of the public example, such as the checkpoint published as ``keras-io/vit-small-ds``.

The example (https://keras.io/examples/vision/vit_small_ds/) saves its model without class names, statistics or augmentation.
Its variables are read from the checkpoint, found by the structure of the saved object graph (not by names, which count up),
and the result is believed only if its logits equal those of the SavedModel's own signature.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitsd.config import VitConfig
from vitsd_runtime.errors import UsageError, VitsdError, first_line
from vitsd_runtime.images.preprocessing import preprocess
from vitsd_runtime.spec import ModelSpec, Provenance
from vitsd_runtime.system.stderr import quiet_stderr

TOLERANCE = 1e-4
"""Largest difference of a logit between the SavedModel and the imported model."""
IMAGES = 64
MAX_WEIGHTS = 500_000_000
"""More than any such model has; a file that claims more is not read."""

_TRAINING_STATE = ("optimizer", "keras_api", "loss", "metrics")
"""Children of the saved model that hold no weights."""
_BOOKKEEPING = (
    *_TRAINING_STATE,
    "variables",
    "trainable_variables",
    "non_trainable_variables",
    "regularization_losses",
)


@dataclass(frozen=True)
class _Layer:
    """A layer that has variables: ``tensors`` by their place in it, e.g. ``_query_dense/kernel``."""

    tensors: dict[str, np.ndarray]
    kind: str
    """statistics, tokenization, embedding, norm, attention or dense."""

    def get(self, ending: str) -> np.ndarray:
        (value,) = (value for place, value in self.tensors.items() if place.endswith(ending))
        return value


def import_saved_model(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    *,
    data: str | None = None,
    mean: Sequence[float] | None = None,
    variance: Sequence[float] | None = None,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda message: None,
) -> tuple[ModelSpec, dict]:
    """Write a ``.keras`` file with a spec from a Keras 2 SavedModel.

    Args:
        folder: the SavedModel. Its Python code, if any, is not run, but a SavedModel is a TensorFlow program: import only
            those that you trust.
        output: the ``.keras`` file.
        data: labelled images like those it was trained on: they give the class names, the statistics where the SavedModel
            has none, and the images on which both are compared. Without, those are random and classes are numbered.
        mean, variance: statistics per channel in 0-255 pixel units, instead of those of ``data``.
        overwrite: replace the file.
        report: called with a line of text about what was found.

    Returns:
        The spec, and ``{"variables": ..., "images": ..., "max_difference": ...}``.

    Raises:
        UsageError: not a SavedModel, no statistics, something in the way.
        VitsdError: another architecture, or different answers.
    """
    from vitsd.data.dataset import load_dataset, pixel_statistics
    from vitsd.hub.saving import model_name, save_model

    folder, output = Path(folder), Path(output)
    if not (folder / "saved_model.pb").exists():
        raise UsageError(f"{folder} is not a SavedModel: it has no saved_model.pb.")
    if output.suffix != ".keras":
        raise UsageError(f"The output must end in .keras; got {output}.")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists; replace it with --overwrite.")
    if (mean is None) != (variance is None):
        raise UsageError("Give both the mean and the variance, or none of them.")
    layers, ignored = _read_layers(folder)
    signature = _Signature.load(folder)
    config = _infer_config(layers, signature)
    report(
        f"Found {config.num_layers} blocks of width {config.hidden_dim}, {config.parameter_count():,} weights."
    )

    statistics = [layer for layer in layers if layer.kind == "statistics"]
    normalises = bool(statistics)
    side = (signature.height, signature.width)
    dataset = load_dataset(data, input_size=side) if data else None
    channels = signature.channels
    if dataset is not None and (
        dataset.image_shape[2] != channels or dataset.num_classes != config.num_classes
    ):
        raise UsageError(
            f"{dataset.name} has {dataset.num_classes} classes and {dataset.image_shape[2]} channels, the model "
            f"{config.num_classes} and {channels}."
        )
    if mean is not None:
        if normalises:
            raise UsageError(
                "The SavedModel has statistics of its own: leave out the mean and the variance."
            )
        if (
            not len(mean) == len(variance) == channels
            or not np.isfinite([*mean, *variance]).all()
            or min(variance) <= 0
        ):
            raise UsageError(
                f"The model needs {channels} finite means and {channels} positive variances."
            )
    if normalises:
        mean, variance = (statistics[0].get(name).reshape(-1) for name in ("mean", "variance"))
    elif mean is None:
        if dataset is None:
            raise UsageError(
                "The SavedModel has no normalisation statistics: give its training data with --data, or --mean and "
                "--variance."
            )
        mean, variance = pixel_statistics(dataset.train.images)
    # A model that resizes, or normalises, by itself was given images as they are; any other, preprocessed ones of any size.
    own_size = (*side, channels)
    if not normalises and side == (config.image_size, config.image_size) and dataset is not None:
        own_size = dataset.image_shape
    config = dataclasses.replace(config, input_size=own_size)
    spec = ModelSpec(
        name=model_name(output.stem),
        class_names=dataset.class_names
        if dataset
        else tuple(str(i) for i in range(config.num_classes)),
        input_size=own_size,
        image_size=config.image_size,
        mean=mean,
        variance=variance,
        architecture=config.architecture,
        provenance=Provenance(imported_from=folder.resolve().name, format="Keras 2 SavedModel"),
    )

    if dataset is not None:
        images = dataset.split("test").sample(IMAGES).images
        # Where patches are flat, as in a drawing's background, the norm of the tokenization multiplies the rounding of
        # both models by a thousand. Noise of one grey level keeps them from being so.
        noise = np.random.default_rng(0).integers(0, 2, images.shape, dtype=np.uint8)
        images = np.where(images < 255, images + noise, images - noise)
    else:
        images = np.random.default_rng(0).integers(0, 256, (IMAGES, *own_size), dtype=np.uint8)
    expected = signature.run(_as_signature_takes(images, spec, side, normalises))
    model, config, difference = _build_equal(layers, config, spec, images, expected)
    spec = spec.replace(architecture=config.architecture)
    found = {
        "variables": sum(len(layer.tensors) for layer in layers),
        "training_state": ignored,
        "images": len(images),
        "real_images": dataset is not None,
        "max_difference": difference,
    }
    return save_model(model, output, spec), found


def _as_signature_takes(
    images: np.ndarray, spec: ModelSpec, side: tuple[int, int], normalises: bool
) -> np.ndarray:
    if normalises:
        return images.astype(np.float32)
    if side == (spec.image_size, spec.image_size):
        return preprocess(images, spec)
    scale, offset = spec.normalization()  # it resizes by itself
    return images * scale + offset


def _build_equal(layers, config: VitConfig, spec: ModelSpec, images, expected):
    """The model, with what its variables leave open chosen so that it answers as expected."""
    from vitsd.model.vit import build_vit
    from vitsd.training.train import predict_logits

    best = None
    # Without a temperature among the variables, attention may be masked with a constant one, or ordinary.
    has_temperature = any(place.endswith("tau") for layer in layers for place in layer.tensors)
    for lsa, epsilon in itertools.product(
        (True,) if has_temperature else (True, False), (1e-6, 1e-3)
    ):
        candidate = dataclasses.replace(config, lsa=lsa, layer_norm_epsilon=epsilon)
        model = build_vit(candidate, mean=spec.mean, variance=spec.variance)
        _assign(model, _weights(layers, candidate))
        difference = float(np.abs(predict_logits(model, images) - expected).max())
        if best is None or difference < best[2]:
            best = model, candidate, difference
    if not best[2] <= TOLERANCE:
        raise VitsdError(
            f"The imported model's logits differ by {best[2]:.2g} from the SavedModel's, more than {TOLERANCE:g}: it is not "
            "the public example's architecture (exact GELU, diagonal mask, dense layers as read)."
        )
    return best


def _weights(layers: list[_Layer], config: VitConfig) -> dict[str, np.ndarray]:
    """Our names for the variables, in the order of the layers; every variable is named once."""
    weights: dict[str, np.ndarray] = {}

    def put(layer, **names):
        places = {}
        for ending, name in names.items():
            (place,) = (p for p in layer.tensors if p.endswith(ending.replace("__", "/")))
            places[place] = name
        if left := set(layer.tensors) - set(places):
            raise VitsdError(
                f"A variable of the SavedModel has no place in the architecture: {sorted(left)[0]}."
            )
        weights.update({name: layer.tensors[place] for place, name in places.items()})

    rest = iter(layer for layer in layers if layer.kind != "statistics")
    norm = (
        {
            "layer_norm__gamma": "tokenization/norm/gamma",
            "layer_norm__beta": "tokenization/norm/beta",
        }
        if config.spt
        else {}
    )
    projection = {
        f"projection__{part}": f"tokenization/projection/{part}" for part in ("kernel", "bias")
    }
    put(next(rest), **projection, **norm)
    put(next(rest), embeddings="position_embedding/embedding")
    for i in range(config.num_layers):
        put(next(rest), gamma=f"block_{i}_norm_1/gamma", beta=f"block_{i}_norm_1/beta")
        attention = next(rest)
        names = {
            f"_{theirs}_dense__{part}": f"block_{i}_attention/{ours}/{part}"
            for theirs, ours in (
                ("query", "query"),
                ("key", "key"),
                ("value", "value"),
                ("output", "projection"),
            )
            for part in ("kernel", "bias")
        }
        if any(place.endswith("tau") for place in attention.tensors):
            names["tau"] = f"block_{i}_attention/tau"
        elif config.lsa:
            weights[f"block_{i}_attention/tau"] = np.float32(config.key_dim**0.5)
        put(attention, **names)
        put(next(rest), gamma=f"block_{i}_norm_2/gamma", beta=f"block_{i}_norm_2/beta")
        for j in range(len(config.mlp_units)):
            put(next(rest), kernel=f"block_{i}_mlp_{j}/kernel", bias=f"block_{i}_mlp_{j}/bias")
    put(next(rest), gamma="norm/gamma", beta="norm/beta")
    for name in [*(f"head_{i}" for i in range(len(config.head_units))), "logits"]:
        put(next(rest), kernel=f"{name}/kernel", bias=f"{name}/bias")
    return weights


def _assign(model, weights: dict[str, np.ndarray]) -> None:
    own = {
        weight.path: weight
        for weight in model.weights
        if not weight.path.startswith("normalization/")
    }
    if own.keys() != weights.keys():
        name = sorted(own.keys() ^ weights.keys())[0]
        raise VitsdError(
            f"The SavedModel and the architecture that was read from it don't fit: {name}."
        )
    for name, value in weights.items():
        if tuple(own[name].shape) != value.shape:
            raise VitsdError(
                f"{name} has the shape {value.shape} in the SavedModel, not {tuple(own[name].shape)}."
            )
        own[name].assign(value)


def _infer_config(layers: list[_Layer], signature: _Signature) -> VitConfig:
    """The architecture, from the kinds, order and shapes of its layers."""
    body = [layer for layer in layers if layer.kind != "statistics"]
    kinds = [layer.kind for layer in body]
    num_layers = kinds.count("attention")
    # Tokenization and embedding, then the first block's norm, attention and norm, and its dense layers.
    mlp = next((i for i, kind in enumerate(kinds[5:]) if kind != "dense"), 0) if num_layers else 0
    head = len(kinds) - (2 + num_layers * (3 + mlp) + 1)
    wanted = [
        "tokenization",
        "embedding",
        *["norm", "attention", "norm", *["dense"] * mlp] * num_layers,
        "norm",
        *["dense"] * head,
    ]
    if not num_layers or not mlp or head < 1 or kinds != wanted:
        raise VitsdError(
            f"The SavedModel is not a ViT of the public example: its layers with variables are {', '.join(kinds[:12])} ..."
        )
    tokens, hidden_dim = body[1].get("embeddings").shape
    grid = round(tokens**0.5)
    kernel = body[0].get("projection/kernel")
    shifted = any(place.endswith("gamma") for place in body[0].tensors)
    patch = round((kernel.shape[0] / (signature.channels * (5 if shifted else 1))) ** 0.5)
    query = body[3].get("_query_dense/kernel")
    dense = [layer.get("kernel") for layer in body if layer.kind == "dense"]
    flattened = dense[num_layers * mlp].shape[0]
    return VitConfig(
        input_size=(signature.height, signature.width, signature.channels),
        num_classes=dense[-1].shape[1],
        image_size=grid * patch,
        patch_size=patch,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        num_heads=query.shape[1],
        key_dim=query.shape[2],
        mlp_units=tuple(kernel.shape[1] for kernel in dense[:mlp]),
        head_units=tuple(kernel.shape[1] for kernel in dense[num_layers * mlp : -1]),
        pooling="flatten" if flattened == tokens * hidden_dim else "gap",
        spt=shifted,
    )


@dataclass(frozen=True)
class _Signature:
    """The SavedModel's own way to be called: images ``(batch, height, width, channels)`` to logits."""

    function: Callable
    holder: object
    """The loaded SavedModel, which the function needs as long as it is used."""
    argument: str
    height: int
    width: int
    channels: int

    @classmethod
    def load(cls, folder: Path) -> _Signature:
        import tensorflow as tf

        try:
            with quiet_stderr():
                holder = tf.saved_model.load(str(folder))
            function = holder.signatures["serving_default"]
            ((argument, tensor),) = function.structured_input_signature[1].items()
            batch, height, width, channels = tensor.shape
            (_,) = function.structured_outputs
        except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            raise VitsdError(
                f"{folder} has no signature from images to logits ({first_line(error)})."
            ) from error
        if batch not in (None, 1) or None in (height, width, channels):
            raise VitsdError(
                f"{folder} takes images of shape {tensor.shape}; height, width and channels must be fixed."
            )
        return cls(function, holder, argument, height, width, channels)

    def run(self, images: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        answers = [
            self.function(**{self.argument: tf.constant(image[None], tf.float32)})
            for image in images
        ]
        return np.concatenate([next(iter(answer.values())).numpy() for answer in answers])


def _read_layers(folder: Path) -> tuple[list[_Layer], int]:
    """The layers that have variables, in their order, and how many variables of training's state were left out.

    Every variable in the checkpoint is either in one layer, once, or in training's state.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    try:
        with quiet_stderr():
            reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
            shapes = reader.get_variable_to_shape_map()
            if sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()) > MAX_WEIGHTS:
                raise VitsdError(
                    f"{folder} claims more than {MAX_WEIGHTS:,} weights; it is not read."
                )
            graph = TrackableObjectGraph()
            graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    except (OSError, ValueError, IndexError, RuntimeError, tf.errors.OpError) as error:
        raise VitsdError(f"The variables of {folder} can't be read: {first_line(error)}") from error

    nodes = graph.nodes
    if not nodes:
        raise VitsdError(f"{folder} holds no objects.")
    keys = {i: node.attributes[0].checkpoint_key for i, node in enumerate(nodes) if node.attributes}
    used: set[int] = set()
    layers = []
    for number in _layers_in_order(nodes, 0):
        places = {}
        for place, variable in _variables_below(nodes, number, keys):
            # The states of random generators are no weights.
            if not place.endswith("_state_var") and variable not in places.values():
                places[place] = variable
        if not places:
            continue
        if doubly := used & set(places.values()):
            raise VitsdError(
                f"Two layers of the SavedModel share a variable ({keys[min(doubly)]})."
            )
        used |= set(places.values())
        tensors = {
            place: np.asarray(reader.get_tensor(keys[variable]))
            for place, variable in places.items()
        }
        layers.append(_Layer(tensors, _kind(tensors)))
    state = [
        key
        for i, key in keys.items()
        if i not in used and (key.split("/")[0] in _TRAINING_STATE or "_state_var" in key)
    ]
    left = {keys[i] for i in keys if i not in used} - set(state)
    if left:
        raise VitsdError(f"A variable of the SavedModel belongs to no layer: {sorted(left)[0]}.")
    return layers, len(state)


def _layers_in_order(nodes, parent: int, depth: int = 0) -> Iterator[int]:
    """Numbers of the layers with weights; those of a model inside the model stand in its place."""
    if depth > 8:
        raise VitsdError("The SavedModel's layers are nested too deeply.")
    named = [(child.local_name, child.node_id) for child in nodes[parent].children]
    ordered = sorted(
        (int(n.rpartition("-")[2]), i) for n, i in named if n.startswith("layer_with_weights-")
    )
    for _, number in ordered:
        inner = list(_layers_in_order(nodes, number, depth + 1))
        yield from inner or [number]


def _variables_below(
    nodes, number: int, keys: dict[int, str], place: str = "", depth: int = 0
) -> Iterator[tuple[str, int]]:
    if number in keys:
        yield place, number
    if depth > 8:
        return
    for child in nodes[number].children:
        if child.local_name not in _BOOKKEEPING:
            inner = f"{place}/{child.local_name}" if place else child.local_name
            yield from _variables_below(nodes, child.node_id, keys, inner, depth + 1)


def _kind(tensors: dict[str, np.ndarray]) -> str:
    places = set(tensors)
    if {"mean", "variance"} <= places:
        return "statistics"
    if {
        "_query_dense/kernel",
        "_key_dense/kernel",
        "_value_dense/kernel",
        "_output_dense/kernel",
    } <= places:
        return "attention"
    if "projection/kernel" in places:
        return "tokenization"
    if len(places) == 1 and next(iter(places)).endswith("embeddings"):
        return "embedding"
    if places == {"gamma", "beta"}:
        return "norm"
    if places == {"kernel", "bias"}:
        return "dense"
    return f"unknown ({', '.join(sorted(places))[:80]})"
