"""What distributed training asks of a network, with PyTorch's own, in two processes of gloo.

nnU-Net wraps the network in DistributedDataParallel, which ends a training in which one process
does not use a parameter; and every process sees studies with other contrasts.
"""

import pytest
import torch
from networks.two_processes import KINDS, gradients, images, make_network, train


@pytest.mark.slow
def test_two_processes_with_other_contrasts_have_the_gradient_of_both_studies(tmp_path):
    torch.multiprocessing.spawn(train, (str(tmp_path),), nprocs=2)
    (first, refused), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for (kind, plan), one, other in zip(KINDS, first, second, strict=True):
        network = make_network(kind, plan, seed=0)
        alone = [gradients(network, x[None], steps=1) for x in images()]
        for name, value in one.items():
            assert torch.equal(value, other[name])
            mean = (alone[0][name] + alone[1][name]) / 2
            torch.testing.assert_close(value, mean, rtol=1e-10, atol=1e-14)
    assert "Expected to have finished reduction" in refused
