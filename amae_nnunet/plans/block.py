"""The ``"amae"`` block of a configuration in ``plans.json``: all that nnU-Net does not plan.

nnU-Net builds a network from its plans alone, in training and in prediction, so everything our
networks need stands there::

    "3d_fullres": {...nnU-Net's own...,
      "amae": {"contrasts": ["ADC", "TRACE", "T2"],          channel order
               "model": {"embed_dim": 192},                  fields of ModelConfig
               "pretraining": {"num_epochs": 100},           fields of PretrainingConfig
               "training": {"num_epochs": 50},               fields of TrainingConfig
               "checkpoint": {"path": ..., "sha256": ...}}}  weights to start from

What is not set has its default. Not in the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amae_nnunet.config import ModelConfig, PretrainingConfig, TrainingConfig, from_settings
from amae_nnunet.errors import ConfigError, ContrastError

KEY = "amae"
#: The plans that we write, beside nnU-Net's.
PLANS_NAME = "AMAEPlans"


@dataclass(frozen=True)
class AMAEBlock:
    """The block of one configuration; empty where nothing is set."""

    contrasts: tuple[str, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    pretraining: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, str] | None = None

    @classmethod
    def read(cls, configuration: Mapping[str, Any]) -> AMAEBlock:
        """The block of a configuration (inheritance resolved).

        Raises:
            ConfigError: a part that the block does not have.
        """
        content = dict(configuration.get(KEY, {}))
        content["contrasts"] = tuple(content.get("contrasts", ()))
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = [key for key in content if key not in known]
        if unknown:
            raise ConfigError(
                f'the "amae" block of the plans has no part {unknown[0]!r}: it has '
                f"{', '.join(known)}"
            )
        return cls(**content)

    def for_dataset(self, dataset_json: Mapping[str, Any]) -> AMAEBlock:
        """The block with the contrasts of a data set, checked against its own if it has any.

        Raises:
            ContrastError: the plans were made for other contrasts or another order of them.
        """
        contrasts = channel_contrasts(dataset_json)
        if self.contrasts and self.contrasts != contrasts:
            raise ContrastError(
                f"the plans are for contrasts {', '.join(self.contrasts)} but dataset.json has "
                f"{', '.join(contrasts)}: run amae-nnunet-configure again"
            )
        return dataclasses.replace(self, contrasts=contrasts)

    def to_json(self) -> dict[str, Any]:
        """The block as it stands in the plans, without what is empty."""
        content = {**dataclasses.asdict(self), "contrasts": list(self.contrasts)}
        return {key: value for key, value in content.items() if value}

    def model_config(self, configuration: Mapping[str, Any]) -> ModelConfig:
        """The networks for this configuration."""
        return ModelConfig.from_plan(configuration, self.model, self.contrasts)

    def pretraining_config(self) -> PretrainingConfig:
        """The values of the pre-training."""
        return from_settings(PretrainingConfig, self.pretraining)

    def training_config(self) -> TrainingConfig:
        """The values of the fine-tuning."""
        return from_settings(TrainingConfig, self.training)


def channel_contrasts(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """The contrasts of a ``dataset.json``, in channel order."""
    channels = dataset_json.get("channel_names") or dataset_json["modality"]
    return tuple(channels[number] for number in sorted(channels, key=int))


def required_contrasts(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """What a ``dataset.json`` of our converter requires of each case; of another one, nothing."""
    return tuple(dataset_json.get(KEY, {}).get("required", ()))
