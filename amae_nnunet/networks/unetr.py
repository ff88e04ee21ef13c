"""The segmentation networks: Adaptive UNETR and UNETR (section 2.3).

Both put UNETR's convolutional decoder on the pre-trained ViT. They differ in how contrasts meet:

*Adaptive UNETR* keeps the tokenizer and the encoder of the pre-training. Hidden states of every
present contrast are reduced to one token a position by a maximum over the present contrasts (the
paper's "adaptive max pooling"), at each level of the decoder::

    X_new[b, l, e] = max over contrasts n present in study b of X[b, n, l, e]

*UNETR* is the original: contrasts are channels of one image, zero where absent, and one linear
map embeds them. ``fold_tokenizer`` gives that map from a pre-trained tokenizer.

The decoder follows the plan's strides (not in the paper, which has tokens of one cubic size): with
n strides it takes n hidden states, after 1/n, 2/n, ... of the blocks, as UNETR does with four. Its
skip at full resolution is one convolution over all C channels without a bias, which is the sum of
one convolution a contrast over what is present (the paper does not say how this skip meets a
variable number of images), so an absent contrast adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from amae_nnunet.config import Axes, ModelConfig
from amae_nnunet.errors import ContrastError
from amae_nnunet.networks.attention import Segments
from amae_nnunet.networks.masking import Slots, present_contrasts
from amae_nnunet.networks.tokenizer import DynamicConvTokenizer, patchify
from amae_nnunet.networks.vit import AdaptiveViT, ViT, tap_depths

NEGATIVE_SLOPE = 0.01


class ResidualBlock(nn.Module):
    """Two convolutions with instance norm and a shortcut; no bias, since the norm removes it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Axes,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        z, y, x = (k // 2 for k in kernel_size)
        self.conv1 = nn.Conv3d(
            in_channels, out_channels, kernel_size, padding=(z, y, x), bias=False
        )
        self.norm1 = nn.InstanceNorm3d(out_channels, affine=True)
        self.conv2 = nn.Conv3d(
            out_channels, out_channels, kernel_size, padding=(z, y, x), bias=False
        )
        self.norm2 = nn.InstanceNorm3d(out_channels, affine=True)
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, bias=False),
                nn.InstanceNorm3d(out_channels, affine=True),
            )

    def forward(self, x: Tensor, channels: Tensor | None = None) -> Tensor:
        """(B, in, Z, Y, X) to (B, out, Z, Y, X).

        Args:
            x: input.
            channels: those that are not zero everywhere, if known: the others cost nothing.
        """
        if self.activation_checkpointing:
            return checkpoint(self.residual, x, channels, use_reentrant=False)
        return self.residual(x, channels)

    def residual(self, x: Tensor, channels: Tensor | None) -> Tensor:
        """See ``forward``."""
        y = F.leaky_relu(self.norm1(convolve(self.conv1, x, channels)), NEGATIVE_SLOPE)
        y = self.norm2(self.conv2(y))
        if len(self.shortcut):
            conv, norm = self.shortcut
            x = norm(convolve(conv, x, channels))
        return F.leaky_relu(y + x, NEGATIVE_SLOPE)


def convolve(conv: Any, x: Tensor, channels: Tensor | None) -> Tensor:
    """A convolution without a bias of (B, in, Z, Y, X), zero in all but ``channels``."""
    if channels is None:
        y: Tensor = conv(x)
        return y
    return F.conv3d(x[:, channels], conv.weight[:, channels], padding=conv.padding)


class SkipPath(nn.Sequential):
    """From token resolution up to a level: one transposed convolution and block a stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        strides: Sequence[Axes],
        kernels: Sequence[Axes],
        activation_checkpointing: bool = False,
    ) -> None:
        steps: list[nn.Module] = []
        for stride, kernel in zip(strides, kernels, strict=True):
            steps.append(nn.ConvTranspose3d(in_channels, out_channels, stride, stride, bias=False))
            steps.append(
                ResidualBlock(out_channels, out_channels, kernel, activation_checkpointing)
            )
            in_channels = out_channels
        super().__init__(*steps)


class UNETRDecoder(nn.Module):
    """UNETR's decoder along the plan's strides. Level 0 is full resolution, level n the tokens."""

    def __init__(
        self, config: ModelConfig, num_classes: int, activation_checkpointing: bool = False
    ) -> None:
        super().__init__()
        strides, kernels, n = config.strides, config.kernel_sizes, len(config.strides)
        width = [config.feature_size * 2**level for level in range(n)] + [config.embed_dim]
        self.grid_size = config.grid_size
        self.stem = ResidualBlock(
            config.num_contrasts, width[0], kernels[0], activation_checkpointing
        )
        self.skips = nn.ModuleList(
            SkipPath(
                config.embed_dim,
                width[i],
                strides[: i - 1 : -1],
                kernels[n - 1 : i - 1 : -1],
                activation_checkpointing,
            )
            for i in range(1, n)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(width[i + 1], width[i], strides[i], strides[i], bias=False)
            for i in range(n)
        )
        self.fusions = nn.ModuleList(
            ResidualBlock(2 * width[i], width[i], kernels[i], activation_checkpointing)
            for i in range(n)
        )
        self.out = nn.Conv3d(width[0], num_classes, 1)

    def forward(
        self, images: Tensor, states: Sequence[Tensor], channels: Tensor | None = None
    ) -> Tensor:
        """Decode.

        Args:
            images: (B, C, Z, Y, X), exactly zero where a contrast is absent.
            states: n hidden states (B, L, E), from shallow to deep.
            channels: the contrasts that some study has, if known: the others cost nothing then.

        Returns:
            Logits (B, classes, Z, Y, X).
        """
        volumes = [state.transpose(1, 2).unflatten(2, self.grid_size) for state in states]
        skips = [self.stem(images, channels)]
        skips += [path(volume) for path, volume in zip(self.skips, volumes[:-1], strict=True)]
        y = volumes[-1]
        for level in reversed(range(len(skips))):
            y = self.ups[level](y)
            y = self.fusions[level](torch.cat([y, skips[level]], dim=1))
        return self.out(y)


def check_images(x: Tensor, config: ModelConfig) -> None:
    """Raise unless ``x`` is (B, C, Z, Y, X) with the plan's contrasts and patch.

    Raises:
        ContrastError: another number of channels than the model has contrasts.
        ValueError: another patch size.
    """
    if x.shape[1] != config.num_contrasts:
        raise ContrastError(
            f"the case being read has {x.shape[1]} channels but the model knows "
            f"{config.num_contrasts} contrasts ({', '.join(config.contrasts)}): give one file a "
            "contrast, all zero where it is absent; amae-nnunet-convert -o writes such a folder"
        )
    if tuple(x.shape[2:]) != config.patch_size:
        raise ValueError(
            f"expected a patch of {config.patch_size} voxels, got {tuple(x.shape[2:])}"
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def find_slots(x: Tensor, num_tokens: int) -> tuple[Tensor, Tensor, Segments]:
    """What is present in images (B, C, Z, Y, X), of ``num_tokens`` tokens each.

    It counts, so it stays out of the graph when nnU-Net compiles the whole network.

    Returns:
        study and contrast of each slot, (M,) both, and the studies in the list of M * L tokens.
    """
    slots = Slots.of(present_contrasts(x))
    segments = Segments.of(slots.counts, num_tokens, x.shape[1]).to(x.device)
    return slots.study.to(x.device), slots.contrast.to(x.device), segments


def pool_contrasts(states: Tensor, study: Tensor, num_studies: int) -> Tensor:
    """The maximum over the present contrasts of each study, for each position and channel.

    Args:
        states: hidden states of all tokens of all slots (M, L, E).
        study: of each slot, (M,).
        num_studies: B; each has a slot.

    Returns:
        (B, L, E).
    """
    index = study[:, None, None].expand_as(states)
    pooled = states.new_zeros(num_studies, *states.shape[1:])
    return pooled.scatter_reduce(0, index, states, "amax", include_self=False)


class AdaptiveUNETR(nn.Module):
    """Segmentation from whichever contrasts a study has.

    Absence is read from the voxels (``present_contrasts``), so stock nnU-Net can run it.
    """

    def __init__(
        self, config: ModelConfig, num_classes: int, activation_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.token_size, self.num_tokens = config.token_size, config.num_tokens
        self.encoder = AdaptiveViT(config, activation_checkpointing)
        self.decoder = UNETRDecoder(config, num_classes, activation_checkpointing)
        self.taps = tap_depths(config.depth, len(config.strides))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, Z, Y, X), zero where a contrast is absent, to logits (B, classes, Z, Y, X).

        Raises:
            ContrastError: the number of channels is not C.
        """
        check_images(x, self.config)
        return self.segment(x, *find_slots(x, self.num_tokens))

    def segment(self, x: Tensor, study: Tensor, contrast: Tensor, segments: Segments) -> Tensor:
        """Logits of images (B, C, Z, Y, X) whose slots are known, see ``find_slots``."""
        voxels = patchify(x[study, contrast], self.token_size)  # (M, L, p)
        position = torch.arange(self.num_tokens, device=x.device)
        states = self.encoder(voxels, contrast, position, segments, self.taps)
        slots = [state.unflatten(0, voxels.shape[:2]) for state in states]
        pooled = [pool_contrasts(state, study, len(x)) for state in slots]
        # A compiled graph convolves all channels, so that its shapes do not vary.
        channels = None if torch.compiler.is_compiling() else contrast.unique()
        return self.decoder(x, pooled, channels)


class ChannelViT(ViT):
    """UNETR's own encoder: a token is embedded from all channels at its place."""

    def __init__(self, config: ModelConfig, activation_checkpointing: bool = False) -> None:
        super().__init__(config, activation_checkpointing)
        self.patch_embed = nn.Linear(
            config.num_contrasts * math.prod(config.token_size), config.embed_dim
        )
        nn.init.xavier_uniform_(self.patch_embed.weight)

    def forward(self, tokens: Tensor, taps: list[int]) -> list[Tensor]:
        """Encode tokens (B, L, C * p); one (B, L, E) a tap."""
        b, num_tokens, _ = tokens.shape
        places = torch.arange(b * num_tokens + 1, device=tokens.device)
        x = self.patch_embed(tokens) + self.pos_embed(places[:num_tokens])
        segments = Segments(places[::num_tokens].int(), num_tokens)
        states = self.encode(x.flatten(0, 1), segments, taps)
        return [state.unflatten(0, (b, num_tokens)) for state in states]


class UNETR(nn.Module):
    """The original UNETR: contrasts as channels, zero-filled where absent."""

    def __init__(
        self, config: ModelConfig, num_classes: int, activation_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.token_size = config.token_size
        self.encoder = ChannelViT(config, activation_checkpointing)
        self.decoder = UNETRDecoder(config, num_classes, activation_checkpointing)
        self.taps = tap_depths(config.depth, len(config.strides))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, Z, Y, X), zero where a contrast is absent, to logits (B, classes, Z, Y, X).

        Raises:
            ContrastError: the number of channels is not C.
        """
        check_images(x, self.config)
        tokens = patchify(x, self.token_size).transpose(1, 2).flatten(2)  # (B, L, C * p)
        return self.decoder(x, self.encoder(tokens, self.taps))


def fold_tokenizer(
    tokenizer: DynamicConvTokenizer, contrast_embed: Tensor
) -> tuple[Tensor, Tensor]:
    """UNETR's patch embedding from a pre-trained tokenizer (not in the paper, exact).

    With all C contrasts present, the folded embedding of the stacked channels equals the mean over
    contrasts of their embedded tokens: channel c gets ``W * w_c / C``, the bias is the mean of
    ``B * b_c`` plus the contrast embedding.

    Args:
        tokenizer: pre-trained.
        contrast_embed: (C, E).

    Returns:
        weight (E, C * p) and bias (E,).
    """
    w, b = tokenizer.scales()  # (C, E) each
    weight = w[:, :, None] * tokenizer.proj.weight / len(w)  # (C, E, p)
    bias = (tokenizer.proj.bias * b + contrast_embed).mean(dim=0)
    return weight.transpose(0, 1).flatten(1).detach(), bias.detach()
