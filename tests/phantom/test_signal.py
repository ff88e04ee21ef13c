"""The signal equations against magnetizations followed pulse by pulse."""

import math

import pytest

from amae_nnunet.phantom import signal
from amae_nnunet.phantom.scanner import SITES
from amae_nnunet.phantom.signal import Sequence
from amae_nnunet.phantom.tissues import TABLE, TISSUES, Tissue

WHITE, CSF, BLOOD = (TABLE[3.0][name] for name in ("white", "csf", "haemorrhage"))
SAMPLES = [WHITE, CSF, BLOOD, Tissue(321.0, 54.0, 21.0, 0.6, 1.3)]


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


def test_an_inversion_at_the_nulling_time_leaves_nothing() -> None:
    for tr in (2000.0, 9000.0):
        ti = signal.nulling_time(4300, tr)
        assert signal.inversion_recovery(CSF, tr, 100, ti) == pytest.approx(0, abs=1e-12)


def test_susceptibility_weighs_short_t2star_down() -> None:
    long, short = Tissue(1000, 80, 60, 0.8, 1), Tissue(1000, 80, 28, 0.8, 1)
    assert signal.susceptibility(long, 49, 40, 15) == signal.gradient_echo(long, 49, 40, 15)
    expected = signal.gradient_echo(short, 49, 40, 15) / 4
    assert signal.susceptibility(short, 49, 40, 15) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tissue", SAMPLES)
def test_diffusion_is_a_spin_echo_that_gives_the_adc_back(tissue: Tissue) -> None:
    s0, s = signal.diffusion(tissue, 5000, 90, 0), signal.diffusion(tissue, 5000, 90, 800)
    assert s0 == signal.spin_echo(tissue, 5000, 90)
    assert math.log(s0 / s) / 800 == pytest.approx(tissue.adc * 1e-3, rel=1e-9)


def test_a_sequence_gives_the_signal_of_its_equation() -> None:
    for sequence, expected in (
        (Sequence("spin_echo", 700, 33), signal.spin_echo(WHITE, 700, 33)),
        (Sequence("gradient_echo", 60, 9, flip=25), signal.gradient_echo(WHITE, 60, 9, 25)),
        (Sequence("susceptibility", 60, 50, flip=25), signal.susceptibility(WHITE, 60, 50, 25)),
        (
            Sequence("inversion_recovery", 9000, 90, ti=800),
            signal.inversion_recovery(WHITE, 9000, 90, 800),
        ),
        (Sequence("diffusion", 6000, 90, b=700), signal.diffusion(WHITE, 6000, 90, 700)),
    ):
        assert signal.signal(sequence, WHITE) == expected


def order(site: str, name: str, *tissues: str) -> list[float]:
    scanner = SITES[site]
    signals = signal.tissue_signals(scanner.protocol[name], TABLE[scanner.field])
    return [float(signals[TISSUES.index(tissue)]) for tissue in tissues]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("name", "dark_to_bright"),
    [
        ("T1", ("csf", "cavity", "grey", "white", "fat")),
        ("T2", ("haemorrhage", "pallidum", "white", "grey", "infarct", "chronic", "csf")),
        ("T2", ("infarct", "cavity", "csf")),
        ("FLAIR", ("csf", "white", "grey", "infarct", "white_lesion", "chronic")),
        ("TRACE", ("fat", "csf", "haemorrhage", "white", "white_lesion", "infarct")),
        ("TRACE", ("cavity", "grey", "chronic")),
        ("GRE", ("microbleed", "haemorrhage", "vein", "white", "grey")),
        ("SWI", ("microbleed", "haemorrhage", "vein", "pallidum", "deep_grey", "grey")),
    ],
)
def test_contrasts_rank_tissues_as_a_radiologist_expects(
    site: str, name: str, dark_to_bright: tuple[str, ...]
) -> None:
    signals = order(site, name, *dark_to_bright)
    assert signals == sorted(signals)
    assert len(set(signals)) == len(signals)


@pytest.mark.parametrize("site", SITES)
def test_flair_nulls_fluid_and_diffusion_suppresses_fat(site: str) -> None:
    csf, white = order(site, "FLAIR", "csf", "white")
    assert csf < 0.01 * white
    fat, white = order(site, "TRACE", "fat", "white")
    assert fat < 0.3 * white


@pytest.mark.parametrize(("low", "high"), [(1.5, 3.0)])
def test_higher_fields_lengthen_t1_and_shorten_t2_and_t2star(low: float, high: float) -> None:
    for name in TISSUES:
        one, other = TABLE[low][name], TABLE[high][name]
        assert one.t1 <= other.t1
        assert one.t2 >= other.t2
        assert one.t2star >= other.t2star
        assert (one.pd, one.adc) == (other.pd, other.adc)
        assert one.t2star <= one.t2
        assert other.t2star <= other.t2
