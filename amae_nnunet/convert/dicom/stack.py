"""A stack: the slices of one series that make one 3-D volume, and what their headers say.

A series may hold several volumes (b-values, echoes, magnitude and phase); the rules name stacks,
not series. Not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Facts:
    """What the headers of one stack say, under DICOM's own keywords in snake case.

    Text (descriptions, names) is for the rules and the user's private ``series.tsv`` only; none of
    it reaches the data set. Numbers are None where the header is silent.

    Attributes:
        sop_class: name of the SOP class: ``MR``, ``EnhancedMR``, ``LegacyEnhancedMR``, or its UID.
        image_type: union of ImageType and, on Siemens XA, of the private ImageTypeText; upper case.
        b_value: s/mm2, of whichever public or vendor tag holds it.
        directionality: ``none`` (b = 0), ``isotropic`` (trace-weighted), ``directional``,
            ``unknown`` (b > 0 and no tag says), or ``""`` (no diffusion).
        volumes_at_b: how many volumes of the series have this b-value.
        volumes_at_b_max: how many volumes of the series have its highest b-value.
        component: ``magnitude``, ``phase``, ``real`` or ``imaginary``.
        plane: ``axial``, ``coronal``, ``sagittal`` or ``oblique``.
        isotropic_3d: 3-D acquisition whose voxel sides differ by less than a factor of 1.5.
        size: voxels (x, y, z) of the stack; spacing: mm; coverage: mm along the slice normal.
    """

    modality: str = ""
    sop_class: str = ""
    manufacturer: str = ""  # Siemens, Philips, GE, UIH, Canon, Toshiba, Hitachi, ... or other
    image_type: tuple[str, ...] = ()
    series_description: str = ""
    protocol_name: str = ""
    sequence_name: str = ""
    image_comments: str = ""
    body_part: str = ""
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    scan_options: tuple[str, ...] = ()
    acquisition_type: str = ""  # 2D or 3D
    acquisition_contrast: str = ""
    contrast_agent: str = ""
    component: str = "magnitude"
    samples_per_pixel: int = 1
    burned_in: bool = False
    field_strength: float | None = None  # T
    echo_time: float | None = None  # ms
    repetition_time: float | None = None  # ms
    inversion_time: float | None = None  # ms
    flip_angle: float | None = None  # degrees
    b_value: float | None = None
    directionality: str = ""
    volumes_at_b: int = 0
    volumes_at_b_max: int = 0
    series_number: int = 0
    acquisition_time: str = ""  # HHMMSS.ffffff, compared as text; never written to the data set
    frame_of_reference: str = ""  # UID, compared only
    plane: str = ""
    isotropic_3d: bool = False
    size: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    coverage: float = 0.0
    orientations: int = 1  # different slice orientations in the series part this stack came from


@dataclass(frozen=True, slots=True)
class SliceFile:
    """One file of a stack: a classic slice, or a multi-frame file.

    Attributes:
        path: on disk.
        member: inside a zip archive, empty if the file is the slice itself.
        frames: of a multi-frame file, the frame numbers (0-based) that belong to the stack, in
            slice order; empty for a classic slice.
    """

    path: str
    member: str = ""
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stack:
    """The slices of one volume.

    Attributes:
        key: stable name of the stack: a hash of the series UID and of what split it off.
        study: StudyInstanceUID. patient: PatientID. series: SeriesInstanceUID. Never written to
            the data set.
        folder: where the first file lies, relative to the input folder (private).
        facts: what the headers say.
        files: in slice order.
        affine: RAS+ mm affine that the headers promise, row by row, empty without geometry.
        code: why it cannot be a volume (a key of ``CODES``), empty if it can.
        problem: the same in one line.
        warnings: doubts, each ``W_CODE: text``.
    """

    key: str
    study: str
    patient: str
    series: str
    folder: str
    facts: Facts
    files: tuple[SliceFile, ...] = ()
    affine: tuple[float, ...] = ()
    code: str = ""
    problem: str = ""
    warnings: tuple[str, ...] = field(default_factory=tuple)
