"""The pre-training checkpoint: weights and readable facts in one ``.safetensors`` file.

The file holds the tensors of an ``AdaptiveMAE`` and, in its metadata, one JSON text with the model
configuration (contrast names included), and what the writer adds: plan facts, training values,
versions. Nothing in it can run code, and nothing in it names a case. Not in the paper.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from amae_nnunet.config import ModelConfig
from amae_nnunet.errors import CheckpointError, ConfigError, ContrastError
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.parse import parse_json

SCHEMA = 1  # of the facts

_KEY = "amae"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # of a plan's parts: it stays in its folder
_MAX_TOKENS = 1 << 20  # of a contrast, whose positions are computed; a patch has some thousands


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: the model's configuration, all facts written, and the tensors."""

    config: ModelConfig
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def plan(self) -> dict[str, str]:
        """Its ``dataset``, ``plans`` and ``configuration``, as far as it tells them by name."""
        told = self.facts.get("plan")
        names = told.items() if isinstance(told, dict) else ()
        return {k: name for k, name in names if isinstance(name, str) and _NAME.fullmatch(name)}

    @property
    def mask_ratio(self) -> float:
        """The share of the tokens that the pre-training hid.

        Raises:
            CheckpointError: the file does not say.
        """
        values = self.facts.get("pretraining")
        ratio = values.get("mask_ratio") if isinstance(values, dict) else None
        if not isinstance(ratio, float) or not 0 < ratio < 1:
            raise CheckpointError(
                "the checkpoint does not say which mask_ratio it was trained with"
            )
        return ratio


def save_checkpoint(path: Path, model: AdaptiveMAE, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint; see ``durable_file`` for one that is whole or not there.

    Args:
        path: of the file.
        model: its weights and configuration are written.
        facts: plain JSON values, of which none may name a case.
    """
    content = {**facts, "model": dataclasses.asdict(model.config)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata={_KEY: json.dumps(content)})
    path.chmod(mode)  # of any new file here; safetensors shuts out all others but the user


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: no such file, not a safetensors file, not one of ours, of another schema,
            or its tensors are not those of its configuration.
    """
    if path.is_dir():
        raise CheckpointError(f"checkpoint {path} is a folder: give the .safetensors file in it")
    try:
        with safe_open(path, framework="pt") as file:
            facts = _checked(path, parse_json((file.metadata() or {})[_KEY]))
            config = ModelConfig.from_json(facts["model"])
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(path, config, shapes)  # before anything large is read
            tensors = {name: file.get_tensor(name) for name in shapes}
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint {path} does not exist: give another one, or pre-train first"
        ) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is not a readable safetensors file ({error}): give the file that "
            "amae-nnunet-pretrain wrote"
        ) from None
    except (KeyError, TypeError, ValueError, ConfigError, ContrastError) as error:
        raise CheckpointError(
            f"checkpoint {path} does not describe an AMAE model ({error!r}): give the file that "
            "amae-nnunet-pretrain wrote"
        ) from None
    wrong = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if wrong:
        raise CheckpointError(f"checkpoint {path}: tensor {wrong[0]} does not hold numbers")
    return Checkpoint(config, facts, tensors)


def _checked(path: Path, facts: Any) -> dict[str, Any]:
    """The facts, of which ours are of the types that we write.

    Raises:
        CheckpointError: they are of another schema.
        TypeError: one is not of its type.
    """
    if isinstance(facts, dict) and facts.get("schema", SCHEMA) != SCHEMA:
        raise CheckpointError(
            f"checkpoint {path} has schema {facts['schema']}, this version reads {SCHEMA}: upgrade "
            "amae-nnunet"
        )
    seen = facts.get("seen_cases", {}) if isinstance(facts, dict) else None
    if not isinstance(seen, dict) or not isinstance(facts["model"], dict):
        raise TypeError("not an object")
    hashes = seen.get("hashes", [])
    if not isinstance(hashes, list) or not all(isinstance(digest, str) for digest in hashes):
        raise TypeError("seen_cases.hashes is not a list of texts")
    if not isinstance(facts.get("added_contrasts", []), list):
        raise TypeError("added_contrasts is not a list")
    return facts


def _check_shapes(path: Path, config: ModelConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the tensors of a file with those of its configuration, at no cost in memory."""
    blocks = config.depth + config.decoder_depth
    if blocks > len(found) or config.num_tokens > _MAX_TOKENS:
        raise CheckpointError(
            f"checkpoint {path} describes {blocks} blocks and {config.num_tokens} tokens, which it "
            "cannot hold: fetch the file again"
        )
    try:
        with torch.device("meta"):  # shapes only: a false configuration cannot fill the memory
            model = AdaptiveMAE(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"checkpoint {path} describes a model that cannot be built ({reason})"
        ) from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
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
