"""``docs/commands.md`` and ``docs/configuration.md`` are what the code says."""

import argparse
import dataclasses
import importlib.util
from pathlib import Path

import pytest

from amae_nnunet.config import ModelConfig, PretrainingConfig, TrainingConfig
from amae_nnunet.plans.configure import parse_settings, settable_keys

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "write_reference.py")
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_the_page_is_in_step(name):
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page == reference.PAGES[name](), "run: python scripts/write_reference.py"


def test_every_console_script_has_its_parser():
    scripts = reference.tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    found = reference.parsers()
    assert {name: parser.prog for name, parser in found.items()} == {name: name for name in scripts}
    page = reference.commands_page()
    for name, parser in found.items():
        own = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        options = {word for action in parser._actions for word in action.option_strings}
        for option in options - {"-h", "--help", "-v", "--verbose", "--version"}:
            assert f"`{option}" in own or f", {option}" in own


def test_an_option_that_is_added_makes_the_page_stale(monkeypatch):
    before = reference.commands_page()
    from amae_nnunet.cli import show

    new_parser = show.new_parser

    def changed(*words):
        parser = new_parser(*words)
        parser.add_argument("--sideways", action="store_true", help="a new one | of ours")
        return parser

    monkeypatch.setattr(show, "new_parser", changed)
    assert "| `--sideways` | a new one \\| of ours |  |" in reference.commands_page()
    assert "--sideways" not in before


def test_a_command_without_a_parser_is_told():
    with pytest.raises(RuntimeError, match="join parses no arguments"):
        reference._parser("shlex:join")


@pytest.mark.parametrize("config", [ModelConfig, PretrainingConfig, TrainingConfig])
def test_every_field_is_explained_in_the_docstring_and_nothing_else(config):
    assert list(reference.attributes(config)) == [f.name for f in dataclasses.fields(config)]
    assert all(reference.attributes(config).values())


def test_every_key_that_can_be_set_stands_on_the_page():
    page = reference.configuration_page()
    for section, keys in settable_keys().items():
        own = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        for key in keys:
            assert f"| `{key}` |" in own
            assert parse_settings([f"{section}.{key}=1"])[section] == {key: 1}


def test_defaults_of_commands_are_shown_once():
    parser = argparse.ArgumentParser()
    said = parser.add_argument("-a", default=3, help="so many (default: %(default)s)")
    unsaid = parser.add_argument("-b", default=3, help="so many")
    assert reference._row(said) == "| `-a A` | so many | 3 |"
    assert reference._row(unsaid) == "| `-b B` | so many | 3 |"
