"""What a pass costs, in floating-point operations of its matrix products (not in the paper).

A multiplication and an addition are two operations. With T tokens of width E in studies of T_s
tokens each, a transformer block of MLP ratio r costs::

    T E^2 (8 + 4 r)  +  4 E * sum over studies of T_s^2
    linear layers       attention

A backward pass costs twice the forward pass, so a training step costs three of them; activation
checkpointing adds the blocks once more. Norms, GELU, softmax and embeddings are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.masking import num_visible


def blocks_flops(lengths: Sequence[int], width: int, depth: int, mlp_ratio: float) -> int:
    """Operations of ``depth`` blocks over studies of ``lengths`` tokens."""
    linear = (8 * width + 4 * int(width * mlp_ratio)) * width * sum(lengths)
    return depth * (linear + 4 * width * sum(length**2 for length in lengths))


def mae_flops(config: ModelConfig, counts: Sequence[int], mask_ratio: float) -> int:
    """Operations of one forward pass of ``AdaptiveMAE``.

    Args:
        config: of the model.
        counts: present contrasts of each study of the batch.
        mask_ratio: share of the tokens that is hidden.
    """
    m, p = sum(counts), math.prod(config.token_size)
    e, width = config.embed_dim, config.decoder_embed_dim
    k = num_visible(config.num_tokens, mask_ratio)
    vector = config.contrast_dim if config.contrast_vectors == "learned" else config.num_contrasts
    projector = 2 * config.num_contrasts * vector * 2 * e
    tokenizer = 2 * m * k * p * e
    encoder = blocks_flops([n * k for n in counts], e, config.depth, config.mlp_ratio)
    embed = 2 * m * k * e * width
    decoder = blocks_flops(
        [n * config.num_tokens for n in counts], width, config.decoder_depth, config.mlp_ratio
    )
    head = 2 * m * (config.num_tokens - k) * width * p
    return projector + tokenizer + encoder + embed + decoder + head
