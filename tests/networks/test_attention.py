import itertools
from inspect import signature

import pytest
import reference
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from amae_nnunet.networks import attention
from amae_nnunet.networks.attention import Segments, attend, attend_each, attend_each_backward

COUNTS = [3, 0, 1, 5, 0]


def tokens(heads=2, width=3, tokens_per_slot=4):
    segments = Segments.of(COUNTS, tokens_per_slot, 7)
    shape = (int(segments.cu_seqlens[-1]), 3, heads, width)
    return torch.randn(shape).requires_grad_(), segments


def test_segments_are_where_the_studies_begin_and_end():
    segments = Segments.of(COUNTS, 4, 7)
    assert segments.cu_seqlens.tolist() == [0, 12, 12, 16, 36, 36]
    assert segments.cu_seqlens.dtype == torch.int32
    assert segments.max_seqlen == 28


def test_each_study_attends_to_itself_alone_by_loops():
    qkv, segments = tokens()
    found = attend(*qkv.unbind(dim=1), segments).detach().numpy()
    for first, last in itertools.pairwise(segments.cu_seqlens.tolist()):
        for head in range(2):
            q, k, v = qkv[first:last, :, head].detach().unbind(dim=1)
            expected = reference.softmax_attention(q.numpy(), k.numpy(), v.numpy())
            torch.testing.assert_close(
                torch.from_numpy(found[first:last, head]),
                torch.from_numpy(expected),
                rtol=1e-12,
                atol=1e-12,
            )


def test_the_opaque_operator_has_the_loops_value_and_gradient():
    qkv, segments = tokens(width=5)
    weight = torch.randn(qkv.shape[0], 2, 5)
    results = []
    for body in (lambda q, k, v: attend(q, k, v, segments),
                 lambda q, k, v: attend_each(q, k, v, segments.cu_seqlens)):  # fmt: skip
        out = body(*qkv.unbind(dim=1))
        (gradient,) = torch.autograd.grad((out * weight).sum(), qkv)
        results.append((out, gradient))
    (out, gradient), (opaque, other) = results
    assert torch.equal(opaque, out)
    torch.testing.assert_close(other, gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.skipif(
    "rtol" not in signature(torch.library.opcheck).parameters,
    reason="this PyTorch's checks have no tolerance",
)
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch, on itself
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_operators_keep_pytorchs_rules(dtype):
    """Schema, fake tensors, autograd registration and dynamic shapes, by PyTorch's own checks."""
    qkv, segments = tokens()
    q, k, v = (t.detach().to(dtype).requires_grad_() for t in qkv.unbind(dim=1))
    strict = {"rtol": 1e-2, "atol": 1e-2} if dtype != torch.float64 else {}
    torch.library.opcheck(attend_each, (q, k, v, segments.cu_seqlens), **strict)
    q, k, v = (t.detach() for t in (q, k, v))
    torch.library.opcheck(attend_each_backward, (q.clone(), q, k, v, segments.cu_seqlens))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(attention.varlen_attn is None, reason="needs torch 2.10")
def test_flash_attention_gives_what_the_loop_gives():
    segments = Segments.of(COUNTS, 40, 7).to(torch.device("cuda"))
    qkv = torch.randn(int(segments.cu_seqlens[-1]), 3, 2, 64, device="cuda", dtype=torch.bfloat16)
    qkv.requires_grad_()
    weight = torch.randn(qkv.shape[0], 2, 64, device="cuda")
    out = attend(*qkv.unbind(dim=1), segments)
    assert "varlen" in out.grad_fn.name()
    (gradient,) = torch.autograd.grad((out * weight).sum(), qkv)
    exact = qkv.detach().double().requires_grad_()
    expected = attend(*exact.unbind(dim=1), segments)
    (slope,) = torch.autograd.grad((expected * weight).sum(), exact)
    assert (out - expected).norm() < 1e-2 * expected.norm()
    assert (gradient - slope).norm() < 2e-2 * slope.norm()


class Calls(TorchDispatchMode):
    """Records the operators that run."""

    def __init__(self):
        super().__init__()
        self.arguments = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.arguments[str(function)] = args
        return function(*args, **(kwargs or {}))


@pytest.fixture
def hopper(monkeypatch):
    """PyTorch believes that it has one, whatever it asks and remembers."""
    from torch.nn.attention import varlen

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    for name in ("_should_use_cudnn", "_cudnn_version_and_major_capability"):
        if hasattr(varlen, name):
            monkeypatch.setattr(varlen, name, getattr(varlen, name).__wrapped__)
    return varlen


@pytest.mark.skipif(attention.varlen_attn is None, reason="needs torch 2.10")
@pytest.mark.parametrize(
    ("dtype", "width", "flash"),
    [
        (torch.bfloat16, 64, True),
        (torch.float16, 256, True),
        (torch.bfloat16, 20, False),
        (torch.bfloat16, 384, False),
    ],
)
def test_on_cuda_in_half_precision_flash_attention_is_called(hopper, dtype, width, flash):
    """On fake CUDA tensors, so that a call's signature and shapes are checked where no GPU is."""
    segments = Segments.of(COUNTS, 4, 7)  # the loop needs real borders
    with FakeTensorMode(allow_non_fake_inputs=True), Calls() as calls:
        if flash:
            segments = Segments(torch.empty(6, dtype=torch.int32, device="cuda"), 28)
        qkv = torch.empty(36, 3, 2, width, device="cuda", dtype=dtype)
        out = attend(*qkv.unbind(dim=1), segments)
    assert (out.shape, out.dtype, out.device.type) == ((36, 2, width), dtype, "cuda")
    assert ("torch_attn._varlen_attn.default" in calls.arguments) == flash


def takes_cudnn(varlen, arguments):
    """Whether the operator that got these arguments calls cuDNN."""
    if not hasattr(varlen, "_can_use_cudnn"):  # from torch 2.15 on it is told
        return varlen._CUDNN_ATTENTION_BACKEND in arguments[14:]
    q, k, v, _, _, max_seqlen, _, _, _, window, *_ = arguments
    return varlen._can_use_cudnn(q, k, v, max_seqlen, window)


@pytest.mark.skipif(not attention._HAS_WINDOWS, reason="this PyTorch does not call cuDNN")
def test_cudnn_which_takes_no_empty_studies_is_not_called(hopper):
    """PyTorch would choose it, by the arguments that the operator gets."""
    with FakeTensorMode(), Calls() as calls:
        segments = Segments(torch.empty(6, dtype=torch.int32, device="cuda"), 280)
        qkv = torch.empty(360, 3, 2, 64, device="cuda", dtype=torch.bfloat16)
        for attention_of, expected in ((attend, False), (without_window, True)):
            attention_of(*qkv.unbind(dim=1), segments)
            arguments = calls.arguments["torch_attn._varlen_attn.default"]
            assert takes_cudnn(hopper, arguments) == expected


def without_window(q, k, v, segments):
    cu_seqlens, max_seqlen = segments
    return attention.varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
