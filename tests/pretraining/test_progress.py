"""``progress.png``: every curve that the legend names is to be seen."""

import pytest
from matplotlib.figure import Figure

from amae_nnunet.pretraining.progress import save_progress

CONTRASTS = ("ADC", "TRACE", "T2")


def rows_of(skills):
    """The lines of ``metrics.jsonl`` of a run in which all contrasts but the first are at 0.3."""
    return [
        {
            "epoch": epoch,
            "loss": 1.0,
            "contrast_loss": dict.fromkeys(CONTRASTS, 1.0),
            "skill_mean": {**dict.fromkeys(CONTRASTS, 0.3), "ADC": skill},
            "skill_linear": {**dict.fromkeys(CONTRASTS, 0.2), "T2": None},
            "lr": 1e-3,
            "seconds": 2.0,
        }
        for epoch, skill in enumerate(skills)
    ]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), save(f, *a, **k)))

    def draw(skills):
        save_progress(tmp_path / "progress.png", rows_of(skills))
        return figures.pop()

    return draw


@pytest.mark.parametrize("skills", [[0.1, 0.2], [-0.9, 0.1], [-1.5, -1.01], [-840.0, -30.0, 0.5]])
def test_all_skills_are_inside_the_axis(drawn, skills):
    ax = drawn(skills).axes[1]
    low, high = ax.get_ylim()
    assert low <= min(skills)
    assert high == 1
    assert low == -1 or min(skills) < -1
    assert all(low <= tick <= high for tick in ax.get_yticks())
    assert ("powers of ten" in ax.get_title(loc="left")) == (min(skills) < -1)


def test_a_legend_covers_no_curve(drawn):
    figure = drawn([0.1, 0.2, -3.0])
    for ax in figure.axes[:2]:
        legend = ax.get_legend().get_window_extent()
        assert legend.x0 >= ax.get_window_extent().x1
        assert legend.x1 <= figure.bbox.x1


def test_a_run_without_skills_is_drawn(tmp_path):
    rows = [{**row, "skill_mean": {}, "skill_linear": {}} for row in rows_of([0.0])]
    save_progress(tmp_path / "progress.png", rows)
    assert (tmp_path / "progress.png").stat().st_size > 10_000
