"""What the converter writes is what its schemas say."""

import json

import numpy as np
from convert.studies import AFFINE, make_case, save, voxels, write_template
from schemas import check, lines

from amae_nnunet.convert.case import Options
from amae_nnunet.convert.dataset import convert
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.target import Target
from amae_nnunet.convert.template import load_template


def test_record_ledger_and_failures(tmp_path):
    raw, folder = tmp_path / "raw", tmp_path / "Dataset001_Tiny"
    make_case(raw, "whole")
    make_case(raw, "partial", contrasts=("FLAIR",))
    save(make_case(raw, "dropped") / "T1.nii.gz", np.zeros((12, 10, 8), np.int16))
    shifted = AFFINE + np.array([[0, 0, 0, 1.0]] + [[0] * 4] * 3)
    save(make_case(raw, "moved") / "T1.nii.gz", voxels(5), shifted)
    make_case(raw, "incomplete", contrasts=("T1",))
    (make_case(raw, "cut") / "FLAIR.nii.gz").write_bytes(b"no image")
    template = load_template(str(write_template(tmp_path)))
    target = Target(folder, "train", folder.name)
    options = Options(register=True, montages=True)
    summary = convert(scan(raw, template), template, target, 1, options, timeout=0)
    assert (summary.done, summary.failed) == (4, 2)
    check("contrasts", json.loads((folder / "contrasts.json").read_text()))
    ledger, failures = lines(folder / "cases.jsonl"), lines(folder / "failures.jsonl")
    check("cases", *ledger)
    check("failures", *failures)
    found = {line["case"]: line for line in ledger}
    assert found["dropped"]["contrasts"]["T1"]["code"] == "E_EMPTY"
    assert "registration" in found["moved"]["contrasts"]["T1"]
    assert sorted(line["case"] for line in failures) == ["cut", "incomplete"]


def test_a_case_without_a_label(tmp_path):
    make_case(tmp_path / "raw", "new", label=False)
    template = load_template(str(write_template(tmp_path)))
    target = Target(tmp_path / "inputs")
    cases = scan(tmp_path / "raw", template)
    convert(cases, template, target, 1, Options(montages=False), timeout=0)
    (line,) = lines(tmp_path / "inputs" / "cases.jsonl")
    check("cases", line)
    assert "label" not in line
