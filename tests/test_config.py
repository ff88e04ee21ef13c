import dataclasses
import json

import pytest
from tiny import make_config

from amae_nnunet.config import ModelConfig, PretrainingConfig, TrainingConfig, token_strides
from amae_nnunet.errors import ConfigError

PLAN = {
    "patch_size": [32, 256, 224],
    "spacing": [5.16, 0.94, 0.94],
    "architecture": {
        "arch_kwargs": {
            "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
            "kernel_sizes": [[1, 3, 3], [1, 3, 3]] + [[3, 3, 3]] * 4,
        }
    },
}
CONTRASTS = ("T1", "FLAIR", "T1CE")


def test_defaults_are_the_papers_but_for_the_rate_of_the_pretraining():
    config = ModelConfig.from_plan(PLAN, {}, CONTRASTS)
    assert (config.embed_dim, config.depth, config.encoder_heads) == (768, 12, 12)
    p, t = PretrainingConfig(), TrainingConfig()
    assert (p.num_epochs, p.batch_size, p.weight_decay, p.mask_ratio) == (500, 4, 0.05, 0.7)
    assert (p.lr, p.schedule) == (1e-4, "cosine")  # the paper: 1e-5, for 5.7 million steps
    assert (t.num_epochs, t.lr, t.weight_decay, t.loss) == (200, 1e-4, 0.05, "dice")


def test_tokens_follow_the_plans_strides():
    config = ModelConfig.from_plan(PLAN, {}, CONTRASTS)
    assert config.token_size == (4, 16, 16)
    assert config.grid_size == (8, 16, 14)
    assert config.num_tokens == 1792
    assert config.token_mm == pytest.approx((20.64, 15.04, 15.04))
    assert config.kernel_sizes == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
    assert ModelConfig.from_plan(PLAN, {"num_strides": 3}, CONTRASTS).token_size == (2, 8, 8)


def test_a_stride_is_appended_while_there_are_too_many_tokens():
    pooling = [[1, 1, 1], *[[1, 2, 2]] * 3, *[[2, 2, 2]] * 2, [1, 2, 2]]
    assert len(token_strides(pooling, (16, 320, 320))) == 5  # 3200 tokens with four strides
    assert len(token_strides(pooling, (16, 256, 256))) == 4  # 2048
    assert len(token_strides(pooling, (16, 320, 320), 4)) == 4  # asked for


def test_encoder_presets_and_own_values():
    config = ModelConfig.from_plan(PLAN, {"encoder": "large", "depth": 3}, CONTRASTS)
    assert (config.embed_dim, config.depth, config.encoder_heads) == (1024, 3, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dims": 3}, "did you mean embed_dim"),
        ({"contrasts": 3}, "unknown key 'contrasts'"),
        ({"embed_dim": 12.5}, "not of type int"),
        ({"embed_dim": True}, "not of type int"),
        ({"embed_dim": 0}, "at least 1"),
        ({"pos_embed": "rope"}, "pos_embed='rope'"),
        ({"contrast_vectors": "fixed"}, "contrast_vectors='fixed'"),
        ({"mlp_ratio": float("nan")}, "not of type float"),
        ({"num_strides": 6}, "between 1 and the plan's 5"),
    ],
)
def test_bad_settings_are_refused_by_key(settings, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_plan(PLAN, settings, CONTRASTS)


def test_a_2d_plan_is_refused():
    with pytest.raises(ConfigError, match="2d configuration"):
        ModelConfig.from_plan({**PLAN, "patch_size": [256, 256]}, {}, CONTRASTS)


def test_config_survives_json():
    config = make_config()
    assert ModelConfig.from_json(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(ConfigError, match="strides is missing"):
        ModelConfig.from_json({**dataclasses.asdict(config), "strides": None})
