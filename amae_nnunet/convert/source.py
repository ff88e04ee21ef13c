"""What every reader of raw studies finds: cases, and the sources of their contrasts.

A reader (folders by template, BIDS, a table, DICOM) lists ``RawCase``s and opens no voxels; the
conversion of a case asks each of its sources for the volume. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from amae_nnunet.convert.nifti import open_nifti


class Source(Protocol):
    """Where the volume of one contrast comes from. Picklable, since a worker process reads it."""

    @property
    def name(self) -> str:
        """For messages: a path relative to the case; never text of a DICOM header."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files on disk; the case is redone when one of them changes."""

    @property
    def part(self) -> str:
        """What of these files it is, if they hold more; goes into a hash and nowhere else."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the ledger keeps of it: numbers and enumerated words only."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts that came up while it was found, each ``W_CODE: text``."""

    def read(self, scratch: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The voxels ``(x, y, z)``, real and finite; the affine ``(4, 4)`` to RAS+ mm.

        Args:
            scratch: folder for what has to be unpacked; default: the system's temporary folder.

        Raises:
            CaseError: the files are not one usable volume.
        """


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file.

    Attributes:
        path: the file.
        name: its path relative to the case.
        facts: see ``Source``; with the volume, if one is named.
        warnings: see ``Source``.
        volume: which volume of a 4-D file, from 0; None for a file that has only one.
    """

    path: Path
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    volume: int | None = None

    def __post_init__(self) -> None:
        if self.volume is not None:
            object.__setattr__(self, "facts", {**self.facts, "volume": self.volume})

    @property
    def paths(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    @property
    def part(self) -> str:
        """The volume, which is among the facts."""
        return ""

    def read(self, scratch: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See ``Source.read``."""
        return open_nifti(self.path, self.name, self.volume)


@dataclass(frozen=True)
class RawCase:
    """One case, found but not opened.

    Attributes:
        case: its identifier in the data set: letters, digits, ``.``, ``_``, ``-``.
        source: what it is called in the input (a folder's name), or its identifier for DICOM.
        subject: the patient; cases of one subject never sit on both sides of a split.
        contrasts: channel -> source, in channel order.
        label: the label's source, None without one.
        split: the split that the input itself names, None for the command's.
        unmatched: NIfTI files, relative to the case, that are nothing.
        code: why the case cannot be converted (a key of ``CODES``), empty if it can.
        problem: the same in one line.
        warnings: doubts about the case as a whole, each ``W_CODE: text``.
        id_key: mark of the key that its identifier is hashed with, empty for a name kept.
        named: its user has called it so, in a table.
    """

    case: str
    source: str
    subject: str
    contrasts: Mapping[str, Source] = field(default_factory=dict)
    label: NiftiFile | None = None
    split: str | None = None
    unmatched: tuple[str, ...] = ()
    code: str = ""
    problem: str = ""
    warnings: tuple[str, ...] = ()
    id_key: str = ""
    named: bool = False
