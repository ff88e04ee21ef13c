import numpy as np
import pytest
from convert.studies import lesion, save, voxels, write_template

from amae_nnunet.convert.bids import contrast_of, parse_name, scan_bids
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import InputError

CONTRASTS = {name: [f"{name}.nii*"] for name in ("ADC", "TRACE", "T2", "SWI", "T1", "FLAIR")}
LABEL = {"patterns": ["*_mask.nii*", "*_msk.nii*"], "labels": {"background": 0, "infarct": 1}}


@pytest.fixture
def template(tmp_path):
    changes = {"contrasts": CONTRASTS, "required": [], "label": LABEL}
    return load_template(str(write_template(tmp_path, accepts={"SWI": ["SWI", "GRE"]}, **changes)))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "bids"
    folder.mkdir()
    return folder


def only(root, template):
    (case,) = scan_bids(root, template)
    return case


def names(case):
    return {channel: source.name for channel, source in case.contrasts.items()}


def dwi(path, b_values=None, directions=None):
    """A diffusion image whose volume ``k`` is ``voxels(k)``, with FSL's files beside it."""
    count = len(b_values or [0])
    data = np.stack([voxels(seed) for seed in range(count)], axis=-1)
    save(path, data if count > 1 else data[..., 0])
    stem = path.name.split(".")[0]
    if b_values:
        (path.parent / f"{stem}.bval").write_text(" ".join(map(str, b_values)) + "\n")
    if directions:
        rows = [" ".join(map(str, row)) for row in zip(*directions, strict=True)]
        (path.parent / f"{stem}.bvec").write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-1_T1w", "T1"),
        ("sub-1_ses-2_acq-mprage_run-1_T1w", "T1"),
        ("sub-1_ce-gadolinium_T1w", "T1CE"),
        ("sub-1_T2w", "T2"),
        ("sub-1_PDw", "PD"),
        ("sub-1_acq-axial_FLAIR", "FLAIR"),
        ("sub-1_flair", "FLAIR"),
        ("sub-1_T2starw", "GRE"),
        ("sub-1_part-mag_MEGRE", "GRE"),
        ("sub-1_swi", "SWI"),
        ("sub-1_ADC", "ADC"),
        ("sub-1_adc", "ADC"),
        ("sub-1_trace", "TRACE"),
        ("sub-1_rec-ADC_dwi", "ADC"),
        ("sub-1_acq-trace_rec-ADC_dwi", "ADC"),
        ("sub-1_rec-TRACE_dwi", "TRACE"),
        ("sub-1_acq-b1000tracew_dwi", "TRACE"),
        ("sub-1_desc-trace_dwi", "TRACE"),
        ("sub-1_acq-64dir_dwi", "DWI"),
        ("sub-1_acq-b1000_dwi", "DWI"),
        ("sub-1_acq-b0b1000_dwi", "DWI"),
        ("sub-1_rec-b0corrected_dwi", "DWI"),
        ("sub-1_acq-poststroke_T1w", "T1"),
        ("sub-1_acq-posterior_T1w", "T1"),
        ("sub-1_rec-gadgetron_T1w", "T1"),
        ("sub-1_acq-gd_ce-none_T1w", "T1"),
        ("sub-1_ce-gd_T1w", "T1CE"),
        ("sub-1_acq-postgad_ce-gd_T1w", "T1CE"),
        ("sub-1_ce-none_T1w", "T1"),
        ("sub-1_ce-none_FLAIR", "FLAIR"),
        ("sub-1_acq-pregad_T1w", "T1"),
        ("sub-1_acq-space_T1w", "T1"),
        ("sub-1_acq-cerebellum_T1w", "T1"),
        ("sub-1_acq-postop_T1w", "T1"),
    ],
)
def test_suffix_and_entities_name_the_contrast(name, contrast):
    assert contrast_of(*parse_name(f"{name}.nii.gz")) == (contrast, "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sub-1_part-phase_swi", "part-phase is no magnitude image"),
        ("sub-1_part-imag_MEGRE", "part-imag is no magnitude image"),
        ("sub-1_part-real_T2starw", "part-real is no magnitude image"),
        ("sub-1_expADC", "expadc is no contrast"),
        ("sub-1_rec-eADC_dwi", "eadc is no contrast"),
        ("sub-1_rec-expADC_dwi", "expadc is no contrast"),
        ("sub-1_FA", "fa is no contrast"),
        ("sub-1_rec-FA_dwi", "fa is no contrast"),
        ("sub-1_rec-colFA_dwi", "colfa is no contrast"),
        ("sub-1_minIP", "minip is no contrast"),
        ("sub-1_rec-minIP_swi", "minip is no contrast"),
        ("sub-1_task-rest_bold", "bold is no contrast"),
        ("sub-1_dir-AP_epi", "epi is no contrast"),
        ("sub-1_ce-gd_FLAIR", "FLAIR with a contrast agent"),
        ("sub-1_acq-b0_dwi", "b0 has no diffusion weighting"),
        ("sub-1_acq-t1map_T1w", "t1map is no contrast"),
        *(
            (
                f"sub-1_acq-{word}_T1w",
                f"{word} may be with a contrast agent: add ce-AGENT to its name, or ce-none",
            )
            for word in ("postgad", "gd", "t1ce", "post", "mpragekm")
        ),
    ],
)
def test_what_is_no_contrast_is_refused_with_the_reason(name, reason):
    assert contrast_of(*parse_name(f"{name}.nii")) == ("", reason)


def test_a_session_is_a_case_and_its_subject_the_patient(root, template):
    for session in ("ses-1", "ses-2"):
        save(root / "sub-a" / session / "anat" / f"sub-a_{session}_T1w.nii.gz", voxels())
    (root / "sub-a" / "sub-a_sessions.tsv").write_text("session_id\n")
    save(root / "sub-b" / "anat" / "sub-b_FLAIR.nii.gz", voxels())
    cases = scan_bids(root, template)
    assert [(raw.case, raw.source, raw.subject, raw.code) for raw in cases] == [
        ("sub-a_ses-1", "sub-a/ses-1", "sub-a", ""),
        ("sub-a_ses-2", "sub-a/ses-2", "sub-a", ""),
        ("sub-b", "sub-b", "sub-b", ""),
    ]
    assert names(cases[0]) == {"T1": "anat/sub-a_ses-1_T1w.nii.gz"}
    np.testing.assert_array_equal(cases[0].contrasts["T1"].read()[0], voxels())


def test_a_mask_of_a_session_is_no_label_of_the_case_beside_the_sessions(root, template):
    for place, name in (("anat", "sub-a_T1w"), ("ses-2/anat", "sub-a_ses-2_T1w")):
        save(root / "sub-a" / place / f"{name}.nii.gz", voxels())
    masks = root / "derivatives" / "masks" / "sub-a"
    save(masks / "sub-a_ses-2_label-lesion_mask.nii.gz", lesion())
    bare, session = scan_bids(root, template)
    assert (bare.label, session.case) == (None, "sub-a_ses-2")
    assert session.label.path.name == "sub-a_ses-2_label-lesion_mask.nii.gz"
    save(
        masks / "sub-a_label-lesion_mask.nii.gz", lesion()
    )  # names none: of the case that has none
    bare, again = scan_bids(root, template)
    assert bare.label.path.name == "sub-a_label-lesion_mask.nii.gz"
    assert again.label == session.label


def test_images_beside_the_sessions_are_a_case_too(root, template):
    save(root / "sub-a" / "ses-1" / "anat" / "sub-a_ses-1_T1w.nii.gz", voxels())
    save(root / "sub-a" / "anat" / "sub-a_T2w.nii.gz", voxels())
    assert [(raw.case, list(raw.contrasts)) for raw in scan_bids(root, template)] == [
        ("sub-a", ["T2"]),
        ("sub-a_ses-1", ["T1"]),
    ]


def test_channels_are_in_their_order_and_the_rest_is_listed(root, template):
    anat = root / "sub-1" / "anat"
    for suffix in ("FLAIR", "T1w", "PDw", "part-phase_swi", "T2starw"):
        save(anat / f"sub-1_{suffix}.nii.gz", voxels())
    case = only(root, template)
    assert names(case) == {
        "SWI": "anat/sub-1_T2starw.nii.gz",
        "T1": "anat/sub-1_T1w.nii.gz",
        "FLAIR": "anat/sub-1_FLAIR.nii.gz",
    }
    assert list(case.contrasts) == ["SWI", "T1", "FLAIR"]
    assert case.contrasts["SWI"].facts == {"contrast": "GRE"}
    assert case.contrasts["T1"].facts == {}
    assert case.unmatched == (
        "anat/sub-1_part-phase_swi.nii.gz (part-phase is no magnitude image)",
        "anat/sub-1_PDw.nii.gz (PD: not in the template)",
    )


def test_the_preferred_alternative_wins_and_the_other_is_listed(root, template):
    save(root / "sub-1" / "swi" / "sub-1_swi.nii.gz", voxels())
    save(root / "sub-1" / "anat" / "sub-1_T2starw.nii.gz", voxels())
    case = only(root, template)
    assert names(case) == {"SWI": "swi/sub-1_swi.nii.gz"}
    assert case.unmatched == ("anat/sub-1_T2starw.nii.gz (GRE: another is preferred)",)


def test_runs_are_never_chosen_between(root, template):
    for run in (1, 2):
        save(root / "sub-1" / "anat" / f"sub-1_run-{run}_T1w.nii.gz", voxels())
    save(root / "sub-2" / "anat" / "sub-2_T1w.nii.gz", voxels())
    bad, good = scan_bids(root, template)
    assert (bad.code, good.code) == ("E_AMBIGUOUS", "")
    assert bad.problem == (
        "T1 is ambiguous (anat/sub-1_run-1_T1w.nii.gz, anat/sub-1_run-2_T1w.nii.gz): "
        "leave one of them, or name it in a table"
    )


def test_the_volume_that_stands_alone_at_its_b_value_is_the_trace(root, template):
    directions = [(0, 0, 0)] * 3
    dwi(root / "sub-1" / "dwi" / "sub-1_dwi.nii.gz", [0, 500, 1000], directions)
    source = only(root, template).contrasts["TRACE"]
    assert (source.volume, source.facts, source.warnings) == (
        2,
        {"b_value": 1000.0, "volume": 2},
        (),
    )
    np.testing.assert_array_equal(source.read()[0], voxels(2))


@pytest.mark.parametrize(
    ("b_values", "directions", "reason"),
    [
        ([0, 1000, 1000], None, "2 volumes at b-value 1000: directions, no trace image"),
        ([0, 1005, 995], None, "2 volumes at b-value 1005: directions, no trace image"),
        ([0, 1000], [(0, 0, 0), (1, 0, 0)], "b-value 1000 in one direction only"),
        ([0, 5], None, "b-value 0"),
    ],
)
def test_directional_and_plain_diffusion_is_no_trace(root, template, b_values, directions, reason):
    dwi(root / "sub-1" / "dwi" / "sub-1_dwi.nii.gz", b_values, directions)
    case = only(root, template)
    assert case.code == "E_REQUIRED"
    assert case.unmatched == (f"dwi/sub-1_dwi.nii.gz ({reason})",)


def test_b_values_must_fit_the_volumes(root, template):
    path = dwi(root / "sub-1" / "dwi" / "sub-1_dwi.nii.gz", [0, 1000])
    (path.parent / "sub-1_dwi.bval").write_text("1000\n")
    assert only(root, template).unmatched == ("dwi/sub-1_dwi.nii.gz (1 b-values for 2 volumes)",)
    (path.parent / "sub-1_dwi.bval").unlink()
    assert only(root, template).unmatched == (
        "dwi/sub-1_dwi.nii.gz (2 volumes without a .bval file)",
    )


def test_a_diffusion_image_of_one_volume_is_taken_for_the_trace(root, template):
    path = dwi(root / "sub-1" / "dwi" / "sub-1_dwi.nii.gz")
    assert only(root, template).contrasts["TRACE"].volume is None
    (path.parent / "sub-1_dwi.bval").write_text("2500\n")
    source = only(root, template).contrasts["TRACE"]
    assert source.facts == {"b_value": 2500.0}
    assert source.warnings == ("W_B_VALUE: TRACE has b = 2500 s/mm2",)
    assert source.read()[0].shape == voxels().shape


def test_a_file_called_trace_wins_over_one_that_could_be(root, template):
    dwi(root / "sub-1" / "dwi" / "sub-1_dwi.nii.gz", [0, 1000])
    save(root / "sub-1" / "dwi" / "sub-1_rec-TRACE_dwi.nii.gz", voxels())
    save(root / "sub-1" / "dwi" / "sub-1_rec-ADC_dwi.nii.gz", voxels())
    case = only(root, template)
    assert names(case) == {
        "ADC": "dwi/sub-1_rec-ADC_dwi.nii.gz",
        "TRACE": "dwi/sub-1_rec-TRACE_dwi.nii.gz",
    }
    assert case.unmatched == ("dwi/sub-1_dwi.nii.gz (another file is called trace)",)


def test_a_damaged_diffusion_image_is_left_to_the_conversion(root, template):
    (root / "sub-1" / "dwi").mkdir(parents=True)
    (root / "sub-1" / "dwi" / "sub-1_dwi.nii.gz").write_bytes(b"no image")
    case = only(root, template)
    assert case.code == ""
    with pytest.raises(InputError, match="sub-1_dwi.nii.gz is damaged"):
        case.contrasts["TRACE"].read()


@pytest.mark.parametrize(
    "mask",
    [
        "derivatives/masks/sub-1/dwi/sub-1_space-TRACE_desc-lesion_mask.nii.gz",
        "derivatives/sub-1/ses-1/sub-1_ses-1_msk.nii.gz",
        "derivatives/masks/sub-1_mask.nii.gz",
        "derivatives/a/b/sub-1_label-L_desc-T1lesion_mask.nii",
        "sub-1/anat/sub-1_label-L_desc-T1lesion_mask.nii.gz",
    ],
)
def test_a_mask_is_the_label_wherever_it_lies(root, template, mask):
    save(root / "sub-1" / "anat" / "sub-1_T1w.nii.gz", voxels())
    save(root / "sub-10" / "anat" / "sub-10_T1w.nii.gz", voxels())
    save(root / mask, lesion())
    case, other = scan_bids(root, template)
    assert case.label.path == root / mask
    np.testing.assert_array_equal(case.label.read()[0], lesion())
    assert (case.code, other.label) == ("", None)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("sub-1_desc-brain_mask", "a mask of anatomy, no label"),
        ("sub-1_label-GM_mask", "a mask of anatomy, no label"),
        ("sub-1_T1w_brain_mask", "a mask of anatomy, no label"),
        ("sub-1_desc-lesion_dseg", "it fits no label pattern of the template"),
    ],
)
def test_other_masks_are_no_label(root, template, mask, reason):
    save(root / "sub-1" / "anat" / "sub-1_T1w.nii.gz", voxels())
    save(root / "derivatives" / "x" / "sub-1" / f"{mask}.nii.gz", lesion())
    case = only(root, template)
    assert case.label is None
    assert case.unmatched == (f"derivatives/x/sub-1/{mask}.nii.gz ({reason})",)


def test_a_subject_called_brain_can_have_a_label(root, template):
    save(root / "sub-brain1" / "anat" / "sub-brain1_T1w.nii.gz", voxels())
    save(root / "derivatives" / "x" / "sub-brain1" / "sub-brain1_mask.nii.gz", lesion())
    assert only(root, template).label is not None


def test_images_in_derivatives_are_not_taken(root, template):
    save(root / "sub-1" / "anat" / "sub-1_T1w.nii.gz", voxels())
    save(root / "derivatives" / "x" / "sub-1" / "sub-1_desc-preproc_T1w.nii.gz", voxels())
    case = only(root, template)
    assert (names(case), case.code, case.unmatched) == (
        {"T1": "anat/sub-1_T1w.nii.gz"},
        "",
        (),
    )


def test_two_masks_are_ambiguous(root, template):
    save(root / "sub-1" / "anat" / "sub-1_T1w.nii.gz", voxels())
    for name in ("lesionAcute", "lesionChronic"):
        save(root / "derivatives" / "x" / "sub-1" / f"sub-1_desc-{name}_mask.nii.gz", lesion())
    case = only(root, template)
    assert case.code == "E_AMBIGUOUS"
    assert case.problem.startswith("label is ambiguous (derivatives/x/sub-1/sub-1_desc-lesionAcute")


def test_a_mask_goes_to_the_session_that_it_names(root, template):
    for session in ("ses-A", "ses-B"):
        save(root / "sub-1" / session / "anat" / f"sub-1_{session}_T1w.nii.gz", voxels())
    save(root / "derivatives" / "x" / "sub-1" / "sub-1_ses-B_mask.nii.gz", lesion())
    save(root / "derivatives" / "y" / "sub-1" / "sub-1_mask.nii.gz", lesion())
    first, second = scan_bids(root, template)
    assert (first.label, second.label.path.name) == (None, "sub-1_ses-B_mask.nii.gz")
    nameless = ("derivatives/y/sub-1/sub-1_mask.nii.gz (it names no session)",)
    assert first.unmatched == second.unmatched == nameless


def test_a_mask_without_a_session_fits_the_only_one(root, template):
    save(root / "sub-1" / "ses-1" / "anat" / "sub-1_ses-1_T1w.nii.gz", voxels())
    save(root / "derivatives" / "sub-1_mask.nii.gz", lesion())
    assert only(root, template).label is not None


def test_what_is_missing_is_named(root, tmp_path):
    save(root / "sub-1" / "anat" / "sub-1_FLAIR.nii.gz", voxels())
    changes = {"contrasts": CONTRASTS, "required": ["ADC|TRACE", "T1"], "label": LABEL}
    case = only(root, load_template(str(write_template(tmp_path, **changes))))
    assert (case.code, case.problem) == (
        "E_REQUIRED",
        "no ADC|TRACE and no T1 (required): add a file with its BIDS name, or remove the case",
    )


@pytest.mark.parametrize("kind", ["subject", "file", "session", "mask", "mask folder", "nothing"])
def test_a_link_out_of_the_tree_ends_its_case_only(root, tmp_path, template, kind):
    outside = tmp_path / "outside"
    save(outside / "anat" / "sub-1_T1w.nii.gz", voxels())
    mask = save(outside / "sub-1_mask.nii.gz", lesion())
    save(root / "sub-2" / "ses-1" / "anat" / "sub-2_ses-1_T1w.nii.gz", voxels())
    if kind == "subject":
        (root / "sub-1").symlink_to(outside)
    elif kind == "session":
        (root / "sub-1").mkdir()
        (root / "sub-1" / "ses-1").symlink_to(outside)
    else:
        save(root / "sub-1" / "anat" / "sub-1_FLAIR.nii.gz", voxels())
    (root / "derivatives" / "x").mkdir(parents=True)
    if kind == "file":
        (root / "sub-1" / "anat" / "sub-1_T1w.nii.gz").symlink_to(outside / "anat" / "x.nii.gz")
    elif kind == "mask":
        (root / "derivatives" / "x" / "sub-1_mask.nii.gz").symlink_to(mask)
    elif kind == "mask folder":
        (root / "derivatives" / "x" / "sub-1").symlink_to(outside)
    elif kind == "nothing":
        (root / "sub-1" / "anat" / "sub-1_T1w.nii.gz").symlink_to(root / "gone")
    bad, good = scan_bids(root, template)
    assert (bad.code, good.code) == ("E_LINK", "")
    assert str(tmp_path) not in bad.problem


def test_names_that_clash_but_for_case_are_refused(root, template):
    for name in ("sub-a", "sub-A"):
        save(root / name / "anat" / f"{name}_T1w.nii.gz", voxels())
    assert sorted(raw.code for raw in scan_bids(root, template)) == ["", "E_NAME"]


def test_a_bids_tree_has_subjects(root, template):
    with pytest.raises(InputError, match="has no folder sub-"):
        scan_bids(root, template)
    with pytest.raises(InputError, match="is not a folder"):
        scan_bids(root / "gone", template)
