import json
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from convert import slow_grid
from convert.studies import AFFINE, SHAPE, lesion, load, tree, voxels
from hypothesis import given, settings

from amae_nnunet.convert.codes import CODES, CaseError
from amae_nnunet.convert.grid import make_image, native_geometry
from amae_nnunet.convert.native import restore, to_native
from amae_nnunet.errors import ConfigError, InputError

SLOW = settings(deadline=None, derandomize=True, database=None, max_examples=60)
GRIDS = {
    "axial": AFFINE,
    "sagittal": slow_grid.make_affine("PIR", (0.9, 1.1, 4), (0.1, 0.2, -0.1), (9, -8, 7), SHAPE),
    "coronal": slow_grid.make_affine("LSA", (2, 1, 3), (-0.3, 0.1, 0), (-120.3, 8, 95), SHAPE),
}


@pytest.fixture
def folders(tmp_path):
    """Inputs with a ledger, and predictions on the grids of the cases."""
    predictions, inputs = tmp_path / "predictions", tmp_path / "inputs"
    predictions.mkdir()
    inputs.mkdir()
    (predictions / "dataset.json").write_text("{}")
    (predictions / "axial.npz").write_bytes(b"probabilities")
    lines = []
    for case, affine in GRIDS.items():
        predict(predictions, case, lesion(), affine)
        lines.append({"case": case, "native": native_geometry(SHAPE, affine)})
    write_ledger(inputs, lines)
    return predictions, inputs, tmp_path / "output"


def write_ledger(inputs, lines):
    (inputs / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def predict(predictions, case, label, affine):
    """Write a label like nnU-Net does: on the case's grid, by SimpleITK."""
    sitk.WriteImage(make_image(label, affine), str(predictions / f"{case}.nii.gz"))


@given(slow_grid.grids())
@SLOW
def test_the_way_back_is_exact(grid):
    native = json.loads(json.dumps(native_geometry(grid.voxels.shape, grid.affine)))
    back = to_native(make_image(grid.voxels, grid.affine), native)
    assert np.array_equal(back, grid.voxels)
    assert back.dtype == grid.voxels.dtype
    assert np.array_equal(native["affine"], grid.affine)


@pytest.mark.parametrize("change", ["shift", "size", "spacing", "flip"])
def test_another_grid_is_refused(change):
    image = make_image(lesion(), AFFINE)
    if change == "shift":
        image.SetOrigin([5.0, *image.GetOrigin()[1:]])
    if change == "size":
        image = image[:-1]
    if change == "spacing":
        image.SetSpacing([2.0, 2.0, 3.1])
    if change == "flip":
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    with pytest.raises(CaseError, match="grid of its case") as caught:
        to_native(image, native_geometry(SHAPE, AFFINE))
    assert caught.value.code == "E_PREDICTION_GRID"
    assert caught.value.code in CODES


def test_predictions_lie_on_the_scanners_images(folders):
    predictions, _, output = folders
    assert restore(*folders) == (3, [])
    assert tree(output) == ["axial.nii.gz", "coronal.nii.gz", "sagittal.nii.gz"]
    for case, affine in GRIDS.items():
        data, found = load(output / f"{case}.nii.gz")
        assert np.array_equal(data, lesion())
        assert data.dtype == np.uint8
        assert np.abs(found - affine).max() < 1e-5
        header = nib.load(output / f"{case}.nii.gz").header
        assert np.abs(header.get_qform() - affine).max() < 1e-4
        assert (header["sform_code"], header["qform_code"]) == (1, 1)
    assert (predictions / "axial.npz").read_bytes() == b"probabilities"


def test_a_slightly_sheared_affine_comes_back_as_it_was(folders):
    predictions, inputs, output = folders
    affine = GRIDS["sagittal"] @ [[1, 4e-4, 0, 0], [0, 1, 4e-4, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    predict(predictions, "sheared", lesion(), affine)
    write_ledger(inputs, [{"case": "sheared", "native": native_geometry(SHAPE, affine)}])
    done, _ = restore(*folders)
    assert done == 1
    data, found = load(output / "sheared.nii.gz")
    assert np.array_equal(data, lesion())
    assert np.abs(found - affine).max() < 1e-5


def test_a_bad_file_costs_one_case(folders, tmp_path):
    predictions, inputs, output = folders
    whole = (predictions / "axial.nii.gz").read_bytes()
    (predictions / "coronal.nii.gz").write_bytes(whole[: len(whole) // 2])
    predict(predictions, "sagittal", lesion(), AFFINE)  # of another case
    predict(predictions, "unknown", lesion(), AFFINE)
    (predictions / "linked.nii.gz").symlink_to(tmp_path / "nothing")
    (predictions / "._axial.nii.gz").write_bytes(b"left by a file manager")
    known = [{"case": case, "native": native_geometry(SHAPE, GRIDS[case])} for case in GRIDS]
    linked = {"case": "linked", "native": native_geometry(SHAPE, AFFINE)}
    write_ledger(inputs, [*known, linked, {"case": "withdrawn", "key": ""}])
    predict(predictions, "withdrawn", lesion(), AFFINE)
    done, failures = restore(*folders)
    assert done == 1
    assert [(line.split()[1], line.split()[-1]) for line in failures] == [
        ("coronal:", "[E_DAMAGED]"),
        ("linked:", "[E_DAMAGED]"),
        ("sagittal:", "[E_PREDICTION_GRID]"),
        ("unknown:", "[E_PREDICTION_CASE]"),
        ("withdrawn:", "[E_PREDICTION_CASE]"),
    ]
    assert tree(output) == ["axial.nii.gz"]


def test_a_second_run_does_what_is_left_or_has_changed(folders):
    predictions, _, output = folders
    restore(*folders)
    kept = {path.name: path.stat().st_ino for path in output.iterdir()}
    (output / "sagittal.nii.gz").unlink()
    predict(predictions, "axial", lesion()[::-1], AFFINE)
    assert restore(*folders) == (3, [])
    assert np.array_equal(load(output / "axial.nii.gz")[0], lesion()[::-1])
    assert (output / "sagittal.nii.gz").is_file()
    assert (output / "coronal.nii.gz").stat().st_ino == kept["coronal.nii.gz"]
    (predictions / "axial.nii.gz").write_bytes(b"broken")
    done, failures = restore(*folders)
    assert done == 2
    assert "axial" in failures[0]
    assert not (output / "axial.nii.gz").exists()  # nothing stale is left


def test_an_interrupted_write_leaves_no_file_under_its_name(folders, monkeypatch):
    def die(image, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", die)
        with pytest.raises(KeyboardInterrupt):
            restore(*folders)
    output = folders[2]
    assert not (output / "axial.nii.gz").exists()
    assert restore(*folders) == (3, [])
    assert sorted(os.listdir(output)) == ["axial.nii.gz", "coronal.nii.gz", "sagittal.nii.gz"]


def test_what_cannot_work_is_said(folders, tmp_path):
    predictions, inputs, output = folders
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"no cases\.jsonl"):
        restore(predictions, empty, output)
    with pytest.raises(InputError, match=r"no \.nii\.gz file"):
        restore(empty, inputs, output)
    for taken in (predictions, inputs):
        with pytest.raises(ConfigError, match="in use"):
            restore(predictions, inputs, taken)
    output.write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written"):
        restore(predictions, inputs, output)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_the_type_of_the_labels_is_kept(folders, dtype):
    predictions, _, output = folders
    label = voxels().astype(dtype)
    predict(predictions, "axial", label, AFFINE)
    assert restore(*folders) == (3, [])
    data, _ = load(output / "axial.nii.gz")
    assert data.dtype == dtype
    assert np.array_equal(data, label)
