import json
import re
from pathlib import Path

import pytest
from convert.reports import CHANNELS, failure, ledger_entry, synthetic_entries
from schemas import check

from amae_nnunet.convert.report import summarise, write_report

ENTRIES = [
    ledger_entry("a", "110", warnings=["W_COVERAGE: T2 covers 60.0%", "W_FRAME: may have moved"]),
    ledger_entry("b", "110", subject="a", warnings=["W_COVERAGE: T2 covers 60.0%"]),
    ledger_entry("c", "111", split="test", spacing=[0.5, 1.0, 3.0]),
    ledger_entry("d", "001", label=False),
]
FAILURES = [
    failure("e", "E_DAMAGED", "T1.nii.gz is damaged"),
    failure("f", "E_DAMAGED", "T2.nii.gz is damaged"),
    failure("g", "E_NONUNIFORM", "the distance between slices varies"),
]
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"


def embedded(page):
    """The case data that the page's script reads."""
    (found,) = re.findall(
        r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL
    )
    return json.loads(found)


def test_the_headline_counts():
    assert summarise(CHANNELS, ENTRIES, FAILURES)["cases"] == {
        "converted": 4,
        "failed": 3,
        "doubted": 2,
        "labelled": 3,
        "subjects": 3,
        "splits": {"test": 1, "train": 3},
    }


@pytest.mark.parametrize("entries", [ENTRIES, ENTRIES[:2]])
def test_the_page_names_the_splits_where_there_are_several(tmp_path, entries):
    page = write_report(tmp_path, "x", CHANNELS, entries, []).read_text()
    assert ("<p>Splits: test 1, train 3.</p>" in page) == (entries is ENTRIES)
    assert ("Splits:" in page) == (entries is ENTRIES)


def test_codes_are_counted_errors_first_and_explained():
    codes = summarise(CHANNELS, ENTRIES, FAILURES)["codes"]
    counted = [(row["code"], row["cases"], row["times"]) for row in codes]
    assert counted == [
        ("E_DAMAGED", 2, 2),
        ("E_NONUNIFORM", 1, 1),
        ("W_COVERAGE", 2, 2),
        ("W_FRAME", 1, 1),
    ]
    assert codes[0]["meaning"] == "a file is cut short, or is not what its name says"


def test_a_code_that_comes_twice_in_a_case_counts_one_case():
    entries = [ledger_entry("a", "110", warnings=["W_DROPPED: T1", "W_DROPPED: T2"])]
    (row,) = summarise(CHANNELS, entries, [])["codes"]
    assert (row["cases"], row["times"]) == (1, 2)


def test_patterns_and_cooccurrence():
    summary = summarise(CHANNELS, ENTRIES, FAILURES)
    assert list(summary["patterns"].items()) == [("110", 2), ("001", 1), ("111", 1)]
    assert summary["together"] == {
        "T1": {"T1": 3, "T2": 3, "FLAIR": 1},
        "T2": {"T1": 3, "T2": 3, "FLAIR": 1},
        "FLAIR": {"T1": 1, "T2": 1, "FLAIR": 2},
    }


def test_the_signs_of_the_patterns_are_in_the_legend(tmp_path):
    entries = [ledger_entry("a", "110")]
    entries[0]["contrasts"]["T2"]["status"] = "resampled"
    html = write_report(tmp_path, "x", CHANNELS, entries, []).read_text()
    patterns = re.search(r"<caption>Presence patterns.*?</table>", html, re.DOTALL)[0]
    assert re.findall(r'<td class="\w+" aria-label="(\w+)">(.)<', patterns) == [
        *[("there", "✓")] * 2,
        ("absent", "·"),
    ]
    legend = re.search(r'<dl class="words">.*?</dl>', html, re.DOTALL)[0]
    assert "<dt>✓ there</dt><dd>the case has it, present or resampled</dd>" in legend
    assert "<dt>· absent</dt>" in legend


def test_contrasts_that_were_dropped_are_told_from_those_never_there():
    dropped = ledger_entry("x", "110")
    dropped["contrasts"]["FLAIR"] = {"status": "dropped", "code": "E_COVERAGE"}
    summary = summarise(CHANNELS, [*ENTRIES, dropped], [])
    states = {name: list(counts.values()) for name, counts in summary["contrasts"].items()}
    assert list(summary["contrasts"]["T1"]) == ["present", "resampled", "dropped", "absent"]
    assert states == {"T1": [4, 0, 0, 1], "T2": [0, 4, 0, 1], "FLAIR": [2, 0, 1, 2]}


def test_histograms_hold_every_case():
    summary = summarise(CHANNELS, ENTRIES, FAILURES)["histograms"]
    x = summary["spacing"]["x"]
    assert (sum(x["counts"]), x["counts"][0], x["counts"][-1]) == (4, 1, 3)
    assert (x["edges"][0], x["edges"][-1], x["range"]) == (0.5, 1.0, [0.5, 1.0, 1.0])
    assert len(x["edges"]) == len(x["counts"]) + 1


@pytest.mark.parametrize("other", [3.0, 2.999998])
def test_one_value_is_one_bar_in_the_middle_and_not_a_block(tmp_path, other):
    """What rounds to the same number, as spacings from headers do, is the same value."""
    entries = [ledger_entry("a", "110"), ledger_entry("b", "110", spacing=[1.0, 1.0, other])]
    z = summarise(CHANNELS, entries, [])["histograms"]["spacing"]["z"]
    assert z["counts"] == [0] * 12 + [2] + [0] * 12
    assert (z["edges"][0], z["edges"][12], z["edges"][13], z["edges"][-1]) == (2.5, 2.98, 3.02, 3.5)
    text = write_report(tmp_path, "x", CHANNELS, entries, []).read_text()
    chart = re.search(r"Histogram of spacing z: 3 mm in all cases.*?</svg>", text)[0]
    bars = re.findall(r'<rect x="([\d.]+)" y="0.0" width="([\d.]+)" height="84.0">', chart)
    assert bars == [("115.2", "8.6")]
    assert chart.count('height="0.0"') == 24


def test_the_twin_is_what_the_page_shows(tmp_path):
    page = write_report(tmp_path, "Dataset001_Tiny", CHANNELS, ENTRIES, FAILURES)
    twin = json.loads((tmp_path / "report.json").read_text())
    check("report", twin)
    assert twin.pop("title") == "Dataset001_Tiny"
    assert twin.pop("converter")
    assert twin == summarise(CHANNELS, ENTRIES, FAILURES)
    text = page.read_text()
    assert re.findall(r"<dd>([\d,]+)</dd>", text) == ["4", "3", "2", "3", "3"]
    assert re.findall(r'data-code="(\w+)"', text) == [row["code"] for row in twin["codes"]]
    assert re.findall(r'data-pattern="(\d+)"', text) == list(twin["patterns"])
    shares = re.findall(r'class="share number" style="[^"]*">(\d+)<', text)
    assert list(map(int, shares)) == [
        count for row in twin["together"].values() for count in row.values()
    ]
    assert text.count("<svg") == 6
    assert text.index("What needs a look") < text.index("Which contrasts the cases have")


def test_case_data_come_back_whole(tmp_path):
    data = embedded(write_report(tmp_path, "x", CHANNELS, ENTRIES, FAILURES, "pictures"))
    assert (data["contrasts"], data["montages"]) == (list(CHANNELS), "pictures")
    rows = {row["case"]: row for row in data["cases"]}
    assert list(rows) == ["a", "b", "c", "d", "e", "f", "g"]
    for entry in ENTRIES:
        row = rows[entry["case"]]
        grid = dict(data["facts"][number] for number in row["grid"])
        assert grid == {key: entry[key] for key in ("size", "spacing")}
        for name, numbers in row["contrasts"].items():
            assert dict(data["facts"][number] for number in numbers) == entry["contrasts"][name]
        assert list(row["contrasts"]) == list(entry["contrasts"])
        assert row.get("label") == entry.get("label")
    assert rows["a"]["problems"][1] == ["W_FRAME", "may have moved"]
    assert rows["b"]["subject"] == "a"
    assert "subject" not in rows["a"]
    assert rows["g"]["problems"] == [["E_NONUNIFORM", "the distance between slices varies"]]
    assert rows["e"] == {
        "case": "e", "split": "train", "problems": [["E_DAMAGED", "T1.nii.gz is damaged"]]
    }  # fmt: skip


def test_a_failure_under_the_name_of_a_converted_case_is_shown_with_it(tmp_path):
    clash = failure("a", "E_NAME", "folder A gets the same name as a: rename it", source="A")
    data = embedded(write_report(tmp_path, "x", CHANNELS, ENTRIES, [clash]))
    assert [row["case"] for row in data["cases"]] == ["a", "b", "c", "d"]
    assert data["cases"][0]["problems"][-1][0] == "E_NAME"
    assert data["cases"][0]["present"] == "110"


@pytest.mark.parametrize(
    ("entries", "failures"), [([], FAILURES[:2]), (ENTRIES[2:3], []), ([], [])]
)
def test_all_failed_and_none_failed(tmp_path, entries, failures):
    page = write_report(tmp_path, "x", CHANNELS, entries, failures)
    assert len(embedded(page)["cases"]) == len(entries) + len(failures)
    fine = "No case failed, and no case raises a doubt."
    assert (fine in page.read_text()) == (not failures)


def test_hostile_texts_are_escaped(tmp_path):
    entries = [ledger_entry(HOSTILE, "110", source=HOSTILE, split=HOSTILE, subject=HOSTILE)]
    failures = [failure(HOSTILE, HOSTILE, HOSTILE)]
    page = write_report(tmp_path, HOSTILE, ("T1", "T2", HOSTILE), entries_of(entries), failures)
    text = page.read_text()
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert embedded(page)["cases"][0]["case"] == HOSTILE


def entries_of(entries):
    """The third channel of the tests' entries under a hostile name."""
    return [{**entry, "present": "111"} for entry in entries]


def test_a_text_like_a_placeholder_is_left_alone(tmp_path):
    page = write_report(tmp_path, "@DATA@ @TITLE@", CHANNELS, [ledger_entry("@DATA@", "110")], [])
    assert "<h1>@DATA@ @TITLE@</h1>" in page.read_text()
    assert embedded(page)["cases"][0]["case"] == "@DATA@"


def test_neither_place_nor_time_nor_network_is_in_it(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        write_report(folder, "x", CHANNELS, ENTRIES, FAILURES)
    for name in ("report.html", "report.json"):
        one, two = ((folder / name).read_bytes() for folder in folders)
        assert one == two
        assert str(tmp_path).encode() not in one
        assert not re.search(rb"https?:|url\(|@import|<link| src=", one)


def test_the_old_report_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    page = write_report(tmp_path, "old", CHANNELS, ENTRIES, [])
    before = page.read_bytes()

    write = Path.write_text

    def no_room(path, text, **options):
        if "report.html" not in path.name:
            return write(path, text, **options)
        write(path, text[: len(text) // 2], **options)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", no_room)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, "new", CHANNELS, ENTRIES, FAILURES)
    assert page.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_page_of_45000_cases_stays_below_25_megabytes(tmp_path):
    fixed = write_report(tmp_path, "x", CHANNELS, [], []).stat().st_size
    assert fixed < 40_000
    page = write_report(tmp_path, "x", CHANNELS, synthetic_entries(2000), [])
    assert (page.stat().st_size - fixed) * 45_000 / 2000 < 25e6
