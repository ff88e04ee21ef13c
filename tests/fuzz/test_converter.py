"""Whatever a user's files say to the converter: a right result, or one line of ours."""

import json
import os
import random
from functools import partial

import pytest
from convert.studies import TEMPLATE, make_case, tree, write_template
from fuzz.strategies import (
    FILES,
    FUZZ,
    JSON,
    TEXT,
    answer,
    changed,
    changed_file,
    changed_text,
)
from hypothesis import given
from hypothesis import strategies as st

from amae_nnunet.convert.dicom.index import Index, index_of, load_index, save_index
from amae_nnunet.convert.dicom.rules import Rules, load_rules
from amae_nnunet.convert.dicom.sheet import read_sheet, write_sheet
from amae_nnunet.convert.nnunet import read_dataset
from amae_nnunet.convert.output import _CASE
from amae_nnunet.convert.splits import subject_folds, write_folds
from amae_nnunet.convert.table import scan_table
from amae_nnunet.convert.template import Template, load_template, make_template
from amae_nnunet.errors import AMAEError

FULL = {
    **TEMPLATE,
    "required": ["FLAIR", "T1|T1CE"],
    "accepts": {"T1": ["T1", "PD"]},
    "label": {**TEMPLATE["label"], "map": {"4": 1}},
}
RULES = {
    "define": {"late": {"text": "\\bpost\\b"}},
    "rules": [
        {"id": "own.t1", "contrast": "T1", "match": {"text": "\\bt1\\b", "not": {"is": "late"}}},
        {"id": "own.no", "reject": "a map", "match": {"image_type": {"any": ["FA"]}}},
        {"id": "own.te", "contrast": "T2", "ambiguous": "TE",
         "match": {"any_of": [{"echo_time": {"gt": 45}}, {"plane": {"in": ["axial"]}}]}},
    ],
}  # fmt: skip
DESCRIPTION = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


@FUZZ
@given(changed(FULL) | JSON)
def test_templates(content):
    made = answer(make_template, content)
    assert isinstance(made, (Template, AMAEError))
    if isinstance(made, Template):
        assert sorted(made.labels.values()) == list(range(len(made.labels)))
        assert set(made.accepts) == set(made.contrasts)
        assert all(set(entry.split("|")) <= set(made.contrasts) for entry in made.required)
        json.dumps([made.name, made.description, dict(made.labels)]).encode()
        " ".join([made.name, made.description, *made.labels, *made.contrasts]).encode()
        assert len(made.digest) == 64


@FUZZ
@given(changed_file(FULL))
def test_template_files(tmp_path, content):
    (tmp_path / "t.json").write_bytes(content)
    answer(load_template, str(tmp_path / "t.json"))


@FUZZ
@given(TEXT)
def test_template_names(name):
    assert isinstance(answer(load_template, name), (Template, AMAEError))


@FUZZ
@given(changed_file(RULES))
def test_rules(tmp_path, content):
    (tmp_path / "rules.json").write_bytes(content)
    rules = answer(load_rules, tmp_path / "rules.json")
    if isinstance(rules, Rules):
        from convert.dicom.test_sheet import FACTS

        rules.judge(FACTS)


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """A good sheet as text."""
    from convert.dicom.test_sheet import rows

    path = tmp_path_factory.mktemp("sheet") / "series.tsv"
    write_sheet(path, rows())
    return path.read_text()


@FUZZ
@given(data=st.data())
def test_sheets(tmp_path, sheet, data):
    from convert.dicom.test_sheet import ACCEPTS, STACKS

    text = changed_text(sheet).map(lambda text: text.encode("utf-8", "surrogatepass"))
    path = tmp_path / "series.tsv"
    path.write_bytes(data.draw(text | FILES))
    found = answer(read_sheet, path, STACKS, ACCEPTS)
    if isinstance(found, list):
        chosen = [row for row in found if row.chosen]
        assert all(_CASE.fullmatch(row.case) and row.key in STACKS for row in chosen)
        assert len({row.key for row in chosen}) == len(chosen)


@FUZZ
@given(data=st.data())
def test_indices(tmp_path, data):
    from convert.dicom.test_sheet import STACK

    path = index_of(tmp_path / "series.tsv")
    save_index(Index([STACK], {STACK.key: "T1"}), path)
    good = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [json.dumps(line) for line in data.draw(changed(good) | st.lists(JSON, max_size=3))]
    path.write_text("\n".join(lines))
    answer(load_index, path)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A folder with two good cases, and a template."""
    root = tmp_path_factory.mktemp("cases")
    for name in ("a", "b"):
        make_case(root, name)
    return root, load_template(str(write_template(root)))


TABLE = """case,subject,split,T1,FLAIR,T1CE,label,problem
a,s1,train,a/T1.nii.gz,a/FLAIR.nii.gz,,a/seg.nii.gz,
b,s2,test,b/T1.nii.gz,b/FLAIR.nii.gz,b/T1CE.nii.gz,,
"""


@FUZZ
@given(content=changed_text(TABLE).map(lambda text: text.encode("utf-8", "surrogatepass")) | FILES)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables(cases, ending, content):
    root, template = cases
    path = root / f"table.{ending}"
    path.write_bytes(content)
    found = answer(scan_table, path, template)
    if not isinstance(found, AMAEError):
        good = [raw for raw in found if not raw.code]
        assert all(_CASE.fullmatch(raw.case) for raw in good)
        assert len({raw.case.casefold() for raw in good}) == len(good)


@FUZZ
@given(changed_file(DESCRIPTION))
def test_descriptions_of_other_data_sets(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content)
    answer(read_dataset, tmp_path)


@FUZZ
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=2)), st.integers(-1, 7))
def test_folds(subjects, number):
    folds = answer(subject_folds, subjects, number)
    if isinstance(folds, AMAEError):
        assert not 2 <= number <= len(set(subjects.values()))
        return
    assert len(folds) == number
    validated = [case for fold in folds for case in fold["val"]]
    assert sorted(validated) == sorted(subjects)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(subjects)
        sides = [{subjects[case] for case in fold[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
    sizes = [len(fold["val"]) for fold in folds]
    largest = max(list(subjects.values()).count(s) for s in set(subjects.values()))
    assert max(sizes) - min(sizes) <= largest
    shuffled = list(subjects.items())
    random.Random(0).shuffle(shuffled)
    assert subject_folds(dict(shuffled), number) == folds


@FUZZ
@given(content=changed_file([{"train": ["a", "b"], "val": ["c"]}]))
def test_splits_that_are_there_already(tmp_path, content, monkeypatch):
    raw, preprocessed = tmp_path / "Dataset001_X", tmp_path / "pre" / "Dataset001_X"
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "splits_final.json").write_bytes(content)
    answer(write_folds, {"a": "1", "b": "1", "c": "2", "d": "3"}, raw, None)
    assert tree(tmp_path) == sorted(
        f"{folder}/splits_final.json" for folder in ("Dataset001_X", "pre/Dataset001_X")
    )


@FUZZ
@given(
    name=st.binary(min_size=1, max_size=12).filter(lambda n: not {0, 47} & {*n} and n.strip(b"."))
)
def test_names_of_folders(tmp_path_factory, name):
    """A folder of any name, also one that is not UTF-8, is a case with a plain name."""
    from amae_nnunet.convert.case import Options
    from amae_nnunet.convert.dataset import convert
    from amae_nnunet.convert.scan import scan
    from amae_nnunet.convert.target import Target

    root = tmp_path_factory.mktemp("names")
    raw = root / "raw" / os.fsdecode(name)
    make_case(raw.parent, raw.name)
    template = load_template(str(write_template(root)))
    target = Target(root / "inputs")
    found = answer(scan, root / "raw", template)
    if isinstance(found, AMAEError):
        assert name.startswith(b".")  # hidden
        return
    run = partial(convert, options=Options(montages=False), timeout=0)
    done = answer(run, found, template, target, 1)
    if isinstance(done, AMAEError):  # a name of signs only, such as "_"
        assert found[0].code == "E_NAME" or not _CASE.fullmatch(found[0].case)
        return
    assert done.done == 1
    (case,) = json.loads((root / "inputs" / "contrasts.json").read_text())["cases"]
    assert _CASE.fullmatch(case)
    assert sorted(os.listdir(root)) == ["inputs", "raw", "tiny.json"]
