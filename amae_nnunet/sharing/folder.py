"""A checkpoint as a folder of the Hugging Face hub, written and found again (not in the paper).

The folder::

    model.safetensors   the checkpoint, byte for byte
    config.json         what its metadata says, for readers without this package
    README.md           the model card

The checkpoint's own metadata counts; ``config.json`` must agree with it.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from amae_nnunet.errors import CheckpointError, ConfigError
from amae_nnunet.networks.checkpoint import file_sha256, read_checkpoint
from amae_nnunet.parse import parse_json
from amae_nnunet.sharing.card import model_card

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
#: Of the facts of a checkpoint, those that anybody may read; others may be from anybody.
_TOLD = (
    "schema", "plan", "pretraining", "fold", "epochs", "num_cases", "last_epoch", "versions",
    "added_contrasts", "model",
)  # fmt: skip
#: ``org/name``, or ``org/name@revision`` for a branch, a tag or a commit.
_HUB_ID = re.compile(r"([\w][\w.-]*/[\w][\w.-]*?)(?:@([\w][\w./-]*))?")


def export_folder(checkpoint: Path, folder: Path, licence: str = "") -> Path:
    """Write the folder; it is whole or not there.

    Args:
        checkpoint: the ``.safetensors`` file.
        folder: which must not hold anything yet.
        licence: for the card.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the folder holds something.
    """
    content = read_checkpoint(checkpoint)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} holds something already: choose a new folder")
    folder = folder.absolute()
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        shutil.copyfile(checkpoint, temporary / MODEL)
        sha256 = file_sha256(temporary / MODEL)
        card = model_card(content, sha256, licence)
        (temporary / CARD).write_text(card, encoding="utf-8")
        (temporary / CONFIG).write_text(_config(checkpoint, content.facts), encoding="utf-8")
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _config(checkpoint: Path, facts: dict[str, Any]) -> str:
    """The facts that we write, but for what is of use to this package alone, as JSON."""
    shown = {"model_type": "amae-nnunet", **{key: facts[key] for key in _TOLD if key in facts}}
    try:
        return json.dumps(shown, indent=1, allow_nan=False) + "\n"
    except ValueError:
        raise CheckpointError(f"checkpoint {checkpoint}: a fact is NaN or infinite") from None


def find_checkpoint(name: str) -> Path:
    """The checkpoint's file that a name stands for.

    Args:
        name: a file, a folder as above, or, if there is no such path, a model of the hub.

    Raises:
        CheckpointError: there is none, it cannot be fetched, or ``config.json`` is of another one.
    """
    path = Path(name)
    if path.is_dir():
        return _in_folder(path)
    found = _HUB_ID.fullmatch(name)
    if path.exists() or found is None or path.suffix == ".safetensors":
        return path
    return _in_folder(_fetch(found[1], found[2]))


def _in_folder(folder: Path) -> Path:
    path, described = folder / MODEL, folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {MODEL}: give the checkpoint's file")
    if described.is_file():
        try:
            model = parse_json(described.read_text(encoding="utf-8"))["model"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{described} cannot be read ({error!r}): remove it") from None
        if model != read_checkpoint(path).facts["model"]:
            raise CheckpointError(f"{described} is of another model than {MODEL} beside it")
    return path


def _fetch(name: str, revision: str | None) -> Path:
    """The folder of the local cache that holds a model of the hub, fetched if need be."""
    from huggingface_hub import snapshot_download

    try:
        wanted = [MODEL, CONFIG]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of several libraries, which have no base in common
        lines = str(error).split("\n")
        reason = next((line for line in lines if line.strip()), type(error).__name__)
        raise CheckpointError(
            f"{name} is no file or folder here, and cannot be fetched from the Hugging Face hub "
            f"({reason.strip()}): check name and network, or give the path of a checkpoint"
        ) from None
