import itertools

import numpy as np
import pytest
import torch
from tiny import make_config, shake, studies
from torch.utils.flop_counter import FlopCounterMode

from amae_nnunet.errors import ContrastError
from amae_nnunet.networks.masking import Slots
from amae_nnunet.networks.tokenizer import patchify
from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR, fold_tokenizer, pool_contrasts
from amae_nnunet.networks.vit import AdaptiveViT

PRESENCE = ["101", "111", "010"]
PLANS = [
    {},
    {"patch_size": (4, 16, 16), "strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
     "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3))},
    {"patch_size": (2, 8, 8), "strides": ((1, 4, 4),), "kernel_sizes": ((1, 3, 3),)},
    {"patch_size": (16, 16, 32), "strides": ((1, 2, 2), *((2, 2, 2),) * 3, (1, 1, 2)),
     "kernel_sizes": ((1, 3, 3),) * 5, "depth": 2},
]  # fmt: skip


def rename(network, config, order):
    """The same network with its contrasts in another order, or with some left out."""
    names = [config.contrasts[i] for i in order]
    other = type(network)(make_config(**{**vars(config), "contrasts": tuple(names)}), 2)
    state = {name: t.clone() for name, t in network.state_dict().items()}
    for name in ("encoder.patch_embed.contrast_vectors.weight", "encoder.contrast_embed.weight"):
        state[name] = state[name][order]
    for name in ("decoder.stem.conv1.weight", "decoder.stem.shortcut.0.weight"):
        state[name] = state[name][:, order]
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", [AdaptiveUNETR, UNETR])
def test_logits_cover_the_patch_for_any_plan(kind, plan):
    config = make_config(**plan)
    x, _ = studies(config, PRESENCE)
    network = kind(config, 2)
    y = network(x)
    assert y.shape == (3, 2, *config.patch_size)
    y.square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_order_of_contrasts_changes_nothing(config):
    network = shake(AdaptiveUNETR(config, 2))
    x, _ = studies(config, PRESENCE)
    for order in itertools.permutations(range(3)):
        other = rename(network, config, list(order))
        torch.testing.assert_close(other(x[:, list(order)]), network(x), rtol=1e-11, atol=1e-11)


def test_an_absent_contrast_equals_one_never_given(config):
    network = shake(AdaptiveUNETR(config, 2))
    for row in ("101", "011", "100"):
        x, _ = studies(config, [row])
        kept = [i for i in range(3) if row[i] == "1"]
        other = rename(network, config, kept)
        torch.testing.assert_close(other(x[:, kept]), network(x), rtol=1e-12, atol=1e-12)


def test_studies_of_a_batch_do_not_touch_each_other(config):
    network = shake(AdaptiveUNETR(config, 2))
    x, _ = studies(config, PRESENCE)
    alone = torch.cat([network(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x), alone, rtol=1e-12, atol=1e-12)


def test_each_present_contrast_matters_and_absent_ones_cannot(config):
    network = shake(AdaptiveUNETR(config, 2))
    x, _ = studies(config, ["101"])
    changed = [(network(x + 0.1 * torch.eye(3)[i].view(1, 3, 1, 1, 1)) - network(x)).abs().max()
               for i in (0, 2)]  # fmt: skip
    assert min(changed) > 1e-6


def test_pooling_is_the_maximum_over_present_contrasts_by_loops():
    slots = Slots.of(torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]], dtype=torch.bool))
    states = torch.randn(6 * 4, 5) - 10  # all negative: a zero for the absent would win
    found = pool_contrasts(states.unflatten(0, (6, 4)), slots.study, 3)
    for b in range(3):
        for t in range(4):
            for e in range(5):
                mine = [states[m * 4 + t, e].item() for m in range(6) if slots.study[m] == b]
                assert found[b, t, e].item() == max(mine)


def test_folded_patch_embedding_is_the_mean_token(config):
    adaptive, unetr = shake(AdaptiveViT(config)), UNETR(config, 2)
    weight, bias = fold_tokenizer(adaptive.patch_embed, adaptive.contrast_embed.weight)
    voxels = torch.randn(3, 7, int(np.prod(config.token_size)))  # (C, tokens, p)
    stacked = voxels.transpose(0, 1).flatten(1)
    found = torch.nn.functional.linear(stacked, weight, bias)
    tokens = adaptive.patch_embed(voxels, torch.arange(3)) + adaptive.contrast_embed.weight[:, None]
    torch.testing.assert_close(found, tokens.mean(dim=0), rtol=1e-12, atol=1e-12)
    assert unetr.encoder.patch_embed.weight.shape == weight.shape


@pytest.mark.parametrize("kind", [AdaptiveUNETR, UNETR])
def test_a_wrong_number_of_channels_is_named(config, kind):
    network = kind(config, 2)
    with pytest.raises(ContrastError, match=r"2 channels .* 3 contrasts \(ADC, TRACE, T2\).*"):
        network(torch.randn(1, 2, *config.patch_size))
    with pytest.raises(ValueError, match="expected a patch"):
        network(torch.randn(1, 3, 2, 8, 8))


@pytest.mark.parametrize("kind", [AdaptiveUNETR, UNETR])
@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # of torch, on its own flags
def test_mixed_precision_stays_close(config, kind):
    """Without oneDNN: its half-precision convolutions give now and then a NaN gradient on CPUs
    that lack the instructions, and no stage of ours or of nnU-Net runs them in half precision.
    """
    torch.set_default_dtype(torch.float32)
    network = kind(config, 2)
    x, _ = studies(config, PRESENCE)
    with torch.backends.mkldnn.flags(enabled=False):
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x)
        y.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    full = network(x)
    assert (y.float() - full).abs().mean() < 0.05 * full.abs().mean()


def compute_all(network, x, present):
    """Logits with all C contrasts computed for every study, the absent ones masked out: slowly.

    Absent tokens are no keys of the attention, and minus infinity to the maximum.
    """
    encoder, config = network.encoder, network.config
    c, tokens = config.num_contrasts, config.num_tokens
    logits = []
    for image, flags in zip(x, present, strict=True):
        y = encoder.patch_embed(patchify(image, config.token_size), torch.arange(c))
        y = y + encoder.pos_embed(torch.arange(tokens)) + encoder.contrast_embed.weight[:, None]
        y, absent = y.flatten(0, 1), (~flags).repeat_interleave(tokens)
        states = []
        for number, block in enumerate(encoder.blocks, 1):
            heads = block.attn.qkv(block.norm1(y)).unflatten(-1, (3, block.attn.num_heads, -1))
            q, k, v = heads.permute(1, 2, 0, 3)  # (heads, T, width)
            weights = (q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5
            weights = weights.masked_fill(absent, -torch.inf).softmax(dim=-1)
            y = y + block.attn.proj((weights @ v).transpose(0, 1).flatten(1))
            y = y + block.mlp(block.norm2(y))
            if number in network.taps:
                state = encoder.norm(y) if number == config.depth else y
                state = state.masked_fill(absent[:, None], -torch.inf).unflatten(0, (c, tokens))
                states.append(state.amax(dim=0)[None])
        logits.append(network.decoder(image[None], states))
    return torch.cat(logits)


@pytest.mark.parametrize("presence", [["100"], ["011"], ["101"] * 4, ["111", "001", "110"]])
def test_only_present_contrasts_are_computed_and_the_result_is_that_of_all(config, presence):
    network = shake(AdaptiveUNETR(config, 2))
    x, present = studies(config, presence)
    computed = []
    network.encoder.blocks[0].register_forward_hook(lambda _, given, __: computed.append(given[0]))
    found = network(x)
    assert [len(tokens) for tokens in computed] == [int(present.sum()) * config.num_tokens]
    torch.testing.assert_close(found, compute_all(network, x, present), rtol=1e-12, atol=1e-12)


def stem_flops(network, x):
    """Operations of the full-resolution skip in one pass."""
    with FlopCounterMode(display=False) as counter:
        network(x)
    name = f"{type(network).__name__}.decoder.stem"
    return sum(counter.get_flop_counts()[name].values())


def test_the_skip_pays_only_for_contrasts_that_some_study_has(config):
    network = shake(AdaptiveUNETR(config, 2))
    stem, voxels = network.decoder.stem, 2 * np.prod(config.patch_size)
    second = stem.conv2.weight.numel()
    first = stem.conv1.weight.numel() + stem.shortcut[0].weight.numel()
    for presence, share in ((["111", "100"], 1), (["100", "001"], 2 / 3), (["010", "010"], 1 / 3)):
        x, _ = studies(config, presence)
        assert stem_flops(network, x) == 2 * voxels * (share * first + second)
        network.zero_grad()
        network(x).square().sum().backward()
        touched = stem.conv1.weight.grad.abs().sum(dim=(0, 2, 3, 4)) > 0
        assert touched.tolist() == [any(row[c] == "1" for row in presence) for c in range(3)]


@pytest.mark.parametrize("kind", [AdaptiveUNETR, UNETR])
def test_activation_checkpointing_changes_no_gradient(config, kind):
    plain, frugal = shake(kind(config, 2)), kind(config, 2, activation_checkpointing=True)
    frugal.load_state_dict(plain.state_dict())
    x, _ = studies(config, PRESENCE)
    runs = []
    for network in (plain, frugal):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: (kept.append(t.numel()), t)[1], lambda t: t
        ):
            y = network(x)
        y.square().sum().backward()
        runs.append((y, [p.grad for p in network.parameters()], sum(kept)))
    (y, expected, much), (other, found, little) = runs
    assert torch.equal(other, y)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert little < 0.6 * much
