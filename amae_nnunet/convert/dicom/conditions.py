r"""The language of the rules: conditions on what the headers of a stack say.

A match is an object whose conditions must all hold. Its keys are the fields of ``Facts``, and:

* ``text``: description, and protocol where the maker names the series there (GE, for one, names
  the whole examination); ``slices``: the third of ``size``;
* ``is``: the name of a definition, or a list of names that must all hold; ``not``: a match that
  must not hold; ``any_of``: a list of matches of which one must hold.

What a condition may be depends on the field:

* text (``text``, ``series_description``, ``sequence_name``, ...): a regular expression, searched
  in the words of the text (see ``words``), without regard to case;
* lists (``image_type``, ``scanning_sequence``, ...): ``{"any": [...]}``, ``{"all": [...]}``;
* words (``manufacturer``, ``plane``, ``directionality``, ...): ``{"in": [...]}``;
* numbers and flags: ``{"lt", "le", "gt", "ge", "eq": number}``; a number that the header does not
  give matches none of them.

Not in the paper.
"""

from __future__ import annotations

import operator
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from amae_nnunet.convert.dicom.stack import Facts
from amae_nnunet.errors import ConfigError

Values = Mapping[str, Any]
Match = Callable[[Values], bool]

_NAMED_BY_PROTOCOL = {"Siemens", "Philips", "UIH"}  # their protocol is one series, not all of them

_TEXTS = {"text", "series_description", "protocol_name", "sequence_name", "image_comments"}
_TEXTS |= {"body_part", "contrast_agent"}
_LISTS = {"image_type", "scanning_sequence", "sequence_variant", "scan_options"}
_WORDS = {"modality", "sop_class", "manufacturer", "acquisition_type", "acquisition_contrast"}
_WORDS |= {"component", "directionality", "plane"}
_NUMBERS = {"slices", "coverage", "orientations", "samples_per_pixel", "burned_in"}
_NUMBERS |= {"echo_time", "repetition_time", "inversion_time", "flip_angle", "field_strength"}
_NUMBERS |= {"b_value", "volumes_at_b", "volumes_at_b_max", "isotropic_3d", "series_number"}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
}
_AGENTS = r"c|km|gd|gad\w*|contrast|kontrast"
_WITH = r"\b(?:with|mit|avec|con|post|nach|after)"
_PLANES = r"ax(?:ial)?|sag(?:ittal)?|cor(?:onal)?|tra|obl"


def words(text: str) -> str:
    r"""A name as words, in lower case, for regular expressions with ``\b``.

    Accents go, ``_`` and other signs become blanks, ``+`` becomes ``plus``, ``T2*`` ``t2 star``, a
    minus beside an agent (``-KM``, ``GD-``, ``s/GD``) ``minus``.
    ``2d``, ``3d``, ``t1``, ``t2`` and planes are cut off what they stick to. Where upper case
    begins inside a word, both readings are given: ``isoDWI`` is ``iso dwi | isodwi``.
    """
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(sign for sign in plain if not unicodedata.combining(sign))
    cut = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    return " | ".join(dict.fromkeys(_lower_words(form) for form in (cut, plain)))


def _lower_words(text: str) -> str:
    text = re.sub(r"(?<![a-z])t2 ?\*", "t2 star ", text.lower())
    text = re.sub(rf"(\+ ?/ ?- ?|\s- )({_AGENTS})\b", r" plus \2 minus \2 ", text)  # who knows?
    text = re.sub(rf"(?<=[\s_])(-|s/)(?=({_AGENTS})\b)", " minus ", text)
    text = re.sub(rf"({_WITH} )?(?<![a-z0-9])({_AGENTS})-(?![a-z0-9])", _without, text)
    text = text.replace("+", " plus ")
    text = re.sub(r"[^a-z0-9]+", " ", text)
    text = re.sub(r"(?<!\bt)([23]d)", r" \1 ", text)
    text = re.sub(rf"\b({_PLANES})(?=t[12]|flair|dwi|adc|swi|swan|gre|pd)", r"\1 ", text)
    text = re.sub(r"(?<![a-z])(t[12])(?=[a-z])", r"\1 ", text)
    return " ".join(text.split())


def _without(found: re.Match[str]) -> str:
    """``KM-`` is without it, unless a word before says with."""
    return f"{found[0][:-1]} " if found[1] else f" minus {found[2]} "


def values_of(facts: Facts) -> dict[str, Any]:
    """What conditions look at, under the names that they use."""
    values: dict[str, Any] = {item.name: getattr(facts, item.name) for item in fields(facts)}
    text = facts.series_description
    if facts.manufacturer in _NAMED_BY_PROTOCOL and facts.protocol_name != text:
        text = f"{text} | {facts.protocol_name}"
    values |= {"text": text, "slices": facts.size[2]}
    for name in _TEXTS:
        values[name] = " | ".join(words(part) for part in values[name].split(" | "))
    return values


def compile_match(match: Any, definitions: Mapping[str, Match], where: str = "") -> Match:
    """Make a match of JSON into a function.

    Args:
        match: as in the table.
        definitions: what ``is`` may name.
        where: the keys that lead to it, for messages.

    Raises:
        ConfigError: it cannot be understood.
    """
    if not isinstance(match, dict) or not match:
        raise ConfigError(f"{where or 'it'} must be an object with at least one condition")
    conditions = [
        _condition(key, value, definitions, f"{where}.{key}".lstrip("."))
        for key, value in match.items()
    ]
    return lambda values: all(condition(values) for condition in conditions)


def _condition(key: str, value: Any, definitions: Mapping[str, Match], where: str) -> Match:
    if key == "not":
        inner = compile_match(value, definitions, where)
        return lambda values: not inner(values)
    if key == "any_of":
        if not isinstance(value, list) or not value:
            raise ConfigError(f"{where} must be a list of matches")
        choices = [compile_match(choice, definitions, where) for choice in value]
        return lambda values: any(choice(values) for choice in choices)
    if key == "is":
        names = value if isinstance(value, list) else [value]
        for name in names:
            if not isinstance(name, str) or name not in definitions:
                raise ConfigError(f"{where}: {name} is not one of {', '.join(definitions)}")
        needed = [definitions[name] for name in names]
        return lambda values: all(one(values) for one in needed)
    if key in _TEXTS:
        return _text_condition(key, value, where)
    if key in _LISTS | _WORDS:
        return _word_condition(key, value, where)
    if key in _NUMBERS:
        return _number_condition(key, value, where)
    raise ConfigError(f"{where}: there is no field {key}")


def _text_condition(key: str, value: Any, where: str) -> Match:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where} must be a regular expression")
    if "_" in value:
        raise ConfigError(f"{where}: names are compared with '_' as a blank: write ' ' for '_'")
    try:
        pattern = re.compile(value, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"{where}: {value!r} is not a regular expression ({error})") from None
    return lambda values: pattern.search(values[key]) is not None


def _word_condition(key: str, value: Any, where: str) -> Match:
    operators = {"in"} if key in _WORDS else {"any", "all"}
    if not isinstance(value, dict) or len(value) != 1 or not set(value) <= operators:
        shapes = " or ".join(f'{{"{name}": [...]}}' for name in sorted(operators))
        raise ConfigError(f"{where} must be {shapes}")
    ((name, wanted),) = value.items()
    if not isinstance(wanted, list) or not all(isinstance(word, str) for word in wanted):
        raise ConfigError(f"{where}.{name} must be a list of texts")
    wanted = {word.upper() for word in wanted}
    if name == "in":
        return lambda values: values[key].upper() in wanted
    if name == "any":
        return lambda values: not wanted.isdisjoint(values[key])
    return lambda values: wanted.issubset(values[key])


def _number_condition(key: str, value: Any, where: str) -> Match:
    if not isinstance(value, dict) or not value or not set(value) <= set(_COMPARE):
        raise ConfigError(f"{where} must be an object of {', '.join(_COMPARE)}")
    for name, limit in value.items():
        if not isinstance(limit, int | float):
            raise ConfigError(f"{where}.{name} must be a number")
    tests = [(_COMPARE[name], limit) for name, limit in value.items()]
    return lambda values: (
        values[key] is not None and all(test(values[key], limit) for test, limit in tests)
    )
