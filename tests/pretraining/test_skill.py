"""The baselines against loops in float64, and what the skill says of known predictions."""

import math

import numpy as np
import pytest
import torch

from amae_nnunet.pretraining.skill import (
    ALARM_EPOCHS,
    SUMS,
    alarm,
    linear_error,
    mean_error,
    skill_row,
    skill_sums,
)

NAMES = ("ADC", "TRACE", "T2", "T1")


def reference(x, rebuilt, hidden, present):
    """Voxel by voxel, with numpy's least squares on a table with a column of ones."""
    sums = np.zeros((len(SUMS), x.shape[1]))
    for b in range(x.shape[0]):
        rows = [c for c in range(x.shape[1]) if present[b, c]]
        for c in rows:
            image, guess, mask = (part[b, c].ravel() for part in (x, rebuilt, hidden))
            places = range(len(image))
            visible = [v for v in places if not mask[v]]
            if not visible:
                continue
            mean = sum(image[v] for v in visible) / len(visible)
            others = [filled(x[b, o].ravel(), hidden[b, o].ravel()) for o in rows if o != c]
            table = [[1.0, *(other[v] for other in others)] for v in visible]
            fit = np.linalg.lstsq(np.array(table), np.array([image[v] for v in visible]), None)[0]
            truths, guesses = [], []
            for v in places:
                if mask[v]:
                    linear = fit[0] + sum(w * o[v] for w, o in zip(fit[1:], others, strict=True))
                    sums[0, c] += (guess[v] - image[v]) ** 2
                    sums[1, c] += (mean - image[v]) ** 2
                    if others:
                        sums[2, c] += (guess[v] - image[v]) ** 2
                        sums[3, c] += (linear - image[v]) ** 2
                    truths.append(image[v])
                    guesses.append(guess[v])
            sums[4, c] += np.var(guesses) * len(guesses)
            sums[5, c] += np.var(truths) * len(truths)
    return sums


def filled(image, mask):
    """What is visible of an image, and its mean where it is not."""
    visible = [value for value, is_hidden in zip(image, mask, strict=True) if not is_hidden]
    mean = sum(visible) / len(visible) if visible else 0.0
    return [mean if is_hidden else v for v, is_hidden in zip(image, mask, strict=True)]


def batch(presence=("1111", "0110", "0001", "1011")):
    torch.manual_seed(5)
    present = torch.tensor([[flag == "1" for flag in row] for row in presence])
    mix = torch.randn(len(presence), 4, 4)
    x = torch.einsum("bij,bjzyx->bizyx", mix, torch.randn(len(presence), 4, 6, 7, 8)) + 2
    x = x.double() * present[:, :, None, None, None]
    hidden = (torch.rand(x.shape) < 0.7) & present[:, :, None, None, None]
    hidden[-1, 2] = True  # hidden whole: no baseline
    rebuilt = torch.where(hidden, x + 0.5 * torch.randn(x.shape), x)
    return x, rebuilt, hidden, present


def test_sums_equal_loops():
    x, rebuilt, hidden, present = batch()
    found = skill_sums(x, rebuilt, hidden, present).numpy()
    expected = reference(*(part.numpy() for part in (x, rebuilt, hidden, present)))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
    assert (expected[0] > expected[2]).any()  # a study of one contrast counts for the mean only


def one_study(others_hidden):
    """Voxels (4, V) of a study, the first contrast hidden in part."""
    x = batch()[0][0].flatten(1)
    hidden = torch.full(x.shape, others_hidden)
    hidden[0] = torch.rand(x.shape[1]) < 0.7
    return x, hidden


def test_a_constant_and_a_doubled_contrast_do_not_spoil_the_fit():
    x, hidden = one_study(others_hidden=False)
    plain = linear_error(x[:3], hidden[:3], 0)
    spoilt = torch.cat([x[:3], x[1:2], torch.full_like(x[:1], 3)])
    found = linear_error(spoilt, torch.cat([hidden, hidden[1:2]]), 0)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=0)


def test_what_a_linear_map_explains_has_no_linear_error():
    x, hidden = one_study(others_hidden=False)
    x[0] = 2 * x[1] - x[2] + 7
    assert linear_error(x[:3], hidden[:3], 0) < 1e-20
    assert linear_error(x[:2], hidden[:2], 0) > 1
    assert mean_error(x[0], hidden[0]) > linear_error(x[:2], hidden[:2], 0)


def test_the_linear_map_never_sees_what_the_model_does_not():
    """NaN where the others are hidden; all of it hidden leaves the mean."""
    x, hidden = one_study(others_hidden=True)
    torch.testing.assert_close(linear_error(x, hidden, 0), mean_error(x[0], hidden[0]))
    hidden[1] = torch.rand(x.shape[1]) < 0.5
    found = linear_error(x[:2], hidden[:2], 0)
    x[1, hidden[1]] = torch.nan
    torch.testing.assert_close(linear_error(x[:2], hidden[:2], 0), found, rtol=0, atol=0)


def test_skill_of_known_predictions():
    x, _, hidden, present = batch(("1111", "1111"))
    hidden[1] = ~hidden[1]

    def rows(predicted):
        sums = skill_sums(x, torch.where(hidden, predicted, x), hidden, present)
        return skill_row(sums, NAMES)

    perfect = rows(x)
    assert set(perfect["skill_mean"].values()) == {1.0}
    assert set(perfect["skill_linear"].values()) == {1.0}
    assert list(perfect["spread"].values()) == pytest.approx([1.0] * 4)
    visible = torch.where(hidden, torch.nan, x).nanmean(dim=(2, 3, 4), keepdim=True)
    constant = rows(visible.expand_as(x))
    assert list(constant["skill_mean"].values()) == pytest.approx([0.0] * 4, abs=1e-12)
    assert max(constant["spread"].values()) < 1e-20
    assert all(value < 0 for value in constant["skill_linear"].values())


def test_a_contrast_that_no_study_had_has_no_skill():
    row = skill_row(skill_sums(*batch(("1100", "0100", "1100", "0110"))), NAMES)
    assert row["skill_mean"]["T1"] is None
    assert row["skill_mean"]["ADC"] < 1
    assert row["spread"]["T1"] is None


def history(skill, spread=0.5, epochs=ALARM_EPOCHS):
    return [{"skill_mean": {"T1": skill, "T2": 0.4}, "spread": {"T1": spread, "T2": 0.6}}] * epochs


def test_the_alarm_is_raised_for_a_contrast_that_stays_bad_and_for_nothing_else():
    assert "the model is no better than the mean for T1, for" in alarm(history(-0.1), 19)
    assert "collapsed to a constant for T1, for" in alarm(history(0.1, 0.001), 19)
    assert alarm(history(0.1), 19) == ""
    assert alarm(history(-0.1, epochs=ALARM_EPOCHS - 1), 19) == ""
    assert alarm(history(-0.1, epochs=29), 400) == ""  # 5 % are 20 epochs
    assert alarm(history(-0.1, epochs=30), 400) != ""
    recovered = [*history(-0.1), *history(0.2, epochs=1)]
    assert alarm(recovered, 19) == ""
    assert alarm(history(None), 19) == ""
    by_chance = [*history(0.02, epochs=3), *history(-0.1, epochs=7)]
    assert alarm(by_chance, 19) != ""
    assert alarm([*history(0.4, epochs=3), *history(-0.1, epochs=7)], 19) == ""


def test_a_training_that_cannot_learn_raises_the_alarm_once(nnunet, dataset, caplog):
    """A learning rate near zero: predictions stay what they were at the start."""
    import json

    from conftest import DATASET, TINY

    from amae_nnunet.cli import configure, pretrain

    words = [*TINY, "pretraining.num_epochs=14", "pretraining.iterations_per_epoch=1",
             "pretraining.lr=1e-12"]  # fmt: skip
    assert configure.main(["950", "3d_fullres", "--name", "still", *words]) == 0
    assert pretrain.main(["950", "still", "-p", "AMAEPlans", "-device", "cpu"]) == 0
    folder = nnunet / "results" / DATASET / "AMAEPretraining__AMAEPlans__still" / "fold_all"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [bool(row["alarm"]) for row in rows] == [False] * 9 + [True] * 5
    assert caplog.text.count("warning: ") == 1
    assert all(math.isfinite(value) for value in rows[0]["skill_linear"].values())
