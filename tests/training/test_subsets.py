import json
import math
from pathlib import Path

import pytest
import torch
from conftest import DATASET

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.subsets import Score, SubsetScores
from amae_nnunet.training.subsets import subset_scores
from amae_nnunet.training.trainer import AMAETrainerNoPretraining


def entry(case, **dice):
    metrics = {label: {"Dice": value, "n_ref": 3} for label, value in dice.items()}
    return {"prediction_file": f"/somewhere/{case}.nii.gz", "metrics": metrics}


def test_a_summary_becomes_the_score_of_each_subset():
    dataset_json = {
        "channel_names": {"0": "ADC", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "file_ending": ".nii.gz",
    }
    rows = [("a", 0.5, 0.7), ("b", 1.0, math.nan), ("old", 0.0, 0.0)]
    summary = {"metric_per_case": [entry(case, **{"(1, 2)": w, "2": c}) for case, w, c in rows]}
    present = {"a": (True, False), "b": (True, False)}
    scores = subset_scores(summary, present, dataset_json, True, None)
    assert [score.present for score in scores.subsets] == [("ADC",)]
    assert scores.subsets[0].labels == {"whole": Score(2, 0.75), "core": Score(1, 0.7)}


def test_the_validation_of_a_trainer_leaves_the_scores_of_its_cases(nnunet, tiny_plans):
    folder = nnunet / "preprocessed" / DATASET
    plans = json.loads((folder / "AMAEPlans.json").read_text())
    plans["continue_training"] = False
    dataset_json = json.loads((folder / "dataset.json").read_text())
    cpu = torch.device("cpu")
    trainer = AMAETrainerNoPretraining(plans, tiny_plans, 0, dataset_json, cpu)
    trainer.initialize()
    trainer.perform_actual_validation()
    scores = SubsetScores.read(trainer.output_folder)
    assert scores.held_out
    summary = json.loads(Path(trainer.output_folder, "validation", "summary.json").read_text())
    record = ContrastRecord.read(nnunet / "raw" / DATASET)
    by_hand = {}
    for case in trainer.do_split()[1]:
        dice = next(
            entry["metrics"]["1"]["Dice"]
            for entry in summary["metric_per_case"]
            if Path(entry["prediction_file"]).name == f"{case}.nii.gz"
        )
        by_hand.setdefault(record.names_present(case), []).append(dice)
    assert {score.present for score in scores.subsets} == set(by_hand)
    for score in scores.subsets:
        dice = by_hand[score.present]
        assert score.n == len(dice)
        assert score.dice == pytest.approx(sum(dice) / len(dice))
        assert list(score.labels) == ["infarct"]
    log = Path(trainer.log_file).read_text()
    assert "validation by contrasts (subsets.json):" in log
    text = Path(trainer.output_folder, "subsets.json").read_text()
    assert not any(case in text for case in record.cases)
    trainer.fold = "all"  # whose validation cases are those of the training
    trainer._write_subsets()
    assert not SubsetScores.read(trainer.output_folder).held_out
