#!/usr/bin/env python3
"""Write the reference pages from the code: ``docs/commands.md`` and ``docs/configuration.md``.

    python scripts/write_reference.py            write both
    python scripts/write_reference.py --check    only say whether they are in step (exit code 1: no)

Commands are the console scripts of ``pyproject.toml``, read from their argparse parsers; keys are
the fields of the dataclasses in ``amae_nnunet/config.py``, read with their docstrings.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from unittest import mock

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from amae_nnunet.config import ENCODERS, ModelConfig, PretrainingConfig, TrainingConfig
from amae_nnunet.errors import EXIT_CODES
from amae_nnunet.plans.configure import NNUNET_KEYS, settable_keys

ROOT = Path(__file__).parents[1]
_WRITTEN = "<!-- Written by scripts/write_reference.py: change the code, not this page. -->"
_COMMANDS = f"""\
{_WRITTEN}
# Commands

Every command and option, as `--help` tells them. All commands have `--version` and `-v`.
"""
_CODES = "Each command names those that it can end with.\n"
_CONFIGURATION = f"""\
{_WRITTEN}
# Configuration keys

Set with [`amae-nnunet-configure`](commands.md#amae-nnunet-configure), as in
`amae-nnunet-configure 501 3d_fullres encoder=small pretraining.num_epochs=100`. They stand in the
`"amae"` block of a configuration in the plans file ([files](files.md#the-amae-block)), so that a
run can be repeated from its plans. A key that several parts have goes to the first of them in the
order of this page; `pretraining.num_epochs`, `training.lr` and so on name the part.
"""
_NNUNET = """\
## nnU-Net's own

| key | value |
|---|---|
"""
_TABLE = """\
| key | default | meaning | from |
|---|---|---|---|
"""


class _Parsed(Exception):
    """Carries a parser out of the command that made it."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each console script of ``pyproject.toml``."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {name: _parser(place) for name, place in scripts["project"]["scripts"].items()}


def _parser(place: str) -> argparse.ArgumentParser:
    """The parser that the function ``module:name`` would parse its arguments with."""
    module, _, function = place.partition(":")
    main = getattr(importlib.import_module(module), function)

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Parsed(parser)

    kinds = ("parse_args", "parse_intermixed_args")
    with mock.patch.multiple(argparse.ArgumentParser, **dict.fromkeys(kinds, stop)):
        try:
            main([])
        except _Parsed as found:
            return found.args[0]
    raise RuntimeError(f"{place} parses no arguments")


def commands_page() -> str:
    """The content of ``docs/commands.md``."""
    parts = [_COMMANDS]
    found = parsers()
    parts += [f"- [`{name}`](#{name}): {_summary(parser)}" for name, parser in found.items()]
    parts += [_section(name, parser) for name, parser in found.items()]
    codes = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    table = ["\n## Exit codes\n", _CODES, "| code | meaning |", "|---|---|", *codes]
    return "\n".join([*parts, *table]) + "\n"


def _summary(parser: argparse.ArgumentParser) -> str:
    return " ".join((parser.description or "").split("\n\n")[0].split())


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    lines = [f"\n## {name}\n", (parser.description or "").strip(), ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if _is_own(action)]
        if not actions:
            continue
        heading = {"positional arguments": "arguments"}.get(group.title or "", group.title)
        lines += [f"| {heading} | | default |", "|---|---|---|"]
        lines += [_row(action) for action in actions]
        lines.append("")
    epilog, _, codes = (parser.epilog or "").partition("exit codes:\n")
    if epilog.strip():
        lines += ["```text", epilog.strip(), "```", ""]
    return "\n".join([*lines, f"[Exit codes](#exit-codes): {_codes(codes)}."])


def _codes(table: str) -> str:
    """The codes of a command; one that means something of its own is explained."""
    found = {int(code): text for code, text in re.findall(r"^ +(\d+)  (.+)$", table, re.MULTILINE)}
    own = {code: "" if text == EXIT_CODES[code] else f" ({text})" for code, text in found.items()}
    return ", ".join(f"{code}{text}" for code, text in own.items())


def _is_own(action: argparse.Action) -> bool:
    return not {"-h", "--version", "-v"} & set(action.option_strings)


def _row(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.choices and not action.metavar:
        value = f"{{{','.join(map(str, action.choices))}}}"
    if action.nargs in ("*", "+"):
        value = f"{value} ..."
    words = ", ".join(action.option_strings) if action.option_strings else str(value)
    if action.option_strings and action.nargs != 0:
        words = f"{words} {value}"
    text = (action.help or "").replace("%(default)s", str(action.default))
    said = "default" in text or action.nargs == 0 or action.default in (None, [])
    needed = action.required and action.nargs != "*"
    default = "needed" if needed else "" if said else str(action.default)
    told = re.search(r"\(([^()]*; )?default: (.*)\)$", text)
    if told:
        text = text[: told.start()] + (f"({told[1][:-2]})" if told[1] else "")
        default = told[2]
    return f"| `{words}` | {_cell(text)} | {_cell(default)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def attributes(config: type) -> dict[str, str]:
    """The ``Attributes:`` of a dataclass's docstring, name -> text."""
    section = inspect.cleandoc(config.__doc__ or "").partition("\nAttributes:\n")[2]
    found: dict[str, str] = {}
    for name, text in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, re.MULTILINE):
        found[name] = " ".join(text.split())
    return found


def configuration_page() -> str:
    """The content of ``docs/configuration.md``."""
    rows = [f"| `{key}` | {kind} |" for key, kind in NNUNET_KEYS.items()]
    parts = [_CONFIGURATION, _NNUNET + "\n".join(rows), "\n## model\n", _TABLE + _model_rows()]
    sizes = "; ".join(
        f"`{name}` is {size['embed_dim']} wide and {size['depth']} deep"
        for name, size in ENCODERS.items()
    )
    parts.append(f"\nOf the encoders, {sizes}.")
    for name, config in (("training", TrainingConfig), ("pretraining", PretrainingConfig)):
        summary = inspect.cleandoc(config.__doc__ or "").splitlines()[0]
        parts += [f"\n## {name}\n", f"{summary}\n", _TABLE + "\n".join(_rows(config, name))]
    return "\n".join(parts) + "\n"


def _model_rows() -> str:
    own = [
        "| `encoder` | `base` | sets embed_dim and depth: "
        f"{', '.join(f'`{name}`' for name in ENCODERS)} | the paper |",
        "| `num_strides` | `0` | of the plan's strides that make up a token; 0: four, and one more "
        "while a contrast has over 2048 tokens | not in the paper |",
    ]
    return "\n".join(own + _rows(ModelConfig, "model"))


def _rows(config: type, section: str) -> list[str]:
    texts, keys = attributes(config), settable_keys()[section]
    rows = []
    for field in dataclasses.fields(config):
        if field.name not in keys:
            continue
        text, mark, rest = texts[field.name].partition("Not in the paper")
        origin = "the paper"
        if rest.startswith(": that"):  # the value is the paper's, how it is used is not
            origin = f"the paper, but not{rest[1:].rstrip('.')}"
        elif mark:
            origin = f"not in the paper{rest.rstrip('.')}"
        value = str(field.default).lower() if field.type == "bool" else field.default
        rows.append(f"| `{field.name}` | `{value}` | {_cell(text.rstrip(' .'))} | {origin} |")
    return rows


PAGES = {"commands.md": commands_page, "configuration.md": configuration_page}


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description="Write the reference pages from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    stale = 0
    for name, page in PAGES.items():
        path, text = ROOT / "docs" / name, page()
        if args.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                print(f"{path} is not in step: run python scripts/write_reference.py")
                stale = 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return stale


if __name__ == "__main__":
    sys.exit(main())
