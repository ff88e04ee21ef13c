import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import DATASET
from scipy.stats import chisquare

from amae_nnunet.config import TrainingConfig
from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import ConfigError
from amae_nnunet.training.dropout import ContrastDropout, with_dropout
from amae_nnunet.training.trainer import AMAETrainerNoPretraining
from amae_nnunet.training.transforms import KeepAbsentZero

ALL = [0, 1, 2, 3]


def identity(**data):
    return data


def seed_nnunet(seed):
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from it
    torch.manual_seed(seed)


def stayed(dropout, present, draws):
    """How often each set of channels was kept."""
    present = np.array(present, dtype=bool)
    return Counter(tuple(dropout.draw(present).tolist()) for _ in range(draws))


def exact(present, groups, wanted):
    """Chance of each set of channels that are kept, by going through all there is.

    ``wanted``: the sets before the rule that one of each group stays, with their chances.
    """
    found = Counter()
    for kept, chance in wanted:
        branches = [(tuple(kept), chance)]
        for group in groups:
            had = [c for c in group if present[c]]
            after = []
            for flags, p in branches:
                if had and not any(flags[c] for c in group):
                    after += [(tuple(f or i == c for i, f in enumerate(flags)), p / len(had))
                              for c in had]  # fmt: skip
                else:
                    after.append((flags, p))
            branches = after
        for flags, p in branches:
            found[flags] += p
    return found


def independent(present, prob):
    for kept in itertools.product([False, True], repeat=len(present)):
        chance = 1.0
        for has, keeps in zip(present, kept, strict=True):
            chance *= (1 - prob if keeps else prob) if has else (0 if keeps else 1)
        yield kept, chance


def check_chances(counts, chances):
    assert sum(chances.values()) == pytest.approx(1)
    possible = [flags for flags, p in chances.items() if p > 0]
    assert set(counts) <= set(possible)
    draws = sum(counts.values())
    expected = [draws * chances[flags] for flags in possible]
    assert chisquare([counts[flags] for flags in possible], expected).pvalue > 1e-3


@pytest.mark.parametrize("present", ["1111", "1011", "0110"])
@pytest.mark.parametrize("groups", [[ALL], [[0], ALL], [[1, 2], ALL]])
def test_contrasts_drop_with_the_stated_probability(present, groups):
    seed_nnunet(3)
    present = [flag == "1" for flag in present]
    counts = stayed(ContrastDropout(identity, 0.4, groups), present, 5000)
    check_chances(counts, exact(present, groups, independent(present, 0.4)))


def test_matched_contrasts_go_missing_as_in_the_record():
    seed_nnunet(4)
    patterns = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=bool)
    present, groups = [True, True, True, False], [[1, 2], ALL]
    wanted = [(present, 0.3)]
    wanted += [(tuple(a and b for a, b in zip(present, row, strict=True)), 0.7 / 4)
               for row in patterns.tolist()]  # fmt: skip
    counts = stayed(ContrastDropout(identity, 0.7, groups, patterns), present, 5000)
    check_chances(counts, exact(present, groups, wanted))


@pytest.mark.parametrize("patterns", [None, np.zeros((1, 4), dtype=bool)])
def test_at_probability_one_the_required_ones_are_left_else_one(patterns):
    seed_nnunet(5)
    for groups, kept in (([ALL], 1), ([[0], [2], ALL], 2), ([[1, 3], ALL], 1)):
        counts = stayed(ContrastDropout(identity, 1.0, groups, patterns), [True] * 4, 200)
        assert {sum(flags) for flags in counts} == {kept}
        for group in groups:
            assert all(any(flags[c] for c in group) for flags in counts)


@pytest.fixture
def trainer(nnunet, tiny_plans):
    """A trainer of tiny networks, with values of the training set in its plans."""

    def make(**training):
        folder = nnunet / "preprocessed" / DATASET
        plans = json.loads((folder / "AMAEPlans.json").read_text())
        plans["configurations"][tiny_plans]["amae"]["training"].update(training)
        plans["continue_training"] = False
        dataset_json = json.loads((folder / "dataset.json").read_text())
        trainer = AMAETrainerNoPretraining(plans, tiny_plans, 0, dataset_json, torch.device("cpu"))
        trainer.initialize()
        return trainer

    return make


def batches(trainer, count, seed=6):
    """Batches of the training and of the validation."""
    loaders = trainer.get_dataloaders()
    found = []
    for loader in loaders:
        seed_nnunet(seed)
        found.append([next(loader) for _ in range(count)])
    return found


def same(some, others):
    return [torch.equal(a["data"], b["data"]) for a, b in zip(some, others, strict=True)]


def test_training_drops_what_is_not_required_and_validation_nothing(trainer):
    plain, dropping = (batches(trainer(contrast_dropout=p), 8) for p in (0.0, 1.0))
    t2 = [[(batch["data"][:, 2] != 0).any().item() for batch in found[0]]
          for found in (plain, dropping)]  # fmt: skip
    assert any(t2[0])
    assert not any(t2[1])
    assert all((batch["data"][:, :2] != 0).any() for batch in dropping[0])
    assert any((batch["data"][:, 2] != 0).any() for batch in dropping[1])
    assert all(same(plain[1], dropping[1]))


def test_a_dropped_contrast_equals_one_never_given_bit_for_bit(trainer):
    """Through the whole real augmentation, and through the network."""
    made = trainer(contrast_dropout=1.0)
    transform = made.get_dataloaders()[0].data_loader.transforms
    assert isinstance(transform, ContrastDropout)
    assert isinstance(transform.transform, KeepAbsentZero)
    network = made.network.eval()
    image, labels = torch.randn(3, 24, 48, 48), torch.zeros(1, 24, 48, 48, dtype=torch.int16)
    never = image.clone()
    never[2] = 0
    for seed in range(6):
        seed_nnunet(seed)
        dropped = transform(image=image.clone(), segmentation=labels)["image"]
        seed_nnunet(seed)
        transform.draw(np.array([True, True, True]))  # so that the same numbers follow
        absent = transform.transform(image=never.clone(), segmentation=labels)["image"]
        assert torch.equal(dropped, absent)
        assert not dropped[2].any()
        with torch.inference_mode():
            assert torch.equal(network(dropped[None]), network(absent[None]))


def test_the_image_that_is_read_is_left_alone():
    image = torch.randn(4, 2, 2, 2)
    kept = image.clone()
    found = ContrastDropout(identity, 1.0, [ALL])(image=image, key="x")
    assert (found["image"] != 0).flatten(1).any(dim=1).sum() == 1
    assert found["key"] == "x"
    assert torch.equal(image, kept)


def test_it_repeats_by_nnunets_seeds(trainer):
    made = trainer(contrast_dropout=0.5)
    one, two, other = (batches(made, 6, seed)[0] for seed in (1, 1, 2))
    assert all(same(one, two))
    assert not all(same(one, other))


def test_patterns_come_from_the_training_cases_of_the_record(dataset, nnunet):
    dataset_json = json.loads((nnunet / "raw" / DATASET / "dataset.json").read_text())
    values = TrainingConfig(contrast_dropout=0.5, contrast_dropout_pattern="matched")
    dropout = with_dropout(identity, values, DATASET, dataset_json)
    record = ContrastRecord.read(nnunet / "raw" / DATASET)
    assert dropout.patterns.tolist() == [list(case.present) for case in record.cases.values()]
    assert dropout.groups == [[0], [1], [0, 1, 2]]
    assert with_dropout(identity, TrainingConfig(), DATASET, dataset_json) is identity
    with pytest.raises(ConfigError, match=r"has no contrasts\.json with training cases"):
        with_dropout(identity, values, "Dataset949_Other", dataset_json)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"contrast_dropout": 1.5}, "contrast_dropout=1.5 must lie between 0 and 1"),
     ({"contrast_dropout_pattern": "match"}, "is not 'independent' or 'matched'")],
)  # fmt: skip
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**values)
