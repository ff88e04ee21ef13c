"""The head: shares that sum to one, plausible volumes, any grid, lesions where they belong."""

import math

import numpy as np
import pytest
from scipy import ndimage

from amae_nnunet.phantom.anatomy import make_head
from amae_nnunet.phantom.lesions import LESIONS, TERRITORIES, territory
from amae_nnunet.phantom.tissues import TISSUES

SHAPE, SPACING = (24, 64, 64), (6.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def heads() -> list[np.ndarray]:
    return [make_head(np.random.default_rng(seed), SHAPE, SPACING) for seed in range(4)]


@pytest.fixture(scope="module")
def small_heads() -> list[np.ndarray]:
    return [make_head(np.random.default_rng(seed), (16,) * 3, (9.0,) * 3) for seed in range(150)]


def share(head: np.ndarray, *tissues: str) -> np.ndarray:
    return head[[TISSUES.index(tissue) for tissue in tissues]].sum(0)


def test_shares_are_shares(heads: list[np.ndarray]) -> None:
    for head in heads:
        assert head.shape == (len(TISSUES), *SHAPE)
        assert head.dtype == np.float32
        assert head.min() == 0
        np.testing.assert_allclose(head.sum(0), 1, atol=1e-6)
        assert ((head > 0.01) & (head < 0.99)).any(0).mean() > 0.1  # partial volume


def test_volumes_are_those_of_a_head(heads: list[np.ndarray]) -> None:
    millilitres = np.prod(SPACING) / 1000
    for head in heads:
        brain = share(head, *TISSUES[TISSUES.index("grey") :]).sum() * millilitres
        grey, white = (share(head, name).sum() * millilitres for name in ("grey", "white"))
        assert 800 < brain < 1600
        assert 0.5 < grey / white < 2
        assert 50 < share(head, "csf").sum() * millilitres < 500


def test_layers_lie_in_order_from_the_skin_to_the_white_matter(heads: list[np.ndarray]) -> None:
    place = np.indices(SHAPE)[1:] - np.array([31.5, 31.5])[:, None, None, None]
    distance = np.hypot(*place)[14]
    for head in heads:
        layers = ("white", "grey", "bone", "fat", "air")
        radii = [np.average(distance, weights=share(head, name)[14]) for name in layers]
        assert radii == sorted(radii)
        assert share(head, "air")[:, 0, 0].min() == 1


def test_heads_differ(heads: list[np.ndarray]) -> None:
    for name in ("air", "csf", "grey"):
        assert np.abs(share(heads[0], name) - share(heads[1], name)).mean() > 0.01


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((16, 16, 16), (1.0, 1.0, 1.0)),
        ((16, 16, 16), (20.0, 20.0, 20.0)),
        ((16, 48, 40), (1.0, 4.0, 4.0)),
        ((40, 16, 48), (4.0, 12.0, 4.0)),
    ],
)
def test_any_grid_gets_a_head_with_an_infarct(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    for seed in range(4):
        head = make_head(np.random.default_rng(seed), shape, spacing)
        assert head.shape[1:] == shape
        assert share(head, "grey", "white").sum() > 50
        assert (share(head, "infarct") >= 0.5).sum() > 1


def test_a_narrow_field_of_view_gets_a_smaller_head_of_the_same_form() -> None:
    heads = [
        make_head(np.random.default_rng(4), (16, 16, 16), (step,) * 3) for step in (1.0, 5.0, 10.0)
    ]
    np.testing.assert_array_equal(heads[0], heads[1])
    np.testing.assert_array_equal(heads[0], heads[2])


@pytest.mark.slow
def test_every_case_has_an_infarct_of_several_voxels(small_heads: list[np.ndarray]) -> None:
    sizes = [(share(head, "infarct") >= 0.5).sum() for head in small_heads]
    assert min(sizes) >= 2  # of 9 mm
    assert max(sizes) > 5 * min(sizes)


def test_lesions_occur_as_often_as_stated(small_heads: list[np.ndarray]) -> None:
    for lesion in LESIONS:
        found = np.mean([share(head, lesion.tissue).any() for head in small_heads])
        assert found == pytest.approx(lesion.probability, abs=0.12)


def test_lesions_lie_in_the_brain(heads: list[np.ndarray]) -> None:
    for head in heads:
        outside = share(head, "air", "fat", "muscle", "bone")
        for lesion in LESIONS:
            within = share(head, lesion.tissue)
            assert (outside * within).sum() <= 0.02 * within.sum()


def test_the_infarct_is_as_probable_as_asked_for() -> None:
    found = [
        share(make_head(np.random.default_rng(seed), (16,) * 3, (9.0,) * 3, chance), "infarct")
        for seed in range(3)
        for chance in (0.0, 1.0)
    ]
    assert [shares.any() for shares in found] == [False, True] * 3


def test_a_territory_is_that_of_the_nearest_branch() -> None:
    rng = np.random.default_rng(0)
    x, y, z = rng.uniform(-60, 60, (3, 50))
    found = territory(x, y, z)
    for number in range(50):
        distances = [
            min(math.dist((abs(x[number]), y[number], z[number]), point) for point in points)
            for points in TERRITORIES.values()
        ]
        assert found[number] == np.argmin(distances)


def test_sulci_reach_into_the_brain_and_the_cortex_lines_them(heads: list[np.ndarray]) -> None:
    """Above the ventricles, fluid deep below the surface has grey matter around it."""
    head = make_head(np.random.default_rng(1), (16, 160, 160), (3.0, 1.2, 1.2))
    tissue = head.argmax(0)[11]
    brain = np.isin(tissue, [TISSUES.index(n) for n in ("csf", "vein", "grey", "white")])
    deep = ndimage.binary_erosion(brain, iterations=6)
    sulci = deep & (tissue == TISSUES.index("csf"))
    assert 0.02 < sulci.sum() / deep.sum() < 0.3
    around = ndimage.binary_dilation(sulci, iterations=1) & ~sulci
    assert np.mean(tissue[around] == TISSUES.index("white")) < 0.1
    assert np.mean(tissue[deep] == TISSUES.index("white")) > 0.15
