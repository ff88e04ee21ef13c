"""The scores that an earlier run has computed, so that running again goes on where it stopped.

Each prediction has a line in ``OUT/scores.jsonl``, under a hash of all that its scores follow from:
its file and that of the label (size, time), what their voxels mean, and the version of the metrics.
The file may be deleted at any time. Not in the paper.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from amae_nnunet.evaluation.cases import Case, Labels
from amae_nnunet.evaluation.metrics import VERSION
from amae_nnunet.evaluation.scores import NOTHING, Prediction, Row
from amae_nnunet.subsets import Subset


class KeptScores:
    """The scores in a file, which need not be there yet.

    Args:
        path: of the file.
        labels: what the voxels mean.
        tolerance: of the surface Dice, mm.
    """

    def __init__(self, path: Path, labels: Labels, tolerance: float) -> None:
        self.path = path
        self.meaning = [VERSION, list(labels.values.items()), labels.ignore, tolerance]
        self.lines: dict[str, dict[str, dict[str, float | None]]] = {}
        self.keys: dict[tuple[str, Prediction], str] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.split("\n"):
            try:
                entry = json.loads(line)
                self.lines[entry["key"]] = entry["scores"]
            except (ValueError, TypeError, KeyError):  # the last one, if a run was killed within it
                continue
        if not text.endswith("\n") and text:
            self._append("\n")

    def split(
        self, case: Case, predictions: Sequence[Prediction]
    ) -> tuple[list[Row], list[Prediction]]:
        """The rows of the predictions that have been scored, and the predictions that have not."""
        for one in predictions:  # before they are read: a file may be changed meanwhile
            self.keys[case.name, one] = self._key(case, one)
        found = {one: self.lines.get(self.keys[case.name, one], {}) for one in predictions}
        if not all(found[one] for one in predictions if one.model == NOTHING):
            return [], list(predictions)  # the others need it
        rows = [
            Row(case.name, one.model, case.had, one.given, label, _defined(values))
            for one, scores in found.items()
            for label, values in scores.items()
        ]
        return rows, [prediction for prediction in predictions if not found[prediction]]

    def add(self, case: Case, predictions: Sequence[Prediction], rows: Iterable[Row]) -> None:
        """Keep the rows of predictions that ``split`` left; what has none is tried again."""
        scores: dict[tuple[str, Subset], dict[str, dict[str, float | None]]] = {}
        for row in rows:
            values = {name: None if math.isnan(x) else x for name, x in row.values.items()}
            scores.setdefault((row.model, row.given), {})[row.label] = values
        for one in predictions:
            if found := scores.get((one.model, one.given)):
                line = {"key": self.keys[case.name, one], "scores": found}
                self._append(json.dumps(line) + "\n")

    def _append(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _key(self, case: Case, prediction: Prediction) -> str:
        paths = (case.label, prediction.path)
        stats = [path.stat() if path.is_file() else None for path in paths]
        files = [stat and [stat.st_size, stat.st_mtime_ns] for stat in stats]
        names = [str(path.resolve()) for path in paths]
        content = json.dumps([names, files, prediction.model == NOTHING, self.meaning])
        return hashlib.sha256(content.encode()).hexdigest()


def _defined(values: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}
