"""What a dry run prints of cases of NIfTI files. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence

from amae_nnunet.convert.source import RawCase
from amae_nnunet.convert.template import Template
from amae_nnunet.errors import one_line


def table(cases: Sequence[RawCase], template: Template) -> str:
    """A table of case x contrast, then the files that no pattern fits, then what is wrong."""
    names = [*template.contrasts, "label"]
    width = max(len("case"), *(len(raw.case) for raw in cases))
    lines = ["  ".join(["case".ljust(width), *names])]
    for raw in cases:
        has = {**raw.contrasts, "label": raw.label}
        marks = [("x" if has.get(name) else "-").center(len(name)) for name in names]
        lines.append("  ".join([raw.case.ljust(width), *marks]).rstrip())
    for raw in cases:
        lines += [f"unmatched: {raw.source}/{name}" for name in raw.unmatched]
    lines += [f"case {raw.case}: {raw.problem}" for raw in cases if raw.problem]
    return "\n".join(map(one_line, lines))
