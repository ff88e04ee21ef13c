"""A checkpoint used elsewhere than where it was made (not in the paper, which has one data set).

The encoder of a pre-training goes into a segmentation network whose plan may differ from its own:

* contrasts are matched by *name*, in any order; one that the checkpoint does not know gets the
  mean of its contrasts (modality vector and contrast embedding);
* positions are those of the new grid, in mm;
* the tokenizer's kernel is resampled to tokens of another size.

Width, depth and heads must be the same. The reconstruction's decoder stays behind, and the
convolutional decoder of the segmentation is new.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from amae_nnunet.config import Axes, ModelConfig
from amae_nnunet.contrasts import ContrastMatch
from amae_nnunet.errors import CheckpointError
from amae_nnunet.networks.checkpoint import Checkpoint
from amae_nnunet.networks.positions import resize_positions
from amae_nnunet.networks.tokenizer import resize_kernel
from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR, fold_tokenizer
from amae_nnunet.networks.vit import AdaptiveViT

#: What the encoder's tensors depend on and nothing can convert.
SAME_VALUES = (
    "embed_dim",
    "depth",
    "encoder_heads",
    "mlp_ratio",
    "contrast_vectors",
    "contrast_dim",
    "pos_embed",
)


@dataclass(frozen=True)
class Transfer:
    """What went from a checkpoint into a network.

    Attributes:
        parts: of the network's encoder, and how many tensors each has.
        values: numbers in these tensors.
        left: tensors of the checkpoint that stay behind, the reconstruction's decoder.
        contrasts: of the network and of the checkpoint, matched.
        token_sizes: of the checkpoint and of the network.
        grid_sizes: of the checkpoint and of the network.
    """

    parts: dict[str, int]
    values: int
    left: int
    contrasts: ContrastMatch
    token_sizes: tuple[Axes, Axes]
    grid_sizes: tuple[Axes, Axes]

    def lines(self) -> list[str]:
        """What to tell the user, a line each."""
        parts = ", ".join(f"{name} ({count})" for name, count in self.parts.items())
        found = [
            f"{sum(self.parts.values())} tensors with {self.values} values: {parts}",
            f"contrasts: {self.contrasts}",
        ]
        for what, (theirs, ours) in (
            (
                "the tokenizer's kernel is resampled from tokens of {} voxels to {}",
                self.token_sizes,
            ),
            ("positions are computed anew, from a grid of {} tokens to {}", self.grid_sizes),
        ):
            if theirs != ours:
                found.append(what.format(*("x".join(map(str, size)) for size in (theirs, ours))))
        found.append(f"the decoder is new; the pre-training's, {self.left} tensors, is not used")
        return found


def check_same_model(config: ModelConfig, theirs: ModelConfig, path: Path) -> None:
    """Raise CheckpointError, naming the first difference, unless an encoder fits a network."""
    for key in SAME_VALUES:
        if getattr(config, key) != getattr(theirs, key):
            raise CheckpointError(
                f"checkpoint {path} has {key} {getattr(theirs, key)} but the plan asks for "
                f"{getattr(config, key)}: let amae-nnunet-configure --checkpoint take the model "
                "values from the checkpoint, or pre-train with this configuration"
            )


def contrast_tables(config: ModelConfig) -> dict[str, int]:
    """The tensors of an ``AdaptiveMAE`` that learn something of each contrast by itself.

    Returns:
        Name -> the dimension along which its contrasts lie.
    """
    tables = {"encoder.contrast_embed.weight": 0, "decoder_contrast_embed.weight": 0}
    if config.contrast_vectors == "one_hot":  # the projector's column is what learns
        return {"encoder.patch_embed.projector.weight": 1, **tables}
    return {"encoder.patch_embed.contrast_vectors.weight": 0, **tables}


def for_contrasts(
    tensors: Mapping[str, Tensor], config: ModelConfig, contrasts: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of an ``AdaptiveMAE`` for other contrasts, matched by name.

    Args:
        tensors: of a model of ``config``.
        config: its configuration.
        contrasts: that are wanted; what ``config`` does not have gets the mean of all it has.
    """
    found = dict(tensors)
    for name, dim in contrast_tables(config).items():
        rows = dict(zip(config.contrasts, found[name].unbind(dim), strict=True))
        mean = found[name].mean(dim)
        found[name] = torch.stack([rows.get(contrast, mean) for contrast in contrasts], dim)
    if config.contrast_vectors == "one_hot":
        vectors = "encoder.patch_embed.contrast_vectors.weight"
        found[vectors] = torch.eye(len(contrasts)).to(found[vectors])
    return found


def load_encoder(network: AdaptiveUNETR | UNETR, checkpoint: Checkpoint, path: Path) -> Transfer:
    """Load a pre-trained encoder into a segmentation network; into ``UNETR`` folded.

    Args:
        network: changed in place.
        checkpoint: of the same width and depth.
        path: for messages.

    Raises:
        CheckpointError: another model, or no contrast of the network is the checkpoint's.
    """
    config, theirs = network.config, checkpoint.config
    check_same_model(config, theirs, path)
    contrasts = ContrastMatch.of(config.contrasts, theirs.contrasts)
    weights = {
        name.removeprefix("encoder."): tensor
        for name, tensor in for_contrasts(checkpoint.tensors, theirs, config.contrasts).items()
        if name.startswith("encoder.")
    }
    weights["patch_embed.proj.weight"] = resize_kernel(
        weights["patch_embed.proj.weight"], theirs.token_size, config.token_size
    )
    if "pos_embed.weight" in weights:
        weights["pos_embed.weight"] = resize_positions(weights["pos_embed.weight"], theirs, config)
    if isinstance(network, UNETR):
        weights = _fold(weights, config)
    network.encoder.load_state_dict(weights)
    return Transfer(
        parts=Counter(name.partition(".")[0] for name in weights),
        values=sum(math.prod(tensor.shape) for tensor in weights.values()),
        left=sum(not name.startswith("encoder.") for name in checkpoint.tensors),
        contrasts=contrasts,
        token_sizes=(theirs.token_size, config.token_size),
        grid_sizes=(theirs.grid_size, config.grid_size),
    )


def _fold(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The weights of an ``AdaptiveViT`` for UNETR's encoder."""
    encoder = AdaptiveViT(config)
    encoder.load_state_dict(weights)
    weight, bias = fold_tokenizer(encoder.patch_embed, encoder.contrast_embed.weight)
    own = {"patch_embed.weight": weight, "patch_embed.bias": bias}
    replaced = ("patch_embed.", "contrast_embed.")
    return {**own, **{k: v for k, v in weights.items() if not k.startswith(replaced)}}
