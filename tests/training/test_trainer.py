import copy
import json
import multiprocessing
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATASET, TINY
from tiny import encode_all, studies

from amae_nnunet.cli import configure
from amae_nnunet.errors import AMAEError, CheckpointError, ConfigError, ContrastError
from amae_nnunet.networks.checkpoint import load_mae, read_checkpoint, save_checkpoint
from amae_nnunet.networks.unetr import UNETR, AdaptiveUNETR
from amae_nnunet.training import trainer as trainers

CPU = torch.device("cpu")
KINDS = ["AMAETrainer", "AMAETrainerNoPretraining", "AMAETrainerUNETR",
         "AMAETrainerUNETRNoPretraining"]  # fmt: skip


@pytest.fixture
def make(nnunet, tiny_plans):
    """Make a trainer as nnUNetv2_train does, with its plans changed on the way."""

    def make(
        kind="AMAETrainerNoPretraining", configuration=tiny_plans, change=None, plans=None, fold=0
    ):
        folder = nnunet / "preprocessed" / DATASET
        plans = json.loads((folder / f"{plans or 'AMAEPlans'}.json").read_text())
        if change:
            change(plans["configurations"])
        plans["continue_training"] = False
        dataset_json = json.loads((folder / "dataset.json").read_text())
        return getattr(trainers, kind)(plans, configuration, fold, dataset_json, CPU)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_and_the_values_come_from_the_plans(make, kind):
    trainer = make(kind)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (2, 2)
    assert (trainer.initial_lr, trainer.weight_decay) == (1e-4, 0.05)
    trainer.initialize()
    assert type(trainer.network) is (UNETR if "UNETR" in kind else AdaptiveUNETR)
    assert trainer.network.config.embed_dim == 12
    assert trainer.network.config.contrasts == ("ADC", "TRACE", "T2")


def test_stock_plans_work_with_the_papers_values(make):
    trainer = make(configuration="3d_fullres", plans="nnUNetPlans")
    trainer.initialize()
    assert trainer.network.config.embed_dim == 768
    assert trainer.num_epochs == 200
    saved = trainer.plans_manager.plans["configurations"]["3d_fullres"]["amae"]
    assert saved["contrasts"] == ["ADC", "TRACE", "T2"]


def test_it_is_compiled_where_flash_attention_is(make, monkeypatch):
    monkeypatch.delenv("nnUNet_compile", raising=False)
    trainer = make(configuration="3d_fullres", plans="nnUNetPlans")  # heads are 64 wide
    assert not trainer._do_i_compile()
    trainer.device = torch.device("cuda")
    for capability, flash in (((9, 0), True), ((7, 5), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)
        assert trainer._do_i_compile() == flash


@pytest.mark.parametrize("kind", ["AMAETrainer", "AMAETrainerUNETR"])
def test_activation_checkpointing_reaches_all_blocks(make, kind):
    for wanted in (False, True):
        trainer = make(kind, change=with_values(activation_checkpointing=wanted))
        trainer.initialize()
        blocks = [m for m in trainer.network.modules() if hasattr(m, "activation_checkpointing")]
        assert len(blocks) > len(trainer.network.encoder.blocks)
        assert {block.activation_checkpointing for block in blocks} == {wanted}


def test_norms_biases_and_embeddings_do_not_decay(make):
    trainer = make()
    trainer.initialize()
    decaying, spared = trainer.optimizer.param_groups
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    names = {id(p): name for name, p in trainer.network.named_parameters()}
    assert len(names) == len(decaying["params"]) + len(spared["params"])
    spared = {names[id(p)] for p in spared["params"]}
    assert {"encoder.norm.weight", "encoder.blocks.0.attn.qkv.bias",
            "encoder.contrast_embed.weight"} <= spared  # fmt: skip
    assert not any("qkv.weight" in name or "conv1.weight" in name for name in spared)


def with_values(**values):
    """A change of the fine-tuning's values in the plans."""

    def change(configurations):
        configurations["tiny"]["amae"]["training"].update(values)

    return change


def rates(trainer, epochs):
    """Learning rate of each parameter by name, in each epoch."""
    names = {id(p): name for name, p in trainer.network.named_parameters()}
    found = []
    for epoch in epochs:
        trainer.lr_scheduler.step(epoch)
        groups = trainer.optimizer.param_groups
        pairs = [(names[id(p)], group["lr"]) for group in groups for p in group["params"]]
        assert len(pairs) == len(dict(pairs))
        found.append(dict(pairs))
    return found


def test_by_default_the_schedule_is_nnunets_own(make):
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    trainer = make(change=with_values(num_epochs=7))
    trainer.initialize()
    assert len(trainer.optimizer.param_groups) == 2
    found = rates(trainer, range(7))
    stock = PolyLRScheduler(trainer.optimizer, 1e-4, 7)
    for epoch in range(7):
        stock.step(epoch)
        assert set(found[epoch].values()) == {trainer.optimizer.param_groups[0]["lr"]}


@pytest.mark.parametrize("kind", ["AMAETrainerNoPretraining", "AMAETrainerUNETRNoPretraining"])
def test_each_layer_of_the_encoder_has_its_share_of_the_rate(make, kind):
    """Embeddings at decay^3, two blocks at decay^2 and decay, all else at the full rate."""
    trainer = make(kind, change=with_values(layer_decay=0.5, num_epochs=4))
    trainer.initialize()
    learning = {name for name, p in trainer.network.named_parameters() if p.requires_grad}
    layers = {"encoder.blocks.0.": 0.25, "encoder.blocks.1.": 0.5, "encoder.norm.": 1.0,
              "encoder.": 0.125, "decoder.": 1.0}  # fmt: skip
    for epoch, found in enumerate(rates(trainer, range(4))):
        assert found.keys() == learning
        for name, rate in found.items():
            share = next(value for prefix, value in layers.items() if name.startswith(prefix))
            assert rate == pytest.approx(1e-4 * (1 - epoch / 4) ** 0.9 * share, rel=1e-12)
    spared = {id(p) for g in trainer.optimizer.param_groups if not g["weight_decay"]
              for p in g["params"]}  # fmt: skip
    assert trainer.optimizer.param_groups[0]["lr_scale"] == 1  # the rate that nnU-Net logs
    plain = make(kind)
    plain.initialize()
    assert len(spared) == len(plain.optimizer.param_groups[1]["params"])


@pytest.mark.parametrize("kind", ["AMAETrainer", "AMAETrainerUNETR"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_an_encoder_with_layer_decay_0_stays_as_it_is(
    make, pretrained, kind, activation_checkpointing
):
    trainer = make(
        kind, change=with_values(layer_decay=0.0, activation_checkpointing=activation_checkpointing)
    )
    trainer.on_train_start()
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    plain = make(f"{kind}NoPretraining")
    plain.initialize()
    plain.network.load_state_dict(before)
    x = torch.randn(1, 3, 16, 32, 32)
    gradients = []
    for network in (trainer.network, plain.network):
        network.zero_grad()
        network(x).square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    trainer.optimizer.step()
    after = trainer.network.state_dict()
    stays = ("encoder.patch_embed.", "encoder.pos_embed.", "encoder.contrast_embed.",
             "encoder.blocks.")  # fmt: skip
    for name, gradient in gradients[0].items():
        if name.startswith(stays):
            assert gradient is None
            assert torch.equal(after[name], before[name])
        else:
            assert torch.equal(gradient, gradients[1][name])
            assert not torch.equal(after[name], before[name])
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == sum(
        gradient is not None for gradient in gradients[0].values()
    )


def test_the_rate_rises_linearly_and_then_decays(make):
    trainer = make(change=with_values(warmup_epochs=4, num_epochs=10))
    trainer.initialize()
    found = [set(values.values()) for values in rates(trainer, range(10))]
    assert all(len(values) == 1 for values in found)
    rise = [1e-4 * share for share in (0.25, 0.5, 0.75, 1.0)]
    fall = [1e-4 * (1 - step / 6) ** 0.9 for step in range(6)]
    assert [values.pop() for values in found] == pytest.approx(rise + fall, rel=1e-12)


def test_a_continued_training_has_the_rates_of_the_plans(make, tmp_path):
    change = with_values(layer_decay=0.5, warmup_epochs=2, num_epochs=6)
    first = make(change=change)
    first.initialize()
    first.on_train_epoch_start()
    first.optimizer.zero_grad()
    first.network(torch.randn(1, 3, 16, 32, 32)).square().mean().backward()
    first.optimizer.step()
    path = str(tmp_path / "checkpoint_latest.pth")
    first.save_checkpoint(path)
    again = make(change=change)
    again.load_checkpoint(path)
    assert again.current_epoch == 1
    assert rates(again, range(1, 6)) == rates(first, range(1, 6))
    moments = [[s["exp_avg"] for s in t.optimizer.state.values()] for t in (first, again)]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    slower = make(change=with_values(layer_decay=0.25, weight_decay=0.2, num_epochs=6))
    slower.load_checkpoint(path)
    assert rates(slower, [3])[0]["encoder.blocks.1.norm1.weight"] == pytest.approx(
        1e-4 * 0.5**0.9 * 0.25
    )
    assert {group["weight_decay"] for group in slower.optimizer.param_groups} == {0.2, 0.0}
    with pytest.raises(ConfigError, match="begun with another layer_decay"):
        make(change=with_values(num_epochs=6)).load_checkpoint(path)


@pytest.mark.parametrize("loss", ["dice", "dice_ce"])
def test_loss_is_dice_with_cross_entropy_as_the_switch(make, loss):
    trainer = make(change=with_values(loss=loss))
    trainer.initialize()
    logits = torch.randn(2, 2, 4, 8, 8)
    target = torch.randint(0, 2, (2, 1, 4, 8, 8)).float()
    dice = trainer.loss.dc(logits, target)
    ce = torch.nn.functional.cross_entropy(logits, target[:, 0].long())
    expected = dice + ce if loss == "dice_ce" else dice
    torch.testing.assert_close(trainer.loss(logits, target), expected)


@pytest.mark.parametrize("kind", ["AMAETrainer", "AMAETrainerUNETR"])
def test_a_new_training_starts_from_the_checkpoint(make, pretrained, kind):
    trainer = make(kind)
    trainer.on_train_start()
    weights = read_checkpoint(pretrained).tensors
    for name, value in trainer.network.encoder.blocks.state_dict().items():
        assert torch.equal(value, weights[f"encoder.blocks.{name}"])
    log = Path(trainer.log_file).read_text()
    assert "loaded the pre-trained encoder of fold_all/checkpoint_final.safetensors\n" in log
    assert "contrasts: ADC, TRACE, T2 from the checkpoint" in log
    assert re.search(r"\d+ tensors with \d+ values: .*blocks \(24\)", log)
    saved = json.loads(Path(trainer.output_folder_base, "plans.json").read_text())
    assert saved["configurations"]["tiny"]["amae"]["model"]["embed_dim"] == 12


def test_the_features_of_a_new_training_are_those_of_the_pretraining(make, pretrained):
    trainer = make("AMAETrainer")
    trainer.on_train_start()
    config = trainer.network.config
    x, _ = studies(config, ["111", "101"])
    present = torch.tensor([[True] * 3, [True, False, True]])
    model = load_mae(read_checkpoint(pretrained))
    ours, theirs = (
        encode_all(encoder, config, x, present, [1, 2])
        for encoder in (trainer.network.encoder, model.encoder)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_without_pretraining_the_checkpoint_is_not_touched(make, pretrained):
    trainer = make("AMAETrainerNoPretraining")
    trainer.on_train_start()
    weights = read_checkpoint(pretrained).tensors["encoder.blocks.0.attn.qkv.weight"]
    assert not torch.equal(trainer.network.encoder.blocks[0].attn.qkv.weight, weights)


def test_weights_given_by_the_stock_option_are_kept(make, pretrained, tmp_path):
    from nnunetv2.run.run_training import maybe_load_checkpoint

    first = make("AMAETrainerNoPretraining")
    first.initialize()
    first.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    trainer = make("AMAETrainer")
    begun = len(Path(trainer.log_file).read_text())  # trainers of one second share the file
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "checkpoint_final.pth"))
    trainer.on_train_start()
    for name, value in first.network.state_dict().items():
        assert torch.equal(trainer.network.state_dict()[name], value)
    log = Path(trainer.log_file).read_text()[begun:]
    assert "started from the weights of -pretrained_weights" in log
    assert "loaded the pre-trained encoder" not in log


def test_a_continued_training_never_asks_for_the_checkpoint(make, nnunet):
    assert configure.main(["950", "3d_fullres", "--name", "lonely", *TINY]) == 0
    trainer = make("AMAETrainer", "lonely")
    trainer.current_epoch = 1
    trainer.on_train_start()


def test_a_missing_checkpoint_names_the_ways_out(make, nnunet):
    assert configure.main(["950", "3d_fullres", "--name", "bare", *TINY]) == 0
    with pytest.raises(CheckpointError) as caught:
        make("AMAETrainer", "bare").on_train_start()
    message = str(caught.value)
    assert "amae-nnunet-pretrain 950 bare -p AMAEPlans" in message
    assert "amae-nnunet-configure --checkpoint" in message
    assert "-tr AMAETrainerNoPretraining" in message
    base = nnunet / "results" / DATASET / "AMAEPretraining__AMAEPlans__bare"
    assert all(str(base / f"fold_{fold}" / "checkpoint_final") in message for fold in (0, "all"))
    assert "(-f 0: without its validation cases)" in message
    with pytest.raises(CheckpointError) as caught:
        make("AMAETrainer", "bare", fold="all").on_train_start()
    assert "-f 0" not in str(caught.value)
    assert "fold_all" in str(caught.value)


def test_a_fold_takes_its_own_pretraining_or_else_that_of_all_cases(make, pretrained, nnunet):
    assert configure.main(["950", "3d_fullres", "--name", "layers", *TINY]) == 0
    base = nnunet / "results" / DATASET / "AMAEPretraining__AMAEPlans__layers"
    checkpoint = read_checkpoint(pretrained)
    for number, fold in enumerate(("all", 0)):
        (base / f"fold_{fold}").mkdir(parents=True)
        model = load_mae(checkpoint)
        with torch.no_grad():
            model.encoder.norm.weight.fill_(2 + number)
        path = base / f"fold_{fold}" / "checkpoint_final.safetensors"
        save_checkpoint(path, model, checkpoint.facts)
    for fold, taken, value in ((0, "0", 3), (1, "all", 2), ("all", "all", 2)):
        trainer = make("AMAETrainer", "layers", fold=fold)
        trainer.on_train_start()
        assert (trainer.network.encoder.norm.weight == value).all()
        log = Path(trainer.log_file).read_text()
        assert f"loaded the pre-trained encoder of fold_{taken}/checkpoint_final.safeten" in log


def test_a_checkpoint_named_in_the_plans_is_used_and_its_place_is_not_saved(
    make, pretrained, nnunet
):
    words = ["950", "3d_fullres", "-o", "NamedPlans", "--checkpoint", str(pretrained)]
    assert configure.main(words) == 0
    trainer = make("AMAETrainer", "3d_fullres", plans="NamedPlans")
    trainer.on_train_start()
    saved = Path(trainer.output_folder_base, "plans.json").read_text()
    assert "checkpoint_final.safetensors" in saved
    assert "AMAEPretraining__" not in saved

    def change(configurations):
        configurations["3d_fullres"]["amae"]["checkpoint"]["sha256"] = "0" * 64

    with pytest.raises(CheckpointError, match="is not the one that NamedPlans was made for"):
        make("AMAETrainer", "3d_fullres", change, "NamedPlans").on_train_start()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c["tiny"].update(patch_size=[32, 32]), ConfigError, "2d configuration"),
        (
            lambda c: c["tiny"].update(normalization_schemes=["CTNormalization"] * 3),
            ConfigError,
            "CTNormalization breaks the rule",
        ),
        (lambda c: c["tiny"].update(previous_stage="3d_lowres"), NotImplementedError, "cascade"),
        (
            lambda c: c["tiny"]["amae"].update(contrasts=["ADC", "T2", "TRACE"]),
            ContrastError,
            "plans are for contrasts ADC, T2, TRACE but dataset.json has ADC, TRACE, T2",
        ),
        (lambda c: c["tiny"]["amae"]["model"].update(widht=3), ConfigError, "unknown key 'widht'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(make, change, error, message):
    with pytest.raises(error, match=message):
        make(change=change)


def test_the_first_stage_of_a_cascade_prepares_no_second_one(make):
    trainer = make(change=lambda c: c["tiny"].update(next_stage="3d_cascade_fullres"))
    assert trainer.configuration_manager.next_stage_names is None


def test_absent_contrasts_stay_zero_in_every_training_batch(make, dataset):
    trainer = make()
    trainer.initialize()
    training, _ = trainer.get_dataloaders()
    present = {}
    for case, (data, *_) in ((k, training.data_loader._data.load_case(k))
                             for k in training.data_loader._data.identifiers):  # fmt: skip
        present[case] = np.any(data[:], axis=(1, 2, 3))
    assert len({tuple(flags) for flags in present.values()}) == 2
    for _ in range(60):
        batch = next(training)
        found = (batch["data"] != 0).flatten(2).any(dim=2).numpy()
        for flags, case in zip(found, batch["keys"], strict=True):
            assert not (flags & ~present[case]).any()


def test_a_missing_channel_in_the_data_is_named_with_its_case(make, nnunet, tmp_path):
    from amae_nnunet.contrasts import ContrastRecord

    folder = nnunet / "raw" / DATASET
    true = ContrastRecord.read(folder)
    false = copy.deepcopy(true)
    case = next(iter(false.cases))
    false.add(case, (False, True, not true.cases[case].present[2]), "train", "")
    false.write(folder)
    try:
        with pytest.raises(AMAEError, match=f"case {case}: contrasts.json says"):
            make().on_train_start()
    finally:
        true.write(folder)


def test_a_case_with_too_few_channels_cannot_be_predicted(make):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = make()
    trainer.initialize()
    predictor = nnUNetPredictor(use_mirroring=False, device=CPU, perform_everything_on_device=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None,
        trainer.dataset_json, "AMAETrainer", None,
    )  # fmt: skip
    with pytest.raises(ContrastError, match=r"2 channels .* 3 contrasts \(ADC, TRACE, T2\)"):
        predictor.predict_sliding_window_return_logits(torch.randn(2, 16, 32, 32))


@pytest.mark.slow
def test_trainers_pickle_and_resolve_in_a_spawned_process():
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(recursive_find_trainer_class_by_name, KINDS)
    assert found == [getattr(trainers, kind) for kind in KINDS]
    for kind in KINDS:
        cls = getattr(trainers, kind)
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_a_training_runs_and_its_model_folder_predicts_elsewhere_without_the_checkpoint(
    make, pretrained, nnunet, tmp_path
):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = make("AMAETrainer")
    trainer.run_training()
    folder = tmp_path / "moved"
    shutil.copytree(trainer.output_folder_base, folder)
    hidden = pretrained.rename(pretrained.with_suffix(".hidden"))
    try:
        predictor = nnUNetPredictor(
            use_mirroring=False, device=CPU, perform_everything_on_device=False
        )
        predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
        x = torch.randn(3, 16, 32, 32)
        x[2] = 0
        logits = predictor.predict_logits_from_preprocessed_data(x)
    finally:
        hidden.rename(pretrained)
    trainer.network.eval()
    with torch.no_grad():
        expected = trainer.network(x[None])[0]
    assert logits.shape == (2, 16, 32, 32)
    inside = (slice(None), slice(4, 12), slice(8, 24), slice(8, 24))  # corners are rounded to half
    torch.testing.assert_close(logits.float()[inside], expected[inside], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("fold", "warns"), [("all", True), ("0", False)])
def test_a_validation_case_that_the_pretraining_saw_is_one_line(make, nnunet, fold, warns):
    from amae_nnunet.cli import pretrain

    name = f"seen_{fold}"
    words = [*TINY, "pretraining.num_epochs=1", "pretraining.iterations_per_epoch=1"]
    assert configure.main(["950", "3d_fullres", "--name", name, *words]) == 0
    assert pretrain.main(["950", name, "-p", "AMAEPlans", "-device", "cpu", "-f", fold]) == 0
    trainer = make("AMAETrainer", name)
    trainer.on_train_start()
    lines = [line for line in Path(trainer.log_file).read_text().splitlines() if "saw" in line]
    assert len(lines) == warns
    if warns:
        assert "saw 2 of the 2 validation cases of fold 0" in lines[0]
        assert "pre-train with -f 0" in lines[0]


def test_a_fold_that_is_drawn_by_chance_is_told(make):
    for fold, told in ((0, False), (7, True)):
        trainer = make(fold=fold)
        trainer.initialize()
        trainer.do_split()
        text = "warning: splits_final.json has no fold 7: its 2 validation cases are drawn"
        assert (text in Path(trainer.log_file).read_text()) == told
