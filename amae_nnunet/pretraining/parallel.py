"""One model on several processes: copied to each (DDP), or cut in pieces (FSDP2).

Copies add up their gradients. Pieces save memory: each process keeps its share of weights,
gradients and moments, and a block's weights are gathered when the block runs. What is saved is
whole in either case, so a run may continue in another way. Not in the paper.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from amae_nnunet.errors import ConfigError
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.pretraining.ranks import Ranks


def copy_or_shard(
    model: AdaptiveMAE, ranks: Ranks, device: torch.device, shard: bool, compiled: bool
) -> nn.Module:
    """What to call in training: the model, a DDP wrapper of it, or the model cut in pieces.

    Args:
        model: on the CPU, with the same weights in all processes; moved, and changed in place.
        ranks: the processes.
        device: of this process.
        shard: cut in pieces.
        compiled: use ``torch.compile``; pieces are compiled block by block.

    Raises:
        ConfigError: there is one process.
    """
    if shard:
        return _sharded(model, ranks, device, compiled)
    model.to(device)
    if compiled:
        model.compile()
    if ranks.size == 1:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer PyTorch renames broadcast_buffers
        return DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


def _sharded(model: AdaptiveMAE, ranks: Ranks, device: torch.device, compiled: bool) -> AdaptiveMAE:
    if ranks.size == 1:
        raise ConfigError("--shard needs several processes: start them with torchrun")
    mesh = init_device_mesh(device.type, (ranks.size,))
    for block in (*model.encoder.blocks, *model.decoder_blocks):
        if compiled:
            block.compile()
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    return model.to(device)


@contextmanager
def gradients_kept(network: nn.Module, keep: bool) -> Iterator[None]:
    """A context whose backward pass adds to the gradients; unless ``keep``, it sends their sum."""
    if isinstance(network, DistributedDataParallel) and keep:
        with network.no_sync():
            yield
        return
    if hasattr(network, "set_requires_gradient_sync"):
        network.set_requires_gradient_sync(not keep)  # type: ignore[operator]
    yield


def local(tensor: Tensor) -> Tensor:
    """The piece of a tensor that lies in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(content: Any, wanted: bool) -> Any:
    """Plain values and tensors with every cut tensor whole, on the CPU; all processes call it.

    Args:
        content: dictionaries, lists and what is in them.
        wanted: by this process; another gets None for each cut tensor.
    """
    if isinstance(content, dict):
        return {key: gathered(value, wanted) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [gathered(value, wanted) for value in content]
    if isinstance(content, DTensor):
        whole = content.full_tensor()
        return whole.cpu() if wanted else None
    return content


def whole_model(model: AdaptiveMAE, wanted: bool) -> AdaptiveMAE:
    """The model, or if it is cut in pieces a whole copy on the CPU; all processes call it.

    Args:
        model: of the run.
        wanted: by this process; another gets the model as it is.
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    weights = gathered(model.state_dict(), wanted)
    if not wanted:
        return model
    whole = AdaptiveMAE(model.config)
    whole.load_state_dict(weights)
    return whole


def cut_like(whole: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, cut as another of its shape is; as it is where that one is not cut."""
    if isinstance(model, DTensor) and whole.shape == model.shape:
        return distribute_tensor(whole, model.device_mesh, model.placements)
    return whole


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """``load_state_dict`` with whole tensors."""
    own = model.state_dict()
    model.load_state_dict(
        {name: cut_like(t, own[name]) if name in own else t for name, t in weights.items()}
    )


def load_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
    """``load_state_dict`` with whole tensors, a moment being as large as its parameter.

    Weight decay and the kind of update stay the optimizer's own: those of the plans and the device,
    which may be others than before. PyTorch puts the count of steps where the kind wants it.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {
            key: cut_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for number, values in content["state"].items()
    }
    groups = [
        {**saved, **{key: own[key] for key in ("weight_decay", "fused")}}
        for saved, own in zip(content["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
