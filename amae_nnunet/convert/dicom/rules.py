r"""The rules that say which contrast a stack is: a table of data, and how it is applied.

The table is a JSON file, an ordered list of rules; the first whose ``match`` holds decides::

    {"define": {"post": {"text": "\\bpost\\b"}},
     "rules": [
       {"id": "type.adc", "contrast": "ADC", "because": "ImageType says ADC", "tier": "type",
        "verified": true, "match": {"image_type": {"any": ["ADC"]}}},
       {"id": "no.fa", "reject": "fractional anisotropy", "match": {"text": "\\bfa\\b"}},
       {"id": "doubt.te", "contrast": "T1", "ambiguous": "TE of 60 ms",
        "match": {"text": "\\bt1\\b", "echo_time": {"gt": 45}, "not": {"is": "post"}}}]}

``conditions.py`` says what a match can be. ``tier`` says where the evidence comes from: ``type``
(ImageType and the like), ``private`` (diffusion tags), ``text`` (names), ``physics`` (TE, TR, TI).
``verified`` is whether real data were seen to obey the rule. A user's rules have neither: they come
first, and are a tier of their own.

Not in the paper, which does not say how it found its contrasts.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amae_nnunet.contrasts import check_contrast_names
from amae_nnunet.convert.dicom.conditions import Match, compile_match, values_of
from amae_nnunet.convert.dicom.stack import Facts
from amae_nnunet.errors import ConfigError, ContrastError
from amae_nnunet.parse import parse_json

#: Where evidence comes from, the strongest first.
TIERS = ("user", "type", "private", "text", "physics")
ACCEPTED, REJECTED, AMBIGUOUS = "accepted", "rejected", "ambiguous"

_SHIPPED = Path(__file__).with_name("rules.json")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RULE_KEYS = {"id", "contrast", "reject", "ambiguous", "because", "tier", "verified", "match"}


@dataclass(frozen=True)
class Verdict:
    """What the rules say of one stack.

    Attributes:
        contrast: its name; what it might be if ambiguous, empty if rejected.
        status: ``accepted``, ``rejected`` or ``ambiguous``.
        tier: one of ``TIERS``, empty unless accepted.
        evidence: the id of the rule that decided, or a code of ``codes.CODES``.
        reason: one line for the user. It may hold text of a user's rule, none of a header.
        verified: whether the rule was seen at work on real data.
    """

    contrast: str
    status: str
    tier: str
    evidence: str
    reason: str
    verified: bool = True


@dataclass(frozen=True)
class Rule:
    """One row of the table: what is said of the stacks that match."""

    verdict: Verdict
    match: Match


@dataclass(frozen=True)
class Rules:
    """A checked table, the user's rules first.

    Attributes:
        rules: in order; the first that matches decides.
        own: how many of them, at the front, are the user's.
    """

    rules: tuple[Rule, ...]
    own: int = 0

    def judge(self, facts: Facts, code: str = "", problem: str = "") -> Verdict:
        """Name the contrast of a stack.

        Args:
            facts: what its headers say.
            code: why it cannot be a volume (``Stack.code``, a key of ``CODES``), which rejects it.
            problem: the same in one line (``Stack.problem``).
        """
        if code:
            return Verdict("", REJECTED, "", code, f"{code}: {problem}")
        values = values_of(facts)
        for rule in self.rules:
            if rule.match(values):
                return rule.verdict
        return Verdict("", REJECTED, "", "none", "no rule says what it is")

    @property
    def contrasts(self) -> tuple[str, ...]:
        """All contrasts that the table can name."""
        named = (rule.verdict.contrast for rule in self.rules)
        return tuple(sorted({contrast for contrast in named if contrast}))

    def without_channel(self, accepts: Mapping[str, Sequence[str]]) -> list[Verdict]:
        """What the user's rules say for nothing: no channel takes the contrast.

        Args:
            accepts: channel -> the contrasts that may feed it.
        """
        taken = {"", *itertools.chain(*accepts.values())}
        verdicts = [rule.verdict for rule in self.rules[: self.own]]
        return [verdict for verdict in verdicts if verdict.contrast not in taken]


def load_rules(user: Path | None = None) -> Rules:
    """Load the shipped table, and a user's in front of it.

    Raises:
        ConfigError: a file is not there, is not JSON, or has a rule that cannot be understood.
    """
    shipped = _read(_SHIPPED)
    definitions = _definitions(shipped, {}, _SHIPPED.name)
    rules = _rules(shipped, definitions, _SHIPPED.name, own=False)
    own: list[Rule] = []
    if user is not None:
        content = _read(user)
        own = _rules(content, _definitions(content, definitions, user.name), user.name, own=True)
        taken = {rule.verdict.evidence for rule in rules}
        for rule in own:
            if rule.verdict.evidence in taken:
                raise ConfigError(
                    f"rules {user.name}: a rule {rule.verdict.evidence} is shipped: give another id"
                )
    return Rules((*own, *rules), len(own))


def _read(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        doubled = next((key for key in keys if keys.count(key) > 1), None)
        if doubled is not None:
            raise ConfigError(f"rules {path.name}: {doubled} is there twice in one object")
        return dict(pairs)

    try:
        content = parse_json(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise ConfigError(f"rules {path}: {error.strerror}: give a file with --rules") from None
    except ValueError as error:
        raise ConfigError(f"rules {path.name} is not valid JSON: {error}") from None
    if not isinstance(content, dict) or not {"rules"} <= set(content) <= {"define", "rules"}:
        raise ConfigError(f'rules {path.name}: write {{"rules": [...]}}, with "define" if wanted')
    return content


def _definitions(
    content: Mapping[str, Any], known: Mapping[str, Match], file: str
) -> dict[str, Match]:
    own = content.get("define", {})
    if not isinstance(own, dict):
        raise ConfigError(f"rules {file}: define must be an object of name -> match")
    definitions = dict(known)
    for name, match in own.items():
        if name in known:
            raise ConfigError(f"rules {file}: define.{name} is shipped already: take another name")
        try:
            definitions[name] = compile_match(match, definitions)
        except ConfigError as error:
            raise ConfigError(f"rules {file}: define.{name}: {error}") from None
    return definitions


def _rules(
    content: Mapping[str, Any], definitions: Mapping[str, Match], file: str, *, own: bool
) -> list[Rule]:
    if not isinstance(content["rules"], list):
        raise ConfigError(f"rules {file}: rules must be a list")
    rules: list[Rule] = []
    for number, entry in enumerate(content["rules"], 1):
        try:
            rule = _rule(entry, definitions, own)
            if any(rule.verdict.evidence == other.verdict.evidence for other in rules):
                raise ConfigError(f"id {rule.verdict.evidence} is there twice")
        except ConfigError as error:
            raise ConfigError(f"rules {file}: rule {number}: {error}") from None
        rules.append(rule)
    return rules


def _rule(entry: Any, definitions: Mapping[str, Match], own: bool) -> Rule:
    if not isinstance(entry, dict) or not {"id", "match"} <= set(entry):
        raise ConfigError("it must be an object with the keys id and match")
    unknown = sorted(set(entry) - _RULE_KEYS)
    if unknown:
        raise ConfigError(f"{unknown[0]} is not one of {', '.join(sorted(_RULE_KEYS))}")
    for key in _RULE_KEYS - {"match", "verified"}:
        text = entry.get(key, "-")
        if not isinstance(text, str) or not text or "\n" in text:
            raise ConfigError(f"{key} must be a text of one line")
    if not _ID.fullmatch(entry["id"]):
        raise ConfigError(f"id {entry['id']!r}: use a-z, 0-9, '.', '_' and '-' only")
    verdict = _verdict(entry, own)
    return Rule(verdict, compile_match(entry["match"], definitions, "match"))


def _verdict(entry: Mapping[str, Any], own: bool) -> Verdict:
    if ("reject" in entry) == ("contrast" in entry) or {"reject", "ambiguous"} <= set(entry):
        raise ConfigError("give contrast, or reject, or ambiguous with contrast")
    if own and {"tier", "verified"} & set(entry):
        raise ConfigError("tier and verified are for shipped rules: leave them out")
    if "reject" in entry:
        return Verdict("", REJECTED, "", entry["id"], entry["reject"])
    try:
        (contrast,) = check_contrast_names([entry["contrast"]])
    except ContrastError as error:
        raise ConfigError(str(error)) from None
    if "ambiguous" in entry:
        return Verdict(contrast, AMBIGUOUS, "", entry["id"], entry["ambiguous"])
    tier, verified = ("user", True) if own else (entry["tier"], entry["verified"])
    reason = entry.get("because", f"rule {entry['id']}")
    return Verdict(contrast, ACCEPTED, tier, entry["id"], reason, verified)
