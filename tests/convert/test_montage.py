import numpy as np
import pytest
from PIL import Image

from amae_nnunet.convert.montage import montage, save_montage

SHAPE = (24, 60, 50)  # z, y, x
LINE = 22  # px, of a line of text
LEFT = 48  # px, of the column of short names
RED = (255, 45, 45)


def head(seed=0, shape=SHAPE):
    """A bright ellipsoid in exact air."""
    axes = [np.linspace(-1.2, 1.2, length) for length in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    values = np.random.default_rng(seed).uniform(80, 100, shape)
    return np.where(z**2 + y**2 + x**2 < 1, values, 0).astype(np.float32)


def box(z, y, x, value=1):
    label = np.zeros(SHAPE, np.uint8)
    label[z, y, x] = value
    return label


def red(picture):
    return (np.asarray(picture) == RED).all(-1)


def tile_of(picture, channels=1):
    """Height of the one row of slices, and the columns in which anything is drawn."""
    drawn = np.asarray(picture)[LINE:, 60:].max(-1) > 40
    return (picture.height - LINE) // channels, drawn


@pytest.mark.parametrize(
    ("spacing", "aspect"), [((1, 1, 5), 1.2), ((2, 1, 5), 0.6), ((0.5, 1, 5), 2.4)]
)
def test_tiles_have_the_shape_of_the_slice_in_millimetres(spacing, aspect):
    voxels = np.random.default_rng(0).uniform(50, 100, SHAPE)  # no air: nothing is cut off
    picture = montage({"T1": voxels}, None, spacing)
    height, drawn = tile_of(picture)
    columns = drawn.any(0)
    starts = np.flatnonzero(columns[1:] & ~columns[:-1])
    width = np.diff(starts)[0] - 2
    assert height / width == pytest.approx(aspect, rel=0.03)
    assert picture.width <= 1000


def test_a_row_a_contrast_and_a_band_for_what_is_absent():
    one = montage({"T1": head()}, None, (1, 1, 5))
    both = montage({"T1": head(), "T2": head(1)}, None, (1, 1, 5))
    row = one.height - LINE
    assert both.height == one.height + row + 2
    band = montage({"T1": head(), "T2": None}, None, (1, 1, 5))
    assert band.height == one.height + LINE + 2
    assert np.array_equal(np.asarray(band)[: one.height], np.asarray(one))
    assert band.getpixel((band.width - 3, band.height - 3)) == (38, 38, 38)
    text = np.asarray(band)[-LINE:, 56:120].max()
    assert text > 100  # the word in the band


def test_the_order_is_that_of_the_channels():
    bright, striped = head(), head()
    striped[:, ::2] = 0
    one = np.asarray(montage({"A": bright, "B": striped}, None, (1, 1, 5)))
    other = np.asarray(montage({"A": striped, "B": bright}, None, (1, 1, 5)))
    row = (one.shape[0] - LINE - 2) // 2
    first, second = slice(LINE, LINE + row), slice(LINE + row + 2, None)
    assert np.array_equal(one[first, 60:], other[second, 60:])
    assert not np.array_equal(one[first, 60:], one[second, 60:])


@pytest.mark.parametrize(("front", "right"), [(1, 1), (1, 0), (0, 1)])
def test_the_front_is_above_and_the_right_is_left(front, right):
    voxels = np.full((1, 60, 50), 50.0)  # LPS: low y is the front, low x the patient's right
    voxels[:, slice(30) if front else slice(30, 60), slice(25) if right else slice(25, 50)] = 100
    tile = np.asarray(montage({"T1": voxels}, None, (1, 1, 5))).max(-1)[LINE:, LEFT:]
    means = [
        [part.mean() for part in np.array_split(half, 2, 1)] for half in np.array_split(tile, 2)
    ]
    assert np.unravel_index(np.argmax(means), (2, 2)) == (1 - front, 1 - right)


@pytest.mark.parametrize("z", [0, 3, 11, 12, 23])
def test_the_slice_with_most_label_is_shown(z):
    label = box(z, slice(25, 35), slice(20, 30))
    assert red(montage({"T1": head()}, label, (1, 1, 5))).any()
    small = label | box((z + 7) % 24, 30, 25)
    assert red(montage({"T1": head()}, small, (1, 1, 5))).sum() >= 60


def test_the_outline_runs_around_the_label_and_leaves_its_inside_visible():
    label = box(slice(4, 20), slice(25, 35), slice(20, 30))  # slice 4 is shown in any case
    plain = np.asarray(montage({"T1": head()}, None, (1, 1, 5)))
    outlined = montage({"T1": head()}, label, (1, 1, 5))
    changed = (plain != np.asarray(outlined)).any(-1)
    assert np.array_equal(changed, red(outlined))
    assert 8 * 40 < changed.sum() < 8 * 140  # eight outlines, not eight areas


def test_values_inside_the_label_are_parted_too():
    one = box(slice(None), slice(20, 40), slice(15, 35))
    two = one + box(slice(None), slice(25, 35), slice(20, 30))
    count = [red(montage({"T1": head()}, label, (1, 1, 5))).sum() for label in (one, two)]
    assert count[1] > 1.3 * count[0]


@pytest.mark.parametrize("depth", [1, 3, 8, 200])
def test_there_are_eight_slices_or_as_many_as_there_are(depth):
    picture = montage({"T1": np.full((depth, 30, 30), 9.0)}, None, (1, 1, 3))
    drawn = np.asarray(picture)[:LINE, 60:].max(-1).max(0) > 90  # the slice numbers
    gaps = np.diff(np.flatnonzero(drawn))
    assert (gaps > 40).sum() + 1 == min(8, depth)
    one = montage({"T1": np.full((1, 30, 30), 9.0)}, None, (1, 1, 3))
    assert picture.height == one.height


def test_air_around_the_head_is_cut_off_but_never_a_label():
    wide = np.zeros((24, 180, 150), np.float32)
    wide[:, 60:120, 50:100] = head()
    tight, cut = (montage({"T1": voxels}, None, (1, 1, 5)) for voxels in (head(), wide))
    assert np.array_equal(np.asarray(tight), np.asarray(cut))
    label = np.zeros(wide.shape, np.uint8)
    label[:, 2:6, 2:6] = 1
    assert red(montage({"T1": wide}, label, (1, 1, 5))).any()


def test_the_window_is_robust_to_one_bright_voxel():
    spiked = head()
    spiked[12, 30, 24] = 1e6
    plain, other = (montage({"T1": voxels}, None, (1, 1, 5)) for voxels in (head(), spiked))
    assert np.abs(np.asarray(plain, int) - np.asarray(other, int)).mean() < 1


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_any_type_and_values_below_zero_can_be_drawn(dtype):
    voxels = head().astype(dtype)
    if dtype == np.int16:
        voxels = voxels - 90
    picture = np.asarray(montage({"ADC": voxels}, None, (1, 1, 5)))[LINE:, 60:]
    assert picture.max() > 200
    assert montage({"ADC": np.full(SHAPE, 7, dtype)}, None, (1, 1, 5)).height > LINE


def test_the_file_is_small_the_same_each_time_and_bare(tmp_path):
    channels = {"T1": head(), "T2": head(1), "FLAIR": None}
    label = box(slice(9, 12), slice(25, 35), slice(20, 30))
    contents = []
    for name in ("a.webp", "b.webp"):
        image = montage(channels, label, (1, 1, 5))
        image.info.update(exif=b"Exif\0\0canary", xmp=b"canary", icc_profile=b"canary")
        save_montage(image, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert len(contents[0]) < 60_000
    assert b"canary" not in contents[0]
    with Image.open(tmp_path / "a.webp") as image:
        assert image.format == "WEBP"
        assert image.size == montage(channels, label, (1, 1, 5)).size
        assert not set(image.info) & {"exif", "xmp", "icc_profile"}


def test_long_names_do_not_push_the_slices_out():
    picture = montage({"A" * 80: head(), "T1": None}, None, (1, 1, 5))
    assert picture.width <= 1000
    assert picture.height - 2 * LINE > 100
