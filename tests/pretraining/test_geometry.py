"""A point of the patient must lie where it lay, after nnU-Net's permuting, cropping, resampling."""

import json

import nibabel
import numpy as np
import pytest
from conftest import DATASET

from amae_nnunet.errors import InputError
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.pretraining.geometry import original_affine, save_nifti

POINT = np.array([13.0, -21.0, 34.0])  # mm, RAS


def oblique_affine():
    """Turned by 20 degrees about x and 10 about z, spacing 1.3, 0.9 and 2.1 mm."""
    a, b = np.radians([20, 10])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ np.array(about_x) @ np.diag([-1.3, 0.9, 2.1])
    affine[:3, 3] = POINT - affine[:3, :3] @ [17.3, 22.8, 11.6]
    return affine


def write_blob(path):
    """A Gaussian blob of 5 mm at POINT in a box off the middle, zeros around the box."""
    affine, shape = oblique_affine(), (40, 44, 26)
    index = np.moveaxis(np.indices(shape), 0, -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    image = 100 * np.exp(-((world - POINT) ** 2).sum(axis=-1) / (2 * 5.0**2)) + 1
    box = np.zeros(shape)
    box[4:38, 7:40, 3:24] = 1
    nibabel.save(nibabel.Nifti1Image((image * box).astype(np.float32), affine), path)


def centre_of_blob(path):
    image = nibabel.load(path)
    data = np.asarray(image.dataobj)
    weight = np.clip(data - (data.min() + 0.1 * np.ptp(data)), 0, None)
    index = np.moveaxis(np.indices(data.shape), 0, -1).reshape(-1, 3)
    mean = (index * weight.reshape(-1, 1)).sum(axis=0) / weight.sum()
    return image.affine[:3, :3] @ mean + image.affine[:3, 3]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("transpose", [[0, 1, 2], [1, 0, 2], [2, 0, 1]])
def test_the_written_file_lies_where_the_image_lay(nnunet, dataset, tmp_path, reader, transpose):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    write_blob(tmp_path / "blob_0000.nii.gz")
    assert np.linalg.norm(centre_of_blob(tmp_path / "blob_0000.nii.gz") - POINT) < 0.1
    plans = json.loads((nnunet / "preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    backward = np.argsort(transpose).tolist()
    plans.update(
        image_reader_writer=reader, transpose_forward=transpose, transpose_backward=backward
    )
    configuration = PreprocessedDataset.open("950", "3d_fullres", "nnUNetPlans").configuration
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(tmp_path / "blob_0000.nii.gz")],
        None,
        PlansManager(plans),
        ConfigurationManager({**configuration, "spacing": [1.7, 1.0, 1.2]}),
        {},
    )
    assert properties["bbox_used_for_cropping"] != [[0, n] for n in data.shape[1:]]
    save_nifti(tmp_path / "out.nii.gz", data[0], properties, transpose)
    distance = np.linalg.norm(centre_of_blob(tmp_path / "out.nii.gz") - POINT)
    assert distance < 0.15


def test_a_case_without_geometry_is_refused():
    with pytest.raises(InputError, match="keeps no geometry"):
        original_affine({"spacing": [1, 1, 1]})
