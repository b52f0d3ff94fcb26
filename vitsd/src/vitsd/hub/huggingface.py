"""Download from and upload to the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitsd.hub.saving import MODEL_FILE
from vitsd_runtime.errors import UsageError, VitsdError
from vitsd_runtime.system.text import first_line, printable
from vitsd_runtime.types import PathLike

_REPOSITORY = re.compile(r"(?P<id>[\w.\-]+/[\w.\-]+)(@(?P<revision>[\w.\-/]+))?")
_LINK = re.compile(r"\]\(([\w.\-]+)\)")
"""In Markdown, to a file beside the text."""


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub."""

    id: str
    """``owner/name``"""
    revision: str | None = None
    """A branch, tag or commit; None: the main branch."""

    @classmethod
    def parse(cls, text: str) -> Repository | None:
        """Read ``owner/name`` or ``owner/name@revision``; None if it is neither."""
        match = _REPOSITORY.fullmatch(text)
        return cls(match["id"], match["revision"]) if match else None

    def __str__(self) -> str:
        return f"{self.id} at {self.revision}" if self.revision else self.id


def download(repository: Repository) -> Path:
    """The repository's model file in the local cache, downloaded if need be.

    Raises:
        UsageError: the client is not installed, or the Hub has no such file.
        VitsdError: the download failed, or the Hub can't be reached.
    """
    hub = _client()
    nothing = f"There is no file or folder {repository.id} here"
    try:
        return Path(hub.hf_hub_download(repository.id, MODEL_FILE, revision=repository.revision))
    except hub.errors.LocalEntryNotFoundError as error:
        raise VitsdError(
            f"{nothing}, and {repository} is not in the local cache of the Hugging Face Hub, which "
            "can't be reached."
        ) from error
    except (
        hub.errors.RepositoryNotFoundError,
        hub.errors.RevisionNotFoundError,
        hub.errors.EntryNotFoundError,
    ) as error:
        raise UsageError(
            f"{nothing}, and the Hugging Face Hub has no {MODEL_FILE} in {repository}, or you have "
            f"no access: {first_line(error)}"
        ) from error
    except hub.errors.HFValidationError as error:
        raise UsageError(
            f"{nothing}, and no repository has such a name: {first_line(error)}"
        ) from error
    except Exception as error:  # its own, and whatever the HTTP client below it raises
        raise VitsdError(f"{repository} can't be downloaded: {first_line(error)}") from error


def upload(model: Path, repository: Repository, card: PathLike | None, private: bool) -> str:
    """Upload a model file, and a model card with the files beside it that it links to.

    In one commit of named files: nothing else in the model's or the card's folder is uploaded.

    Args:
        model: a ``.keras`` file.
        repository: made if it does not exist.
        card: a Markdown file that becomes the repository's README.
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        UsageError: the client is not installed, there is no such card, or no repository can have
            that name.
        VitsdError: the Hub refused.
    """
    hub = _client()
    files = {MODEL_FILE: model, **_card_files(card)}
    try:
        api = hub.HfApi()
        api.create_repo(repository.id, private=private, exist_ok=True)
        operations = [hub.CommitOperationAdd(name, str(path)) for name, path in files.items()]
        message = f"Upload {MODEL_FILE}"
        commit = api.create_commit(repository.id, operations, commit_message=message)
        return str(commit.commit_url)
    except hub.errors.HFValidationError as error:
        raise UsageError(
            f"{repository} can't be the name of a repository: {first_line(error)}"
        ) from error
    except Exception as error:  # its own, and whatever the HTTP client below it raises
        raise VitsdError(
            f"The Hugging Face Hub refused {repository}: {first_line(error)}"
        ) from error


def _card_files(card: PathLike | None) -> dict[str, Path]:
    """Files by their names in the repository: the card as README, and those that it links to."""
    if card is None:
        return {}
    card = Path(card)
    if not card.is_file():
        raise UsageError(f"There is no model card at {printable(card)}.")
    linked = sorted(set(_LINK.findall(card.read_text(encoding="utf-8"))))
    beside = {name: card.with_name(name) for name in linked}
    return {"README.md": card, **{name: path for name, path in beside.items() if path.is_file()}}


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UsageError(
            'Models on the Hugging Face Hub need its client: pip install "vitsd[hub]".'
        ) from error
    return huggingface_hub
