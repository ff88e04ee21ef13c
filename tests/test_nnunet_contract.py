"""What the design takes for granted about stock nnU-Net, one fact a test, by behaviour.

An upgrade of nnU-Net that breaks us fails here first, and says which fact is gone. Nothing of our
own is tested: where a trainer is needed, it is the small one that is defined below.
"""

import json
import pickle
import shutil
import subprocess
import sys
from copy import deepcopy
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import blosc2
import numpy as np
import pytest
import SimpleITK
import torch
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.experiment_planners.network_topology import (
    get_pool_and_conv_props,
)
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import (
    get_normalization_scheme,
)
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder
from torch import distributed, nn

DATASET = "Dataset998_Contract"
CONTRASTS = ("ADC", "TRACE", "T2")
ABSENT = 2  # T2, in every second case
CONFIGURATION = "3d_fullres"
SHAPE = (12, 40, 36)  # z, y, x
CPU = torch.device("cpu")
BLOCK = {"contrasts": list(CONTRASTS), "model": {"depth": 3}}


class SmallNetwork(nn.Module):
    """One convolution; it has the attribute that nnU-Net switches."""

    def __init__(self, channels, classes):
        super().__init__()
        self.decoder = nn.Conv3d(channels, classes, 1)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return self.decoder(x)


class ContractTrainer(nnUNetTrainer):
    """One epoch of one iteration; keeps what nnU-Net gives to the network's factory."""

    made = 0
    given = SimpleNamespace()

    def __init__(self, plans, configuration, fold, dataset_json, device=CPU):
        super().__init__(plans, configuration, fold, dataset_json, device)
        type(self).made += 1
        self.num_epochs = self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1
        self.enable_deep_supervision = False

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager,
        configuration_manager,
        num_input_channels,
        num_output_channels,
        enable_deep_supervision=True,
    ):
        cls.given = SimpleNamespace(**{k: v for k, v in locals().items() if k != "cls"})
        return SmallNetwork(num_input_channels, num_output_channels)


def write_image(array, spacing, path):
    """``array`` is (Z, Y, X), ``spacing`` as well."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(tuple(float(value) for value in spacing[::-1]))
    SimpleITK.WriteImage(image, str(path))


def study(seed, shape=SHAPE):
    """A head in air that is exactly zero: (C, Z, Y, X), and its label map."""
    rng = np.random.default_rng(seed)
    head = np.zeros(shape, bool)
    head[tuple(slice(size // 6, size - size // 6) for size in shape)] = True
    images = rng.integers(100, 900, (len(CONTRASTS), *shape)) * head
    images[:, 0, 0, 0] = 7  # a voxel at the rim, so that cropping keeps the air
    images[:, -1, -1, -1] = 7
    label = np.zeros(shape)
    label[tuple(slice(size // 3, size // 2) for size in shape)] = 1
    return images.astype(np.float32), label.astype(np.int16)


def write_raw(folder):
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for index in range(6):
        images, label = study(index)
        images[ABSENT] *= index % 2
        spacing = (5.0, 1.1, 1.1) if index == 5 else (5.0, 1.0, 1.0)
        for channel, image in enumerate(images):
            path = folder / "imagesTr" / f"case_{index}_{channel:04d}.nii.gz"
            write_image(image.astype(np.int16), spacing, path)
        write_image(label, spacing, folder / "labelsTr" / f"case_{index}.nii.gz")
    generate_dataset_json(
        str(folder),
        dict(enumerate(CONTRASTS)),
        {"background": 0, "lesion": 1},
        6,
        ".nii.gz",
        amae={"contrasts": list(CONTRASTS)},
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A raw data set, planned and preprocessed by stock nnU-Net."""
    root = tmp_path_factory.mktemp("world")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(root / name))
        patch.setenv("nnUNet_n_proc_DA", "1")  # planning refuses 0
        patch.delenv("nnUNet_compile", raising=False)
        patch.setenv("nnUNet_extTrainer", str(root / "ext"))
        (root / "ext").mkdir()
        (root / "ext" / "contract_shim.py").write_text(shim(ContractTrainer))
        write_raw(root / "nnUNet_raw" / DATASET)
        extractor = DatasetFingerprintExtractor(998, num_processes=1)
        extractor.num_foreground_voxels_for_intensitystats = 1000
        extractor.run()
        ExperimentPlanner(998).plan_experiment()
        patch.setenv("nnUNet_n_proc_DA", "0")
        yield SimpleNamespace(
            root=root,
            raw=root / "nnUNet_raw" / DATASET,
            preprocessed=root / "nnUNet_preprocessed" / DATASET,
            results=root / "nnUNet_results" / DATASET,
        )
    torch.set_num_threads(threads)


def shim(trainer):
    """A file that re-exports a class from its real module, as our ext_trainer folder does."""
    return (
        f"import sys\n{trainer.__name__} = sys.modules[{trainer.__module__!r}].{trainer.__name__}\n"
    )


@pytest.fixture
def plans(world):
    """The plans that stock nnU-Net wrote; a fresh copy for each test."""
    return json.loads((world.preprocessed / "nnUNetPlans.json").read_text())


@pytest.fixture
def dataset_json(world):
    return json.loads((world.preprocessed / "dataset.json").read_text())


@pytest.fixture(scope="module")
def cases(world):
    """The folder of preprocessed cases."""
    plans = PlansManager(str(world.preprocessed / "nnUNetPlans.json"))
    configuration = plans.get_configuration(CONFIGURATION)
    folder = world.preprocessed / configuration.data_identifier
    folder.mkdir()
    preprocessor = DefaultPreprocessor(verbose=False)
    for index in range(6):
        preprocessor.run_case_save(
            str(folder / f"case_{index}"),
            [str(world.raw / "imagesTr" / f"case_{index}_{c:04d}.nii.gz") for c in range(3)],
            str(world.raw / "labelsTr" / f"case_{index}.nii.gz"),
            plans,
            configuration,
            str(world.preprocessed / "dataset.json"),
        )
    return folder


@pytest.fixture(scope="module")
def trained(world, cases):
    """A trainer that has trained for one epoch, and that had edited its plans before."""
    plans = json.loads((world.preprocessed / "nnUNetPlans.json").read_text())
    dataset_json = json.loads((world.preprocessed / "dataset.json").read_text())
    plans["continue_training"] = False
    trainer = ContractTrainer(plans, CONFIGURATION, 0, dataset_json)
    trainer.plans_manager.plans["configurations"][CONFIGURATION]["amae"] = BLOCK
    trainer.configuration_manager.configuration["of_the_manager"] = True
    trainer.run_training()
    return trainer


def new_trainer(plans, dataset_json, trainer=ContractTrainer, configuration=CONFIGURATION):
    plans = {**plans, "continue_training": False}
    return trainer(plans, configuration, 0, dataset_json, CPU)


# How nnU-Net finds a trainer


def write_trainers(folder, **bases):
    folder.mkdir()
    lines = [f"class {name}(nnUNetTrainer):\n    folder = {folder.name!r}" for name in bases]
    text = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
    (folder / "trainers_of_the_user.py").write_text(text + "\n".join(lines))
    return str(folder)


def test_nnunet_searches_its_own_trainers_before_those_of_ext_trainer(tmp_path, monkeypatch):
    folder = write_trainers(tmp_path / "a", nnUNetTrainerNoMirroring=1, OnlyOutside=1)
    monkeypatch.setenv("nnUNet_extTrainer", folder)
    found = recursive_find_trainer_class_by_name("nnUNetTrainerNoMirroring")
    assert found.__module__.startswith("nnunetv2.")
    assert recursive_find_trainer_class_by_name("OnlyOutside").folder == "a"


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_nnunet_searches_the_folders_of_ext_trainer_in_their_order(tmp_path, monkeypatch, order):
    folders = {name: write_trainers(tmp_path / name, OnlyOutside=1) for name in "ab"}
    path = ":".join(folders[name] for name in order)
    monkeypatch.setenv("nnUNet_extTrainer", path)
    assert recursive_find_trainer_class_by_name("OnlyOutside").folder == order[0]


def test_nnunet_skips_empty_and_missing_folders_of_ext_trainer(tmp_path, monkeypatch):
    folder = write_trainers(tmp_path / "a", OnlyOutside=1)
    monkeypatch.setenv("nnUNet_extTrainer", f":{tmp_path / 'gone'}:{folder}")
    assert recursive_find_trainer_class_by_name("OnlyOutside").folder == "a"


def test_a_re_exported_trainer_keeps_its_real_module_and_pickles(world):
    found = recursive_find_trainer_class_by_name("ContractTrainer")
    assert found is ContractTrainer
    assert found.__module__ == __name__
    assert pickle.loads(pickle.dumps(found)) is ContractTrainer


def test_a_trainer_that_is_defined_in_an_ext_trainer_folder_does_not_pickle(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", write_trainers(tmp_path / "a", OnlyOutside=1))
    found = recursive_find_trainer_class_by_name("OnlyOutside")
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(found)


def test_the_search_leaves_no_trace_in_the_import_path(tmp_path, monkeypatch):
    folder = write_trainers(tmp_path / "a", OnlyOutside=1)
    monkeypatch.setenv("nnUNet_extTrainer", folder)
    recursive_find_trainer_class_by_name("OnlyOutside")
    assert folder not in sys.path
    assert "trainers_of_the_user" not in sys.modules


def test_an_unknown_trainer_is_a_runtime_error(monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer")
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer OnlyOutside"):
        recursive_find_trainer_class_by_name("OnlyOutside")


# How nnU-Net makes and runs a trainer


def test_init_of_a_trainer_takes_exactly_the_stock_arguments(world, plans, dataset_json):
    class Extra(nnUNetTrainer):
        def __init__(self, plans, configuration, fold, dataset_json, device, extra=None):
            super().__init__(plans, configuration, fold, dataset_json, device)

    class Starred(nnUNetTrainer):
        def __init__(self, *args):
            super().__init__(*args)

    for trainer, missing in ((Extra, "extra"), (Starred, "args")):
        with pytest.raises(KeyError, match=missing):
            new_trainer(plans, dataset_json, trainer)


def test_init_of_a_trainer_takes_continue_training_out_of_the_plans(world, plans, dataset_json):
    with pytest.raises(KeyError, match="continue_training"):
        ContractTrainer(plans, CONFIGURATION, 0, dataset_json)
    plans["continue_training"] = False
    ContractTrainer(plans, CONFIGURATION, 0, dataset_json)
    assert "continue_training" not in plans


def test_the_new_network_factory_is_known_by_its_parameter_plans_manager(
    cases, plans, dataset_json
):
    plans["configurations"][CONFIGURATION]["amae"] = BLOCK
    trainer = new_trainer(plans, dataset_json)
    trainer.initialize()
    given = ContractTrainer.given
    assert given.plans_manager is trainer.plans_manager
    assert given.configuration_manager.configuration["amae"] == BLOCK
    assert (given.num_input_channels, given.num_output_channels) == (3, 2)
    assert given.enable_deep_supervision is False


def test_a_network_factory_with_other_names_is_called_the_old_way(cases, plans, dataset_json):
    class Renamed(ContractTrainer):
        @staticmethod
        def build_network_architecture(plan, config, channels, *others):
            assert plan.endswith("PlainConvUNet")  # a name of a class, not plans
            return SmallNetwork(3, 2)

    with pytest.warns(DeprecationWarning, match="old build_network_architecture signature"):
        new_trainer(plans, dataset_json, Renamed).initialize()


def test_results_lie_in_a_folder_named_after_trainer_plans_and_configuration(
    world, plans, dataset_json
):
    plans["plans_name"] = "AMAEPlans"
    trainer = new_trainer(plans, dataset_json)
    folder = world.results / f"ContractTrainer__AMAEPlans__{CONFIGURATION}" / "fold_0"
    assert Path(trainer.output_folder) == folder


def test_edits_of_the_plans_reach_the_model_folder_and_those_of_the_configuration_do_not(trained):
    folder = Path(trained.output_folder_base)
    checkpoint = torch.load(
        Path(trained.output_folder) / "checkpoint_final.pth", weights_only=False
    )
    for saved in (
        json.loads((folder / "plans.json").read_text()),
        checkpoint["init_args"]["plans"],
    ):
        assert saved["configurations"][CONFIGURATION]["amae"] == BLOCK
        assert "of_the_manager" not in saved["configurations"][CONFIGURATION]
    assert "of_the_manager" in trained.configuration_manager.configuration


def test_a_configuration_is_a_copy_that_the_plans_manager_keeps(plans):
    manager = PlansManager(plans)
    first = manager.get_configuration(CONFIGURATION)
    manager.plans["configurations"][CONFIGURATION]["amae"] = BLOCK
    assert manager.get_configuration(CONFIGURATION) is first
    assert "amae" not in first.configuration
    assert "amae" in PlansManager(plans).get_configuration(CONFIGURATION).configuration


def test_nnunet_switches_deep_supervision_at_network_decoder(cases, plans, dataset_json):
    trainer = new_trainer(plans, dataset_json)
    trainer.initialize()
    for enabled in (True, False):
        trainer.set_deep_supervision_enabled(enabled)
        assert trainer.network.decoder.deep_supervision is enabled
    trainer.network = nn.Conv3d(3, 2, 1)
    with pytest.raises(AttributeError, match="decoder"):
        trainer.set_deep_supervision_enabled(True)


def test_without_deep_supervision_the_targets_are_one_tensor_and_the_loss_is_bare(
    cases, plans, dataset_json
):
    trainer = new_trainer(plans, dataset_json)
    trainer.initialize()
    assert isinstance(trainer.loss, DC_and_CE_loss)
    loader, _ = trainer.get_dataloaders()
    assert isinstance(next(loader)["target"], torch.Tensor)


def test_deep_supervision_has_one_scale_a_stride_but_the_last(cases, plans, dataset_json):
    trainer = new_trainer(plans, dataset_json)
    trainer.enable_deep_supervision = True
    strides = trainer.configuration_manager.pool_op_kernel_sizes
    scales = trainer._get_deep_supervision_scales()
    assert len(scales) == len(strides) - 1
    assert scales[0] == [1, 1, 1]
    np.testing.assert_allclose(1 / np.array(scales[1]), strides[1])


def test_a_checkpoint_holds_the_keys_that_prediction_and_resuming_need(trained):
    checkpoint = torch.load(
        Path(trained.output_folder) / "checkpoint_final.pth", weights_only=False
    )
    assert set(checkpoint) == {
        *("network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema"),
        *("current_epoch", "init_args", "trainer_name", "inference_allowed_mirroring_axes"),
    }
    assert checkpoint["trainer_name"] == "ContractTrainer"
    assert checkpoint["current_epoch"] == 1
    assert set(checkpoint["init_args"]) == {
        *("plans", "configuration", "fold", "dataset_json", "device")
    }


def test_a_checkpoint_of_nnunet_does_not_load_with_weights_only(trained):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(Path(trained.output_folder) / "checkpoint_final.pth", weights_only=True)


def test_training_keeps_the_best_and_the_final_checkpoint(trained):
    names = {path.name for path in Path(trained.output_folder).glob("*.pth")}
    assert names == {"checkpoint_best.pth", "checkpoint_final.pth"}


def test_a_continued_training_knows_its_epoch_before_on_train_start(trained, plans, dataset_json):
    trainer = new_trainer(plans, dataset_json)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert trainer.current_epoch == 1
    assert trainer.dataloader_train is None


def test_stock_pretrained_weights_are_loaded_before_on_train_start(
    trained, plans, dataset_json, tmp_path
):
    weights = {key: 3.0 + 0 * value for key, value in trained.network.state_dict().items()}
    torch.save({"network_weights": weights}, tmp_path / "weights.pth")
    trainer = new_trainer(plans, dataset_json)
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "weights.pth"))
    assert (trainer.current_epoch, trainer.dataloader_train) == (0, None)
    assert bool((trainer.network.decoder.weight == 3).all())


def test_stock_pretrained_weights_must_hold_every_key_of_the_network(trained, tmp_path):
    weights = {"decoder.weight": trained.network.decoder.weight.detach()}
    torch.save({"network_weights": weights}, tmp_path / "weights.pth")
    with pytest.raises(AssertionError, match=r"decoder\.bias is missing"):
        load_pretrained_weights(trained.network, str(tmp_path / "weights.pth"))
    torch.save({"model": weights}, tmp_path / "weights.pth")
    with pytest.raises(KeyError, match="network_weights"):
        load_pretrained_weights(trained.network, str(tmp_path / "weights.pth"))


def test_the_split_of_the_user_is_kept(cases, world, plans, dataset_json):
    file = world.preprocessed / "splits_final.json"
    kept = file.read_text() if file.exists() else None
    file.write_text(json.dumps([{"train": ["case_0", "case_1"], "val": ["case_4"]}]))
    try:
        assert new_trainer(plans, dataset_json).do_split() == (["case_0", "case_1"], ["case_4"])
    finally:
        file.unlink() if kept is None else file.write_text(kept)


def test_network_is_compiled_on_cuda_unless_told_otherwise_and_never_on_a_cpu(
    plans, dataset_json, world, monkeypatch
):
    trainer = new_trainer(plans, dataset_json)
    assert not trainer._do_i_compile()
    trainer.device = torch.device("cuda")
    assert trainer._do_i_compile()
    monkeypatch.setenv("nnUNet_compile", "f")
    assert not trainer._do_i_compile()


def test_ddp_fails_when_a_batch_leaves_a_parameter_unused(cases, plans, dataset_json, monkeypatch):
    class Unused(ContractTrainer):
        @classmethod
        def build_network_architecture(
            cls, plans_manager, configuration_manager, channels, classes, deep_supervision
        ):
            network = SmallNetwork(channels, classes)
            network.only_for_some_batches = nn.Parameter(torch.ones(1))
            return network

    wrap = trainer_module.DDP
    # The same wrapper, for the CPU: only the number of the GPU is left out.
    monkeypatch.setattr(trainer_module, "DDP", lambda net, device_ids, **k: wrap(net, **k))
    trainer = new_trainer(plans, dataset_json, Unused)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        trainer.is_ddp = True
        trainer.initialize()
        x = torch.randn(1, 3, 4, 8, 8)
        trainer.network(x).sum().backward()
        with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
            trainer.network(x)
    finally:
        distributed.destroy_process_group()


def test_the_schedule_is_polynomial_and_stepped_with_the_epoch(cases, plans, dataset_json):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = PolyLRScheduler(optimizer, 1e-4, 200)
    schedule.step(0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    schedule.step(100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * 0.5**0.9)

    trainer = new_trainer(plans, dataset_json)
    trainer.initialize()
    trainer.optimizer, trainer.lr_scheduler = optimizer, schedule
    trainer.current_epoch = 100
    schedule.step(0)
    trainer.on_train_epoch_start()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * 0.5**0.9)


# The loss


class Refuses(nn.Module):
    def forward(self, *_):
        raise AssertionError("the cross-entropy is computed")


def test_dice_and_cross_entropy_skips_the_cross_entropy_of_weight_zero():
    logits, target = torch.randn(2, 2, 4, 8, 8), torch.randint(0, 2, (2, 1, 4, 8, 8))
    loss = DC_and_CE_loss(
        soft_dice_kwargs={"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False},
        ce_kwargs={},
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    both, dice = loss(logits, target), loss.dc(logits, target)
    loss.weight_ce = 0
    assert loss(logits, target) == dice
    assert both > dice + 0.1
    loss.ce = Refuses()
    assert loss(logits, target) == dice


def test_dice_and_binary_cross_entropy_of_weight_zero_is_the_dice_but_computes_both():
    logits, target = torch.randn(2, 2, 4, 8, 8), torch.randint(0, 2, (2, 2, 4, 8, 8)).bool()
    loss = DC_and_BCE_loss(
        bce_kwargs={},
        soft_dice_kwargs={"batch_dice": False, "smooth": 1e-5, "do_bg": True, "ddp": False},
    )
    dice = loss.dc(logits, target)
    loss.weight_ce = 0
    assert loss(logits, target) == dice
    loss.ce = Refuses()
    with pytest.raises(AssertionError, match="the cross-entropy is computed"):
        loss(logits, target)


# Plans


def test_plans_hold_the_keys_that_we_read(plans):
    assert {"dataset_name", "plans_name", "transpose_forward", "configurations"} <= set(plans)
    configuration = plans["configurations"][CONFIGURATION]
    assert configuration["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert len(configuration["patch_size"]) == len(configuration["spacing"]) == 3
    assert isinstance(configuration["batch_size"], int)
    assert configuration["normalization_schemes"] == ["ZScoreNormalization"] * 3
    assert configuration["use_mask_for_norm"] in ([False] * 3, [True] * 3)
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert len(kwargs["strides"]) == len(kwargs["kernel_sizes"]) == kwargs["n_stages"]
    assert all(len(entry) == 3 for entry in [*kwargs["strides"], *kwargs["kernel_sizes"]])
    assert kwargs["strides"][0] == [1, 1, 1]


def test_a_two_dimensional_configuration_has_a_patch_of_two_axes(plans):
    assert len(plans["configurations"]["2d"]["patch_size"]) == 2


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((1, 1, 1), (155, 240, 240)),
        ((5, 0.9, 0.9), (24, 256, 256)),
        ((2, 2, 2), (73, 112, 112)),
        ((5, 0.45, 0.45), (20, 448, 448)),
        ((3, 1, 1), (50, 224, 190)),
        ((0.7, 0.7, 0.7), (111, 161, 127)),
    ],
)
def test_strides_divide_the_patch_at_every_depth(spacing, shape):
    _, strides, kernels, patch, _ = get_pool_and_conv_props(spacing, shape, 4, 999999)
    assert list(strides[0]) == [1, 1, 1]
    assert len(strides) == len(kernels) > 3
    assert (np.array(patch) % np.cumprod(strides, axis=0) == 0).all()


def test_strides_divide_the_patch_of_the_planned_data_set(plans):
    configuration = plans["configurations"][CONFIGURATION]
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    assert (np.array(configuration["patch_size"]) % np.prod(strides, axis=0) == 0).all()


def test_an_extra_key_survives_inheritance_and_a_child_replaces_it_whole(plans):
    configurations = plans["configurations"]
    configurations[CONFIGURATION]["amae"] = BLOCK
    configurations["child"] = {"inherits_from": CONFIGURATION, "batch_size": 7}
    configurations["other"] = {"inherits_from": "child", "amae": {"model": {"width": 1}}}
    manager = PlansManager(plans)
    child = manager.get_configuration("child")
    assert child.configuration["amae"] == BLOCK
    assert (child.batch_size, child.data_identifier) == (7, "nnUNetPlans_3d_fullres")
    other = manager.get_configuration("other")
    assert other.configuration["amae"] == {"model": {"width": 1}}  # not merged
    assert (other.batch_size, other.data_identifier) == (7, "nnUNetPlans_3d_fullres")


def test_an_inheriting_configuration_trains_on_the_preprocessed_data_of_its_parent(
    cases, plans, dataset_json
):
    plans["configurations"]["child"] = {"inherits_from": CONFIGURATION}
    trainer = new_trainer(plans, dataset_json, configuration="child")
    assert Path(trainer.preprocessed_dataset_folder) == cases


def test_other_plans_with_the_same_data_identifier_need_no_new_preprocessing(
    cases, plans, dataset_json
):
    plans["plans_name"] = "AMAEPlans"
    assert Path(new_trainer(plans, dataset_json).preprocessed_dataset_folder) == cases


def test_planning_fails_without_a_process_for_augmentation(world):
    with pytest.raises(RuntimeError, match="set_num_threads expects a positive integer"):
        ExperimentPlanner(998).plan_experiment()  # nnUNet_n_proc_DA=0, which training allows


def test_planning_again_drops_our_key_and_keeps_added_configurations(world, plans, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    file = world.preprocessed / "nnUNetPlans.json"
    before = file.read_text()
    plans["configurations"][CONFIGURATION]["amae"] = BLOCK
    plans["configurations"]["child"] = {"inherits_from": CONFIGURATION, "amae": BLOCK}
    file.write_text(json.dumps(plans))
    try:
        ExperimentPlanner(998).plan_experiment()
        configurations = json.loads(file.read_text())["configurations"]
    finally:
        file.write_text(before)
    assert "amae" not in configurations[CONFIGURATION]
    assert configurations["child"]["amae"] == BLOCK


# dataset.json and the raw folder


def test_an_extra_key_of_dataset_json_reaches_the_model_folder(world, trained):
    folders = [world.raw, world.preprocessed, Path(trained.output_folder_base)]
    for folder in folders:
        kept = json.loads((folder / "dataset.json").read_text())
        assert kept["amae"] == {"contrasts": list(CONTRASTS)}


def test_channel_names_are_kept_in_the_order_of_the_channels(dataset_json):
    assert dataset_json["channel_names"] == {"0": "ADC", "1": "TRACE", "2": "T2"}
    assert list(dataset_json["channel_names"]) == ["0", "1", "2"]


def test_generate_dataset_json_needs_no_torch():
    code = (
        "import sys, nnunetv2.dataset_conversion.generate_dataset_json, nnunetv2.paths\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


@pytest.fixture
def raw_with_a_missing_file(world, tmp_path):
    folder = tmp_path / "raw"
    shutil.copytree(world.raw, folder)
    (folder / "imagesTr" / "case_1_0001.nii.gz").unlink()
    return folder


def test_a_missing_channel_file_silently_shifts_the_channels(raw_with_a_missing_file):
    images = str(raw_with_a_missing_file / "imagesTr")
    files = create_lists_from_splitted_dataset_folder(images, ".nii.gz", num_processes=1)
    assert [len(of_case) for of_case in files] == [3, 2, 3, 3, 3, 3]
    assert [Path(path).name for path in files[1]] == ["case_1_0000.nii.gz", "case_1_0002.nii.gz"]
    shifted, _ = SimpleITKIO().read_images(files[1])
    np.testing.assert_array_equal(shifted[1], study(1)[0][2])  # T2 where TRACE belongs


def test_verify_dataset_integrity_catches_a_missing_channel_file(raw_with_a_missing_file, capfd):
    with pytest.raises(RuntimeError, match="errors"):
        verify_dataset_integrity(str(raw_with_a_missing_file), num_processes=1)
    assert "Unexpected number of modalities" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((name, "ZScoreNormalization") for name in ("ADC", "T1CE", "PD", "no_norm")),
        *(("CT", "CTNormalization"), ("ct", "CTNormalization"), ("noNorm", "NoNormalization")),
        ("rescale_to_0_1", "RescaleTo01Normalization"),
        ("rgb_to_0_1", "RGBTo01Normalization"),
    ],
)
def test_the_name_of_a_channel_chooses_its_normalization(name, scheme):
    assert get_normalization_scheme(name).__name__ == scheme


# Preprocessing: what becomes of a channel that is zero


def preprocess(plans, dataset_json, images, label, from_spacing, **changes):
    plans = deepcopy(plans)
    plans["configurations"][CONFIGURATION].update(changes)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    preprocessor = DefaultPreprocessor(verbose=False)
    properties = {"spacing": list(from_spacing)}
    data, _, _ = preprocessor.run_case_npy(
        images, label[None], properties, manager, configuration, dataset_json
    )
    return data


def count_nonzero(data):
    return [int(np.count_nonzero(channel)) for channel in data]


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize(
    ("spacing", "target"),
    [
        ((2.0, 1.0, 1.0), (2.0, 1.0, 1.0)),
        ((2.0, 1.2, 1.2), (1.7, 1.0, 1.0)),
        ((6.0, 1.2, 1.2), (5.0, 1.0, 1.0)),
    ],
    ids=["as it is", "order 3", "order 3 in the plane, separate z"],
)
def test_a_zero_channel_stays_exactly_zero_through_preprocessing(
    plans, dataset_json, masked, spacing, target
):
    images, label = study(3)
    images[ABSENT] = 0
    changes = {"spacing": list(target), "use_mask_for_norm": [masked] * 3}
    data = preprocess(plans, dataset_json, images, label, spacing, **changes)
    assert (data.shape[1:] != images.shape[1:]) == (spacing != target)
    first, second, absent = count_nonzero(data)
    assert absent == 0
    assert min(first, second) > data[0].size // 4


def test_without_a_mask_the_air_of_a_present_channel_is_not_zero(plans, dataset_json):
    images, label = study(3)
    changes = {"use_mask_for_norm": [False] * 3}
    data = preprocess(plans, dataset_json, images, label, (5, 1, 1), **changes)
    assert data.shape == images.shape
    assert (data[:, 0, 1, 1] != 0).all()
    assert count_nonzero(data) == [images[0].size] * 3


def test_with_a_mask_the_air_of_a_present_channel_is_zero_until_it_is_resampled(
    plans, dataset_json
):
    images, label = study(3)
    changes = {"use_mask_for_norm": [True] * 3}
    data = preprocess(plans, dataset_json, images, label, (5, 1, 1), **changes)
    assert (data[:, 0, 1, 1] == 0).all()
    resampled = preprocess(plans, dataset_json, images, label, (5, 1.2, 1.2), **changes)
    assert np.count_nonzero(resampled) / resampled.size > np.count_nonzero(data) / data.size


def test_ct_normalization_makes_a_zero_channel_non_zero(plans, dataset_json):
    images, label = study(3)
    images[ABSENT] = 0
    changes = {"normalization_schemes": ["CTNormalization"] * 3, "use_mask_for_norm": [False] * 3}
    data = preprocess(plans, dataset_json, images, label, (5, 1, 1), **changes)
    assert count_nonzero(data)[ABSENT] == data[ABSENT].size


@pytest.mark.parametrize("scheme", ["NoNormalization", "RescaleTo01Normalization"])
def test_other_normalizations_leave_the_air_of_a_present_channel_zero(plans, dataset_json, scheme):
    images, label = study(3)
    changes = {"normalization_schemes": [scheme] * 3, "use_mask_for_norm": [False] * 3}
    data = preprocess(plans, dataset_json, images, label, (5, 1, 1), **changes)
    assert (data[:, 0, 1, 1] == 0).all()


def test_a_preprocessed_case_is_read_lazily_as_channels_z_y_x_in_float32(cases):
    data, label, _, properties = nnUNetDatasetBlosc2(str(cases)).load_case("case_1")
    assert isinstance(data, blosc2.NDArray)
    assert isinstance(label, blosc2.NDArray)
    assert data.shape == (3, *SHAPE)
    assert label.shape == (1, *SHAPE)
    assert data.dtype == np.float32
    part = data[1, 2:5, 4:9, 3:20]
    assert isinstance(part, np.ndarray)
    raw = study(1)[0][1]
    expected = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose(part, expected[2:5, 4:9, 3:20], rtol=1e-4)
    assert set(properties["class_locations"]) == {1}


def test_an_absent_channel_is_exactly_zero_in_the_preprocessed_file(cases):
    data_set = nnUNetDatasetBlosc2(str(cases))
    assert data_set.identifiers == [f"case_{index}" for index in range(6)]
    for index, identifier in enumerate(data_set.identifiers):
        channels = count_nonzero(data_set.load_case(identifier)[0][:])
        assert [count > 0 for count in channels] == [True, True, index % 2 == 1]


# The data loader and augmentation


class Recorder:
    """Stands where transforms stand, and keeps what it is called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, **data):
        self.calls.append(data)
        return data


def loader(cases, plans, dataset_json, patch, transforms=None):
    labels = PlansManager(plans).get_label_manager(dataset_json)
    data_set = nnUNetDatasetBlosc2(str(cases), ["case_0", "case_1"])
    return nnUNetDataLoader(data_set, 2, patch, patch, labels, transforms=transforms)


def test_the_data_loader_calls_transforms_with_image_and_segmentation(cases, plans, dataset_json):
    recorder = Recorder()
    next(loader(cases, plans, dataset_json, (8, 16, 16), recorder))
    assert len(recorder.calls) == 2  # once a sample, not once a batch
    assert set(recorder.calls[0]) == {"image", "segmentation"}
    image, segmentation = recorder.calls[0]["image"], recorder.calls[0]["segmentation"]
    assert (image.shape, image.dtype) == ((3, 8, 16, 16), torch.float32)
    assert (segmentation.shape, segmentation.dtype) == ((1, 8, 16, 16), torch.int16)


def test_a_batch_names_its_cases_and_keeps_absent_channels_zero(cases, plans, dataset_json):
    batch = next(loader(cases, plans, dataset_json, (8, 16, 16)))
    assert set(batch) == {"data", "target", "keys"}
    assert batch["data"].shape == (2, 3, 8, 16, 16)
    for image, key in zip(batch["data"], batch["keys"], strict=True):
        absent = key == "case_0"
        assert [bool((channel == 0).all()) for channel in image] == [False, False, absent]


def test_the_data_loader_pads_images_with_zero(cases, plans, dataset_json):
    patch = tuple(size + 8 for size in SHAPE)
    batch = next(loader(cases, plans, dataset_json, patch))
    rim = torch.ones(patch, dtype=torch.bool)
    rim[4:-4, 4:-4, 4:-4] = False
    assert (batch["data"][..., rim] == 0).all()
    assert (batch["target"][..., rim] == -1).all()
    assert (batch["data"][:, :2, ~rim] != 0).all()


def training_transforms(patch=(8, 16, 16)):
    return nnUNetTrainer.get_training_transforms(
        patch, (-0.5, 0.5), None, (0, 1, 2), False, use_mask_for_norm=[False] * 3
    )


def sample(patch=(8, 16, 16)):
    image = torch.randn(3, *patch)
    image[ABSENT] = 0
    return {"image": image, "segmentation": torch.zeros(1, *patch, dtype=torch.int16)}


def seed_augmentation():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - what nnU-Net's transforms draw from


@pytest.mark.slow
def test_stock_augmentation_makes_an_absent_channel_non_zero_in_about_one_sample_of_ten():
    seed_augmentation()
    transforms = training_transforms()
    broken = [bool(transforms(**sample())["image"][ABSENT].any()) for _ in range(150)]
    assert 0.02 < np.mean(broken) < 0.25


def test_of_the_stock_augmentation_only_gaussian_noise_makes_an_absent_channel_non_zero():
    seed_augmentation()
    breaking = set()
    for transform in training_transforms().transforms:
        if isinstance(transform, RandomTransform):
            transform.apply_probability = 1
        inner = getattr(transform, "transform", transform)
        for _ in range(10):
            if transform(**sample())["image"][ABSENT].any():
                breaking.add(type(inner).__name__)
    assert breaking == {"GaussianNoiseTransform"}


def test_validation_transforms_leave_the_image_alone():
    transforms = nnUNetTrainer.get_validation_transforms(None)
    for _ in range(20):
        given = sample()
        kept = given["image"].clone()
        assert torch.equal(transforms(**given)["image"], kept)


# Prediction


def make_predictor():
    return nnUNetPredictor(use_mirroring=True, device=CPU, allow_tqdm=False)


def load_model(folder):
    predictor = make_predictor()
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    return predictor


def test_prediction_reads_plans_json_of_the_model_folder_and_not_the_checkpoint(trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained.output_folder_base, model)
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"][CONFIGURATION]["amae"] = {"changed": "later"}
    (model / "plans.json").write_text(json.dumps(plans))
    load_model(model)
    given = ContractTrainer.given
    assert given.configuration_manager.configuration["amae"] == {"changed": "later"}
    assert (given.num_input_channels, given.num_output_channels) == (3, 2)
    assert given.enable_deep_supervision is False


def test_prediction_finds_the_class_by_name_and_never_makes_a_trainer(trained, monkeypatch):
    made = ContractTrainer.made
    predictor = load_model(trained.output_folder_base)
    assert ContractTrainer.made == made
    assert predictor.trainer_name == "ContractTrainer"
    monkeypatch.delenv("nnUNet_extTrainer")
    with pytest.raises(RuntimeError, match="Could not find requested nnunet trainer"):
        load_model(trained.output_folder_base)


def test_the_number_of_channels_is_that_of_dataset_json(trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained.output_folder_base, model)
    dataset_json = json.loads((model / "dataset.json").read_text())
    del dataset_json["channel_names"]["2"]
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_model(model)
    assert ContractTrainer.given.num_input_channels == 2


def test_the_predictor_pads_with_zero_and_sends_one_tile_at_a_time(trained):
    predictor = load_model(trained.output_folder_base)
    patch = predictor.configuration_manager.patch_size
    image = torch.ones(3, *(size - 4 for size in patch))
    image[ABSENT] = 0
    logits = predictor.predict_logits_from_preprocessed_data(image)
    assert logits.shape == (2, *image.shape[1:])
    tiles = predictor.network.seen
    assert {tile.shape for tile in tiles} == {(1, 3, *patch)}
    assert len(tiles) == 8  # one tile, and its seven mirror images
    inside = torch.zeros(patch, dtype=torch.bool)
    inside[2:-2, 2:-2, 2:-2] = True
    for tile in tiles:
        assert (tile[0, :, ~inside] == 0).all()
        assert (tile[0, :ABSENT, inside] == 1).all()
        assert (tile[0, ABSENT] == 0).all()


# The commands


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("train", "-tr -p -num_gpus --npz --c --val --val_best -pretrained_weights -device"),
        ("predict", "-i -o -d -tr -p -c -f -chk -num_parts -part_id --save_probabilities -device"),
        ("predict_from_modelfolder", "-i -o -m -f -device"),
        ("plan_and_preprocess", "-d -c -np --verify_dataset_integrity -overwrite_target_spacing"),
        ("preprocess", "-d -plans_name -c -np"),
        ("find_best_configuration", "-p -c -tr -f"),
        ("ensemble", "-i -o -np"),
        ("export_model_to_zip", "-d -o -c -tr -p -f"),
        ("install_pretrained_model_from_zip", "zip"),
    ],
)
def test_the_commands_have_the_flags_that_we_document(command, flags, monkeypatch, capsys):
    (found,) = entry_points(group="console_scripts", name=f"nnUNetv2_{command}")
    monkeypatch.setattr(sys, "argv", [found.name, "--help"])
    with pytest.raises(SystemExit) as ending:
        found.load()()
    assert ending.value.code == 0
    words = capsys.readouterr().out.replace(",", " ").replace("]", " ").replace("[", " ").split()
    assert set(flags.split()) <= set(words)
