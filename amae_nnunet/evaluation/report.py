"""What a reader of an evaluation looks at: ``report.html``, and its twin ``results.json``.

The page is one file that needs no network, no server and no script. Nothing in it depends on the
time or the place of the run. Of images it shows axial slices only, so that no face can be seen. Not
in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amae_nnunet.evaluation.report_page import render
from amae_nnunet.evaluation.summary import Summary
from amae_nnunet.evaluation.worst import Worst
from amae_nnunet.whole import write_json, write_whole

REPORT = "report.html"
RESULTS = "results.json"


def write_report(folder: Path, summary: Summary, worst: Sequence[Worst]) -> Path:
    """Write ``report.html`` and ``results.json``, each replaced as a whole.

    Returns:
        The path of the page.
    """
    write_json(folder / RESULTS, summary.to_json())
    return write_whole(folder / REPORT, render(summary, worst))
