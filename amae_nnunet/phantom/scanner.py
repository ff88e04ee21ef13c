"""From tissues to images: sites with their protocols, motion, noise, bias fields and scales.

Not in the paper, whose five centres are not described. The five sites here differ in field
strength, timings, sequence types, noise, shading and intensity scale, as clinical scanners do.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Sequences
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from amae_nnunet.contrasts import PAPER_CONTRASTS
from amae_nnunet.phantom.fields import FloatArray
from amae_nnunet.phantom.signal import Sequence, nulling_time, tissue_signals
from amae_nnunet.phantom.tissues import CODE, TABLE, Tissue, draw_tissues


@dataclass(frozen=True)
class Site:
    """A scanner and its protocol.

    Attributes:
        field: tesla, a key of `TABLE`.
        noise: deviation of each part of the complex noise, as a share of the brain's mean signal.
        shading: deviation of the logarithm of the bias field, about.
        scale: least and greatest mean of the brain in the images, arbitrary units.
        protocol: the sequence of each contrast (``TRACE`` is that of the ADC map as well).
    """

    field: float
    noise: float
    shading: float
    scale: tuple[float, float]
    protocol: Mapping[str, Sequence]


def _flair(tr: float, te: float, fat: float = 1.0) -> Sequence:
    ti = nulling_time(TABLE[1.5]["csf"].t1, tr)
    return Sequence("inversion_recovery", tr, te, ti=ti, fat=fat)


def _protocol(
    trace: tuple[float, float], t2: tuple[float, float], gre: tuple[float, float, float],
    swi: tuple[float, float, float], t1: Sequence, flair: Sequence,
) -> Mapping[str, Sequence]:  # fmt: skip
    """TR and TE (and flip angle) of the contrasts; b is 1000 s/mm^2 everywhere."""
    return MappingProxyType(
        {
            "TRACE": Sequence("diffusion", *trace, b=1000.0, fat=0.03),
            "T2": Sequence("spin_echo", *t2),
            "GRE": Sequence("gradient_echo", *gre),
            "SWI": Sequence("susceptibility", *swi),
            "T1": t1,
            "FLAIR": flair,
        }
    )


_SE_T1, _IR_T1 = Sequence("spin_echo", 500, 12), Sequence("inversion_recovery", 2200, 10, ti=1050)
#: Sites by name. A, B and E have 1.5 T, C and D 3 T.
SITES: Mapping[str, Site] = MappingProxyType(
    {
        "A": Site(1.5, 0.030, 0.08, (200, 400), _protocol(
            (6000, 95), (5000, 100), (800, 24, 20), (49, 40, 15), _SE_T1, _flair(9000, 115))),
        "B": Site(1.5, 0.040, 0.12, (600, 1200), _protocol(
            (8000, 85), (5000, 90), (600, 20, 25), (50, 40, 20),
            Sequence("gradient_echo", 220, 4.5, flip=80), _flair(8000, 125, 0.1))),
        "C": Site(3.0, 0.022, 0.18, (300, 700), _protocol(
            (7000, 75), (5500, 95), (650, 18, 20), (28, 20, 15),
            _IR_T1, _flair(9000, 125, 0.1))),
        "D": Site(3.0, 0.028, 0.22, (1500, 4000), _protocol(
            (5500, 65), (5000, 105), (550, 15, 18), (37, 24, 12),
            Sequence("gradient_echo", 12, 4.5, flip=18), _flair(11000, 130))),
        "E": Site(1.5, 0.055, 0.16, (60, 140), _protocol(
            (5000, 105), (5200, 110), (900, 26, 25), (55, 42, 18),
            Sequence("spin_echo", 450, 15), _flair(10000, 120))),
    }
)  # fmt: skip
MOTION = 0.15  # probability that the head moves in a scan
_LARGEST = np.iinfo(np.int16).max
_MASK = 0.3  # the ADC map is 0 where the b = 0 image is below this share of the brain's mean
#: What spoils the field around it, 1/s at 1.5 T, and how far, mm.
_DISTURBING = {"sinus": (150.0, 4.0), "haemorrhage": (60.0, 1.5), "microbleed": (150.0, 1.5)}


def rician(rng: np.random.Generator, image: npt.NDArray[np.generic], sigma: float) -> FloatArray:
    """Magnitude of a real or complex image plus complex normal noise, ``sigma`` in each part."""
    real, imaginary = np.float32(sigma) * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image.real + real, image.imag + imaginary).astype(np.float32)


def bias_field(rng: np.random.Generator, shape: Sequences[int], share: float) -> FloatArray:
    """Smooth positive field around 1 that varies by about ``share`` over the image."""
    waves = [np.cos(np.pi * np.outer(range(3), (np.arange(n) + 0.5) / n)) for n in shape]
    weights = rng.standard_normal((3, 3, 3)) / (1 + np.indices((3, 3, 3)).sum(0))
    field = np.einsum("abc,az,by,cx->zyx", weights, *waves, optimize=True)
    return np.exp(share * field).astype(np.float32)


def moved(image: FloatArray, shifts: npt.NDArray[np.float64]) -> npt.NDArray[np.complex64]:
    """What a head that moves along y during the scan gives: blur and ghosts.

    Line ``k`` of k-space (from ``-n//2`` on, in the order of acquisition) is measured when the head
    is shifted by ``shifts`` voxels: ``S(k) = F(k) exp(-2 pi i k shift(k) / n)``.

    Args:
        image: ``(z, y, x)``.
        shifts: ``(y,)``, in voxels.
    """
    n = image.shape[1]
    lines = np.arange(-(n // 2), n - n // 2)
    phases = fft.ifftshift(np.exp(-2j * np.pi * lines * shifts / n)).astype(np.complex64)
    return fft.ifft(fft.fft(image, axis=1) * phases[:, None], axis=1).astype(np.complex64)


def draw_motion(rng: np.random.Generator, lines: int, spacing: float) -> npt.NDArray[np.float64]:
    """Shifts for `moved`: a jerk at some line, or a swing with a few periods; 0.5 to 2.5 mm."""
    size, line = rng.uniform(0.5, 2.5) / spacing, np.arange(lines, dtype=np.float64)
    if rng.random() < 0.5:
        return np.where(line > rng.uniform(0.2, 0.8) * lines, size, 0.0)
    shifts: npt.NDArray[np.float64] = size * np.sin(
        2 * np.pi * (rng.uniform(4, 12) * line / lines + rng.random())
    )
    return shifts


def blooming(fractions: FloatArray, spacing: Sequences[float], field: float) -> FloatArray:
    """Extra R2' in 1/ms around air cells and blood, which reaches beyond them.

    A smooth stand-in for the field of a susceptibility source; it grows with the field strength.
    """
    rate = np.zeros(fractions.shape[1:], np.float32)
    for name, (strength, reach) in _DISTURBING.items():
        share = fractions[CODE[name]]
        if share.any():
            sigma = [reach / step for step in spacing]
            rate += np.float32(1e-3 * strength * field / 1.5) * ndimage.gaussian_filter(
                share, sigma
            )
    return rate


@dataclass(frozen=True)
class _Scan:
    """What all scans of a study share: the head, its tissues' values, the site, the grid."""

    fractions: FloatArray
    tissues: Mapping[str, Tissue]
    site: Site
    spacing: tuple[float, ...]
    motion: float

    def brain_mean(self, image: FloatArray) -> float:
        """Mean over grey and white matter."""
        brain = self.fractions[CODE["grey"]] + self.fractions[CODE["white"]]
        return float((brain * image).sum() / max(float(brain.sum()), 1e-6))

    def sequence(self, rng: np.random.Generator, name: str) -> Sequence:
        """The site's sequence, whose echo time a technician has changed by a few percent."""
        sequence = self.site.protocol[name]
        return replace(sequence, te=sequence.te * float(rng.uniform(0.95, 1.05)))

    def clean(self, sequence: Sequence) -> FloatArray:
        """The image without noise, shading and motion."""
        image = np.tensordot(tissue_signals(sequence, self.tissues), self.fractions, 1)
        if sequence.kind in ("gradient_echo", "susceptibility"):
            rate = blooming(self.fractions, self.spacing, self.site.field)
            image = image * np.exp(np.float32(-sequence.te) * rate)
        return image

    def acquire(
        self, rng: np.random.Generator, images: Sequences[FloatArray], sigmas: Sequences[float]
    ) -> list[FloatArray]:
        """Images of one scan, scaled so that the first one's brain has mean 1."""
        gain = bias_field(rng, images[0].shape, self.site.shading) / self.brain_mean(images[0])
        shifts = draw_motion(rng, images[0].shape[1], self.spacing[1])
        moves = rng.random() < self.motion
        seen = [moved(image * gain, shifts) if moves else image * gain for image in images]
        return [rician(rng, image, sigma) for image, sigma in zip(seen, sigmas, strict=True)]

    def stored(self, rng: np.random.Generator, image: FloatArray) -> FloatArray:
        """The image times a factor of the receiver's gain, up to the largest number of a file."""
        image = image * np.float32(rng.uniform(*self.site.scale))
        return np.minimum(image, np.float32(_LARGEST))

    def weighted(self, rng: np.random.Generator, name: str) -> FloatArray:
        """An image of one contrast."""
        sequence = self.sequence(rng, name)
        noise = self.site.noise * rng.uniform(0.8, 1.3)
        return self.stored(rng, self.acquire(rng, [self.clean(sequence)], [noise])[0])

    def diffusion(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """ADC map and trace image; the trace averages three directions, so less noise."""
        trace = self.sequence(rng, "TRACE")
        noise = self.site.noise * rng.uniform(0.7, 1.0)
        images = [self.clean(replace(trace, b=0.0)), self.clean(trace)]
        b0, weighted = self.acquire(rng, images, [noise, noise / np.sqrt(3)])
        adc = 1e6 / trace.b * np.log(np.maximum(b0, 1e-6) / np.maximum(weighted, 1e-6))
        adc = np.where(b0 > _MASK, np.clip(adc, 1, 4000), 0)
        return adc.astype(np.float32), self.stored(rng, weighted)


def make_images(
    rng: np.random.Generator,
    fractions: FloatArray,
    spacing: Sequences[float],
    contrasts: Sequences[str],
    site: Site,
    motion: float = MOTION,
) -> dict[str, FloatArray]:
    """Image a head with several contrasts at one site.

    Every contrast has its own random stream: an image does not change with the others wanted.
    ADC and TRACE come from one diffusion scan; ADC is ``1e6 ln(S0/S)/b`` of its noisy images.

    Args:
        rng: source of all randomness.
        fractions: ``(len(TISSUES), z, y, x)`` from `make_head`.
        spacing: size of a voxel in mm, (z, y, x).
        contrasts: names among `PAPER_CONTRASTS`.
        site: the scanner.
        motion: probability that the head moves in a scan.

    Returns:
        ``(z, y, x)`` by contrast: ADC in 1e-6 mm^2/s, the others in arbitrary units.
    """
    tissues = draw_tissues(rng, site.field)
    streams = dict(zip(PAPER_CONTRASTS, rng.spawn(len(PAPER_CONTRASTS)), strict=True))
    scan = _Scan(fractions, tissues, site, tuple(spacing), motion)
    images: dict[str, FloatArray] = {}
    if "ADC" in contrasts or "TRACE" in contrasts:
        images["ADC"], images["TRACE"] = scan.diffusion(streams["TRACE"])
    for name in contrasts:
        if name not in images:
            images[name] = scan.weighted(streams[name], name)
    return {name: images[name] for name in contrasts}
