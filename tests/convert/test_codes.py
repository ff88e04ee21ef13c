import pickle
import re
from pathlib import Path

from amae_nnunet.convert.codes import CODES, CaseError, folded

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "convert.md").read_text()


def test_the_manual_lists_every_code_as_it_is():
    listed = dict(re.findall(r"^\| `([EW]_\w+)` \| (.*) \|$", MANUAL, re.MULTILINE))
    assert listed == CODES


def test_every_code_that_is_used_is_listed_and_every_listed_one_is_used():
    sources = [path.read_text() for path in (ROOT / "amae_nnunet").rglob("*.py")]
    used = {code for text in sources for code in re.findall(r'"([EW]_[A-Z0-9_]+)"', text)}
    assert used == set(CODES)
    for code in CODES:
        assert sum(text.count(f'"{code}"') for text in sources) > 1, code


def test_a_case_error_crosses_processes_with_its_code():
    error = pickle.loads(pickle.dumps(CaseError("E_4D", "one line")))
    assert (error.code, error.message, str(error), error.exit_code) == (
        "E_4D",
        "one line",
        "one line",
        3,
    )


def test_what_is_said_of_many_cases_is_one_line():
    said = [
        ("a", "x [E_4D]"),
        *[(f"c{number}", "no T1") for number in range(25)],
        ("b", "x [E_4D]"),
    ]
    assert folded(said) == [
        "case a: x [E_4D]",
        "case b: x [E_4D]",
        "25 cases: no T1, first c0, c1, c2",
    ]
    assert folded([]) == []
