"""Unlabelled data sets through the real converter and nnU-Net's own preprocessor."""

import concurrent.futures
import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import DATASET, MORE, ORDER
from deadly import dies_on_two
from schemas import check, lines
from shell import small_disk

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import ConfigError, InputError
from amae_nnunet.lock import LOCK, locked
from amae_nnunet.plans import unlabeled
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.plans.unlabeled import preprocess_unlabeled
from amae_nnunet.pretraining.data import RandomCrops, collate
from amae_nnunet.pretraining.studies import gather_studies

pytestmark = pytest.mark.slow  # processes, or real work for half a minute


def opened(plans="AMAEPlans", configuration="tiny"):
    return PreprocessedDataset.open("950", configuration, plans)


@pytest.fixture(scope="module")
def done(more, tiny_plans):
    return preprocess_unlabeled(opened(), more, 1)


def files_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("more_*")}


def test_a_second_run_waits_for_the_first(done, more):
    with ThreadPoolExecutor(1) as threads:
        with locked(done.folder / LOCK):
            other = threads.submit(preprocess_unlabeled, opened(), more, 1)
            with pytest.raises(concurrent.futures.TimeoutError):
                other.result(timeout=3)
        assert other.result(timeout=60).cases == done.cases


def test_cases_are_what_nnunet_makes_of_them_with_the_plans(nnunet, done):
    """The same case given to nnU-Net's preprocessor by hand, with its channels as planned."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    assert done.folder == (
        nnunet / "preprocessed" / DATASET / "unlabeled" / "nnUNetPlans_3d_fullres" / MORE
    )
    assert not (nnunet / "preprocessed" / MORE).exists()
    plans = json.loads((nnunet / "preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    manager = PlansManager(plans)
    raw = nnunet / "raw" / MORE / "imagesTr"
    for case in ("more_000", "more_003"):
        files = [str(raw / f"{case}_{channel:04d}.nii.gz") for channel in range(3)]
        expected = DefaultPreprocessor(verbose=False).run_case(
            files, None, manager, manager.get_configuration("3d_fullres"), {}
        )[0]
        found, seg, *_ = nnUNetDatasetBlosc2(str(done.folder), [case]).load_case(case)
        assert (found.dtype, seg.dtype) == (np.float16, np.int16)
        assert seg.shape == (1, *expected.shape[1:])
        np.testing.assert_array_equal(found[:] == 0, expected == 0)
        np.testing.assert_allclose(found[:], expected, rtol=2**-11, atol=2**-24)


def test_what_was_preprocessed_in_float32_is_kept_and_read(nnunet, done, more):
    """As nnU-Net itself writes it, and as older versions did; in one batch with half precision."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = json.loads((nnunet / "preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    manager = PlansManager(plans)
    files = [str(p) for p in sorted((nnunet / "raw" / more / "imagesTr").glob("more_003*"))]
    place = done.folder / "more_003"
    saved = place.with_suffix(".b2nd").rename(nnunet / "half.b2nd")
    (done.folder / "more_003_seg.b2nd").unlink()
    DefaultPreprocessor(verbose=False).run_case_save(
        str(place), files, None, manager, manager.get_configuration("3d_fullres"), {}
    )
    ledger = done.folder / "cases.jsonl"
    older = re.sub(r'("more_003".*), "bytes": \[[^]]*\]', r"\1", ledger.read_text())
    ledger.write_text(older)
    before = files_of(done.folder)
    assert preprocess_unlabeled(opened(), more, 1) == done
    assert files_of(done.folder) == before
    _, studies = gather_studies(opened(), "all", [more], 1)
    old, other = (next(s for s in studies if s.case == case) for case in ("more_003", "more_001"))
    before = RandomCrops([old], 4, (16, 32, 32), seed=0)
    whole, beside = before[0], RandomCrops([other], 4, (16, 32, 32), seed=0)[0]
    assert [images.dtype for images, *_ in (whole, beside)] == [torch.float32, torch.float16]
    mixed = collate([whole, beside])[0]
    assert torch.equal(mixed, torch.stack([whole[0], beside[0].float()]))
    saved.replace(place.with_suffix(".b2nd"))
    half = before[0]
    assert half[0].dtype == collate([half, beside])[0].dtype == torch.float16
    assert torch.equal(half[1], whole[1])
    assert half[2] == whole[2]
    torch.testing.assert_close(half[0].float(), whole[0], rtol=2**-11, atol=2**-24)


def test_contrasts_are_those_of_the_record(nnunet, done):
    record = ContrastRecord.read(nnunet / "raw" / MORE)
    assert done.contrasts == ORDER
    assert len(done.cases) == 5
    for case, found in done.cases.items():
        assert tuple(found) == record.names_present(case)
        assert all(ORDER[channel] == name for name, channel in found.items())
    assert len({tuple(found) for found in done.cases.values()}) == 2


def test_contrasts_are_matched_by_name_into_the_union(more, done):
    contrasts, studies = gather_studies(opened(), "all", ["940"], 1)
    assert contrasts == ("ADC", "TRACE", "T2", "FLAIR")
    assert len(studies) == 11
    for study in studies:
        if study.dataset == MORE:
            names = [contrasts[row] for row in study.contrasts]
            assert names == [ORDER[channel] for channel in study.channels]
        else:
            assert study.channels == study.contrasts


def test_nothing_is_done_twice_and_a_changed_file_is_done_again(nnunet, more, done):
    before = files_of(done.folder)
    assert preprocess_unlabeled(opened(), more, 1) == done
    assert files_of(done.folder) == before
    path = nnunet / "raw" / MORE / "imagesTr" / "more_002_0000.nii.gz"
    os.utime(path)
    preprocess_unlabeled(opened(), more, 1)
    changed = {name for name, time in files_of(done.folder).items() if time != before.get(name)}
    assert changed == {"more_002.b2nd", "more_002_seg.b2nd", "more_002.pkl"}


def test_what_an_interrupted_run_left_is_done_again(more, done):
    ledger = done.folder / "cases.jsonl"
    lines = [line for line in ledger.read_text().splitlines() if "more_004" not in line]
    ledger.write_text("\0\0\n[]\n" + "\n".join(lines) + '\n{"case": "more_004", "ke')
    (done.folder / "more_004.b2nd").write_bytes(b"half")
    (done.folder / "more_000.b2nd").write_bytes(b"half")  # though its line says that it is done
    (done.folder / ".tmp" / "more_004").mkdir(parents=True)
    (done.folder / "more_001.pkl").unlink()
    assert preprocess_unlabeled(opened(), more, 2) == done
    assert not (done.folder / ".tmp").exists()
    for case in ("more_000", "more_004"):
        assert (done.folder / f"{case}.b2nd").stat().st_size > 1000
    assert (done.folder / "more_001.pkl").exists()
    before = files_of(done.folder)
    assert preprocess_unlabeled(opened(), more, 2) == done
    assert files_of(done.folder) == before


def test_bad_cases_are_named_and_the_others_go_on(more_as, done, caplog):
    name = "Dataset941_Bad"
    raw = more_as(name) / "imagesTr"
    (raw / "more_000_0001.nii.gz").unlink()  # stock nnU-Net would read TRACE as T2
    (raw / "more_001_0000.nii.gz").write_bytes(b"no image")
    shutil.copy(raw / "more_003_0000.nii.gz", raw / "stray_0000.nii.gz")
    for channel in (1, 2):
        shutil.copy(raw / f"more_003_000{channel}.nii.gz", raw / f"stray_000{channel}.nii.gz")
    image = nibabel.load(raw / "more_002_0002.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine),
                 raw / "more_002_0002.nii.gz")  # fmt: skip
    with caplog.at_level(logging.INFO):
        found = preprocess_unlabeled(opened(), name, 1)
    assert sorted(found.cases) == ["more_003", "more_004"]
    text = caplog.text
    assert "case more_000: has the channel files 0000, 0002, dataset.json lists 3" in text
    assert "case more_001: " in text
    assert "case more_002: contrasts.json says TRACE is present but its voxels are all zero" in text
    assert "case stray: is not in contrasts.json" in text
    lines = (found.folder / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["case"] for line in lines] == [
        "more_000", "more_001", "more_002", "stray"
    ]  # fmt: skip
    for case in ("more_003", "more_004"):
        for channel in range(3):
            (raw / f"{case}_000{channel}.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError, match="none of the 6 cases"):
        preprocess_unlabeled(opened(), name, 1)


def test_the_preprocessor_of_the_plans_is_asked_for(more_as, done):
    """nnU-Net finds it by its name; one that it does not have is not replaced by its default."""
    name, dataset = more_as("Dataset949_Mine").name, opened()
    assert len(preprocess_unlabeled(dataset, name, 1).cases) == 5
    configuration = {**dataset.configuration, "preprocessor_name": "NobodysPreprocessor"}
    with pytest.raises(InputError, match="none of the 5 cases of Dataset949_Mine can be used"):
        preprocess_unlabeled(dataclasses.replace(dataset, configuration=configuration), name, 1)


def test_a_full_disk_is_no_fault_of_a_case(more_as, done):
    """Nothing is trained on the cases for which there was room; with room all are done."""
    name = "Dataset947_Full"
    more_as(name)
    folder = done.folder.parent / name
    folder.mkdir()
    tool = Path(sys.executable).parent / "amae-nnunet-pretrain"
    words = ["950", "tiny", "-p", "AMAEPlans", "--unlabeled", name, "-np", "1", "-device", "cpu"]
    result = subprocess.run(
        [*small_disk(160, folder), tool, *words, "--estimate"],
        capture_output=True,
        text=True,
        check=False,
    )
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1, result.stderr
    assert re.search(r"error: cannot write .*more_00\d.b2nd \(.* MB free\): make room and", last)
    assert "Traceback" not in result.stderr
    assert len(preprocess_unlabeled(opened(), name, 1).cases) == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("channel_names", {"0": "FLAIR", "1": "trace", "2": "ADC"},
         "has a contrast trace where Dataset950_Small has TRACE: give both the same name"),
        ("channel_names", {}, "dataset.json has no channel_names: add it"),
        ("file_ending", "", "dataset.json has no file_ending: add it"),
    ],
)  # fmt: skip
def test_a_description_that_cannot_be_meant_is_refused_before_any_work(
    nnunet, tiny_plans, more_as, key, value, message
):
    raw = more_as("Dataset948_Described")
    described = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**described, key: value}))
    with pytest.raises(InputError, match=message):
        gather_studies(opened(), "all", ["948"], 1)
    assert not list((nnunet / "preprocessed").rglob(raw.name))


def test_labelled_cases_that_are_not_preprocessed_are_missed(more, caplog):
    described = {**opened().dataset_json, "numTraining": 9}
    gather_studies(dataclasses.replace(opened(), dataset_json=described))
    assert "has 6 of the 9 cases of dataset.json: the others are left out" in caplog.text
    caplog.clear()
    gather_studies(opened())
    assert "left out" not in caplog.text


def test_a_case_that_kills_its_process_does_not_stop_the_others(more_as, done, monkeypatch):
    monkeypatch.setattr(unlabeled, "_preprocess", dies_on_two)
    more_as("Dataset942_Deadly")
    found = preprocess_unlabeled(opened(), "Dataset942_Deadly", 2)
    assert sorted(found.cases) == ["more_000", "more_001", "more_003", "more_004"]
    failure = json.loads((found.folder / "failures.jsonl").read_text())
    assert "its process died, perhaps out of memory" in failure["error"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["950"], ConfigError, "give each data set once, and not Dataset950_Small"),
        (["940", MORE], ConfigError, "give each data set once"),
        (["999"], InputError, "999"),
    ],
)
def test_what_cannot_be_meant_is_refused(more, names, error, message):
    with pytest.raises(error, match=message):
        gather_studies(opened(), "all", names, 1)


def test_the_checkpoint_of_the_union_loads_by_name_and_warns(nnunet, more, done):
    """Through the commands: pre-train on both, fine-tune on the labelled one."""
    from conftest import TINY

    from amae_nnunet.cli import configure, pretrain
    from amae_nnunet.networks.checkpoint import read_checkpoint
    from amae_nnunet.training.trainer import AMAETrainer

    assert configure.main(["950", "3d_fullres", "--name", "union", *TINY]) == 0
    base = ["950", "union", "-p", "AMAEPlans", "-device", "cpu", "-np", "1"]
    assert pretrain.main([*base, "--unlabeled", "940"]) == 0
    folder = nnunet / "results" / DATASET / "AMAEPretraining__AMAEPlans__union" / "fold_all"
    checkpoint = read_checkpoint(folder / "checkpoint_final.safetensors")
    assert checkpoint.config.contrasts == ("ADC", "TRACE", "T2", "FLAIR")
    assert checkpoint.facts["num_cases"] == 11
    plans = json.loads((nnunet / "preprocessed" / DATASET / "AMAEPlans.json").read_text())
    plans["continue_training"] = False
    described = json.loads((nnunet / "preprocessed" / DATASET / "dataset.json").read_text())
    trainer = AMAETrainer(plans, "union", 0, described, torch.device("cpu"))
    trainer.on_train_start()
    rows = [checkpoint.config.contrasts.index(name) for name in ("ADC", "TRACE", "T2")]
    expected = checkpoint.tensors["encoder.contrast_embed.weight"][rows]
    assert torch.equal(trainer.network.encoder.contrast_embed.weight, expected)
    assert "the pre-training saw 2 of the 2 validation cases of fold 0" in log_of(trainer)
    assert pretrain.main([*base, "--c"]) == 5


def log_of(trainer):
    with open(trainer.log_file) as file:
        return file.read()


def test_ledger_and_failures_are_what_their_schemas_say(done):
    check("unlabeled-cases", *lines(done.folder / "cases.jsonl"))
    folder = done.folder.with_name("a_copy")
    folder.mkdir()
    unlabeled._report(folder, "Dataset940_More", {"case": "a voxel is NaN"})
    check("unlabeled-failures", *lines(folder / "failures.jsonl"))
