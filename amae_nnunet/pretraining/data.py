"""Random crops of preprocessed studies, for pre-training.

Every sample is a function of the seed and its number alone, so any number of workers, and a run
that was interrupted and continued, see the same data. Studies come in shuffled passes, each once a
pass; a crop is uniform in the volume, and flipped along each axis by chance. Not in the paper,
which does not describe its crops.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from amae_nnunet.plans.preprocessed import nonzero_channels
from amae_nnunet.pretraining.stop import ignore_signals
from amae_nnunet.pretraining.studies import Study

_LONGEST_READ = 900  # s, of a batch

#: Images (C, Z, Y, X), zero where absent, and which contrasts are present, bool (C,). Images are in
#: half precision where they are stored so: half as much goes to the device, which casts it.
Crop = tuple[Tensor, Tensor]
#: A crop, and the seed of its masks.
Sample = tuple[Tensor, Tensor, int]
#: Samples of one pass: (B, C, Z, Y, X), (B, C) and (B,).
Batch = tuple[Tensor, Tensor, Tensor]


class RandomCrops(Dataset[Sample]):
    """Sample number -> crop of a study.

    Args:
        studies: in any order.
        num_contrasts: C, of the model.
        patch_size: voxels (z, y, x); smaller volumes are padded with zeros.
        seed: of the order, the places, the flips and the masks.
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
        return self.studies[self._order(turn)[place]]

    def slots_from(self, sample: int) -> Iterator[tuple[int, int]]:
        """Each sample from ``sample`` on, without end, and the number of its study's contrasts."""
        turn, place = divmod(sample, len(self.studies))
        for now in itertools.count(turn):
            order = self._order(now)[place if now == turn else 0 :]
            for study in order.tolist():
                yield sample, len(self.studies[study].contrasts)
                sample += 1

    def _order(self, turn: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, turn]).permutation(len(self.studies))

    def __getitem__(self, sample: int) -> Sample:
        """Crop and its contrasts; only the voxels of present ones are read from disk."""
        study = self.study_of(sample)
        rng = np.random.default_rng([self.seed, 1, sample])
        data, first = study.images(), []
        for size, wanted in zip(data.shape[1:], self.patch_size, strict=True):
            spare = size - wanted
            first.append(int(rng.integers(spare + 1)) if spare > 0 else spare // 2)
        axes = [axis for axis in range(3) if rng.random() < 0.5]
        images, present = cut(study, data, first, self.patch_size, self.num_contrasts, axes)
        masks = np.random.SeedSequence([self.seed, 2, sample]).generate_state(1)
        return images, present, int(masks[0])


def cut(
    study: Study,
    data: Any,
    first: Sequence[int],
    patch_size: Sequence[int],
    num_contrasts: int,
    flip: Sequence[int] = (),
) -> Crop:
    """The part of a study that begins at voxel ``first``, zero outside the study.

    Present are the contrasts that the study has and that are not exactly zero all over the part;
    where all of them are (air), all that the study has. Each voxel is decoded and written once, and
    the rows of absent contrasts are not touched at all. In half precision if the study is.

    Args:
        study: to cut from.
        data: its images, opened.
        first: voxel (z, y, x); may lie before the study, whose part then begins later.
        patch_size: voxels (z, y, x).
        num_contrasts: C, of the model.
        flip: axes of (z, y, x) along which the part is turned round.

    Raises:
        InputError: the study cannot be read.
    """
    inside, place = [], []  # the same voxels, in the study and in the part
    for start, size, end in zip(first, patch_size, data.shape[1:], strict=True):
        low, high = max(start, 0), min(start + size, end)
        inside.append(slice(low, high))
        place.append(slice(low - start, high - start))
    kind = np.float16 if data.dtype == np.float16 else np.float32
    images = np.zeros((num_contrasts, *patch_size), dtype=kind)
    flipped = np.flip(images, tuple(axis + 1 for axis in flip))
    present = np.zeros(num_contrasts, dtype=bool)
    for channel, row in zip(study.channels, study.contrasts, strict=True):
        try:
            flipped[row][tuple(place)] = data[(channel, *inside)]
        except RuntimeError as error:  # blosc2's
            raise study.damaged(error) from None
        present[row] = nonzero_channels(images[None, row])[0]
    if not present.any():
        present[list(study.contrasts)] = True
    return torch.from_numpy(images), torch.from_numpy(present)


def collate(samples: list[Sample]) -> Batch:
    """Samples of one pass as a batch, in float32 if any of them is."""
    if len({images.dtype for images, *_ in samples}) > 1:
        samples = [(images.float(), present, seed) for images, present, seed in samples]
    batch: Batch = default_collate(samples)
    return batch


def crop_loader(
    crops: RandomCrops, passes: Iterable[list[int]], num_workers: int, pin_memory: bool
) -> DataLoader[Sample]:
    """A ``Batch`` for the samples of each pass, in order.

    The processes that read are spawned: a fork copies locks that a thread of the libraries may hold
    at that moment, and the child then waits for ever.

    Raises:
        RuntimeError: while iterating: a process that reads died, or gave nothing for long, as when
            it cannot hand its batch over (torch drops it, for example on a full ``/tmp``).
    """
    return DataLoader(
        crops,
        batch_sampler=passes,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=ignore_signals,
        multiprocessing_context="spawn" if num_workers else None,
        timeout=_LONGEST_READ if num_workers else 0,
    )
