"""Whatever a checkpoint's metadata, its header or its tensors say."""

import json
import struct

import pytest
import torch
from fuzz.strategies import FUZZ, JSON, TEXT, answer, changed, changed_file
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import make_config

from amae_nnunet.errors import AMAEError, CheckpointError
from amae_nnunet.networks.checkpoint import Checkpoint, load_mae, read_checkpoint, save_checkpoint
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.plans.seen import SeenCases

FACTS = {
    "schema": 1,
    "pretraining": {"mask_ratio": 0.7, "num_epochs": 2},
    "num_cases": 3,
    "seen_cases": SeenCases.of(["a", "b", "c"]).to_json(),
    "added_contrasts": [{"contrast": "T2", "studies": 3}],
    "versions": {"torch": "2"},
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Tensors, and the facts with the model, of a good checkpoint."""
    path = tmp_path_factory.mktemp("good") / "checkpoint_final.safetensors"
    save_checkpoint(path, AdaptiveMAE(make_config()), FACTS)
    return path, load_file(path), read_checkpoint(path).facts


def read(path):
    """As a user would: read, take what the commands take, build the model."""
    found = answer(read_checkpoint, path)
    if isinstance(found, Checkpoint):
        answer(lambda: found.mask_ratio)
        "x" in SeenCases.from_json(found.facts.get("seen_cases", {}))  # noqa: B015
        model = load_mae(found)
        assert model.config.contrasts == found.config.contrasts
    else:
        assert isinstance(found, CheckpointError)
    return found


@FUZZ
@given(data=st.data())
def test_metadata(good, data):
    path, tensors, facts = good
    text = data.draw(changed_file(facts)).decode("utf-8", "replace")
    target = path.with_name("changed.safetensors")
    save_file(tensors, target, metadata={"amae": text})
    read(target)
    assert sorted(p.name for p in path.parent.iterdir()) <= [
        "changed.safetensors", "checkpoint_final.safetensors", "cut.safetensors",
    ]  # fmt: skip


@FUZZ
@given(data=st.data())
def test_models(good, data):
    path, tensors, facts = good
    content = {**facts, "model": data.draw(changed(facts["model"]) | JSON)}
    target = path.with_name("changed.safetensors")
    save_file(tensors, target, metadata={"amae": json.dumps(content)})
    found = read(target)
    if not isinstance(found, AMAEError):
        assert {name: t.shape for name, t in found.tensors.items()} == {
            name: t.shape for name, t in tensors.items()
        }


@FUZZ
@given(data=st.data())
def test_tensors(good, data):
    path, tensors, facts = good
    changed_tensors = dict(tensors)
    name = data.draw(st.sampled_from(sorted(tensors)))
    shape = data.draw(st.lists(st.integers(0, 9), max_size=4))
    kind = data.draw(st.sampled_from([torch.float32, torch.int64, torch.bool, torch.float16]))
    changed_tensors[data.draw(st.just(name) | TEXT.filter(str.isprintable))] = torch.zeros(
        shape, dtype=kind
    )
    target = path.with_name("changed.safetensors")
    save_file(changed_tensors, target, metadata={"amae": json.dumps(facts)})
    read(target)


@FUZZ
@given(data=st.data())
def test_headers(good, data):
    """The safetensors header itself: sizes and offsets that are not those of the file."""
    path, *_ = good
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(data.draw(changed(header))).encode()
    size = data.draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    target = path.with_name("changed.safetensors")
    target.write_bytes(struct.pack("<Q", size) + text + content[8 + length :])
    read(target)


@FUZZ
@given(data=st.data())
def test_bytes(good, data):
    path, *_ = good
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    target = path.with_name("cut.safetensors")
    target.write_bytes(content[:cut])
    read(target)
