import dataclasses
import itertools
import multiprocessing
import os
import pickle
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from amae_nnunet.errors import AMAEError, InputError
from amae_nnunet.plans.preprocessed import PreprocessedDataset, travel_record
from amae_nnunet.pretraining import data
from amae_nnunet.pretraining.data import RandomCrops, collate, crop_loader, cut
from amae_nnunet.pretraining.loop import CONTINUE, Options, prepare
from amae_nnunet.pretraining.mishaps import in_one_line
from amae_nnunet.pretraining.step import accumulate
from amae_nnunet.pretraining.stop import SIGNALS, signals_held
from amae_nnunet.pretraining.studies import Study, gather_studies


@pytest.fixture
def opened(tiny_plans):
    return PreprocessedDataset.open("950", tiny_plans, "AMAEPlans")


def crops_of(opened, patch_size=(8, 16, 16), seed=3):
    contrasts, studies = gather_studies(opened, "all")
    return RandomCrops(studies, len(contrasts), patch_size, seed)


def test_a_sample_is_a_function_of_seed_and_number(opened):
    one, other = crops_of(opened), crops_of(opened)
    order = [5, 0, 3, 11]
    assert all(torch.equal(one[n][0], other[n][0]) for n in order)
    assert not torch.equal(one[0][0], crops_of(opened, seed=4)[0][0])
    passes = [[4, 5, 6], [7]]
    batches = list(crop_loader(one, passes, num_workers=0, pin_memory=False))
    for samples, batch in zip(passes, batches, strict=True):
        for part in (0, 1):
            assert torch.equal(batch[part], torch.stack([one[n][part] for n in samples]))
        assert batch[2].tolist() == [one[n][2] for n in samples]


def test_the_seed_of_the_masks_is_a_function_of_seed_and_number(opened):
    one, other = crops_of(opened), crops_of(opened)
    assert all(one[n][2] == other[n][2] for n in range(4))
    seeds = [crops_of(opened, seed=seed)[n][2] for seed in (3, 4) for n in range(4)]
    assert len(set(seeds)) == 8
    assert max(seeds) < 2**32  # PyTorch's generator on the CPU reads no more than that


def test_slots_are_those_of_the_samples_studies(opened):
    crops = crops_of(opened)
    for first in (0, 4, 17):
        found = list(itertools.islice(crops.slots_from(first), 9))
        assert [sample for sample, _ in found] == list(range(first, first + 9))
        assert all(slots == len(crops.study_of(sample).contrasts) for sample, slots in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_workers_give_the_same_batches(opened):
    crops = crops_of(opened)
    passes = [[0, 1], [2, 3], [4, 5]]
    alone = list(crop_loader(crops, passes, num_workers=0, pin_memory=False))
    shared = list(crop_loader(crops, passes, num_workers=2, pin_memory=False))
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the mask from /proc")
def test_a_stop_signal_never_reaches_a_worker_that_is_starting(opened):
    with signals_held():
        batches = iter(crop_loader(crops_of(opened), [[0, 1]], num_workers=1, pin_memory=False))
    status = Path(f"/proc/{batches._workers[0].pid}/status").read_text()
    blocked = int(re.search(r"SigBlk:\s+(\w+)", status).group(1), 16)
    assert all(blocked >> (number - 1) & 1 for number in SIGNALS)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SIGNALS)
    assert len(list(batches)) == 1


def test_a_worker_that_hangs_ends_the_run(opened, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "case.b2nd")  # opens when somebody writes: never
    crops = RandomCrops([Study("Dataset", "case", tmp_path, (0,), (0,))], 1, (4, 4, 4), seed=0)
    monkeypatch.setattr(data, "_LONGEST_READ", 8)
    wanted = "hangs .* continue with --c"
    with pytest.raises(AMAEError, match=wanted), in_one_line(CONTINUE):
        list(crop_loader(crops, [[0, 1]], num_workers=1, pin_memory=False))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("left", [0, 400])
def test_a_damaged_study_is_named_in_one_line(opened, tmp_path, num_workers, left):
    study = crops_of(opened).studies[0]
    content = bytearray((study.folder / f"{study.case}.b2nd").read_bytes())
    content[left : len(content) - left] = b"x" * (len(content) - 2 * left)  # the header, or data
    (tmp_path / "case.b2nd").write_bytes(content)
    crops = RandomCrops([Study("Dataset9_A", "case", tmp_path, (0,), (0,))], 1, (4, 4, 4), seed=0)
    with pytest.raises(InputError) as said, in_one_line(CONTINUE):
        list(crop_loader(crops, [[0, 1]], num_workers=num_workers, pin_memory=False))
    assert multiprocessing.active_children() == []
    assert re.fullmatch(
        rf"study Dataset9_A/case: its file in {tmp_path} is damaged or gone \(.*\): preprocess the "
        r"data set again \(of an unlabelled one delete the file, .*\)",
        said.value.args[0],
    )


def test_each_pass_shows_each_study_once_in_another_order(opened):
    crops = crops_of(opened)
    passes = [[crops.study_of(6 * turn + n).case for n in range(6)] for turn in range(4)]
    assert all(sorted(cases) == opened.cases() for cases in passes)
    assert len({tuple(cases) for cases in passes}) > 1


def flips(crop):
    for axes in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)):
        yield np.flip(crop, axes)


def test_a_crop_is_a_part_of_its_study_flipped_or_not(opened):
    crops = crops_of(opened, (4, 6, 5))
    places, flipped = set(), set()
    for n in range(12):
        volume = np.asarray(crops.study_of(n).images()[:])
        windows = np.lib.stride_tricks.sliding_window_view(volume, (3, 4, 6, 5))[0]
        crop = crops[n][0].numpy()
        hits = [
            (number, tuple(place))
            for number, candidate in enumerate(flips(crop))
            for place in np.argwhere((windows == candidate).all(axis=(-4, -3, -2, -1)))
        ]
        assert hits
        flipped.add(hits[0][0])
        places.add(hits[0][1])
    assert len(places) > 6
    assert len(flipped) > 3


def test_a_study_smaller_than_the_patch_is_padded_with_zeros(opened):
    crops = crops_of(opened, (64, 64, 64))
    volume = np.asarray(crops.study_of(0).images()[:])
    crop = crops[0][0].numpy()
    assert crop.shape == (3, 64, 64, 64)
    assert np.count_nonzero(crop) == np.count_nonzero(volume)
    np.testing.assert_allclose(np.sort(crop[crop != 0]), np.sort(volume[volume != 0]))


def test_a_crop_has_what_its_study_has_and_zeros_for_the_rest(opened):
    record = travel_record(opened.name)
    crops = crops_of(opened, (16, 32, 32))
    seen = set()
    for n in range(6):
        images, present, _ = crops[n]
        assert tuple(present.tolist()) == record.cases[crops.study_of(n).case].present
        assert (images != 0).flatten(1).any(dim=1).tolist() == present.tolist()
        seen.add(tuple(present.tolist()))
    assert len(seen) == 2


def test_air_has_the_contrasts_of_its_study_and_a_blank_part_of_one_is_absent(opened, tmp_path):
    volume = np.ones((3, 8, 8, 8), dtype=np.float32)
    volume[:, :4] = 0
    volume[1, 4:] = 0
    np.savez(tmp_path / "case.npz", data=volume, seg=np.zeros((1, 8, 8, 8)))
    (tmp_path / "case.pkl").write_bytes(pickle.dumps({}))
    study = Study("Dataset", "case", tmp_path, channels=(0, 1), contrasts=(2, 0))
    air, blank = (cut(study, study.images(), (z, 0, 0), (4, 8, 8), 4)[1].tolist() for z in (0, 4))
    assert air == [True, False, True, False]
    assert blank == [False, False, True, False]
    images = cut(study, study.images(), (2, 0, 0), (4, 8, 8), 4)[0]
    assert images.sum(dim=(1, 2, 3)).tolist() == [0, 0, 128, 0]


def test_half_precision_changes_a_loss_by_its_rounding_only(opened, tmp_path):
    """The same study in both precisions: same masks, loss and gradient but for rounding."""
    contrasts, studies = gather_studies(opened, "all")
    study = next(s for s in studies if len(s.contrasts) == 3)
    half = np.asarray(study.images()[:]).astype(np.float16)
    np.savez(tmp_path / f"{study.case}.npz", data=half, seg=np.zeros(1))
    (tmp_path / f"{study.case}.pkl").write_bytes(pickle.dumps({}))
    stored = dataclasses.replace(study, folder=tmp_path)
    run, *_ = prepare(opened, Options())
    found = []
    for one in (study, stored):
        crops = RandomCrops([one], len(contrasts), run.model.config.patch_size, seed=1)
        batch = collate([crops[0], crops[1]])
        run.model.zero_grad()
        error, count, _ = accumulate(run, [batch])
        found.append((error / count, run.model.encoder.contrast_embed.weight.grad.clone()))
        assert batch[0].dtype == (torch.float32 if one is study else torch.float16)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_only_the_crop_of_present_channels_is_read(opened):
    study = next(s for s in gather_studies(opened, "all")[1] if len(s.channels) == 2)
    assert study.channels == (0, 1)

    class Watched:
        def __init__(self, data):
            self.data, self.shape, self.read = data, data.shape, []
            self.dtype = data.dtype

        def __getitem__(self, place):
            self.read.append(place)
            return self.data[place]

    watched = Watched(study.images())
    cut(study, watched, (0, 0, 0), (4, 6, 5), 3)
    assert [place[0] for place in watched.read] == [0, 1]
    assert all(place[1:] == (slice(0, 4), slice(0, 6), slice(0, 5)) for place in watched.read)
