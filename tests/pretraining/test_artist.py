"""Which studies are drawn as a run goes."""

import pytest
from conftest import DATASET, MORE, TINY

from amae_nnunet.cli import configure, pretrain
from amae_nnunet.errors import ConfigError
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.pretraining.artist import Artist
from amae_nnunet.pretraining.studies import Study, labelled_studies


@pytest.fixture
def opened(tiny_plans):
    return PreprocessedDataset.open("950", tiny_plans, "AMAEPlans")


@pytest.fixture(scope="module")
def configuration(dataset):
    """One that nothing was pre-trained with."""
    assert configure.main(["950", "3d_fullres", "--name", "drawn", *TINY]) == 0
    return "drawn"


def drawn(opened, fold="all", names=()):
    studies = labelled_studies(opened, opened.training_cases(fold))
    return [study.name for study in Artist(opened, fold, studies, names).studies]


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        ("more_000", 2),
        ("case_999", 0),
        (f"{DATASET}/more_000", 0),
        ("Dataset949_Twice", 0),
    ],
)
def test_a_name_that_is_not_one_case_is_refused_before_anything_is_preprocessed(
    nnunet, configuration, more_as, capsys, picture, found
):
    twin = more_as("Dataset949_Twice").name
    words = ["950", configuration, "-p", "AMAEPlans", "-device", "cpu", "--unlabeled", "940", "949"]
    assert pretrain.main([*words, "--pictures", f"{MORE}/more_001", picture]) == 2
    message = f"--pictures {picture}: {found} cases of this run have this name"
    assert message in capsys.readouterr().err
    assert not list((nnunet / "preprocessed").rglob(twin))


def test_the_cases_that_are_named_are_drawn_in_that_order(opened):
    first, *_, last = opened.cases()
    for names in ((f"{DATASET}/{last}", first), (last, first)):
        assert drawn(opened, names=names) == [f"{DATASET}/{last}", f"{DATASET}/{first}"]
    with pytest.raises(ConfigError, match="0 cases of this run"):
        drawn(opened, names=["case_999"])


def test_else_three_studies_with_the_most_contrasts_are(opened):
    studies = labelled_studies(opened, opened.cases())
    full = [study.name for study in studies if len(study.contrasts) == 3]
    others = [study.name for study in studies if len(study.contrasts) < 3]
    assert 0 < len(full) < len(studies)
    assert drawn(opened) == (sorted(full) + sorted(others))[:3]


def test_together_they_show_all_contrasts_if_three_studies_can(opened):
    many = [Study("D", f"a{n}", opened.data_folder, (0, 1, 2), (0, 1, 2)) for n in range(5)]
    other = Study("D", "b", opened.data_folder, (0, 1), (0, 3))
    shown = Artist(opened, "all", [*many, other]).studies
    assert [study.case for study in shown] == ["a0", "b", "a1"]


def test_of_a_fold_only_validation_cases_are_and_any_case_may_be_named(opened):
    trained = opened.training_cases("0")
    held_out = {f"{DATASET}/{case}" for case in opened.cases() if case not in trained}
    assert held_out
    assert set(drawn(opened, "0")) <= held_out
    assert drawn(opened, "0", [trained[0]]) == [f"{DATASET}/{trained[0]}"]
