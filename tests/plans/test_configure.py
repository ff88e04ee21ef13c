import json
import logging
import re
import shutil
import threading
import time

import pytest
from conftest import DATASET
from tiny import make_config

from amae_nnunet.cli.configure import main
from amae_nnunet.errors import ConfigError
from amae_nnunet.lock import LOCK, locked
from amae_nnunet.networks.checkpoint import save_checkpoint
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.plans.block import AMAEBlock
from amae_nnunet.plans.configure import parse_settings
from amae_nnunet.plans.preprocessed import PreprocessedDataset


def plans_of(nnunet, name="AMAEPlans"):
    return json.loads((nnunet / "preprocessed" / DATASET / f"{name}.json").read_text())


def test_words_are_sorted_by_where_they_belong():
    settings = parse_settings(
        ["embed_dim=48", "num_epochs=2", "pretraining.num_epochs=3", "mask_ratio=0.5",
         "patch_size=16,32,32", "spacing=[5,1,1]", "batch_size=2", "encoder=small"]
    )  # fmt: skip
    assert settings == {
        "nnunet": {"patch_size": [16, 32, 32], "spacing": [5, 1, 1], "batch_size": 2},
        "model": {"embed_dim": 48, "encoder": "small"},
        "training": {"num_epochs": 2},
        "pretraining": {"num_epochs": 3, "mask_ratio": 0.5},
    }


@pytest.mark.parametrize("word", ["embed_dim", "embde_dim=3", "training.embed_dim=3", "a.b=1"])
def test_a_word_nobody_knows_is_refused(word):
    with pytest.raises(ConfigError, match="KEY=VALUE|unknown key"):
        parse_settings([word])


def test_new_configuration_inherits_and_carries_the_block(nnunet, tiny_plans):
    plans = plans_of(nnunet)
    assert plans["plans_name"] == "AMAEPlans"
    own = plans["configurations"][tiny_plans]
    assert own["inherits_from"] == "3d_fullres"
    assert set(own) == {"inherits_from", "amae"}
    opened = PreprocessedDataset.open("950", tiny_plans, "AMAEPlans")
    assert opened.data_folder.name == "nnUNetPlans_3d_fullres"
    assert len(opened.cases()) == 6
    config = opened.block.model_config(opened.configuration)
    assert (config.embed_dim, config.depth, config.contrasts) == (12, 2, ("ADC", "TRACE", "T2"))
    assert opened.block.training_config().num_epochs == 2
    assert opened.block.pretraining_config().batch_size == 2


def test_without_a_name_the_configuration_itself_is_changed_and_then_changed_again(nnunet, dataset):
    base = ["950", "3d_fullres", "-o", "OtherPlans"]
    assert main([*base, "embed_dim=24", "patch_size=16,32,32", "batch_size=3"]) == 0
    assert main([*base, "depth=3", "lr=0.01"]) == 0
    opened = PreprocessedDataset.open("950", "3d_fullres", "OtherPlans")
    assert opened.block.model == {"embed_dim": 24, "depth": 3}
    assert opened.block.training == {"lr": 0.01}
    assert opened.configuration["batch_size"] == 3
    assert "amae" not in plans_of(nnunet, "nnUNetPlans")["configurations"]["3d_fullres"]


def test_nothing_that_was_set_is_lost_silently(nnunet, tiny_plans, capsys):
    before = plans_of(nnunet)
    assert main(["950", "3d_fullres", "--name", "tiny", "num_epochs=9"]) == 2
    assert "change it with amae-nnunet-configure 950 tiny KEY=VALUE" in capsys.readouterr().err
    assert main(["950", "3d_fullres", "-p", "ResEncPlans", "depth=2"]) == 2
    assert "leave out -p, or start another file with -o NAME" in capsys.readouterr().err
    assert plans_of(nnunet) == before


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("patchsize", "patch_size"),
        ("epochs", "num_epochs"),
        ("learning_rate", "lr"),
        ("pretrainig.num_epochs", "pretraining.num_epochs"),
        ("pretraining.epochs", "pretraining.num_epochs"),
        ("pretraining.learning_rate", "pretraining.lr"),
        ("training.embed_dim", "model.embed_dim"),
    ],
)
def test_a_misspelt_key_gets_a_suggestion_and_no_more(key, near):
    with pytest.raises(ConfigError) as refusal:
        parse_settings([f"{key}=3"])
    assert str(refusal.value) == f"unknown key {key!r}: did you mean {near}?"


def test_all_keys_are_listed_where_none_is_near():
    with pytest.raises(ConfigError, match=r"docs/configuration\.md, are nnunet: patch_size, .*lr"):
        parse_settings(["qqqq=3"])


def test_a_new_spacing_gets_a_folder_of_its_own(nnunet, dataset, capsys):
    words = ["950", "3d_fullres", "--name", "coarse", "-o", "SpacedPlans", "spacing=6,10,10"]
    assert main(words) == 0
    own = plans_of(nnunet, "SpacedPlans")["configurations"]["coarse"]
    assert own["data_identifier"] == "SpacedPlans_coarse"
    assert "nnUNetv2_preprocess -d 950 -plans_name SpacedPlans -c coarse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["patch_size=16,33,32"], r"not divisible .* use \[16, 32, 32\]"),
        (["patch_size=16,32"], "patch_size=.* give z,y,x in voxels"),
        (["batch_size=0"], "batch_size=0: give patches of a training step"),
        (["batch_size=10000000"], "batch_size=10000000: give patches of a training step"),
        (["spacing=1,a,1"], "spacing=.*give z,y,x in mm"),
        (["spacing=Infinity,1,1"], "spacing=.*give z,y,x in mm"),
        (["spacing=1e-9,1,1"], "spacing=.*give z,y,x in mm"),
        (["embed_dim=wide"], "embed_dim='wide' is not of type int"),
        (["embed_dim=48", "num_heads=5"], "48 cannot be divided among 5 heads"),
        (["mask_ratio=1.5"], "mask_ratio=1.5 must lie between 0 and 1"),
        (["num_strides=9"], "num_strides=9 must lie between 1 and"),
        (["encoder=huge"], "encoder='huge' is not one of base, large, small"),
        (["encoder=1,2"], r"encoder=\[1, 2\] is not one of base, large, small"),
        (["loss=focal"], "loss='focal'"),
        (["layer_decay=1.2"], "layer_decay=1.2 must lie between 0 and 1"),
        (["warmup_epochs=3", "num_epochs=3"], "warmup_epochs=3 must lie between 0 and 2"),
        (["--name", "../evil"], "use letters, digits and '_'"),
    ],
)
def test_a_value_that_cannot_work_is_one_line_and_nothing_is_written(
    nnunet, dataset, words, message, capsys
):
    assert main(["950", "3d_fullres", "-o", "BadPlans", *words]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (nnunet / "preprocessed" / DATASET / "BadPlans.json").exists()


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (
            ["999", "3d_fullres"],
            "there is no data set 999 in nnUNet_raw, nnUNet_preprocessed or "
            "nnUNet_results; there are ",
            3,
        ),
        (["LGG", "3d_fullres"], "data set 'LGG': give its number", 3),
        (["950", "3d_cascade"], "has no configuration 3d_cascade", 3),
        (["950", "2d"], "2d configuration", 2),
        (["950", "2d", "patch_size=64,64,64"], "2d configuration", 2),
        (["950", "3d_fullres", "-p", "NoPlans"], "NoPlans.json does not exist", 3),
        (["950", "3d_fullres", "--checkpoint", "nowhere.safetensors"], "does not exist", 5),
    ],
)
def test_what_is_not_there_is_named(dataset, words, message, code, capsys):
    assert main([*words, "-o", "BadPlans"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_checkpoint_brings_its_model_values_its_hash_and_its_place(nnunet, pretrained, capsys):
    words = ["950", "3d_fullres", "-o", "FinePlans", "--checkpoint", str(pretrained)]
    assert main([*words, "feature_size=3"]) == 0
    opened = PreprocessedDataset.open("950", "3d_fullres", "FinePlans")
    config = opened.block.model_config(opened.configuration)
    assert (config.embed_dim, config.depth, config.feature_size) == (12, 2, 3)
    assert opened.block.checkpoint["path"] == (
        f"{DATASET}/AMAEPretraining__AMAEPlans__tiny/fold_all/checkpoint_final.safetensors"
    )
    assert len(opened.block.checkpoint["sha256"]) == 64


@pytest.mark.parametrize(
    ("word", "fixed"),
    [
        ("embed_dim=24", "embed_dim=12"),
        ("encoder=base", "embed_dim=12, depth=2"),
        ("encoder=huge", "embed_dim=12, depth=2"),
        ("encoder=1,2", "embed_dim=12, depth=2"),
        ("num_heads=3", "num_heads=0"),
        ("pos_embed=learned", "pos_embed=sincos"),
    ],
)
def test_what_a_checkpoint_fixes_cannot_be_set_with_it_or_later(
    nnunet, pretrained, capsys, word, fixed
):
    words = ["950", "3d_fullres", "-o", "FixedPlans"]
    assert main([*words, "--checkpoint", str(pretrained), "depth=2"]) == 0
    before = plans_of(nnunet, "FixedPlans")
    capsys.readouterr()
    for more in ([], ["--checkpoint", str(pretrained)]):
        assert main([*words, *more, word]) == 2
        error = capsys.readouterr().err
        assert f"but the checkpoint fixes {fixed}: leave {word.partition('=')[0]} out" in error
        assert error.count("\n") == 1
    assert plans_of(nnunet, "FixedPlans") == before
    assert main([*words, "feature_size=4", "decoder_depth=2", "num_epochs=3"]) == 0


def test_the_name_of_an_encoder_takes_the_place_of_what_was_set_before(nnunet, dataset):
    words = ["950", "3d_fullres", "-o", "EncoderPlans"]
    assert main([*words, "embed_dim=48", "depth=2", "mlp_ratio=2"]) == 0
    assert main([*words, "encoder=small", "depth=3"]) == 0
    opened = PreprocessedDataset.open("950", "3d_fullres", "EncoderPlans")
    config = opened.block.model_config(opened.configuration)
    assert (config.embed_dim, config.depth, config.mlp_ratio) == (384, 3, 2)


def foreign(tmp_path, **changes):
    """A checkpoint of another data set."""
    path = tmp_path / "foreign.safetensors"
    save_checkpoint(path, AdaptiveMAE(make_config(**changes)), {})
    return str(path)


@pytest.mark.parametrize(
    ("words", "token"), [([], None), (["num_strides=2"], None), (["num_strides=1"], (2, 2, 2))]
)
def test_a_checkpoint_may_know_other_contrasts_and_tokens(
    nnunet, dataset, tmp_path, words, token, capsys
):
    name = f"Foreign{len(words)}{''.join(words)[-1:]}Plans"
    path = foreign(tmp_path, contrasts=("FLAIR", "T2", "ADC"), patch_size=(2, 8, 18),
                   strides=((1, 2, 2), (1, 2, 3)))  # fmt: skip
    words = ["950", "3d_fullres", "-o", name, "--checkpoint", path, *words]
    assert main([*words, "layer_decay=0.75", "warmup_epochs=5"]) == 0
    output = capsys.readouterr().out
    assert (
        "contrasts: ADC, T2 from the checkpoint; TRACE unknown to it, set to the mean of its "
        "contrasts; its FLAIR not in the data set and left out\n"
    ) in output
    assert "the checkpoint's tokens have 1x4x6 voxels: its kernel will be resampled" in output
    opened = PreprocessedDataset.open("950", "3d_fullres", name)
    config = opened.block.model_config(opened.configuration)
    assert (config.embed_dim, config.contrasts) == (20, ("ADC", "TRACE", "T2"))
    assert token is None or config.token_size == token
    values = opened.block.training_config()
    assert (values.layer_decay, values.warmup_epochs) == (0.75, 5)


@pytest.mark.parametrize(
    ("contrasts", "message"),
    [
        (
            ("adc", "FLAIR"),
            "knows adc, FLAIR and the data set has ADC, TRACE, T2: no name is the same",
        ),
        (("T2", "Trace"), "has a contrast Trace where the data set has TRACE: name it Trace"),
    ],
)
def test_a_checkpoint_of_other_contrasts_is_refused(
    nnunet, dataset, tmp_path, capsys, contrasts, message
):
    path = foreign(tmp_path, contrasts=contrasts)
    assert main(["950", "3d_fullres", "-o", "BadPlans", "--checkpoint", path]) == 5
    assert message in capsys.readouterr().err
    assert not (nnunet / "preprocessed" / DATASET / "BadPlans.json").exists()


def test_the_block_is_for_the_contrasts_of_the_data_set(nnunet, dataset):
    folder = nnunet / "preprocessed" / DATASET
    assert main(["950", "3d_fullres", "-o", "OrderPlans", "depth=2"]) == 0
    saved = shutil.copy(folder / "dataset.json", nnunet / "dataset.json")
    try:
        content = json.loads((folder / "dataset.json").read_text())
        content["channel_names"] = {"0": "TRACE", "1": "ADC", "2": "T2"}
        (folder / "dataset.json").write_text(json.dumps(content))
        assert main(["950", "3d_fullres", "-o", "OrderPlans"]) == 3
    finally:
        shutil.copy(saved, folder / "dataset.json")


def test_unknown_parts_of_a_block_are_refused():
    with pytest.raises(ConfigError, match="no part 'modle'"):
        AMAEBlock.read({"amae": {"modle": {}}})


def test_of_two_commands_at_the_same_time_none_loses_what_the_other_set(nnunet, dataset, caplog):
    caplog.set_level(logging.INFO)
    folder, base = nnunet / "preprocessed" / DATASET, ["950", "3d_fullres", "-o", "BothPlans"]
    assert main([*base, "--name", "one", "depth=1"]) == 0
    second = threading.Thread(target=main, args=([*base, "--name", "two", "depth=2"],))
    with locked(folder / LOCK):
        second.start()
        end = time.monotonic() + 60
        while "waiting for another run" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.01)
        plans = plans_of(nnunet, "BothPlans")
        plans["configurations"]["three"] = plans["configurations"]["one"]
        (folder / "BothPlans.json").write_text(json.dumps(plans))
    second.join(60)
    assert {"one", "two", "three"} <= set(plans_of(nnunet, "BothPlans")["configurations"])
