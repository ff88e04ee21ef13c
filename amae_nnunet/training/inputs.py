"""Check the folder that stock ``nnUNetv2_predict`` is to read, before it reads anything.

nnU-Net takes the files of a case in the order of their names. Where one is missing, the next
contrast would pass for it; where there is one too many, it ends in another process with no word of
the case. It tells a trainer nothing of its inputs, so their folder is taken from the command line.
A program that uses ``nnUNetPredictor`` itself is told by the network (``unetr.check_images``).

Not in the paper.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import ContrastError


def folder_to_predict(argv: Sequence[str]) -> Path | None:
    """The folder after ``-i``, where the command line is one of nnU-Net's to predict."""
    if not Path(argv[0]).stem.startswith("nnUNetv2_predict"):
        return None
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-i", type=Path)
    folder: Path | None = parser.parse_known_args(list(argv[1:]))[0].i
    return folder


def check_channel_files(folder: Path, contrasts: Sequence[str], endings: Sequence[str]) -> None:
    """Raise unless every case of a folder has one file per contrast.

    Args:
        folder: holds ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ...
        contrasts: names in channel order.
        endings: of image files.

    Raises:
        ContrastError: the first case with a file missing or one too many, and how many there are.
        InputError: the files are those of other contrasts, or in another order.
    """
    wanted = {f"{number:04d}": name for number, name in enumerate(contrasts)}
    found: dict[str, set[str]] = {}
    for file in sorted(folder.iterdir()):
        ending = next((e for e in endings if file.name.endswith(e)), None)
        case, _, number = file.name.removesuffix(ending or file.name).rpartition("_")
        if case and len(number) == 4 and number.isdecimal():
            found.setdefault(case, set()).add(number)
    ContrastRecord.check_order(folder, found, contrasts)
    wrong = [case for case, numbers in found.items() if numbers != wanted.keys()]
    if not wrong:
        return
    case = wrong[0]
    missing = [f"{n} ({wanted[n]})" for n in sorted(wanted.keys() - found[case])]
    surplus = sorted(found[case] - wanted.keys())
    faults = [f"lacks the file of channel {', '.join(missing)}"] if missing else []
    faults += [f"has a file of channel {', '.join(surplus)} too many"] if surplus else []
    others = f" (and {len(wrong) - 1} more of {len(found)} cases are wrong)" if wrong[1:] else ""
    channels = ", ".join(f"{number} {name}" for number, name in wanted.items())
    raise ContrastError(
        f"case {case} in {folder} {' and '.join(faults)}{others}: the model wants one file a "
        f"contrast ({channels}), all zero where it is absent; amae-nnunet-convert --for_model "
        "writes such a folder, and amae-nnunet-predict takes one in which files are missing"
    )
