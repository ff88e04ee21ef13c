import numpy as np
import reference
import torch
from tiny import encode_all, parameters, shake, studies

from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.vit import AdaptiveViT, tap_depths


def test_encoder_matches_the_loops_for_every_study_of_a_mixed_batch(config):
    encoder = shake(AdaptiveViT(config))
    x, present = studies(config, ["101", "111", "010"])
    states = encode_all(encoder, config, x, present, [1, 2, 3])
    p = {f"encoder.{name}": value for name, value in parameters(encoder).items()}
    first = 0
    for study in range(3):
        rows = present[study].nonzero()[:, 0].tolist()
        length = len(rows) * config.num_tokens
        images = {row: x[study, row].numpy() for row in rows}
        embedded = reference.embed_study(images, p, config)
        expected = reference.encode(np.concatenate([embedded[row] for row in rows]), p, config)
        for tap, state in zip([1, 2, 3], states, strict=True):
            found = state[first : first + length].detach().numpy()
            np.testing.assert_allclose(found, expected[tap], rtol=1e-10, atol=1e-10)
        first += length


def test_packed_studies_equal_one_at_a_time(config):
    encoder = shake(AdaptiveViT(config))
    x, present = studies(config, ["111", "110", "110", "001"])

    packed = encode_all(encoder, config, x, present)[0]
    single = [encode_all(encoder, config, x[i : i + 1], present[i : i + 1])[0] for i in range(4)]
    torch.testing.assert_close(packed, torch.cat(single), rtol=1e-12, atol=1e-12)


def test_a_token_first_attends_to_what_is_like_it(config):
    """Before any training the scores of a head are a positive semi-definite likeness."""
    for block in [*AdaptiveViT(config).blocks, *AdaptiveMAE(config).decoder_blocks]:
        attn, x = block.attn, torch.randn(11, block.norm1.normalized_shape[0])
        q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
        scores = q @ k.transpose(1, 2)
        torch.testing.assert_close(scores, scores.transpose(1, 2))
        assert torch.linalg.eigvalsh(scores).min() > -1e-9
        assert not torch.equal(k, v)


def test_taps_are_evenly_spaced():
    assert tap_depths(12, 4) == [3, 6, 9, 12]
    assert tap_depths(2, 4) == [1, 1, 2, 2]
    assert tap_depths(12, 5) == [3, 5, 8, 10, 12]


def test_block_parameters_carry_timms_names(config):
    names = set(AdaptiveViT(config).blocks[0].state_dict())
    assert names == {
        f"{layer}.{kind}"
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
