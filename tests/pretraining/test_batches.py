"""How studies become batches and passes, and that passes change no gradient."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import DATASET, TINY
from tiny import make_config

from amae_nnunet.cli import configure, pretrain
from amae_nnunet.config import PretrainingConfig
from amae_nnunet.errors import ConfigError
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.pretraining.batches import (
    WAITING,
    Batches,
    Position,
    count_passes,
    deal,
    fill,
    steps_an_epoch,
)
from amae_nnunet.pretraining.loop import Options, prepare
from amae_nnunet.pretraining.ranks import Ranks
from amae_nnunet.pretraining.run import compiles_on
from amae_nnunet.pretraining.step import accumulate

SLOTS = [3, 2, 7, 1, 4, 5, 2, 6, 7, 3, 3]


class Crops:
    """Studies with so many contrasts each, in the same order in each turn."""

    def slots_from(self, sample):
        return ((n, SLOTS[n % len(SLOTS)]) for n in itertools.count(sample))


def batches_of(rank=0, size=1, passes=4, **values):
    return Batches(Crops(), PretrainingConfig(**values), Ranks(rank, size), passes)


def slots_of(samples):
    return sum(SLOTS[n % len(SLOTS)] for n in samples)


def test_studies_are_dealt_so_that_passes_are_about_equal():
    assert deal([(8, 7), (9, 2), (10, 3), (11, 2)], 2) == [[8], [10, 9, 11]]
    assert deal([(0, 1), (1, 1)], 2) == [[0], [1]]
    for passes in (1, 3, 5):
        shares = deal(list(enumerate(SLOTS)), passes)
        assert sorted(n for share in shares for n in share) == list(range(len(SLOTS)))
        assert all(shares)


@pytest.mark.parametrize(("budget", "passes"), [(7, 1), (8, 2), (16, 3)])
def test_budgets_are_filled_and_no_study_is_lost_or_left_waiting(budget, passes):
    every = fill(Crops().slots_from, budget, passes, Position())
    found = [batch for batch, _ in itertools.islice(every, 400)]
    assert all(0 < slots_of(share) <= budget for batch in found for share in batch)
    taken = [n for batch in found for share in batch for n in share]
    assert len(set(taken)) == len(taken)
    assert set(range(len(taken) - WAITING)) <= set(taken)
    at = {n: step for step, batch in enumerate(found) for share in batch for n in share}
    entered = list(itertools.accumulate((max(map(max, batch)) for batch in found), max))
    for n, step in at.items():
        assert step - next(s for s, last in enumerate(entered) if last >= n) <= WAITING
    used = sum(slots_of(share) for batch in found for share in batch)
    assert used / (len(found) * budget * passes) > 0.9


@pytest.mark.parametrize("values", [{"batch_size": 9}, {"slot_budget": 8}])
def test_batches_are_the_same_from_any_step_and_for_any_number_of_processes(values):
    def batch(step, size):
        """The samples of a step, by pass."""
        shares = [list(batches_of(r, size, **values).own(step, step + 1)) for r in range(size)]
        return [share for group in zip(*shares, strict=True) for share in group]

    everything = list(batches_of(**values).own(0, 20))
    for step, size in itertools.product((0, 7, 19), (1, 2, 4)):
        assert batch(step, size) == everything[4 * step : 4 * step + 4]
    if "batch_size" in values:
        assert Counter(itertools.chain(*everything)) == Counter(range(180))


@pytest.mark.parametrize("ahead", [0, 5])
def test_slot_budgets_are_filled_from_a_position_as_from_the_start(ahead):
    """Read so many passes ahead, as processes that read data do."""
    batches = batches_of(slot_budget=8)
    everything = list(batches.own(0, 60))
    passes, taken = batches_of(slot_budget=8), 0
    reading = passes.own(0, 60)
    for step in range(1, 50):
        while taken < 4 * step + ahead:
            taken += bool(next(reading))
        position = Position.from_json(json.loads(json.dumps(passes.position(step).to_json())))
        other = batches_of(slot_budget=8)
        assert list(other.own(step, 60, position)) == everything[4 * step :]
        assert position.sample > 5 * step
        assert len(position.waiting) <= 2 * WAITING
    assert batches_of().position(3) is None


def test_an_epoch_gives_each_study_one_crop_or_about_one():
    assert steps_an_epoch(SLOTS, PretrainingConfig(batch_size=4)) == 3
    assert steps_an_epoch(SLOTS, PretrainingConfig(slot_budget=8, passes=2)) == 3  # 43 of 16


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients(name, *words):
    """Gradients of the first batch, its squared errors and tokens, and the samples' presence."""
    assert configure.main(["950", "3d_fullres", "--name", name, *TINY, *words]) == 0
    run, _, batches = prepare(PreprocessedDataset.open("950", name, "AMAEPlans"), Options())
    batch = []
    for samples in batches.own(0, 1):
        x, present, seeds = zip(*(batches.crops[n] for n in samples), strict=True)
        batch.append((torch.stack(x).double(), torch.stack(present), torch.tensor(seeds)))
    error, count, studies = accumulate(run, batch)
    assert studies == sum(len(x) for x, _, _ in batch)
    found = {key: p.grad for key, p in run.model.named_parameters()}
    return found, error, count, batch


def test_passes_add_up_to_the_gradients_of_the_whole_batch(dataset, float64):
    words = ["pretraining.batch_size=5", "whole_contrast_prob=0.5"]
    whole, *sums, (alone,) = gradients("in1", *words)
    assert len(set(alone[1].sum(dim=1).tolist())) > 1
    for passes in (2, 5):
        parts, error, count, batch = gradients(
            f"in{passes}", *words, f"pretraining.passes={passes}"
        )
        assert len(batch) == passes
        torch.testing.assert_close([error, count], sums, rtol=1e-12, atol=0)
        for key, gradient in whole.items():
            assert (parts[key] - gradient).norm() <= 1e-12 * gradient.norm(), key


def test_a_batch_in_slot_budgets_has_the_gradients_of_its_studies(tiny_plans, float64):
    filled, *sums, batch = gradients("budgets", "pretraining.slot_budget=4", "pretraining.passes=2")
    assert all(present.sum() <= 4 for _, present, _ in batch)
    assert any(present.sum() < 4 for _, present, _ in batch)
    run, *_ = prepare(PreprocessedDataset.open("950", "tiny", "AMAEPlans"), Options())
    together = tuple(torch.cat(part) for part in zip(*batch, strict=True))
    error, count, _ = accumulate(run, [together])
    torch.testing.assert_close(sums, [error, count], rtol=1e-12, atol=0)
    for key, parameter in run.model.named_parameters():
        assert (filled[key] - parameter.grad).norm() <= 1e-12 * parameter.grad.norm(), key


def losses(nnunet, name, *words):
    """The losses of a short pre-training, an epoch each; or the exit code if it failed."""
    assert configure.main(["950", "3d_fullres", "--name", name, *TINY, *words]) == 0
    code = pretrain.main(["950", name, "-p", "AMAEPlans", "-device", "cpu"])
    if code:
        return code
    folder = nnunet / "results" / DATASET / f"AMAEPretraining__AMAEPlans__{name}" / "fold_all"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], *line["contrast_loss"].values()) for line in lines]


def test_passes_and_checkpointing_train_as_without(nnunet, dataset):
    plain = losses(nnunet, "plain", "pretraining.lr=0.01")
    parts = losses(
        nnunet, "parts", "pretraining.lr=0.01", "pretraining.passes=2",
        "pretraining.activation_checkpointing=true",
    )  # fmt: skip
    assert len(plain) == 2
    for row, other in zip(plain, parts, strict=True):
        assert other == pytest.approx(row, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretraining.slot_budget=2"], r"has 3 images but slot_budget=2: raise pretraining.slot"),
        (["pretraining.passes=3"], "a batch of 2 studies cannot be cut in 3 passes on 1 processes"),
    ],
)
def test_batches_that_cannot_be_are_refused(nnunet, dataset, capsys, words, message):
    assert losses(nnunet, f"refused{len(words[0])}", *words) == 2
    assert message in capsys.readouterr().err


def test_each_process_needs_a_study_of_every_batch():
    assert [count_passes(PretrainingConfig(batch_size=8), size) for size in (1, 3, 8)] == [1, 3, 8]
    with pytest.raises(ConfigError, match="a batch of 4 studies cannot be cut in 8 passes on 8"):
        count_passes(PretrainingConfig(), 8)
    with pytest.raises(ConfigError, match="make pretraining.passes a multiple of 2"):
        count_passes(PretrainingConfig(slot_budget=8, passes=3), 2)


def test_a_batch_that_cannot_be_cut_is_refused_before_any_study_is_read(tiny_plans, monkeypatch):
    monkeypatch.setattr("amae_nnunet.pretraining.loop.gather_studies", None)
    monkeypatch.setattr(Ranks, "from_first", lambda self, make: make())
    with pytest.raises(ConfigError, match="cannot be cut in 8 passes on 8 processes"):
        prepare(PreprocessedDataset.open("950", "tiny", "AMAEPlans"), Options(ranks=Ranks(0, 8)))


def test_networks_are_compiled_where_flash_attention_is_unless_nnunets_variable_says_no(
    monkeypatch,
):
    config = make_config(embed_dim=64, num_heads=0, decoder_embed_dim=32, decoder_num_heads=1)
    monkeypatch.delenv("nnUNet_compile", raising=False)
    for capability, flash in (((9, 0), True), ((7, 5), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)
        assert compiles_on(torch.device("cuda"), config) == flash
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    assert not compiles_on(torch.device("cpu"), config)
    for heads in ({"num_heads": 16}, {"decoder_num_heads": 8}):  # 4 wide
        assert not compiles_on(torch.device("cuda"), replace(config, **heads))
    monkeypatch.setenv("nnUNet_compile", "f")
    assert not compiles_on(torch.device("cuda"), config)
