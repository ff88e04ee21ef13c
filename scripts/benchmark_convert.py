"""What the conversion of a DICOM study costs: step by step, as a command, and dcm2niix alone.

    python scripts/benchmark_convert.py --studies 12 --repeats 5 --json cost.json
    python scripts/benchmark_convert.py -i STUDIES -t Infarct --repeats 5

Without ``-i`` it makes studies of six series (diffusion with b = 0 and trace, ADC, T2, FLAIR, GRE,
T1), each in its own place. The steps are timed within this process, one case after the other; the
command with its start, its processes and its report; ``dcm2niix`` with one call a series that the
converter has chosen, compressed NIfTI as result. They take turns, so that a busy machine slows all
alike, and printed are medians over the repeats. CPU time is that of the process and of those it
started, files come from the cache of the disk. Projected is from the sum of the steps: the start of
the command (some seconds per process) is spread over all of the studies.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk

from amae_nnunet.convert import case as case_module
from amae_nnunet.convert.case import CaseJob
from amae_nnunet.convert.dicom.files import is_packed
from amae_nnunet.convert.dicom.rules import load_rules
from amae_nnunet.convert.dicom.scan import scan_dicom
from amae_nnunet.convert.dicom.studies import Selection, select
from amae_nnunet.convert.dicom.volume import DicomVolume
from amae_nnunet.convert.identity import Identities
from amae_nnunet.convert.source import RawCase
from amae_nnunet.convert.template import load_template
from amae_nnunet.convert.worker import Converted, work

SCRIPT = Path(sys.executable).with_name("amae-nnunet-convert")
TESTS = Path(__file__).resolve().parents[1] / "tests"  # whose scanner makes the studies
PROJECTED = 45_000  # studies
CORES = 16
STEPS = {
    "scan": "headers read, series chosen",
    "read": "dcm2niix and its checks",
    "write": "one grid, files written and checked",
    "montage": "picture for the report",
}
SUM, COMMAND, ALONE = "sum", "command", "dcm2niix"
Cost = dict[str, np.ndarray]  # step -> wall and CPU seconds of all cases


class Clock:
    """Wall and CPU seconds of named steps; a step within a step is counted once."""

    def __init__(self) -> None:
        self.seconds: Cost = defaultdict(lambda: np.zeros(2))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        before, inner = now(), sum(self.seconds.values(), np.zeros(2))
        yield
        self.seconds[name] += now() - before - (sum(self.seconds.values(), np.zeros(2)) - inner)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to a step."""

        def wrapped(*args: Any, **options: Any) -> Any:
            with self.step(name):
                return function(*args, **options)

        return wrapped


def now() -> np.ndarray:
    """Wall clock and CPU seconds, of this process and of those it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return np.array([time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in usages)])


def make_studies(root: Path, studies: int, size: int, slices: int) -> None:
    """Write studies of a head of ``size`` x ``size`` x ``slices`` voxels; diffusion has half."""
    sys.path.insert(0, str(TESTS))
    from convert.dicom.scanner import ADC, TRACE, write_series

    small = {"size": size // 2, "slices": slices}
    kinds: list[dict[str, Any]] = [
        {"number": 1, "description": "ep2d_diff", "b": 0, "directionality": "none", **small},
        {"number": 1, "description": "ep2d_diff", "b": 1000, "directionality": "isotropic"}
        | {"image_type": TRACE, "first": slices + 1, **small},
        {"number": 2, "description": "ep2d_diff_ADC", "image_type": ADC, **small},
        {"number": 3, "description": "t2_tse_tra", "echo_time": 90.0},
        {"number": 4, "description": "t2_flair_tra", "echo_time": 90.0, "InversionTime": 2500.0},
        {"number": 5, "description": "t2star_fl2d_tra", "echo_time": 20.0}
        | {"ScanningSequence": "GR", "FlipAngle": 20.0, "RepetitionTime": 700.0},
        {"number": 6, "description": "t1_se_tra", "echo_time": 9.0, "RepetitionTime": 500.0},
    ]
    for study in range(studies):
        for seed, kind in enumerate(kinds):
            options = {"size": size, "slices": slices, **kind}
            voxels, affine = head(options.pop("size"), options.pop("slices"), 7 * study + seed)
            names = {"patient": f"P{study}", "study": f"S{study}", "names": f"{seed}-{{:04d}}"}
            write_series(root / f"{study}" / f"{seed}", voxels, affine, **names, **options)


def head(size: int, slices: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ellipsoid in 220 x 220 x 120 mm, shifted by some mm, and its RAS+ affine."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (size, size, slices)), indexing="ij")
    radius = np.sqrt((axes[0] / 0.7) ** 2 + (axes[1] / 0.9) ** 2 + (axes[2] / 1.2) ** 2)
    signal = np.where(radius < 1, 600 + 200 * np.cos(9 * radius), 0)
    voxels = np.abs(signal + random.normal(0, 20, signal.shape)).astype(np.int16)
    affine = np.diag([-220 / size, -220 / size, 120 / slices, 1])
    affine[:3, 3] = np.add([110, 110, -60], random.uniform(-3, 3, 3))
    return voxels, affine


def find_cases(root: Path, template: str) -> list[RawCase]:
    """Scan a tree and choose, as the command does."""
    selection = Selection(load_template(template), load_rules(), Identities(bytes(16)))
    return [raw for raw in select(scan_dicom(root).stacks, selection)[1] if not raw.code]


def time_steps(root: Path, template: str) -> Cost:
    """Convert all cases in this process, step by step."""
    clock = Clock()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for owner, name, step in (
            (DicomVolume, "read", "read"),
            (case_module, "montage", "montage"),
            (case_module, "save_montage", "montage"),
        ):
            timed = clock.timed(step, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, timed))
        with clock.step("scan"):
            cases = find_cases(root, template)
        for raw in cases:
            with clock.step("write"):
                done = work(CaseJob(raw, load_template(template), folder / raw.case, False))
            assert isinstance(done, Converted), done
    return clock.seconds


def time_command(root: Path, template: str, processes: int) -> Cost:
    """Run the console script into a new folder."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-i", str(root), "-t", template, "--layout", "dicom", "-np", str(processes)]
        with clock.step(COMMAND):
            done = subprocess.run(
                [SCRIPT, *arguments, "-o", f"{folder}/out", "--key", f"{folder}/key"],
                capture_output=True,
                text=True,
            )
    assert done.returncode in (0, 4), done.stderr
    return clock.seconds


def time_alone(cases: list[RawCase]) -> Cost:
    """Run dcm2niix on each chosen series, whose files are linked into folders beforehand."""
    import dcm2niix

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        for number, source in enumerate(s for raw in cases for s in raw.contrasts.values()):
            files, result = Path(folder, f"in{number}"), Path(folder, f"out{number}")
            files.mkdir()
            result.mkdir()
            for index, path in enumerate(source.paths):
                (files / f"{index}.dcm").symlink_to(path)
            with clock.step(ALONE):
                subprocess.run(
                    [dcm2niix.bin, "-b", "n", "-z", "i", "-f", "s", "-o", result, files],
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
            assert list(result.glob("*.nii.gz")), source.name
    return clock.seconds


def measure(root: Path, template: str, processes: int, repeats: int) -> dict[str, Any]:
    """Medians over the repeats: seconds per case of each step; and what was converted."""
    cases = find_cases(root, template)
    if not cases:
        raise SystemExit(f"{root}: no study can be converted with template {template}")
    files = {path for raw in cases for s in raw.contrasts.values() for path in s.paths}
    if any(map(is_packed, files)):
        raise SystemExit(f"{root} holds archives, which dcm2niix cannot read: unpack them first")
    rounds: list[Cost] = []
    for lap in range(repeats + 1):  # the first one warms up
        cost = {**time_steps(root, template), **time_command(root, template, processes)}
        cost |= {SUM: sum((cost[step] for step in STEPS), np.zeros(2)), **time_alone(cases)}
        rounds += [cost] if lap else []
    seconds = {
        step: [statistics.median(cost[step][i] for cost in rounds) / len(cases) for i in (0, 1)]
        for step in (*STEPS, SUM, COMMAND, ALONE)
    }
    tree = [path for path in root.rglob("*") if path.is_file()]
    return {
        "cases": len(cases),
        "series": sum(len(raw.contrasts) for raw in cases),
        "files": len(tree),
        "megabytes": round(sum(path.stat().st_size for path in tree) / 1e6, 1),
        "repeats": repeats,
        "processes": processes,
        "seconds_a_case": {
            step: {"wall": round(wall, 4), "cpu": round(cpu, 4)}
            for step, (wall, cpu) in seconds.items()
        },
        "projected": project(seconds[SUM][1]),
    }


def project(seconds: float) -> dict[str, float]:
    """Core-hours of many studies, and hours on several cores, from CPU seconds of one."""
    hours = PROJECTED * seconds / 3600
    return {"studies": PROJECTED, "core_hours": round(hours, 1), "hours": round(hours / CORES, 2)}


def table(result: Mapping[str, Any]) -> str:
    """The result as a Markdown table."""
    cost = result["seconds_a_case"]
    named = {
        **STEPS,
        SUM: "sum of the steps",
        COMMAND: f"`amae-nnunet-convert -np {result['processes']}`, with its start",
        ALONE: "`dcm2niix` alone on the same series",
    }
    lines = ["| step | CPU s a case | wall s a case |", "|---|---|---|"]
    for step, text in named.items():
        lines.append(f"| {text} | {cost[step]['cpu']:.3f} | {cost[step]['wall']:.3f} |")
    projected = result["projected"]
    return "\n".join(
        [
            f"Studies: {result['cases']}, series chosen: {result['series']}, files: "
            f"{result['files']} ({result['megabytes']:g} MB), repeats: {result['repeats']}.",
            "",
            *lines,
            "",
            f"CPU of the steps over that of dcm2niix: {cost[SUM]['cpu'] / cost[ALONE]['cpu']:.1f}. "
            f"{PROJECTED:,} such studies: {projected['core_hours']:g} core-hours, "
            f"{projected['hours']:g} hours on {CORES} cores.",
        ]
    )


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-i", dest="root", type=Path, metavar="STUDIES", help="a DICOM tree (default: made)")
    add("-t", dest="template", default="Infarct", help="what is taken of it (default: Infarct)")
    add("--studies", type=int, default=12, help="how many are made (default: 12)")
    add("--size", type=int, default=256, help="voxels in plane (default: 256)")
    add("--slices", type=int, default=24, help="slices a series (default: 24)")
    add("--repeats", type=int, default=5, help="measured rounds (default: 5)")
    add("-np", dest="processes", type=int, default=2, help="of the command (default: 2)")
    add("--json", type=Path, help="write the result here, too")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = args.root or Path(folder)
        if not args.root:
            make_studies(root, args.studies, args.size, args.slices)
        result = measure(root.resolve(), args.template, args.processes, args.repeats)
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
