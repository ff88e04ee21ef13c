"""The template that a trained model asks for: its channels in its order.

The model folder's ``dataset.json`` carries them, in full if its data set came from this converter
(key ``amae``), else as the channel names of stock nnU-Net. Not in the paper.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from amae_nnunet.convert.template import Template, check_channels
from amae_nnunet.errors import ConfigError, ContrastError
from amae_nnunet.parse import parse_json


def template_of_model(folder: Path, given: Template | None = None) -> Template:
    """The template for inputs of a model.

    Args:
        folder: ``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``.
        given: its patterns, and what its channels accept, are used for the channels of the model
            that it knows; the others have files called ``NAME.nii*`` or ``*_NAME.nii*``.

    Returns:
        A template whose required channels are those of the model. A model of stock nnU-Net has
        never seen a channel absent, so it requires all of them.

    Raises:
        ConfigError: the folder is not that of a model, or its channels cannot be contrasts.
    """
    content = _read(folder)
    try:
        names = content["channel_names"]
        channels = tuple(names[str(index)] for index in range(len(names)))
        facts = content.get("amae", {"contrasts": channels, "required": channels})
        if tuple(facts["contrasts"]) != channels:
            raise ConfigError(
                f"{folder}/dataset.json names channels {', '.join(channels)} but contrasts "
                f"{', '.join(facts['contrasts'])}: one of them was edited, correct it"
            )
        check_channels(channels)
        required = tuple(facts["required"])
        labels = {name: value for name, value in content["labels"].items() if type(value) is int}
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder}/dataset.json is not that of a model ({error!r})") from None
    except ContrastError as error:
        raise ConfigError(f"the model in {folder} is not for contrasts: {error}") from None
    known = given.contrasts if given else {}
    return Template(
        name=re.sub(r"[^A-Za-z0-9_-]", "-", str(content.get("name", folder.parent.name))),
        description=str(content.get("description", "")),
        contrasts={name: known.get(name, (f"{name}.nii*", f"*_{name}.nii*")) for name in channels},
        required=required,
        label_patterns=given.label_patterns if given else ("seg.nii*",),
        labels=labels,
        accepts={name: given.accepts[name] for name in channels if name in known} if given else {},
        label_map=given.label_map if given else {},
    )


def _read(folder: Path) -> dict[str, Any]:
    absent = [name for name in ("dataset.json", "plans.json") if not (folder / name).is_file()]
    if absent:
        raise ConfigError(
            f"{folder} has no {absent[0]}: give the model's folder, "
            "nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
        )
    try:
        content = parse_json((folder / "dataset.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{folder}/dataset.json is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{folder}/dataset.json is not a JSON object")
    return content
