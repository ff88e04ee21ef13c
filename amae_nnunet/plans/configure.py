"""Write a plans file with our values: ``AMAEPlans.json`` beside nnU-Net's.

The new file is nnU-Net's plans under another name, so results are kept apart and comparable, plus
one configuration that carries the values. Once it exists, it is what further commands change. It
keeps the data identifier, so nothing is preprocessed again, unless the spacing is changed.

Not in the paper.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amae_nnunet.config import (
    ENCODERS,
    ModelConfig,
    PretrainingConfig,
    TrainingConfig,
    check_divisible,
    stride_product,
)
from amae_nnunet.contrasts import ContrastMatch
from amae_nnunet.errors import ConfigError
from amae_nnunet.folders import dataset_number
from amae_nnunet.plans.block import KEY, PLANS_NAME, AMAEBlock
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.whole import write_whole

#: Values of nnU-Net's own that can be set, and what they are.
NNUNET_KEYS = {
    "patch_size": "z,y,x in voxels, as `patch_size=32,96,96`; multiples of the total strides",
    "batch_size": "patches of a training step, as `batch_size=2`",
    "spacing": "z,y,x in mm, as `spacing=5,1,1`; `nnUNetv2_preprocess` comes after it",
}
_MOST = 1_000_000  # far above what any plan has, of voxels, patches and mm
_DERIVED = ("contrasts", "patch_size", "spacing", "strides", "kernel_sizes")
#: Model values that may differ from those of a checkpoint to fine-tune from.
_FREE = ("num_strides", "feature_size", "decoder_embed_dim", "decoder_depth", "decoder_num_heads")
#: Names that keys have elsewhere, where they do not look like ours.
_ALIASES = {"learning_rate": "lr", "initial_lr": "lr", "width": "embed_dim", "layers": "depth"}
_SECTIONS: dict[str, Sequence[str]] = {
    "model": [
        "encoder",
        "num_strides",
        *(f.name for f in dataclasses.fields(ModelConfig) if f.name not in _DERIVED),
    ],
    "training": [f.name for f in dataclasses.fields(TrainingConfig)],
    "pretraining": [f.name for f in dataclasses.fields(PretrainingConfig)],
}


def settable_keys() -> dict[str, list[str]]:
    """The keys that can be set of each part of the block; nnU-Net's are ``NNUNET_KEYS``."""
    return {section: list(keys) for section, keys in _SECTIONS.items()}


@dataclass(frozen=True)
class PretrainedModel:
    """The checkpoint a configuration starts from: its place, its hash, its model."""

    path: str
    sha256: str
    config: ModelConfig


def parse_settings(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sort ``KEY=VALUE`` words by where they belong.

    A bare key belongs to nnU-Net, to the model, to the fine-tuning or to the pre-training, the
    first that has it; ``pretraining.num_epochs`` names the place.

    Returns:
        ``{"nnunet": ..., "model": ..., "training": ..., "pretraining": ...}``.

    Raises:
        ConfigError: not ``KEY=VALUE``, or a key nobody has.
    """
    settings: dict[str, dict[str, Any]] = {
        "nnunet": {},
        "model": {},
        "training": {},
        "pretraining": {},
    }
    places: dict[str, Sequence[str]] = {"nnunet": list(NNUNET_KEYS), **_SECTIONS}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r}: write KEY=VALUE, as in embed_dim=192")
        section, dot, name = key.rpartition(".")
        candidates = [section] if dot else list(places)
        place = next((p for p in candidates if name in places.get(p, ())), None)
        if place is None:
            raise ConfigError(f"unknown key {key!r}: {_hint(key, places)}")
        settings[place][name] = _parse_value(text)
    return settings


def _hint(key: str, places: Mapping[str, Sequence[str]]) -> str:
    """The key that is nearest to an unknown one, or all of them where none is near.

    A key that names its place gets one that does, of the same name if some place has it.
    """
    section, dot, name = key.rpartition(".")
    name = _ALIASES.get(name, name)
    if dot:
        names = [f"{place}.{n}" for place, keys in places.items() for n in keys]
        same = [full for full in names if full.endswith(f".{name}")]
        near = difflib.get_close_matches(f"{section}.{name}", same or names, 1, 0 if same else 0.6)
    else:
        near = difflib.get_close_matches(name, [n for keys in places.values() for n in keys], 1)
    if near:
        return f"did you mean {near[0]}?"
    known = "; ".join(f"{place}: {', '.join(keys)}" for place, keys in places.items())
    return f"known keys, explained in docs/configuration.md, are {known}"


def _parse_value(text: str) -> Any:
    """A number, a list (``32,96,96`` or ``[32,96,96]``) or a word."""
    numbers = text.strip("[]").split(",")
    try:
        values = [json.loads(number) for number in numbers]
    except json.JSONDecodeError:
        return text
    return values if len(values) > 1 or text.startswith("[") else values[0]


def configure(
    dataset: PreprocessedDataset,
    settings: Mapping[str, Mapping[str, Any]],
    name: str | None = None,
    output_plans: str = PLANS_NAME,
    pretrained: PretrainedModel | None = None,
) -> Path:
    """Write the plans file.

    Args:
        dataset: opened with the plans and the configuration to start from; its block, if it has
            one, is changed by ``settings``.
        settings: from ``parse_settings``.
        name: of the new configuration, which inherits; default: the values are set in the
            configuration itself.
        output_plans: name of the plans file.
        pretrained: checkpoint to fine-tune from; its model values are taken.

    Returns:
        Path of the file.

    Raises:
        ConfigError: values that cannot work; nothing is written then.
        CheckpointError: the checkpoint has none of the data set's contrasts.
    """
    base = dataset.configuration_name
    name = name or base
    for word, what in ((name, "configuration"), (output_plans, "plans")):
        if not re.fullmatch(r"[A-Za-z0-9_]+", word):
            raise ConfigError(f"{what} name {word!r}: use letters, digits and '_'")
    if name != base and name in dataset.plans["configurations"]:
        raise ConfigError(
            f"configuration {name} exists: change it with amae-nnunet-configure "
            f"{dataset_number(dataset.name)} {name} KEY=VALUE, or choose another --name"
        )
    nnunet = _nnunet_values(dataset, settings["nnunet"], f"{output_plans}_{name}")
    block = _block(dataset, settings, pretrained)
    block.model_config({**dataset.configuration, **nnunet})
    block.training_config()
    block.pretraining_config()
    plans = copy.deepcopy(dataset.plans)
    plans["plans_name"] = output_plans
    own = {"inherits_from": base} if name != base else plans["configurations"][base]
    plans["configurations"][name] = {**own, **nnunet, KEY: block.to_json()}
    return write_whole(dataset.folder / f"{output_plans}.json", json.dumps(plans, indent=4) + "\n")


def _nnunet_values(
    dataset: PreprocessedDataset, values: Mapping[str, Any], identifier: str
) -> dict[str, Any]:
    """nnU-Net's own values, checked; a new spacing needs a data identifier of its own."""
    checked = dict(values)
    for key, kind in NNUNET_KEYS.items():
        if key not in checked:
            continue
        value = checked[key] if isinstance(checked[key], list) else [checked[key]]
        numbers = (int, float) if key == "spacing" else (int,)
        good = all(
            isinstance(v, numbers) and not isinstance(v, bool) and 1e-3 <= v <= _MOST for v in value
        )
        if not good or len(value) != (1 if key == "batch_size" else 3):
            raise ConfigError(f"{key}={checked[key]!r}: give {kind.replace('`', '')}")
    if "patch_size" in checked:
        strides = stride_product(_strides(dataset))
        check_divisible(checked["patch_size"], strides, "the strides of the plan, together", "")
    if "spacing" in checked:
        checked["data_identifier"] = identifier
    return checked


def _strides(dataset: PreprocessedDataset) -> list[list[int]]:
    """nnU-Net's strides, a resolution each."""
    strides: list[list[int]] = dataset.configuration["architecture"]["arch_kwargs"]["strides"]
    return strides


def _block(
    dataset: PreprocessedDataset,
    settings: Mapping[str, Mapping[str, Any]],
    pretrained: PretrainedModel | None,
) -> AMAEBlock:
    """The new block: the one already there, changed by the settings."""
    old = dataset.block
    wanted = settings["model"]
    checkpoint = old.checkpoint
    if pretrained is None and checkpoint:
        wanted = _free(wanted, old.model)
    named = ENCODERS.get(str(wanted.get("encoder")), {})
    model = {**{key: value for key, value in old.model.items() if key not in named}, **wanted}
    if pretrained is not None:
        ContrastMatch.of(old.contrasts, pretrained.config.contrasts)
        theirs = {
            key: getattr(pretrained.config, key)
            for key in _SECTIONS["model"]
            if key not in ("encoder", "num_strides")
        }
        strides, count = _strides(dataset), len(pretrained.config.strides)
        if stride_product(strides[1 : count + 1]) == pretrained.config.token_size:
            theirs["num_strides"] = count
        free = {key: value for key, value in old.model.items() if key in _FREE}
        model = {**theirs, **free, **_free(wanted, theirs)}
        checkpoint = {"path": pretrained.path, "sha256": pretrained.sha256}
    return AMAEBlock(
        contrasts=old.contrasts,
        model=model,
        pretraining={**old.pretraining, **settings["pretraining"]},
        training={**old.training, **settings["training"]},
        checkpoint=checkpoint,
    )


def _free(wanted: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted model values that a checkpoint leaves free; the others must be its own.

    Raises:
        ConfigError: one is not.
    """
    for key, value in wanted.items():
        values = {key: value}
        if key == "encoder":
            values = dict(ENCODERS.get(str(value), dict.fromkeys(ENCODERS["base"], "")))
        wrong = [k for k, v in values.items() if k not in _FREE and fixed.get(k, v) != v]
        if wrong:
            theirs = ", ".join(f"{k}={fixed[k]}" for k in wrong)
            raise ConfigError(
                f"{key}={value}, but the checkpoint fixes {theirs}: leave {key} out, or start "
                "plans without the checkpoint (-o NAME)"
            )
    return {key: value for key, value in wanted.items() if key in _FREE}
