"""Make stock nnU-Net find our trainers: append their folder to ``nnUNet_extTrainer``.

Runs at every start of Python, through ``amae_nnunet.pth`` (until Python 3.17) or
``amae_nnunet.start`` (from 3.15 on), so it imports nothing but ``os`` and never raises. nnU-Net
searches the folders of ``nnUNet_extTrainer`` after its own trainers; entries that the user has set
stay, and stay first. Set ``AMAE_NNUNET_NO_STARTUP=1`` to opt out, then export the variable
by hand: ``export nnUNet_extTrainer=$(amae-nnunet-doctor --ext_trainer)``.
"""

import os

VARIABLE = "nnUNet_extTrainer"
OPT_OUT = "AMAE_NNUNET_NO_STARTUP"


def ext_trainer_folder() -> str:
    """The folder that holds one file re-exporting our trainers, for nnU-Net's search."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "training", "ext_trainer")


def register() -> None:
    """Append ``ext_trainer_folder()`` to ``nnUNet_extTrainer``, once."""
    if os.environ.get(OPT_OUT, "") not in ("", "0"):
        return
    folders = [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    if ext_trainer_folder() not in folders:
        os.environ[VARIABLE] = os.pathsep.join([*folders, ext_trainer_folder()])
