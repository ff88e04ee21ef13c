"""From the slices of a series to its stacks: one for each b-value, echo, component, orientation.

What is told apart here is what makes a different image. Slices that nothing tells apart and that
lie at one position are several volumes, and no stack. Not in the paper.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amae_nnunet.convert.codes import warning
from amae_nnunet.convert.dicom.headers import Slice
from amae_nnunet.convert.dicom.layout import Digest, Layout, lay_out
from amae_nnunet.convert.dicom.stack import SliceFile, Stack

_SAME_ECHO = 0.05  # ms
_SAME_B = 5.0  # s/mm2
_SAME_DIRECTION = 1e-3
_ISOTROPIC = 1.5  # longest to shortest side of a voxel
#: Makers that write b = 0 into images that have nothing to do with diffusion.
_WRITE_DUMMY_B = {"Philips", "GE"}


@dataclass(frozen=True)
class _Kind:
    """What tells the images of one series apart."""

    image_type: tuple[str, ...]
    component: str
    echo_time: float | None
    b_value: float | None
    directionality: str
    orientation: tuple[float, ...] | None


def split_series(slices: Iterable[Slice], root: Path, digest: Digest) -> list[Stack]:
    """Group slices into stacks, sorted by study, series number and what tells stacks apart.

    Args:
        slices: of any number of patients, studies and series, in any order.
        root: the input folder, to which ``Stack.folder`` is relative.
        digest: hashes the pixels of a slice; asked only about slices at one position.
    """
    series: dict[tuple[str, int, str, str], list[Slice]] = defaultdict(list)
    for slice_ in slices:
        key = (slice_.study, slice_.series_number, slice_.series, slice_.patient)
        series[key].append(slice_)
    return [
        stack
        for key in sorted(series)
        for stack in _split_one(series.pop(key), root.absolute(), digest)  # which frees them
    ]


def _split_one(slices: list[Slice], root: Path, digest: Digest) -> list[Stack]:
    slices = sorted(slices, key=lambda item: (item.instance, item.path, item.member, item.frame))
    kinds = _kinds(_without_dummy_b(slices))
    layouts = {kind: lay_out(members, digest) for kind, members in kinds.items()}
    if len(layouts) == 1:
        _expect_whole_series(slices, *layouts.values())
    stacks = []
    highest = max((kind.b_value or 0.0 for kind in layouts), default=0.0)
    at_highest = sum(layouts[kind].volumes for kind in layouts if kind.b_value == highest)
    for kind, layout in layouts.items():
        alike = [other for other in layouts if replace(other, orientation=kind.orientation) == kind]
        at_b = [
            layouts[other].volumes
            for other in layouts
            if replace(other, directionality=kind.directionality) == kind
        ]
        siblings = [
            other.size[2]
            for other_kind, other in layouts.items()
            if other_kind.orientation == kind.orientation and other.size[:2] == layout.size[:2]
        ]
        if not layout.code:
            _expect(layout, max([*siblings, layout.slices[0].expected]))
        stacks.append(_stack(kind, layout, root, len(alike), (sum(at_b), at_highest)))
    return sorted(stacks, key=lambda stack: (stack.files[0].path, stack.files[0].frames, stack.key))


def _without_dummy_b(slices: list[Slice]) -> list[Slice]:
    """Drop b = 0 where nothing else speaks of diffusion."""
    facts = [slice_.facts for slice_ in slices]
    if facts[0].manufacturer not in _WRITE_DUMMY_B or any(
        fact.b_value or "DIFFUSION" in (*fact.image_type, fact.acquisition_contrast)
        for fact in facts
    ):
        return slices
    return [
        replace(slice_, facts=replace(slice_.facts, b_value=None, directionality=""))
        for slice_ in slices
    ]


def _kinds(slices: list[Slice]) -> dict[_Kind, list[Slice]]:
    echoes = _clusters((slice_.facts.echo_time for slice_ in slices), _SAME_ECHO)
    b_values = _clusters((slice_.facts.b_value for slice_ in slices), _SAME_B)
    orientations: list[tuple[float, ...]] = []
    kinds: dict[_Kind, list[Slice]] = defaultdict(list)
    for slice_ in slices:
        facts = slice_.facts
        kind = _Kind(
            facts.image_type,
            facts.component,
            echoes[facts.echo_time],
            b_values[facts.b_value],
            facts.directionality,
            _known_orientation(slice_.orientation, orientations),
        )
        kinds[kind].append(slice_)
    return kinds


def _clusters(values: Iterable[float | None], tolerance: float) -> dict[float | None, float | None]:
    """Each value -> the smallest of the chain of neighbours within ``tolerance``."""
    clusters: dict[float | None, float | None] = {None: None}
    last = first = -float("inf")
    for value in sorted({value for value in values if value is not None}):
        if value - last > tolerance:
            first = value
        clusters[value] = first
        last = value
    return clusters


def _known_orientation(
    orientation: tuple[float, ...] | None, known: list[tuple[float, ...]]
) -> tuple[float, ...] | None:
    """The first one met that is the same within rounding; a new one is added to ``known``."""
    if orientation is None:
        return None
    for other in known:
        if all(abs(a - b) < _SAME_DIRECTION for a, b in zip(orientation, other, strict=True)):
            return other
    known.append(orientation)
    return orientation


def _expect_whole_series(slices: Sequence[Slice], layout: Layout) -> None:
    """Doubt a series of one stack whose images are fewer than their numbers or the scanner say."""
    numbers = {slice_.instance for slice_ in slices}
    if layout.code or layout.slices[0].mosaic or layout.slices[0].frame >= 0:
        return
    missing = max(max(numbers), max(slice_.acquired for slice_ in slices)) - len(numbers)
    _expect(layout, layout.size[2] + missing)


def _expect(layout: Layout, slices: int) -> None:
    if slices > layout.size[2] and not any("W_SLICES_END" in text for text in layout.warnings):
        text = f"{layout.size[2]} slices were found where {slices} are expected"
        layout.warnings.append(warning("W_SLICES_END", text))


def _stack(
    kind: _Kind, layout: Layout, root: Path, orientations: int, volumes: tuple[int, int]
) -> Stack:
    first = layout.slices[0]
    facts = replace(
        first.facts,
        acquisition_time=min(slice_.time for slice_ in layout.slices),
        volumes_at_b=0 if kind.b_value is None else volumes[0],
        volumes_at_b_max=0 if kind.b_value is None else volumes[1],
        plane=layout.plane,
        isotropic_3d=first.facts.acquisition_type == "3D"
        and max(layout.spacing) < _ISOTROPIC * min(layout.spacing),
        size=layout.size,
        spacing=layout.spacing,
        coverage=layout.size[2] * layout.spacing[2],
        orientations=orientations,
    )
    name = repr((first.study, first.series_number, first.series, first.patient, kind))
    return Stack(
        key=hashlib.sha256(name.encode()).hexdigest()[:10],
        study=first.study,
        patient=first.patient,
        series=first.series,
        folder=Path(first.path).parent.relative_to(root).as_posix(),
        facts=facts,
        files=_files(layout.slices),
        affine=() if layout.affine is None else tuple(map(float, layout.affine.ravel())),
        code=layout.code,
        problem=layout.problem,
        warnings=tuple(layout.warnings),
    )


def _files(slices: Iterable[Slice]) -> tuple[SliceFile, ...]:
    """One entry a file, or a run of frames of one file."""
    files: list[SliceFile] = []
    for slice_ in slices:
        file = SliceFile(slice_.path, slice_.member, (slice_.frame,) if slice_.frame >= 0 else ())
        last = files[-1] if files else None
        if file.frames and last and (last.path, last.member) == (file.path, file.member):
            files[-1] = replace(last, frames=last.frames + file.frames)
        else:
            files.append(file)
    return tuple(files)
