"""The page and its twin, of rows made by hand, where numbers are missing or many."""

import json
import math
import re

import matplotlib
import numpy as np
import pytest
from evaluation.tables import game_scores, row

from amae_nnunet.evaluation import intervals, markup
from amae_nnunet.evaluation.charts import box_plot
from amae_nnunet.evaluation.metrics import METRICS
from amae_nnunet.evaluation.pictures import save_segmentations
from amae_nnunet.evaluation.report import write_report
from amae_nnunet.evaluation.scores import NOTHING, Failure, Scores
from amae_nnunet.evaluation.subsets import Condition, Wanted
from amae_nnunet.evaluation.summary import Summary
from amae_nnunet.evaluation.text import tables
from amae_nnunet.evaluation.worst import Worst, worst_cases

HAD = ("ADC", "TRACE", "T2")
DROP = Condition(("T2",))


def summarise(scores, wanted=None, failures=()):
    return Summary.of(
        scores, wanted or Wanted(), HAD, title="Study", tolerance=2.0, failures=list(failures)
    )


def page(summary, folder, worst=()):
    return write_report(folder, summary, list(worst)).read_text()


@pytest.fixture(autouse=True)
def quick_intervals(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 99)


@pytest.fixture
def two_models():
    games = {
        f"case_{i}": {
            "one": lambda s, i=i: 0.1 * len(s) + 0.01 * i,
            "other": lambda s, i=i: 0.2 * len(s) + 0.01 * (i % 3),
        }
        for i in range(6)
    }
    return game_scores(games, HAD, ("one", "other"))


def test_one_table_compares_models_and_each_with_itself(two_models):
    summary = summarise(two_models, Wanted((Condition(), DROP), "all"))
    found = [c for c in summary.comparisons if c.metric == "dice"]
    assert [(c.condition, c.first, c.second, c.n) for c in found] == [
        ("as each case is", "one", "other", 6), ("without T2", "one", "other", 6)
    ]  # fmt: skip
    differences = [0.3 + 0.01 * (i % 3 - i) for i in range(6)]
    assert found[0].difference == pytest.approx(np.mean(differences))
    assert found[0].p == pytest.approx(2 / 2**6)
    lost = [c for c in summary.withheld if c.metric == "dice"]
    assert [(c.condition, c.difference) for c in lost] == [
        ("one", pytest.approx(0.1)), ("other", pytest.approx(0.2))
    ]  # fmt: skip
    assert lost[0].p_holm == pytest.approx(2 * lost[0].p)
    printed = tables(summary)
    assert "as each case is      6  0.325  0.610" in printed
    assert "other: as each case is minus without T2" in printed


def test_what_a_model_has_only_predicted_is_in_the_first_table_alone(two_models):
    scores = Scores(
        [r for r in two_models.rows if r.model == "one" or r.given == HAD]
        + [row(case, NOTHING, HAD, ()) for case in two_models.cases],
        ["one", "other"], ["one"], ["infarct"],
    )  # fmt: skip
    summary = summarise(scores, Wanted((Condition(), DROP), "all"))
    assert {(m.model, m.condition) for m in summary.means} == {
        ("one", "as each case is"), ("other", "as each case is"), ("one", "without T2")
    }  # fmt: skip
    assert {c.condition for c in summary.comparisons} == {"as each case is"}
    assert {w.model for w in summary.worths} == {"one"}
    assert "-" in tables(summary).splitlines()[2]


def test_cases_that_one_model_failed_on_are_in_no_table(two_models, tmp_path):
    rows = [r for r in two_models.rows if (r.model, r.case) != ("other", "case_3")]
    rows += [row(case, NOTHING, HAD, ()) for case in two_models.cases]
    summary = summarise(
        Scores(rows, ["one", "other"], ["one", "other"], ["infarct"]),
        Wanted((Condition(), DROP), "all"),
        failures=[Failure("case_3", "other", HAD, "its images <b>differ</b>")],
    )
    assert {m.n for m in summary.means} == {5}
    assert {group.n for group in summary.by_given} == {5}
    assert {worth.n for worth in summary.worths} == {5}
    table = {(m.model, m.metric): m.mean for m in summary.means if m.condition == DROP.name}
    for group in summary.by_given:
        if group.given == HAD[:2]:
            assert group.means["dice"] == pytest.approx(table[group.model, "dice"])
    text = page(summary, tmp_path)
    assert "its images &lt;b&gt;differ&lt;/b&gt;" in text
    assert "What failed" in text
    assert text.count("p says whether these trained models differ") == 1


@pytest.mark.parametrize("wanted", [Wanted(choice="all"), Wanted((Condition(), DROP))])
def test_where_all_predictions_failed_the_page_says_so(tmp_path, wanted):
    scores = Scores([row("a", NOTHING, HAD, ())], ["M"], ["M"], ["infarct"])
    text = page(summarise(scores, wanted, [Failure("a", "M", HAD, "out of memory")]), tmp_path)
    assert "out of memory" in text
    assert "From each subset" not in text


def test_the_heat_maps_average_as_the_tables_do():
    """Over cases first, then over labels: it matters where a label is undefined in a case."""
    dice = {("a", "x"): 0.8, ("a", "y"): math.nan, ("b", "x"): 0.4, ("b", "y"): 0.6}
    rows = [row(case, "M", HAD, HAD, label, dice=value) for (case, label), value in dice.items()]
    rows += [row(case, NOTHING, HAD, (), label) for case, label in dice]
    summary = summarise(Scores(rows, ["M"], ["M"], ["x", "y"]))
    (mean,) = (m for m in summary.means if m.metric == "dice" and m.label == "mean over labels")
    found = [group.means["dice"] for group in (*summary.by_had, *summary.by_given)]
    assert [mean.mean, *found] == pytest.approx([0.6] * 3)


def test_one_model_alone_is_compared_with_nobody(tmp_path):
    scores = game_scores({"a": {"M": len}, "b": {"M": len}}, HAD, ("M",))
    text = page(summarise(scores), tmp_path)
    assert "Models against each other" not in text
    assert "p says whether" not in text


def test_a_label_that_is_never_drawn_is_undefined_and_false_alarms_are_counted(tmp_path):
    nan = dict.fromkeys(METRICS, math.nan) | {"volume_error": 0.0}
    rows = []
    for number, case in enumerate(("a", "b", "c", "d")):
        rows.append(row(case, NOTHING, HAD, (), "infarct"))
        rows.append(row(case, NOTHING, HAD, (), "bleed", drawn=0.0))
        rows.append(row(case, "M", HAD, HAD, "infarct", dice=0.5))
        alarm = {"predicted_ml": 3.0} if number == 2 else {**nan, "predicted_ml": 0.0}
        rows.append(row(case, "M", HAD, HAD, "bleed", drawn=0.0, **alarm))
    summary = summarise(Scores(rows, ["M"], ["M"], ["infarct", "bleed"]))
    found = {m.label: m for m in summary.means if m.metric == "dice"}
    assert (found["bleed"].n, found["bleed"].mean) == (1, 0.0)
    assert found["mean over labels"].mean == 0.25  # of labels, as nnU-Net has it
    assert found["mean over labels"].interval is None  # it is no mean over cases
    (alarm,) = summary.false_alarms
    assert (alarm.label, alarm.n, alarm.alarms, alarm.mean_ml) == ("bleed", 4, 1, 0.75)
    text = page(summary, tmp_path)
    assert "1 of 4" in text
    twin = json.loads((tmp_path / "results.json").read_text())
    assert twin["false_alarms"][0]["alarms"] == 1
    assert summary.comparisons == summary.withheld == summary.worths == []


def test_a_page_of_next_to_nothing_is_drawn(tmp_path):
    nothing = dict.fromkeys([*METRICS, "label_ml", "predicted_ml"], math.nan)
    rows = [row("a", NOTHING, (), ()), row("a", "M", (), (), **nothing), row("a", "N", (), ())]
    scores = Scores(rows, ["M", "N"], [], ["infarct"])
    summary = Summary.of(scores, Wanted(), (), title="x", tolerance=2.0, failures=[])
    text = page(summary, tmp_path)
    assert '<td class="number">–</td>' in text
    twin = json.loads((tmp_path / "results.json").read_text())
    assert twin["means"][0]["mean"] is None
    assert worst_cases(scores) == [("a", "N", 0.0)]


def test_names_cannot_become_markup_or_placeholders(tmp_path):
    games = {"<script>alert(1)</script>@MEANS@": {"A&B": lambda s: 0.1}}
    scores = game_scores(games, HAD, ("A&B",))
    worst = [Worst("<script>alert(1)</script>@MEANS@", "A&B", 0.1, "")]
    text = page(summarise(scores), tmp_path, worst)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;@MEANS@" in text
    assert "A&amp;B" in text


@pytest.mark.slow
def test_many_cases_keep_the_page_small_and_it_is_the_same_each_time(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.random((2000, 2))
    rows = []
    for number, pair in enumerate(values):
        rows.append(row(f"c{number:04d}", NOTHING, HAD, ()))
        rows += [
            row(f"c{number:04d}", model, HAD, HAD, dice=float(value))
            for model, value in zip(("one", "other"), pair, strict=True)
        ]
    summary = summarise(Scores(rows, ["one", "other"], [], ["infarct"]))
    first = page(summary, tmp_path)
    assert len(first) < 1_000_000
    assert page(summary, tmp_path) == first


def test_the_lowest_of_each_model_are_drawn_each_case_once(two_models):
    found = worst_cases(two_models)
    assert [dice for *_, dice in found] == sorted(dice for *_, dice in found)
    assert [(case, model) for case, model, _ in found] == [
        ("case_0", "one"), ("case_1", "one"), ("case_3", "other"), ("case_4", "other")
    ]  # fmt: skip


def test_a_picture_shows_the_slice_of_the_label_or_of_the_predictions(tmp_path):
    rng = np.random.default_rng(0)
    image, empty = rng.random((4, 20, 16)).astype(np.float32), np.zeros((4, 20, 16))
    label, prediction = empty.copy(), empty.copy()
    label[2, 5:9, 5:9], prediction[1, 3:9, 3:9] = 1, 1
    pictures = []
    for drawn in (label, empty):
        path = tmp_path / "picture.png"
        save_segmentations(path, {"T2": image, "T1": empty}, drawn, {"M": prediction}, 1.5)
        pictures.append(path.read_bytes())
    assert pictures[0] != pictures[1]
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_long_names_of_trainers_do_not_run_into_each_other():
    name = "AMAETrainerUNETRNoPretraining"
    svg = box_plot({name: [0.1, 0.2, 0.3], "nnUNetTrainerShort": [0.2, 0.3, 0.4]}, "Dice")
    words = re.findall(r">([A-Za-z]+)</t", svg)
    assert name in "".join(words)
    assert max(map(len, words)) <= 14


def test_charts_are_the_same_whatever_was_drawn_before():
    """As nnU-Net, whose plot of a training leaves fonts of two and a half times the size."""
    samples = {"AMAETrainer": [0.1, 0.2, 0.3], "nnUNetTrainerShort": [0.2, 0.3, 0.4]}
    plain = box_plot(samples, "Dice")
    with matplotlib.rc_context({"xtick.labelsize": 27.5, "axes.labelsize": 30, "axes.grid": True}):
        assert box_plot(samples, "Dice") == plain


def test_one_case_has_no_test_and_no_interval(tmp_path):
    scores = game_scores(
        {"a": {"one": lambda s: 0.3, "other": lambda s: 0.5}}, HAD, ("one", "other")
    )
    summary = summarise(scores, Wanted((Condition(), DROP), "all"))
    text = page(summary, tmp_path)
    assert "as each case is: values of 1 case; n has a Dice" in text
    assert not re.search(r">.?1\.000<", text)
    assert not re.search(r"interval|bootstrap", text)
    printed = r"one: as each case is minus without T2 +1 +0\.000  -         -       -"
    assert re.search(printed, tables(summary))


@pytest.mark.parametrize(("cases", "said"), [(2, True), (5, True), (6, False)])
def test_a_table_says_where_no_p_can_be_low(tmp_path, cases, said):
    games = {
        f"case_{i}": {
            "one": lambda s, i=i: 0.1 * i,
            "other": lambda s, i=i: 0.1 * i + 0.01 * i + 0.1,
        }
        for i in range(cases)
    }
    summary = summarise(game_scores(games, HAD, ("one", "other")))
    assert min(c.p for c in summary.comparisons if c.metric == "dice") == 2 / 2**cases
    text = page(summary, tmp_path)
    assert ("no p below 0.05" in text) == said
    assert f"means of {cases} cases with 95 % intervals" in text


def test_zero_has_no_sign():
    number, signed = markup.number, markup.signed
    assert number(-0.0004) == signed(-0.0004) == signed(0.0004) == "0.000"
    assert number(-0.04, "hd95") == "0.0"
    assert (signed(0.0005001), signed(-0.02), signed(-0.06, "hd95")) == ("+0.001", "−0.020", "−0.1")
    assert number(math.nan) == signed(math.nan) == "–"


def test_means_that_look_the_same_are_all_bold(tmp_path):
    games = {
        case: {"one": lambda s: 0.6301, "other": lambda s: 0.6304, "third": lambda s: 0.62}
        for case in ("a", "b")
    }
    text = page(summarise(game_scores(games, HAD, ("one", "other", "third"))), tmp_path)
    assert text.count("<b>0.630</b>") == 2
    assert "<b>0.620</b>" not in text


def test_names_too_long_for_their_place_are_broken_in_tables_and_above_charts(tmp_path):
    long = "AMAETrainerNoPretraining__AMAEPlans__3d_small"
    game = {f"case_{i}": {long: lambda s: 0.1 * len(s), "b": lambda s: 0.2} for i in range(3)}
    found = page(summarise(game_scores(game, HAD, (long, "b")), Wanted((), "all")), tmp_path)
    assert "<td>AMAE<wbr>Trainer<wbr>No<wbr>Pretraining_<wbr>_<wbr>AMAE<wbr>Plans" in found
    assert f">{long}<" not in found  # a line of it would run into the panel beside it
