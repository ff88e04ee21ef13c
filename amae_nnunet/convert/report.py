"""What a careful user reads after a conversion: ``report.html``, and its twin ``report.json``.

The twin holds the counts that the page shows, made once for both; the twin of the single cases are
ledger and failures. The page is one file that needs no network and no server. Case data lie in it
once, as JSON that its script draws on demand; the pictures are files beside it. Nothing in it
depends on the time or the place of the run. Not in the paper.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amae_nnunet import __version__
from amae_nnunet.convert.codes import CODES
from amae_nnunet.convert.report_page import render
from amae_nnunet.whole import write_json, write_whole

REPORT = "report.html"
REPORT_TWIN = "report.json"
_AXES = "xyz"
_BINS = 25  # an odd number: a single value lies in the middle of the middle bin


def write_report(
    folder: Path,
    title: str,
    channels: Sequence[str],
    entries: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    montage_folder: str = "report",
) -> Path:
    """Write ``report.html`` and ``report.json``, each replaced as a whole.

    Args:
        folder: where to; the data set.
        title: of the page: the data set's name.
        channels: the contrasts in channel order.
        entries: the ledger's lines, in its order.
        failures: the failures' lines.
        montage_folder: where the pictures ``CASE.webp`` lie, relative to ``folder``.

    Returns:
        The path of the page.
    """
    summary = {
        "title": title,
        "converter": __version__,
        **summarise(channels, entries, failures),
    }
    facts: dict[str, int] = {}
    data = {
        "contrasts": list(channels),
        "montages": montage_folder,
        "cases": _case_rows(entries, failures, facts),
        "facts": [json.loads(text) for text in facts],
    }
    write_json(folder / REPORT_TWIN, summary)
    return write_whole(folder / REPORT, render(summary, data))


def summarise(
    channels: Sequence[str],
    entries: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Count what the page shows.

    Returns:
        ``cases`` (headline numbers), ``codes`` (errors first, then by cases), ``contrasts`` (how
        many cases have each, and how), ``patterns`` (presence string -> cases, most first),
        ``together`` (contrast -> contrast -> cases with both), ``histograms`` (``spacing`` in mm
        and ``size`` in voxels of the cases' grids -> axis).
    """
    problems = [problem for item in (*entries, *failures) for problem in _problems(item)]
    present = np.array([[flag == "1" for flag in entry["present"]] for entry in entries], int)
    both = present.reshape(-1, len(channels)).T @ present.reshape(-1, len(channels))
    doubted = {case for case, _, _ in problems} & {entry["case"] for entry in entries}
    return {
        "cases": {
            "converted": len(entries),
            "failed": len(failures),
            "doubted": len(doubted),
            "labelled": sum("label" in entry for entry in entries),
            "subjects": len({entry.get("subject", entry["case"]) for entry in entries}),
            "splits": dict(sorted(Counter(entry["split"] for entry in entries).items())),
        },
        "codes": _count_codes(problems),
        "contrasts": {name: _count_states(name, entries) for name in channels},
        "patterns": dict(_most_first(Counter(entry["present"] for entry in entries))),
        "together": {
            name: dict(zip(channels, map(int, row), strict=True))
            for name, row in zip(channels, both, strict=True)
        },
        "histograms": {
            key: {
                axis: _histogram([entry[key][index] for entry in entries])
                for index, axis in enumerate(_AXES)
            }
            for key in ("spacing", "size")
        },
    }


def _problems(item: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Case, code and text of what is wrong with a line of the ledger or of the failures."""
    if "error" in item:
        return [(item["case"], item["code"], item["error"])]
    pairs = [text.partition(": ") for text in item.get("warnings", ())]
    return [(item["case"], code, text) for code, _, text in pairs]


def _count_codes(problems: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
    cases: dict[str, list[str]] = {}
    for case, code, _ in problems:
        cases.setdefault(code, []).append(case)
    counted = [
        {
            "code": code,
            "meaning": CODES.get(code, ""),
            "cases": len(set(found)),
            "times": len(found),
        }
        for code, found in cases.items()
    ]
    return sorted(counted, key=lambda row: (row["code"][:1], -row["cases"], row["code"]))


def _count_states(name: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many cases have the contrast on its own grid, resampled, dropped, or not at all."""
    states = Counter(entry["contrasts"].get(name, {}).get("status", "absent") for entry in entries)
    return {state: states[state] for state in ("present", "resampled", "dropped", "absent")}


def _most_first(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _histogram(values: Sequence[float]) -> dict[str, list[float]]:
    """``edges`` (one more than counts), ``counts``, and ``range``: lowest, median, highest."""
    if not values:
        return {"edges": [], "counts": [], "range": []}
    shown = [float(f"{value:.4g}") for value in values]  # what rounding parts is one value
    counts, edges = np.histogram(shown, _BINS)
    middle = float(np.median(values))
    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": [int(count) for count in counts],
        "range": [min(values), middle, max(values)],
    }


def _case_rows(
    entries: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    facts: dict[str, int],
) -> list[dict[str, Any]]:
    """One row a case, whether it was converted or failed; what is empty is left out.

    Most facts (a size, a type) are those of many cases, so a row has their numbers in ``facts``,
    which is filled here: JSON text of key and value -> number.
    """

    def number(known: Mapping[str, Any]) -> list[int]:
        return [facts.setdefault(json.dumps(pair), len(facts)) for pair in known.items()]

    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        kept = ("case", "split", "source", "subject", "present", "reference", "label", "montage")
        row = rows[entry["case"]] = {key: entry[key] for key in kept if entry.get(key)}
        row["grid"] = number({key: entry[key] for key in ("size", "spacing")})
        row["contrasts"] = {name: number(found) for name, found in entry["contrasts"].items()}
    for failure in failures:
        bare = {key: failure[key] for key in ("case", "split", "source")}
        rows.setdefault(failure["case"], bare)
    for item in (*entries, *failures):
        for case, code, text in _problems(item):
            rows[case].setdefault("problems", []).append([code, text])
    for row in rows.values():
        for key in ("source", "subject"):
            if row.get(key) == row["case"]:
                del row[key]
    return list(rows.values())
