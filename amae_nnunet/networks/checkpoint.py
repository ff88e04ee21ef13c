"""The pre-training checkpoint: weights and readable facts in one ``.safetensors`` file.

The file holds the tensors of an ``AdaptiveMAE`` and, in its metadata, one JSON text with the model
configuration (contrast names included), and what the writer adds: plan facts, training values,
versions. Nothing in it can run code, and nothing in it names a case. Not in the paper.

Weights reach a segmentation network by contrast *name*: it may have the checkpoint's contrasts in
another order, or fewer of them.
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
from amae_nnunet.networks.positions import resize_positions
from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR, fold_tokenizer
from amae_nnunet.networks.vit import AdaptiveViT

_KEY = "amae"
#: What the encoder's tensors depend on; the rest (patch, spacing, decoders) may differ.
SAME_VALUES = (
    "token_size",
    "embed_dim",
    "depth",
    "encoder_heads",
    "mlp_ratio",
    "contrast_vectors",
    "contrast_dim",
    "pos_embed",
)


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


def check_same_model(config: ModelConfig, checkpoint: Checkpoint, path: Path) -> None:
    """Raise CheckpointError, naming the first difference, unless an encoder fits a network."""
    theirs = checkpoint.config
    for key in SAME_VALUES:
        if getattr(config, key) != getattr(theirs, key):
            raise CheckpointError(
                f"checkpoint {path} has {key} {getattr(theirs, key)} but the plan asks for "
                f"{getattr(config, key)}: let amae-nnunet-configure --checkpoint take the model "
                "values from the checkpoint, or pre-train with this configuration"
            )
    unknown = [name for name in config.contrasts if name not in theirs.contrasts]
    if unknown:
        raise CheckpointError(
            f"checkpoint {path} does not know contrast {', '.join(unknown)} (it knows "
            f"{', '.join(theirs.contrasts)}): pre-train on studies that have it, or train with "
            "-tr AMAETrainerNoPretraining"
        )


def load_encoder(network: AdaptiveUNETR | UNETR, checkpoint: Checkpoint, path: Path) -> list[str]:
    """Load a pre-trained encoder into a segmentation network, by contrast name.

    Into ``UNETR`` the tokenizer goes folded. The convolutional decoder keeps its initial values.

    Args:
        network: changed in place.
        checkpoint: its contrasts must include the network's.
        path: for messages.

    Returns:
        Names of the checkpoint's tensors that were not used (the MAE decoder's).

    Raises:
        CheckpointError: another model, or a contrast that the checkpoint does not know.
    """
    check_same_model(network.config, checkpoint, path)
    encoder = AdaptiveViT(network.config)
    weights = {
        name.removeprefix("encoder."): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith("encoder.")
    }
    encoder.load_state_dict(_select_contrasts(weights, network.config, checkpoint.config))
    if isinstance(network, AdaptiveUNETR):
        network.encoder.load_state_dict(encoder.state_dict())
    else:
        weight, bias = fold_tokenizer(encoder.patch_embed, encoder.contrast_embed.weight)
        own = {"patch_embed.weight": weight, "patch_embed.bias": bias}
        shared = {
            k: v for k, v in encoder.state_dict().items() if k in network.encoder.state_dict()
        }
        network.encoder.load_state_dict({**shared, **own})
    return sorted(name for name in checkpoint.tensors if not name.startswith("encoder."))


def _select_contrasts(
    weights: dict[str, Tensor], config: ModelConfig, theirs: ModelConfig
) -> dict[str, Tensor]:
    """The encoder's tensors with their contrasts picked by name, and positions on our grid."""
    rows = [theirs.contrasts.index(name) for name in config.contrasts]
    weights = dict(weights)
    picked = ["contrast_embed.weight"]
    if theirs.contrast_vectors == "one_hot":
        weights["patch_embed.contrast_vectors.weight"] = torch.eye(len(rows))
        weights["patch_embed.projector.weight"] = weights["patch_embed.projector.weight"][:, rows]
    else:
        picked.append("patch_embed.contrast_vectors.weight")
    for name in picked:
        weights[name] = weights[name][rows]
    if "pos_embed.weight" in weights:
        weights["pos_embed.weight"] = resize_positions(
            weights["pos_embed.weight"], theirs.grid_size, config.grid_size
        )
    return weights
