import numpy as np
import pytest
import reference
import torch

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


def test_learned_positions_are_a_parameter_and_fixed_ones_are_not_saved():
    assert [n for n, _ in PositionEmbedding((2, 2, 2), (1, 1, 1), 12, True).named_parameters()]
    assert not PositionEmbedding((2, 2, 2), (1, 1, 1), 12).state_dict()


def test_resizing_a_learned_table_keeps_a_linear_ramp_inside():
    z, y, x = torch.meshgrid(*(torch.arange(4.0) for _ in range(3)), indexing="ij")
    table = (z + 10 * y + 100 * x).reshape(-1, 1)
    resized = resize_positions(table, (4, 4, 4), (8, 8, 8)).view(8, 8, 8)
    inside = torch.arange(1, 7)
    expected = (inside + 0.5) / 2 - 0.5
    torch.testing.assert_close(resized[1:7, 2, 2] - resized[1, 2, 2], expected - expected[0])
    assert resize_positions(table, (4, 4, 4), (4, 4, 4)) is table
