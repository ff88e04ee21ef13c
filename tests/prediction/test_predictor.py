import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny import make_config, shake, studies
from torch import nn

from amae_nnunet.networks.unetr import AdaptiveUNETR
from amae_nnunet.prediction.predictor import MirrorBatchPredictor

CPU = torch.device("cpu")


class Small(nn.Module):
    """A network on a device whose memory holds a few windows only; notes what it is shown."""

    def __init__(self, network, most=8):
        super().__init__()
        self.network, self.most, self.seen = network, most, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("no room")
        return self.network(x)


def predictor(kind, network, axes=(0, 1, 2), mirror=True):
    made = kind(device=CPU, perform_everything_on_device=False, use_mirroring=mirror)
    made.network, made.allowed_mirroring_axes = network, axes
    return made


@pytest.fixture
def network():
    torch.manual_seed(0)
    return shake(AdaptiveUNETR(make_config(), 2)).double().eval()


@pytest.mark.parametrize("presence", ["111", "010", "101"])
@pytest.mark.parametrize(("axes", "most", "seen"), [
    ((0, 1, 2), 8, [8]), ((0, 1, 2), 3, [8, 4, 2, 2, 2, 2]), ((1,), 8, [2]),
    ((0, 2), 1, [4, 4, 2] + [1] * 4), (None, 8, [1]),
])  # fmt: skip
def test_mirrored_copies_in_a_batch_equal_stock_nnunets_one_by_one(
    network, presence, axes, most, seen
):
    x = studies(make_config(), [presence])[0].double()
    small = Small(network, most)
    ours = predictor(MirrorBatchPredictor, small, axes)
    ours.copies = 8
    found = ours._internal_maybe_mirror_and_predict(x)
    expected = predictor(nnUNetPredictor, network, axes)._internal_maybe_mirror_and_predict(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert small.seen == seen
    ours._internal_maybe_mirror_and_predict(x)  # what it learned about the memory, it keeps
    assert max(small.seen[len(seen) :]) <= most


def test_on_a_cpu_and_without_mirroring_it_is_stock_nnunet_bit_for_bit(network):
    x = studies(make_config(), ["101"])[0].double()
    for mirror in (True, False):
        small = Small(network)
        found = predictor(MirrorBatchPredictor, small, mirror=mirror)
        stock = predictor(nnUNetPredictor, network, mirror=mirror)
        one, other = (p._internal_maybe_mirror_and_predict(x) for p in (found, stock))
        assert torch.equal(one, other)
        assert set(small.seen) == {1}


def test_memory_that_is_short_for_one_window_is_an_error(network):
    x = studies(make_config(), ["101"])[0].double()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        predictor(MirrorBatchPredictor, Small(network, 0))._internal_maybe_mirror_and_predict(x)
