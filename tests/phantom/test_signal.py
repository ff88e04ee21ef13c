"""The signal equations against magnetizations followed pulse by pulse, and the images' noise."""

import math

import numpy as np
import pytest

from amae_nnunet.contrasts import PAPER_CONTRASTS
from amae_nnunet.phantom import signal
from amae_nnunet.phantom.anatomy import TISSUES
from amae_nnunet.phantom.signal import TABLE, Tissue

SAMPLES = [TABLE["white"], TABLE["csf"], TABLE["haemorrhage"], Tissue(321.0, 54.0, 21.0, 0.6, 1.3)]


def recover(mz: float, time: float, t1: float) -> float:
    """Longitudinal magnetization after ``time`` of free recovery towards 1."""
    return 1 + (mz - 1) * math.exp(-time / t1)


@pytest.mark.parametrize("tissue", SAMPLES)
def test_spin_echo_follows_the_bloch_loop(tissue: Tissue) -> None:
    mz = 1.0
    for _ in range(50):
        mz = recover(0.0, 700, tissue.t1)  # each 90 degree pulse leaves nothing
    expected = tissue.pd * mz * math.exp(-33 / tissue.t2)
    assert signal.spin_echo(tissue, 700, 33) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tissue", SAMPLES)
@pytest.mark.parametrize("flip", [8.0, 25.0, 90.0])
def test_gradient_echo_follows_the_bloch_loop(tissue: Tissue, flip: float) -> None:
    mz, angle = 1.0, math.radians(flip)
    for _ in range(20000):
        mz = recover(mz * math.cos(angle), 60, tissue.t1)
    expected = tissue.pd * mz * math.sin(angle) * math.exp(-17 / tissue.t2star)
    assert signal.gradient_echo(tissue, 60, 17, flip) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("tissue", SAMPLES)
@pytest.mark.parametrize("ti", [150.0, 2480.0])
def test_inversion_recovery_follows_the_bloch_loop(tissue: Tissue, ti: float) -> None:
    mz = 1.0
    for _ in range(3):
        inverted = recover(-mz, ti, tissue.t1)
        mz = recover(0.0, 9000 - ti, tissue.t1)
    expected = tissue.pd * abs(inverted) * math.exp(-115 / tissue.t2)
    assert signal.inversion_recovery(tissue, 9000, 115, ti) == pytest.approx(expected, rel=1e-9)


def test_susceptibility_weighs_short_t2star_down() -> None:
    long, short = Tissue(1000, 80, 60, 0.8, 1), Tissue(1000, 80, 20, 0.8, 1)
    assert signal.susceptibility(long, 49, 40, 15) == signal.gradient_echo(long, 49, 40, 15)
    expected = signal.gradient_echo(short, 49, 40, 15) / 4
    assert signal.susceptibility(short, 49, 40, 15) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tissue", SAMPLES)
def test_diffusion_gives_the_adc_back(tissue: Tissue) -> None:
    s0, s = signal.diffusion(tissue, 90, 0), signal.diffusion(tissue, 90, 800)
    assert s0 == pytest.approx(tissue.pd * math.exp(-90 / tissue.t2), rel=1e-12)
    assert math.log(s0 / s) / 800 == pytest.approx(tissue.adc * 1e-3, rel=1e-9)


def order(name: str, *tissues: str) -> list[float]:
    signals = signal.contrast_signals(name, TABLE)
    return [float(signals[TISSUES.index(tissue)]) for tissue in tissues]


@pytest.mark.parametrize(
    ("name", "dark_to_bright"),
    [
        ("T1", ("csf", "grey", "white", "fat")),
        ("T2", ("haemorrhage", "white", "grey", "infarct", "chronic", "csf")),
        ("FLAIR", ("csf", "white", "grey", "infarct", "white_lesion", "chronic")),
        ("TRACE", ("fat", "csf", "haemorrhage", "white", "white_lesion", "chronic", "infarct")),
        ("GRE", ("haemorrhage", "vein", "white", "grey")),
        ("SWI", ("haemorrhage", "vein", "deep_grey", "grey")),
    ],
)
def test_contrasts_rank_tissues_as_a_radiologist_expects(
    name: str, dark_to_bright: tuple[str, ...]
) -> None:
    signals = order(name, *dark_to_bright)
    assert signals == sorted(signals)
    assert len(set(signals)) == len(signals)


def test_flair_nulls_fluid() -> None:
    csf, white = order("FLAIR", "csf", "white")
    assert csf < 0.05 * white


def test_rician_noise_has_its_moments() -> None:
    rng = np.random.default_rng(3)
    for amplitude in (0.0, 0.5, 4.0):
        noisy = signal.rician(rng, np.full((60, 60, 60), amplitude, np.float32), 0.5)
        assert noisy.dtype == np.float32
        assert np.mean(noisy.astype(float) ** 2) == pytest.approx(amplitude**2 + 0.5, rel=0.01)
    air = signal.rician(rng, np.zeros((60, 60, 60), np.float32), 0.5)
    assert air.mean() == pytest.approx(0.5 * math.sqrt(math.pi / 2), rel=0.01)


def test_bias_field_is_smooth_positive_and_about_one() -> None:
    fields = [
        signal.bias_field(np.random.default_rng(seed), (20, 40, 40), 0.12) for seed in range(20)
    ]
    spread = np.mean([field.std() for field in fields])
    steps = max(np.abs(np.diff(field, axis=axis)).max() for field in fields for axis in (1, 2))
    assert min(field.min() for field in fields) > 0
    assert np.mean([field.mean() for field in fields]) == pytest.approx(1, abs=0.1)
    assert 0.03 < spread < 0.3
    assert steps < 0.1


def test_jitter_varies_all_values_but_the_fluid_t1() -> None:
    table = signal.jitter(np.random.default_rng(5))
    assert table["csf"].t1 == TABLE["csf"].t1
    for name, tissue in table.items():
        for value in ("t1", "t2", "t2star", "pd", "adc"):
            true, drawn = getattr(TABLE[name], value), getattr(tissue, value)
            assert drawn == pytest.approx(true, rel=0.13)
            assert drawn != true or true == 0 or (name, value) == ("csf", "t1")


def block_of(tissue: str) -> np.ndarray:
    fractions = np.zeros((len(TISSUES), 16, 16, 16), np.float32)
    fractions[TISSUES.index("white")] = 1
    fractions[:, 4:12, 4:12, 4:12] = 0
    fractions[TISSUES.index(tissue), 4:12, 4:12, 4:12] = 1
    return fractions


@pytest.mark.parametrize("tissue", ["white", "infarct", "chronic"])
def test_adc_map_holds_the_adc_of_the_tissue(tissue: str) -> None:
    table = signal.jitter(np.random.default_rng(9))  # the first draw of make_images
    images = signal.make_images(np.random.default_rng(9), block_of(tissue), ("ADC",))
    found = np.median(images["ADC"][5:11, 5:11, 5:11])
    assert found == pytest.approx(1000 * table[tissue].adc, rel=0.05)


def test_adc_is_zero_in_air() -> None:
    images = signal.make_images(np.random.default_rng(1), block_of("air"), ("ADC", "TRACE"))
    assert np.all(images["ADC"][4:12, 4:12, 4:12] == 0)
    assert np.all(images["ADC"][:4] > 0)
    assert np.all(images["TRACE"] > 0)


def test_an_image_does_not_depend_on_the_others_wanted() -> None:
    fractions = block_of("csf")
    everything = signal.make_images(np.random.default_rng(2), fractions, PAPER_CONTRASTS)
    assert tuple(everything) == PAPER_CONTRASTS
    for wanted in (("TRACE",), ("FLAIR", "ADC"), ("SWI", "T2")):
        some = signal.make_images(np.random.default_rng(2), fractions, wanted)
        assert tuple(some) == wanted
        for name in wanted:
            np.testing.assert_array_equal(some[name], everything[name])
