"""How long a pre-training step takes: packed, against other ways to batch, and against peers.

    python scripts/benchmark_pretraining.py --rounds 5 --crop 96 --dtype float32

One run times its variants in turn, round after round, so that a busy machine slows all of them
alike. Time is CPU time of one thread, forward and backward (no optimizer, no loader, whose cost
does not depend on the variant); the ratio to the first variant is taken in each round; printed are
medians over the rounds. ViT-Base width and depth unless told otherwise, tokens of 16 voxels, 70 %
masked, decoder 384 x 4 with 12 heads as the peers' (the package has 6, 64 wide). Random voxels:
nothing depends on their values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import benchmark_peers as peers
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.flops import mae_flops
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.masking import Slots, num_visible, random_masking
from amae_nnunet.networks.packing import pack_studies
from amae_nnunet.networks.tokenizer import DynamicConvTokenizer, patchify
from amae_nnunet.networks.vit import Block

Step = tuple[nn.Module, Callable[[], Tensor]]  # a model, and a forward pass of it: the loss
Loss = Callable[[Tensor, Slots, Tensor], Tensor]
TOKEN = peers.TOKEN
MASK_RATIO = 0.7
CONTRASTS = ("ADC", "TRACE", "T2", "GRE", "SWI", "T1", "FLAIR")
MIXED = (2, 3, 3, 7)


def model_config(crop: int, width: int, depth: int, decoder_heads: int = 0) -> ModelConfig:
    """The model that is measured; without ``decoder_heads`` it has the package's, 64 wide."""
    return ModelConfig(
        contrasts=CONTRASTS,
        patch_size=(crop,) * 3,
        spacing=(1.0, 1.0, 1.0),
        strides=((2, 2, 2),) * 4,
        kernel_sizes=((3, 3, 3),) * 4,
        embed_dim=width,
        depth=depth,
        decoder_embed_dim=width // 2,
        decoder_num_heads=decoder_heads,
    )


def batch(counts: tuple[int, ...], config: ModelConfig) -> tuple[Tensor, Slots, Tensor]:
    """Images, slots and masks of studies with so many contrasts each."""
    present = torch.arange(config.num_contrasts) < torch.tensor(counts)[:, None]
    slots = Slots.of(present)
    x = torch.randn(len(counts), config.num_contrasts, *config.patch_size)
    return x, slots, random_masking(slots, config.num_tokens, MASK_RATIO)


def autocast(half: bool) -> torch.autocast:
    """A decorator that runs a forward pass in bfloat16 where that is safe, or does nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


def measure(variants: dict[str, Step], rounds: int) -> list[dict[str, float | str]]:
    """Time forward and backward of all variants in turn; a row each, see ``time_in_turn``."""

    def run(model: nn.Module, forward: Callable[[], Tensor]) -> None:
        model.zero_grad()
        forward().backward()

    return time_in_turn({name: partial(run, *step) for name, step in variants.items()}, rounds)


def time_in_turn(
    runs: dict[str, Callable[[], object]], rounds: int
) -> list[dict[str, float | str]]:
    """Time runs in turn; a row each: seconds, and time over the first one's."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for lap in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if lap:  # the first is the warm-up
                seconds[name].append(time.process_time() - start)
    first = next(iter(seconds.values()))
    rows: list[dict[str, float | str]] = []
    for name, times in seconds.items():
        ratios = [t / f for t, f in zip(times, first, strict=True)]
        spread = {"lowest": min(ratios), "highest": max(ratios)}
        middle = {"seconds": statistics.median(times), "ratio": statistics.median(ratios)}
        rows.append({"variant": name, **middle, **spread})
    return rows


# How to batch studies with different contrasts.


def packed_loss(model: AdaptiveMAE, x: Tensor, slots: Slots, masked: Tensor) -> Tensor:
    """What the package does."""
    return model(pack_studies(x, slots, masked, model.config)).loss


def one_at_a_time(loss: Loss, x: Tensor, slots: Slots, masked: Tensor) -> Tensor:
    """One study after the other; gradients add up. Returns the last term of the loss."""
    total = torch.zeros(())
    for study, mask in enumerate(masked.split(slots.counts)):
        if study:
            total.backward()
        count = slots.counts[study]
        one = Slots(torch.zeros(count, dtype=torch.long), torch.arange(count), [count], count)
        total = loss(x[study : study + 1], one, mask) * (mask.sum() / masked.sum())
    return total


def padded_block(block: Block, x: Tensor, keep: Tensor) -> Tensor:
    """A block over studies padded to one length (B, T, E), with the keys' mask (B, 1, 1, T)."""
    qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, block.attn.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    x = x + block.attn.proj(y.transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


def padded_loss(model: AdaptiveMAE, x: Tensor, slots: Slots, masked: Tensor) -> Tensor:
    """Every study padded to the contrasts of the largest, padding masked out of the attention."""
    packed = pack_studies(x, slots, masked, model.config)
    b, most = len(slots.counts), max(slots.counts)
    real = torch.arange(most) < torch.tensor(slots.counts)[:, None]  # (B, N)
    slot = torch.zeros(b, most, dtype=torch.long)
    slot[real] = torch.arange(len(slots.study))
    flat = slot.flatten()  # (B * N,), padding repeats the first slot
    k, (_, num_tokens) = packed.visible.shape[1], packed.position.shape
    contrast, position = packed.contrast[flat], packed.position[flat]

    encoder = model.encoder
    y = encoder.patch_embed(packed.visible[flat], contrast) + encoder.pos_embed(position[:, :k])
    y = (y + encoder.contrast_embed(contrast)[:, None]).reshape(b, most * k, -1)
    for block in encoder.blocks:
        y = padded_block(block, y, real.repeat_interleave(k, dim=1)[:, None, None])
    y = model.decoder_embed(encoder.norm(y)).reshape(b * most, k, -1)

    hidden = model.mask_token.to(y.dtype).expand(b * most, num_tokens - k, -1)
    y = torch.cat([y, hidden], dim=1) + model.decoder_pos_embed(position)
    y = (y + model.decoder_contrast_embed(contrast)[:, None]).reshape(b, most * num_tokens, -1)
    for block in model.decoder_blocks:
        y = padded_block(block, y, real.repeat_interleave(num_tokens, dim=1)[:, None, None])
    y = y.reshape(b, most, num_tokens, -1)[real][:, k:].flatten(0, 1)
    return model.forward_loss(model.decoder_pred(model.decoder_norm(y)), packed)[0]


def check_same_gradient(variants: dict[str, Step]) -> None:
    """The ways to batch must do the same work.

    Raises:
        SystemExit: they do not.
    """
    norms = {}
    for name, (model, forward) in variants.items():
        model.zero_grad()
        forward().backward()
        norms[name] = sum(float(p.grad.double().square().sum()) for p in model.parameters()) ** 0.5
    if max(norms.values()) > 1.01 * min(norms.values()):
        raise SystemExit(f"the variants have other gradients: {norms}")


def mixed_variants(config: ModelConfig, cast: torch.autocast) -> dict[str, Step]:
    """Bar 2: a batch of mixed studies."""
    model = AdaptiveMAE(config)
    packed, padded = (cast(partial(loss, model)) for loss in (packed_loss, padded_loss))
    losses = {
        "packed": packed,
        "one at a time": partial(one_at_a_time, packed),
        "padded to 7": padded,
    }
    data = batch(MIXED, config)
    return {name: (model, partial(loss, *data)) for name, loss in losses.items()}


# The tokenizer alone.


def tokenizer_variants(config: ModelConfig, cast: torch.autocast) -> dict[str, Step]:
    """Bar 1: where the visible tokens are picked, and how the weights are modulated (N = 4)."""
    x, _, masked = batch((4,), config)
    images, num_tokens = x[0, :4], config.num_tokens
    keep = masked.to(torch.uint8).argsort(dim=1, stable=True)
    keep = keep[:, : num_visible(num_tokens, MASK_RATIO)]  # (N, K)
    model = DynamicConvTokenizer(TOKEN**3, config.num_contrasts, config.embed_dim)
    contrast = torch.arange(4)
    rows = (contrast[:, None] * num_tokens + keep).flatten()
    kernel = (config.embed_dim, 1, TOKEN, TOKEN, TOKEN)

    def gathered() -> Tensor:
        voxels = patchify(images, config.token_size).flatten(0, 1).index_select(0, rows)
        return model(voxels.unflatten(0, keep.shape), contrast).square().mean()

    def shared() -> Tensor:
        w, b = model.scales()
        y = F.conv3d(images[:, None], model.proj.weight.view(kernel), stride=TOKEN)
        y = y.flatten(2).transpose(1, 2)  # (N, L, E)
        y = y * w[:4, None].to(y.dtype) + (model.proj.bias * b)[:4, None].to(y.dtype)
        return y.flatten(0, 1).index_select(0, rows).square().mean()

    def modulated() -> Tensor:
        w, b = model.scales()
        parts = []
        for i in range(4):
            weight, bias = (model.proj.weight * w[i, :, None]).view(kernel), model.proj.bias * b[i]
            y = F.conv3d(images[i, None, None], weight, bias.to(weight.dtype), stride=TOKEN)
            parts.append(y.flatten(2)[0].T[keep[i]])
        return torch.cat(parts).square().mean()

    bodies = {
        "visible tokens, one linear map": gathered,
        "all tokens, one convolution": shared,
        "all tokens, a modulated convolution a contrast": modulated,
    }
    return {name: (model, cast(body)) for name, body in bodies.items()}


# Peers.


def image_voxels(hidden: Tensor, config: ModelConfig) -> Tensor:
    """Masks of tokens (N, L) as masks of voxels (N, Z, Y, X)."""
    grid = hidden.to(torch.float32).unflatten(1, config.grid_size)
    for axis in (1, 2, 3):
        grid = grid.repeat_interleave(TOKEN, dim=axis)
    return grid


def monai_loss(model: nn.Module, images: Tensor, mask: Tensor) -> Tensor:
    """MONAI's autoencoder, images (N, Z, Y, X) as a batch. It draws its mask, of the same size."""
    target = patchify(images, (TOKEN,) * 3)
    visible = int((~mask[0]).sum())
    weight = next(model.parameters())
    pred, hidden = model(images[:, None].to(weight.dtype), 1 - (visible + 0.5) / mask.shape[1])
    return ((pred - target).square().mean(dim=-1) * hidden).sum() / hidden.sum()


class Peers:
    """The models of the peers' table, made once and used for every N."""

    def __init__(self, config: ModelConfig, half: bool) -> None:
        width, depth, grid = config.embed_dim, config.depth, config.grid_size[0]
        self.config, self.cast = config, autocast(half)
        self.ours = AdaptiveMAE(config)
        self.bmmae = peers.BMMAE(len(CONTRASTS), width, depth, grid)
        self.eva = peers.EvaMAE(width, depth, grid)
        self.monai = peers.monai_mae(width, depth, grid)
        if self.monai is not None and half:  # it fails under autocast
            self.monai = self.monai.bfloat16()

    def step(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
        """A peer's loss for one study of which the first N channels are present."""
        cast = loss if model is self.monai else self.cast(loss)
        return lambda x, slots, masked: cast(x[0, : len(slots.study)], masked)

    def variants(self, counts: tuple[int, ...]) -> dict[str, Step]:
        """Bars 3 to 5. Peers know no batch of studies with other contrasts: one after the other."""
        config = self.config
        peer_losses: dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]] = {
            "BM-MAE": (
                self.bmmae,
                lambda images, mask: self.bmmae(images, mask, patchify(images, config.token_size)),
            ),
            "EvaMAE": (
                self.eva,
                lambda images, mask: self.eva(images, mask, image_voxels(mask, config)),
            ),
        }
        if self.monai is not None:
            peer_losses["MONAI"] = self.monai, partial(monai_loss, self.monai)
        data = batch(counts, config)
        steps = {"ours": (self.ours, partial(self.cast(partial(packed_loss, self.ours)), *data))}
        for name, (model, loss) in peer_losses.items():
            steps[name] = model, partial(one_at_a_time, self.step(model, loss), *data)
        return steps


# Precision.


def numerics(config: ModelConfig) -> list[dict[str, float | str]]:
    """Bar 9: loss and gradients of studies with 1, 3 and 4 contrasts against float64."""
    exact, model = AdaptiveMAE(config).double(), AdaptiveMAE(config)
    exact.load_state_dict(model.state_dict())
    x, slots, masked = batch((1, 3, 4), config)
    truth = packed_loss(exact, x.double(), slots, masked)
    truth.backward()
    wanted = [p.grad for p in exact.parameters()]
    rows: list[dict[str, float | str]] = []
    for name, half in (("float32", False), ("bfloat16 autocast", True)):
        model.zero_grad()
        loss = autocast(half)(packed_loss)(model, x, slots, masked)
        loss.backward()
        found = [p.grad.double() for p in model.parameters()]
        errors = [(f - w).norm() / w.norm() for f, w in zip(found, wanted, strict=True)]
        whole = torch.cat([(f - w).flatten() for f, w in zip(found, wanted, strict=True)]).norm()
        rows.append(
            {
                "variant": name,
                "loss": abs(loss.item() / truth.item() - 1),
                "gradient": float(whole / torch.cat([w.flatten() for w in wanted]).norm()),
                "worst tensor": float(max(errors)),
            }
        )
    return rows


def report(title: str, rows: list[dict[str, float | str]]) -> None:
    """Print one table in Markdown."""
    names = list(rows[0])
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else v for v in row.values())
        print(f"| {' | '.join(cells)} |", flush=True)


def tables(args: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, float | str]]]]:
    """All tables that were asked for, as they are done."""
    config = model_config(args.crop, args.width, args.depth)
    half = args.dtype == "bfloat16"
    setting = f"crop {args.crop}, width {args.width}, {args.dtype}"
    if "tokenizer" in args.parts:
        variants = tokenizer_variants(config, autocast(half))
        yield f"tokenizer, N = 4, {setting}", measure(variants, args.rounds)
    if "mixed" in args.parts:
        variants = mixed_variants(config, autocast(half))
        check_same_gradient(variants)
        yield f"studies with {list(MIXED)} contrasts, {setting}", measure(variants, args.rounds)
    if "numerics" in args.parts:
        yield f"relative error against float64, {setting}", numerics(config)
    if "peers" in args.parts:
        models = Peers(config, half)
        for name in args.counts:
            counts = MIXED if name == "mixed" else (int(name),)
            rows = measure(models.variants(counts), args.rounds)
            flops = 3 * mae_flops(config, counts, MASK_RATIO) / 1e9
            speed = flops / float(rows[0]["seconds"])
            title = f"N = {list(counts)}, {setting}: ours {flops:.0f} GFLOP, {speed:.0f} GFLOP/s"
            yield title, rows


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ["tokenizer", "mixed", "numerics", "peers"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--counts", nargs="+", default=["1", "4", "7", "mixed"],
                        help="contrasts of the peers' study, or mixed: %(default)s")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crop", type=int, default=96, help="voxels of an edge, a multiple of 16")
    parser.add_argument("--width", type=int, default=768, help="of the encoder, a multiple of 192")
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder")
    parser.add_argument("--decoder_heads", type=int, default=12, help="of ours; 0: as the package")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {}
    for title, rows in tables(args):
        found[title] = rows
        report(title, rows)
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
