"""The template: which files are which contrast, and what the label's values mean.

A template is a JSON file, so that a group describes its own files without code::

    {"name": "LGG", "description": "...",
     "contrasts": {"T1": ["T1.nii*", "*_T1.nii*"], "FLAIR": ["FLAIR.nii*"]},    channel order
     "required": ["FLAIR"],
     "label": {"patterns": ["seg*"], "labels": {"background": 0, "abnormality": 1}}}

Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from amae_nnunet.contrasts import check_contrast_names
from amae_nnunet.errors import ConfigError, ContrastError

_KEYS = {"name", "description", "contrasts", "required", "label"}
_ROOM = Path(__file__).resolve().parent
#: Shipped templates: in the installed package, or beside the package in a source checkout.
_FOLDERS = (_ROOM / "templates", _ROOM.parents[1] / "nnUNet_raw_templates")
#: nnU-Net takes these channel names as an order not to z-score, which absent contrasts need.
_NORMALIZATION_NAMES = {"ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1"}


@dataclass(frozen=True)
class Template:
    """A checked template.

    Attributes:
        name: letters, digits, ``_`` and ``-``; the default name of the data set.
        description: free text for ``dataset.json``.
        contrasts: contrast -> file name patterns, in channel order.
        required: contrasts without which a case is refused.
        label_patterns: file name patterns of the label.
        labels: name -> value, 0 upwards without a gap.
    """

    name: str
    description: str
    contrasts: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    label_patterns: tuple[str, ...]
    labels: Mapping[str, int]

    @property
    def digest(self) -> str:
        """A hash of all that the template says."""
        content = json.dumps([asdict(self), list(self.contrasts)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def matches(relative: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern fits the file's path in the case folder, or its name; case is ignored."""
    path = relative.lower()
    names = (path, path.rsplit("/", 1)[-1])
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in names)


def load_template(name_or_path: str) -> Template:
    """Load a shipped template by its name, or any template by its path.

    Raises:
        ConfigError: there is no such template, or it is not a valid one.
    """
    shipped = [folder / f"{name_or_path}.json" for folder in _FOLDERS]
    path = next((path for path in shipped if path.is_file()), Path(name_or_path))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        known = sorted({file.stem for folder in _FOLDERS for file in folder.glob("*.json")})
        raise ConfigError(
            f"template {name_or_path} is not a file: give a path or one of {', '.join(known)}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"template {path.name} is not valid JSON: {error}") from None
    try:
        return _check(content)
    except (ConfigError, ContrastError) as error:
        raise ConfigError(f"template {path.name}: {error}") from None


def _check(content: Any) -> Template:
    if not isinstance(content, dict) or not {"name", "contrasts", "label"} <= set(content) <= _KEYS:
        raise ConfigError(f"the keys must be {', '.join(sorted(_KEYS))}")
    name, contrasts, label = content["name"], content["contrasts"], content["label"]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"name {name!r}: use letters, digits, '_' and '-' only")
    if not isinstance(contrasts, dict):
        raise ConfigError("contrasts must be an object of contrast -> patterns")
    for contrast in check_contrast_names(tuple(contrasts)):
        if contrast.casefold() in _NORMALIZATION_NAMES:
            raise ConfigError(
                f"contrast {contrast}: nnU-Net would not z-score it under this name, rename it"
            )
    required = content.get("required", [])
    unknown = [item for item in required if item not in contrasts]
    if not isinstance(required, list) or unknown:
        raise ConfigError(f"required must list contrasts of {', '.join(contrasts)}, not {required}")
    if not isinstance(label, dict) or set(label) != {"patterns", "labels"}:
        raise ConfigError("label must have the keys patterns and labels")
    return Template(
        name,
        str(content.get("description", "")),
        {key: _check_patterns(key, patterns) for key, patterns in contrasts.items()},
        tuple(required),
        _check_patterns("label", label["patterns"]),
        _check_labels(label["labels"]),
    )


def _check_patterns(name: str, patterns: Any) -> tuple[str, ...]:
    fine = isinstance(patterns, list) and patterns
    if not fine or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ConfigError(f"{name}: patterns must be a list of file name patterns")
    return tuple(patterns)


def _check_labels(labels: Any) -> dict[str, int]:
    whole = isinstance(labels, dict) and all(type(value) is int for value in labels.values())
    if not whole or labels.get("background") != 0 or len(labels) > 255:
        raise ConfigError("labels must be name -> whole number, with background 0")
    if sorted(labels.values()) != list(range(len(labels))):
        raise ConfigError(
            f"label values {sorted(labels.values())}: nnU-Net needs 0, 1, 2, ... without a gap"
        )
    return dict(labels)
