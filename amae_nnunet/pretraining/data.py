"""Random crops of preprocessed studies, for pre-training.

Every sample is a function of the seed and its number alone, so any number of workers, and a run
that was interrupted and continued, see the same data. Studies come in shuffled passes, each once a
pass; a crop is uniform in the volume, and flipped along each axis by chance. Not in the paper,
which does not describe its crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amae_nnunet.plans.preprocessed import case_reader


class RandomCrops(Dataset[Tensor]):
    """Sample number -> crop (C, Z, Y, X) of a study, zero where a contrast is absent.

    Args:
        folder: preprocessed cases.
        cases: names of the studies.
        patch_size: voxels (z, y, x); smaller volumes are padded with zeros.
        seed: of the order, the places and the flips.
    """

    def __init__(
        self, folder: Path, cases: Sequence[str], patch_size: Sequence[int], seed: int
    ) -> None:
        self.cases = sorted(cases)
        self.reader = case_reader(folder)(str(folder), list(self.cases))
        self.patch_size = tuple(patch_size)
        self.seed = seed

    def case_of(self, sample: int) -> str:
        """Name of the study that a sample is cut from."""
        turn, place = divmod(sample, len(self.cases))
        order = np.random.default_rng([self.seed, 0, turn]).permutation(len(self.cases))
        return self.cases[order[place]]

    def __getitem__(self, sample: int) -> Tensor:
        """Crop (C, Z, Y, X) in float32; only the voxels of the crop are read from disk."""
        data: Any = self.reader.load_case(self.case_of(sample))[0]
        rng = np.random.default_rng([self.seed, 1, sample])
        box = []
        for size, wanted in zip(data.shape[1:], self.patch_size, strict=True):
            spare = size - wanted
            first = int(rng.integers(spare + 1)) if spare > 0 else spare // 2
            box.append([first, first + wanted])
        crop = np.asarray(crop_and_pad_nd(data, box, 0), dtype=np.float32)
        axes = [axis + 1 for axis in range(3) if rng.random() < 0.5]
        return torch.from_numpy(crop).flip(axes)


def crop_loader(
    crops: RandomCrops, first: int, last: int, batch_size: int, num_workers: int, pin_memory: bool
) -> DataLoader[Tensor]:
    """Batches (B, C, Z, Y, X) of the samples ``first`` to ``last - 1``, in order."""
    return DataLoader(
        crops,
        batch_size=batch_size,
        sampler=range(first, last),
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
