import numpy as np
import pytest
import reference
import torch
from tiny import make_config, parameters, shake, studies

from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.masking import Slots, random_masking

PRESENCE = ["101", "111", "010"]


def run(model, x, present, seed=1, **options):
    slots = Slots.of(present)
    generator = torch.Generator().manual_seed(seed)
    masked = random_masking(slots, model.config.num_tokens, 0.6, generator, **options)
    return model(x, slots, masked)


@pytest.mark.parametrize("whole_contrast_prob", [0.0, 1.0])
def test_loss_matches_the_loops(whole_contrast_prob):
    config = make_config(patch_size=(2, 4, 12), depth=1, decoder_depth=1)
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    output = run(model, x, present, whole_contrast_prob=whole_contrast_prob)
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
    np.testing.assert_allclose(output.contrast_loss.numpy(), expected, rtol=1e-11)


def test_packed_batch_has_the_loss_and_gradients_of_one_study_at_a_time(config):
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    output = run(model, x, present)
    model.zero_grad()
    output.loss.backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    total = 0.0
    for study, part in enumerate(output.masked.split(output.slots.counts)):
        alone = model(x[study : study + 1], Slots.of(present[study : study + 1]), part)
        share = part.sum() / output.masked.sum()
        (alone.loss * share).backward()
        total += (alone.loss * share).item()
    assert total == pytest.approx(output.loss.item(), rel=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, packed[name], rtol=1e-11, atol=1e-13)


def test_a_hidden_voxel_gets_no_gradient_through_the_encoder_and_a_visible_one_does(config):
    """A mask that is transposed against its tokens fails here."""
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    x = x.requires_grad_()
    captured = []
    model.encoder.register_forward_hook(lambda _m, _i, states: captured.append(states[0]))
    output = run(model, x, present)
    (gradient,) = torch.autograd.grad(captured[0].square().sum(), x)
    hidden, _ = model.reconstruct(output, x.detach())
    visible = present[:, :, None, None, None] & ~hidden
    assert torch.equal(gradient != 0, visible)
    assert visible.any()
    assert hidden.any()


def test_the_loss_counts_hidden_voxels_only(config):
    """The prediction's error at a visible voxel must not move the loss, at a hidden one it must."""
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    output = run(model, x, present)
    hidden, rebuilt = model.reconstruct(output, x)
    error = (rebuilt - x)[hidden]
    assert output.loss.item() == pytest.approx(error.square().mean().item(), rel=1e-12)
    assert torch.equal(rebuilt[~hidden], x[~hidden])


def test_an_absent_contrast_is_never_read(config):
    model = shake(AdaptiveMAE(config))
    x, present = studies(config, PRESENCE)
    clean = run(model, x, present)
    x = x.masked_fill(~present[:, :, None, None, None], float("nan"))
    assert torch.equal(run(model, x, present).loss, clean.loss)


def test_every_parameter_learns(config):
    model = AdaptiveMAE(config)
    x, present = studies(config, PRESENCE)
    run(model, x, present).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_mixed_precision_stays_close(config):
    torch.set_default_dtype(torch.float32)
    model = AdaptiveMAE(config)
    x, present = studies(config, PRESENCE)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(model, x, present)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(run(model, x, present).loss.item(), rel=0.02)
    model.reconstruct(output, x)
