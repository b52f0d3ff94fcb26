"""Find trained models by name: bundled, in local files and folders, or on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vitsd.hub import huggingface
from vitsd.hub.huggingface import Repository
from vitsd.hub.saving import MODEL_FILE, load_model
from vitsd_runtime.errors import UsageError
from vitsd_runtime.formats import SUFFIXES
from vitsd_runtime.formats.saved_model import is_saved_model
from vitsd_runtime.models.catalog import MODELS
from vitsd_runtime.spec import ModelSpec
from vitsd_runtime.system.text import printable
from vitsd_runtime.types import PathLike

if TYPE_CHECKING:
    import keras


def from_pretrained(name_or_path: PathLike) -> tuple[keras.Model, ModelSpec]:
    """Load a trained model.

    Args:
        name_or_path: a ``.keras`` file; a folder that holds a ``model.keras`` (such as a run
            folder); ``vit-edge-cifar100`` or ``vit-micro-cifar100``, which come with vitsd; or a
            repository on the Hugging Face Hub, ``owner/name`` or ``owner/name@revision``. Local
            paths take precedence. The Hub needs ``pip install "vitsd[hub]"``; its cache and
            ``HF_HUB_OFFLINE`` work as usual.

    Returns:
        The model and its spec, as :func:`vitsd.load_model` does.

    Raises:
        UsageError: nothing is found under that name.
        VitsdError: the file can't be downloaded, or is damaged.
    """
    return load_model(locate(name_or_path))


def locate(name_or_path: PathLike) -> Path:
    """The ``.keras`` file behind a name, downloaded if need be.

    Raises:
        UsageError: nothing is found under that name.
        VitsdError: the file can't be downloaded.
    """
    path = Path(name_or_path)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise UsageError(f"{printable(path)} holds no {MODEL_FILE}.")
        return path / MODEL_FILE
    if path.exists() or path.suffix == ".keras":
        return path
    if str(name_or_path) in MODELS:
        return Path(__file__).parents[1] / "models" / f"{name_or_path}.keras"
    repository = Repository.parse(str(name_or_path))
    if repository is None:
        raise UsageError(
            f"No model is found under {str(name_or_path)!r}: give {' or '.join(MODELS)}, a .keras "
            f"file, a folder with a {MODEL_FILE}, or a repository of the Hugging Face Hub "
            "(owner/name)."
        )
    return huggingface.download(repository)


def locate_any(name_or_path: PathLike) -> Path:
    """The path of a trained model, as :func:`locate`, or of an exported one.

    Raises:
        UsageError: nothing is found under that name.
        VitsdError: the file can't be downloaded.
    """
    path = Path(name_or_path)
    exported = SUFFIXES.get(path.suffix.lower()) not in (None, "keras") or (
        path.is_dir() and is_saved_model(path)
    )
    return path if exported else locate(name_or_path)


def push_to_hub(
    model: PathLike,
    repository: str,
    card: PathLike | None = None,
    *,
    private: bool = False,
) -> str:
    """Upload a trained model to the Hugging Face Hub.

    The token is that of ``hf auth login`` or ``HF_TOKEN``.

    Args:
        model: a ``.keras`` file with a spec, or a folder that holds a ``model.keras``; it is
            checked by loading it.
        repository: ``owner/name``; made if it does not exist.
        card: a Markdown file that becomes the repository's README, the model card. Files beside it
            that it links to, such as pictures, go with it.
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        UsageError: no such model or card, or not a name of a repository.
        VitsdError: the model is damaged, or the Hub refused.
    """
    target = Repository.parse(repository)
    if target is None or target.revision:
        raise UsageError(f"A repository is called owner/name; got {repository!r}.")
    path = locate(model)
    load_model(path)
    return huggingface.upload(path, target, card, private)
