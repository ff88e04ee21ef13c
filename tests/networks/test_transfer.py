"""A pre-trained encoder in networks of other plans and data sets."""

import dataclasses

import pytest
import torch
from tiny import encode_all, make_config, shake, studies
from torch.nn import functional as F

from amae_nnunet.errors import CheckpointError
from amae_nnunet.networks.attention import Segments
from amae_nnunet.networks.checkpoint import Checkpoint, load_mae
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.tokenizer import patchify
from amae_nnunet.networks.transfer import contrast_tables, for_contrasts, load_encoder
from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR

KINDS = [{}, {"contrast_vectors": "one_hot"}, {"pos_embed": "learned"}]
#: Half the voxels, so tokens of twice as many along the axis: the same tokens in mm.
FINER = {"patch_size": (4, 16, 12), "spacing": (2.5, 0.75, 1.0), "strides": ((1, 4, 2), (2, 2, 2))}


@pytest.fixture(params=KINDS)
def pretrained(request):
    model = shake(AdaptiveMAE(make_config(**request.param)))
    return model, Checkpoint(model.config, {}, model.state_dict()), request.param


def loaded(kind, checkpoint, tmp_path, **changes):
    network = kind(make_config(**changes), 2)
    return network, load_encoder(network, checkpoint, tmp_path / "c.safetensors")


def features(model, x, rows=None):
    """Hidden states after every block, of a complete study (1, C, Z, Y, X)."""
    present = torch.zeros(x.shape[:2], dtype=torch.bool)
    present[:, slice(None) if rows is None else rows] = True
    return encode_all(model.encoder, model.config, x, present, [1, 2, 3])


def test_features_are_bit_by_bit_those_of_the_pretrained_encoder(pretrained, tmp_path):
    model, checkpoint, changes = pretrained
    network, _ = loaded(AdaptiveUNETR, checkpoint, tmp_path, **changes)
    x = torch.randn(1, 3, *model.config.patch_size)
    before = AdaptiveUNETR(network.config, 2)
    for ours, theirs, new in zip(*(features(m, x) for m in (network, model, before)), strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.allclose(new, theirs, atol=0.1)


@pytest.mark.parametrize("contrasts", [("T2", "ADC", "TRACE"), ("T2", "ADC"), ("TRACE",)])
def test_contrasts_are_matched_by_name_whatever_their_order(pretrained, tmp_path, contrasts):
    """Up to rounding: the projector's product has as many rows as there are contrasts."""
    model, checkpoint, changes = pretrained
    network, _ = loaded(AdaptiveUNETR, checkpoint, tmp_path, contrasts=contrasts, **changes)
    rows = [model.config.contrasts.index(name) for name in contrasts]
    x = torch.randn(1, 3, *model.config.patch_size)
    ours = features(network, x[:, rows])[-1].unflatten(0, (len(rows), -1))
    theirs = features(model, x, rows)[-1].unflatten(0, (len(rows), -1))
    order = [sorted(rows).index(row) for row in rows]
    torch.testing.assert_close(ours, theirs[order], rtol=1e-11, atol=1e-11)


def test_an_unknown_contrast_is_the_mean_of_the_known_ones(pretrained, tmp_path):
    model, checkpoint, changes = pretrained
    network, transfer = loaded(
        AdaptiveUNETR, checkpoint, tmp_path, contrasts=("PD", "T2", "ADC"), **changes
    )
    scales = [torch.stack(part.encoder.patch_embed.scales()) for part in (network, model)]
    torch.testing.assert_close(scales[0][:, 0], scales[1].mean(dim=1))
    torch.testing.assert_close(scales[0][:, 1:], scales[1][:, [2, 0]])
    embedded = network.encoder.contrast_embed.weight, model.encoder.contrast_embed.weight
    torch.testing.assert_close(embedded[0][0], embedded[1].mean(dim=0))
    assert (transfer.contrasts.new, transfer.contrasts.unused) == (("PD",), ("TRACE",))
    assert str(transfer.contrasts) == (
        "T2, ADC from the checkpoint; PD unknown to it, set to the mean of its contrasts; its "
        "TRACE not in the data set and left out"
    )


def test_a_finer_grid_of_the_same_tokens_gives_the_same_features(pretrained, tmp_path):
    """The same places in mm and images interpolated token by token: nothing may change."""
    model, checkpoint, changes = pretrained
    network, transfer = loaded(AdaptiveUNETR, checkpoint, tmp_path, **FINER, **changes)
    old, new = model.config, network.config
    assert (old.token_size, new.token_size) == ((1, 4, 4), (2, 8, 4))
    assert old.token_mm == new.token_mm
    x, _ = studies(old, ["111"])
    voxels = patchify(x[0], old.token_size)
    finer = F.interpolate(voxels.view(-1, 1, *old.token_size), size=new.token_size,
                          mode="trilinear", align_corners=False)  # fmt: skip
    segments = Segments.of([3], old.num_tokens, 3)
    places = torch.arange(old.num_tokens)
    ours, theirs = (
        part.encoder(tokens, torch.arange(3), places, segments, [1, 2, 3])
        for part, tokens in ((network, finer.reshape(3, old.num_tokens, -1)), (model, voxels))
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert "the tokenizer's kernel is resampled from tokens of 1x4x4 voxels to 2x8x4" in (
        transfer.lines()
    )


def test_a_larger_patch_keeps_the_features_of_each_token_without_its_neighbours(
    pretrained, tmp_path
):
    """Positions are in mm: the first tokens of a larger grid are embedded as before."""
    model, checkpoint, changes = pretrained
    network, transfer = loaded(
        AdaptiveUNETR, checkpoint, tmp_path, patch_size=(4, 8, 16), **changes
    )
    table = network.encoder.pos_embed.weight.view(4, 2, 4, -1)[:2, :, :3].reshape(12, -1)
    torch.testing.assert_close(table, model.encoder.pos_embed.weight, rtol=1e-12, atol=1e-12)
    assert network(torch.randn(1, 3, 4, 8, 16)).shape == (1, 2, 4, 8, 16)
    assert "positions are computed anew, from a grid of 2x2x3 tokens to 4x2x4" in transfer.lines()


@pytest.mark.parametrize("changes", [{}, {"contrasts": ("PD", "T2", "ADC")}, FINER])
def test_unetr_gets_what_adaptive_unetr_gets_folded(pretrained, tmp_path, changes):
    """Its features are those of the adaptive encoder on the mean over contrasts of the tokens."""
    _, checkpoint, own = pretrained
    unetr, folded = loaded(UNETR, checkpoint, tmp_path, **changes, **own)
    adaptive, plain = loaded(AdaptiveUNETR, checkpoint, tmp_path, **changes, **own)
    config = unetr.config
    x, _ = studies(config, ["111", "111"])
    tokens = patchify(x, config.token_size)
    encoder = adaptive.encoder
    embedded = torch.stack(
        [
            (encoder.patch_embed(study, torch.arange(3)) + encoder.contrast_embed.weight[:, None])
            .mean(dim=0)
            .add(encoder.pos_embed.weight)
            for study in tokens
        ]
    )
    segments = Segments.of([1, 1], config.num_tokens, 1)
    expected = encoder.encode(embedded.flatten(0, 1), segments, [1, 2, 3])
    found = unetr.encoder(tokens.transpose(1, 2).flatten(2), [1, 2, 3])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.flatten(0, 1), b, rtol=1e-10, atol=1e-10)
    assert folded.contrasts == plain.contrasts


@pytest.mark.parametrize("kind", [AdaptiveUNETR, UNETR])
def test_all_of_the_encoder_is_loaded_and_nothing_else(pretrained, tmp_path, kind):
    _, checkpoint, changes = pretrained
    network = kind(make_config(**changes), 2)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    transfer = load_encoder(network, checkpoint, tmp_path / "c.safetensors")
    changed = {name for name, t in network.state_dict().items() if not torch.equal(t, before[name])}
    fixed = {"encoder.patch_embed.contrast_vectors.weight"} if "contrast_vectors" in changes else {}
    assert changed == {name for name in before if name.startswith("encoder.")} - set(fixed)
    encoder = network.encoder.state_dict()
    assert sum(transfer.parts.values()) == len(encoder)
    assert transfer.values == sum(t.numel() for t in encoder.values())
    assert transfer.left == sum(not name.startswith("encoder.") for name in checkpoint.tensors)
    lines = transfer.lines()
    assert f"{len(encoder)} tensors with {transfer.values} values: " in lines[0]
    assert "blocks (36)" in lines[0]
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)


def test_an_autoencoder_for_more_contrasts_is_the_same_on_the_old_ones(pretrained):
    model, checkpoint, _ = pretrained
    config = dataclasses.replace(model.config, contrasts=("PD", *model.config.contrasts))
    tensors = for_contrasts(checkpoint.tensors, checkpoint.config, config.contrasts)
    larger = load_mae(Checkpoint(config, {}, tensors))
    x = torch.randn(1, 3, *config.patch_size)
    wide = torch.cat([torch.zeros_like(x[:, :1]), x], dim=1)
    for a, b in zip(features(larger, wide, [1, 2, 3]), features(model, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    for name, dim in contrast_tables(config).items():
        mean = checkpoint.tensors[name].mean(dim)
        torch.testing.assert_close(larger.get_parameter(name).select(dim, 0), mean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 24}, "embed_dim 20 but the plan asks for 24"),
        ({"depth": 2}, "depth 3 but the plan asks for 2"),
        ({"pos_embed": "learned"}, "pos_embed sincos but the plan asks for learned"),
        ({"contrasts": ("adc", "PD")}, "ADC, TRACE, T2 and the data set has adc, PD: no name"),
    ],
)
def test_what_nothing_can_convert_is_refused_by_name(tmp_path, changes, message):
    model = AdaptiveMAE(make_config())
    with pytest.raises(CheckpointError, match=message) as caught:
        loaded(AdaptiveUNETR, Checkpoint(model.config, {}, model.state_dict()), tmp_path, **changes)
    assert "\n" not in str(caught.value)
