"""Diffusion images in NIfTI whose name does not say whether they are trace-weighted.

FSL's ``.bval`` and ``.bvec`` beside the image tell: a trace-weighted image stands alone at its
b-value and has no direction. Only headers are read. Not in the paper.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib

from amae_nnunet.convert.codes import warning
from amae_nnunet.convert.source import NiftiFile

_WANTED_B = 1000.0  # s/mm2, the b-value of clinical trace images
_USUAL_B = (700.0, 2000.0)
_SAME_B = 50.0  # scanners write 995 or 1005 for 1000, and 5 for 0


def trace_file(file: NiftiFile) -> NiftiFile | str:
    """The trace-weighted volume of a diffusion image, or why it has none.

    Without a ``.bval`` an image of one volume is taken for it. An image that cannot be opened is
    returned as it is, since the conversion then says what is wrong with it.
    """
    try:
        shape = nib.load(file.path).shape
    except Exception:  # whatever nibabel raises, the conversion will report it
        return file
    volumes = math.prod(shape[3:])
    table = _table(file.path, "bval")
    if table is None:
        return file if volumes == 1 else f"{volumes} volumes without a .bval file"
    b_values = [value for row in table for value in row]
    if len(b_values) != volumes:
        return f"{len(b_values)} b-values for {volumes} volumes"
    weighted = [value for value in b_values if value > _SAME_B]
    if not weighted:
        return "b-value 0"
    chosen = min(weighted, key=lambda value: abs(value - _WANTED_B))
    places = [place for place, b in enumerate(b_values) if abs(b - chosen) <= _SAME_B]
    if len(places) > 1:
        return f"{len(places)} volumes at b-value {chosen:g}: directions, no trace image"
    if _has_direction(file.path, places[0]):
        return f"b-value {chosen:g} in one direction only"
    doubt = warning("W_B_VALUE", f"TRACE has b = {chosen:g} s/mm2")
    return replace(
        file,
        facts={**file.facts, "b_value": chosen},
        warnings=() if _USUAL_B[0] <= chosen <= _USUAL_B[1] else (doubt,),
        volume=places[0] if volumes > 1 else None,
    )


def _has_direction(path: Path, place: int) -> bool:
    rows = _table(path, "bvec") or []
    return any(abs(row[place]) > 0 for row in rows if place < len(row))


def _table(path: Path, kind: str) -> list[list[float]] | None:
    """The numbers of the file of the same name that ends in ``kind``; None if there are none."""
    sidecar = path.parent / re.sub(r"\.nii(\.gz)?$", f".{kind}", path.name, flags=re.IGNORECASE)
    try:
        lines = sidecar.read_text(encoding="utf-8").splitlines()
        return [[float(word) for word in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError):
        return None
