"""Swapped images are found by a model that was really trained, and right ones are left alone."""

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import DATASET, TINY
from tiny import make_config, shake, studies

from amae_nnunet.cli import configure, pretrain
from amae_nnunet.networks.checkpoint import load_mae, read_checkpoint
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.masking import Slots, random_masking
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.pretraining import check
from amae_nnunet.pretraining.check import Outcome, check_study, doubtful, errors_under, renamings
from amae_nnunet.pretraining.show import find_studies
from amae_nnunet.pretraining.studies import Study

pytestmark = pytest.mark.slow  # processes, or real work for half a minute

CONTRASTS = ("ADC", "TRACE", "T2")
WORDS = [
    "embed_dim=48", "decoder_embed_dim=48", "pretraining.num_epochs=1",
    "pretraining.iterations_per_epoch=400", "pretraining.batch_size=3", "pretraining.lr=0.002",
    "schedule=cosine",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(nnunet, dataset):
    assert configure.main(["950", "3d_fullres", "--name", "checker", *TINY, *WORDS]) == 0
    assert pretrain.main(["950", "checker", "-p", "AMAEPlans", "-device", "cpu"]) == 0
    folder = nnunet / "results" / DATASET / "AMAEPretraining__AMAEPlans__checker" / "fold_all"
    return load_mae(read_checkpoint(folder / "checkpoint_final.safetensors"))


@pytest.fixture
def cases(model):
    return find_studies(PreprocessedDataset.open("950", "checker", "AMAEPlans"), [], CONTRASTS)


def test_right_names_are_left_alone(model, cases):
    assert [check_study(model, study, 0.7) for study in cases] == [None] * 6


def test_a_swap_is_found_in_every_case(model, cases):
    for study in cases:
        first, second, *rest = study.channels
        swapped = dataclasses.replace(study, channels=(second, first, *rest))
        found = check_study(model, swapped, 0.7)
        assert found.names == {"ADC": "TRACE", "TRACE": "ADC"}
        assert found.gain > 0.05
        assert "ADC fits better as TRACE, TRACE fits better as ADC" in str(found)


def test_one_image_under_a_name_that_the_study_has_not_got_is_found(model, cases):
    """The TRACE image of a study without T2 is declared as T2, and there is no TRACE."""
    study = next(study for study in cases if len(study.contrasts) == 2)
    wrong = dataclasses.replace(study, contrasts=(0, 2))
    assert check_study(model, wrong, 0.7).names == {"T2": "TRACE"}


@pytest.mark.parametrize(
    ("draws", "names"),
    [
        (
            [[(0.3, 0.1), (0.3, 0.1)], [(0.2, 0.2), (0.2, 0.1)], []],
            {"ADC": "TRACE", "TRACE": "ADC"},
        ),
        ([[(0.3, 0.3), (0.3, 0.1)], [(0.2, 0.2), (0.2, 0.1)], []], {"ADC": "T2"}),
        ([[(0.3, 0.1), (0.3, 0.1)], [(0.9, 0.9), (-0.1, 0.1)], []], {"ADC": "T2"}),  # by chance
        ([[(0.3, 0.1), (0.3, 0.1)], [(0.9, 0.9)], []], {"ADC": "T2"}),  # of one draw, who knows?
        ([[(0.005, 0.5), (0.005, 0.5)], [], [(0.02, 0.1), (0.03, 0.1)]], {"TRACE": "T2"}),  # little
    ],
)
def test_of_several_renamings_the_one_that_saves_most_in_the_study_is_named(
    monkeypatch, draws, names
):
    model = AdaptiveMAE(make_config(contrasts=CONTRASTS))
    study = Study("Dataset950_Small", "a", Path(), (0, 1), (0, 1))
    found = [[Outcome(*draw, 0.5) for draw in row] for row in draws]
    monkeypatch.setattr(check, "outcomes", lambda *_: found)
    assert renamings([0, 1], 3) == [{0: 1, 1: 0}, {0: 2}, {1: 2}]
    found[:2] = found[1::-1]
    assert check_study(model, study, 0.7).names == names


@pytest.mark.parametrize(("left", "found"), [(0.99, True), (1.01, False)])
def test_what_the_model_does_not_know_it_cannot_name(monkeypatch, left, found):
    """An error of 1 is that of the image's mean: another name may fit better and mean nothing."""
    model = AdaptiveMAE(make_config(contrasts=CONTRASTS))
    study = Study("Dataset950_Small", "a", Path(), (0, 1), (0, 1))
    draws = [[Outcome(0.2, 0.2, left), Outcome(0.2, 0.1, left)], [], []]
    monkeypatch.setattr(check, "outcomes", lambda *_: draws)
    assert (check_study(model, study, 0.7) is not None) == found


def test_all_single_renamings_and_swaps_are_tried():
    assert renamings([0, 2], 4) == [{0: 1}, {0: 2, 2: 0}, {0: 3}, {2: 1}, {2: 3}]
    assert renamings([1], 2) == [{1: 0}]


def test_a_renaming_is_the_same_as_having_been_declared_so():
    """Exactly: images, hidden tokens and all, whatever the order of the slots."""
    config = make_config(contrasts=("ADC", "TRACE", "T2", "T1"))
    model = shake(AdaptiveMAE(config)).double().eval()
    images = studies(config, ["1101"])[0][0].double()
    rows, right = [0, 1, 3], [2, 0, 3]
    slots = Slots.of(torch.tensor([[True, True, False, True]]))
    masked = random_masking(slots, config.num_tokens, 0.5)
    declared = torch.zeros_like(images)
    declared[right] = images[rows]
    with torch.no_grad():
        renamed = errors_under(model, images, rows, masked, {0: 2, 1: 0})
        expected = errors_under(model, declared, [0, 2, 3], masked[[1, 0, 2]], {})
    assert renamed == {0: expected[2], 1: expected[0], 3: expected[3]}


@pytest.mark.parametrize(
    ("epoch", "said"),
    [
        ({"skill_mean": {"ADC": 0.62, "T2": 0.31, "T1": None}}, "are 0.31 to 0.62: below 0.5"),
        ({"skill_mean": {"ADC": 0.62, "T2": 0.5}}, ""),
        ({"skill_mean": {}}, ""),
        ({"skill_mean": ["0.1"]}, ""),  # of a checkpoint that somebody else wrote
        ({"skill_mean": {"ADC": "0.1"}}, ""),
        (None, ""),
    ],
)
def test_a_model_that_knows_little_is_told(epoch, said):
    found = doubtful({"last_epoch": epoch})
    assert said in found
    assert bool(found) == bool(said)
    assert doubtful({}) == ""
