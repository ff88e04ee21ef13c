"""From the files found for a case to the case: one rule for all readers of NIfTI files.

What two files claim to be is never guessed: the case is ambiguous, and its problem names both. Not
in the paper, which describes no conversion.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.source import NiftiFile, RawCase
from amae_nnunet.convert.template import Template


@dataclass
class Found:
    """The files of one case, as a reader finds them.

    Attributes:
        case: the case's identifier.
        source: what the case is called in the input.
        subject: the patient.
        split: the split that the input itself names.
        contrasts: contrast (not channel) -> files that could be it.
        labels: files that could be the label.
        unmatched: NIfTI files that are nothing, with the reason.
        problem: the first thing that was wrong.
    """

    case: str
    source: str
    subject: str
    split: str | None = None
    contrasts: dict[str, list[NiftiFile]] = field(default_factory=dict)
    labels: list[NiftiFile] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    problem: CaseError | None = None

    def add(self, contrast: str, file: NiftiFile) -> None:
        """Note that a file could be a contrast."""
        self.contrasts.setdefault(contrast, []).append(file)

    def reject(self, name: str, reason: str) -> None:
        """Note that a file is nothing that is wanted, and why."""
        self.unmatched.append(f"{name} ({reason})")

    def raw_case(self, template: Template, remedy: str) -> RawCase:
        """Choose what feeds each channel.

        Args:
            template: the channels and what they accept.
            remedy: how a missing contrast is added to this kind of input.
        """
        fed = template.feed(self.contrasts)
        self._reject_the_rest(template, {contrast for contrast, _ in fed.values()})
        problem = self.problem
        try:
            several = {**{name: files for name, (_, files) in fed.items()}, "label": self.labels}
            for name, files in several.items():
                if len(files) > 1:
                    listed = ", ".join(file.name for file in files)
                    raise CaseError(
                        "E_AMBIGUOUS",
                        f"{name} is ambiguous ({listed}): leave one of them, or name it in a table",
                    )
            missing = template.missing_required(fed)
            if missing or not fed:
                named = " and no ".join(missing)
                what = f"no {named} (required)" if missing else "no contrast at all"
                raise CaseError("E_REQUIRED", f"{what}: {remedy}, or remove the case")
        except CaseError as error:
            problem = problem or error
        return RawCase(
            self.case,
            self.source,
            self.subject,
            {channel: _note(channel, *choice) for channel, choice in fed.items()},
            self.labels[0] if self.labels else None,
            self.split,
            tuple(self.unmatched),
            problem.code if problem else "",
            problem.message if problem else "",
        )

    def _reject_the_rest(self, template: Template, used: set[str]) -> None:
        accepted = {name for names in template.accepts.values() for name in names}
        for contrast in sorted(set(self.contrasts) - used):
            reason = "another is preferred" if contrast in accepted else "not in the template"
            for file in self.contrasts[contrast]:
                self.reject(file.name, f"{contrast}: {reason}")


def _note(channel: str, contrast: str, files: list[NiftiFile]) -> NiftiFile:
    """The first file; its facts say so if the channel is fed by a contrast of another name."""
    file = files[0]
    return (
        file if contrast == channel else replace(file, facts={**file.facts, "contrast": contrast})
    )
