"""What scanner makers write in their own ways: their name, diffusion, and phase or magnitude.

The tags are those of the makers' conformance statements, in the blocks where their scanners put
them. Each answer is a number or one of a few fixed words. Not in the paper.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

#: How a tag is looked up: by keyword or (group, element); None if absent or empty.
Lookup = Callable[[Any], Any]

_MANUFACTURERS = {  # start of the name, lower case
    "siemens": "Siemens",
    "philips": "Philips",
    "ge ": "GE",
    "gems": "GE",
    "general electric": "GE",
    "uih": "UIH",
    "united imaging": "UIH",
    "shanghai united": "UIH",
    "canon": "Canon",
    "toshiba": "Toshiba",
    "hitachi": "Hitachi",
    "fujifilm": "Fujifilm",
    "hyperfine": "Hyperfine",
    "bruker": "Bruker",
}
_WORDS = {  # DiffusionDirectionality, and Siemens' own tag
    "NONE": "none",
    "ISOTROPIC": "isotropic",
    "DIRECTIONAL": "directional",
    "BMATRIX": "directional",
}
_GE_DIRECTIONS = {14: "none", 15: "isotropic", 43: "isotropic", 3: "directional",
                  4: "directional", 5: "directional", 16: "directional"}  # fmt: skip
_GE_B_MODULUS = 100_000  # GE adds 1e9 to some b-values
_ISOTROPIC_TOKENS = {"TRACEW", "TRACE", "ISODWI"}
_SIEMENS_SEQUENCE = re.compile(r"ep_b(\d+)(t|#\d+)?$", re.IGNORECASE)

_SIEMENS_B, _SIEMENS_DIRECTIONALITY, _SIEMENS_GRADIENT = (
    (0x0019, 0x100C),
    (0x0019, 0x100D),
    (0x0019, 0x100E),
)
_PHILIPS_B, _PHILIPS_DIRECTION = (0x2001, 0x1003), (0x2001, 0x1004)
_GE_IMAGE, _GE_DIFFUSION, _GE_B = (0x0043, 0x102F), (0x0043, 0x1030), (0x0043, 0x1039)
_GE_GRADIENT = ((0x0019, 0x10BB), (0x0019, 0x10BC), (0x0019, 0x10BD))
_UIH_B, _UIH_GRADIENT = (0x0065, 0x1009), (0x0065, 0x1037)
_SIEMENS_MOSAIC, _SIEMENS_IMAGE_TYPE = (0x0019, 0x100A), (0x0021, 0x1175)
_SIEMENS_CSA = (0x0029, 0x1010)
_GE_LOCATIONS = (0x0021, 0x104F)
#: Private tags that a header scan has to read.
PRIVATE_TAGS = (
    _SIEMENS_B, _SIEMENS_DIRECTIONALITY, _SIEMENS_GRADIENT, _SIEMENS_MOSAIC, _SIEMENS_CSA,
    _SIEMENS_IMAGE_TYPE, _PHILIPS_B, _PHILIPS_DIRECTION, _GE_IMAGE, _GE_DIFFUSION, _GE_B,
    _GE_LOCATIONS, *_GE_GRADIENT, _UIH_B, _UIH_GRADIENT,
)  # fmt: skip


def manufacturer_of(name: str) -> str:
    """``Siemens``, ``Philips``, ...; ``other`` for the rest."""
    lower = name.strip().lower() + " "
    return next(
        (word for start, word in _MANUFACTURERS.items() if lower.startswith(start)), "other"
    )


def image_type_text(manufacturer: str, get: Lookup) -> tuple[str, ...]:
    """Siemens XA's second image type, which keeps the words of older versions."""
    value = get(_SIEMENS_IMAGE_TYPE) if manufacturer == "Siemens" else None
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").split("\\")
    if isinstance(value, str):
        value = [value]
    return tuple(str(word).strip("\0 ").upper() for word in value or ())


def mosaic_slices(manufacturer: str, image_type: tuple[str, ...], get: Lookup) -> int:
    """How many slices a Siemens mosaic holds: 0 for other images, -1 if it does not say."""
    if manufacturer != "Siemens" or "MOSAIC" not in image_type:
        return 0
    return int(_number(get(_SIEMENS_MOSAIC), "<H") or -1)


def mosaic_normal(get: Lookup) -> tuple[float, ...] | None:
    """The direction in which the slices of a Siemens mosaic follow each other, LPS+.

    It stands in Siemens' own header: a name of 64 bytes, five numbers of which the fourth counts
    the items, and the items, each with its length as the second of four numbers.
    """
    content = get(_SIEMENS_CSA)
    start = content.find(b"SliceNormalVector\0") if isinstance(content, bytes) else -1
    try:
        if start < 0:
            return None
        (items,) = struct.unpack_from("<i", content, start + 76)
        place, values = start + 84, []
        for _ in range(min(items, 3)):
            (length,) = struct.unpack_from("<i", content, place + 4)
            values.append(float(content[place + 16 : place + 16 + length].split(b"\0")[0]))
            place += 16 + -(-length // 4) * 4
    except (struct.error, ValueError):
        return None
    return tuple(values) if len(values) == 3 else None


def expected_slices(manufacturer: str, get: Lookup) -> int:
    """How many slices GE says it acquired, 0 if unknown."""
    return int(_number(get(_GE_LOCATIONS), "<h") or 0) if manufacturer == "GE" else 0


def component_of(manufacturer: str, image_type: tuple[str, ...], get: Lookup) -> str:
    """``magnitude``, ``phase``, ``real`` or ``imaginary``."""
    words = {str(get("ComplexImageComponent") or "").upper(), *image_type}
    ge = _number(get(_GE_IMAGE), "<h") if manufacturer == "GE" else None
    if words & {"P", "PHASE", "PHASE MAP"} or ge == 1:
        return "phase"
    if words & {"R", "REAL"} or ge == 2:
        return "real"
    if words & {"I", "IMAGINARY"} or ge == 3:
        return "imaginary"
    return "magnitude"


def diffusion_of(
    manufacturer: str, image_type: tuple[str, ...], sequence_name: str, get: Lookup
) -> tuple[float | None, str]:
    """The b-value (s/mm2, None without) and the directionality as in ``Facts``."""
    b, direction = _public(get)
    own = {"Siemens": _siemens, "Philips": _philips, "GE": _ge, "UIH": _uih}.get(manufacturer)
    if own:
        own_b, own_direction = own(get, sequence_name)
        b = own_b if b is None else b
        direction = direction or own_direction
    if b is None:
        return None, ""
    if b == 0:
        return 0.0, "none"
    if direction in ("", "none") and _ISOTROPIC_TOKENS & set(image_type):
        direction = "isotropic"
    return b, direction if direction not in ("", "none") else "unknown"


def _public(get: Lookup) -> tuple[float | None, str]:
    word = str(get("DiffusionDirectionality") or "").upper()
    return _number(get("DiffusionBValue"), "<d"), _WORDS.get(word, "")


def _siemens(get: Lookup, sequence_name: str) -> tuple[float | None, str]:
    b = _number(get(_SIEMENS_B))
    word = get(_SIEMENS_DIRECTIONALITY)
    word = word.decode("ascii", "replace") if isinstance(word, bytes) else str(word or "")
    direction = _WORDS.get(word.strip("\0 ").upper(), "")
    found = _SIEMENS_SEQUENCE.search(sequence_name)
    if found and b is None:
        b = float(found[1])
    if not direction and found and found[2]:
        direction = "isotropic" if found[2].lower() == "t" else "directional"
    if not direction and get(_SIEMENS_GRADIENT) is not None:
        direction = "directional"
    return b, direction


def _philips(get: Lookup, _: str) -> tuple[float | None, str]:
    word = get(_PHILIPS_DIRECTION)
    word = word.decode("ascii", "replace") if isinstance(word, bytes) else str(word or "")
    letter = word.strip("\0 ").upper()[:1]
    direction = {"": "", "N": "none", "I": "isotropic"}.get(letter, "directional")
    gradient = get("DiffusionGradientOrientation")
    if not direction and gradient is not None:
        # A trace image has a b-value and a gradient of zero.
        direction = "directional" if any(float(value) for value in gradient) else "isotropic"
    return _number(get(_PHILIPS_B), "<f"), direction


def _ge(get: Lookup, _: str) -> tuple[float | None, str]:
    b = _number(get(_GE_B))
    code = _number(get(_GE_DIFFUSION), "<h")
    direction = _GE_DIRECTIONS.get(int(code or 0), "")
    if not direction and any(_number(get(tag)) for tag in _GE_GRADIENT):
        direction = "directional"  # scans with a table of gradients may have no code
    return None if b is None else b % _GE_B_MODULUS, direction


def _uih(get: Lookup, _: str) -> tuple[float | None, str]:
    return _number(get(_UIH_B), "<d"), "" if get(_UIH_GRADIENT) is None else "directional"


def _number(value: Any, binary: str = "") -> float | None:
    """The (first) number of a tag; bytes come from files that hide the type of private tags."""
    try:
        if isinstance(value, bytes):
            if binary and len(value) == struct.calcsize(binary):
                return float(struct.unpack(binary, value)[0])
            value = value.decode("ascii").strip("\0 ").split("\\")
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            return None if value is None else float(value)
        return next((float(item) for item in value), None)
    except (ValueError, TypeError):
        return None
