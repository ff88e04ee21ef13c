"""Ledger lines and failures made for the tests of the report."""

import numpy as np

CHANNELS = ("T1", "T2", "FLAIR")


def ledger_entry(case, present, *, label=True, warnings=(), registration=None, **changes):
    """A line of ``cases.jsonl``: T1 gives the grid, T2 is resampled; other keys by ``changes``."""
    contrasts = {
        name: {
            "status": "resampled" if name == "T2" else "present",
            "size": [20, 30, 10],
            "spacing": [1.0, 1.0, 3.0],
            "type": "16-bit signed integer",
            "coverage": 0.6 if name == "T2" else 1.0,
        }
        for name, flag in zip(CHANNELS, present, strict=True)
        if flag == "1"
    }
    if registration:
        contrasts["T2"]["registration"] = registration
    entry = {
        "case": case,
        "source": case,
        "split": "train",
        "key": "0" * 64,
        "subject": case,
        "present": present,
        "reference": "T1",
        "size": [20, 30, 10],
        "spacing": [1.0, 1.0, 3.0],
        "contrasts": contrasts,
        "montage": True,
        "warnings": list(warnings),
    }
    if label:
        entry["label"] = {"background": 5750, "lesion": 250}
    return {**entry, **changes}


def failure(case, code, error, **changes):
    """A line of ``failures.jsonl``."""
    return {
        "case": case, "source": case, "split": "train", "code": code, "error": error, **changes
    }  # fmt: skip


def synthetic_entries(count):
    """Many cases of differing patterns, sizes and spacings."""
    rng = np.random.default_rng(0)
    patterns = ("111", "110", "101", "100", "011")
    return [
        ledger_entry(
            f"case_{number:05d}",
            patterns[rng.integers(len(patterns))],
            subject=f"subject_{number // 2:05d}",
            size=[int(rng.integers(180, 512)), 256, int(rng.integers(20, 40))],
            spacing=[round(float(rng.uniform(0.4, 1.2)), 6), 0.9, 5.0],
            warnings=["W_COVERAGE: T2 covers 60.0% of the grid of T1"] * (number % 20 == 0),
        )
        for number in range(count)
    ]
