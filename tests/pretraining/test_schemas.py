"""What a pre-training writes is what its schemas say."""

import json
import re
from pathlib import Path

from conftest import DATASET
from schemas import check, lines

from amae_nnunet.networks.checkpoint import read_checkpoint
from amae_nnunet.plans.configure import configure, parse_settings
from amae_nnunet.plans.preprocessed import PreprocessedDataset


def test_metrics_and_checkpoint(pretrained):
    rows = lines(pretrained.with_name("metrics.jsonl"))
    check("metrics", *rows)
    facts = read_checkpoint(pretrained).facts
    check("checkpoint", facts)
    assert facts["last_epoch"]["skill_mean"] == rows[-1]["skill_mean"]


def test_the_block_of_the_plans(nnunet, pretrained):
    from amae_nnunet.cli import configure as command

    def block(plans, configuration):
        path = nnunet / "preprocessed" / DATASET / f"{plans}.json"
        return json.loads(path.read_text())["configurations"][configuration]["amae"]

    dataset = PreprocessedDataset.open("950", "3d_fullres", "nnUNetPlans")
    words = [
        "pos_embed=learned",
        "lr=1e-3",
        "loss=dice_ce",
        "pretraining.activation_checkpointing=true",
    ]
    configure(dataset, parse_settings(words), "own", "SchemaPlans")
    assert block("SchemaPlans", "own")["pretraining"] == {"activation_checkpointing": True}
    start = ["950", "3d_fullres", "-o", "FromPlans", "--checkpoint", str(pretrained)]
    assert command.main(start) == 0
    started = block("FromPlans", "3d_fullres")
    assert started["checkpoint"]["path"].endswith("checkpoint_final.safetensors")
    check("amae-block", block("AMAEPlans", "tiny"), block("SchemaPlans", "own"), started)


def test_the_page_reads_the_metadata_without_us(pretrained, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs" / "files.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    monkeypatch.chdir(pretrained.parent)
    exec(code, {})
    assert capsys.readouterr().out == "['ADC', 'TRACE', 'T2']\n"
