"""What a head is made of, and the published values on which its signals rest.

Not in the paper. `TABLE` has a row per tissue at 1.5 T and at 3 T. Where the values are from:

- T1 of white matter, cortex and putamen at 1.5 T: Wright et al. 2008, MAGMA 21:121 (646, 1197 and
  1084 ms), who find 1332 ms for the putamen at 3 T.
- T1 of white matter and cortex at 3 T: Wansapura et al. 1999, J Magn Reson Imaging 9:531 (832 and
  1331 ms; Wright finds 838 and 1607 ms, with which the cortex would be darker than white matter on
  FLAIR).
- T2 of white matter and frontal cortex: Cox and Gowland 2010, Magn Reson Med 64:1440 (80 and 87 ms
  at 1.5 T, 71 and 76 ms at 3 T).
- T2* of white matter and cortex: Peters et al. 2007, Magn Reson Imaging 25:748 (66.2 and 84.0 ms at
  1.5 T, 53.2 and 66.0 ms at 3 T), who also find that R2* grows about linearly with the field; with
  that, what is known at one field is carried to the other.
- Globus pallidus at 3 T: Gelman et al. 1999, Radiology 210:759 (R2 25.8/s, R2' 12.0/s).
- Blood, T1: Stanisz et al. 2005, Magn Reson Med 54:507 (1441 ms at 1.5 T, 1932 ms at 3 T).
- Fluid, T1: Rooney et al. 2007, Magn Reson Med 57:308 (about 4.3 s at any field).
- Fat and muscle: Gold et al. 2004, AJR 183:343.
- ADC: Helenius et al. 2002, AJNR 23:194 (healthy brain); Nagesh et al. 1998, Stroke 29:1778 (0.63
  in, and 0.84 opposite of infarcts of a few hours); Lansberg et al. 2001, AJNR 22:637 (infarcts:
  low in the first week, normal in the second, then high, while trace and T2 stay bright).
- Haematoma: Maldjian et al. 2001, AJNR 22:112; Silvera et al. 2005, AJNR 26:236 (ADC moderately
  low).

What these do not give (proton densities, bone, marrow, T2 and T2* of veins, relaxation times of
lesions) is chosen so that the tissues look on each contrast as radiology textbooks describe them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]


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


#: Values by tissue, at 1.5 T and at 3 T. From ``grey`` on, the tissues of the brain.
_VALUES = {
    "air": (Tissue(1000, 10, 1, 0.0, 0.0), Tissue(1000, 10, 1, 0.0, 0.0)),
    "sinus": (Tissue(1000, 10, 1, 0.0, 0.0), Tissue(1000, 10, 1, 0.0, 0.0)),
    "fat": (Tissue(288, 165, 30, 0.9, 0.05), Tissue(371, 133, 20, 0.9, 0.05)),
    "muscle": (Tissue(1130, 35, 25, 0.75, 1.4), Tissue(1420, 32, 20, 0.75, 1.4)),
    "bone": (Tissue(300, 10, 2, 0.1, 0.3), Tissue(350, 10, 1.5, 0.1, 0.3)),
    "marrow": (Tissue(400, 80, 12, 0.5, 0.2), Tissue(480, 70, 7, 0.5, 0.2)),
    "csf": (Tissue(4300, 2000, 800, 1.0, 3.0), Tissue(4300, 2000, 500, 1.0, 3.0)),
    "vein": (Tissue(1441, 70, 32, 0.85, 1.5), Tissue(1932, 35, 17, 0.85, 1.5)),
    "grey": (Tissue(1197, 87, 84, 0.82, 0.84), Tissue(1331, 76, 66, 0.82, 0.84)),
    "deep_grey": (Tissue(1084, 80, 57, 0.8, 0.76), Tissue(1332, 66, 38, 0.8, 0.76)),
    "pallidum": (Tissue(880, 58, 40, 0.75, 0.76), Tissue(1080, 39, 26, 0.75, 0.76)),
    "white": (Tissue(646, 80, 66, 0.7, 0.72), Tissue(832, 71, 53, 0.7, 0.72)),
    "infarct": (Tissue(1300, 120, 85, 0.84, 0.48), Tissue(1450, 106, 72, 0.84, 0.48)),
    "chronic": (Tissue(1600, 360, 130, 0.86, 1.0), Tissue(1900, 310, 110, 0.86, 1.0)),
    "cavity": (Tissue(3800, 900, 300, 0.95, 2.4), Tissue(3900, 800, 250, 0.95, 2.4)),
    "white_lesion": (Tissue(1050, 140, 100, 0.8, 0.98), Tissue(1350, 122, 85, 0.8, 0.98)),
    "haemorrhage": (Tissue(1000, 45, 9, 0.8, 0.48), Tissue(1250, 32, 5, 0.8, 0.48)),
    "microbleed": (Tissue(900, 60, 5, 0.7, 0.7), Tissue(1150, 45, 3, 0.7, 0.7)),
}
#: What a voxel can hold, in the order of the fractions and of the tissue map.
TISSUES = tuple(_VALUES)
CODE: Mapping[str, int] = MappingProxyType({name: code for code, name in enumerate(TISSUES)})
#: The tissues at a field strength in tesla.
TABLE: Mapping[float, Mapping[str, Tissue]] = MappingProxyType(
    {
        field: MappingProxyType({name: row[column] for name, row in _VALUES.items()})
        for column, field in enumerate((1.5, 3.0))
    }
)


def draw_tissues(
    rng: np.random.Generator, field: float = 1.5, share: float = 0.06
) -> dict[str, Tissue]:
    """Return `TABLE` at ``field`` T with each value off by a normal factor of deviation ``share``.

    Fluid keeps its T1, on which scanners tune the inversion time of FLAIR. The ADC of the acute
    infarct is lower by up to a fifth or higher by up to a tenth yet: infarcts are of different age.
    """
    table = {}
    for name, tissue in TABLE[field].items():
        t1, t2, t2star, pd, adc = np.exp(share * np.clip(rng.standard_normal(5), -2, 2))
        table[name] = Tissue(
            tissue.t1 * float(t1),
            tissue.t2 * float(t2),
            tissue.t2star * float(t2star),
            tissue.pd * float(pd) ** 0.5,
            tissue.adc * float(adc),
        )
    table["csf"] = replace(table["csf"], t1=TABLE[field]["csf"].t1)
    age = float(rng.uniform(0.8, 1.1))
    table["infarct"] = replace(table["infarct"], adc=table["infarct"].adc * age)
    return table
