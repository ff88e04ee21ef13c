"""Stock nnU-Net with the length of the fine-tuning: the rival in a fair race.

Nothing but the numbers of epochs and iterations is changed; they come from the ``"amae"`` block of
the configuration. Export this file's folder in ``nnUNet_extTrainer`` to use it.
"""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerShort(nnUNetTrainer):
    """``nnUNetTrainer`` with ``training.num_epochs`` and iterations of the plans."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        values = self.configuration_manager.configuration["amae"]["training"]
        self.num_epochs = values["num_epochs"]
        self.num_iterations_per_epoch = values["iterations_per_epoch"]
        self.num_val_iterations_per_epoch = values["val_iterations_per_epoch"]
