"""What each of two processes does in ``test_distributed.py``: they must be able to import it."""

import torch
from tiny import make_config, shake, studies
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR

PRESENCE = ["100", "011"]  # what the study of each process has
PLANS = [
    {},
    {"pos_embed": "learned", "contrast_vectors": "one_hot"},
]
KINDS = [(kind, plan) for kind in (AdaptiveUNETR, UNETR) for plan in PLANS]


class OneConvolutionAContrast(nn.Module):
    """A design that distributed training refuses, so that the test is known to see it."""

    def __init__(self):
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv3d(1, 2, 1) for _ in range(3))

    def forward(self, x):
        present = [i for i in range(3) if x[:, i].any()]
        return sum(self.stems[i](x[:, i : i + 1]) for i in present)


def images():
    torch.manual_seed(5)
    return studies(make_config(), PRESENCE)[0]


def make_network(kind, plan, seed):
    torch.manual_seed(seed)
    return shake(kind(make_config(**plan), 2))


def loss_of(logits):
    """Nothing that another study enters; each voxel and class counts another amount."""
    weights = torch.arange(logits.numel(), dtype=logits.dtype).view_as(logits) / logits.numel()
    return (weights * logits.sigmoid()).mean()


def gradients(network, x, steps=2):
    """After two steps, since an unused parameter is found at the second."""
    for _ in range(steps):
        network.zero_grad()
        loss_of(network(x)).backward()
    return {
        name.removeprefix("module."): parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }


def train(rank, folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    x, found = images()[rank : rank + 1], []
    for kind, plan in KINDS:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(make_network(kind, plan, seed=rank))
        found.append(gradients(DistributedDataParallel(network), x))
    try:
        gradients(DistributedDataParallel(OneConvolutionAContrast()), x)
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    torch.save((found, refused), f"{folder}/{rank}.pt")
