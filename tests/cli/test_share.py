"""Model cards, and checkpoints as folders of the Hugging Face hub: written, read, refused."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import DATASET
from safetensors.torch import load_file, save_file

from amae_nnunet.cli import configure, show
from amae_nnunet.errors import CheckpointError
from amae_nnunet.networks.checkpoint import load_mae, read_checkpoint, save_checkpoint
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.sharing.card import model_card
from amae_nnunet.sharing.folder import find_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(pretrained, tmp_path_factory):
    """The folder that --export writes."""
    folder = tmp_path_factory.mktemp("shared") / "my_model"
    words = [str(pretrained), "--export", str(folder), "--license", "cc-by-4.0"]
    assert show.main(words) == 0
    return folder


def parts(card):
    """The values of the YAML head, and the text."""
    _, head, text = card.split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_folder_has_the_layout_of_the_hub(shared, pretrained):
    assert sorted(path.name for path in shared.parent.iterdir()) == ["my_model"]
    assert sorted(path.name for path in shared.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert (shared / "model.safetensors").read_bytes() == pretrained.read_bytes()
    config = json.loads((shared / "config.json").read_text())
    facts = read_checkpoint(pretrained).facts
    assert config.pop("model_type") == "amae-nnunet"
    assert config == {key: value for key, value in facts.items() if key != "seen_cases"}


def test_the_card_says_what_the_checkpoint_is(shared, pretrained):
    head, text = parts((shared / "README.md").read_text())
    assert head["license"] == "cc-by-4.0"
    assert head["library_name"] == "amae-nnunet"
    assert {"mri", "nnunet"} <= set(head["tags"])
    facts = read_checkpoint(pretrained).facts
    assert "# Adaptive masked autoencoder for ADC, TRACE, T2" in text
    assert "[this paper](https://arxiv.org/abs/2501.09096)" in text
    assert f"| cases | {facts['num_cases']} |" in text
    assert f"| data set | {DATASET} |" in text
    assert "| `mask_ratio` | 0.7 |" in text
    assert "| token | 16 x 16 x 16 voxels |" in text or "| token |" in text
    epoch = facts["last_epoch"]
    wanted = [epoch[key]["ADC"] for key in ("contrast_loss", "skill_mean", "skill_linear")]
    cells = " | ".join(f"{value:.3f}" for value in wanted)
    assert f"| ADC | {cells} |" in text
    digest = hashlib.sha256(pretrained.read_bytes()).hexdigest()
    assert f"| sha256 | `{digest}` |" in text
    numbers = sum(tensor.numel() for tensor in load_file(pretrained).values())
    assert f"| parameters | {numbers:,} |" in text
    cite = (ROOT / "README.md").read_text().partition("```bibtex\n")[2].partition("```")[0]
    assert cite in text


def test_nothing_of_the_machine_or_of_a_case_is_in_it(nnunet, shared):
    cases = PreprocessedDataset.open("950", "tiny", "AMAEPlans").cases()
    assert cases
    for name in ("README.md", "config.json"):
        text = (shared / name).read_text()
        assert not [case for case in cases if case in text]
        assert str(nnunet) not in text
        assert os.uname().nodename not in text
        assert "seen_cases" not in text


def test_a_hostile_checkpoint_writes_nothing_into_its_card(pretrained):
    checkpoint = read_checkpoint(pretrained)
    evil = "x](http://evil) | <script> \n# head"
    facts = {
        **checkpoint.facts,
        "plan": {"dataset": "../../etc/passwd", "plans": evil, "configuration": 3},
        "pretraining": {"lr": evil, "num_epochs": {"a": 1}, "evil": 3},
        "versions": [evil],
        "num_cases": evil,
        "fold": None,
        "last_epoch": {"skill_mean": {"ADC": evil}, "spread": 3},
        "added_contrasts": [3, {"contrast": evil}],
    }
    card = model_card(type(checkpoint)(checkpoint.config, facts, checkpoint.tensors), "0" * 64)
    assert not re.search("evil|passwd|script", card)
    assert parts(card)[0]["license"] == "unknown"
    assert "fill in `license` above" in card


def test_a_card_alone(pretrained, tmp_path, capsys):
    assert show.main(["--card", str(pretrained), "-o", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_final.md"]
    assert "no licence is named" in capsys.readouterr().out
    assert show.main(["--card", str(pretrained), "--license", "a\nb"]) == 2


def test_nothing_is_overwritten_and_nothing_left_half(pretrained, shared, tmp_path, capsys):
    assert show.main([str(pretrained), "--export", str(shared)]) == 2
    assert "holds something already" in capsys.readouterr().err
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(pretrained.read_bytes()[:-10])
    assert show.main([str(broken), "--export", str(tmp_path / "out")]) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["broken.safetensors"]


def block(nnunet, plans):
    path = nnunet / "preprocessed" / DATASET / f"{plans}.json"
    return json.loads(path.read_text())["configurations"]["3d_fullres"]["amae"]


def test_a_folder_is_a_checkpoint_to_fine_tune_from(nnunet, shared, pretrained):
    from amae_nnunet.training.trainer import AMAETrainer

    words = ["950", "3d_fullres", "-o", "SharedPlans", "--checkpoint", str(shared)]
    assert configure.main(words) == 0
    start = block(nnunet, "SharedPlans")["checkpoint"]
    assert start["path"] == str(shared / "model.safetensors")
    assert start["sha256"] == hashlib.sha256(pretrained.read_bytes()).hexdigest()
    import torch

    folder = nnunet / "preprocessed" / DATASET
    plans = json.loads((folder / "SharedPlans.json").read_text())
    plans["continue_training"] = False
    described = json.loads((folder / "dataset.json").read_text())
    trainer = AMAETrainer(plans, "3d_fullres", 0, described, torch.device("cpu"))
    trainer.on_train_start()
    expected = load_file(pretrained)["encoder.contrast_embed.weight"]
    assert torch.equal(trainer.network.encoder.contrast_embed.weight, expected)


def test_folders_that_are_none(shared, tmp_path):
    def refused(message):
        with pytest.raises(CheckpointError, match=message):
            find_checkpoint(str(folder))

    folder = tmp_path / "empty"
    folder.mkdir()
    refused(r"has no model\.safetensors")
    folder = tmp_path / "other"
    shutil.copytree(shared, folder)
    (folder / "config.json").write_text("[" * 10_000)
    refused(r"config\.json cannot be read")
    config = json.loads((shared / "config.json").read_text())
    config["model"]["depth"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    refused("is of another model")
    (folder / "config.json").unlink()
    assert find_checkpoint(str(folder)) == folder / "model.safetensors"
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t.clone() for name, t in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not describe an AMAE model"):
        read_checkpoint(find_checkpoint(str(folder)))


def configure_says(nnunet, name, home):
    """The command in a fresh process that has no network and a cache of its own."""
    code = "import sys; from amae_nnunet.cli import configure; sys.exit(configure.main())"
    words = ["950", "3d_fullres", "-o", "HubPlans", "--checkpoint", name]
    offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **offline}, cwd=nnunet, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_a_model_of_the_hub(nnunet, shared, tmp_path):
    answer = configure_says(nnunet, "org/name", tmp_path)
    assert answer.returncode == 5
    line = answer.stderr.splitlines()[-1]
    assert line.startswith("amae-nnunet-configure: error: org/name is no file or folder here")
    assert line.endswith("check name and network, or give the path of a checkpoint")
    assert "Traceback" not in answer.stderr
    # In the cache of the hub's own library it is found without a network.
    cache, commit = tmp_path / "hub" / "models--org--name", "0" * 40
    shutil.copytree(shared, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    answer = configure_says(nnunet, "org/name", tmp_path)
    assert answer.returncode == 0, answer.stderr
    start = block(nnunet, "HubPlans")["checkpoint"]
    assert start["path"] == str(cache / "snapshots" / commit / "model.safetensors")


@pytest.mark.parametrize("name", ["nowhere.safetensors", "a/b.safetensors", "/a/b", "../a/b", "a"])
def test_what_looks_like_a_path_is_never_looked_up(name):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(find_checkpoint(name))


def test_a_folder_may_be_the_one_that_the_user_is_in(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show.main([str(pretrained), "--export", "."]) == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_the_folder_tells_only_what_a_pre_training_writes(pretrained, tmp_path, capsys):
    checkpoint = read_checkpoint(pretrained)
    facts = {**checkpoint.facts, "place": "/home/jane_doe/patients", "num_cases": 10**400,
             "last_epoch": {"contrast_loss": {"ADC": 10**310}}}  # fmt: skip
    file = tmp_path / "other.safetensors"
    save_file(checkpoint.tensors, file, metadata={"amae": json.dumps(facts)})
    assert show.main([str(file), "--export", str(tmp_path / "out")]) == 0
    assert "jane_doe" not in (tmp_path / "out" / "config.json").read_text()
    assert "00000000" not in (tmp_path / "out" / "README.md").read_text()
    facts["epochs"] = float("nan")
    save_file(checkpoint.tensors, file, metadata={"amae": json.dumps(facts)})
    assert show.main([str(file), "--export", str(tmp_path / "more")]) == 5
    assert "a fact is NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["case", "--card"], "--card and --export look at no case"),
        (["--export", "x", "--check"], "--card and --export look at no case"),
        (["case", "--license", "mit"], "--license goes with --card or --export"),
        (["--check", "--nifti"], "--check writes no images"),
    ],
)
def test_options_that_would_not_be_read_are_refused(pretrained, words, message, capsys):
    assert show.main([str(pretrained), *words]) == 2
    assert message in capsys.readouterr().err


def test_others_of_the_group_may_read_a_checkpoint(pretrained, tmp_path):
    """safetensors makes files that only the user may read."""
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "new", load_mae(read_checkpoint(pretrained)), {})
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
