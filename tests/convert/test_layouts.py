import numpy as np
import pytest
from convert.studies import SHAPE, lesion, save, voxels, write_template

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.layouts import (
    LAYOUTS,
    NAMES,
    detect_layout,
    layout_template,
    scan_layout,
)
from amae_nnunet.convert.nifti import label_values
from amae_nnunet.convert.template import load_template, matches
from amae_nnunet.errors import ConfigError, InputError

GLIOMA = {"T1": ["a"], "T1CE": ["b"], "T2": ["c"], "FLAIR": ["d"]}
TREES = {
    "brats21": [
        *(f"BraTS2021_00000/BraTS2021_00000_{end}" for end in ("t1", "t1ce", "t2", "flair", "seg")),
        *(f"BraTS2021_00002/BraTS2021_00002_{end}" for end in ("t1", "t1ce", "t2", "flair")),
    ],
    "brats23": [
        f"BraTS-GLI-{case}/BraTS-GLI-{case}-{end}"
        for case in ("00008-000", "00008-001", "00009-000")
        for end in ("t1n", "t1c", "t2w", "t2f", "seg")
    ],
    "ucsf-pdgm": [
        f"UCSF-PDGM-{case}_nifti/UCSF-PDGM-{case}_{end}"
        for case in ("0004", "0429", "0429_FU003d")
        for end in (
            *("ADC", "ASL", "DWI", "DWI_bias", "DTI_eddy_FA", "DTI_eddy_MD", "FLAIR", "FLAIR_bias"),
            *("SWI", "SWI_bias", "T1", "T1_bias", "T1gad", "T1gad_bias", "T2", "T2_bias"),
            *("brain_parenchyma_segmentation", "brain_segmentation", "tumor_segmentation"),
        )
    ],
    "isles22": [
        *(
            f"sub-strokecase0001/ses-0001/{end}"
            for end in (
                "dwi/sub-strokecase0001_ses-0001_dwi",
                "dwi/sub-strokecase0001_ses-0001_adc",
                "anat/sub-strokecase0001_ses-0001_FLAIR",
            )
        ),
        "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk",
    ],
    "soop": [
        *(
            f"sub-{case}/{end}"
            for case in (1, 12)
            for end in (
                f"anat/sub-{case}_T1w",
                f"anat/sub-{case}_FLAIR.nii/sub-{case}_FLAIR",  # some mirrors wrap the file
                f"dwi/sub-{case}_rec-ADC_dwi",
                f"dwi/sub-{case}_rec-TRACE_dwi",
            )
        ),
        "derivatives/lesion_masks/sub-1/dwi/sub-1_space-TRACE_desc-lesion_mask",
        "derivatives/lesion_masks/sub-1/dwi/sub-1_space-TRACE_desc-lesionAcute_mask",
        "derivatives/lesion_masks/sub-1/dwi/sub-1_space-TRACE_desc-lesionChronic_mask",
    ],
}
#: case -> subject, channels and the end of the label's name
CASES = {
    "brats21": {
        "BraTS2021_00000": ("BraTS2021_00000", "T1 T1CE T2 FLAIR", "_seg"),
        "BraTS2021_00002": ("BraTS2021_00002", "T1 T1CE T2 FLAIR", ""),
    },
    "brats23": {
        "BraTS-GLI-00008-000": ("BraTS-GLI-00008", "T1 T1CE T2 FLAIR", "-seg"),
        "BraTS-GLI-00008-001": ("BraTS-GLI-00008", "T1 T1CE T2 FLAIR", "-seg"),
        "BraTS-GLI-00009-000": ("BraTS-GLI-00009", "T1 T1CE T2 FLAIR", "-seg"),
    },
    "ucsf-pdgm": {
        f"UCSF-PDGM-{case}": (
            f"UCSF-PDGM-{case[:4]}",
            "ADC TRACE T2 SWI T1 FLAIR T1CE",
            "_tumor_segmentation",
        )
        for case in ("0004", "0429", "0429_FU003d")
    },
    "isles22": {
        "sub-strokecase0001_ses-0001": ("sub-strokecase0001", "ADC TRACE FLAIR", "_msk"),
    },
    "soop": {
        "sub-1": ("sub-1", "ADC TRACE T1 FLAIR", "lesionAcute_mask"),
        "sub-12": ("sub-12", "ADC TRACE T1 FLAIR", ""),
    },
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def grow(root, name):
    for path in TREES[name]:
        is_label = path.endswith(("seg", "mask", "msk", "segmentation"))
        save(root / f"{path}.nii.gz", lesion() if is_label else voxels())
    return root


def template_of(tmp_path, **changes):
    return load_template(str(write_template(tmp_path, **{"required": [], **changes})))


@pytest.mark.parametrize("name", TREES)
def test_a_public_data_set_is_known_and_read_without_a_template(root, name):
    grow(root, name)
    assert detect_layout(root) == name
    cases = scan_layout(root, name, layout_template(name, root))
    assert {
        raw.case: (
            raw.subject,
            " ".join(raw.contrasts),
            raw.label.path.name.removesuffix(".nii.gz")[-len(CASES[name][raw.case][2]) :]
            if raw.label
            else "",
        )
        for raw in cases
    } == CASES[name]
    assert {raw.code for raw in cases} == {""}
    if name != "soop":
        assert {raw.unmatched for raw in cases} == {()}


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if "folder" in layout])
def test_each_file_is_one_thing(name):
    layout = LAYOUTS[name]
    kinds = {
        **layout["contrasts"],
        "label": layout["label"]["patterns"],
        "": layout.get("other", []),
    }
    for path in TREES[name]:
        fitting = [kind for kind, globs in kinds.items() if matches(f"{path}.nii.gz", tuple(globs))]
        assert len(fitting) == 1, path


def test_the_values_of_the_label_are_made_consecutive():
    template = layout_template("brats21", None)
    assert template.labels == {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}
    values = label_values(np.array([0, 1, 2, 4]), template.labels, "x", template.label_map)
    assert values.tolist() == [0, 1, 2, 3]


def test_a_template_of_the_user_gets_its_own_values_by_name(tmp_path):
    labels = {"background": 0, "enhancing": 1, "edema": 2, "necrosis": 3}
    given = template_of(
        tmp_path, contrasts={"FLAIR": ["x"]}, label={"patterns": ["seg"], "labels": labels}
    )
    template = layout_template("brats21", None, given)
    assert (template.labels, template.label_patterns) == (labels, ("*_seg.nii*",))
    values = label_values(np.array([0, 1, 2, 4]), labels, "x", template.label_map)
    assert values.tolist() == [0, 3, 2, 1]


def test_a_label_without_a_meaning_is_refused_until_it_is_mapped(tmp_path):
    label = {"patterns": ["seg"], "labels": {"background": 0, "tumour": 1}}
    given = template_of(tmp_path, contrasts=GLIOMA, label=label)
    with pytest.raises(ConfigError) as caught:
        layout_template("brats21", None, given)
    assert str(caught.value).startswith(
        "brats21 has labels necrosis (1), edema (2), enhancing (4), the template has tumour: say"
    )
    assert layout_template("brats21", None, given, with_label=False).labels == given.labels
    label["map"] = {"1": 1, "2": 1, "4": 0}
    template = layout_template(
        "brats21", None, template_of(tmp_path, contrasts=GLIOMA, label=label)
    )
    values = label_values(np.array([0, 1, 2, 4]), template.labels, "x", template.label_map)
    assert values.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("layout", "labels", "stray"),
    [
        ("brats21", None, 3),  # 4 becomes 3
        ("brats21", {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}, 3),
        ("isles22", {"background": 0, "infarct": 1, "haemorrhage": 2}, 2),
    ],
)
def test_a_value_that_the_layout_does_not_have_is_not_the_templates_of_that_number(
    tmp_path, layout, labels, stray
):
    contrasts = {name: ["x"] for name in LAYOUTS[layout]["contrasts"]}
    label = {"patterns": ["seg"], "labels": labels}
    given = template_of(tmp_path, contrasts=contrasts, label=label) if labels else None
    template = layout_template(layout, None, given)
    rest = (template.labels, "x", template.label_map, template.all_mapped)
    assert label_values(np.array([0, 1]), *rest).tolist() == [0, 1]
    with pytest.raises(CaseError, match=f"has label values {stray} that the template does not"):
        label_values(np.array([0, 1, stray]), *rest)


def test_one_label_is_the_one_label(tmp_path):
    label = {"patterns": ["seg"], "labels": {"background": 0, "stroke": 1}}
    given = template_of(tmp_path, contrasts={"ADC": ["x"]}, label=label)
    assert layout_template("isles22", None, given).label_map == {1: 1}


def test_alternatives_feed_the_channels_of_the_user(root, tmp_path):
    grow(root, "brats21")
    contrasts = {"FLAIR": ["x"], "T1x": ["y"]}
    accepts = {"T1x": ["PD", "T1CE"]}
    given = template_of(tmp_path, contrasts=contrasts, accepts=accepts, required=["T1x"])
    template = layout_template("brats21", root, given, with_label=False)
    first, _ = scan_layout(root, "brats21", template)
    assert list(first.contrasts) == ["FLAIR", "T1x"]
    assert first.contrasts["T1x"].name == "BraTS2021_00000_t1ce.nii.gz"
    assert first.contrasts["T1x"].facts == {"contrast": "T1CE"}
    assert first.unmatched == (
        "BraTS2021_00000_t1.nii.gz (T1: not in the template)",
        "BraTS2021_00000_t2.nii.gz (T2: not in the template)",
    )


def test_nothing_in_common_is_said_at_once(tmp_path):
    with pytest.raises(ConfigError, match="isles22 has ADC, TRACE, FLAIR, the template takes GRE"):
        layout_template("isles22", None, template_of(tmp_path, contrasts={"GRE": ["x"]}))


def test_one_bad_case_does_not_stop_the_others(root, tmp_path):
    grow(root, "brats21")
    save(root / "BraTS2021_00000" / "old" / "BraTS2021_00000_t1.nii", voxels())
    save(root / "BraTS2021_00000" / "notes.nii.gz", voxels())
    save(root / "extra" / "x_t1.nii.gz", voxels())
    (root / "empty").mkdir()
    (root / "BraTS2021_00003").mkdir()
    (root / "BraTS2021_00004").symlink_to(tmp_path)
    (root / "BraTS2021_00005").symlink_to(root / "gone")
    cases = scan_layout(root, "brats21", layout_template("brats21", root))
    assert {raw.case: raw.code for raw in cases} == {
        "BraTS2021_00000": "E_AMBIGUOUS",
        "BraTS2021_00002": "",
        "BraTS2021_00003": "E_REQUIRED",
        "BraTS2021_00004": "E_LINK",
        "BraTS2021_00005": "E_LINK",
        "extra": "E_NAME",
    }
    assert cases[0].unmatched == ("notes.nii.gz (no file of this layout)",)
    assert cases[-1].problem == "extra is not called like a case of brats21"


@pytest.mark.parametrize("name", NAMES)
def test_another_folder_is_not_the_layout(root, tmp_path, name):
    given = template_of(tmp_path, contrasts={**GLIOMA, "ADC": ["x"]})
    with pytest.raises(InputError):
        scan_layout(root, name, given)
    with pytest.raises(InputError):
        scan_layout(root / "gone", name, given)


def test_a_mask_in_an_archive_of_dicom_does_not_hide_it_without_a_word(root, caplog):
    for name in ("p1/s/IM1", "p2/s/IM1", "p3/s/IM1", "p3/mask.nii.gz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    assert detect_layout(root) == "folders"
    assert "of which 2 of 3 hold none: give --layout dicom if the others are DICOM" in caplog.text
    caplog.clear()
    (root / "p1" / "T1.nii.gz").write_bytes(b"x")
    (root / "empty").mkdir()
    assert detect_layout(root) == "folders"
    assert not caplog.text


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["cases.csv"], "table"),
        (["cases.TSV"], "table"),
        (["study.zip"], "dicom"),
        (["a/T1.nii.gz"], "folders"),
        (["a/anat/T1.nii"], "folders"),
        (["a/T1.NII.GZ"], "folders"),
        (["sub-1/T1.nii.gz"], "folders"),
        (["sub-1/anat/sub-1_T1w.nii.gz"], "bids"),
        (["sub-1/ses-1/dwi/sub-1_ses-1_dwi.nii.gz"], "bids"),
        (["dataset_description.json", "sub-1/x/T1.nii.gz"], "bids"),
        (["dataset.json", "imagesTr/a_0000.nii.gz"], "nnunet"),
        (["dataset.json", "imagesTs/a_0000.nii.gz"], "nnunet"),
        (["dataset.json", "a/T1.nii.gz"], "folders"),
        (["p/s/1/IM0001"], "dicom"),
        (["IM0001"], "dicom"),
        (["BraTS2021_1/BraTS2021_1_t1ce.nii.gz", "BraTS-GLI-1-0/BraTS-GLI-1-0-t1n.nii"], "folders"),
    ],
)
def test_what_an_input_is(root, files, kind):
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    only = root / files[0]
    assert detect_layout(only if kind == "table" or only.suffix == ".zip" else root) == kind


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "is not there"),
        ("empty", "holds no file"),
        ("loose", "put the files of each case into a folder"),
        ("loose/T1.nii.gz", "is a file: give a folder, or a table"),
    ],
)
def test_what_is_no_input(root, name, message):
    (root / "empty").mkdir()
    save(root / "loose" / "T1.nii.gz", voxels(shape=SHAPE))
    with pytest.raises(InputError, match=message) as caught:
        detect_layout(root / name)
    assert "\n" not in str(caught.value)
