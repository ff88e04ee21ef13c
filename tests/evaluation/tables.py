"""Rows of scores made by hand, as the scoring of files leaves them."""

from amae_nnunet.evaluation.metrics import METRICS
from amae_nnunet.evaluation.scores import NOTHING, Row, Scores

BAD = {name: 0.0 if better else 99.0 for name, better in METRICS.items()}


def row(case, model, had, given, label="infarct", drawn=5.0, **values):
    volumes = {"label_ml": drawn, "predicted_ml": 1.0}
    return Row(case, model, had, given, label, {**BAD, **volumes, **values})


def game_scores(games, had, models=("M",), drawn=5.0):
    """Scores of cases from what each model's Dice is for each subset.

    ``games``: case -> model -> function of the subset.
    """
    from amae_nnunet.evaluation.subsets import powerset

    rows = []
    for case, players in games.items():
        rows.append(row(case, NOTHING, had, (), drawn=drawn))
        for model, dice in players.items():
            rows += [
                row(case, model, had, given, drawn=drawn, dice=dice(given), hd95=9 - dice(given))
                for given in powerset(had)
            ]
    return Scores(rows, models, models, ["infarct"])
