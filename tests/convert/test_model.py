import json

import pytest
from convert.studies import write_template

from amae_nnunet.convert.model import template_of_model
from amae_nnunet.convert.template import load_template, matches
from amae_nnunet.errors import ConfigError

LABELS = {"background": 0, "lesion": 1}


def make(folder, channels=("T1", "SWI"), **changes):
    model = folder / "Dataset001_X" / "AMAETrainer__nnUNetPlans__3d_fullres"
    model.mkdir(parents=True)
    (model / "plans.json").write_text("{}")
    names = {str(index): name for index, name in enumerate(channels)}
    content = {"channel_names": names, "labels": LABELS, "name": "My set", **changes}
    (model / "dataset.json").write_text(json.dumps(content))
    return model


def amae(contrasts=("T1", "SWI"), required=("T1|SWI",)):
    return {"schema": 1, "contrasts": contrasts, "required": required}


def test_a_model_says_its_channels_and_what_it_requires(tmp_path):
    template = template_of_model(make(tmp_path, amae=amae()))
    assert tuple(template.contrasts) == ("T1", "SWI")
    assert template.required == ("T1|SWI",)
    assert (template.name, template.labels) == ("My-set", LABELS)
    assert template.accepts == {"T1": ("T1",), "SWI": ("SWI",)}
    for name in ("T1.nii.gz", "x_t1.NII", "anat/sub-1_T1.nii.gz"):
        assert matches(name, template.contrasts["T1"])
    assert not matches("T1CE.nii.gz", template.contrasts["T1"])


def test_a_model_of_stock_nnunet_requires_all_its_channels(tmp_path):
    template = template_of_model(make(tmp_path, channels=[f"T{index}" for index in range(11)]))
    assert tuple(template.contrasts) == template.required
    assert template.required == tuple(f"T{index}" for index in range(11))


def test_patterns_come_from_a_template_for_the_channels_it_knows(tmp_path):
    changes = {"contrasts": {"T1": ["mprage*"], "PD": ["pd*"]}, "required": ["PD"]}
    given = load_template(str(write_template(tmp_path, accepts={"T1": ["T1", "T1CE"]}, **changes)))
    template = template_of_model(make(tmp_path, amae=amae()), given)
    assert template.contrasts == {"T1": ("mprage*",), "SWI": ("SWI.nii*", "*_SWI.nii*")}
    assert template.accepts == {"T1": ("T1", "T1CE"), "SWI": ("SWI",)}
    assert template.required == ("T1|SWI",)


def test_regions_are_no_labels_of_a_template(tmp_path):
    template = template_of_model(make(tmp_path, labels={"background": 0, "whole": [1, 2]}))
    assert template.labels == {"background": 0}


@pytest.mark.parametrize("missing", ["dataset.json", "plans.json"])
def test_another_folder_is_no_model(tmp_path, missing):
    model = make(tmp_path)
    (model / missing).unlink()
    with pytest.raises(ConfigError, match=f"has no {missing}: give the model's folder, nnUNet_res"):
        template_of_model(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ("CT",)}, "nnU-Net would not z-score it"),
        ({"channels": ("T1 weighted",)}, "is not for contrasts: contrast name 'T1 weighted'"),
        ({"amae": amae(contrasts=("SWI", "T1"))}, "names channels T1, SWI but contrasts SWI, T1"),
        ({"amae": {}}, "is not that of a model"),
        ({"channel_names": ["T1"]}, "is not that of a model"),
        ({"labels": None}, "is not that of a model"),
    ],
)
def test_a_wrong_dataset_json_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        template_of_model(make(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_dataset_json_is_refused(tmp_path, text):
    model = make(tmp_path)
    (model / "dataset.json").write_text(text)
    with pytest.raises(ConfigError, match="is not (valid JSON|a JSON object)"):
        template_of_model(model)
