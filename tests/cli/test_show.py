"""amae-nnunet-show on the small data set, labelled and unlabelled."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import CONTRASTS, DATASET
from schemas import check
from shell import small_disk

from amae_nnunet.cli import show
from amae_nnunet.networks.checkpoint import load_mae, read_checkpoint, save_checkpoint
from amae_nnunet.plans.preprocessed import PreprocessedDataset, travel_record
from amae_nnunet.plans.unlabeled import preprocess_unlabeled
from amae_nnunet.pretraining.check import Finding
from amae_nnunet.pretraining.pictures import axial_slice
from amae_nnunet.pretraining.show import find_studies

pytestmark = pytest.mark.slow  # processes, or real work for half a minute


@pytest.fixture
def run(pretrained, tmp_path, monkeypatch):
    def run(*words, code=0):
        base = ["-d", "950", "-c", "tiny", "-p", "AMAEPlans", "-o", str(tmp_path)]
        assert show.main([str(pretrained), *words, *base, "-device", "cpu"]) == code
        return tmp_path

    return run


def cases(nnunet):
    return PreprocessedDataset.open("950", "tiny", "AMAEPlans").cases()


def partial_case(nnunet):
    """A case without T2."""
    record = travel_record(DATASET)
    return next(case for case, entry in sorted(record.cases.items()) if not entry.present[2])


def test_picture_skills_and_nifti_files_of_a_case(nnunet, run, capsys):
    case = partial_case(nnunet)
    folder = run(case, "--nifti")
    kinds = ("original", "masked", "reconstructed")
    expected = {f"{case}_{name}_{kind}.nii.gz" for name in ("ADC", "TRACE") for kind in kinds}
    assert {p.name for p in folder.iterdir()} == {*expected, f"{case}.png", f"{case}.json"}
    skills = json.loads((folder / f"{case}.json").read_text())
    check("shown", skills)
    assert skills["skill_mean"]["T2"] is None
    assert skills["skill_mean"]["ADC"] < 1
    assert f"ADC: skill against its mean {skills['skill_mean']['ADC']:+.2f}" in (
        capsys.readouterr().out
    )
    original, masked, rebuilt = (
        nibabel.load(folder / f"{case}_ADC_{kind}.nii.gz") for kind in kinds
    )
    raw = nibabel.load(nnunet / "raw" / DATASET / "imagesTr" / f"{case}_0000.nii.gz")
    np.testing.assert_allclose(original.affine, raw.affine, atol=1e-4)
    image = np.asarray(raw.dataobj, dtype=np.float64)
    image = (image - image.mean()) / image.std()
    np.testing.assert_allclose(np.asarray(original.dataobj), image, atol=1e-3)
    a, b, c = (np.asarray(part.dataobj) for part in (original, masked, rebuilt))
    hidden = c != a
    assert hidden.mean() == pytest.approx(45 / 64, abs=0.001)  # 19 of 64 tokens stay visible
    assert set(b[hidden]) == {a.min()}
    np.testing.assert_array_equal(b[~hidden], a[~hidden])


def test_a_full_disk_is_one_line_and_leaves_no_half_file(nnunet, run, pretrained, tmp_path):
    """There is room for the picture and some of the NIfTI files."""
    case = partial_case(nnunet)
    sizes = {path.suffix: 0 for path in run(case, "--nifti").iterdir()}
    for path in tmp_path.iterdir():
        sizes[path.suffix] += path.stat().st_size
    disk, rescued = tmp_path / "disk", tmp_path / "rescued"
    disk.mkdir()
    prefix = small_disk(int((sizes[".png"] + sizes[".gz"] / 2) / 1000), disk)
    tool = Path(sys.executable).parent / "amae-nnunet-show"
    script = '"$@"; code=$?; cp -r "$DISK" "$RESCUED"; exit $code'
    words = ["--nifti", "-d", "950", "-c", "tiny", "-p", "AMAEPlans", "-device", "cpu", "-o", disk]
    process = subprocess.run(
        [*prefix, "sh", "-c", script, "sh", tool, pretrained, case, *words],
        env={**os.environ, "DISK": str(disk), "RESCUED": str(rescued)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 1, process.stderr
    (line,) = [line for line in process.stderr.splitlines() if "error:" in line]
    assert re.search(r"cannot write .*\.nii\.gz \(.*MB free\): make room and run it again", line)
    assert "Traceback" not in process.stderr
    whole = [nibabel.load(path).get_fdata() for path in rescued.glob("*.nii.gz")]
    assert 0 < len(whole) < 6
    assert {path.suffix for path in rescued.iterdir()} == {".gz", ".png", ".json"}


def test_a_study_larger_than_the_patch_is_rebuilt_patch_by_patch(nnunet, pretrained):
    import torch

    from amae_nnunet.pretraining.rebuild import rebuild_part, rebuild_study

    model = load_mae(read_checkpoint(pretrained))
    opened = PreprocessedDataset.open("950", "tiny", "AMAEPlans")
    study = find_studies(opened, [cases(nnunet)[0]], model.config.contrasts)[0]
    small = (8, 16, 24)  # of (16, 32, 32): two by two by two patches that stick out at the sides
    object.__setattr__(model.config, "patch_size", small)
    monkey = type(model)(model.config)
    monkey.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "pos_embed" not in k}, strict=False
    )
    whole = rebuild_study(monkey, study, 0.7, 3)
    volume = torch.from_numpy(np.asarray(study.images()[:]))
    assert torch.equal(whole.images[list(study.contrasts)], volume[list(study.channels)])
    number = 5  # place (1, 0, 1) of (2, 2, 2)
    part = rebuild_part(monkey, study, study.images(), (8, 0, 16), 0.7, 3 + number)
    assert torch.equal(whole.rebuilt[:, 8:16, 0:16, 16:32], part.rebuilt[:, :, :, :16])
    assert torch.equal(whole.hidden[:, 8:16, 0:16, 16:32], part.hidden[:, :, :, :16])


def test_a_data_set_stands_for_all_of_its_cases(nnunet, pretrained, more, run, capsys):
    opened = PreprocessedDataset.open("950", "tiny", "AMAEPlans")
    preprocess_unlabeled(opened, more, 1)
    folder = run(more, "--check")
    assert json.loads((folder / "check.json").read_text())["checked"] == 5
    names = [DATASET, f"{more}/more_001", "more_003"]
    found = [study.name for study in find_studies(opened, names, CONTRASTS)]
    others = [f"{more}/more_001", f"{more}/more_003"]
    assert found == [*(f"{DATASET}/{case}" for case in cases(nnunet)), *others]
    run("Dataset941_Nothing", "--check", code=3)
    assert "Dataset941_Nothing is no preprocessed case or data set" in capsys.readouterr().err


def test_the_axial_slice_undoes_nnunets_permutation():
    import torch

    volume = torch.arange(3 * 4 * 5).reshape(3, 4, 5)
    for forward in ([0, 1, 2], [1, 0, 2], [2, 0, 1], [1, 2, 0]):
        permuted = volume.permute(forward)
        np.testing.assert_array_equal(axial_slice(permuted, forward), volume[1].numpy())


def test_what_is_not_there_is_one_line(nnunet, run, capsys, tmp_path):
    run("nobody", code=3)
    assert "nobody is no preprocessed case or data set" in capsys.readouterr().err
    run(code=2)
    assert "name at least one case (or give --check" in capsys.readouterr().err
    no_file = [str(tmp_path / "no.safetensors"), "x", "-d", "950", "-c", "tiny"]
    assert show.main([*no_file, "-p", "AMAEPlans"]) == 5
    assert "does not exist" in capsys.readouterr().err


def test_a_2d_configuration_is_refused(pretrained, capsys):
    assert show.main([str(pretrained), "x", "-d", "950", "-c", "2d", "-p", "nnUNetPlans"]) == 2
    assert "this is a 2d configuration: the method is 3-D" in capsys.readouterr().err


def test_another_spacing_is_refused(nnunet, pretrained, capsys):
    from amae_nnunet.cli import configure

    words = ["950", "3d_fullres", "--name", "wide", "-o", "WidePlans", "spacing=6,10,10"]
    assert configure.main(words) == 0
    folder = nnunet / "preprocessed" / DATASET
    shutil.copytree(folder / "nnUNetPlans_3d_fullres", folder / "WidePlans_wide")
    words = [str(pretrained), "x", "-d", "950", "-c", "wide", "-p", "WidePlans"]
    assert show.main(words) == 2
    assert "was trained at [6.0, 5.0, 5.0] mm, wide of" in capsys.readouterr().err


def test_the_checkpoint_says_of_which_data_set_configuration_and_plans(
    nnunet, pretrained, tmp_path, capsys
):
    case = partial_case(nnunet)
    words = [str(pretrained), case, "-o", str(tmp_path), "-device", "cpu"]
    for more in ([], ["-d", "950"]):
        assert show.main([*words, *more]) == 0
        assert f"wrote {tmp_path / case}.png" in capsys.readouterr().out
    assert show.main([*words, "-p", "nnUNetPlans"]) == 3
    assert "AMAEPlans has it: add -p AMAEPlans" in capsys.readouterr().err


@pytest.mark.parametrize(
    "plan", [None, {}, {"dataset": "../Dataset950_Small", "configuration": "tiny"}]
)
def test_a_checkpoint_that_names_no_data_set_wants_to_be_told(pretrained, tmp_path, plan, capsys):
    checkpoint = read_checkpoint(pretrained)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, load_mae(checkpoint), {**checkpoint.facts, "plan": plan})
    assert show.main([str(other), "case"]) == 2
    assert "does not say of which cases: give -d and -c" in capsys.readouterr().err


def test_check_writes_what_it_found(nnunet, run, capsys):
    folder = run("--check")
    found = json.loads((folder / "check.json").read_text())
    check(
        "check",
        found,
        {"checked": 1, "found": [Finding("Dataset950_Small/a", {"T2": "ADC"}, 0.1).to_json()]},
    )
    assert found["checked"] == len(cases(nnunet))
    assert f"{len(found['found'])} of {found['checked']} cases" in capsys.readouterr().out


def test_check_says_of_a_model_that_knows_little_that_it_lists_right_names(run, capsys):
    run("--check")
    assert re.search(
        r"skills against the mean are -?0\.\d\d to -?0\.\d\d: below 0\.5 it lists right names",
        capsys.readouterr().out,
    )


def test_check_puts_the_largest_gain_first(nnunet, run, monkeypatch):
    gains = iter([0.02, 0.3, 0.1])

    def found(model, study, mask_ratio, seed):
        gain = next(gains, None)
        return gain and Finding(study.name, {"T2": "ADC"}, gain)

    monkeypatch.setattr("amae_nnunet.pretraining.check.check_study", found)
    assert len(cases(nnunet)) >= 3
    listed = json.loads((run("--check") / "check.json").read_text())["found"]
    assert [finding["gain"] for finding in listed] == [0.3, 0.1, 0.02]


@pytest.mark.parametrize("seed", ["-1", str(2**31)])
def test_a_seed_out_of_range_is_one_line(run, capsys, seed):
    run("case", "--seed", seed, code=2)
    assert "--seed" in capsys.readouterr().err


@pytest.mark.slow
def test_the_console_script_is_there():
    tool = Path(sys.executable).parent / "amae-nnunet-show"
    assert "--check" in subprocess.run([tool, "--help"], capture_output=True, text=True).stdout


def test_cases_of_one_name_from_two_data_sets_are_not_written_over_each_other(
    more, more_as, run, capsys
):
    opened = PreprocessedDataset.open("950", "tiny", "AMAEPlans")
    twin = more_as("Dataset946_Twin").name
    for name in (more, twin):
        preprocess_unlabeled(opened, name, 1)
    run(f"{more}/more_001", f"{twin}/more_001", code=2)
    assert "several of the data sets have a case more_001" in capsys.readouterr().err
