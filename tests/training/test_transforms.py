import pickle

import torch

from amae_nnunet.training.transforms import KeepAbsentZero


def noisy(image, **rest):
    return {"image": image + 1.0, **rest}


def test_absent_channels_come_out_zero_and_present_ones_as_the_transform_left_them():
    image = torch.zeros(3, 2, 2, 2)
    image[1, 0, 0, 0] = -2.0
    segmentation = torch.ones(1, 2, 2, 2)
    result = KeepAbsentZero(noisy)(image=image.clone(), segmentation=segmentation, key="x")
    assert not result["image"][[0, 2]].any()
    assert torch.equal(result["image"][1], image[1] + 1)
    assert result["segmentation"] is segmentation
    assert result["key"] == "x"


def test_it_pickles_for_worker_processes():
    assert isinstance(pickle.loads(pickle.dumps(KeepAbsentZero(noisy))), KeepAbsentZero)
