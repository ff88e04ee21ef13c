import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from convert.studies import SHAPE, lesion, save, voxels, write_template

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.convert.layouts import layout_template, scan_layout
from amae_nnunet.convert.nnunet import contrast_of_channel, is_placeholder, read_dataset
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import ConfigError, InputError

CHANNELS = ("T1w", "t1-Gd", "T2-FLAIR", "CBF")
LABELS = {"background": 0, "lesion": 1}


@pytest.fixture
def template(tmp_path):
    return load_template(str(write_template(tmp_path)))


def make(folder, ending=".nii.gz", channels=CHANNELS, labels=LABELS, **changes):
    for images, case in (("imagesTr", "a"), ("imagesTr", "b_0001"), ("imagesTs", "c")):
        for index in range(len(channels)):
            save(folder / images / f"{case}_{index:04d}{ending}", voxels(index))
        save(folder / images.replace("images", "labels") / f"{case}{ending}", lesion())
    content = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": labels,
        "numTraining": 2,
        "file_ending": ending,
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def scan(root, template):
    return scan_layout(root, "nnunet", layout_template("nnunet", root, template))


def names(case):
    return {channel: source.name for channel, source in case.contrasts.items()}


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_channels_are_taken_by_name_and_splits_by_folder(tmp_path, template, ending):
    root = make(tmp_path / "Dataset001_X", ending)
    cases = scan(root, template)
    assert [(raw.case, raw.source, raw.subject, raw.split, raw.code) for raw in cases] == [
        ("a", "imagesTr/a", "a", "train", ""),
        ("b_0001", "imagesTr/b_0001", "b_0001", "train", ""),
        ("c", "imagesTs/c", "c", "test", ""),
    ]
    for raw, labels in zip(cases, ("labelsTr", "labelsTr", "labelsTs"), strict=True):
        assert names(raw) == {
            "T1": f"{raw.case}_0000{ending}",
            "FLAIR": f"{raw.case}_0002{ending}",
            "T1CE": f"{raw.case}_0001{ending}",
        }
        assert list(raw.contrasts) == ["T1", "FLAIR", "T1CE"]
        assert raw.label.path == root / labels / f"{raw.case}{ending}"
        assert raw.unmatched == (f"{raw.case}_0003{ending} (CBF: not in the template)",)
    np.testing.assert_array_equal(cases[0].contrasts["FLAIR"].read()[0], voxels(2))


@pytest.mark.parametrize(
    ("channel", "contrast"),
    [
        ("T1", "T1"),
        ("T1w", "T1"),
        ("t1ce", "T1CE"),
        ("T1-Gd", "T1CE"),
        ("Flair", "FLAIR"),
        ("T2*", "GRE"),
        ("T2", "T2"),
        ("T2star", "GRE"),
        ("DWI", "TRACE"),
        ("adc", "ADC"),
        ("swi", "SWI"),
        ("PET", "PET"),
    ],
)
def test_the_names_that_others_give_to_contrasts(channel, contrast):
    assert contrast_of_channel(channel) == contrast


def test_a_name_that_the_template_has_itself_is_not_translated():
    assert contrast_of_channel("T1w", {"T1w"}) == "T1w"


def test_zero_channels_and_missing_files_are_absent(tmp_path, template):
    root = make(tmp_path / "Dataset001_X")
    save(root / "imagesTr" / "a_0000.nii.gz", np.zeros(SHAPE, np.uint8))
    (root / "imagesTr" / "b_0001_0001.nii.gz").unlink()
    save(root / "imagesTs" / "c_0002.nii.gz", np.zeros(SHAPE, np.float32))
    a, b, c = scan(root, template)
    assert (list(a.contrasts), list(b.contrasts)) == (["FLAIR", "T1CE"], ["T1", "FLAIR"])
    assert (a.code, b.code, c.code) == ("", "", "E_REQUIRED")
    assert c.problem == "no FLAIR (required): add its channel file, or remove the case"


def test_what_is_zero_everywhere(tmp_path):
    zero = np.zeros((64, 64, 300), np.int16)  # more than one block
    late = zero.copy()
    late[-1, -1, -1] = 1
    assert is_placeholder(save(tmp_path / "zero.nii.gz", zero))
    assert is_placeholder(save(tmp_path / "zero.nii", zero))
    assert not is_placeholder(save(tmp_path / "late.nii.gz", late))
    image = nib.Nifti1Image(zero, np.eye(4))
    image.header.set_slope_inter(1, 5)
    nib.save(image, tmp_path / "shifted.nii")
    assert not is_placeholder(tmp_path / "shifted.nii")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_cut_file_is_no_placeholder(tmp_path, name):
    path = save(tmp_path / name, np.zeros((64, 64, 64), np.int16))
    path.write_bytes(path.read_bytes()[:-9])
    assert not is_placeholder(path)
    (tmp_path / f"text{path.suffix}").write_bytes(b"text")
    assert not is_placeholder(tmp_path / f"text{path.suffix}")
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(b"\0" * 352))
    assert not is_placeholder(tmp_path / "short.nii.gz")


def test_the_record_says_who_and_what(tmp_path, template):
    root = make(tmp_path / "Dataset001_X")
    record = ContrastRecord(CHANNELS)
    record.add("a", [True, False, True, False], "unlabeled", "patient-7")
    record.write(root)
    a, b, _ = scan(root, template)
    assert (a.subject, a.split, list(a.contrasts)) == ("patient-7", "unlabeled", ["T1", "FLAIR"])
    assert (b.subject, b.split, len(b.contrasts)) == ("b_0001", "train", 3)
    ContrastRecord(CHANNELS[:3]).write(root)
    with pytest.raises(InputError, match=r"contrasts.json lists T1w, .* one of them was edited"):
        scan(root, template)


def test_without_labels_the_training_images_are_unlabeled(tmp_path, template):
    root = make(tmp_path / "Dataset001_X")
    for path in (root / "labelsTr").iterdir():
        path.unlink()
    assert [raw.split for raw in scan(root, template)] == ["train", "train", "test"]
    (root / "labelsTr").rmdir()
    assert [raw.split for raw in scan(root, template)] == ["unlabeled", "unlabeled", "test"]


def test_wrong_names_and_links_end_their_case_only(tmp_path, template):
    root = make(tmp_path / "Dataset001_X")
    save(root / "imagesTr" / "d.nii.gz", voxels())
    save(root / "imagesTr" / "a_0009.nii.gz", voxels())
    outside = save(tmp_path / "outside.nii.gz", voxels())
    (root / "imagesTs" / "e_0002.nii.gz").symlink_to(outside)
    (root / "labelsTs" / "c.nii.gz").unlink()
    (root / "labelsTs" / "c.nii.gz").symlink_to(root / "gone")
    save(root / "imagesTs" / "A_0002.nii.gz", voxels())
    cases = scan(root, template)
    assert {raw.source: raw.code for raw in cases} == {
        "imagesTr/d.nii.gz": "E_NAME",
        "imagesTr/a": "",
        "imagesTr/b_0001": "",
        "imagesTs/A": "E_NAME",
        "imagesTs/c": "E_LINK",
        "imagesTs/e": "E_LINK",
    }
    problems = {raw.source: raw.problem for raw in cases}
    assert problems["imagesTr/d.nii.gz"] == (
        "imagesTr/d.nii.gz is not named CASE_0000.nii.gz: rename or remove it"
    )
    assert str(tmp_path) not in "".join(problems.values())
    assert "a_0009.nii.gz (dataset.json has no such channel)" in cases[1].unmatched


def test_labels_keep_their_meaning(tmp_path):
    root = make(tmp_path / "Dataset001_X", labels={"background": 0, "edema": 1, "core": 2})
    label = {"patterns": ["x"], "labels": {"background": 0, "core": 1, "edema": 2}}
    given = load_template(str(write_template(tmp_path, label=label)))
    assert layout_template("nnunet", root, given).label_map == {1: 2, 2: 1}
    with pytest.raises(
        ConfigError, match=r"nnunet has labels edema \(1\), core \(2\), the template"
    ):
        layout_template("nnunet", root, load_template(str(write_template(tmp_path))))


def test_the_data_set_is_its_own_template(tmp_path):
    root = make(tmp_path / "Dataset001_My_Set", channels=("T1", "DWI"))
    template = layout_template("nnunet", root)
    assert (template.name, tuple(template.contrasts)) == ("My_Set", ("T1", "TRACE"))
    assert (template.labels, template.required) == (LABELS, ())
    assert names(scan_layout(root, "nnunet", template)[0]) == {
        "T1": "a_0000.nii.gz",
        "TRACE": "a_0001.nii.gz",
    }


def test_regions_need_a_template(tmp_path, template):
    root = make(tmp_path / "Dataset001_X", labels={"background": 0, "whole": [1, 2], "core": 2})
    with pytest.raises(ConfigError, match="has regions as labels"):
        layout_template("nnunet", root)
    assert layout_template("nnunet", root, template).labels == template.labels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": None}, "is not that of an nnU-Net v2 data set"),
        ({"channel_names": {"1": "T1"}}, "is not that of an nnU-Net v2 data set"),
        ({"file_ending": ".png"}, "only .nii.gz and .nii .* not .png"),
        ({"dataset": {"a": {}}}, "or a list of files: write a table"),
        ({"labels": 3}, "is not that of an nnU-Net v2 data set"),
    ],
)
def test_another_dataset_json_is_refused(tmp_path, change, message):
    root = make(tmp_path / "Dataset001_X", **change)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(root)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"dataset.json is missing: give the folder DatasetXXX"):
        read_dataset(tmp_path)
