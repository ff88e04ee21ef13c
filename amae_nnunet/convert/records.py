"""The files that nnU-Net and the trainers read, made from the ledger and never the other way.

Not in the paper.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

from amae_nnunet import __version__
from amae_nnunet.contrasts import SCHEMA, ContrastRecord
from amae_nnunet.convert.case import ENDING
from amae_nnunet.convert.splits import write_folds
from amae_nnunet.convert.target import LAYOUT, Target
from amae_nnunet.convert.template import Template

DESCRIPTION = "dataset.json"


def write_records(
    target: Target, template: Template, entries: Sequence[Mapping[str, Any]], scratch: Path
) -> list[str]:
    """Write ``contrasts.json`` and, for a data set, ``dataset.json`` and folds by subject.

    Args:
        target: where they go.
        template: contrasts and labels.
        entries: the ledger's lines, sorted by case.
        scratch: a folder for temporary files, on the same disk.

    Returns:
        Lines about what is not as it should be.
    """
    doubts = []
    if target.dataset:
        doubts += _write_description(
            target, template, {entry["case"] for entry in entries}, scratch
        )
        subjects = {
            entry["case"]: entry["subject"] for entry in entries if entry["split"] == "train"
        }
        doubts += write_folds(subjects, target.folder, target.folds)
    record = ContrastRecord(tuple(template.contrasts), template.required)
    for entry in entries:
        flags = [flag == "1" for flag in entry["present"]]
        record.add(entry["case"], flags, entry["split"], entry["subject"])
    record.write(target.folder)
    return doubts


def _write_description(
    target: Target, template: Template, cases: set[str], scratch: Path
) -> list[str]:
    training = target.folder / LAYOUT["train"][0]
    first = f"_0000{ENDING}"
    found = {path.name.removesuffix(first) for path in training.glob(f"*{first}")}
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=scratch) as folder:
        generate_dataset_json(
            folder,
            channel_names={str(index): name for index, name in enumerate(template.contrasts)},
            labels=dict(template.labels),
            num_training_cases=len(found),
            file_ending=ENDING,
            dataset_name=target.dataset,
            description=template.description,
            license="not given",
            converted_by=f"amae-nnunet-convert {__version__}",
            amae={
                "schema": SCHEMA,
                "contrasts": list(template.contrasts),
                "required": list(template.required),
            },
        )
        os.replace(Path(folder, DESCRIPTION), target.folder / DESCRIPTION)
    return [
        f"{training.name} has case {case}, which was not converted here: remove it"
        for case in sorted(found - cases)
    ]
