import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_config, pack, shake, studies

from amae_nnunet.errors import CheckpointError
from amae_nnunet.networks.checkpoint import load_mae, read_checkpoint, save_checkpoint
from amae_nnunet.networks.mae import AdaptiveMAE


@pytest.fixture(params=[{}, {"contrast_vectors": "one_hot"}, {"pos_embed": "learned"}])
def saved(request, tmp_path):
    model = shake(AdaptiveMAE(make_config(**request.param)))
    path = tmp_path / "checkpoint_final.safetensors"
    save_checkpoint(path, model, {"versions": {"torch": "x"}})
    return model, path


def test_saved_and_loaded_model_gives_the_same_output(saved):
    model, path = saved
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == model.config
    assert checkpoint.facts["versions"] == {"torch": "x"}
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    x, present = studies(model.config, ["110", "111"])
    packed = pack(model.config, x, present)
    outputs = [m(packed).loss for m in (model, load_mae(checkpoint))]
    assert torch.equal(*outputs)


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


def test_a_checkpoint_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "checkpoint_final.safetensors"
    save_checkpoint(path, AdaptiveMAE(make_config()), {"schema": 2})
    with pytest.raises(CheckpointError, match="has schema 2, this version reads 1: upgrade"):
        read_checkpoint(path)
