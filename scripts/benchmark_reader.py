"""What it costs to read a crop, for each number of contrasts that a study has.

    python scripts/benchmark_reader.py --crop 128 --rounds 15

A smooth random volume of seven contrasts is written as nnU-Net's preprocessor writes it, in float32
and in half precision, and crops at random places are read as the pre-training reads them. Time is
CPU time of one thread with the file in the page cache; the numbers of contrasts take turns, round
after round; printed are medians. ``per contrast`` divides by the share of contrasts that are read:
1.00 says that absent ones cost nothing.
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
from scipy.ndimage import gaussian_filter

from amae_nnunet.pretraining.data import cut
from amae_nnunet.pretraining.studies import Study

SHAPE = (192, 224, 176)
CONTRASTS = 7


def write_study(folder: Path, dtype: type) -> Study:
    """A study that looks like a head to the compressor: smooth tissue with noise, air of zeros."""
    rng = np.random.default_rng(0)
    grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    head = sum(axis**2 for axis in grid) < 0.9
    tissue = gaussian_filter(rng.standard_normal(SHAPE), 4) * 20
    noise = (rng.standard_normal(SHAPE) * 0.05 for _ in range(CONTRASTS))
    data = np.stack([np.where(head, tissue + part, 0) for part in noise]).astype(dtype)
    blocks, chunks = comp_blosc2_params(data.shape, (128, 128, 128), data.itemsize)
    nnUNetDatasetBlosc2.save_case(
        data,
        np.zeros((1, *SHAPE), np.int16),
        {},
        str(folder / "case"),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks,
        blocks_seg=blocks,
    )
    return Study("Dataset", "case", folder, tuple(range(CONTRASTS)), tuple(range(CONTRASTS)))


def time_crop(study: Study, count: int, crop: int, place: tuple[int, ...]) -> float:
    """Milliseconds of CPU to read the first ``count`` contrasts of a crop."""
    rows = tuple(range(count))
    some = Study(study.dataset, study.case, study.folder, rows, rows)
    start = time.process_time()
    cut(some, place, (crop,) * 3, count)
    return 1e3 * (time.process_time() - start)


def measure(study: Study, crop: int, rounds: int) -> dict[int, float]:
    """Number of contrasts -> median milliseconds."""
    rng = np.random.default_rng(1)
    times: dict[int, list[float]] = {count: [] for count in range(1, CONTRASTS + 1)}
    for turn in range(rounds + 1):  # the first warms up
        place = tuple(int(rng.integers(size - crop + 1)) for size in SHAPE)
        for count in rng.permutation(list(times)).tolist():
            elapsed = time_crop(study, count, crop, place)
            if turn:
                times[count].append(elapsed)
    return {count: statistics.median(found) for count, found in times.items()}


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--crop", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| stored as | MB | " + " | ".join(f"{n} of 7" for n in range(1, CONTRASTS + 1)) + " |")
    print("|---" * (CONTRASTS + 2) + "|")
    for dtype in (np.float32, np.float16):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            study = write_study(folder, dtype)
            size = (folder / "case.b2nd").stat().st_size / 1e6
            medians = measure(study, args.crop, args.rounds)
        cells = (
            f"{ms:.1f} ms ({ms / medians[CONTRASTS] * CONTRASTS / count:.2f})"
            for count, ms in medians.items()
        )
        print(f"| {dtype.__name__} | {size:.0f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
