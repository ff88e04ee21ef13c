import numpy as np
import pytest
import torch

from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.pretraining.data import RandomCrops, crop_loader


@pytest.fixture
def opened(tiny_plans):
    return PreprocessedDataset.open("950", tiny_plans, "AMAEPlans")


def crops_of(opened, patch_size=(8, 16, 16), seed=3):
    return RandomCrops(opened.data_folder, opened.cases(), patch_size, seed)


def test_a_sample_is_a_function_of_seed_and_number(opened):
    one, other = crops_of(opened), crops_of(opened)
    order = [5, 0, 3, 11]
    assert all(torch.equal(one[n], other[n]) for n in order)
    assert not torch.equal(one[0], crops_of(opened, seed=4)[0])
    batches = crop_loader(one, 4, 8, 2, num_workers=0, pin_memory=False)
    assert torch.equal(torch.cat(list(batches)), torch.stack([one[n] for n in range(4, 8)]))


def test_workers_give_the_same_batches(opened):
    crops = crops_of(opened)
    alone = list(crop_loader(crops, 0, 6, 2, num_workers=0, pin_memory=False))
    shared = list(crop_loader(crops, 0, 6, 2, num_workers=2, pin_memory=False))
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_each_pass_shows_each_study_once_in_another_order(opened):
    crops = crops_of(opened)
    passes = [[crops.case_of(6 * turn + n) for n in range(6)] for turn in range(4)]
    assert all(sorted(cases) == opened.cases() for cases in passes)
    assert len({tuple(cases) for cases in passes}) > 1


def flips(crop):
    for axes in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)):
        yield np.flip(crop, axes)


def test_a_crop_is_a_part_of_its_study_flipped_or_not(opened):
    crops = crops_of(opened, (4, 6, 5))
    places, flipped = set(), set()
    for n in range(12):
        volume = np.asarray(crops.reader.load_case(crops.case_of(n))[0][:])
        windows = np.lib.stride_tricks.sliding_window_view(volume, (3, 4, 6, 5))[0]
        crop = crops[n].numpy()
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
    volume = np.asarray(crops.reader.load_case(crops.case_of(0))[0][:])
    crop = crops[0].numpy()
    assert crop.shape == (3, 64, 64, 64)
    assert np.count_nonzero(crop) == np.count_nonzero(volume)
    np.testing.assert_allclose(np.sort(crop[crop != 0]), np.sort(volume[volume != 0]))


def test_absent_contrasts_stay_exactly_zero(opened):
    from amae_nnunet.networks.masking import present_contrasts
    from amae_nnunet.plans.preprocessed import travel_record

    record = travel_record(opened.name)
    crops = crops_of(opened, (16, 32, 32))
    for n in range(6):
        present = present_contrasts(crops[n][None])[0].tolist()
        assert tuple(present) == record.cases[crops.case_of(n)].present
