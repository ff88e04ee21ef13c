"""Tiny networks on anisotropic tokens, and random studies for them."""

import numpy as np
import torch

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.attention import Segments
from amae_nnunet.networks.masking import Slots, random_masking
from amae_nnunet.networks.packing import pack_studies
from amae_nnunet.networks.tokenizer import patchify


def make_config(**changes):
    values = {
        "contrasts": ("ADC", "TRACE", "T2"),
        "patch_size": (2, 8, 12),
        "spacing": (5.0, 1.5, 1.0),
        "strides": ((1, 2, 2), (1, 2, 2)),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3)),
        "embed_dim": 20,
        "depth": 3,
        "num_heads": 2,
        "contrast_dim": 5,
        "decoder_embed_dim": 14,
        "decoder_depth": 2,
        "decoder_num_heads": 2,
        "feature_size": 4,
    }
    return ModelConfig(**{**values, **changes})


def shake(module):
    """Give every parameter a random value, so that no zero or one hides a mistake."""
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, module.parameters()):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def parameters(module):
    return {name: t.detach().numpy().astype(np.float64) for name, t in module.state_dict().items()}


def studies(config, presence):
    """Random images (B, C, Z, Y, X), zero where absent, and the presence table."""
    present = torch.tensor([[flag == "1" for flag in row] for row in presence])
    x = torch.randn(len(presence), config.num_contrasts, *config.patch_size)
    return x * present[:, :, None, None, None], present


def pack(config, x, present, seed=1, ratio=0.6, budget=0, **options):
    """The studies packed for the autoencoder, with random masks."""
    slots = Slots.of(present)
    if budget:
        slots = slots.fill(budget)
    generator = torch.Generator().manual_seed(seed)
    masked = random_masking(slots, config.num_tokens, ratio, generator, **options)
    return pack_studies(x, slots, masked, config)


def encode_all(encoder, config, x, present, taps=None):
    """Hidden states (M * L, E) of all tokens of the studies, one a tap."""
    slots = Slots.of(present)
    voxels = patchify(x[slots.study, slots.contrast], config.token_size)
    segments = Segments.of(slots.counts, config.num_tokens, config.num_contrasts)
    return encoder(voxels, slots.contrast, torch.arange(config.num_tokens), segments, taps)
