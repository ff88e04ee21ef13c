"""The model card: what a pre-trained checkpoint is, for whoever gets it (not in the paper).

Markdown behind a head of YAML, as the Hugging Face hub reads it. A card names no case and no path,
and of the metadata, which anybody may have written, it takes numbers and plain names only.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from amae_nnunet import __version__
from amae_nnunet.config import ModelConfig, PretrainingConfig
from amae_nnunet.networks.checkpoint import Checkpoint

UNKNOWN = "unknown"  # the hub's word for a licence that nobody named
_TAGS = ("medical-imaging", "mri", "masked-autoencoder", "self-supervised", "nnunet")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")
_SKILLS = {
    "contrast_loss": "masked error",
    "skill_mean": "skill against the mean",
    "skill_linear": "skill against the other contrasts",
    "spread": "spread",
}
_CITATION = """\
```bibtex
@article{das2025amae,
  title   = {Self Pre-training with Adaptive Mask Autoencoders for Variable-Contrast 3D Medical Imaging},
  author  = {Das, Badhan Kumar and Zhao, Gengyan and Liu, Han and Re, Thomas J. and Comaniciu, Dorin and Gibson, Eli and Maier, Andreas},
  journal = {arXiv preprint arXiv:2501.09096},
  year    = {2025}
}
```"""  # noqa: E501


def model_card(checkpoint: Checkpoint, sha256: str, licence: str = "") -> str:
    """The card of a checkpoint.

    Args:
        checkpoint: read, so its values are checked.
        sha256: of its file.
        licence: an identifier such as ``cc-by-4.0``; empty: the card says that it is to be filled.
    """
    config, facts = checkpoint.config, checkpoint.facts
    parameters = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    sections = [
        _head(licence),
        f"# Adaptive masked autoencoder for {', '.join(config.contrasts)}",
        _introduction(config),
        "## Use",
        _USE,
        "## Pre-training",
        _table(_data_rows(facts)),
        _table(_setting_rows(facts)),
        "## How well it rebuilds",
        _skills(config.contrasts, facts.get("last_epoch")),
        "## Model",
        _table(
            [*_model_rows(config), ("parameters", f"{parameters:,}"), ("sha256", f"`{sha256}`")]
        ),
        "## Limits",
        _LIMITS,
        "## Licence",
        licence
        or "Not given yet: fill in `license` above and this line before you share the model.",
        "## Cite",
        _CITATION,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


_USE = """\
```bash
amae-nnunet-configure 501 3d_fullres --checkpoint FOLDER_OR_ORG/NAME
nnUNetv2_train 501 3d_fullres 0 -tr AMAETrainer -p AMAEPlans
```

With amae-nnunet and nnU-Net 2 installed; 501 is your data set, planned by nnU-Net. Its contrasts
are matched by name, and may be others or fewer; patch, spacing and token size may differ."""
_LIMITS = """\
Research software, not a medical device. The encoder has learnt to rebuild hidden parts of images;
that says nothing yet about a segmentation, which you train and must validate on your own data. It
knows the scanners and patients that it was trained on. It holds a salted hash of each case it saw,
from which no name follows; who knows a case's name can find out whether it is among them."""


def _head(licence: str) -> str:
    """The YAML at the top; a JSON text is a YAML text."""
    values = {
        "library_name": "amae-nnunet",
        "license": licence or UNKNOWN,
        "pipeline_tag": "image-feature-extraction",
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in _TAGS), "---"])


def _introduction(config: ModelConfig) -> str:
    return (
        f"The encoder (width {config.embed_dim}, depth {config.depth}) and decoder of a masked "
        "autoencoder for 3-D MR studies of which each has another subset of these contrasts: "
        f"{', '.join(config.contrasts)}. To be fine-tuned with nnU-Net through "
        "amae-nnunet, a plug-in after [this paper](https://arxiv.org/abs/2501.09096)."
    )


def _data_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    plan, versions = (_mapping(facts.get(key)) for key in ("plan", "versions"))
    names = {
        "data set": plan.get("dataset"),
        "plans": plan.get("plans"),
        "configuration": plan.get("configuration"),
        "cases": facts.get("num_cases"),
        "fold": facts.get("fold"),
        "epochs": facts.get("epochs"),
    }
    names |= {f"version of {name}": versions.get(name) for name in ("amae_nnunet", "torch")}
    names["card written by"] = f"amae-nnunet-{__version__}"
    added = facts.get("added_contrasts", [])
    if added:
        found = [_plain(_mapping(entry).get("contrast")) for entry in added]
        names["contrasts added later"] = "-".join(name for name in found if name)
    return [(name, text) for name, value in names.items() if (text := _plain(value))]


def _setting_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    values = _mapping(facts.get("pretraining"))
    keys = [field.name for field in dataclasses.fields(PretrainingConfig)]
    return [(f"`{key}`", text) for key in keys if (text := _plain(values.get(key)))]


def _model_rows(config: ModelConfig) -> list[tuple[str, str]]:
    return [
        ("patch", f"{_by(config.patch_size)} voxels (z, y, x)"),
        ("spacing", f"{_by(round(mm, 3) for mm in config.spacing)} mm (z, y, x)"),
        ("token", f"{_by(config.token_size)} voxels"),
        ("tokens of a contrast", str(config.num_tokens)),
        ("width, depth, heads", f"{config.embed_dim}, {config.depth}, {config.encoder_heads}"),
        ("decoder's width, depth", f"{config.decoder_embed_dim}, {config.decoder_depth}"),
        ("modality vectors", f"{config.contrast_vectors}, {config.contrast_dim} long"),
        ("positions", config.pos_embed),
    ]


def _skills(contrasts: Sequence[str], epoch: Any) -> str:
    """A table of the last epoch's errors and skills, if they are recorded."""
    columns = {key: _mapping(_mapping(epoch).get(key)) for key in _SKILLS}
    if not any(columns.values()):
        return "Not recorded."
    head = [f"| contrast | {' | '.join(_SKILLS.values())} |", "|---" * (len(_SKILLS) + 1) + "|"]
    rows = [
        f"| {name} | {' | '.join(_number(column.get(name)) for column in columns.values())} |"
        for name in contrasts
    ]
    said = (
        "In the last epoch, on z-scored voxels that were hidden. A skill is 1 - error / error of a "
        "baseline: 0 is no better, 1 is perfect. Spread is the variance of the predictions over "
        "that of the images."
    )
    return "\n".join([*head, *rows, "", said])


def _table(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _plain(value: Any) -> str:
    """A number or a plain name as text; empty for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return (f"{value:g}" if isinstance(value, float) else str(value)) if _sane(value) else ""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else ""


def _number(value: Any) -> str:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:.3f}" if known and _sane(value) else "-"


def _sane(value: float) -> bool:
    """Whether a number is one that a run could have written."""
    return abs(value) < 2**63


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _by(numbers: Any) -> str:
    return " x ".join(map(str, numbers))
