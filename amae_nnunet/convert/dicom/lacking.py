"""Why a study lacks a contrast: which series are damaged, and what is said of the others.

A damaged series is judged as if it were whole, so that a damaged ADC is told from none. What is
said of series is short, and alike for cases alike, so that the report can say it once; the table of
series has all of it. Not in the paper.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from amae_nnunet.convert.codes import CODES, CaseError
from amae_nnunet.convert.dicom.rules import Rules
from amae_nnunet.convert.dicom.sheet import channel_of
from amae_nnunet.convert.dicom.stack import Stack

_FEW = 3  # reasons that a message has


def unusable(
    study: Iterable[Stack],
    fed: Collection[str],
    rules: Rules,
    accepts: Mapping[str, Sequence[str]],
) -> dict[str, CaseError]:
    """Channels that a stack would feed if it were one whole volume -> what is wrong with it.

    Args:
        study: its stacks.
        fed: the channels that have one.
        rules: name the contrasts.
        accepts: channel -> the contrasts that may feed it.
    """
    found: dict[str, CaseError] = {}
    for stack in study:
        if stack.code:
            # Its extent is not known, so that no rule may reject it for being small.
            whole = replace(
                stack.facts, size=(*stack.facts.size[:2], sys.maxsize), coverage=math.inf
            )
            channel = channel_of(rules.judge(whole).contrast, accepts)
            if channel and channel not in fed:
                text = f"series {stack.facts.series_number}: {stack.problem}"
                found.setdefault(channel, CaseError(stack.code, text))
    return found


def lacking(
    missing: Sequence[str],
    damaged: Mapping[str, CaseError],
    others: Sequence[tuple[Stack, str]],
    sheet: str,
) -> CaseError:
    """Why a study without a required contrast, or without any, cannot be a case.

    Args:
        missing: of ``Template.missing_required``.
        damaged: of ``unusable``.
        others: the stacks that might be a contrast it lacks, each with why it was not taken.
        sheet: what the user calls the table of series.
    """
    wanted = [channel for entry in missing for channel in entry.split("|")]
    for channel in wanted or damaged:
        if channel in damaged:
            return CaseError(damaged[channel].code, f"{channel}: {damaged[channel].message}")
    what = f"no {' and no '.join(missing)} (required)" if missing else "no contrast at all"
    said = f" (its series: {_reasons(others)})" if others else ""
    remedy = f"if a series is one, say so in {sheet}"
    if others and all(stack.code for stack, _ in others):  # which no table can choose
        remedy = f"export them anew, or leave the case out of {sheet}"
    return CaseError("E_REQUIRED", f"{what} was recognised{said}: {remedy}")


def _reasons(others: Iterable[tuple[Stack, str]]) -> str:
    """The most frequent reasons; one with a code is what the code means."""
    counts = Counter(
        f"{CODES[stack.code]} ({stack.code})" if stack.code else why for stack, why in others
    )
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
    more = len(reasons) - _FEW
    return "; ".join(reasons[:_FEW]) + (f"; and {more} more" if more > 0 else "")
