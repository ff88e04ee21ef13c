"""From tissues to images: MR signal equations, noise, bias field and scanner scale.

Not in the paper, whose images come from scanners. The equations are the textbook ones of the
spin echo, the spoiled gradient echo, inversion recovery and free diffusion, each a function.

The values of `TABLE` are approximate, for 1.5 T. White matter, grey matter, deep grey: T1 Wright
et al. 2008 (MAGMA 21:121) and Rooney et al. 2007 (MRM 57:308), T2 Cox and Gowland 2010 (MRM
64:1440), T2* Peters et al. 2007 (MRI 25:748), ADC Helenius et al. 2002 (AJNR 23:194). Fluid and
venous blood: Rooney et al. 2007. Fat and muscle: Gold et al. 2004 (AJR 183:343). Acute and chronic
infarct: Lansberg et al. 2001 (AJNR 22:637), Burdette et al. 1999 (Radiology 212:333). Acute
haematoma: Maldjian et al. 2001 (AJNR 22:112), Silvera et al. 2005 (AJNR 26:236), who find its ADC
moderately decreased. What these do not give (proton densities, bone, lesions' T2*) is chosen so
that the lesions look on each contrast as radiology textbooks describe them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from amae_nnunet.contrasts import PAPER_CONTRASTS
from amae_nnunet.phantom.anatomy import TISSUES, FloatArray


@dataclass(frozen=True)
class Tissue:
    """What the signal of a tissue depends on.

    Attributes:
        t1: longitudinal relaxation time, ms.
        t2: transverse relaxation time, ms.
        t2star: the same with local field differences, ms.
        pd: proton density relative to water.
        adc: apparent diffusion coefficient, 1e-3 mm^2/s.
    """

    t1: float
    t2: float
    t2star: float
    pd: float
    adc: float


TABLE = {
    "air": Tissue(1000, 10, 1, 0.0, 0.0),
    "fat": Tissue(290, 165, 30, 0.9, 0.05),
    "muscle": Tissue(1000, 35, 25, 0.75, 1.4),
    "bone": Tissue(300, 10, 2, 0.15, 0.3),
    "csf": Tissue(4300, 2000, 800, 1.0, 3.0),
    "grey": Tissue(1190, 87, 84, 0.82, 0.84),
    "deep_grey": Tissue(1090, 80, 57, 0.8, 0.76),
    "white": Tissue(650, 78, 66, 0.7, 0.74),
    "vein": Tissue(1540, 70, 25, 0.85, 1.5),
    "infarct": Tissue(1300, 120, 85, 0.84, 0.45),
    "chronic": Tissue(1600, 300, 130, 0.88, 1.0),
    "white_lesion": Tissue(1050, 140, 100, 0.8, 0.98),
    "haemorrhage": Tissue(1000, 45, 9, 0.8, 0.48),
}
FAT_SUPPRESSION = 0.03  # what is left of fat in the diffusion images
B_VALUE = 1000.0  # s/mm^2
_MASK = 0.28  # the ADC map is 0 where the b = 0 image is below this share of the brain's mean


def spin_echo(tissue: Tissue, tr: float, te: float) -> float:
    """Spin echo, ``S = PD (1 - exp(-TR/T1)) exp(-TE/T2)``; times in ms."""
    return float(tissue.pd * (1 - np.exp(-tr / tissue.t1)) * np.exp(-te / tissue.t2))


def gradient_echo(tissue: Tissue, tr: float, te: float, flip: float) -> float:
    """Spoiled gradient echo (Ernst); times in ms, flip angle ``a`` in degrees.

    ``S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2*)`` with ``E1 = exp(-TR/T1)``.
    """
    angle, e1 = np.deg2rad(flip), np.exp(-tr / tissue.t1)
    steady = np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1)
    return float(tissue.pd * steady * np.exp(-te / tissue.t2star))


def susceptibility(tissue: Tissue, tr: float, te: float, flip: float) -> float:
    """Susceptibility weighting, ``S = S_GRE min(1, T2*/40 ms)^2``: a long-TE gradient echo.

    Simplified: a scanner multiplies by a mask made from the filtered phase image. There is no
    phase here, so a short T2* stands for it, and no field reaches beyond its own voxel.
    """
    return gradient_echo(tissue, tr, te, flip) * min(1.0, tissue.t2star / 40) ** 2


def inversion_recovery(tissue: Tissue, tr: float, te: float, ti: float) -> float:
    """Magnitude inversion recovery (FLAIR); times in ms.

    ``S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)``.
    """
    mz = 1 - 2 * np.exp(-ti / tissue.t1) + np.exp(-tr / tissue.t1)
    return float(tissue.pd * abs(mz) * np.exp(-te / tissue.t2))


def diffusion(tissue: Tissue, te: float, b: float) -> float:
    """Trace-weighted spin echo with a long TR, ``S = PD exp(-TE/T2) exp(-b ADC)``.

    ``te`` in ms, ``b`` in s/mm^2; ``b = 0`` gives the T2-weighted image ``S0``.
    """
    return float(tissue.pd * np.exp(-te / tissue.t2) * np.exp(-b * tissue.adc * 1e-3))


def contrast_signals(name: str, tissues: Mapping[str, Tissue], times: float = 1.0) -> FloatArray:
    """Noise-free signal of every tissue on one contrast other than ADC.

    Args:
        name: ``TRACE``, ``B0`` (the diffusion scan without weighting), ``T2``, ``GRE``, ``SWI``,
            ``T1`` or ``FLAIR``.
        tissues: the tissues by name.
        times: factor on the echo time, for protocols that differ a little.

    Returns:
        ``(len(TISSUES),)``, relative to fully relaxed water.
    """
    equation = {
        "TRACE": lambda t: diffusion(t, 90 * times, B_VALUE),
        "B0": lambda t: diffusion(t, 90 * times, 0),
        "T2": lambda t: spin_echo(t, 4500, 100 * times),
        "GRE": lambda t: gradient_echo(t, 800, 24 * times, 20),
        "SWI": lambda t: susceptibility(t, 49, 40 * times, 15),
        "T1": lambda t: spin_echo(t, 500, 12 * times),
        "FLAIR": lambda t: inversion_recovery(t, 9000, 115 * times, 2480),
    }[name]
    signals = np.array([equation(tissues[tissue]) for tissue in TISSUES], np.float32)
    if name in ("TRACE", "B0"):
        signals[TISSUES.index("fat")] *= FAT_SUPPRESSION
    return signals


def jitter(rng: np.random.Generator, share: float = 0.06) -> dict[str, Tissue]:
    """Return `TABLE` with each value off by a normal factor of standard deviation ``share``.

    Fluid keeps its T1, on which scanners tune the inversion time of FLAIR.
    """
    table = {}
    for name, tissue in TABLE.items():
        t1, t2, t2star, pd, adc = np.exp(share * np.clip(rng.standard_normal(5), -2, 2))
        table[name] = Tissue(
            tissue.t1 * float(t1),
            tissue.t2 * float(t2),
            tissue.t2star * float(t2star),
            tissue.pd * float(pd) ** 0.5,
            tissue.adc * float(adc),
        )
    table["csf"] = replace(table["csf"], t1=TABLE["csf"].t1)
    return table


def rician(rng: np.random.Generator, image: FloatArray, sigma: float) -> FloatArray:
    """Magnitude of the image plus complex normal noise of deviation ``sigma`` in each part."""
    real, imaginary = np.float32(sigma) * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image + real, imaginary).astype(np.float32)


def bias_field(rng: np.random.Generator, shape: Sequence[int], share: float) -> FloatArray:
    """Smooth positive field around 1 that varies by about ``share`` over the image."""
    waves = [np.cos(np.pi * np.outer(range(3), (np.arange(n) + 0.5) / n)) for n in shape]
    weights = rng.standard_normal((3, 3, 3)) / (1 + np.indices((3, 3, 3)).sum(0))
    field = np.einsum("abc,az,by,cx->zyx", weights, *waves, optimize=True)
    return np.exp(share * field).astype(np.float32)


def make_images(
    rng: np.random.Generator, fractions: FloatArray, contrasts: Sequence[str]
) -> dict[str, FloatArray]:
    """Image a head with several contrasts.

    Every contrast has its own random stream: an image does not change with the others wanted.
    ADC and TRACE come from one diffusion scan; ADC is ``1e6 ln(S0/S)/b`` of its noisy images.

    Args:
        rng: source of all randomness.
        fractions: ``(len(TISSUES), z, y, x)`` from `make_head`.
        contrasts: names among `PAPER_CONTRASTS`.

    Returns:
        ``(z, y, x)`` by contrast: ADC in 1e-6 mm^2/s, the others in arbitrary units.
    """
    tissues = jitter(rng)
    streams = dict(zip(PAPER_CONTRASTS, rng.spawn(len(PAPER_CONTRASTS)), strict=True))
    images: dict[str, FloatArray] = {}
    if "ADC" in contrasts or "TRACE" in contrasts:
        images["ADC"], images["TRACE"] = _diffusion_scan(streams["TRACE"], fractions, tissues)
    for name in contrasts:
        if name not in images:
            stream = streams[name]
            times = float(stream.uniform(0.92, 1.08))
            images[name] = _scan(stream, fractions, contrast_signals(name, tissues, times))
    return {name: images[name] for name in contrasts}


def _brain_mean(fractions: FloatArray, image: FloatArray) -> float:
    brain = fractions[TISSUES.index("grey")] + fractions[TISSUES.index("white")]
    return float((brain * image).sum() / max(float(brain.sum()), 1e-6))


def _scan(rng: np.random.Generator, fractions: FloatArray, signals: FloatArray) -> FloatArray:
    clean = np.tensordot(signals, fractions, 1)
    clean *= bias_field(rng, clean.shape, 0.12) / _brain_mean(fractions, clean)
    return np.float32(rng.uniform(150, 900)) * rician(rng, clean, rng.uniform(0.03, 0.06))


def _diffusion_scan(
    rng: np.random.Generator, fractions: FloatArray, tissues: Mapping[str, Tissue]
) -> tuple[FloatArray, FloatArray]:
    """ADC map and trace-weighted image; the trace averages three directions, so less noise."""
    times = float(rng.uniform(0.92, 1.08))
    b0, trace = (
        np.tensordot(contrast_signals(name, tissues, times), fractions, 1)
        for name in ("B0", "TRACE")
    )
    gain = bias_field(rng, b0.shape, 0.12) / _brain_mean(fractions, b0)
    sigma = rng.uniform(0.02, 0.04)
    b0, trace = rician(rng, b0 * gain, sigma), rician(rng, trace * gain, sigma / np.sqrt(3))
    adc = 1e6 / B_VALUE * np.log(np.maximum(b0, 1e-6) / np.maximum(trace, 1e-6))
    adc = np.where(b0 > _MASK, np.clip(adc, 1, 4000), 0)
    return adc.astype(np.float32), trace * np.float32(rng.uniform(150, 900))
