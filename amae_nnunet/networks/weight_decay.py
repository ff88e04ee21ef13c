"""Which parameters decay: matrices and kernels do; norms, biases and embeddings do not.

The paper states the weight decay (section 2.4), not what it spares; this is the ViT custom.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_EMBEDDINGS = ("contrast_vectors", "contrast_embed", "pos_embed", "mask_token")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: those that decay, and those that do not."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim < 2 or any(word in name for word in _EMBEDDINGS)
            groups[spared].append(parameter)
    return [
        {"params": groups[False], "weight_decay": weight_decay},
        {"params": groups[True], "weight_decay": 0.0},
    ]
