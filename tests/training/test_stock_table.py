"""``docs/stock-commands.md`` names the tests that hold it, all of them and no others."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_line_of_the_table_has_its_test_and_every_test_its_line():
    lines = (ROOT / "docs" / "stock-commands.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    named = [re.search(r"\| `(test_\w+)` \|$", row) for row in rows]
    assert all(named), "a line without a test"
    module = ast.parse(Path(__file__).with_name("test_stock_commands.py").read_text())
    tests = [n.name for n in module.body if getattr(n, "name", "").startswith("test_")]
    assert sorted(match[1] for match in named) == sorted(tests)
