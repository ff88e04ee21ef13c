"""The series sheet: written, edited in a spreadsheet program, read and obeyed."""

import csv
import os
import stat
from dataclasses import replace

import pytest

from amae_nnunet.convert.dicom.choose import Choice, Judged
from amae_nnunet.convert.dicom.rules import Verdict
from amae_nnunet.convert.dicom.sheet import (
    COLUMNS,
    Row,
    channel_of,
    make_row,
    read_sheet,
    table,
    write_sheet,
)
from amae_nnunet.convert.dicom.stack import Facts, Stack
from amae_nnunet.errors import ConfigError

ACCEPTS = {"T1": ("T1",), "SWI": ("SWI", "GRE"), "ADC": ("ADC",)}
FACTS = Facts(
    manufacturer="Siemens",
    series_description="t1_mprage",
    plane="sagittal",
    size=(256, 240, 176),
    spacing=(1.0, 1.0, 1.05),
    coverage=184.8,
    echo_time=2.41,
    repetition_time=1800.0,
    series_number=5,
)
STACK = Stack("0012e34567", "1.2", "Doe^J", "1.2.3", "a/b", FACTS)
SWI = Stack("1234567890", "1.2", "Doe^J", "1.2.4", "a/c", replace(FACTS, series_number=12))
BROKEN = Stack(
    "ffffffffff", "1.2", "Doe^J", "1.2.5", "a", FACTS, code="E_MATRIX", problem="2 sizes of slices"
)
STACKS = {stack.key: stack for stack in (STACK, SWI, BROKEN)}
T1 = Judged(STACK, Verdict("T1", "accepted", "text", "text.t1", "named T1"))
GRE = Judged(SWI, Verdict("GRE", "accepted", "text", "text.gre", "named T2*"))
BAD = Judged(BROKEN, Verdict("", "rejected", "", "E_MATRIX", "E_MATRIX: no volume"))


def rows():
    return [
        make_row("c1", "s1", GRE, Choice("SWI", warnings=("W_UNVERIFIED: GRE by text.gre",))),
        make_row("c1", "s1", BAD, Choice(why_not="E_MATRIX: no volume")),
        make_row("c1", "s1", T1, Choice("T1")),
    ]


def write(folder, changed=()):
    path = folder / "series.tsv"
    write_sheet(path, changed or rows())
    return path


def lines(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter="\t"))


def edit(path, line, **cells):
    """Change cells of a line, as a user does."""
    content = lines(path)
    for column, text in cells.items():
        content[line - 1][content[0].index(column)] = text
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(content)


def refused(path):
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, STACKS, ACCEPTS)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_the_sheet_shows(tmp_path):
    content = lines(write(tmp_path))
    assert content[0] == list(COLUMNS)
    assert [line[2] for line in content[1:]] == ["5", "5", "12"]
    shown = dict(zip(content[0], content[1], strict=True))
    assert shown == {
        "case": "c1", "subject": "s1", "series": "5", "key": "k0012e34567", "contrast": "T1",
        "chosen": "y", "verdict": "accepted", "tier": "text", "evidence": "text.t1", "why_not": "",
        "description": "t1_mprage", "manufacturer": "Siemens", "plane": "sagittal",
        "slices": "176", "spacing": "1 x 1 x 1.05", "coverage": "184.8", "TE": "2.41", "TR": "1800",
        "TI": "", "b": "", "directionality": "", "size": "256 x 240 x 176", "folder": "a/b",
    }  # fmt: skip
    assert content[2][COLUMNS.index("why_not")] == "E_MATRIX: no volume"
    assert content[3][COLUMNS.index("why_not")] == "W_UNVERIFIED: GRE by text.gre"


def test_it_is_for_the_owner_only_and_replaces_an_older_one(tmp_path):
    path = write(tmp_path)
    first = path.read_bytes()
    os.chmod(path, 0o644)
    write(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_an_unedited_sheet_comes_back_as_it_was(tmp_path):
    path = write(tmp_path)
    wanted = sorted(rows(), key=lambda row: (row.case, int(row.series), row.key))
    assert read_sheet(path, STACKS, ACCEPTS) == wanted


@pytest.mark.parametrize(
    "text",
    ["=1+2", "+C T1", "-C", "@SUM(A1)", "a\tb\nc\rd", "back\\slash\\t", 'say "T1"', "Kopf–Schädel"],
)
def test_any_text_stays_one_harmless_cell(tmp_path, text):
    path = write(tmp_path, [replace(rows()[2], description=text)])
    cell = lines(path)[1][COLUMNS.index("description")]
    assert cell[0] not in "=+-@"
    assert not set(cell) & set("\t\r\n")
    assert len(path.read_bytes().splitlines()) == 2
    assert read_sheet(path, STACKS, ACCEPTS)[0].description == text


def test_control_characters_become_blanks(tmp_path):
    path = write(tmp_path, [replace(rows()[2], description="a\0b\x1bc\udcffd")])
    assert read_sheet(path, STACKS, ACCEPTS)[0].description == "a b c d"


def test_what_the_user_edits_wins(tmp_path):
    path = write(tmp_path)
    edit(path, 2, chosen="n")
    edit(path, 4, contrast="T1", case="other-case", subject="s2")
    kept = [row for row in read_sheet(path, STACKS, ACCEPTS) if row.chosen]
    assert [(row.key, row.contrast, row.case, row.subject) for row in kept] == [
        (SWI.key, "T1", "other-case", "s2")
    ]
    edit(path, 3, contrast="anything", chosen="")
    read_sheet(path, STACKS, ACCEPTS)


@pytest.mark.parametrize("yes", ["y", "Y", "yes", "1", "TRUE", " x "])
@pytest.mark.parametrize("no", ["n", "No", "0", "FALSE", ""])
def test_ways_to_say_yes_and_no(tmp_path, yes, no):
    path = write(tmp_path)
    edit(path, 2, chosen=no)
    edit(path, 4, chosen=yes)
    assert [row.chosen for row in read_sheet(path, STACKS, ACCEPTS)] == [False, False, True]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_as_spreadsheet_programs_save_it(tmp_path, encoding):
    path = write(tmp_path, [replace(rows()[2], description="Schädel")])
    text = path.read_text(encoding="utf-8").replace("\n", "\r\n")
    path.write_bytes((text + "\t" * len(COLUMNS) + "\r\n").encode(encoding))
    (row,) = read_sheet(path, STACKS, ACCEPTS)
    assert (row.key, row.chosen) == (STACK.key, True)


def test_rows_and_columns_for_reading_only_may_go(tmp_path):
    path = write(tmp_path)
    needed = [COLUMNS.index(name) for name in ("chosen", "key", "contrast", "subject", "case")]
    text = "\n".join("\t".join(line[index] for index in needed) for line in lines(path)[:2])
    path.write_text(text)
    (row,) = read_sheet(path, STACKS, ACCEPTS)
    assert row == Row(
        **dict.fromkeys(COLUMNS, "")
        | {"case": "c1", "subject": "s1", "key": STACK.key, "contrast": "T1", "chosen": True}
        | {"series": "5"}
    )


@pytest.mark.parametrize(
    ("line", "cells", "message"),
    [
        (2, {"chosen": "maybe"}, "line 2: chosen is 'maybe': write y or n"),
        (2, {"key": "k9"}, "line 2: no stack has the key 'k9': write the sheet anew"),
        (4, {"key": "k0012e34567"}, "line 4: line 2 has the key k0012e34567 already: keep one"),
        (2, {"contrast": "FLIAR"}, "no channel takes the contrast 'FLIAR': use one of T1, SWI"),
        (2, {"contrast": ""}, "line 2: no channel takes the contrast ''"),
        (3, {"chosen": "y"}, "series 5 cannot be used: E_MATRIX: 2 sizes of slices"),
        (4, {"contrast": "T1"}, "line 4: line 2 has a T1 of case c1 already: keep one"),
        (2, {"contrast": "SWI"}, "line 4: line 2 has a SWI of case c1 already: keep one"),
        (4, {"subject": "s2"}, "line 4: case c1 has two subjects: give it one"),
        (2, {"case": "../x"}, "line 2: case '../x': use letters"),
        (2, {"case": ""}, "line 2: case '': use letters"),
        (2, {"case": "c_seg"}, "line 2: case c_seg: nnU-Net would take it for a label: rename it"),
        (2, {"subject": "Doe^J"}, "line 2: subject 'Doe^J': use letters"),
    ],
)
def test_what_cannot_be_done_is_named_with_its_line(tmp_path, line, cells, message):
    path = write(tmp_path)
    edit(path, line, **cells)
    assert message in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "series.tsv has no column case"),
        (b"case;subject;key;contrast;chosen\n", "series.tsv has no column case"),
        (b"case\tsubject\tkey\tchosen\n", "has no column contrast"),
        (b"case\tsubject\tkey\tcontrast\tchosen\tnote\n", "has a column 'note' too many"),
        (b"case\tcase\tsubject\tkey\tcontrast\tchosen\n", "has a column 'case' too many"),
    ],
)
def test_a_file_that_is_no_sheet(tmp_path, content, message):
    path = tmp_path / "series.tsv"
    path.write_bytes(content)
    assert message in refused(path)


def test_a_missing_sheet(tmp_path):
    assert "No such file or directory: write it with --dry_run" in refused(tmp_path / "no.tsv")


def test_channel_of():
    assert channel_of("GRE", ACCEPTS) == "SWI"
    assert channel_of("T2", ACCEPTS) == ""


def test_the_table_of_cases():
    doubt = Judged(STACK, Verdict("ADC", "ambiguous", "", "doubt.adc", "it has a b-value"))
    tie = Choice("T1", warnings=("W_AMBIGUOUS: T1: series 4",), ambiguous=True)
    shown = table(
        [
            *rows(),
            make_row("case10", "s2", doubt, Choice(why_not="it has a b-value")),
            make_row("case10", "s2", T1, tie),
        ],
        ACCEPTS,
    )
    assert shown.splitlines() == [
        "case    T1  SWI  ADC",
        "c1      x    x    -",
        "case10  x    -    ?",
        "ambiguous: case10 series 5: it has a b-value",
        "ambiguous: case10 series 5: W_AMBIGUOUS: T1: series 4",
    ]
    assert table([], ACCEPTS) == "case  T1  SWI  ADC"
