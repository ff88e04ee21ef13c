"""How long Adaptive UNETR takes for N contrasts, against networks that take all channels always.

    python scripts/benchmark_unetr.py --rounds 5 --crop 96

One run times its variants in turn, round after round, so that a busy machine slows all of them
alike. Time is CPU time of one thread: forward and backward of one patch, then nnU-Net's own
sliding-window prediction of a volume of two windows, without mirroring. Ratios are taken in each
round, to Adaptive UNETR with four contrasts; printed are medians over the rounds. All networks have
seven input channels; ViT-Base and MONAI's defaults unless told otherwise. Random voxels: nothing
but presence depends on their values.

``UNETR``          ours, contrasts as channels.
``MONAI UNETR``    MONAI's, if it is installed.
``PlainConvUNet``  of stock nnU-Net's default planner; ``ResEnc-M`` of its residual one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from benchmark_pretraining import CONTRASTS, Setting, model_config, report, time_in_turn
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR

CLASSES = 2
FEATURES = (32, 64, 128, 256, 320, 320)


def study(crop: int, present: int, depth: int) -> Tensor:
    """Images (1, C, depth, crop, crop) of which the first ``present`` are not zero."""
    x = torch.randn(1, len(CONTRASTS), depth, crop, crop)
    x[:, present:] = 0
    return x


def nnunet_network(kind: type[nn.Module], blocks: dict[str, tuple[int, ...]]) -> nn.Module:
    """A network as nnU-Net's planners write it for an isotropic patch."""
    stages = len(FEATURES)
    return kind(
        input_channels=len(CONTRASTS), n_stages=stages, features_per_stage=FEATURES,
        conv_op=nn.Conv3d, kernel_sizes=3, strides=(1, *(2,) * (stages - 1)), num_classes=CLASSES,
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=False, **blocks,
    )  # fmt: skip


def monai_unetr(crop: int, width: int) -> nn.Module | None:
    """MONAI's UNETR with its defaults at this width, or None."""
    try:
        from monai.networks.nets import UNETR as MonaiUNETR
    except ImportError:
        return None
    return MonaiUNETR(
        len(CONTRASTS), CLASSES, crop, hidden_size=width, mlp_dim=4 * width, num_heads=width // 64
    )


def networks(args: argparse.Namespace) -> dict[str, nn.Module]:
    """All networks by name; ours first."""
    config = model_config(args.crop, args.width, args.depth)
    made = {
        "Adaptive UNETR": AdaptiveUNETR(config, CLASSES),
        "UNETR": UNETR(config, CLASSES),
        "MONAI UNETR": monai_unetr(args.crop, args.width),
        "PlainConvUNet": nnunet_network(
            PlainConvUNet, {"n_conv_per_stage": (2,) * 6, "n_conv_per_stage_decoder": (2,) * 5}
        ),
        "ResEnc-M": nnunet_network(
            ResidualEncoderUNet,
            {"n_blocks_per_stage": (1, 3, 4, 6, 6, 6), "n_conv_per_stage_decoder": (1,) * 5},
        ),
    }
    return {name: network for name, network in made.items() if network is not None}


def variants(
    made: dict[str, nn.Module], crop: int, depth: int
) -> dict[str, tuple[nn.Module, Tensor]]:
    """Adaptive UNETR for each number of contrasts, four first; the others take all channels."""
    ours, *others = made
    named = {f"{ours}, N = {n}": (made[ours], study(crop, n, depth)) for n in (4, 1, 2, 7)}
    return named | {name: (made[name], study(crop, 4, depth)) for name in others}


def loss(network: nn.Module, x: Tensor) -> Tensor:
    """Any loss; the networks' passes are what is timed."""
    return network(x).square().mean()


def window_prediction(network: nn.Module, x: Tensor, crop: int) -> Callable[[], object]:
    """nnU-Net's sliding-window prediction of a volume (1, C, Z, Y, X)."""
    predictor = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=(crop,) * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=CLASSES)
    return partial(predictor.predict_sliding_window_return_logits, x[0])


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ["training", "prediction"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crop", type=int, default=96, help="voxels of an edge, a multiple of 32")
    parser.add_argument("--width", type=int, default=768, help="of the ViT, a multiple of 64")
    parser.add_argument("--depth", type=int, default=12, help="blocks of our ViT (MONAI's: 12)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of training")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="as nnU-Net does on CUDA")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {}
    title = f"crop {args.crop}, width {args.width}"
    if "training" in args.parts:
        config, half = model_config(args.crop, args.width, args.depth), args.dtype == "bfloat16"
        device = torch.device(args.device)
        setting = Setting(config, device, half, args.compile, rounds=args.rounds)
        made = {name: setting.ready(network) for name, network in networks(args).items()}
        timed = {
            name: (network, partial(setting.cast(loss), network, x.to(device)))
            for name, (network, x) in variants(made, args.crop, args.crop).items()
        }
        found[f"forward and backward, {title}, {args.dtype}"] = setting.measure(timed)
        report(*list(found.items())[-1])
    if "prediction" in args.parts:
        steps = variants(networks(args), args.crop, args.crop * 3 // 2)
        runs = {name: window_prediction(net, x, args.crop) for name, (net, x) in steps.items()}
        found[f"sliding-window prediction, {title}, float32"] = time_in_turn(runs, args.rounds)
        report(*list(found.items())[-1])
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
