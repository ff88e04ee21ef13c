"""What a validation and a prediction write is what their schemas say."""

import json
import logging

import pytest
import torch
from conftest import CPU
from schemas import check

from amae_nnunet.prediction.inputs import find_cases
from amae_nnunet.prediction.model import TrainedModel
from amae_nnunet.prediction.run import Options, Run


@pytest.mark.parametrize("recorded", [True, False])
def test_what_to_expect_of_a_prediction(place, names, tmp_path, recorded, monkeypatch, caplog):
    torch.set_num_threads(1)
    caplog.set_level(logging.CRITICAL)
    folds = ["0"]
    model = TrainedModel.open(place.model, folds, "checkpoint_final.pth", CPU, allow_tqdm=False)
    if recorded:
        check("subsets", json.loads((place.model / "fold_0" / "subsets.json").read_text()))
    else:
        object.__setattr__(model, "scores", None)
    inputs = place.folder(tmp_path / "in", **{names[1]: ["ADC"]})
    cases = find_cases(inputs, ".nii.gz", model.contrasts)
    Run(model, Options(tmp_path / "out", npp=0, nps=0)).predict(cases)
    found = [json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in names]
    check("expected", *found)
    assert [(entry["validation"] is None) for entry in found] == [not recorded] * 2
    assert found[1]["required_absent"] == ["ADC"]
