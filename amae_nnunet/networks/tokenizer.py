"""Dynamic Convolution Tokenizer, DCT (section 2.2).

Each contrast i has a modality vector m_i; a linear projector P turns it into one scale for each
output channel of a shared convolution and one for its bias, the form of ModDrop++ (the paper's
reference 15) for an input of one channel::

    [w_i, b_i] = P m_i                                w_i, b_i in R^E
    Y_i = Conv(X_i; W * w_i, B * b_i)                 kernel = stride = token

Kernel and stride are the token, so the convolution is a linear map of the flattened token, and
scaling its output channels is scaling its result: ``Y_i = (X_i W^T) * w_i + B * b_i``. One matrix
product serves the tokens of all contrasts of all studies.

Initial values are not in the paper: P maps every m_i to about 1, so training starts from a plain
shared convolution; W is Xavier-uniform as a linear layer (as in MAE); B is not zero, else b_i
would get no gradient at first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amae_nnunet.config import Axes
from amae_nnunet.networks.resample import along_axes, interpolation_matrix


def patchify(x: Tensor, token_size: Axes) -> Tensor:
    """Cut images into tokens, in (z, y, x) order, voxels of a token in (z, y, x) order too.

    Args:
        x: images (..., Z, Y, X).
        token_size: voxels of a token; must divide the images.

    Returns:
        Tokens (..., L, p).
    """
    leading = x.shape[:-3]
    cuts = [s for n, t in zip(x.shape[-3:], token_size, strict=True) for s in (n // t, t)]
    x = x.reshape(*leading, *cuts)  # (..., gz, tz, gy, ty, gx, tx)
    d = len(leading)
    order = (*range(d), d, d + 2, d + 4, d + 1, d + 3, d + 5)
    return x.permute(order).reshape(*leading, cuts[0] * cuts[2] * cuts[4], math.prod(token_size))


def unpatchify(tokens: Tensor, grid_size: Axes, token_size: Axes) -> Tensor:
    """Put tokens (..., L, p) together to images (..., Z, Y, X); undoes ``patchify``."""
    leading = tokens.shape[:-2]
    d = len(leading)
    tokens = tokens.reshape(*leading, *grid_size, *token_size)
    order = (*range(d), d, d + 3, d + 1, d + 4, d + 2, d + 5)
    size = [g * t for g, t in zip(grid_size, token_size, strict=True)]
    return tokens.permute(order).reshape(*leading, *size)


def resize_kernel(weight: Tensor, token_size: Axes, new_token_size: Axes) -> Tensor:
    """A kernel for tokens of another size: pseudo-inverse resize, as in FlexiViT.

    With B the linear interpolation that takes a token x to the new size, the new kernel w' is the
    one whose answers to resized tokens are nearest to those of w to the tokens themselves::

        w' = argmin E (<x, w> - <B x, w'>)^2 = pinv(B^T) w           x white

    Exact where tokens grow: ``<B x, w'> = <x, w>``. B works on each axis by itself, so its
    pseudo-inverse does too. Beyer et al., FlexiViT, CVPR 2023; not in the paper.

    Args:
        weight: W of the tokenizer, (E, p).
        token_size: voxels of its tokens along (z, y, x).
        new_token_size: voxels of the new ones.

    Returns:
        (E, p'); ``weight`` itself where the sizes are the same.
    """
    if token_size == new_token_size:
        return weight
    inverse = [
        torch.linalg.pinv(interpolation_matrix(old, new, old / new).T)
        for old, new in zip(token_size, new_token_size, strict=True)
    ]
    kernel = along_axes(weight.double().unflatten(1, token_size), inverse)
    return kernel.flatten(1).to(weight.dtype)


class DynamicConvTokenizer(nn.Module):
    """Tokens of any contrast through one convolution that its modality vector modulates.

    Args:
        token_voxels: p, voxels of a token.
        num_contrasts: C.
        embed_dim: E.
        contrast_dim: length of a learned modality vector (not in the paper).
        one_hot: fixed one-hot modality vectors, of length C, instead of learned ones.
    """

    def __init__(
        self,
        token_voxels: int,
        num_contrasts: int,
        embed_dim: int,
        contrast_dim: int = 64,
        one_hot: bool = False,
    ) -> None:
        super().__init__()
        self.proj = nn.Linear(token_voxels, embed_dim)  # W and B
        nn.init.xavier_uniform_(self.proj.weight)
        vectors = torch.eye(num_contrasts) if one_hot else torch.randn(num_contrasts, contrast_dim)
        self.contrast_vectors = nn.Embedding.from_pretrained(vectors, freeze=one_hot)  # m_i
        self.projector = nn.Linear(vectors.shape[1], 2 * embed_dim)  # P
        nn.init.normal_(self.projector.weight, std=0.02)
        nn.init.ones_(self.projector.bias)

    def scales(self) -> tuple[Tensor, Tensor]:
        """``w_i`` and ``b_i`` of all contrasts, (C, E) each."""
        w, b = self.projector(self.contrast_vectors.weight).chunk(2, dim=-1)
        return w, b

    def forward(self, tokens: Tensor, contrast: Tensor) -> Tensor:
        """Embed tokens.

        Args:
            tokens: voxels of the tokens of each slot (M, K, p).
            contrast: row of each slot's contrast (M,).

        Returns:
            Embedded tokens (M, K, E).
        """
        w, b = self.scales()
        y = F.linear(tokens, self.proj.weight)
        scale, shift = w[contrast, None], (self.proj.bias * b)[contrast, None]  # (M, 1, E)
        return y * scale.to(y.dtype) + shift.to(y.dtype)
