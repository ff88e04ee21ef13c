"""Layer-wise learning-rate decay: early layers of a pre-trained encoder change less.

Not in the paper; as in BEiT's and MAE's fine-tuning. With D blocks, embeddings are layer 0, block i
is layer i, and the rest (the last norm, the decoder) is layer D + 1. A layer learns at::

    lr * decay^(D + 1 - layer)

With decay 0 all but the last layer stays as it is, and costs no backward pass.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_EMBEDDINGS = ("encoder.patch_embed.", "encoder.pos_embed.", "encoder.contrast_embed.")


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter of ``AdaptiveUNETR`` or ``UNETR`` whose encoder has D blocks."""
    if name.startswith(_EMBEDDINGS):
        return 0
    block = re.match(r"encoder\.blocks\.(\d+)\.", name)
    return int(block.group(1)) + 1 if block else depth + 1


def freeze_encoder(model: nn.Module, depth: int) -> None:
    """Leave embeddings and blocks as they are: they get no gradient."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and layer_of(name, depth) > depth)


def split_by_layer(
    groups: list[dict[str, Any]], model: nn.Module, depth: int, decay: float
) -> list[dict[str, Any]]:
    """Split parameter groups by layer, late layers first; each gets its ``lr_scale``.

    Args:
        groups: from ``decay_groups``; returned as they are where ``decay`` is 1.
        model: whose parameters they hold.
        depth: D.
        decay: of the learning rate from a layer to the one before it.
    """
    if decay == 1:
        return groups
    layers = {parameter: layer_of(name, depth) for name, parameter in model.named_parameters()}
    split = [
        {
            **group,
            "params": [p for p in group["params"] if layers[p] == layer],
            "lr_scale": decay ** (depth + 1 - layer),
        }
        for layer in reversed(range(depth + 2))
        for group in groups
    ]
    return [group for group in split if group["params"]]
