import numpy as np
import pytest
import reference
import torch
from tiny import parameters, shake
from torch.nn import functional as F

from amae_nnunet.networks.tokenizer import (
    DynamicConvTokenizer,
    patchify,
    resize_kernel,
    unpatchify,
)

TOKENS = [(1, 4, 4), (2, 2, 3), (2, 4, 6)]


@pytest.mark.parametrize("token", TOKENS)
def test_unpatchify_undoes_patchify(token):
    x = torch.randn(2, 3, 2, 8, 12)
    grid = tuple(n // t for n, t in zip(x.shape[2:], token, strict=True))
    assert torch.equal(unpatchify(patchify(x, token), grid, token), x)


@pytest.mark.parametrize("token", TOKENS)
def test_patchify_puts_each_voxel_where_the_loops_do(token):
    image = torch.randn(2, 8, 12)
    tokens = patchify(image, token)
    for t in range(len(tokens)):
        assert tokens[t].tolist() == reference.token_voxels(image.numpy(), t, token)


def resize(tokens, old, new):
    """Tokens (..., p) interpolated by torch, each as an image of its own."""
    images = tokens.reshape(-1, 1, *old)
    images = F.interpolate(images, size=new, mode="trilinear", align_corners=False)
    return images.reshape(*tokens.shape[:-1], -1)


SIZES = [
    ((2, 4, 4), (2, 4, 4)), ((2, 4, 3), (4, 8, 9)), ((4, 4, 4), (2, 2, 2)), ((1, 4, 4), (4, 4, 1)),
    ((3, 5, 4), (4, 3, 7)), ((1, 8, 8), (1, 7, 9)),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_a_resized_kernel_is_the_pseudo_inverse_of_the_whole_interpolation(old, new):
    """Against B written out for all voxels at once, from torch's interpolation of unit tokens."""
    p = int(np.prod(old))
    b = resize(torch.eye(p), old, new).numpy().T  # (p', p)
    weight = torch.randn(6, p)
    expected = (np.linalg.pinv(b.T, 1e-10) @ weight.numpy().T).T  # some versions keep rounding
    found = resize_kernel(weight, old, new).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_a_resized_kernel_is_the_best_there_is():
    """No change of it lowers the mean squared difference over white tokens."""
    old, new = (2, 4, 5), (1, 3, 4)
    tokens = torch.randn(4000, 40)
    tokens = torch.linalg.qr(tokens - tokens.mean(dim=0))[0] * 4000**0.5  # exactly white
    weight, resized = torch.randn(3, 40), resize(tokens, old, new)
    best = resize_kernel(weight, old, new).requires_grad_()
    error = (tokens @ weight.T - resized @ best.T).square().mean()
    assert torch.autograd.grad(error, best)[0].abs().max() < 1e-12 < 1e-3 < error


@pytest.mark.parametrize(("old", "factor"), [((2, 4, 4), (2, 2, 2)), ((1, 4, 6), (1, 3, 2))])
def test_images_of_finer_voxels_give_the_same_tokens(old, factor):
    new = tuple(n * f for n, f in zip(old, factor, strict=True))
    tokenizer = shake(DynamicConvTokenizer(int(np.prod(old)), 3, 10, 4))
    finer = DynamicConvTokenizer(int(np.prod(new)), 3, 10, 4)
    state = tokenizer.state_dict()
    finer.load_state_dict({**state, "proj.weight": resize_kernel(state["proj.weight"], old, new)})
    tokens, contrast = torch.randn(3, 7, int(np.prod(old))), torch.arange(3)
    found = finer(resize(tokens, old, new), contrast)
    torch.testing.assert_close(found, tokenizer(tokens, contrast), rtol=1e-11, atol=1e-11)


def test_a_kernel_of_the_same_size_is_untouched_and_half_precision_is_kept():
    weight = torch.randn(6, 32)
    assert resize_kernel(weight, (2, 4, 4), (2, 4, 4)) is weight
    assert resize_kernel(weight.bfloat16(), (2, 4, 4), (4, 4, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("token", TOKENS)
def test_tokenizer_is_a_convolution_with_scaled_weights_and_biases(token, one_hot):
    tokenizer = shake(DynamicConvTokenizer(int(np.prod(token)), 3, 6, 4, one_hot))
    p = parameters(tokenizer)
    images = torch.randn(3, 2, 8, 12)
    for row in range(3):
        voxels = patchify(images[row], token)
        found = tokenizer(voxels[None], torch.tensor([row]))[0].detach().numpy()
        expected = reference.dynamic_tokens(
            images[row].numpy(),
            p["proj.weight"],
            p["proj.bias"],
            p["projector.weight"],
            p["projector.bias"],
            p["contrast_vectors.weight"][row],
            token,
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_tokenizer_starts_as_a_shared_convolution_with_a_living_bias():
    tokenizer = DynamicConvTokenizer(16, 3, 64)
    w, _ = tokenizer.scales()
    assert abs(w.mean().item() - 1) < 0.05
    assert w.std() < 0.5
    assert tokenizer.proj.bias.abs().min() > 0
    tokenizer(torch.zeros(3, 1, 16), torch.arange(3)).sum().backward()
    assert tokenizer.projector.weight.grad[64:].abs().min() > 0


def test_one_hot_vectors_are_fixed_and_learned_ones_are_not():
    assert not DynamicConvTokenizer(4, 3, 6, one_hot=True).contrast_vectors.weight.requires_grad
    assert DynamicConvTokenizer(4, 3, 6).contrast_vectors.weight.requires_grad
