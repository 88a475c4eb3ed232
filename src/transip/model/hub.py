"""Giving models to others: inside the package, or through the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from transip.errors import InputError
from transip.extras import import_optional
from transip.model import released
from transip.model.files import load_model, save_model, update_metadata
from transip.model.potential import Potential


def from_pretrained(name: str, *, revision: str | None = None, device: torch.device | str = "cpu") -> Potential:
    """Load a model by name; the same as `load_model`, under the name that users of the Hub expect.

    Args:
        name: of a shipped model, a repository of the Hugging Face Hub (``"owner/name"``), or a folder.
        revision: branch, tag or commit of the repository.
        device: a torch device.

    Raises:
        InputError: see `load_model`.
    """
    return load_model(name if revision is None else f"{name}@{revision}", device)


def push_to_hub(
    model: Potential | str | Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload a transip model",
) -> str:
    """Publish a model, with its card and checksums, as a repository of the Hugging Face Hub; returns its address.

    Args:
        model: in memory, or anything that `load_model` takes.
        repository: ``"owner/name"``; made if it does not exist.
        private: whether a new repository is.
        token: None: that of `hf auth login`, or HF_TOKEN.
        commit_message: of the upload.

    Raises:
        InputError: huggingface_hub is not installed, the model cannot be read, or the Hub refuses.
    """
    hub = import_optional("huggingface_hub", "hub")
    with tempfile.TemporaryDirectory() as temporary:
        update_metadata(export_for_release(model, Path(temporary)), name=repository)
        api = hub.HfApi(token=token)
        try:
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=temporary, commit_message=commit_message)
        except Exception as error:  # whatever the HTTP library raises: no network, not logged in, no permission
            raise InputError(
                f"cannot be published: {released.first_line(error)}",
                where=repository,
                remedy="log in with `hf auth login`, and check the name",
            ) from error
    return str(address)


def export_for_release(model: Potential | str | Path, folder: Path) -> Path:
    """Write a model to `folder` with card and checksums.

    Into ``released.SHIPPED / NAME`` of a source checkout, that ships it: the next installation knows it by NAME.
    """
    save_model(model if isinstance(model, Potential) else load_model(model), folder)
    released.write_checksums(folder)
    return folder
