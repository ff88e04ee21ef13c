"""The nnU-Net trainers (sections 2.3 and 2.4): one model for every subset of contrasts.

``AMAETrainer``                     pre-trained encoder, Adaptive UNETR
``AMAETrainerNoPretraining``        the same from scratch
``AMAETrainerUNETR``                pre-trained encoder, original UNETR
``AMAETrainerUNETRNoPretraining``   the same from scratch

The paper's "UNet" row is stock ``nnUNetTrainer``. Values come from the ``"amae"`` block of the
plans; everything else is stock nnU-Net.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from amae_nnunet.errors import CheckpointError, ConfigError, ContrastError, UnsupportedError
from amae_nnunet.folders import dataset_number, nnunet_folder
from amae_nnunet.networks.attention import has_flash
from amae_nnunet.networks.checkpoint import file_sha256, read_checkpoint
from amae_nnunet.networks.layer_decay import freeze_encoder, split_by_layer
from amae_nnunet.networks.transfer import load_encoder
from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR
from amae_nnunet.networks.weight_decay import decay_groups
from amae_nnunet.plans.block import KEY, AMAEBlock
from amae_nnunet.plans.preprocessed import (
    CHECKPOINT_NAME,
    check_cases,
    check_normalization,
    pretraining_folder,
    read_json,
)
from amae_nnunet.plans.seen import SeenCases
from amae_nnunet.training.dropout import Transform, with_dropout
from amae_nnunet.training.inputs import check_channel_files, folder_to_predict
from amae_nnunet.training.schedule import WarmUpPolyLR
from amae_nnunet.training.subsets import subset_scores
from amae_nnunet.training.transforms import KeepAbsentZero


def plans_with_block(
    plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]
) -> tuple[dict[str, Any], AMAEBlock]:
    """A copy of the plans in which the configuration's block is complete, and the block.

    nnU-Net saves these plans in the model folder and builds the network from them at prediction,
    so contrast names stand in them and the place of the checkpoint does not.

    Raises:
        ConfigError: a 2d configuration, a normalization that breaks the presence rule, or
            impossible values in the block.
        ContrastError: the block is for other contrasts than the data set's.
        UnsupportedError: a cascade.
    """
    resolved = PlansManager(plans).get_configuration(configuration).configuration
    if resolved.get("previous_stage"):
        raise UnsupportedError(
            f"{configuration} is the second stage of a cascade, whose extra channels would pass "
            "for contrasts: use 3d_fullres or 3d_lowres"
        )
    check_normalization(resolved["normalization_schemes"])
    block = AMAEBlock.read(resolved).for_dataset(dataset_json)
    block.model_config(resolved)
    plans = copy.deepcopy(plans)
    saved = block.to_json()
    if block.checkpoint:
        saved["checkpoint"] = {
            "file": Path(block.checkpoint["path"]).name,
            "sha256": block.checkpoint["sha256"],
        }
    plans["configurations"][configuration][KEY] = saved
    # 3d_lowres would predict the training cases for a second stage, which is refused.
    plans["configurations"][configuration]["next_stage"] = None
    return plans, block


class AMAETrainer(nnUNetTrainer):
    """AMAE pre-training + Adaptive UNETR."""

    network_class: ClassVar[type[AdaptiveUNETR] | type[UNETR]] = AdaptiveUNETR
    pretrained: ClassVar[bool] = True

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        plans, self.block = plans_with_block(plans, configuration, dataset_json)
        super().__init__(plans, configuration, fold, dataset_json, device)
        values = self.block.training_config()
        self.initial_lr = values.lr
        self.weight_decay = values.weight_decay
        self.num_epochs = values.num_epochs
        self.num_iterations_per_epoch = values.iterations_per_epoch
        self.num_val_iterations_per_epoch = values.val_iterations_per_epoch
        self.loss_name = values.loss
        self.enable_deep_supervision = False
        self.seen_cases = SeenCases("", frozenset())
        self.weights_given = False
        self.checkpoint_name: str | None = None  # of the file that holds the present weights

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> nn.Module:
        """The network, from the plans alone.

        Raises:
            ContrastError: the data set, or a case that stock nnU-Net is about to predict, has
                another number of channels than the plans' contrasts.
        """
        configuration = configuration_manager.configuration
        block = AMAEBlock.read(configuration)
        config = block.model_config(configuration)
        if folder := folder_to_predict(sys.argv):
            endings = plans_manager.image_reader_writer_class.supported_file_endings
            check_channel_files(folder, config.contrasts, endings)
        if num_input_channels != config.num_contrasts:
            raise ContrastError(
                f"dataset.json has {num_input_channels} channels but the model knows "
                f"{config.num_contrasts} contrasts ({', '.join(config.contrasts)})"
            )
        checkpointing = block.training_config().activation_checkpointing
        return cls.network_class(config, num_output_channels, checkpointing)

    def _do_i_compile(self) -> bool:
        """Stock's answer, but never without flash attention: attention matrices would be kept."""
        config = self.block.model_config(self.configuration_manager.configuration)
        flash = has_flash(self.device, config.embed_dim // config.encoder_heads)
        return flash and bool(super()._do_i_compile())

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmUpPolyLR]:
        """AdamW (section 2.4) with nnU-Net's polynomial schedule (the paper names none)."""
        values = self.block.training_config()
        network = self._bare_network()
        if values.layer_decay == 0:
            freeze_encoder(network, network.config.depth)
        groups = decay_groups(network, self.weight_decay)
        groups = split_by_layer(groups, network, network.config.depth, values.layer_decay)
        optimizer = torch.optim.AdamW(groups, lr=self.initial_lr)
        schedule = WarmUpPolyLR(optimizer, self.initial_lr, self.num_epochs, values.warmup_epochs)
        return optimizer, schedule

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Stock, but that weight decay and the layers' rates are the plans', not the saved ones.

        Raises:
            ConfigError: layer_decay became 0 or 1 since, or was one of them.
        """
        if not self.was_initialized:
            self.initialize()
        ours = [
            {key: group[key] for key in ("weight_decay", "lr_scale") if key in group}
            for group in self.optimizer.param_groups
        ]
        try:
            super().load_checkpoint(filename_or_checkpoint)
        except ValueError as error:
            if "parameter group" not in str(error):
                raise
            raise ConfigError(
                "this training was begun with another layer_decay, and from or to 0 or 1 it cannot "
                "change: set it back with amae-nnunet-configure, or train anew without --c"
            ) from None
        for group, values in zip(self.optimizer.param_groups, ours, strict=True):
            group.update(values)
        if isinstance(filename_or_checkpoint, str):
            self.checkpoint_name = Path(filename_or_checkpoint).name

    def _build_loss(self) -> nn.Module:
        """nnU-Net's loss, by default without its cross-entropy (section 2.4: Dice loss)."""
        loss = super()._build_loss()
        if self.loss_name == "dice":
            loss.weight_ce = 0
        return loss

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Transform:
        """Stock augmentation that leaves absent contrasts zero, behind contrast dropout."""
        stock = KeepAbsentZero(nnUNetTrainer.get_training_transforms(*args, **kwargs))
        values, name = self.block.training_config(), self.plans_manager.dataset_name
        return with_dropout(stock, values, name, self.dataset_json)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Stock data sets, whose cases have been checked against the contrast record."""
        training, validation = super().get_tr_and_val_datasets()
        if self.local_rank == 0:
            check_cases(
                self.plans_manager.dataset_name,
                Path(self.preprocessed_dataset_folder),
                self.dataset_json,
                sorted({*training.identifiers, *validation.identifiers}),
                self.print_to_log_file,
            )
            self._warn_of_seen_cases(validation.identifiers)
        return training, validation

    def do_split(self) -> tuple[list[str], list[str]]:
        """Stock, which draws the cases of a fold that no file lists by chance, not by patient."""
        training, validation = super().do_split()
        if validation and self.fold != "all" and self._is_drawn():
            self.print_to_log_file(
                f"warning: splits_final.json has no fold {self.fold}: its {len(validation)} "
                "validation cases are drawn by chance, a patient may be on both sides, and "
                "amae-nnunet-predict takes the fold with the others unless -f names those"
            )
        return training, validation

    def _is_drawn(self) -> bool:
        """Whether the split file has no such fold."""
        path = Path(self.preprocessed_dataset_folder_base, "splits_final.json")
        return int(self.fold) >= len(read_json(path, "nnU-Net writes it"))

    def _warn_of_seen_cases(self, validation: list[str]) -> None:
        """Say in one line if the pre-training saw cases that are to judge the result."""
        name = self.plans_manager.dataset_name
        seen = [case for case in validation if f"{name}/{case}" in self.seen_cases]
        if seen and self.fold != "all":
            self.print_to_log_file(
                f"warning: the pre-training saw {len(seen)} of the {len(validation)} validation "
                f"cases of fold {self.fold} (their images, not their labels), which may flatter "
                f"the validation: pre-train with -f {self.fold} to leave them out"
            )

    def initialize(self) -> None:
        """Stock, and take note if the network is then given weights (-pretrained_weights)."""
        super().initialize()

        def note(module: nn.Module, keys: object) -> None:
            self.weights_given = True

        self._bare_network().register_load_state_dict_post_hook(note)

    def on_train_start(self) -> None:
        """Load the pre-trained encoder where a new training begins; the rest is stock.

        A training that is continued, validated or used to predict never needs the checkpoint, and
        one that starts from other weights (``-pretrained_weights``) keeps those.
        """
        if not self.was_initialized:
            self.initialize()
        if self.weights_given and self.current_epoch == 0:
            self.print_to_log_file(
                "started from the weights of -pretrained_weights, not from a pre-training"
            )
        elif self.pretrained and self.current_epoch == 0:
            self._load_pretrained()
        super().on_train_start()

    def on_train_end(self) -> None:
        """Stock, and take note that the weights are the final ones."""
        super().on_train_end()
        self.checkpoint_name = None if self.disable_checkpointing else "checkpoint_final.pth"

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Stock, then ``subsets.json``: what each subset of contrasts scored."""
        super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0:
            self._write_subsets()

    def _write_subsets(self) -> None:
        data_folder, report = Path(self.preprocessed_dataset_folder), self.print_to_log_file
        name, dataset_json = self.plans_manager.dataset_name, self.dataset_json
        present = check_cases(name, data_folder, dataset_json, self.do_split()[1], report)
        folder = Path(self.output_folder)
        summary = read_json(folder / "validation" / "summary.json", "validate again with --val")
        held_out, checkpoint = self.fold != "all", self.checkpoint_name
        scores = subset_scores(summary, present, dataset_json, held_out, checkpoint)
        scores.write(folder)
        lines = [f"{', '.join(score.present)}: {score}" for score in scores.subsets]
        report("\n  ".join(["validation by contrasts (subsets.json):", *lines]))

    def _bare_network(self) -> Any:
        network: Any = getattr(self.network, "module", self.network)  # DDP
        return getattr(network, "_orig_mod", network)  # torch.compile

    def _load_pretrained(self) -> None:
        path = self._checkpoint_path()
        checkpoint = read_checkpoint(path)
        self.seen_cases = SeenCases.from_json(checkpoint.facts.get("seen_cases", {}))
        transfer = load_encoder(self._bare_network(), checkpoint, path)
        source = path.name if self.block.checkpoint else f"{path.parent.name}/{path.name}"
        lines = [f"loaded the pre-trained encoder of {source}", *transfer.lines()]
        self.print_to_log_file("\n  ".join(lines))

    def _checkpoint_path(self) -> Path:
        """The checkpoint that the plans name, else that of this fold, else that of all cases."""
        name, plans_name = self.plans_manager.dataset_name, self.plans_manager.plans_name
        if self.block.checkpoint:
            path = nnunet_folder("nnUNet_results") / self.block.checkpoint["path"]
            if file_sha256(path) != self.block.checkpoint["sha256"]:
                raise CheckpointError(
                    f"checkpoint {path} is not the one that {plans_name} was made for: run "
                    "amae-nnunet-configure --checkpoint again"
                )
            return path
        paths = [
            pretraining_folder(name, plans_name, self.configuration_name, fold) / CHECKPOINT_NAME
            for fold in dict.fromkeys((str(self.fold), "all"))
        ]
        for path in paths:
            if path.exists():
                return path
        own = "" if self.fold == "all" else f" (-f {self.fold}: without its validation cases)"
        raise CheckpointError(
            f"no pre-training checkpoint at {' or '.join(map(str, paths))}: run "
            f"amae-nnunet-pretrain {dataset_number(name)} {self.configuration_name} -p "
            f"{plans_name}{own}, or name one with amae-nnunet-configure --checkpoint, or train "
            f"with -tr {type(self).__name__}NoPretraining"
        )


class AMAETrainerNoPretraining(AMAETrainer):
    """Adaptive UNETR from scratch."""

    pretrained = False


class AMAETrainerUNETR(AMAETrainer):
    """AMAE pre-training + UNETR."""

    network_class = UNETR


class AMAETrainerUNETRNoPretraining(AMAETrainerUNETR):
    """UNETR from scratch."""

    pretrained = False
