"""Where stock nnU-Net finds our trainers: it searches this folder, which holds this file only."""

from amae_nnunet.training.one_line import errors_in_one_line
from amae_nnunet.training.trainer import (
    AMAETrainer,
    AMAETrainerNoPretraining,
    AMAETrainerUNETR,
    AMAETrainerUNETRNoPretraining,
)

__all__ = [
    "AMAETrainer",
    "AMAETrainerNoPretraining",
    "AMAETrainerUNETR",
    "AMAETrainerUNETRNoPretraining",
]

errors_in_one_line()
