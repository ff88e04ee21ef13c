import numpy as np
import pytest
import reference
import torch
from tiny import make_config

from amae_nnunet.networks.positions import PositionEmbedding, resize_positions, sincos_positions


@pytest.mark.parametrize("embed_dim", [6, 20, 48])
def test_sincos_positions_match_the_loops(embed_dim):
    found = sincos_positions((2, 3, 4), (20.0, 14.4, 16.0), embed_dim)
    expected = reference.sincos((2, 3, 4), (20.0, 14.4, 16.0), embed_dim)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-13)


def test_a_place_in_mm_has_one_embedding_whatever_the_grid():
    small = sincos_positions((2, 2, 2), (16.0, 16.0, 16.0), 24).view(2, 2, 2, 24)
    large = sincos_positions((4, 3, 5), (16.0, 16.0, 16.0), 24).view(4, 3, 5, 24)
    assert torch.equal(large[:2, :2, :2], small)
    fine = sincos_positions((6, 2, 2), (16.0 / 3, 16.0, 16.0), 24).view(6, 2, 2, 24)
    torch.testing.assert_close(fine[1], small[0], rtol=0, atol=1e-12)


def test_places_differ_from_each_other():
    table = sincos_positions((3, 4, 5), (20.0, 14.4, 14.4), 48)
    distance = torch.cdist(table, table) + torch.eye(len(table))
    assert distance.min() > 0.1


def test_neighbours_are_told_apart_and_likeness_falls_with_distance():
    """The scalar product of two places along an axis, as a share of that of a place with itself."""
    table = sincos_positions((1, 1, 13), (16.0, 16.0, 16.0), 384)[:, 256:]
    likeness = (table @ table[6] / (table[6] @ table[6])).tolist()
    assert likeness[6] == pytest.approx(1)
    assert max(likeness[5], likeness[7]) < 0.6
    for near, far in ((6, 8), (8, 12), (6, 4), (4, 0)):
        assert likeness[near] > likeness[far]


def test_learned_positions_are_a_parameter_and_fixed_ones_are_not_saved():
    assert [n for n, _ in PositionEmbedding((2, 2, 2), (1, 1, 1), 12, True).named_parameters()]
    assert not PositionEmbedding((2, 2, 2), (1, 1, 1), 12).state_dict()


def ramp(config, first, last):
    """A ramp in mm over the tokens of a grid, (L, 1), held before ``first`` and after ``last``."""
    sizes = zip(config.grid_size, config.token_mm, first, last, strict=True)
    axes = [((torch.arange(n) + 0.5) * mm).clamp(low, high) for n, mm, low, high in sizes]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return (z + 10 * y + 100 * x).reshape(-1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": (4, 16, 24)},
        {"patch_size": (12, 24, 32)},
        {"patch_size": (4, 16, 24), "spacing": (2.5, 0.5, 1.0)},
        {"patch_size": (4, 16, 24), "spacing": (2.5, 1.5, 1.0), "strides": ((1, 2, 2), (2, 1, 3))},
    ],
)
def test_what_a_table_has_learnt_stays_where_it_is_in_mm(changes):
    old, new = make_config(patch_size=(8, 16, 24)), make_config(**changes)
    first = [mm / 2 for mm in old.token_mm]
    last = [(n - 0.5) * mm for n, mm in zip(old.grid_size, old.token_mm, strict=True)]
    tables = [
        sincos_positions(config.grid_size, config.token_mm, 12) + ramp(config, first, last)
        for config in (old, new)
    ]
    torch.testing.assert_close(resize_positions(tables[0], old, new), tables[1])


def test_a_table_that_has_learnt_nothing_is_the_fixed_one_of_any_grid():
    old, new = make_config(), make_config(patch_size=(4, 32, 24), spacing=(1.0, 2.0, 3.0))
    table = PositionEmbedding(old.grid_size, old.token_mm, 20, True).weight
    fresh = PositionEmbedding(new.grid_size, new.token_mm, 20, True).weight
    assert torch.equal(resize_positions(table, old, new), fresh)
    assert resize_positions(table, old, old) is table
