"""One picture per case, for the eye that checks a conversion: a row per contrast, axial slices.

Slices are axial only, so that no face can be seen, and the file carries pixels and nothing else.
Left in the picture is the patient's right. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import generate_binary_structure, maximum_filter

_SLICES = 8
_WIDTH = 1000  # px, of the whole picture; also bounds the height of a row
_GAP = 2  # px between tiles
_TEXT = 14  # px
_LINE = 22  # px, height of the line of slice numbers and of the band of an absent contrast
_NAME_WIDTHS = (48, 160)  # px, of the column of names
_WINDOW = (1.0, 99.5)  # percentiles of what is not zero; less at the top would drown lesions
_AIR = 0.08  # of the window's upper end: what is darker is cut off where it surrounds the head
_GREY, _DIM, _BAND, _RED = (220, 220, 220), (140, 140, 140), (38, 38, 38), (255, 45, 45)
_QUALITY = 50
_CROSS = generate_binary_structure(2, 1)


def montage(
    channels: Mapping[str, np.ndarray | None],
    label: np.ndarray | None,
    spacing: Sequence[float],
) -> Image.Image:
    """Draw one case.

    Args:
        channels: contrast -> voxels ``(z, y, x)`` on one LPS grid, None if it is absent; in
            channel order, at least one of them not None.
        label: label values ``(z, y, x)`` on the same grid, 0 the background; outlined in red.
        spacing: of the grid, ``(x, y, z)`` in mm.

    Returns:
        An RGB image at most 1000 px wide: up to eight slices over the extent of the head, among
        them the one with the most label.
    """
    present = {name: voxels for name, voxels in channels.items() if voxels is not None}
    windows = {name: _window(voxels) for name, voxels in present.items()}
    z, y, x = _head(present, windows, label)
    slices = _choose_slices(z, label)
    font = ImageFont.load_default(_TEXT)
    widest = max(font.getlength(name) for name in channels)
    left = int(np.clip(widest + 24, *_NAME_WIDTHS))
    tile = _tile_size((x.stop - x.start) * spacing[0], (y.stop - y.start) * spacing[1], left)
    columns = [left + number * (tile[0] + _GAP) for number in range(len(slices))]
    heights = [_LINE if voxels is None else tile[1] for voxels in channels.values()]
    size = (columns[-1] + tile[0], _LINE + sum(heights) + _GAP * (len(heights) - 1))
    picture = Image.new("RGB", size)
    draw = ImageDraw.Draw(picture)
    draw.text((5, _LINE / 2), "slice", _DIM, font, "lm")
    for column, index in zip(columns, slices, strict=True):
        draw.text((column + tile[0] / 2, _LINE / 2), str(index + 1), _DIM, font, "mm")
    top = _LINE
    for (name, voxels), height in zip(channels.items(), heights, strict=True):
        draw.text((5, top + height / 2), name, _GREY, font, "lm")
        if voxels is None:
            draw.rectangle((left, top, size[0], top + height - 1), _BAND)
            draw.text((left + 8, top + height / 2), "absent", _DIM, font, "lm")
        else:
            for column, index in zip(columns, slices, strict=True):
                outlined = None if label is None else label[index, y, x]
                drawn = _draw_slice(voxels[index, y, x], windows[name], outlined, tile)
                picture.paste(drawn, (column, top))
            draw.text((left - 3, top + height / 2), "R", _DIM, font, "rm")
        top += height + _GAP
    return picture


def save_montage(image: Image.Image, path: Path) -> None:
    """Write the picture as WebP (about 30 kB), the same bytes each time and no metadata."""
    image.save(path, "WEBP", quality=_QUALITY, method=4, use_sharp_yuv=True)


def _window(voxels: np.ndarray) -> tuple[float, float]:
    """The values shown as black and as white."""
    thinned = voxels[:: max(1, len(voxels) // 32), ::2, ::2]
    values = thinned[thinned != 0]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, _WINDOW)
    return float(low), float(high if high > low else low + 1)


def _head(
    present: Mapping[str, np.ndarray],
    windows: Mapping[str, tuple[float, float]],
    label: np.ndarray | None,
) -> tuple[slice, slice, slice]:
    """The box ``(z, y, x)`` that holds what is brighter than air in any contrast, and the label."""
    shape = next(iter(present.values())).shape
    profiles = [np.zeros(length, int) for length in shape]
    for name, voxels in present.items():
        bright = voxels > _AIR * windows[name][1]
        for axis, profile in enumerate(profiles):
            others = tuple(other for other in range(3) if other != axis)
            # a few noisy voxels of air are not the head
            profile |= bright.mean(others) > 0.01
    if label is not None:
        for axis, profile in enumerate(profiles):
            profile |= label.any(tuple(other for other in range(3) if other != axis))
    z, y, x = (_extent(profile) for profile in profiles)
    return z, y, x


def _extent(profile: np.ndarray) -> slice:
    places = np.flatnonzero(profile)
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, len(profile))


def _choose_slices(z: slice, label: np.ndarray | None) -> list[int]:
    """Up to eight slices, evenly over ``z``; the nearest one gives way to that of most label."""
    count = min(_SLICES, z.stop - z.start)
    step = (z.stop - z.start) / count
    chosen = [int(z.start + step * (number + 0.5)) for number in range(count)]
    if label is not None and label.any():
        most = int(np.count_nonzero(label, axis=(1, 2)).argmax())
        nearest = min(range(count), key=lambda number: abs(chosen[number] - most))
        chosen[nearest] = most
    return chosen


def _tile_size(width: float, height: float, left: int) -> tuple[int, int]:
    """Width and height of a tile in px from those of the slice in mm."""
    available = (_WIDTH - left) // _SLICES - _GAP
    scale = min(available / width, 2 * available / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _draw_slice(
    values: np.ndarray,
    window: tuple[float, float],
    label: np.ndarray | None,
    size: tuple[int, int],
) -> Image.Image:
    """One tile; the outline runs around the label, so that what is inside of it can be seen."""
    low, high = window
    grey = ((values.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255)
    tile = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    drawn = np.array(tile.convert("RGB"))
    if label is not None and label.any():
        scaled = Image.fromarray(label.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        values_there = np.asarray(scaled)
        drawn[maximum_filter(values_there, footprint=_CROSS) > values_there] = _RED
    return Image.fromarray(drawn)
