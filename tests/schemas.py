"""The schemas of our files (``docs/schemas``), and files held against them."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
NAMES = sorted(path.name.removesuffix(".schema.json") for path in FOLDER.iterdir())


def schema(name):
    return json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))


def faults(name, content):
    """Where and how plain JSON values break a schema."""
    found = Draft202012Validator(schema(name)).iter_errors(json.loads(json.dumps(content)))
    return [f"{error.json_path}: {error.message}" for error in found]


def check(name, *contents):
    """There is something, and all of it is as its schema says."""
    assert contents
    for content in contents:
        assert faults(name, content) == []


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
