"""The configuration: what a network, a pre-training and a fine-tuning are made of.

Defaults are the paper's values where it states them (but the rate of the pre-training); "Not in the
paper" marks the others. The dataclasses are filled from a configuration of ``plans.json`` (patch,
spacing, strides) and its ``"amae"`` block (all the rest), so that a run can be repeated from its
plans. Imports no torch.

``patch_size`` is nnU-Net's crop; the patch of the ViT is a *token*, its size ``token_size``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_type_hints

from amae_nnunet.contrasts import check_contrast_names
from amae_nnunet.errors import ConfigError, unknown_key

Axes = tuple[int, int, int]

#: Encoder sizes by name, for ``encoder=NAME`` (ViT-B and ViT-L of Dosovitskiy et al. 2021, ViT-S of
#: Touvron et al. 2021).
ENCODERS: dict[str, dict[str, int]] = {
    "small": {"embed_dim": 384, "depth": 12},
    "base": {"embed_dim": 768, "depth": 12},
    "large": {"embed_dim": 1024, "depth": 24},
}
#: Tokens of one contrast above which one more stride is taken into the token (not in the paper).
MAX_TOKENS = 2048
#: Strides that make up a token: UNETR has four up-samplings between tokens and voxels.
NUM_STRIDES = 4

_Config = TypeVar("_Config")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value is of a settable field's type (int passes as float, never bool)."""
    if annotation in (int, float):
        if isinstance(value, int):
            return not isinstance(value, bool) and abs(value) < 2**63
        return annotation is float and isinstance(value, float) and math.isfinite(value)
    return isinstance(value, annotation)


def _is_axes(value: Any) -> bool:
    """Whether a value of JSON is a whole number of 1 or more for each of three axes."""
    axes = isinstance(value, (list, tuple)) and len(value) == 3
    return axes and all(_fits(number, int) and number >= 1 for number in value)


def from_settings(config: type[_Config], settings: Mapping[str, Any], **derived: Any) -> _Config:
    """Build a configuration dataclass from plain settings and values derived elsewhere.

    Raises:
        ConfigError: an unknown key (with the nearest known one) or a value of a wrong type.
    """
    hints = get_type_hints(config)
    known = [f.name for f in fields(config) if f.name not in derived]  # type: ignore[arg-type]
    for key, value in settings.items():
        if key not in known:
            raise unknown_key(key, known)
        if not _fits(value, hints[key]):
            kind = getattr(hints[key], "__name__", hints[key])
            raise ConfigError(f"{key}={value!r} is not of type {kind}")
    return config(**settings, **derived)


@dataclass(frozen=True)
class ModelConfig:
    """The networks. The first five fields are derived from the plan, the others can be set.

    Attributes:
        contrasts: names in channel order.
        patch_size: voxels (z, y, x), nnU-Net's crop.
        spacing: mm (z, y, x).
        strides: of the UNETR decoder, from full resolution down to the token.
        kernel_sizes: of the UNETR decoder's convolutions, a resolution each.
        embed_dim: width E of the encoder.
        depth: blocks of the encoder.
        num_heads: attention heads of the encoder; 0: one for each 64 channels, 12 in ViT-Base.
        mlp_ratio: width of the blocks' hidden layer over embed_dim.
        contrast_dim: length of the modality vector m_i. Not in the paper.
        contrast_vectors: the modality vectors, "learned" or "one_hot". Not in the paper.
        pos_embed: positions, "sincos" (fixed) or "learned". Not in the paper: that they are of the
            place in the crop, in mm.
        decoder_embed_dim: width of the MAE decoder. Not in the paper.
        decoder_depth: blocks of the MAE decoder. Not in the paper.
        decoder_num_heads: attention heads of the MAE decoder; 0: one for each 64 channels. Not in
            the paper.
        feature_size: channels of the UNETR decoder at full resolution. Not in the paper: UNETR's.
    """

    contrasts: tuple[str, ...]
    patch_size: Axes
    spacing: tuple[float, float, float]
    strides: tuple[Axes, ...]
    kernel_sizes: tuple[Axes, ...]
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 0
    mlp_ratio: float = 4.0
    contrast_dim: int = 64
    contrast_vectors: str = "learned"
    pos_embed: str = "sincos"
    decoder_embed_dim: int = 384
    decoder_depth: int = 4
    decoder_num_heads: int = 0
    feature_size: int = 16

    def __post_init__(self) -> None:
        check_contrast_names(self.contrasts)
        for key in ("embed_dim", "depth", "contrast_dim", "decoder_embed_dim", "decoder_depth"):
            _require(getattr(self, key) >= 1, f"{key}={getattr(self, key)} must be at least 1")
        _require(self.feature_size >= 1, f"feature_size={self.feature_size} must be at least 1")
        _require(self.mlp_ratio > 0, f"mlp_ratio={self.mlp_ratio} must be above 0")
        _require(
            self.contrast_vectors in ("learned", "one_hot"),
            f"contrast_vectors={self.contrast_vectors!r} is not 'learned' or 'one_hot'",
        )
        _require(
            self.pos_embed in ("sincos", "learned"),
            f"pos_embed={self.pos_embed!r} is not 'sincos' or 'learned'",
        )
        for width, heads in (
            ("embed_dim", self.encoder_heads),
            ("decoder_embed_dim", self.decoder_heads),
        ):
            _require(
                heads >= 1 and getattr(self, width) % heads == 0,
                f"{width}={getattr(self, width)} cannot be divided among {heads} heads",
            )
        check_divisible(self.patch_size, self.token_size)

    @property
    def encoder_heads(self) -> int:
        """Attention heads of the encoder."""
        return self.num_heads or max(1, self.embed_dim // 64)

    @property
    def decoder_heads(self) -> int:
        """Attention heads of the MAE decoder."""
        return self.decoder_num_heads or max(1, self.decoder_embed_dim // 64)

    @property
    def num_contrasts(self) -> int:
        """C, the number of channels of the data set."""
        return len(self.contrasts)

    @property
    def token_size(self) -> Axes:
        """Voxels of a token along (z, y, x): the product of the strides."""
        return stride_product(self.strides)

    @property
    def grid_size(self) -> Axes:
        """Tokens of a patch along (z, y, x)."""
        z, y, x = (p // t for p, t in zip(self.patch_size, self.token_size, strict=True))
        return z, y, x

    @property
    def num_tokens(self) -> int:
        """L, the tokens of one contrast."""
        return math.prod(self.grid_size)

    @property
    def token_mm(self) -> tuple[float, float, float]:
        """Size of a token in mm along (z, y, x)."""
        z, y, x = (t * s for t, s in zip(self.token_size, self.spacing, strict=True))
        return z, y, x

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ModelConfig:
        """Undo ``dataclasses.asdict`` after a trip through JSON, which turns tuples into lists.

        Raises:
            ConfigError: an unknown or missing key, or values that do not fit.
        """
        tuples = ("contrasts", "patch_size", "spacing", "strides", "kernel_sizes")
        missing = [key for key in tuples if not isinstance(content.get(key), (list, tuple))]
        _require(not missing, f"{', '.join(missing)} is missing or not a list")
        for key in ("strides", "kernel_sizes"):
            _require(bool(content[key]), f"{key} is empty")
            _require(all(map(_is_axes, content[key])), f"{key} does not hold three numbers an axis")
        _require(_is_axes(content["patch_size"]), "patch_size is not three whole numbers")
        spacing = content["spacing"]
        good = len(spacing) == 3 and all(_fits(mm, float) and mm > 0 for mm in spacing)
        _require(good, "spacing is not three numbers above 0")
        derived = {
            key: tuple(tuple(v) if isinstance(v, list) else v for v in content[key])
            for key in tuples
        }
        settings = {key: value for key, value in content.items() if key not in tuples}
        return from_settings(cls, settings, **derived)

    @classmethod
    def from_plan(
        cls,
        configuration: Mapping[str, Any],
        settings: Mapping[str, Any],
        contrasts: Sequence[str],
    ) -> ModelConfig:
        """The networks for one nnU-Net configuration.

        Args:
            configuration: of ``plans.json``, inheritance resolved.
            settings: the ``"model"`` part of the ``"amae"`` block: any settable field, ``encoder``
                (a name of ``ENCODERS``) and ``num_strides`` (strides that make up a token).
            contrasts: names in channel order.

        Raises:
            ConfigError: a 2d configuration, an unknown key, or values that do not fit.
        """
        check_three_axes(configuration)
        patch_size = tuple(int(n) for n in configuration["patch_size"])
        rest = dict(settings)
        num_strides = rest.pop("num_strides", 0)
        encoder = rest.pop("encoder", "base")
        _require(
            str(encoder) in ENCODERS,
            f"encoder={encoder!r} is not one of {', '.join(sorted(ENCODERS))}",
        )
        architecture = configuration["architecture"]["arch_kwargs"]
        strides = token_strides(architecture["strides"], patch_size, num_strides)
        kernel_sizes = [tuple(k) for k in architecture["kernel_sizes"][: len(strides)]]
        return from_settings(
            cls,
            {**ENCODERS[encoder], **rest},
            contrasts=tuple(contrasts),
            patch_size=patch_size,
            spacing=tuple(float(s) for s in configuration["spacing"]),
            strides=strides,
            kernel_sizes=tuple(kernel_sizes),
        )


def check_three_axes(configuration: Mapping[str, Any]) -> None:
    """Raise ConfigError if a configuration of ``plans.json`` is a 2d one."""
    _require(
        len(configuration["patch_size"]) == 3,
        "this is a 2d configuration: the method is 3-D, use 3d_fullres or 3d_lowres",
    )


def stride_product(strides: Sequence[Sequence[int]]) -> Axes:
    """Product of strides along (z, y, x)."""
    z, y, x = (math.prod(stride[axis] for stride in strides) for axis in range(3))
    return z, y, x


def check_divisible(
    patch_size: Sequence[int],
    size: Sequence[int],
    what: str = "the token size",
    remedy: str = ", or fewer num_strides",
) -> None:
    """Raise ConfigError, naming the nearest good patch, unless boxes of ``size`` tile the patch."""
    if any(p < t or p % t for p, t in zip(patch_size, size, strict=True)):
        near = [max(t, round(p / t) * t) for p, t in zip(patch_size, size, strict=True)]
        raise ConfigError(
            f"patch_size {list(patch_size)} is not divisible by {what} {list(size)}: "
            f"use {near}{remedy}"
        )


def token_strides(
    pooling: Sequence[Sequence[int]], patch_size: Sequence[int], num_strides: int = 0
) -> tuple[Axes, ...]:
    """The strides that make up a token (not in the paper, whose images share one grid).

    The plan's first four strides; while a contrast still has more than ``MAX_TOKENS`` tokens, one
    more. The first entry of ``pooling`` is nnU-Net's ``[1, 1, 1]`` and is no stride.

    Args:
        pooling: ``arch_kwargs["strides"]`` of the plan.
        patch_size: voxels (z, y, x).
        num_strides: take exactly this many; 0 follows the rule above.

    Raises:
        ConfigError: the plan has fewer strides than asked for, or none.
    """
    strides = [tuple(int(s) for s in stride) for stride in pooling[1:]]
    _require(bool(strides), "the plan has no pooling: its patch is too small for tokens")
    _require(
        isinstance(num_strides, int) and 0 <= num_strides <= len(strides),
        f"num_strides={num_strides!r} must lie between 1 and the plan's {len(strides)}",
    )
    count = num_strides or min(NUM_STRIDES, len(strides))
    if not num_strides:
        voxels = math.prod(patch_size)
        while (
            count < len(strides)
            and voxels / math.prod(stride_product(strides[:count])) > MAX_TOKENS
        ):
            count += 1
    return tuple((z, y, x) for z, y, x in strides[:count])


@dataclass(frozen=True)
class PretrainingConfig:
    """Self pre-training (section 2.4).

    Attributes:
        num_epochs: of the whole run.
        iterations_per_epoch: steps of an epoch; 0: as many as give each study one crop. Not in the
            paper.
        batch_size: studies of a batch, on all processes together; see slot_budget.
        slot_budget: above 0, a pass has as many studies as fill so many images, instead of
            batch_size. Not in the paper.
        passes: parts of a batch, one after another, whose gradients add up (gradient
            accumulation). Not in the paper.
        activation_checkpointing: less memory, a third more time. Not in the paper.
        lr: highest learning rate of AdamW. Not in the paper: its 1e-5 is for 5.7e6 steps.
        schedule: of the learning rate, "cosine" (after a warm-up over 5 % of the steps) or
            "constant". Not in the paper.
        weight_decay: of AdamW. Not in the paper: that norms, biases and embeddings have none.
        mask_ratio: share of each contrast's tokens that is hidden.
        whole_contrast_prob: chance that a study hides one contrast whole. Not in the paper.
        picture_every: epochs between pictures; 0: at the end only. Not in the paper.
        seed: of weights, crops and masks. Not in the paper.
    """

    num_epochs: int = 500
    iterations_per_epoch: int = 0
    batch_size: int = 4
    slot_budget: int = 0
    passes: int = 1
    activation_checkpointing: bool = False
    lr: float = 1e-4
    schedule: str = "cosine"
    weight_decay: float = 0.05
    mask_ratio: float = 0.7
    whole_contrast_prob: float = 0.0
    picture_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("num_epochs", "batch_size", "passes"):
            _require(getattr(self, key) >= 1, f"{key}={getattr(self, key)} must be at least 1")
        for key in ("iterations_per_epoch", "slot_budget", "weight_decay", "picture_every", "seed"):
            _require(getattr(self, key) >= 0, f"{key}={getattr(self, key)} must not be below 0")
        _require(self.lr > 0, f"lr={self.lr} must be above 0")
        _require(0 < self.mask_ratio < 1, f"mask_ratio={self.mask_ratio} must lie between 0 and 1")
        _require(
            0 <= self.whole_contrast_prob <= 1,
            f"whole_contrast_prob={self.whole_contrast_prob} must lie between 0 and 1",
        )
        _require(
            self.schedule in ("cosine", "constant"),
            f"schedule={self.schedule!r} is not 'cosine' or 'constant'",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """Fine-tuning (section 2.4), in nnU-Net's epochs.

    Attributes:
        num_epochs: of the whole training.
        iterations_per_epoch: steps of an epoch. Not in the paper: nnU-Net's.
        val_iterations_per_epoch: validation steps of an epoch. Not in the paper: nnU-Net's.
        lr: learning rate of AdamW at the start. Not in the paper: that it falls by nnU-Net's
            polynomial.
        weight_decay: of AdamW. Not in the paper: that norms, biases and embeddings have none.
        loss: "dice", or "dice_ce" for nnU-Net's Dice + cross-entropy.
        layer_decay: learning rate of each encoder layer over the next one's; 1: all the same, 0:
            its blocks stay as they are. Not in the paper.
        warmup_epochs: in which the learning rate rises linearly. Not in the paper.
        activation_checkpointing: less memory, a third more time. Not in the paper.
        contrast_dropout: chance that each contrast of a training sample is left out ("matched":
            that the sample is reduced). Not in the paper.
        contrast_dropout_pattern: "independent" (each contrast by itself) or "matched" (what the
            sample has in common with a random training case). Not in the paper.
    """

    num_epochs: int = 200
    iterations_per_epoch: int = 250
    val_iterations_per_epoch: int = 50
    lr: float = 1e-4
    weight_decay: float = 0.05
    loss: str = "dice"
    layer_decay: float = 1.0
    warmup_epochs: int = 0
    activation_checkpointing: bool = False
    contrast_dropout: float = 0.0
    contrast_dropout_pattern: str = "independent"

    def __post_init__(self) -> None:
        for key in ("num_epochs", "iterations_per_epoch", "val_iterations_per_epoch"):
            _require(getattr(self, key) >= 1, f"{key}={getattr(self, key)} must be at least 1")
        _require(self.lr > 0, f"lr={self.lr} must be above 0")
        _require(self.weight_decay >= 0, f"weight_decay={self.weight_decay} must not be below 0")
        _require(self.loss in ("dice", "dice_ce"), f"loss={self.loss!r} is not dice or dice_ce")
        _require(
            0 <= self.layer_decay <= 1,
            f"layer_decay={self.layer_decay} must lie between 0 and 1",
        )
        _require(
            0 <= self.warmup_epochs < self.num_epochs,
            f"warmup_epochs={self.warmup_epochs} must lie between 0 and {self.num_epochs - 1}",
        )
        _require(
            0 <= self.contrast_dropout <= 1,
            f"contrast_dropout={self.contrast_dropout} must lie between 0 and 1",
        )
        _require(
            self.contrast_dropout_pattern in ("independent", "matched"),
            f"contrast_dropout_pattern={self.contrast_dropout_pattern!r} is not 'independent' or "
            "'matched'",
        )
