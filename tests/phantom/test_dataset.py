"""Studies and their files: same seed same study, what the label means, what the headers hold."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from schemas import check
from scipy import stats

from amae_nnunet.contrasts import PAPER_CONTRASTS
from amae_nnunet.contrasts import SPLITS as CONTRAST_SPLITS
from amae_nnunet.errors import ConfigError
from amae_nnunet.lock import locked
from amae_nnunet.phantom.dataset import (
    AVAILABILITY,
    SIZES,
    SPLITS,
    Study,
    available_contrasts,
    make_study,
    write_studies,
)
from amae_nnunet.phantom.scanner import SITES
from amae_nnunet.phantom.tissues import TISSUES

SMALL = {"shape": (16, 20, 18), "spacing": (9.0, 9.5, 9.0)}


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    return [make_study(0, index) for index in range(12)]


def values(study: Study, contrast: str, tissue: str) -> np.ndarray:
    """Values where a tissue fills the voxel, relative to normal white matter."""
    image = study.images[contrast]
    normal = np.median(image[study.tissue == TISSUES.index("white")])
    return image[study.tissue == TISSUES.index(tissue)] / normal


def test_a_study_is_what_it_says(studies: list[Study]) -> None:
    study = studies[0]
    assert tuple(study.images) == PAPER_CONTRASTS
    for image in study.images.values():
        assert image.shape == (24, 64, 64)
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
    assert study.label.dtype == study.tissue.dtype == np.uint8
    assert set(np.unique(study.label)) == {0, 1}
    assert np.all(study.tissue[study.label == 1] == TISSUES.index("infarct"))
    assert study.spacing == (6.0, 3.3, 3.3)


def test_a_study_depends_on_seed_and_index_alone() -> None:
    first, again = make_study(3, 5, **SMALL), make_study(3, 5, **SMALL)
    for name in PAPER_CONTRASTS:
        np.testing.assert_array_equal(first.images[name], again.images[name])
    np.testing.assert_array_equal(first.label, again.label)
    for other in (make_study(3, 6, **SMALL), make_study(4, 5, **SMALL)):
        assert not np.array_equal(first.tissue, other.tissue)
        assert not np.array_equal(first.images["T1"], other.images["T1"])
    few = make_study(3, 5, contrasts=("T1", "ADC"), **SMALL)
    assert tuple(few.images) == ("T1", "ADC")
    np.testing.assert_array_equal(few.images["T1"], first.images["T1"])


def test_acute_infarct_is_bright_on_trace_and_dark_on_adc(studies: list[Study]) -> None:
    for study in studies:
        assert study.label.sum() >= 5
        assert np.median(values(study, "TRACE", "infarct")) > 1.5
        assert np.median(values(study, "ADC", "infarct")) < 0.85


def test_distractors_look_like_it_on_one_of_the_two(studies: list[Study]) -> None:
    for contrast, least in (("TRACE", 1.8), ("ADC", 1.2)):
        found = np.concatenate([values(study, contrast, "chronic") for study in studies])
        assert np.median(found) > least
    trace = np.concatenate([values(study, "TRACE", "haemorrhage") for study in studies])
    adc = np.concatenate([values(study, "ADC", "haemorrhage") for study in studies])
    assert np.median(trace) < 0.9
    assert np.median(adc[adc > 0]) < 0.9


def dice(found: np.ndarray, label: np.ndarray) -> float:
    return 2 * np.sum(found & (label > 0)) / (np.sum(found) + np.sum(label))


def best(rules: Iterable[np.ndarray], label: np.ndarray) -> float:
    """Dice of the best of many rules, chosen by the label itself."""
    return max(dice(rule, label) for rule in rules)


def test_only_trace_and_adc_together_tell_the_infarct(studies: list[Study]) -> None:
    pair, alone = [], {name: [] for name in PAPER_CONTRASTS}
    for study in studies:
        brain = study.tissue >= TISSUES.index("csf")
        label = study.label[brain]
        images = {name: image[brain] for name, image in study.images.items()}
        for name, image in images.items():
            cuts = np.quantile(image, np.linspace(0, 1, 100))
            alone[name].append(
                max(best((image > c for c in cuts), label), best((image < c for c in cuts), label))
            )
        bright = [
            images["TRACE"] > c for c in np.quantile(images["TRACE"], np.linspace(0.9, 1, 20))
        ]
        dark = [images["ADC"] < c for c in np.quantile(images["ADC"], np.linspace(0.02, 0.7, 20))]
        pair.append(best((a & b for a in bright for b in dark), label))
    assert np.mean(pair) > 0.8
    for name in PAPER_CONTRASTS:
        assert np.mean(alone[name]) < np.mean(pair) - 0.1, name


def test_no_threshold_on_one_contrast_does_for_all_studies_what_two_on_the_pair_do(
    studies: list[Study],
) -> None:
    """Pooled over studies and sites, each image divided by its normal white matter."""
    pooled: dict[str, list[np.ndarray]] = {name: [] for name in PAPER_CONTRASTS}
    labels = []
    for study in studies:
        brain = study.tissue >= TISSUES.index("csf")
        labels.append(study.label[brain])
        for name, image in study.images.items():
            normal = np.median(image[study.tissue == TISSUES.index("white")])
            pooled[name].append(image[brain] / normal)
    label = np.concatenate(labels)
    images = {name: np.concatenate(parts) for name, parts in pooled.items()}
    pair = best(
        (
            (images["TRACE"] > bright) & (images["ADC"] < dark)
            for bright in np.linspace(1.2, 2.0, 9)
            for dark in np.linspace(0.7, 1.3, 7)
        ),
        label,
    )
    assert pair > 0.75
    for name, image in images.items():
        cuts = np.quantile(image, np.linspace(0, 1, 100))
        above, below = ((image > c for c in cuts), (image < c for c in cuts))
        assert max(best(above, label), best(below, label)) < pair - 0.05, name


def auc(studies: list[Study], contrast: str, tissue: str) -> float:
    """Probability that a voxel of acute infarct is brighter than one of the tissue."""
    infarct, other = (
        np.concatenate([values(study, contrast, name) for study in studies])
        for name in ("infarct", tissue)
    )
    ranks = stats.rankdata(np.concatenate([infarct, other]))[: len(infarct)]
    return float(ranks.mean() - (len(infarct) + 1) / 2) / len(other)


@pytest.mark.parametrize(
    ("tissue", "trace", "adc"),
    [
        ("white", (0.97, 1.0), (0.1, 0.35)),
        ("chronic", (0.3, 0.75), (0.0, 0.15)),  # shines through: ADC alone tells it
        ("haemorrhage", (0.95, 1.0), (0.3, 0.75)),  # restricts as well: trace alone tells it
    ],
)
def test_trace_and_adc_tell_the_infarct_from_different_things(
    studies: list[Study], tissue: str, trace: tuple[float, float], adc: tuple[float, float]
) -> None:
    assert trace[0] <= auc(studies, "TRACE", tissue) <= trace[1]
    assert adc[0] <= auc(studies, "ADC", tissue) <= adc[1]


def test_contrasts_are_missing_as_often_as_stated() -> None:
    draws = [available_contrasts(0, index) for index in range(400)]
    for name, probability in AVAILABILITY.items():
        assert np.mean([name in draw for draw in draws]) == pytest.approx(probability, abs=0.08)
    both = np.mean(["T2" in draw and "T1" in draw for draw in draws])
    assert both == pytest.approx(0.7 * 0.8, abs=0.08)  # independent of each other
    assert available_contrasts(0, 7, ("T1", "T2")) == tuple(
        name for name in ("T1", "T2") if name in draws[7]
    )


def test_a_case_has_at_least_its_likeliest_contrast() -> None:
    never = {"T1": 0.0, "T2": 1e-9}
    assert available_contrasts(0, 0, ("T1", "T2"), never) == ("T2",)


def test_files_hold_the_study(tmp_path: Path) -> None:
    folders = write_studies(tmp_path / "raw", 2, seed=8, first_case=3, prefix="ph", **SMALL)
    assert [folder.name for folder in folders] == ["ph_003", "ph_004"]
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["ph_003", "ph_004"]
    for index, folder in zip((3, 4), folders, strict=True):
        names = available_contrasts(8, index)
        assert {f.name for f in folder.iterdir()} == {
            "study.json",
            *(f"{n}.nii.gz" for n in (*names, "seg")),
        }
        study = make_study(8, index, **SMALL)
        for name in names:
            nifti = nib.load(folder / f"{name}.nii.gz")
            assert nifti.get_data_dtype() == np.int16
            stored = np.asarray(nifti.dataobj).transpose(2, 1, 0)
            np.testing.assert_allclose(stored, study.images[name], atol=0.501)
        label = nib.load(folder / "seg.nii.gz")
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(label.dataobj).transpose(2, 1, 0), study.label)


def test_another_tissue_is_labelled_in_the_same_images(tmp_path: Path) -> None:
    usual, other = (make_study(8, 3, **SMALL, label=name) for name in ("infarct", "deep_grey"))
    for name, image in usual.images.items():
        np.testing.assert_array_equal(image, other.images[name])
    labelled = other.tissue[other.label == 1]
    assert len(labelled) > 10
    assert np.all(labelled == TISSUES.index("deep_grey"))
    assert np.all((other.tissue == TISSUES.index("infarct"))[usual.label == 1])
    (folder,) = write_studies(tmp_path, 1, 8, first_case=3, label="deep_grey", **SMALL)
    label = nib.load(folder / "seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(label.dataobj).transpose(2, 1, 0), other.label)
    facts = json.loads((folder / "study.json").read_text())
    check("study", facts)
    assert facts["recipe"]["label"] == "deep_grey"
    assert facts["label_ml"] == pytest.approx(other.label.sum() * 9 * 9.5 * 9 / 1000)


def test_the_brightest_voxels_are_as_bright_as_a_file_can_hold(tmp_path: Path) -> None:
    """Fat on FLAIR at site D, in a study where it is brighter than 16 bits can say."""
    shape, spacing = SIZES["tiny"]
    bright = {"sites": ("D",), "infarct": 0.5, "shape": shape, "spacing": spacing}
    image = make_study(0, 200_008, ("FLAIR",), **bright).images["FLAIR"]
    assert np.count_nonzero(image == 32767) == 22
    (folder,) = write_studies(
        tmp_path, 1, 0, ("FLAIR",), first_case=200_008, labels=False, **bright,
        availability={"FLAIR": 1.0},
    )  # fmt: skip
    stored = np.asarray(nib.load(folder / "FLAIR.nii.gz").dataobj)
    assert (stored.min() >= 0, np.count_nonzero(stored == 32767)) == (True, 22)


def test_headers_have_geometry_and_no_text(tmp_path: Path) -> None:
    (folder,) = write_studies(tmp_path, 1, **SMALL)
    for path in folder.glob("*.nii.gz"):
        nifti = nib.load(path)
        assert nib.aff2axcodes(nifti.affine) == ("L", "P", "S")
        assert nifti.header.get_zooms() == (9.0, 9.5, 9.0)
        assert nifti.header.get_xyzt_units()[0] == "mm"
        assert int(nifti.header["qform_code"]) == int(nifti.header["sform_code"]) == 1
        np.testing.assert_allclose(nifti.get_qform(), nifti.affine, atol=1e-4)
        middle = (np.array(nifti.shape) - 1) / 2
        np.testing.assert_allclose(nib.affines.apply_affine(nifti.affine, middle), 0, atol=1e-4)
        for field in ("descrip", "aux_file", "intent_name", "db_name"):
            assert bytes(nifti.header[field].tobytes()).strip(b"\0") == b""
        assert not nifti.header.extensions


def test_files_are_the_same_whatever_the_number_of_cases(tmp_path: Path) -> None:
    many = write_studies(tmp_path / "many", 2, **SMALL)
    (one,) = write_studies(tmp_path / "one", 1, first_case=1, **SMALL)
    assert sorted(f.name for f in one.iterdir()) == sorted(f.name for f in many[1].iterdir())
    for path in one.iterdir():
        assert path.read_bytes() == (many[1] / path.name).read_bytes()


def test_files_are_the_same_whatever_the_number_of_processes(tmp_path: Path) -> None:
    folders = [
        write_studies(tmp_path / str(n), 3, num_processes=n, **SMALL)[-1].parent for n in (1, 2)
    ]
    files = [sorted(path.relative_to(f) for path in f.rglob("*.*")) for f in folders]
    assert files[0] == files[1]
    for path in files[0]:
        assert (folders[0] / path).read_bytes() == (folders[1] / path).read_bytes()


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = write_studies(tmp_path, 2, **SMALL)
    (tmp_path / ".case_002.tmp").mkdir()
    times = [path.stat().st_mtime_ns for case in first for path in case.iterdir()]
    assert len(write_studies(tmp_path, 3, resume=True, **SMALL)) == 3
    assert [path.stat().st_mtime_ns for case in first for path in case.iterdir()] == times
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case_000", "case_001", "case_002"]
    with pytest.raises(ConfigError, match="case_000 was not made with these settings"):
        write_studies(tmp_path, 3, seed=1, resume=True, **SMALL)
    (first[1] / "study.json").write_text("{")
    with pytest.raises(ConfigError, match="case_001 was not made with these settings"):
        write_studies(tmp_path, 3, resume=True, **SMALL)


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another run writes into"):
        write_studies(tmp_path, 1, **SMALL)
    assert not list(tmp_path.iterdir())
    write_studies(tmp_path, 1, **SMALL)


def test_the_record_says_how_a_case_was_made(tmp_path: Path) -> None:
    (folder,) = write_studies(tmp_path, 1, 5, first_case=4, sites=("D",), labels=False, **SMALL)
    facts = json.loads((folder / "study.json").read_text())
    check("study", facts)
    study = make_study(5, 4, **SMALL, sites=("D",))
    assert (facts["case"], facts["site"], facts["tesla"]) == (4, "D", 3.0)
    assert facts["contrasts"] == list(available_contrasts(5, 4))
    assert facts["label_ml"] == pytest.approx(study.label.sum() * 9 * 9.5 * 9 / 1000)
    assert facts["recipe"]["seed"] == 5
    assert not (folder / "seg.nii.gz").exists()


@pytest.mark.slow
def test_every_site_is_as_likely_as_the_others() -> None:
    sites = [make_study(0, index, ("T1",), (16, 16, 16), (9.0, 12.0, 12.0)).site
             for index in range(40)]  # fmt: skip
    assert set(sites) == set(SITES)
    few = {make_study(0, n, ("T1",), (16, 16, 16), (9.0, 12.0, 12.0), sites=("B", "C")).site
           for n in range(8)}  # fmt: skip
    assert few == {"B", "C"}


def test_splits_have_no_case_in_common() -> None:
    starts = sorted(split.first_case for split in SPLITS.values())
    assert tuple(SPLITS) == CONTRAST_SPLITS
    assert min(np.diff(starts)) >= 100_000


def test_a_case_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_studies(tmp_path, 1, **SMALL)
    assert not (tmp_path / "case_000").exists()
    assert write_studies(tmp_path, 1, **SMALL) == [tmp_path / "case_000"]
    assert [path.name for path in tmp_path.iterdir()] == ["case_000"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_cases": 0}, "num_cases is 0"),
        ({"num_processes": 0}, "num_processes is 0"),
        ({"sites": ()}, "at least one of A B C D E"),
        ({"sites": ("A", "Z")}, "'Z'"),
        ({"motion": 1.5}, "motion is 1.5"),
        ({"infarct": -0.1}, "infarct is -0.1"),
        ({"label": "thalamus"}, "label thalamus: name one of air sinus"),
        ({"seed": -1}, "seed -1"),
        ({"first_case": -2}, "case -2"),
        ({"contrasts": ()}, "at least one"),
        ({"contrasts": ("T1", "T9")}, "T9"),
        ({"contrasts": ("T1", "T1")}, "at most once"),
        ({"shape": (15, 64, 64)}, "shape"),
        ({"shape": (64, 64)}, "shape"),
        ({"spacing": (3.0, 0.0, 3.0)}, "spacing"),
        ({"spacing": (3.0, float("nan"), 3.0)}, "spacing"),
        ({"spacing": (3.0, 3.0)}, "spacing"),
        ({"availability": {"ADC": 1.0}}, "TRACE is None"),
        ({"availability": {**AVAILABILITY, "T2": 1.5}}, "T2 is 1.5"),
        ({"prefix": "../case"}, "prefix"),
        ({"prefix": ""}, "prefix"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        write_studies(**{"folder": tmp_path / "raw", "num_cases": 1, **arguments})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "raw").exists()


def test_an_existing_case_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "case_001").mkdir()
    with pytest.raises(ConfigError, match="case_001 exists"):
        write_studies(tmp_path, 2, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["case_001"]


def test_the_room_needs_neither_torch_nor_nnunet() -> None:
    code = (
        "import sys, amae_nnunet.phantom.dataset\n"
        "print([m for m in ('torch', 'nnunetv2', 'SimpleITK') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
