"""How long a pre-training step takes: packed, against other ways to batch, and against peers.

    python scripts/benchmark_pretraining.py --rounds 5 --crop 96 --dtype float32
    python scripts/benchmark_pretraining.py --device cuda --studies 16 --dtype bfloat16 --compile

One run times its variants in turn, round after round, so that a busy machine slows all of them
alike. Time is CPU time of one thread, or on a GPU time between two synchronizations, some passes
apart; forward and backward (no optimizer, no loader, whose cost is the same for all variants); the
ratio to the first variant is taken in each round; printed are medians over the rounds. ViT-Base
width and depth unless told otherwise, tokens of 16 voxels, 70 % masked, decoder 384 x 4 with 12
heads as the peers' (the package has 6, 64 wide). Random voxels: nothing depends on their values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import benchmark_peers as peers
import torch
from flops import mae_flops
from torch import Tensor, nn
from torch.nn import functional as F

from amae_nnunet.config import ModelConfig
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.masking import Slots, num_visible, random_masking
from amae_nnunet.networks.packing import pack_studies
from amae_nnunet.networks.tokenizer import DynamicConvTokenizer, patchify
from amae_nnunet.networks.vit import Block

Step = tuple[nn.Module, Callable[[], Tensor]]  # a model, and a forward pass of it: the loss
Loss = Callable[[Tensor, Slots, Tensor], Tensor]
PeerLoss = Callable[[Tensor, Tensor], Tensor]  # of images (B, N, Z, Y, X), hidden (B, N, L)
TOKEN = peers.TOKEN
MASK_RATIO = peers.MASK_RATIO
CONTRASTS = ("ADC", "TRACE", "T2", "GRE", "SWI", "T1", "FLAIR")
MIXED = (2, 3, 3, 7)
PEERS_BLOCKS = ("PlainBlock", "EvaBlock", "TransformerBlock")
PASSES = 5  # between two synchronizations of a GPU


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


@dataclass(frozen=True)
class Setting:
    """What is the same for all variants of a run.

    Attributes:
        config: the model that is measured.
        device: where.
        half: bfloat16 autocast.
        compiled: ours as the package compiles it, peers block by block.
        studies: of a batch, or as many as a table has kinds of.
        rounds: see ``time_in_turn``.
    """

    config: ModelConfig
    device: torch.device
    half: bool = False
    compiled: bool = False
    studies: int = 1
    rounds: int = 5

    def batch(self, counts: tuple[int, ...]) -> tuple[Tensor, Slots, Tensor]:
        """Images (on the device), slots and masks of studies with so many contrasts each."""
        config, counts = self.config, self.repeated(counts)
        present = torch.arange(config.num_contrasts) < torch.tensor(counts)[:, None]
        slots = Slots.of(present)
        x = torch.randn(len(counts), config.num_contrasts, *config.patch_size)
        return x.to(self.device), slots, random_masking(slots, config.num_tokens, MASK_RATIO)

    def repeated(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """Contrasts of each study of a batch."""
        return counts * max(1, self.studies // len(counts))

    def listed(self, counts: tuple[int, ...]) -> str:
        """The contrasts of a batch, for a title."""
        times = len(self.repeated(counts)) // len(counts)
        return f"{times} x {list(counts)}" if times > 1 else str(list(counts))

    def cast(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function in bfloat16 where that is safe, or as it is."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)(function)

    def ready(self, model: nn.Module, by_block: bool = False) -> nn.Module:
        """A model on the device, and compiled if that is wanted, whole or block by block."""
        named = PEERS_BLOCKS if by_block else ()
        blocks = [m for m in model.modules() if type(m).__name__ in named]
        for part in blocks or [model]:
            if self.compiled:
                part.compile()
        return model.to(self.device)

    def measure(self, variants: dict[str, Step]) -> list[dict[str, float | str]]:
        """Time forward and backward of all variants in turn; a row each, see ``time_in_turn``."""

        def run(model: nn.Module, forward: Callable[[], Tensor]) -> None:
            for _ in range(1 if self.device.type == "cpu" else PASSES):
                model.zero_grad()
                forward().backward()

        runs = {name: partial(run, *step) for name, step in variants.items()}
        if self.device.type == "cpu":
            return time_in_turn(runs, self.rounds)
        memory = {}
        for name, one in runs.items():  # compiles, too
            one()
            torch.cuda.reset_peak_memory_stats()
            one()
            memory[name] = torch.cuda.max_memory_allocated() / 1e9
        rows = time_in_turn(runs, self.rounds, gpu_time)
        return [
            {**row, "seconds": row["seconds"] / PASSES, "GB": memory[row["variant"]]}
            for row in rows
        ]


def gpu_time() -> float:
    """Seconds, when the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def time_in_turn(
    runs: dict[str, Callable[[], object]],
    rounds: int,
    now: Callable[[], float] = time.process_time,
) -> list[dict[str, float | str]]:
    """Time runs in turn; a row each: seconds, and time over the first one's."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for lap in range(rounds + 1):
        for name, run in runs.items():
            start = now()
            run()
            if lap:  # the first is the warm-up
                seconds[name].append(now() - start)
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
        total = loss(x[study : study + 1], one, mask) * float(mask.sum() / masked.sum())
    return total


def by_count(loss: PeerLoss, images: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
    """Studies with equal N as one batch, one N after the other; gradients add up."""
    hidden = {count: masked.sum() for count, (_, masked) in images.items()}
    total = torch.zeros(())
    for turn, (count, (x, masked)) in enumerate(images.items()):
        if turn:
            total.backward()
        total = loss(x, masked) * (hidden[count] / sum(hidden.values()))
    return total


def grouped(x: Tensor, slots: Slots, masked: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Images (B, N, Z, Y, X) and hidden tokens (B, N, L) of the studies that have N contrasts."""
    masks, found = masked.to(x.device).split(slots.counts), {}
    for count in sorted(set(slots.counts)):
        studies = [study for study, n in enumerate(slots.counts) if n == count]
        found[count] = x[studies, :count], torch.stack([masks[study] for study in studies])
    return found


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
    real, slot = real.to(x.device), slot.to(x.device)
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


def mixed_variants(setting: Setting) -> dict[str, Step]:
    """Bar 2: a batch of mixed studies."""
    model = setting.ready(AdaptiveMAE(setting.config))
    packed, padded = (setting.cast(partial(loss, model)) for loss in (packed_loss, padded_loss))
    losses = {
        "packed": packed,
        "one at a time": partial(one_at_a_time, packed),
        "padded to 7": padded,
    }
    data = setting.batch(MIXED)
    return {name: (model, partial(loss, *data)) for name, loss in losses.items()}


# The tokenizer alone.


def tokenizer_variants(setting: Setting) -> dict[str, Step]:
    """Bar 1: where the visible tokens are picked, and how the weights are modulated (N = 4)."""
    config = setting.config
    x, _, masked = setting.batch((4,))
    images, num_tokens = x[0, :4], config.num_tokens
    masked = masked[:4].to(x.device)
    keep = masked.to(torch.uint8).argsort(dim=1, stable=True)
    keep = keep[:, : num_visible(num_tokens, MASK_RATIO)]  # (N, K)
    model = DynamicConvTokenizer(TOKEN**3, config.num_contrasts, config.embed_dim).to(x.device)
    contrast = torch.arange(4, device=x.device)
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
    return {name: (model, setting.cast(body)) for name, body in bodies.items()}


# Peers.


def image_voxels(hidden: Tensor, config: ModelConfig) -> Tensor:
    """Masks of tokens (M, L) as masks of voxels (M, Z, Y, X)."""
    grid = hidden.to(torch.float32).unflatten(1, config.grid_size)
    for axis in (1, 2, 3):
        grid = grid.repeat_interleave(TOKEN, dim=axis)
    return grid


def monai_loss(model: nn.Module, images: Tensor, mask: Tensor) -> Tensor:
    """MONAI's autoencoder, all images as a batch. It draws its mask, of the same size."""
    images, mask = images.flatten(0, 1), mask.flatten(0, 1)
    target = patchify(images, (TOKEN,) * 3)
    visible = num_visible(mask.shape[1], MASK_RATIO)
    weight = next(model.parameters())
    pred, hidden = model(images[:, None].to(weight.dtype), 1 - (visible + 0.5) / mask.shape[1])
    return ((pred - target).square().mean(dim=-1) * hidden).sum() / hidden.sum()


class Peers:
    """The models of the peers' table, made once and used for every N."""

    def __init__(self, setting: Setting) -> None:
        config = setting.config
        width, depth, grid = config.embed_dim, config.depth, config.grid_size[0]
        self.setting = setting
        self.ours = setting.ready(AdaptiveMAE(config))
        bmmae = setting.ready(peers.BMMAE(len(CONTRASTS), width, depth, grid), by_block=True)
        eva = setting.ready(peers.EvaMAE(width, depth, grid), by_block=True)

        def bmmae_loss(images: Tensor, mask: Tensor) -> Tensor:
            return bmmae(images, mask, patchify(images.flatten(0, 1), config.token_size))

        def eva_loss(images: Tensor, mask: Tensor) -> Tensor:
            mask = mask.flatten(0, 1)
            return eva(images.flatten(0, 1), mask, image_voxels(mask, config))

        self.losses: dict[str, tuple[nn.Module, PeerLoss]] = {
            "BM-MAE": (bmmae, setting.cast(bmmae_loss)),
            "EvaMAE": (eva, setting.cast(eva_loss)),
        }
        monai = peers.monai_mae(width, depth, grid)
        if monai is not None:  # it fails under autocast
            monai = setting.ready(monai.bfloat16() if setting.half else monai, by_block=True)
            self.losses["MONAI"] = monai, partial(monai_loss, monai)

    def variants(self, counts: tuple[int, ...]) -> dict[str, Step]:
        """Bars 3 to 5. Peers know no batch of studies with other N: one N after the other."""
        data = self.setting.batch(counts)
        ours = self.setting.cast(partial(packed_loss, self.ours))
        images = grouped(*data)
        steps: dict[str, Step] = {"ours": (self.ours, partial(ours, *data))}
        for name, (model, loss) in self.losses.items():
            steps[name] = model, partial(by_count, loss, images)
        return steps


# Precision.


def numerics(setting: Setting) -> list[dict[str, float | str]]:
    """Bar 9: loss and gradients of studies with 1, 3 and 4 contrasts against float64."""
    exact = AdaptiveMAE(setting.config).double().to(setting.device)
    model = AdaptiveMAE(setting.config).to(setting.device)
    exact.load_state_dict(model.state_dict())
    model = setting.ready(model)
    x, slots, masked = setting.batch((1, 3, 4))
    truth = packed_loss(exact, x.double(), slots, masked)
    truth.backward()
    wanted = [p.grad for p in exact.parameters()]
    rows: list[dict[str, float | str]] = []
    for name, half in (("float32", False), ("bfloat16 autocast", True)):
        model.zero_grad()
        loss = replace(setting, half=half).cast(packed_loss)(model, x, slots, masked)
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


def matmul_rate() -> float:
    """Operations a second of a large bfloat16 matrix product: what this GPU can do at most."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def products() -> None:
        for _ in range(20):
            a @ b

    (row,) = time_in_turn({"product": products}, 5, gpu_time)
    return 20 * 2 * 8192**3 / float(row["seconds"])


def tables(args: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, float | str]]]]:
    """All tables that were asked for, as they are done."""
    config = model_config(args.crop, args.width, args.depth, args.decoder_heads)
    half, device = args.dtype == "bfloat16", torch.device(args.device)
    setting = Setting(config, device, half, args.compile, args.studies, args.rounds)
    title = f"{{}}, crop {args.crop}, width {args.width}, {args.dtype}"
    if "tokenizer" in args.parts:
        yield title.format("tokenizer, N = 4"), setting.measure(tokenizer_variants(setting))
    if "mixed" in args.parts:
        variants = mixed_variants(setting)
        check_same_gradient(variants)
        yield title.format(f"N = {setting.listed(MIXED)}"), setting.measure(variants)
    if "numerics" in args.parts:
        yield title.format("relative error against float64"), numerics(replace(setting, studies=1))
    if "peers" in args.parts:
        models, peak = Peers(setting), matmul_rate() if device.type == "cuda" else 0
        for name in args.counts:
            counts = MIXED if name == "mixed" else (int(name),)
            rows = setting.measure(models.variants(counts))
            flops = 3 * mae_flops(config, setting.repeated(counts), MASK_RATIO)
            speed = flops / float(rows[0]["seconds"])
            share = f", {speed / peak:.2f} of {peak / 1e12:.0f} TFLOP/s" if peak else ""
            did = f"ours {flops / 1e9:.0f} GFLOP, {speed / 1e9:.0f} GFLOP/s{share}"
            yield f"{title.format(f'N = {setting.listed(counts)}')}: {did}", rows


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
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--studies", type=int, default=1, help="of a batch; mixed: 4 at least")
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
