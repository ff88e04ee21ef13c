import json

import pytest
from convert.studies import TEMPLATE, write_template

from amae_nnunet.contrasts import PAPER_CONTRASTS
from amae_nnunet.convert.template import load_template, matches
from amae_nnunet.errors import ConfigError


def contrast_of(template, name):
    everything = {**template.contrasts, "label": template.label_patterns}
    return [key for key, patterns in everything.items() if matches(name, patterns)]


def test_the_shipped_templates():
    lgg, infarct = load_template("LGG"), load_template("Infarct")
    assert tuple(lgg.contrasts) == ("T1", "FLAIR", "T1CE")
    assert lgg.required == ("FLAIR",)
    assert lgg.labels == {"background": 0, "abnormality": 1}
    assert tuple(infarct.contrasts) == PAPER_CONTRASTS
    assert infarct.required == ("ADC", "TRACE")
    assert infarct.labels == {"background": 0, "infarct": 1}


@pytest.mark.parametrize(
    ("template", "name", "contrast"),
    [
        ("LGG", "T1.nii.gz", "T1"),
        ("LGG", "t1ce.NII.gz", "T1CE"),
        ("LGG", "x_t1ce.nii.gz", "T1CE"),
        ("LGG", "anat/x_flair.nii", "FLAIR"),
        ("LGG", "BraTS-GLI-1-000-t1c.nii.gz", "T1CE"),
        ("LGG", "BraTS-GLI-1-000-t1n.nii.gz", "T1"),
        ("LGG", "seg.nii.gz", "label"),
        ("Infarct", "sub-1_ses-1_adc.nii.gz", "ADC"),
        ("Infarct", "sub-1_rec-TRACE_dwi.nii.gz", "TRACE"),
        ("Infarct", "sub-1_T2starw.nii.gz", "GRE"),
        ("Infarct", "sub-1_T2w.nii.gz", "T2"),
        ("Infarct", "sub-1_FLAIR.nii.gz", "FLAIR"),
        ("Infarct", "sub-1_msk.nii.gz", "label"),
    ],
)
def test_a_name_fits_one_contrast_only(template, name, contrast):
    assert contrast_of(load_template(template), name) == [contrast]


def test_the_digest_follows_content_and_channel_order(tmp_path):
    first = load_template(str(write_template(tmp_path))).digest
    assert load_template(str(write_template(tmp_path))).digest == first
    turned = dict(reversed(TEMPLATE["contrasts"].items()))
    assert load_template(str(write_template(tmp_path, contrasts=turned))).digest != first
    assert load_template(str(write_template(tmp_path, required=[]))).digest != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown key 'colour': known keys: accepts, contrasts"),
        ({"requierd": []}, "unknown key 'requierd': did you mean required"),
        ({"name": "../x"}, "name '../x'"),
        ({"contrasts": {}}, "no contrast is named"),
        ({"contrasts": ["T1"]}, "contrasts must be an object"),
        ({"contrasts": {"T 1": ["a"]}}, "contrast name 'T 1'"),
        ({"contrasts": {"CT": ["a"]}, "required": []}, "would not z-score"),
        ({"contrasts": {"T1": "T1.nii"}, "required": []}, "T1: patterns must be a list"),
        ({"contrasts": {"T1": []}, "required": []}, "T1: patterns must be a list"),
        ({"required": ["SWI"]}, "required must list contrasts of T1, FLAIR, T1CE"),
        ({"required": "T1"}, "required must list"),
        ({"required": None}, "required must list"),
        ({"required": ["T1|SWI"]}, r"required must list .* \(or A\|B for one of two\)"),
        ({"accepts": ["T1"]}, "accepts must be an object with keys of T1, FLAIR, T1CE"),
        ({"accepts": {"SWI": ["GRE"]}}, "accepts must be an object with keys of T1, FLAIR, T1CE"),
        ({"accepts": {"T1": "GRE"}}, "accepts of T1 must be a list of contrasts"),
        ({"accepts": {"T1": []}}, "accepts of T1 must be a list of contrasts"),
        ({"accepts": {"T1": ["T 1"]}}, "contrast name 'T 1'"),
        ({"accepts": {"T1": ["PD", "PD"]}}, "contrast PD is named twice"),
        ({"accepts": {"T1": ["T1", "T1CE"]}}, "T1CE would feed both T1 and T1CE: give it to one"),
        ({"accepts": {"T1": ["PD"], "FLAIR": ["PD"]}}, "PD would feed both T1 and FLAIR"),
        ({"label": {**TEMPLATE["label"], "map": {"x": 1}}}, 'map must be like {"4": 3}'),
        ({"label": {**TEMPLATE["label"], "map": {"4": 2}}}, "to values of 0, 1"),
        ({"label": {**TEMPLATE["label"], "map": {"4": "1"}}}, "map must be like"),
        ({"label": {**TEMPLATE["label"], "map": [4]}}, "map must be like"),
        ({"label": None}, "label must have the keys"),
        ({"label": {"patterns": ["a"], "labels": {"lesion": 1}}}, "with background 0"),
        ({"label": {"patterns": ["a"], "labels": {"background": 0, "x": 2}}}, "without a gap"),
        ({"label": {"patterns": ["a"], "labels": {"background": 0, "x": 1.0}}}, "whole number"),
    ],
)
def test_a_wrong_template_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_template(str(write_template(tmp_path, **changes)))
    assert str(caught.value).startswith("template tiny.json: ")


def test_a_channel_takes_its_own_contrast_or_the_first_of_those_it_accepts(tmp_path):
    plain = load_template(str(write_template(tmp_path)))
    assert plain.accepts == {"T1": ("T1",), "FLAIR": ("FLAIR",), "T1CE": ("T1CE",)}
    assert plain.feed({"T1CE": 1, "PD": 2, "T1": 3}) == {"T1": ("T1", 3), "T1CE": ("T1CE", 1)}
    template = load_template(str(write_template(tmp_path, accepts={"T1": ["PD", "T1"]})))
    assert template.digest != plain.digest
    turned = load_template(str(write_template(tmp_path, accepts={"T1": ["T1", "PD"]})))
    assert template.feed({"T1": 1, "PD": 2}) == {"T1": ("PD", 2)}
    assert turned.feed({"T1": 1, "PD": 2}) == {"T1": ("T1", 1)}
    assert turned.digest != template.digest


def test_one_of_two_channels_can_be_required(tmp_path):
    template = load_template(str(write_template(tmp_path, required=["FLAIR", "T1|T1CE"])))
    assert template.required == ("FLAIR", "T1|T1CE")
    assert template.missing_required({"FLAIR", "T1CE"}) == []
    assert template.missing_required({"T1": 0}) == ["FLAIR"]
    assert template.missing_required([]) == ["FLAIR", "T1|T1CE"]


def test_values_of_the_label_can_be_mapped(tmp_path):
    label = {**TEMPLATE["label"], "map": {"4": 1, "2": 0}}
    template = load_template(str(write_template(tmp_path, label=label)))
    assert template.label_map == {4: 1, 2: 0}
    assert template.digest != load_template(str(write_template(tmp_path))).digest


def test_no_template_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="give a path or one of Infarct, LGG"):
        load_template("Nothing")
    broken = tmp_path / "x.json"
    broken.write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_template(str(broken))
    broken.write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match="must be an object with the keys name, contrasts, label"):
        load_template(str(broken))
    broken.write_text(json.dumps({"name": "A"}))
    with pytest.raises(ConfigError, match="it has no contrasts and no label: add that"):
        load_template(str(broken))
