"""Bad NIfTI inputs. Each function gets the folder of a good case (T1, FLAIR, T1CE, seg)."""

import gzip
import os

import nibabel as nib
import numpy as np
from cli.bad_inputs import FAILS, MISSING, RIGHT, WARNS, Rows
from convert.studies import AFFINE, SHAPE, lesion, make_case, save, voxels

#: The good case: FLAIR is required.
GOOD = {"T1": voxels(0), "FLAIR": voxels(1), "T1CE": voxels(2)}
NIFTI, STUCK = Rows(), Rows()
HOSTILE = "$(touch x) ;'.."
row = NIFTI.row


def t1(case, data, affine=AFFINE, **options):
    return save(case / "T1.nii.gz", data, affine, **options)


def seg(case, data, affine=AFFINE):
    return save(case / "seg.nii.gz", data, affine)


def moved(*offset):
    """The grid shifted by so many voxels."""
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ offset
    return affine


# --- the file


@row(MISSING, "E_DAMAGED", "T1.nii.gz is damaged or not NIfTI")
def cut_gzip(case):
    """A `.nii.gz` that was cut short."""
    path = case / "T1.nii.gz"
    path.write_bytes(path.read_bytes()[:-500])


@row(MISSING, "E_DAMAGED", "T1.nii is damaged or not NIfTI")
def cut_plain(case):
    """A `.nii` that ends in the middle of its voxels."""
    (case / "T1.nii.gz").unlink()
    path = save(case / "T1.nii", GOOD["T1"])
    path.write_bytes(path.read_bytes()[: 352 + GOOD["T1"].nbytes // 2])


@row(MISSING, "E_DAMAGED", "is damaged or not NIfTI")
def cut_header(case):
    """A file that ends in its header."""
    (case / "T1.nii.gz").unlink()
    path = save(case / "T1.nii", GOOD["T1"])
    path.write_bytes(path.read_bytes()[:200])


@row(MISSING, "E_DAMAGED", "is damaged or not NIfTI")
def flipped_bit(case):
    """A `.nii.gz` in which one byte was changed on the way."""
    path = case / "T1.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@row(MISSING, "E_DAMAGED", "is damaged or not NIfTI")
def no_bytes(case):
    """An empty file."""
    (case / "T1.nii.gz").write_bytes(b"")


@row(MISSING, "E_DAMAGED", "(no NIfTI header): copy it again")
def text_file(case):
    """A file that is no image."""
    (case / "T1.nii.gz").write_text("not an image")


@row(RIGHT)
def wrong_ending(case):
    """A plain file called `.nii.gz`."""
    path = case / "T1.nii.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))


# --- the voxels


@row(MISSING, "E_NONFINITE", "T1.nii.gz has 1 NaN or infinite voxels: replace them")
def not_a_number(case):
    """A NaN voxel."""
    data = GOOD["T1"].astype(np.float32)
    data[1, 1, 1] = np.nan
    t1(case, data)


@row(MISSING, "E_NONFINITE", "T1.nii.gz has 1 NaN or infinite voxels: replace them")
def infinite(case):
    """An infinite voxel."""
    data = GOOD["T1"].astype(np.float32)
    data[1, 1, 1] = np.inf
    t1(case, data)


@row(MISSING, "E_TYPE", "do not fit 32 bits")
def too_large(case):
    """Values above those of a 32-bit float."""
    t1(case, GOOD["T1"] * 1e300)


@row(MISSING, "E_TYPE", "has colour or complex voxels (complex64)")
def complex_voxels(case):
    """Complex voxels."""
    t1(case, GOOD["T1"].astype(np.complex64))


@row(MISSING, "E_TYPE", "has colour or complex voxels (RGB)")
def colour(case):
    """A colour image."""
    t1(case, np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])))


@row(MISSING, "E_EMPTY", "T1.nii.gz has the value 0 everywhere")
def all_zero(case):
    """All voxels are 0, as in the file of an absent contrast."""
    t1(case, np.zeros(SHAPE, np.int16))


@row(MISSING, "E_EMPTY", "T1CE.nii.gz has the value 5 everywhere", contrast="T1CE")
def constant(case):
    """All voxels are the same."""
    save(case / "T1CE.nii.gz", np.full(SHAPE, 5, np.int16))


@row(RIGHT)
def unsigned(case):
    """uint16 voxels above 32767."""
    data = voxels(7).astype(np.uint16) * 65
    assert data.max() > 40000
    t1(case, data)
    return {"T1": data}


@row(RIGHT)
def large_whole_numbers(case):
    """int32 voxels beyond 16 bits."""
    data = voxels(7).astype(np.int32) * -1000
    t1(case, data)
    return {"T1": data}


@row(RIGHT)
def scaled(case):
    """Whole numbers with a scale and an offset in the header."""
    image = nib.Nifti1Image(GOOD["T1"], AFFINE)
    image.header.set_slope_inter(0.25, -7)
    image.header.set_xyzt_units("mm")
    nib.save(image, case / "T1.nii.gz")
    data = np.asanyarray(nib.load(case / "T1.nii.gz").dataobj)
    assert np.array_equal(data, GOOD["T1"] * 0.25 - 7)
    return {"T1": data}


@row(RIGHT)
def big_endian(case):
    """A file of a big-endian machine, as NIfTI-2."""
    header = nib.Nifti2Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti2Image(GOOD["T1"], AFFINE, header), case / "T1.nii.gz")


# --- what it is of


@row(MISSING, "E_4D", "T1.nii.gz is 12 x 10 x 8 x 2, not one 3-D volume")
def two_volumes(case):
    """A 4-D file."""
    t1(case, np.stack([GOOD["T1"], GOOD["T1"]], -1))


@row(RIGHT)
def one_volume_of_4d(case):
    """A 4-D file of one volume."""
    t1(case, GOOD["T1"][..., None])


@row(MISSING, "E_4D", "T1.nii.gz is 12 x 10, not one 3-D volume")
def one_slice(case):
    """A 2-D file."""
    t1(case, GOOD["T1"][:, :, 0])


@row(MISSING, "E_SHEAR", "T1.nii.gz has a sheared affine")
def sheared(case):
    """A sheared grid."""
    affine = AFFINE.copy()
    affine[0, 1] = 0.3
    t1(case, GOOD["T1"], affine)


@row(MISSING, "E_NO_GEOMETRY", "T1.nii.gz has no position in the scanner")
def no_position(case):
    """Neither sform nor qform."""
    t1(case, GOOD["T1"], codes=(0, 0))


@row(MISSING, "E_NO_GEOMETRY", "T1.nii.gz has an affine that cannot be inverted")
def flat(case):
    """An affine of two dimensions."""
    affine = AFFINE.copy()
    affine[:, 2] = affine[:, 1]
    t1(case, GOOD["T1"], affine, codes=(1, 0))


def two_affines(path, *offset, qform_code=1):
    """Shift the qform of a file by so many voxels."""
    image = nib.load(path)
    image.set_qform(moved(*offset), qform_code)
    image.set_sform(AFFINE, 1)
    nib.save(image, path)


@row(WARNS, "W_AFFINE", "sform and qform of T1.nii.gz are 12.0 mm apart at a corner")
def two_places(case):
    """sform and qform disagree: the sform is taken; an error with `--strict`."""
    two_affines(case / "T1.nii.gz", 0, 0, 4)


@row(WARNS, "W_AFFINE", "sform and qform of seg.nii.gz are 2.0 mm apart at a corner")
def label_of_two_places(case):
    """sform and qform of the label disagree: the sform is taken; an error with `--strict`."""
    two_affines(case / "seg.nii.gz", 1, 0, 0)


@row(RIGHT)
def nearly_one_place(case):
    """sform and qform differ by less than a tenth of a voxel."""
    two_affines(case / "T1.nii.gz", 0.09, 0, 0)


@row(RIGHT)
def qform_without_code(case):
    """A qform that differs but has the code 0."""
    two_affines(case / "T1.nii.gz", 0, 0, 4, qform_code=0)


@row(MISSING, "E_UNITS", "voxels of 0.002 x 0.002 x 0.003 mm: is its unit millimetres?")
def metres(case):
    """A grid in metres."""
    t1(case, GOOD["T1"], AFFINE @ np.diag([1e-3, 1e-3, 1e-3, 1]))


@row(MISSING, "E_UNITS", "T1.nii.gz has voxels of 2000 x 2000 x 3000 mm")
def micrometres(case):
    """A grid in micrometres."""
    t1(case, GOOD["T1"], AFFINE @ np.diag([1e3, 1e3, 1e3, 1]))


@row(MISSING, "E_COVERAGE", "T1 covers 0.0% of the grid of FLAIR")
def elsewhere(case):
    """An image of another place."""
    t1(case, GOOD["T1"], moved(250, 0, 0))


@row(FAILS, "E_COVERAGE", "FLAIR covers 0.0% of the grid of T1")
def required_elsewhere(case):
    """A required image lies elsewhere than the one the label is drawn on."""
    save(case / "FLAIR.nii.gz", GOOD["FLAIR"], moved(250, 0, 0))


@row(WARNS, "W_COVERAGE", "T1 covers 75.0% of the grid of FLAIR")
def three_quarters(case):
    """An image that covers three quarters of the case's grid; outside of it there are zeros."""
    t1(case, GOOD["T1"], moved(3, 0, 0))
    part = np.zeros(SHAPE, np.int16)
    part[3:] = GOOD["T1"][:-3]
    return {"T1": part}


@row(MISSING, "E_EMPTY", "T1 is zero on the whole grid of FLAIR")
def zero_on_the_grid(case):
    """An image with nothing but zeros where the others are."""
    data = np.zeros((14, 10, 8), np.int16)
    data[-1] = 9
    t1(case, data)


@row(RIGHT)
def other_orientation(case):
    """An image stored in another order and direction of its axes."""
    nib.save(
        nib.Nifti1Image(GOOD["T1"], AFFINE).as_reoriented([[2, -1], [0, 1], [1, -1]]),
        case / "T1.nii.gz",
    )


# --- the label


@row(FAILS, "E_LABEL_VALUES", "seg.nii.gz has label values 3 that the template does not know")
def unknown_value(case):
    """A label value that the template does not name."""
    seg(case, lesion() * 3)


@row(FAILS, "E_LABEL_VALUES", "seg.nii.gz has label values 0.5 that the template does not know")
def half_value(case):
    """A label resampled linearly."""
    seg(case, lesion() * np.float32(0.5))


@row(RIGHT)
def nearly_whole(case):
    """A label of floats within 0.001 of whole numbers."""
    seg(case, lesion() * np.float32(0.9995))


@row(WARNS, "W_EMPTY_LABEL", "the label is empty")
def empty_label(case):
    """A label without a lesion."""
    seg(case, np.zeros(SHAPE, np.uint8))
    return {"label": np.zeros(SHAPE, np.uint8)}


@row(FAILS, "E_LABEL_GRID", "seg.nii.gz lies on the grid of none of T1, FLAIR, T1CE")
def label_off_the_grid(case):
    """A label that lies on the grid of no image."""
    seg(case, lesion(), moved(0.5, 0, 0))


@row(FAILS, "E_NONFINITE", "seg.nii.gz has 1 NaN or infinite voxels")
def label_not_a_number(case):
    """A NaN in the label."""
    data = lesion().astype(np.float32)
    data[0, 0, 0] = np.nan
    seg(case, data)


@row(FAILS, "E_DAMAGED", "seg.nii.gz is damaged or not NIfTI")
def label_cut(case):
    """A label file that was cut short."""
    path = case / "seg.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])


@row(FAILS, "E_NO_LABEL", "no label: add a file named like seg.nii*")
def no_label(case):
    """A training case without a label."""
    (case / "seg.nii.gz").unlink()


# --- names, links, what is there


@row(FAILS, "E_REQUIRED", "no FLAIR (required): add a file named like FLAIR.nii*")
def no_required(case):
    """A required contrast is not there."""
    (case / "FLAIR.nii.gz").unlink()


@row(FAILS, "E_DAMAGED", "FLAIR.nii.gz is damaged")
def required_damaged(case):
    """A required contrast is damaged."""
    (case / "FLAIR.nii.gz").write_bytes(b"")


@row(FAILS, "E_AMBIGUOUS", "T1 is ambiguous (T1.nii, T1.nii.gz): leave one of them")
def two_files(case):
    """Two files that fit one contrast."""
    save(case / "T1.nii", voxels(9))


@row(FAILS, "E_LINK", "T1.nii.gz is a link out of the input folder: copy the files into it")
def link_out(case):
    """A link out of the input folder."""
    outside = case.parents[1] / "outside.nii.gz"
    (case / "T1.nii.gz").rename(outside)
    (case / "T1.nii.gz").symlink_to(outside)


@row(FAILS, "E_LINK", "T1.nii.gz is a link to nothing")
def broken_link(case):
    """A link to nothing."""
    (case / "T1.nii.gz").unlink()
    (case / "T1.nii.gz").symlink_to("gone.nii.gz")


@row(RIGHT)
def link_inside(case):
    """A link within the input folder."""
    (case / "T1.nii.gz").rename(case / "hidden.bin")
    (case / "T1.nii.gz").symlink_to("hidden.bin")


@row(RIGHT)
def loop_of_links(case):
    """A folder that links to itself."""
    (case / "again").symlink_to(case)


@row(FAILS, "E_NAME", "clash gets the same name as CLASH")
def clash(case):
    """Two cases whose names differ in upper case only: the second one fails."""
    make_case(case.parent, "CLASH")


@row(RIGHT)
def hostile_name(case):
    """A folder called `$(touch x) ;'..` and the like."""
    case.rename(case.with_name(HOSTILE))


# --- files on which a process hangs or dies


@STUCK.row(FAILS, "E_TIMEOUT", "it took more than 10 s")
def hang(case):
    """A file whose reading never ends (`--timeout`)."""
    (case / "T1.nii.gz").unlink()
    os.mkfifo(case / "T1.nii.gz")


@STUCK.row(FAILS, "E_CRASH", "its process died")
def crash(case):
    """A file on which the process dies."""
    hang(case)
