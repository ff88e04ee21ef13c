"""Random crops of preprocessed studies, for pre-training.

Every sample is a function of the seed and its number alone, so any number of workers, and a run
that was interrupted and continued, see the same data. Studies come in shuffled passes, each once a
pass; a crop is uniform in the volume, and flipped along each axis by chance. Not in the paper,
which does not describe its crops.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amae_nnunet.pretraining.stop import ignore_signals
from amae_nnunet.pretraining.studies import Study

_LONGEST_READ = 900  # s, of a batch

#: Images (C, Z, Y, X), zero where absent, and which contrasts are present, bool (C,).
Sample = tuple[Tensor, Tensor]


class RandomCrops(Dataset[Sample]):
    """Sample number -> crop of a study.

    Args:
        studies: in any order.
        num_contrasts: C, of the model.
        patch_size: voxels (z, y, x); smaller volumes are padded with zeros.
        seed: of the order, the places and the flips.
    """

    def __init__(
        self, studies: Sequence[Study], num_contrasts: int, patch_size: Sequence[int], seed: int
    ) -> None:
        self.studies = sorted(studies, key=lambda study: study.name)
        self.num_contrasts = num_contrasts
        self.patch_size = tuple(patch_size)
        self.seed = seed

    def study_of(self, sample: int) -> Study:
        """The study that a sample is cut from."""
        turn, place = divmod(sample, len(self.studies))
        order = np.random.default_rng([self.seed, 0, turn]).permutation(len(self.studies))
        return self.studies[order[place]]

    def __getitem__(self, sample: int) -> Sample:
        """Crop in float32 and its contrasts; only the voxels of present ones are read from disk."""
        study = self.study_of(sample)
        rng = np.random.default_rng([self.seed, 1, sample])
        first = []
        for size, wanted in zip(study.images().shape[1:], self.patch_size, strict=True):
            spare = size - wanted
            first.append(int(rng.integers(spare + 1)) if spare > 0 else spare // 2)
        axes = [axis for axis in range(3) if rng.random() < 0.5]
        return cut(study, first, self.patch_size, self.num_contrasts, axes)


def cut(
    study: Study,
    first: Sequence[int],
    patch_size: Sequence[int],
    num_contrasts: int,
    flip: Sequence[int] = (),
) -> Sample:
    """The part of a study that begins at voxel ``first``, zero outside the study.

    Present are the contrasts that the study has and that are not exactly zero all over the part;
    where all of them are (air), all that the study has. Each voxel is decoded and written once, and
    the rows of absent contrasts are not touched at all.

    Args:
        study: to cut from.
        first: voxel (z, y, x); may lie before the study, whose part then begins later.
        patch_size: voxels (z, y, x).
        num_contrasts: C, of the model.
        flip: axes of (z, y, x) along which the part is turned round.
    """
    data = study.images()
    inside, place = [], []  # the same voxels, in the study and in the part
    for start, size, end in zip(first, patch_size, data.shape[1:], strict=True):
        low, high = max(start, 0), min(start + size, end)
        inside.append(slice(low, high))
        place.append(slice(low - start, high - start))
    images = np.zeros((num_contrasts, *patch_size), dtype=np.float32)
    flipped = np.flip(images, tuple(axis + 1 for axis in flip))
    present = np.zeros(num_contrasts, dtype=bool)
    for channel, row in zip(study.channels, study.contrasts, strict=True):
        flipped[row][tuple(place)] = data[(channel, *inside)]
        present[row] = images[row].any()
    if not present.any():
        present[list(study.contrasts)] = True
    return torch.from_numpy(images), torch.from_numpy(present)


def crop_loader(
    crops: RandomCrops, first: int, last: int, batch_size: int, num_workers: int, pin_memory: bool
) -> DataLoader[Sample]:
    """Batches (B, C, Z, Y, X) and (B, C) of the samples ``first`` to ``last - 1``, in order.

    The processes that read are spawned: a fork copies locks that a thread of the libraries may hold
    at that moment, and the child then waits for ever.

    Raises:
        RuntimeError: while iterating: a process that reads died, or gave nothing for long, as when
            it cannot hand its batch over (torch drops it, for example on a full ``/tmp``).
    """
    return DataLoader(
        crops,
        batch_size=batch_size,
        sampler=range(first, last),
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=ignore_signals,
        multiprocessing_context="spawn" if num_workers else None,
        timeout=_LONGEST_READ if num_workers else 0,
    )
