"""The pre-training checkpoint: weights and readable facts in one ``.safetensors`` file.

The file holds the tensors of an ``AdaptiveMAE`` and, in its metadata, one JSON text with the model
configuration (contrast names included), and what the writer adds: plan facts, training values,
versions. Nothing in it can run code, and nothing in it names a case. Not in the paper.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from amae_nnunet.config import ModelConfig
from amae_nnunet.errors import CheckpointError, ConfigError
from amae_nnunet.networks.mae import AdaptiveMAE

_KEY = "amae"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: the model's configuration, all facts written, and the tensors."""

    config: ModelConfig
    facts: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(path: Path, model: AdaptiveMAE, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint, through a temporary name.

    Args:
        path: ends in ``.safetensors``.
        model: its weights and configuration are written.
        facts: plain JSON values, of which none may name a case.
    """
    content = {**facts, "model": dataclasses.asdict(model.config)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={_KEY: json.dumps(content)})
    temporary.replace(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: no such file, not a safetensors file, not one of ours, or its tensors are
            not those of its configuration.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata[_KEY])
        config = ModelConfig.from_json(facts["model"])
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is not a readable safetensors file ({error}): give the file that "
            "amae-nnunet-pretrain wrote"
        ) from None
    except (KeyError, TypeError, json.JSONDecodeError, ConfigError) as error:
        raise CheckpointError(
            f"checkpoint {path} does not describe an AMAE model ({error!r}): give the file that "
            "amae-nnunet-pretrain wrote"
        ) from None
    _check_tensors(path, config, tensors)
    return Checkpoint(config, facts, tensors)


def _check_tensors(path: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    with torch.device("meta"):  # shapes only: a false configuration cannot fill the memory
        expected = {name: t.shape for name, t in AdaptiveMAE(config).state_dict().items()}
    found = {name: t.shape for name, t in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            want, have = (list(s[name]) if name in s else "nothing" for s in (expected, found))
            raise CheckpointError(
                f"checkpoint {path} is damaged: tensor {name} is {have} where its configuration "
                f"needs {want}; pre-train again or fetch the file again"
            )


def load_mae(checkpoint: Checkpoint) -> AdaptiveMAE:
    """The pre-trained autoencoder itself."""
    model = AdaptiveMAE(checkpoint.config)
    model.load_state_dict(checkpoint.tensors)
    return model


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror})") from None
    return digest.hexdigest()
