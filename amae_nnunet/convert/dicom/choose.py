"""The choice: which of a study's stacks feeds each channel, and why not the others.

A study often holds a contrast more than once: repeated for motion, in three planes, with and
without normalisation. The first of these that differs decides: how the contrast was told (a user's
rule, ImageType, diffusion tags, names, times), whether it is axial, whether 90 mm are covered,
intensity and distortion correction, the number of slices, the voxels in plane, the later
acquisition, the higher series number. For TRACE the b-value comes before all of them, and a TRACE
that has an ADC of its own before the rest; the ADC then follows the TRACE. Two stacks that nothing
but their series number tells apart are a doubt, which is reported. Not in the paper, which does not
say how it chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amae_nnunet.convert.codes import warning
from amae_nnunet.convert.dicom.rules import ACCEPTED, AMBIGUOUS, TIERS, Verdict
from amae_nnunet.convert.dicom.stack import Facts, Stack

_PLAUSIBLE_B = (700.0, 2000.0)  # s/mm2
_UNKNOWN_B, _IMPLAUSIBLE_B = 5e3, 1e4  # distances: a known plausible b-value goes before these
_PLANE = "axial"  # in which a 3-D stack of nearly cubic voxels counts as well
_MIN_COVERAGE = 90.0  # mm
_CORRECTIONS = ({"NORM"}, {"DIS2D", "DIS3D"})  # words of ImageType
_SAME = 1e-3  # mm or direction, of two affines
#: What decides, in order, as the loser is told.
_REASONS = (
    "its b-value is farther from the wanted one",
    "ADC and TRACE of one acquisition go first",
    "the other was told by stronger evidence",
    "the other is axial",
    "the other covers the whole head",
    "the other is corrected (normalised, undistorted)",
    "the other has more slices",
    "the other has smaller voxels in plane",
    "the other fits better in time",
    "nothing tells them apart but their numbers",
)
_TIME = 8  # where time stands in the list
_LATE = "acquired after a T1CE, perhaps with contrast agent"


@dataclass(frozen=True)
class Judged:
    """A stack and what the rules say of it."""

    stack: Stack
    verdict: Verdict

    @property
    def facts(self) -> Facts:
        """What the stack's headers say."""
        return self.stack.facts


@dataclass(frozen=True)
class Choice:
    """What becomes of one stack.

    Attributes:
        channel: the channel it feeds, empty if none.
        why_not: why it feeds none, in one line; empty if it does.
        warnings: doubts about a chosen stack, each ``W_CODE: text``.
        ambiguous: another stack could feed the channel as well, or the channel is empty and this
            stack might feed it. An error for who wants no doubts.
    """

    channel: str = ""
    why_not: str = ""
    warnings: tuple[str, ...] = ()
    ambiguous: bool = False


def choose(
    study: Sequence[Judged],
    accepts: Mapping[str, Sequence[str]],
    b_value: float = 1000.0,
) -> list[Choice]:
    """Choose at most one stack of a study for each channel.

    Args:
        study: the stacks of one study, in any order.
        accepts: channel -> the contrasts that may feed it, the best first. No contrast is in two.
        b_value: the wanted one of TRACE, s/mm2.

    Returns:
        A choice for each stack, in the order of ``study``.
    """
    return _Chooser(study, accepts, b_value).run()


def doubts(judged: Judged, b_value: float = 1000.0) -> tuple[str, ...]:
    """The warnings that a stack brings along if it is used, whoever chose it."""
    found = []
    facts, verdict = judged.facts, judged.verdict
    if not verdict.verified:
        text = f"{verdict.contrast} was named by rule {verdict.evidence}"
        found.append(warning("W_UNVERIFIED", text))
    if verdict.contrast == "TRACE" and not _plausible(facts.b_value, b_value):
        found.append(warning("W_B_VALUE", f"TRACE has b = {facts.b_value:g} s/mm2"))
    return tuple(found)


def unfit(judged: Judged, accepts: Mapping[str, Sequence[str]]) -> str:
    """Why a stack cannot be chosen at all; empty if it can.

    Args:
        judged: the stack.
        accepts: channel -> the contrasts that may feed it.
    """
    verdict = judged.verdict
    if verdict.status != ACCEPTED:
        return verdict.reason
    if not any(verdict.contrast in contrasts for contrasts in accepts.values()):
        return f"no channel takes {verdict.contrast}"
    return ""


def _plausible(found: float | None, wanted: float) -> bool:
    low, high = _PLAUSIBLE_B
    return found is None or min(low, wanted) <= found <= max(high, wanted)


class _Chooser:
    """One study's choice; the parameters are those of ``choose``."""

    def __init__(
        self,
        study: Sequence[Judged],
        accepts: Mapping[str, Sequence[str]],
        b_value: float,
    ) -> None:
        self.study = study
        self.accepts = accepts
        self.b_value = b_value
        self.choices = [Choice(why_not=unfit(judged, accepts)) for judged in study]
        self.trace: Judged | None = None

    def run(self) -> list[Choice]:
        """See ``choose``."""
        self._leave_out_late_t1()
        # An ADC is chosen for its TRACE, so that comes first.
        for channel in sorted(self.accepts, key=lambda name: "TRACE" not in self.accepts[name]):
            for contrast in self.accepts[channel]:
                if candidates := self._open(contrast):
                    self._feed(channel, contrast, candidates)
                    break
        return [self._finish(index) for index in range(len(self.study))]

    def _open(self, contrast: str) -> list[int]:
        """Indices of the stacks of a contrast that can be chosen."""
        return [
            index
            for index, judged in enumerate(self.study)
            if judged.verdict.contrast == contrast and not self.choices[index].why_not
        ]

    def _leave_out_late_t1(self) -> None:
        """Leave out a T1 acquired after a T1CE: the contrast agent is still in the patient."""
        times = [
            judged.facts.acquisition_time
            for judged in self.study
            if judged.verdict.contrast == "T1CE" and judged.verdict.status == ACCEPTED
        ]
        first = min((time for time in times if time), default="")
        for index in self._open("T1"):
            judged = self.study[index]
            if first and judged.facts.acquisition_time > first and judged.verdict.tier != "user":
                self.choices[index] = Choice(why_not=_LATE)

    def _feed(self, channel: str, contrast: str, candidates: list[int]) -> None:
        scores = {index: self._score(contrast, self.study[index]) for index in candidates}
        best = max(candidates, key=lambda index: scores[index])
        winner = self.study[best]
        number = winner.facts.series_number
        tied = []
        for index in candidates:
            place = _first_difference(scores[best], scores[index])
            why_not = f"series {number} is taken: {_REASONS[place]}"
            self.choices[index] = Choice(why_not=why_not, ambiguous=place > _TIME)
            if place > _TIME and index != best:
                tied.append(str(self.study[index].facts.series_number))
        warnings = doubts(winner, self.b_value)
        if tied:
            text = f"{contrast}: series {', '.join(tied)} could be taken as well as {number}"
            warnings += (warning("W_AMBIGUOUS", text),)
        self.choices[best] = Choice(channel, "", warnings, bool(tied))
        if contrast == "TRACE":
            self.trace = winner

    def _finish(self, index: int) -> Choice:
        """The choice of one stack, when all channels have theirs."""
        choice, verdict = self.choices[index], self.study[index].verdict
        if choice.channel or choice.ambiguous or not verdict.contrast:
            return choice
        fed = {
            contrast: other.verdict.contrast
            for done, other in zip(self.choices, self.study, strict=True)
            if done.channel
            for contrast in self.accepts[done.channel]
        }
        if not choice.why_not:
            return Choice(why_not=f"{fed[verdict.contrast]} is there, which the channel prefers")
        doubtful = verdict.status == AMBIGUOUS or choice.why_not == _LATE
        wanted = any(verdict.contrast in contrasts for contrasts in self.accepts.values())
        return replace(choice, ambiguous=doubtful and wanted and verdict.contrast not in fed)

    def _score(self, contrast: str, judged: Judged) -> tuple[Any, ...]:
        """What decides between stacks of one contrast; the highest wins. See ``_REASONS``."""
        facts = judged.facts
        time: Any = facts.acquisition_time
        if contrast == "ADC" and self.trace:
            time = -abs(_seconds(time) - _seconds(self.trace.facts.acquisition_time))
        words = set(facts.image_type)
        return (
            -self._distance_of_b(facts) if contrast == "TRACE" else 0.0,
            self._is_paired(contrast, judged),
            -TIERS.index(judged.verdict.tier),
            facts.plane == _PLANE or facts.isotropic_3d,
            facts.coverage >= _MIN_COVERAGE,
            sum(not correction.isdisjoint(words) for correction in _CORRECTIONS),
            facts.size[2],
            -round(facts.spacing[0] * facts.spacing[1], 3),
            time,
            facts.series_number,
        )

    def _distance_of_b(self, facts: Facts) -> float:
        if facts.b_value is None:
            return _UNKNOWN_B
        distance = abs(facts.b_value - self.b_value)
        return distance if _plausible(facts.b_value, self.b_value) else _IMPLAUSIBLE_B + distance

    def _is_paired(self, contrast: str, judged: Judged) -> bool:
        """Whether a TRACE has an ADC of its own, or an ADC is that of the TRACE chosen."""
        if contrast == "TRACE":
            return any(_pair(judged, self.study[index]) for index in self._open("ADC"))
        return contrast == "ADC" and self.trace is not None and _pair(self.trace, judged)


def _first_difference(one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
    places = (
        place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]
    )
    return next(places, len(one) - 1)


def _pair(trace: Judged, adc: Judged) -> bool:
    """Whether ADC and TRACE are of one acquisition: one grid, or one protocol."""
    one, other = trace.facts, adc.facts
    if one.frame_of_reference != other.frame_of_reference:
        return False
    same_grid = one.size == other.size and all(
        abs(a - b) < _SAME for a, b in zip(trace.stack.affine, adc.stack.affine, strict=True)
    )
    return same_grid or (one.protocol_name == other.protocol_name != "")


def _seconds(time: str) -> float:
    """Seconds since midnight of ``HHMMSS.ffffff``; 0 if it is not a time."""
    try:
        return 3600 * int(time[:2]) + 60 * int(time[2:4]) + float(time[4:] or 0)
    except ValueError:
        return 0.0
