"""Images against slow float64 loops over the equations: mixtures, motion, noise, fields, sites."""

import cmath
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from amae_nnunet.contrasts import PAPER_CONTRASTS
from amae_nnunet.phantom import scanner, signal
from amae_nnunet.phantom.scanner import SITES, make_images
from amae_nnunet.phantom.tissues import TABLE, TISSUES, draw_tissues

SPACING = (5.0, 3.0, 3.0)
SILENT = {
    name: replace(site, noise=0.0, shading=0.0, scale=(1.0, 1.0)) for name, site in SITES.items()
}


def test_rician_noise_has_its_moments() -> None:
    rng = np.random.default_rng(3)
    for amplitude in (0.0, 0.5, 4.0):
        noisy = scanner.rician(rng, np.full((60, 60, 60), amplitude, np.float32), 0.5)
        assert noisy.dtype == np.float32
        assert np.mean(noisy.astype(float) ** 2) == pytest.approx(amplitude**2 + 0.5, rel=0.01)
    air = scanner.rician(rng, np.zeros((60, 60, 60), np.float32), 0.5)
    assert air.mean() == pytest.approx(0.5 * math.sqrt(math.pi / 2), rel=0.01)


def test_bias_field_is_smooth_positive_and_about_one() -> None:
    fields = [
        scanner.bias_field(np.random.default_rng(seed), (20, 40, 40), 0.12) for seed in range(20)
    ]
    spread = np.mean([field.std() for field in fields])
    steps = max(np.abs(np.diff(field, axis=axis)).max() for field in fields for axis in (1, 2))
    assert min(field.min() for field in fields) > 0
    assert np.mean([field.mean() for field in fields]) == pytest.approx(1, abs=0.1)
    assert 0.03 < spread < 0.3
    assert steps < 0.1


def block_of(tissue: str) -> np.ndarray:
    fractions = np.zeros((len(TISSUES), 16, 16, 16), np.float32)
    fractions[TISSUES.index("white")] = 1
    fractions[:, 4:12, 4:12, 4:12] = 0
    fractions[TISSUES.index(tissue), 4:12, 4:12, 4:12] = 1
    return fractions


def mixtures() -> np.ndarray:
    """Random shares of random tissues, without those that disturb the field around them."""
    rng = np.random.default_rng(0)
    shares = rng.random((len(TISSUES), 4, 6, 5)) * (rng.random((len(TISSUES), 4, 6, 5)) < 0.3)
    shares[[TISSUES.index(name) for name in ("sinus", "haemorrhage", "microbleed")]] = 0
    shares[TISSUES.index("white")] += 0.1
    return (shares / shares.sum(0)).astype(np.float32)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", [name for name in PAPER_CONTRASTS if name != "ADC"])
def test_a_silent_scanner_shows_the_equations(site: str, name: str) -> None:
    fractions = mixtures()
    found = make_images(
        np.random.default_rng(7), fractions, SPACING, (name,), SILENT[site], motion=0.0
    )[name]

    rng = np.random.default_rng(7)
    tissues = draw_tissues(rng, SITES[site].field)
    stream = rng.spawn(len(PAPER_CONTRASTS))[PAPER_CONTRASTS.index(name)]
    protocol = SITES[site].protocol[name]
    sequence = replace(protocol, te=protocol.te * stream.uniform(0.95, 1.05))
    shown = np.zeros(found.shape)
    reference = np.zeros(found.shape)
    for voxel in itertools.product(*map(range, found.shape)):
        for code, tissue in enumerate(TISSUES):
            share = float(fractions[(code, *voxel)])
            fat = sequence.fat if tissue in ("fat", "marrow") else 1.0
            shown[voxel] += share * fat * signal.signal(sequence, tissues[tissue])
            reference[voxel] += share * fat * signal.signal(replace(sequence, b=0), tissues[tissue])
    brain = fractions[TISSUES.index("grey")] + fractions[TISSUES.index("white")]
    mean = (brain.astype(float) * reference).sum() / brain.astype(float).sum()
    np.testing.assert_allclose(found, shown / mean, rtol=2e-5)


@pytest.mark.parametrize("lines", [7, 8])
def test_motion_shifts_each_line_of_k_space(lines: int) -> None:
    rng = np.random.default_rng(1)
    image = rng.random((2, lines, 3), dtype=np.float32)
    shifts = rng.normal(0, 1, lines)
    expected = np.zeros(image.shape, complex)
    for z, x in itertools.product(range(2), range(3)):
        for number, shift in enumerate(shifts):
            k = number - lines // 2
            line = sum(
                float(image[z, y, x]) * cmath.exp(-2j * math.pi * k * (y + shift) / lines)
                for y in range(lines)
            )
            for y in range(lines):
                expected[z, y, x] += line * cmath.exp(2j * math.pi * k * y / lines) / lines
    np.testing.assert_allclose(scanner.moved(image, shifts), expected, atol=1e-6)


def test_who_lies_still_or_elsewhere_all_the_time_has_no_ghosts() -> None:
    image = np.random.default_rng(2).random((2, 8, 3), dtype=np.float32)
    np.testing.assert_allclose(scanner.moved(image, np.zeros(8)), image, atol=1e-6)
    moved = np.abs(scanner.moved(image, np.full(8, 3.0)))
    np.testing.assert_allclose(moved, np.roll(image, 3, axis=1), atol=1e-6)


def test_motion_is_a_jerk_or_a_swing_of_millimetres() -> None:
    rng = np.random.default_rng(3)
    draws = [scanner.draw_motion(rng, 64, 2.0) for _ in range(200)]
    assert all(draw.shape == (64,) for draw in draws)
    assert 0.5 < 2 * max(np.abs(draw).max() for draw in draws) <= 2.5
    jerks = sum(len(np.unique(draw)) == 2 for draw in draws)
    assert 60 < jerks < 140


def test_blood_darkens_gradient_echoes_around_it() -> None:
    fractions = block_of("haemorrhage")
    for field, strength in ((1.5, 60.0), (3.0, 120.0)):
        rate = scanner.blooming(fractions, (1.0, 1.0, 1.0), field)
        assert rate[8, 8, 8] == pytest.approx(1e-3 * strength, rel=0.05)
        assert 0 < rate[2, 8, 8] < rate[3, 8, 8] < rate[4, 8, 8]
        assert rate.sum() == pytest.approx(1e-3 * strength * 8**3, rel=0.01)
    assert not scanner.blooming(block_of("infarct"), SPACING, 3.0).any()


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_tissues_vary_in_all_values_but_the_fluid_t1(field: float) -> None:
    table, drawn = TABLE[field], draw_tissues(np.random.default_rng(5), field)
    assert drawn["csf"].t1 == table["csf"].t1
    for name, tissue in drawn.items():
        for value in ("t1", "t2", "t2star", "pd", "adc"):
            one, other = getattr(table[name], value), getattr(tissue, value)
            spread = 0.36 if (name, value) == ("infarct", "adc") else 0.13
            assert other == pytest.approx(one, rel=spread)
            assert other != one or one == 0 or (name, value) == ("csf", "t1")


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("tissue", ["white", "infarct", "chronic"])
def test_adc_map_holds_the_adc_of_the_tissue(tissue: str, site: str) -> None:
    table = draw_tissues(np.random.default_rng(9), SITES[site].field)  # as make_images begins
    images = make_images(
        np.random.default_rng(9), block_of(tissue), SPACING, ("ADC",), SITES[site], motion=0.0
    )
    found = np.median(images["ADC"][5:11, 5:11, 5:11])
    assert found == pytest.approx(1000 * table[tissue].adc, rel=0.07)


def test_adc_is_zero_in_air() -> None:
    images = make_images(
        np.random.default_rng(1), block_of("air"), SPACING, ("ADC", "TRACE"), SITES["A"], 0.0
    )
    assert np.all(images["ADC"][4:12, 4:12, 4:12] == 0)
    assert np.all(images["ADC"][:4] > 0)
    assert np.all(images["TRACE"] > 0)


def test_an_image_does_not_depend_on_the_others_wanted() -> None:
    def images(contrasts: tuple[str, ...]) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(2)
        return make_images(rng, block_of("csf"), SPACING, contrasts, SITES["C"], motion=0.5)

    everything = images(PAPER_CONTRASTS)
    assert tuple(everything) == PAPER_CONTRASTS
    for wanted in (("TRACE",), ("FLAIR", "ADC"), ("SWI", "T2")):
        some = images(wanted)
        assert tuple(some) == wanted
        for name in wanted:
            np.testing.assert_array_equal(some[name], everything[name])


def test_sites_differ_in_scale_noise_and_contrast() -> None:
    fractions = block_of("grey")
    seen = {}
    for name, site in SITES.items():
        image = make_images(
            np.random.default_rng(4), fractions, SPACING, ("T1",), site, motion=0.0
        )["T1"]
        grey, white = image[5:11, 5:11, 5:11], image[:, :, :3]
        mean = image.mean()
        assert site.scale[0] * 0.5 < mean < site.scale[1] * 2
        seen[name] = (grey.mean() / white.mean(), grey.std() / grey.mean())
    ratios, noises = zip(*seen.values(), strict=True)
    assert max(ratios) > 1.2 * min(ratios)
    assert max(noises) > 1.5 * min(noises)
    assert {site.field for site in SITES.values()} == {1.5, 3.0}
