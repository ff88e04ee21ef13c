"""What it costs to read a crop, for each number of contrasts that a study has.

    python scripts/benchmark_reader.py --crop 128 --rounds 15

A smooth random volume of seven contrasts is written as nnU-Net's preprocessor writes it (float32)
and as we write unlabelled studies (float16, small blocks), and crops at random places are read as
the pre-training reads them, turned round by chance. Time is CPU time of one thread with the file in
the page cache; the two files and the numbers of contrasts take turns, round after round; printed
are medians. In brackets is the time over that of seven contrasts times their share: 1.00 says that
absent ones cost nothing. ``decode`` is what blosc2 takes of it for seven.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from amae_nnunet.plans.half import in_half, small_blocks
from amae_nnunet.pretraining.data import cut
from amae_nnunet.pretraining.studies import Study

SHAPE = (192, 224, 176)
CONTRASTS = 7


def volume() -> NDArray[np.float32]:
    """What looks like a head to the compressor: smooth tissue with noise, air of zeros."""
    rng = np.random.default_rng(0)
    grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    head = sum(axis**2 for axis in grid) < 0.9
    tissue = gaussian_filter(rng.standard_normal(SHAPE), 4) * 20
    noise = (rng.standard_normal(SHAPE) * 0.05 for _ in range(CONTRASTS))
    return np.stack([np.where(head, tissue + part, 0) for part in noise]).astype(np.float32)


def write_studies(folder: Path) -> dict[str, Study]:
    """The same study stored in two ways, by name of the way."""
    data = volume()
    blocks, chunks = comp_blosc2_params(data.shape, (128, 128, 128), data.itemsize)
    stock = {"chunks": chunks, "blocks": blocks}
    seg, rows, studies = np.zeros((1, *SHAPE), np.int16), tuple(range(CONTRASTS)), {}
    for name, images, layout in (
        ("float32, nnU-Net's", data, stock),
        ("float16, ours", in_half(data), small_blocks(data.shape)),
    ):
        case = name.partition(",")[0]
        nnUNetDatasetBlosc2.save_case(images, seg, {}, str(folder / case), **layout)
        studies[name] = Study("Dataset", case, folder, rows, rows)
    return studies


def time_crop(
    study: Study, count: int, crop: int, place: tuple[int, ...], flip: list[int]
) -> float:
    """Milliseconds of CPU to read the first ``count`` contrasts of a crop; 0 decodes all, alone."""
    rows = tuple(range(count))
    some = Study(study.dataset, study.case, study.folder, rows, rows)
    start = time.process_time()
    if count:
        cut(some, some.images(), place, (crop,) * 3, count, flip)
    else:
        images = some.images()
        for channel in range(CONTRASTS):
            images[(channel, *(slice(first, first + crop) for first in place))]
    return 1e3 * (time.process_time() - start)


def measure(studies: dict[str, Study], crop: int, rounds: int) -> dict[str, dict[int, float]]:
    """Way of storing -> number of contrasts -> median milliseconds."""
    rng = np.random.default_rng(1)
    times: dict[str, dict[int, list[float]]] = {
        name: {count: [] for count in range(CONTRASTS + 1)} for name in studies
    }
    for turn in range(rounds + 1):  # the first warms up
        place = [int(rng.integers(size - crop + 1)) for size in SHAPE]
        flip = [axis for axis in range(3) if rng.random() < 0.5]
        for count in rng.permutation(CONTRASTS + 1).tolist():
            for name, study in studies.items():
                elapsed = time_crop(study, count, crop, place, flip)
                if turn:
                    times[name][count].append(elapsed)
    return {
        name: {count: statistics.median(found) for count, found in own.items()}
        for name, own in times.items()
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--crop", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    head = [f"{count} of {CONTRASTS}" for count in range(1, CONTRASTS + 1)]
    print(f"| stored as | MB | decode | {' | '.join(head)} |")
    print("|---" * (CONTRASTS + 3) + "|")
    with tempfile.TemporaryDirectory() as name:
        studies = write_studies(Path(name))
        medians = measure(studies, args.crop, args.rounds)
        for way, study in studies.items():
            size = (study.folder / f"{study.case}.b2nd").stat().st_size / 1e6
            decode, whole = medians[way].pop(0), medians[way][CONTRASTS]
            cells = (
                f"{ms:.1f} ms ({ms / whole * CONTRASTS / count:.2f})"
                for count, ms in medians[way].items()
            )
            print(f"| {way} | {size:.0f} | {decode:.1f} ms | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
