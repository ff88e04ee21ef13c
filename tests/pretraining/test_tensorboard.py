"""What TensorBoard itself reads from a run's folder."""

import sys

import pytest
from pretraining.test_loop import configured, folder_of, lines, run

from amae_nnunet.pretraining.tensorboard import TensorBoard, scalars

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder):
    """Scalar name -> (epoch, value) in order."""
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_a_run_writes_what_metrics_says(nnunet, dataset):
    assert run(configured("board"), "--tensorboard") == 0
    folder = folder_of(nnunet, "board")
    expected = {}
    for row in lines(folder):
        for name, value in scalars(row):
            expected.setdefault(name, []).append((row["epoch"], pytest.approx(value)))
    assert read(folder) == expected
    assert {"loss", "contrast_loss/ADC", "skill_mean/T2", "lr", "seconds"} <= expected.keys()


def test_an_epoch_that_is_made_again_counts_once(tmp_path):
    board = TensorBoard(tmp_path, 0)
    for epoch in range(3):
        board.add({"epoch": epoch, "loss": 1.0})
    TensorBoard(tmp_path, 1).add({"epoch": 1, "loss": 2.0, "contrast_loss": {"T2": None}})
    assert read(tmp_path) == {"loss": [(0, 1.0), (1, 2.0)]}


def test_without_the_package_the_command_says_what_to_install_before_it_preprocesses(
    nnunet, more_as, monkeypatch, capsys
):
    name, other = configured("no_board"), more_as("Dataset951_Boardless").name
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run(name, "--tensorboard", "--unlabeled", "951") == 2
    assert not list((nnunet / "preprocessed").rglob(other))
    assert "pip install 'amae-nnunet[tensorboard]'" in capsys.readouterr().err
