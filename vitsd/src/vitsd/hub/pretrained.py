"""Find trained models by name: the bundled one, local files and folders, and repositories on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vitsd.hub.saving import load_model
from vitsd_runtime.errors import UsageError, VitsdError, first_line
from vitsd_runtime.formats.saved_model import is_saved_model
from vitsd_runtime.models.catalog import BUNDLED

MODEL_FILE = "model.keras"
_LINK = re.compile(r"\]\(([\w.\-]+)\)")
"""In Markdown, to a file beside the text."""
_REPOSITORY = re.compile(r"(?P<id>[\w.\-]+/[\w.\-]+)(@(?P<revision>[\w.\-/]+))?")


def from_pretrained(name_or_path: str | os.PathLike):
    """Load a trained model; returns ``(model, spec)`` as :func:`vitsd.load_model` does.

    Args:
        name_or_path: a ``.keras`` file; a folder that holds a ``model.keras`` (such as a run folder);
            ``vit-edge-cifar100``, which comes with vitsd; or a repository on the Hugging Face Hub, ``owner/name`` or
            ``owner/name@revision``. What is there as a file or folder goes first. The Hub needs
            ``pip install "vitsd[hub]"``; its cache and ``HF_HUB_OFFLINE`` work as its users know them.

    Raises:
        UsageError: nothing is found under that name.
        VitsdError: the file can't be downloaded, or is damaged.
    """
    return load_model(locate(name_or_path))


def locate(name_or_path: str | os.PathLike) -> Path:
    """The ``.keras`` file behind a name, downloaded if need be. Raises as :func:`from_pretrained`."""
    path = Path(name_or_path)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise UsageError(f"{path} holds no {MODEL_FILE}.")
        return path / MODEL_FILE
    if path.exists() or path.suffix == ".keras":
        return path
    if str(name_or_path) == BUNDLED:
        return Path(__file__).parents[1] / "models" / f"{BUNDLED}.keras"
    repository = _REPOSITORY.fullmatch(str(name_or_path))
    if repository is None:
        raise UsageError(
            f"No model is found under {str(name_or_path)!r}: give {BUNDLED}, a .keras file, a folder with a {MODEL_FILE}, "
            "or a repository of the Hugging Face Hub (owner/name)."
        )
    return _download(repository["id"], repository["revision"])


def locate_any(name_or_path: str | os.PathLike) -> Path:
    """The path of a trained model, as :func:`locate`, or of an exported one. Raises as :func:`from_pretrained`."""
    path = Path(name_or_path)
    exported = path.suffix.lower() in (".tflite", ".onnx") or (
        path.is_dir() and is_saved_model(path)
    )
    return path if exported else locate(name_or_path)


def push_to_hub(
    model: str | os.PathLike,
    repository: str,
    card: str | os.PathLike | None = None,
    *,
    private: bool = False,
) -> str:
    """Upload a trained model to the Hugging Face Hub, whose token is that of ``hf auth login`` or ``HF_TOKEN``.

    Args:
        model: a ``.keras`` file with a spec, or a folder that holds a ``model.keras``; it is checked by loading it.
        repository: ``owner/name``; made if it does not exist.
        card: a Markdown file that becomes the repository's README, the model card. Files beside it that it links to,
            such as pictures, go with it.
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        UsageError: no such model or card, or not a name of a repository.
        VitsdError: the Hub refused.
    """
    hub = _hub()
    found = _REPOSITORY.fullmatch(repository)
    if found is None or found["revision"]:
        raise UsageError(f"A repository is called owner/name; got {repository!r}.")
    path = locate(model)
    load_model(path)
    operations = [hub.CommitOperationAdd(MODEL_FILE, str(path))]
    if card is not None:
        if not Path(card).is_file():
            raise UsageError(f"There is no model card at {card}.")
        operations.append(hub.CommitOperationAdd("README.md", str(card)))
        linked = sorted(set(_LINK.findall(Path(card).read_text(encoding="utf-8"))))
        beside = (Path(card).with_name(name) for name in linked)
        operations += [
            hub.CommitOperationAdd(path.name, str(path)) for path in beside if path.is_file()
        ]
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(
            api.create_commit(
                repository, operations, commit_message=f"Upload {MODEL_FILE}"
            ).commit_url
        )
    except hub.errors.HFValidationError as error:
        raise UsageError(
            f"{repository} can't be the name of a repository: {first_line(error)}"
        ) from error
    except Exception as error:  # its own, and whatever the HTTP client below it raises
        raise VitsdError(
            f"The Hugging Face Hub refused {repository}: {first_line(error)}"
        ) from error


def _download(repository: str, revision: str | None) -> Path:
    hub = _hub()
    at = f" at {revision}" if revision else ""
    nothing = f"There is no file or folder {repository} here"
    try:
        return Path(hub.hf_hub_download(repository, MODEL_FILE, revision=revision))
    except hub.errors.LocalEntryNotFoundError as error:
        message = f"and {repository}{at} is not in the local cache of the Hugging Face Hub, which can't be reached."
        raise VitsdError(f"{nothing}, {message}") from error
    except (
        hub.errors.RepositoryNotFoundError,
        hub.errors.RevisionNotFoundError,
        hub.errors.EntryNotFoundError,
    ) as error:
        message = f"and the Hugging Face Hub has no {MODEL_FILE} in {repository}{at}, or you have no access"
        raise UsageError(f"{nothing}, {message}: {first_line(error)}") from error
    except hub.errors.HFValidationError as error:
        raise UsageError(
            f"{nothing}, and no repository has such a name: {first_line(error)}"
        ) from error
    except Exception as error:  # its own, and whatever the HTTP client below it raises
        raise VitsdError(f"{repository}{at} can't be downloaded: {first_line(error)}") from error


def _hub():
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UsageError(
            'Models on the Hugging Face Hub need its client: pip install "vitsd[hub]".'
        ) from error
    return huggingface_hub
