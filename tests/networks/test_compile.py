"""What ``torch.compile`` sees: no graph breaks, and few graphs however contrasts are mixed."""

import pytest
import torch
from tiny import make_config, pack, shake, studies
from torch._dynamo.testing import CompileCounterWithBackend
from torch.torch_version import TorchVersion

from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.unetr import AdaptiveUNETR

#: Older PyTorch makes more graphs of the same code: results are checked there, not their number.
COUNTED = TorchVersion(torch.__version__) >= (2, 14)
#: Ten mixtures of contrasts in batches of four studies.
MIXTURES = [
    "111 111 111 111", "100 010 001 100", "110 111 010 100", "111 101 011 110", "101 101 101 101",
    "001 111 001 111", "110 011 110 001", "111 111 111 100", "010 010 110 110", "011 100 100 011",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, on itself
@pytest.mark.parametrize(
    ("budget", "graphs", "activation_checkpointing"), [(12, 1, True), (0, 2, False)]
)
def test_the_autoencoder_is_one_graph_with_a_slot_budget_and_two_without(
    budget, graphs, activation_checkpointing
):
    config = make_config(depth=1, decoder_depth=1)
    model = shake(AdaptiveMAE(config, activation_checkpointing))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)  # a break would raise
    for mixture in MIXTURES:
        x, present = studies(config, mixture.split())
        packed = pack(config, x, present, budget=budget)
        results = []
        for network in (model, compiled):
            model.zero_grad()
            loss = network(packed).loss
            loss.backward()
            results.append([loss, *(p.grad for p in model.parameters())])
        for found, expected in zip(*results, strict=True):
            assert (found - expected).norm() <= 1e-12 * expected.norm()
    assert counter.frame_count == graphs or not COUNTED


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, on itself
def test_adaptive_unetr_breaks_once_where_it_counts_and_is_two_graphs():
    """nnU-Net compiles the whole network on CUDA."""
    config = make_config(
        depth=1, patch_size=(2, 4, 4), strides=((1, 2, 2),), kernel_sizes=((1, 3, 3),)
    )
    network = shake(AdaptiveUNETR(config, 2))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, backend=counter)
    for mixture in [*MIXTURES[:4], "000 111 000 110"]:
        x, _ = studies(config, mixture.split())
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-12, atol=1e-12)
    assert counter.frame_count == 2 or not COUNTED


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, on itself
@pytest.mark.parametrize(("copies", "graphs"), [(1, 3), (8, 2)])
def test_prediction_is_not_compiled_anew_for_each_number_of_contrasts(copies, graphs):
    """A window by itself, or with its mirrored copies. One slot is a graph of its own to torch."""
    config = make_config(
        contrasts=tuple("ABCDEFG"),
        depth=1,
        patch_size=(2, 4, 4),
        strides=((1, 2, 2),),
        kernel_sizes=((1, 3, 3),),
    )
    network = shake(AdaptiveUNETR(config, 2)).eval()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(network, backend=counter)
    with torch.inference_mode():
        for n in (7, 3, 1, 2, 5, 4, 6):
            x, _ = studies(config, ["1" * n + "0" * (7 - n)] * copies)
            torch.testing.assert_close(compiled(x), network(x), rtol=1e-12, atol=1e-12)
    assert counter.frame_count == graphs or not COUNTED
