import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import encode_all, make_config, pack, shake, studies

from amae_nnunet.errors import CheckpointError
from amae_nnunet.networks.checkpoint import (
    load_encoder,
    load_mae,
    read_checkpoint,
    save_checkpoint,
)
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR


@pytest.fixture(params=[{}, {"contrast_vectors": "one_hot"}, {"pos_embed": "learned"}])
def saved(request, tmp_path):
    model = shake(AdaptiveMAE(make_config(**request.param)))
    path = tmp_path / "checkpoint_final.safetensors"
    save_checkpoint(path, model, {"versions": {"torch": "x"}})
    return model, path, request.param


def test_saved_and_loaded_model_gives_the_same_output(saved):
    model, path, _ = saved
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == model.config
    assert checkpoint.facts["versions"] == {"torch": "x"}
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    x, present = studies(model.config, ["110", "111"])
    packed = pack(model.config, x, present)
    outputs = [m(packed).loss for m in (model, load_mae(checkpoint))]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("contrasts", [("T2", "ADC", "TRACE"), ("T2", "TRACE"), ("ADC",)])
def test_weights_reach_adaptive_unetr_by_contrast_name(saved, contrasts):
    model, path, changes = saved
    config = make_config(contrasts=contrasts, **changes)
    network = AdaptiveUNETR(config, 2)
    unused = load_encoder(network, read_checkpoint(path), path)
    assert all(name.startswith(("decoder_", "mask_token")) for name in unused)
    rows = [model.config.contrasts.index(name) for name in contrasts]
    x = torch.randn(1, 3, *model.config.patch_size)
    present = torch.zeros(1, 3, dtype=torch.bool)
    present[:, rows] = True
    theirs = encode_all(model.encoder, model.config, x, present)[0].view(len(rows), -1, 20)
    ours = encode_all(network.encoder, config, x[:, rows], torch.ones(1, len(rows)).bool())[0]
    order = [sorted(rows).index(row) for row in rows]
    torch.testing.assert_close(ours.view(len(rows), -1, 20), theirs[order], rtol=1e-11, atol=1e-11)


def test_weights_reach_unetr_folded(saved):
    model, path, changes = saved
    config = make_config(**changes)
    network = UNETR(config, 2)
    before = network.encoder.patch_embed.weight.clone()
    load_encoder(network, read_checkpoint(path), path)
    assert not torch.equal(network.encoder.patch_embed.weight, before)
    for name, value in model.encoder.blocks.state_dict().items():
        assert torch.equal(network.encoder.blocks.state_dict()[name], value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 24}, "embed_dim 20 but the plan asks for 24"),
        ({"depth": 2}, "depth 3 but the plan asks for 2"),
        ({"strides": ((1, 2, 2),), "kernel_sizes": ((1, 3, 3),)}, "token_size"),
        ({"contrasts": ("ADC", "PD")}, "does not know contrast PD"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path, changes, message):
    path = tmp_path / "checkpoint_final.safetensors"
    save_checkpoint(path, AdaptiveMAE(make_config()), {})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(AdaptiveUNETR(make_config(**changes), 2), read_checkpoint(path), path)
    assert "\n" not in str(caught.value)
    assert "amae-nnunet" in str(caught.value) or "-tr " in str(caught.value)


def damage(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"network_weights": 1}))
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        tensors = load_file(path)
        content = json.loads(json.dumps({"model": read_checkpoint(path).facts["model"]}))
        if kind == "foreign":
            save_file(tensors, path)
            return
        if kind == "tensor":
            tensors["encoder.norm.weight"] = torch.zeros(3)
        if kind == "huge":
            content["model"]["embed_dim"] = 10**7
        if kind == "key":
            content["model"]["exec"] = "rm"
        save_file(tensors, path, metadata={"amae": json.dumps(content)})


@pytest.mark.parametrize("kind", ["missing", "pickle", "cut", "foreign", "tensor", "huge", "key"])
def test_a_bad_file_is_one_line_that_names_it(tmp_path, kind):
    path = tmp_path / "checkpoint_final.safetensors"
    save_checkpoint(path, AdaptiveMAE(make_config()), {})
    damage(path, kind)
    with pytest.raises(CheckpointError, match=r"checkpoint_final\.safetensors") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
