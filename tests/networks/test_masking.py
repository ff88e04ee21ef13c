import pytest
import torch

from amae_nnunet.errors import ConfigError
from amae_nnunet.networks.masking import (
    Slots,
    num_visible,
    present_contrasts,
    random_masking,
)


def test_presence_is_zero_everywhere_while_another_channel_is_not():
    x = torch.zeros(4, 3, 2, 2, 2)
    x[0, 1, 0, 0, 1] = -1e-30  # one voxel is enough
    x[1] = 1.0
    x[2, 0] = -0.0  # minus zero is zero
    x[2, 2, 1, 1, 1] = 3.0
    expected = [[False, True, False], [True] * 3, [False, False, True], [True] * 3]
    assert present_contrasts(x).tolist() == expected


@pytest.mark.parametrize(
    ("num_tokens", "ratio", "visible"),
    [(216, 0.7, 65), (512, 0.7, 154), (4, 0.99, 1), (4, 0.01, 3), (2, 0.5, 1)],
)
def test_number_of_visible_tokens(num_tokens, ratio, visible):
    assert num_visible(num_tokens, ratio) == visible


def test_each_contrast_hides_its_own_tokens_and_as_many():
    present = torch.tensor([[True, False, True], [True, True, True]])
    slots = Slots.of(present)
    assert slots.study.tolist() == [0, 0, 1, 1, 1]
    assert slots.contrast.tolist() == [0, 2, 0, 1, 2]
    masked = random_masking(slots, 40, 0.7)
    assert masked.sum(dim=1).tolist() == [28] * 5
    assert len({tuple(row) for row in masked.tolist()}) == 5
    again = random_masking(slots, 40, 0.7, torch.Generator().manual_seed(3))
    same = random_masking(slots, 40, 0.7, torch.Generator().manual_seed(3))
    assert torch.equal(again, same)


def test_every_token_is_hidden_equally_often():
    slots = Slots.of(torch.ones(2000, 1, dtype=torch.bool))
    share = random_masking(slots, 10, 0.7).double().mean(dim=0)
    assert (share - 0.7).abs().max() < 5 * (0.7 * 0.3 / 2000) ** 0.5


def test_a_whole_contrast_is_hidden_only_where_another_stays():
    present = torch.tensor([[True, False, False]] * 50 + [[True, True, True]] * 50)
    slots = Slots.of(present)
    masked = random_masking(slots, 10, 0.5, whole_contrast_prob=1.0)
    whole = masked.all(dim=1)
    assert not whole[:50].any()
    assert whole[50:].view(50, 3).sum(dim=1).tolist() == [1] * 50
    assert whole[50:].view(50, 3).any(dim=0).all()


def test_a_budget_is_filled_with_slots_that_do_not_count():
    slots = Slots.of(torch.tensor([[False, True], [True, True]]))
    full = slots.fill(5)
    assert full.study.tolist() == [0, 1, 1, 0, 0]
    assert full.contrast.tolist() == [1, 0, 1, 1, 1]
    assert full.counts == [1, 2, 1, 1, 0]
    assert (slots.real, full.real) == (3, 3)
    assert len(slots.fill(3).counts) == 3
    with pytest.raises(ConfigError, match=r"has 3 images but slot_budget=2: .*slot_budget=0"):
        slots.fill(2)


def test_a_budget_leaves_the_masks_of_the_studies_as_they_were():
    slots = Slots.of(torch.ones(2, 2, dtype=torch.bool))
    plain, full = (
        random_masking(s, 30, 0.7, torch.Generator().manual_seed(4)) for s in (slots, slots.fill(9))
    )
    assert torch.equal(full[:4], plain)
