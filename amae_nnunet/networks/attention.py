"""Attention inside each study of a packed batch: one operation, two bodies (not in the paper).

The tokens of all studies stand in one list, and a study attends to its own tokens only. Nothing is
padded and nothing is masked:

* on CUDA in half precision PyTorch's variable-length flash attention takes the list as it is (not
  cuDNN, which it prefers on Hopper and Blackwell: before 9.25 that takes no empty studies);
* elsewhere dense attention runs on one study after the other.

Both read the studies' borders from a *tensor*. A list of lengths would be a constant to
``torch.compile``, and every new mixture of contrasts another graph; so while it traces, the second
body is one opaque operator, ``amae::attend_each``, with its own gradient (which writes out the
attention matrix of a study: compiling pays where the first body runs).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from amae_nnunet.networks.send import send

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None  # type: ignore[assignment]

_WIDEST = 256  # head of flash attention
#: cuDNN has no windows. Earlier versions, which have no windows either, do not call it.
_HAS_WINDOWS = (
    varlen_attn is not None and "window_size" in inspect.signature(varlen_attn).parameters
)


class Segments(NamedTuple):
    """Where the studies of a packed list of T tokens begin and end.

    Attributes:
        cu_seqlens: first token of each study, and T at the end; ascending, int32, (S + 1,). Equal
            neighbours are an empty study, so that the list may have a fixed length.
        max_seqlen: an upper bound of the tokens of one study, the same for all batches.
    """

    cu_seqlens: Tensor
    max_seqlen: int

    @classmethod
    def of(cls, counts: Sequence[int], tokens: int, most: int) -> Segments:
        """Studies of ``counts`` slots (at most ``most``) of ``tokens`` tokens; on the CPU."""
        cu_seqlens = torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32)
        return cls(cu_seqlens * tokens, most * tokens)

    def to(self, device: torch.device) -> Segments:
        """The same on another device."""
        return Segments(send(self.cu_seqlens, device), self.max_seqlen)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _flash_runs_on(device: torch.device) -> bool:
    """Whether a CUDA device has flash attention (Ampere and later)."""
    return varlen_attn is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def has_flash(device: torch.device, width: int) -> bool:
    """Whether flash attention serves heads of a width on a device."""
    served = device.type == "cuda" and width % 8 == 0 and width <= _WIDEST
    return served and _flash_runs_on(device)


def _attend_flash(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Flash attention, with a window that is no limit."""
    cu_seqlens, max_seqlen = segments
    window = {"window_size": (max_seqlen, max_seqlen)} if _HAS_WINDOWS else {}
    lengths = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)  # of queries and keys
    return varlen_attn(q, k, v, *lengths, **window)  # type: ignore[arg-type, return-value]


def attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Softmax attention of each study over its own tokens.

    Args:
        q: queries (T, heads, width of a head), the studies' tokens one after another.
        k: keys, like ``q``.
        v: values, like ``q``.
        segments: the studies.

    Returns:
        (T, heads, width of a head).
    """
    half = q.dtype in (torch.float16, torch.bfloat16)
    if q.is_cuda and half and has_flash(q.device, q.shape[-1]):
        return _attend_flash(q, k, v, segments)
    if torch.compiler.is_compiling():
        return attend_each(q, k, v, segments.cu_seqlens)
    return _attend_each(q, k, v, segments.cu_seqlens)


def _studies(cu_seqlens: Tensor, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The tensors (T, heads, width) of each study that is not empty, as (1, heads, t, width)."""
    return [
        tuple(t[first:last].transpose(0, 1)[None] for t in tensors)
        for first, last in itertools.pairwise(cu_seqlens.tolist())
        if first < last
    ]


def _packed(parts: list[Tensor]) -> Tensor:
    """Undo ``_studies`` for one tensor."""
    return torch.cat([part[0].transpose(0, 1) for part in parts])


def _attend_each(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    studies = _studies(cu_seqlens, q, k, v)
    return _packed([F.scaled_dot_product_attention(q, k, v) for q, k, v in studies])


@torch.library.custom_op(
    "amae::attend_each",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens) -> Tensor",
)
def attend_each(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    """``attend`` by dense attention on one study after the other, opaque to ``torch.compile``."""
    return _attend_each(q, k, v, cu_seqlens)


@torch.library.custom_op(
    "amae::attend_each_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor cu_seqlens)"
    " -> (Tensor, Tensor, Tensor)",
)
def attend_each_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v. With s = 1 / sqrt(width), study by study::

    P  = softmax(s q k^T)            the output is P v
    dv = P^T grad
    dS = P * (grad v^T - rowsum(P * grad v^T))
    dq = s dS k                      dk = s dS^T q
    """
    gradients = []
    exact = torch.promote_types(q.dtype, torch.float32)
    for part in _studies(cu_seqlens, grad, q, k, v):
        grad_i, q_i, k_i, v_i = (t.to(exact) for t in part)
        scale = q.shape[-1] ** -0.5
        weights = (scale * q_i @ k_i.transpose(-2, -1)).softmax(dim=-1)
        slope = grad_i @ v_i.transpose(-2, -1)
        slope = weights * (slope - (weights * slope).sum(dim=-1, keepdim=True))
        dq, dk = scale * slope @ k_i, scale * slope.transpose(-2, -1) @ q_i
        dv = weights.transpose(-2, -1) @ grad_i
        gradients.append([t.to(q.dtype) for t in (dq, dk, dv)])
    dq, dk, dv = (_packed(list(parts)) for parts in zip(*gradients, strict=True))
    return dq, dk, dv


@attend_each.register_fake
def _(q: Tensor, _k: Tensor, _v: Tensor, _cu_seqlens: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@attend_each_backward.register_fake
def _(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, _cu_seqlens: Tensor) -> tuple[Tensor, ...]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *attend_each_backward(grad, *ctx.saved_tensors), None


attend_each.register_autograd(_gradient, setup_context=_save)
