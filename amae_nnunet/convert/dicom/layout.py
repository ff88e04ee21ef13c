"""Where the slices of a stack lie, by their positions alone, and what keeps them from a volume.

Tools that build volumes average over missing slices and uneven distances without a word, so both
are looked for here before any of them runs. Not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from amae_nnunet.convert.codes import CaseError, warning
from amae_nnunet.convert.dicom.headers import Slice

#: The pixels of a slice as a hash; what cannot be read gets one of its own.
Digest = Callable[[Slice], str]

_SAME_POSITION = 0.01  # mm
_MAX_DEVIATION = (0.01, 0.1)  # of the spacing, mm: the larger counts
_MAX_COSINE = 1e-3  # between rows and columns
_GAP = 1.5  # in spacings: from here on a slice is missing
_PLANES = ("sagittal", "coronal", "axial")
_MIN_COSINE = 0.8  # of the normal with an axis of the body, else oblique
_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_AGAIN = "export the series again"
_NAMED = 5  # places of missing slices that a message names


@dataclass
class Layout:
    """How the slices of one stack lie; filled as far as the check came.

    Attributes:
        slices: in the order of their positions, without copies.
        volumes: how often the most frequent position is there.
        size: voxels (x, y, z). spacing: mm. plane: as in ``Facts``.
        affine: ``(4, 4)`` RAS+ mm, None if unknown.
        code, problem: as in ``Stack``. warnings: likewise.
    """

    slices: list[Slice]
    volumes: int = 1
    size: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    plane: str = ""
    affine: np.ndarray | None = None
    code: str = ""
    problem: str = ""
    warnings: list[str] = field(default_factory=list)


def lay_out(slices: Sequence[Slice], digest: Digest) -> Layout:
    """Order the slices of one stack and check that they fill a box evenly."""
    layout = Layout(_drop_copies(slices))
    if len(layout.slices) < len(slices):
        count = len(slices) - len(layout.slices)
        layout.warnings.append(warning("W_DUPLICATES", f"{count} files were there twice"))
    try:
        _check_alike(layout)
        if layout.slices[0].mosaic:
            _place_mosaic(layout)
        else:
            _place(layout, digest)
    except CaseError as error:
        layout.code, layout.problem = error.code, error.message
    return layout


def _drop_copies(slices: Sequence[Slice]) -> list[Slice]:
    """One file of each instance; a whole one if there is any."""
    kept: dict[object, Slice] = {}
    for slice_ in sorted(slices, key=lambda item: bool(item.code)):
        identity = (slice_.instance_uid or slice_.path, slice_.frame, slice_.position)
        kept.setdefault(identity, slice_)
    chosen = {id(slice_) for slice_ in kept.values()}
    return [slice_ for slice_ in slices if id(slice_) in chosen]


def _check_alike(layout: Layout) -> None:
    """Every slice is whole, has a position and is like the first; fills what that says.

    Raises:
        CaseError: one is not.
    """
    first = layout.slices[0]
    layout.size = (*first.size, len(layout.slices))
    for slice_ in layout.slices:
        which = f"image {slice_.instance} of the series"
        if slice_.code:
            raise CaseError(slice_.code, f"{which}: {slice_.problem}: {_AGAIN}")
        if slice_.position is None or slice_.orientation is None or slice_.spacing is None:
            raise CaseError("E_NO_GEOMETRY", f"{which} has no position or pixel spacing: {_AGAIN}")
        if slice_.size != first.size or not np.allclose(
            slice_.spacing, first.spacing or (), rtol=1e-3
        ):
            raise CaseError(
                "E_MATRIX",
                f"{which} has {_shown(slice_)}, image {first.instance} has {_shown(first)}: "
                "keep the images of one size",
            )
    assert first.spacing is not None
    layout.spacing = (*first.spacing, first.gap or 0.0)
    if min(*first.size, *first.spacing) <= 0 or abs(np.linalg.det(_axes(first))) < 0.5:
        raise CaseError("E_NO_GEOMETRY", f"the geometry of the images is not valid: {_AGAIN}")
    if first.facts.samples_per_pixel != 1:
        raise CaseError("E_TYPE", "the images are in colour: choose another series")
    layout.plane = _plane(_axes(first)[:, 2])
    if abs(_axes(first)[:, 0] @ _axes(first)[:, 1]) > _MAX_COSINE:
        raise CaseError("E_SHEAR", f"rows and columns are not at right angles: {_AGAIN}")


def _place_mosaic(layout: Layout) -> None:
    """Size and affine of the volume in a mosaic.

    The position in its header is that of the first slice, were it as large as the whole mosaic.

    Raises:
        CaseError: it does not say what it holds, or there are several.
    """
    first = layout.slices[0]
    layout.volumes = len(layout.slices)
    if first.mosaic < 0:
        raise CaseError(
            "E_FRAMES", f"a mosaic that does not say how many slices it holds: {_AGAIN}"
        )
    tiles = math.ceil(math.sqrt(first.mosaic))
    layout.size = (first.size[0] // tiles, first.size[1] // tiles, first.mosaic)
    if layout.volumes > 1:
        raise _several_volumes(layout.volumes)
    axes = _axes(first)
    along = float(axes[:, 2] @ (first.normal or (0, 0, 0)))
    if abs(along) < _MIN_COSINE or layout.spacing[2] <= 0:
        raise CaseError("E_NO_GEOMETRY", f"a mosaic that does not say how slices lie: {_AGAIN}")
    columns = axes * layout.spacing * [1, 1, math.copysign(1, along)]
    corner = (np.array(first.size) - layout.size[:2]) / 2
    origin = np.array(first.position) + columns[:, :2] @ corner
    layout.affine = _ras(columns, origin)


def _place(layout: Layout, digest: Digest) -> None:
    """Order the slices, and give the affine.

    Raises:
        CaseError: slices are missing, there twice, uneven or shifted.
    """
    axes = _axes(layout.slices[0])
    positions = np.array([slice_.position for slice_ in layout.slices])
    heights = positions @ axes[:, 2]
    order = np.argsort(heights, kind="stable")
    starts = np.flatnonzero(np.diff(heights[order], prepend=-np.inf) > _SAME_POSITION)
    places = [[layout.slices[i] for i in group] for group in np.split(order, starts[1:])]
    layout.volumes = max(map(len, places))
    layout.size = (*layout.size[:2], len(places))
    if len(places) > 1:
        levels = heights[order][starts]
        layout.spacing = (*layout.spacing[:2], float(np.median(np.diff(levels))))
    layout.slices = [slice_ for place in places for slice_ in place]
    if layout.volumes > 1:
        layout.slices = _without_repeats(places, digest, layout.warnings)
    if len(places) < 2:
        raise CaseError("E_FEW_SLICES", "one slice is no volume: choose another series")
    positions = np.array([slice_.position for slice_ in layout.slices])
    heights = positions @ axes[:, 2]
    step = (positions[-1] - positions[0]) / (len(places) - 1)
    _check_even(heights, layout.spacing[2])
    across = positions - positions[0] - np.outer(heights - heights[0], axes[:, 2])
    shift = float(np.linalg.norm(across, axis=1).max())
    if shift > _allowed(layout.spacing[2]):
        raise CaseError(
            "E_SHEAR",
            f"the slices are shifted by up to {shift:.2f} mm against each other, as by a tilted "
            "gantry: resample the series to a rectangular grid",
        )
    layout.spacing = (*layout.spacing[:2], float(np.linalg.norm(step)))
    layout.affine = _ras(np.c_[axes[:, :2] * layout.spacing[:2], step], positions[0])


def _without_repeats(places: list[list[Slice]], digest: Digest, warnings: list[str]) -> list[Slice]:
    """One slice for each position if the others are copies of it, pixel by pixel.

    Raises:
        CaseError: they are not: several volumes, or a position with two images.
    """
    repeated = [place for place in places if len(place) > 1]
    for place in repeated:
        if len({digest(slice_) for slice_ in place}) == 1:
            continue
        if len(repeated) > len(places) / 2:
            raise _several_volumes(max(map(len, places)))
        numbers = " and ".join(str(slice_.instance) for slice_ in place)
        raise CaseError(
            "E_DUPLICATE_POSITION",
            f"images {numbers} of the series lie at one position and differ: remove the wrong one",
        )
    count = sum(map(len, places)) - len(places)
    warnings.append(warning("W_DUPLICATES", f"{count} slices were there twice, pixel by pixel"))
    return [min(place, key=lambda slice_: slice_.instance) for place in places]


def _check_even(heights: np.ndarray, spacing: float) -> None:
    distances = np.diff(heights)
    wide = np.flatnonzero(distances > _GAP * spacing)
    if wide.size:
        raise CaseError(
            "E_MISSING_SLICES",
            f"slices {wide[0] + 1} and {wide[0] + 2} of {len(heights)} are "
            f"{distances[wide[0]]:.2f} mm apart, others {spacing:.2f} mm: there is no slice at "
            f"{_holes(heights, spacing)} mm (slice location): {_AGAIN}, or choose another",
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    deviation = max(np.abs(distances - spacing).max(), np.abs(heights - even).max())
    if deviation > _allowed(spacing):
        raise CaseError(
            "E_NONUNIFORM",
            f"the distance between slices varies from {distances.min():.2f} to "
            f"{distances.max():.2f} mm: resample the series to even distances",
        )


def _holes(heights: np.ndarray, spacing: float) -> str:
    """Where slices are missing: places along the normal, as ``SliceLocation`` counts them."""
    missing = [
        f"{place:.1f}"
        for low, high in pairwise(heights)
        for place in np.linspace(low, high, round((high - low) / spacing), endpoint=False)[1:]
    ]
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return ", ".join(missing[:_NAMED]) + more


def _allowed(spacing: float) -> float:
    return max(_MAX_DEVIATION[0] * spacing, _MAX_DEVIATION[1])


def _several_volumes(volumes: int) -> CaseError:
    return CaseError(
        "E_4D",
        f"{volumes} volumes that no b-value, echo or kind of image tells apart: use a "
        "series that holds one",
    )


def _axes(slice_: Slice) -> np.ndarray:
    """Directions of growing column, row and slice as columns ``(3, 3)``, LPS+."""
    row, column = np.reshape(np.array(slice_.orientation, dtype=np.float64), (2, 3))
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) == 0:
        return np.zeros((3, 3))
    across, down = row / lengths[0], column / lengths[1]
    return np.c_[across, down, np.cross(across, down)]


def _ras(columns: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """The affine ``(4, 4)`` to RAS+ mm of axes ``(3, 3)`` and origin in LPS+ mm."""
    affine = np.eye(4)
    affine[:3] = _TO_RAS @ np.c_[columns, origin]
    return affine


def _plane(normal: np.ndarray) -> str:
    axis = int(np.abs(normal).argmax())
    return _PLANES[axis] if abs(normal[axis]) >= _MIN_COSINE else "oblique"


def _shown(slice_: Slice) -> str:
    spacing = " x ".join(f"{size:g}" for size in slice_.spacing or ())
    return f"{slice_.size[0]} x {slice_.size[1]} pixels of {spacing} mm"
