"""The MR signal equations, from tissues to noise-free signals.

Not in the paper, whose images come from scanners. These are the textbook equations of the spin
echo, the spoiled gradient echo, inversion recovery and free diffusion (Bernstein, King and Zhou,
Handbook of MRI Pulse Sequences, 2004), each a function; a `Sequence` names one and its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from amae_nnunet.phantom.fields import FloatArray
from amae_nnunet.phantom.tissues import TISSUES, Tissue


@dataclass(frozen=True)
class Sequence:
    """How a contrast is acquired.

    Attributes:
        kind: ``spin_echo``, ``gradient_echo``, ``susceptibility``, ``inversion_recovery`` or
            ``diffusion``.
        tr: repetition time, ms.
        te: echo time, ms.
        flip: flip angle of the gradient echoes, degrees.
        ti: inversion time, ms; `nulling_time` gives that of FLAIR.
        b: diffusion weighting, s/mm^2.
        fat: share of the fat's signal that is left; below 1 where fat is suppressed.
    """

    kind: str
    tr: float
    te: float
    flip: float = 90.0
    ti: float = 0.0
    b: float = 0.0
    fat: float = 1.0


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
    """Susceptibility weighting, ``S = S_GRE min(1, T2*/(1.4 TE))^2``: a long-TE gradient echo.

    Simplified: a scanner multiplies by a mask made from the filtered phase image. There is no
    phase here, so a short T2* stands for it.
    """
    return gradient_echo(tissue, tr, te, flip) * min(1.0, tissue.t2star / (1.4 * te)) ** 2


def inversion_recovery(tissue: Tissue, tr: float, te: float, ti: float) -> float:
    """Magnitude inversion recovery; times in ms.

    ``S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)``.
    """
    mz = 1 - 2 * np.exp(-ti / tissue.t1) + np.exp(-tr / tissue.t1)
    return float(tissue.pd * abs(mz) * np.exp(-te / tissue.t2))


def nulling_time(t1: float, tr: float) -> float:
    """Inversion time at which a tissue gives no signal, ``T1 ln(2 / (1 + exp(-TR/T1)))``, ms."""
    return float(t1 * np.log(2 / (1 + np.exp(-tr / t1))))


def diffusion(tissue: Tissue, tr: float, te: float, b: float) -> float:
    """Trace-weighted spin echo, ``S = PD (1 - exp(-TR/T1)) exp(-TE/T2) exp(-b ADC)``.

    Times in ms, ``b`` in s/mm^2; ``b = 0`` gives the T2-weighted image ``S0``.
    """
    return spin_echo(tissue, tr, te) * float(np.exp(-b * tissue.adc * 1e-3))


def signal(sequence: Sequence, tissue: Tissue) -> float:
    """Noise-free signal of a tissue, relative to fully relaxed water (fat not suppressed)."""
    tr, te = sequence.tr, sequence.te
    if sequence.kind == "spin_echo":
        return spin_echo(tissue, tr, te)
    if sequence.kind == "gradient_echo":
        return gradient_echo(tissue, tr, te, sequence.flip)
    if sequence.kind == "susceptibility":
        return susceptibility(tissue, tr, te, sequence.flip)
    if sequence.kind == "inversion_recovery":
        return inversion_recovery(tissue, tr, te, sequence.ti)
    return diffusion(tissue, tr, te, sequence.b)


def tissue_signals(sequence: Sequence, tissues: Mapping[str, Tissue]) -> FloatArray:
    """``(len(TISSUES),)``: `signal` of every tissue, with fat suppressed as the sequence says."""
    signals = np.array([signal(sequence, tissues[name]) for name in TISSUES], np.float32)
    for name in ("fat", "marrow"):
        signals[TISSUES.index(name)] *= sequence.fat
    return signals
