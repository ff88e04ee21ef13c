"""What the benchmarks take for the operations of a pass, against PyTorch's own counter."""

import sys
from pathlib import Path

import pytest
from tiny import make_config, pack, studies
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.mae import AdaptiveMAE

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from flops import mae_flops


@pytest.mark.parametrize("contrast_vectors", ["learned", "one_hot"])
@pytest.mark.parametrize("presence", [["111"], ["100", "011", "111"]])
def test_the_formula_is_what_pytorch_counts(presence, contrast_vectors):
    """With attention as plain matrix products, which PyTorch's counter sees on any device."""
    config = make_config(contrast_vectors=contrast_vectors, mlp_ratio=3.0)
    model = AdaptiveMAE(config)
    packed = pack(config, *studies(config, presence), ratio=0.7)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(packed)
    counts = [row.count("1") for row in presence]
    assert mae_flops(config, counts, 0.7) == counter.get_total_flops()


def test_vit_base_on_96_voxels_costs_what_it_does():
    """67 GFLOP for four contrasts (16 voxels a token, 70 % masked, decoder 384 x 4)."""
    config = ModelConfig(
        contrasts=("T1", "T2", "FLAIR", "T1CE"),
        patch_size=(96, 96, 96),
        spacing=(1.0, 1.0, 1.0),
        strides=((2, 2, 2),) * 4,
        kernel_sizes=((3, 3, 3),) * 4,
    )
    assert mae_flops(config, [4], 0.7) == pytest.approx(67.2e9, rel=1e-3)
