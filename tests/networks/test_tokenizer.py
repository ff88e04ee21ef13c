import numpy as np
import pytest
import reference
import torch
from tiny import parameters, shake

from amae_nnunet.networks.tokenizer import DynamicConvTokenizer, patchify, unpatchify

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
