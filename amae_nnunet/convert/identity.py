"""Identifiers that tell nothing: keyed hashes of what names a study and a patient.

``HMAC-SHA256(key, text)``, cut to 12 hexadecimal digits. Whoever has the key can find a case's
study again; the key lies outside of every data set, and without it the identifiers cannot be
guessed from lists of names. Not in the paper.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amae_nnunet.convert.codes import CODES
from amae_nnunet.convert.source import NiftiFile, RawCase, Source
from amae_nnunet.errors import ConfigError
from amae_nnunet.whole import write_whole

_DIGITS = 12  # 48 bits: two of 45,000 studies meet with a chance of 4 in a million
_MIN_KEY = 16  # bytes
_HASHED = re.compile(rf"c[0-9a-f]{{{_DIGITS}}}")
_log = logging.getLogger(__name__)


def default_key_file() -> Path:
    """``amae-nnunet/id.key`` in the user's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "amae-nnunet" / "id.key"


@dataclass(frozen=True)
class Identities:
    """Makes identifiers with one secret key."""

    key: bytes

    @classmethod
    def from_file(cls, path: Path, make: bool = True) -> Identities:
        """Read the key, or make the file (readable for its owner only) with a new one.

        Args:
            path: the file.
            make: whether it may be made; not where cases have names already.

        Raises:
            ConfigError: it cannot be read or made, or is shorter than 16 bytes.
        """
        try:
            if make:
                _make_key(path)
            key = path.read_bytes().strip()
        except FileNotFoundError:
            raise ConfigError(
                f"key file {path} is not there, and no new one is made where cases have names "
                "already: give the key used so far with --key, or choose another data set"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"key file {path}: {error.strerror}: give another with --key"
            ) from None
        if len(key) < _MIN_KEY:
            raise ConfigError(f"key file {path} is shorter than {_MIN_KEY} bytes: remove it")
        return cls(key)

    @property
    def mark(self) -> str:
        """What tells the key from others; the key cannot be found from it."""
        return self._digest("key", "")

    def case(self, study: str) -> str:
        """The identifier of a study (StudyInstanceUID, or a case's name)."""
        return f"c{self._digest('study', study)}"

    def made(self, cases: Mapping[str, str]) -> bool:
        """Whether this key may have named ``cases`` (identifier -> study), some by hand since."""
        hashed = [case for case in cases if _HASHED.fullmatch(case)]
        return not hashed or any(case == self.case(cases[case]) for case in hashed)

    def subject(self, patient: str) -> str:
        """The identifier of a patient (PatientID, or a BIDS subject)."""
        return f"s{self._digest('patient', patient)}"

    def _digest(self, kind: str, text: str) -> str:
        message = f"{kind}:{text}".encode(errors="surrogateescape")  # names are not always UTF-8
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:_DIGITS]


def _make_key(path: Path) -> None:
    """Make the file, whole at once: of several runs one makes it, and the others read that."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    write_whole(mine, secrets.token_hex(32) + "\n", mode=0o600)
    try:
        os.link(mine, path)
    except FileExistsError:
        return
    except OSError:  # a disk without hard links
        mine.replace(path)
    finally:
        mine.unlink(missing_ok=True)
    _log.info("new key: %s: keep it, only with it can studies be found again or added", path)


def hash_cases(cases: Sequence[RawCase], ids: Identities) -> list[RawCase]:
    """Cases whose names are taken from files and folders, without these names."""
    hashed = []
    for raw in cases:
        case = ids.case(raw.case)
        hashed.append(
            replace(
                raw,
                case=case,
                source=case,
                subject=ids.subject(raw.subject),
                contrasts={
                    name: _renamed(source, f"{name} image")
                    for name, source in raw.contrasts.items()
                },
                label=_renamed(raw.label, "label image") if raw.label else None,
                unmatched=(),
                problem=CODES[raw.code] if raw.code else "",
                id_key=ids.mark,
            )
        )
    return hashed


def _renamed(file: Source, name: str) -> NiftiFile:
    assert isinstance(file, NiftiFile), file  # DICOM studies have no names to take away
    warnings = tuple(text.split(":")[0] for text in file.warnings)  # their texts name files
    return replace(file, name=name, warnings=warnings)
