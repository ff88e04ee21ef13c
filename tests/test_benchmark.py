"""The benchmark runs, and what it compares does the same work."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import benchmark_pretraining as benchmark

CPU = torch.device("cpu")
TINY = ["--rounds", "1", "--crop", "32", "--width", "192", "--depth", "1", "--decoder_heads", "3"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_benchmark_writes_a_row_a_variant(tmp_path, capsys, dtype, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)  # as if it were not installed
    path = tmp_path / "times.json"
    threads = torch.get_num_threads()
    benchmark.main([*TINY, "--dtype", dtype, "--counts", "1", "mixed", "--output", str(path)])
    torch.set_num_threads(threads)
    tables = list(json.loads(path.read_text()).values())
    names = [[row["variant"] for row in rows] for rows in tables]
    assert [len(rows) for rows in tables] == [3, 3, 2, 3, 3]
    assert names[1] == ["packed", "one at a time", "padded to 7"]
    assert names[3] == ["ours", "BM-MAE", "EvaMAE"]
    assert all(row["seconds"] > 0 for rows in tables for row in rows if "seconds" in row)
    single, half = tables[2]
    assert single["worst tensor"] < 1e-5 < half["worst tensor"] < 3e-2
    assert "| BM-MAE |" in capsys.readouterr().out


def test_the_model_has_what_was_asked_for(monkeypatch):
    made, model_config = [], benchmark.model_config
    monkeypatch.setattr(
        benchmark, "model_config", lambda *args: made.append(model_config(*args)) or made[-1]
    )
    threads = torch.get_num_threads()
    benchmark.main([*TINY, "--parts", "numerics"])
    torch.set_num_threads(threads)
    (config,) = made
    assert (config.patch_size[0], config.embed_dim, config.depth) == (32, 192, 1)
    assert config.decoder_num_heads == 3


def test_padded_studies_have_the_gradient_of_packed_ones():
    config = benchmark.model_config(32, 96, 1)
    model = benchmark.AdaptiveMAE(config).double()
    x, slots, masked = benchmark.Setting(config, CPU).batch((1, 3, 2))
    found = []
    for loss in (benchmark.packed_loss, benchmark.padded_loss):
        model.zero_grad()
        loss(model, x.double(), slots, masked).backward()
        found.append([p.grad for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_variants_that_do_other_work_are_found():
    layer = torch.nn.Linear(2, 2)
    one, two = (lambda: layer(torch.ones(2)).sum()), (lambda: 2 * layer(torch.ones(2)).sum())
    with pytest.raises(SystemExit, match="other gradients"):
        benchmark.check_same_gradient({"one": (layer, one), "two": (layer, two)})


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # of MONAI
@pytest.mark.parametrize("name", ["BM-MAE", "EvaMAE"])
def test_a_peer_sees_visible_tokens_only_and_learns_everywhere(name):
    """Else it would not be a masked autoencoder, and its time would say nothing."""
    config = benchmark.model_config(32, 192, 1)
    setting = benchmark.Setting(config, CPU, studies=2)
    images, masked = benchmark.grouped(*setting.batch((7,)))[7]
    model, _ = benchmark.Peers(setting).variants((7,))[name]
    images.requires_grad_()
    if name == "BM-MAE":
        target = benchmark.patchify(images.detach().flatten(0, 1), config.token_size)
        model(images, masked, target).backward()
    else:
        rows = masked.flatten(0, 1)
        model(images.flatten(0, 1), rows, benchmark.image_voxels(rows, config)).backward()
    seen = benchmark.patchify(images.grad.flatten(0, 1), config.token_size).any(dim=-1)
    assert torch.equal(seen, ~masked.flatten(0, 1))
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # of MONAI
def test_no_study_of_a_peers_batch_meets_another():
    """Else its attention would cost more than the peer's."""
    setting = benchmark.Setting(benchmark.model_config(32, 192, 1), CPU, studies=2)
    images, masked = benchmark.grouped(*setting.batch((3,)))[3]
    model, _ = benchmark.Peers(setting).variants((3,))["BM-MAE"]
    target = benchmark.patchify(images.flatten(0, 1), setting.config.token_size)
    together = model(images, masked, target)
    alone = [
        model(images[i, None], masked[i, None], part) for i, part in enumerate(target.chunk(2))
    ]
    torch.testing.assert_close(together, sum(alone) / 2, rtol=1e-5, atol=0)
