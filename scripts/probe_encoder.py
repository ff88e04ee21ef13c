"""What an encoder knows before any fine-tuning: a linear probe of its tokens.

    python scripts/probe_encoder.py 501 small -p AMAEPlans -f 0 --checkpoints FILE ...

Does a token hold a voxel of a label? A ridge classifier is fitted on the tokens of the fold's
training cases and judged on those of its validation cases by average precision (the area under the
precision-recall curve; chance is the share of such tokens) and by the area under the ROC curve.
Nothing else is trained, so two runs differ by the weights that they are given and nothing more.
Compared are the features

    voxels       all voxels of the token's place, zero where a contrast is absent
    random       a new encoder's last hidden states, maximum over contrasts as in the network
    FILE         the same of a pre-trained encoder

``--folds K`` cuts all cases in K parts instead, and judges each by the K - 1 others.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from amae_nnunet.networks.checkpoint import read_checkpoint
from amae_nnunet.networks.tokenizer import patchify
from amae_nnunet.networks.transfer import load_encoder
from amae_nnunet.networks.unetr import AdaptiveUNETR, find_slots, pool_contrasts
from amae_nnunet.plans.preprocessed import PreprocessedDataset, case_reader
from amae_nnunet.pretraining.data import cut
from amae_nnunet.pretraining.studies import Study, labelled_studies

SEEDS = (0, 1, 2)  # of the random encoders
STRENGTHS = (1e1, 1e3, 1e5)  # of the ridge; the best of each kind of features is shown


def patches(study: Study, network: AdaptiveUNETR) -> Iterator[tuple[Tensor, Tensor]]:
    """The images (C, Z, Y, X) and the label (1, Z, Y, X) of each patch of a study."""
    config, data = network.config, study.images()
    size = data.shape[1:]
    reader = case_reader(study.folder)(str(study.folder), [study.case])
    label = torch.from_numpy(np.asarray(reader.load_case(study.case)[1][:1]) > 0)
    counts = [-(-n // p) for n, p in zip(size, config.patch_size, strict=True)]
    for place in itertools.product(*map(range, counts)):
        sizes = zip(size, counts, place, config.patch_size, strict=True)
        first = [(n - count * p) // 2 + k * p for n, count, k, p in sizes]
        images, present = cut(study, data, first, config.patch_size, config.num_contrasts)
        ends = zip(first, config.patch_size, size, strict=True)
        inside = [slice(max(f, 0), min(f + p, n)) for f, p, n in ends]
        box = torch.zeros(1, *config.patch_size)
        at = [slice(s.start - f, s.stop - f) for s, f in zip(inside, first, strict=True)]
        box[(0, *at)] = label[(0, *inside)].float()
        if images[present].any():
            yield images.float(), box


@torch.no_grad()
def features(network: AdaptiveUNETR, images: Tensor) -> Tensor:
    """(L, E) of one patch."""
    x, config = images[None], network.config
    study, contrast, segments = find_slots(x, network.num_tokens)
    voxels = patchify(x[study, contrast], config.token_size)
    position = torch.arange(network.num_tokens)
    (state,) = network.encoder(voxels, contrast, position, segments)
    return pool_contrasts(state.unflatten(0, voxels.shape[:2]), study, 1)[0]


def networks(dataset: PreprocessedDataset, checkpoints: list[Path]) -> dict[str, AdaptiveUNETR]:
    """Random and pre-trained encoders by name."""
    config = dataset.block.model_config(dataset.configuration)
    found = {}
    for seed in SEEDS:
        torch.manual_seed(seed)
        found[f"random {seed}"] = AdaptiveUNETR(config, 2).eval()
    for path in checkpoints:
        found[str(path)] = AdaptiveUNETR(config, 2).eval()
        load_encoder(found[str(path)], read_checkpoint(path), path)
    return found


def score(x: np.ndarray, y: np.ndarray, tests: list[np.ndarray]) -> tuple[float, float]:
    """Average precision and ROC area of held-out tokens, means over the parts."""
    found = []
    for strength in STRENGTHS:
        scores = []
        for test in tests:
            model = make_pipeline(StandardScaler(), RidgeClassifier(strength, solver="cholesky"))
            guess = model.fit(x[~test], y[~test]).decision_function(x[test])
            scores.append((average_precision_score(y[test], guess), roc_auc_score(y[test], guess)))
        found.append(tuple(np.mean(scores, axis=0)))
    return max(found)


def main() -> None:
    """Print a line for each kind of features."""
    parser = argparse.ArgumentParser(description="A linear probe of encoders.")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans")
    parser.add_argument("-f", dest="fold", default="0")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--checkpoints", nargs="*", type=Path, default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = PreprocessedDataset.open(args.dataset, args.configuration, args.plans)
    studies = labelled_studies(dataset, dataset.cases())
    encoders = networks(dataset, args.checkpoints)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("voxels", *encoders)}
    hit, case = [], []
    for number, study in enumerate(tqdm(studies, "features", unit="case")):
        for images, label in patches(study, next(iter(encoders.values()))):
            token_size = next(iter(encoders.values())).config.token_size
            voxels = patchify(images[None], token_size)[0].transpose(0, 1).flatten(1)
            hit.append(patchify(label[None], token_size)[0, 0].any(dim=1).numpy())
            case.append(np.full(len(voxels), number))
            found["voxels"].append(voxels.numpy())
            for name, network in encoders.items():
                found[name].append(features(network, images).numpy())
    y, number = np.concatenate(hit), np.concatenate(case)
    training = set(dataset.training_cases(args.fold))
    tests = [np.isin(number, range(k, len(studies), args.folds)) for k in range(args.folds)]
    if not tests:
        tests = [~np.array([study.case in training for study in studies])[number]]
    print(f"{len(y)} tokens of {len(studies)} cases, {y.mean():.3f} of them with a label")
    for name, parts in found.items():
        precision, area = score(np.concatenate(parts), y, tests)
        print(f"{name}: average precision {precision:.3f}, ROC area {area:.3f}", flush=True)


if __name__ == "__main__":
    main()
