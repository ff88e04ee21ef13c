import dataclasses

import numpy as np
import pytest
import reference
import torch
from tiny import make_config, pack, parameters, shake, studies

from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.masking import Slots
from amae_nnunet.networks.packing import pack_studies

PRESENCE = ["101", "111", "010"]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same(found, expected, rel=1e-12):
    """Each gradient, as one vector."""
    for name, value in expected.items():
        assert (found[name] - value).norm() <= rel * value.norm(), name


def one_at_a_time(model, x, present, packed):
    """Loss and gradients of a batch, one study after the other, with the masks of ``packed``."""
    total, summed = 0.0, {}
    slots = Slots.of(present)
    masks = packed.masked[: slots.real]
    for study, masked in enumerate(masks.split(slots.counts)):
        alone = slice(study, study + 1)
        one = pack_studies(x[alone], Slots.of(present[alone]), masked, model.config)
        loss = model(one).loss * (masked.sum() / masks.sum())
        total += loss.item()
        for name, gradient in gradients(model, loss).items():
            summed[name] = summed.get(name, 0) + gradient
    return total, summed


@pytest.mark.parametrize("whole_contrast_prob", [0.0, 1.0])
def test_loss_matches_the_loops(whole_contrast_prob):
    config = make_config(patch_size=(2, 4, 12), depth=1, decoder_depth=1)
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    output = model(pack(config, x, present, whole_contrast_prob=whole_contrast_prob))
    p = parameters(model)
    errors = {row: [] for row in range(3)}
    for study in range(3):
        slots = [m for m in range(len(output.masked)) if output.slots.study[m] == study]
        rows = [int(output.slots.contrast[m]) for m in slots]
        images = {row: x[study, row].numpy() for row in rows}
        masked = {row: output.masked[m].numpy() for row, m in zip(rows, slots, strict=True)}
        for row, values in reference.mae_study(images, masked, p, config).items():
            errors[row] += values
    everything = [e for values in errors.values() for e in values]
    assert output.loss.item() == pytest.approx(np.mean(everything), rel=1e-11)
    expected = [np.mean(errors[row]) for row in range(3)]
    np.testing.assert_allclose((output.error / output.count).numpy(), expected, rtol=1e-11)


def random_case(seed):
    """A model on anisotropic tokens and a batch of 1 to 5 studies, all drawn at random."""
    rng = np.random.default_rng(seed)
    strides = tuple(tuple(int(s) for s in rng.integers(1, 4, 3)) for _ in range(2))
    grid = rng.integers(1, 4, 3) + np.array([0, 0, 1])
    c = int(rng.integers(2, 5))
    config = make_config(
        contrasts=("ADC", "TRACE", "T2", "GRE")[:c],
        strides=strides,
        patch_size=tuple(int(n) for n in grid * np.prod(strides, axis=0)),
        pos_embed=str(rng.choice(["sincos", "learned"])),
        depth=2,
        decoder_depth=1,
    )
    present = rng.random((int(rng.integers(1, 6)), c)) < 0.6
    present[np.arange(len(present)), rng.integers(0, c, len(present))] = True
    x, present = studies(config, ["".join("01"[int(flag)] for flag in row) for row in present])
    options = {"ratio": float(rng.uniform(0.05, 0.95)), "seed": seed}
    return shake(AdaptiveMAE(config)), x, present, options, rng


@pytest.mark.parametrize("whole_contrast_prob", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(12))
def test_packed_and_filled_batches_equal_one_study_at_a_time(seed, whole_contrast_prob):
    """Loss and every gradient, for random contrasts, tokens and mask ratios."""
    model, x, present, options, rng = random_case(seed)
    options["whole_contrast_prob"] = whole_contrast_prob
    packed = pack(model.config, x, present, **options)
    output = model(packed)
    found = gradients(model, output.loss)
    total, summed = one_at_a_time(model, x, present, packed)
    assert output.loss.item() == pytest.approx(total, rel=1e-12)
    assert_same(found, summed)
    budget = int(present.sum() + rng.integers(0, 6))
    filled = pack(model.config, x, present, budget=budget, **options)
    if not torch.equal(filled.masked[: len(packed.masked)], packed.masked):  # other whole contrasts
        total, summed = one_at_a_time(model, x, present, filled)
    output = model(filled)
    assert output.loss.item() == pytest.approx(total, rel=1e-12)
    assert_same(gradients(model, output.loss), summed)
    assert len(filled.contrast) == budget


def test_a_filled_batch_reports_and_rebuilds_as_a_plain_one(config):
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    plain, filled = (model(pack(config, x, present, budget=budget)) for budget in (0, 11))
    means = [output.error / output.count for output in (filled, plain)]
    torch.testing.assert_close(*means, rtol=1e-12, atol=0)
    for one, other in zip(model.reconstruct(filled, x), model.reconstruct(plain, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("budget", [0, 9])
def test_every_slot_has_as_many_visible_tokens_and_shapes_keep_to_a_budget(config, budget):
    x, present = studies(config, PRESENCE)
    packed = pack(config, x, present, budget=budget)
    m, num_tokens, p = budget or 6, config.num_tokens, int(np.prod(config.token_size))
    visible = num_tokens - round(0.6 * num_tokens)
    assert packed.visible.shape == (m, visible, p)
    assert packed.hidden.shape == (m * (num_tokens - visible), p)
    assert packed.decoder_segments.cu_seqlens[-1] == m * num_tokens
    assert len(packed.encoder_segments.cu_seqlens) == (10 if budget else 4)
    order = torch.sort(packed.position, dim=1).values
    assert torch.equal(order, torch.arange(num_tokens).expand(m, -1))


def test_slots_with_different_numbers_of_visible_tokens_are_refused(config):
    x, present = studies(config, PRESENCE)
    slots = Slots.of(present)
    masked = torch.zeros(6, config.num_tokens, dtype=torch.bool)
    masked[0, 0] = True
    with pytest.raises(ValueError, match=r"one number of visible tokens.*\[11, 12\]"):
        pack_studies(x, slots, masked, config)
    with pytest.raises(ValueError, match="above 0"):
        pack_studies(x, slots, torch.ones_like(masked), config)


@pytest.mark.parametrize("budget", [0, 9])
def test_a_hidden_voxel_gets_no_gradient_through_the_encoder_and_a_visible_one_does(config, budget):
    """A mask that is transposed against its tokens fails here."""
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    x = x.requires_grad_()
    packed = pack(config, x, present, budget=budget)
    output = model(dataclasses.replace(packed, hidden=packed.hidden.detach()))
    (gradient,) = torch.autograd.grad(output.loss, x)
    hidden, _ = model.reconstruct(output, x.detach())
    visible = present[:, :, None, None, None] & ~hidden
    assert torch.equal(gradient != 0, visible)
    assert visible.any()
    assert hidden.any()


def test_a_contrast_that_is_hidden_whole_reaches_neither_encoder_nor_prediction(config):
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, ["111", "110"])
    packed = pack(config, x, present, whole_contrast_prob=1.0)
    whole = packed.masked.all(dim=1).nonzero()[:, 0]
    assert len(whole) == 2
    assert not set(packed.seen.tolist()) & set(whole.tolist())
    changed = x.clone()
    changed[packed.slots.study[whole], packed.slots.contrast[whole]] += 5
    other = pack(config, changed, present, whole_contrast_prob=1.0)
    assert torch.equal(model(other).pred, model(packed).pred)
    assert not torch.equal(model(other).loss, model(packed).loss)


def test_the_loss_counts_hidden_voxels_only(config):
    """The prediction's error at a visible voxel must not move the loss, at a hidden one it must."""
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    output = model(pack(config, x, present))
    hidden, rebuilt = model.reconstruct(output, x)
    error = (rebuilt - x)[hidden]
    assert output.loss.item() == pytest.approx(error.square().mean().item(), rel=1e-12)
    assert torch.equal(rebuilt[~hidden], x[~hidden])


def test_an_absent_contrast_is_never_read(config):
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    clean = model(pack(config, x, present, budget=8))
    x = x.masked_fill(~present[:, :, None, None, None], float("nan"))
    assert torch.equal(model(pack(config, x, present, budget=8)).loss, clean.loss)


def test_every_parameter_learns(config):
    model = AdaptiveMAE(config)
    x, present = studies(config, PRESENCE)
    model(pack(config, x, present)).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_activation_checkpointing_changes_no_gradient(config):
    plain, frugal = AdaptiveMAE(config), AdaptiveMAE(config, activation_checkpointing=True)
    frugal.load_state_dict(shake(plain).state_dict())
    x, present = studies(config, PRESENCE)
    packed = pack(config, x, present)
    saved = []
    for model in (plain, frugal):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: (kept.append(t.numel()), t)[1], lambda t: t
        ):
            loss = model(packed).loss
        saved.append((loss, gradients(model, loss), sum(kept)))
    (loss, expected, much), (other, found, little) = saved
    assert torch.equal(other, loss)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert little < 0.5 * much


def test_numerics_in_single_and_half_precision():
    """Against float64, as bounds on the whole: 1e-5 in float32, 2e-2 under bfloat16 autocast."""
    config = make_config(
        patch_size=(4, 16, 24), embed_dim=64, depth=4, decoder_embed_dim=48, decoder_depth=2
    )
    exact = AdaptiveMAE(config)
    x, present = studies(config, ["101", "111", "010", "111"])
    packed = pack(config, x, present, ratio=0.7)
    loss = exact(packed).loss
    expected = gradients(exact, loss)
    torch.set_default_dtype(torch.float32)
    model = AdaptiveMAE(config)
    model.load_state_dict(exact.state_dict())
    single = {name: getattr(packed, name).float() for name in ("visible", "hidden", "counted")}
    packed = dataclasses.replace(packed, **single)
    for autocast, bound in ((False, 1e-5), (True, 2e-2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(packed)
        assert output.loss.item() == pytest.approx(loss.item(), rel=bound)
        found = gradients(model, output.loss)
        assert_same({n: g.double() for n, g in found.items()}, expected, bound)
        model.reconstruct(output, x.float())
