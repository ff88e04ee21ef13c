"""Which stack of a study feeds which channel."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from convert.dicom.scanner import ADC, TRACE, write_series

from amae_nnunet.convert.codes import CODES
from amae_nnunet.convert.dicom.choose import Judged, choose
from amae_nnunet.convert.dicom.rules import Verdict, load_rules
from amae_nnunet.convert.dicom.scan import scan_dicom
from amae_nnunet.convert.dicom.stack import Facts, Stack

AFFINE = (-1.0, 0, 0, 90, 0, -1.0, 0, 110, 0, 0, 5.0, -60, 0, 0, 0, 1.0)
OTHER = (*AFFINE[:11], -40.0, *AFFINE[12:])
FACTS = Facts(
    manufacturer="Siemens",
    image_type=("ORIGINAL", "PRIMARY", "M", "ND"),
    plane="axial",
    size=(256, 256, 24),
    spacing=(0.9, 0.9, 5.0),
    coverage=120.0,
    acquisition_time="101500.000000",
    frame_of_reference="1.2.3",
)
EACH = {name: (name,) for name in ("ADC", "TRACE", "T2", "GRE", "SWI", "T1", "FLAIR")}


def stack(contrast, number, tier="text", status="accepted", verified=True, affine=AFFINE, **facts):
    facts = replace(FACTS, series_number=number, **facts)
    verdict = Verdict(contrast, status, tier, f"{tier}.x", f"because of {number}", verified)
    return Judged(Stack(f"k{number}", "study", "patient", "1.2", "", facts, affine=affine), verdict)


def taken(study, accepts=EACH, **options):
    choices = choose(study, accepts, **options)
    for judged, choice in zip(study, choices, strict=True):
        assert bool(choice.channel) != bool(choice.why_not), (judged, choice)
        assert all(text.split(":")[0] in CODES for text in choice.warnings)
    return {
        choice.channel: judged.facts.series_number
        for judged, choice in zip(study, choices, strict=True)
        if choice.channel
    }


def test_each_contrast_feeds_its_channel():
    study = [stack("T1", 1), stack("FLAIR", 2), stack("T1CE", 3), stack("", 4, status="rejected")]
    choices = choose(study, EACH)
    assert [choice.channel for choice in choices] == ["T1", "FLAIR", "", ""]
    assert [choice.why_not for choice in choices[2:]] == ["no channel takes T1CE", "because of 4"]
    assert not any(choice.ambiguous or choice.warnings for choice in choices)


@pytest.mark.parametrize(
    ("better", "worse", "reason"),
    [
        ({"tier": "user"}, {"tier": "type"}, "stronger evidence"),
        ({"tier": "type"}, {"tier": "private"}, "stronger evidence"),
        ({"tier": "private"}, {"tier": "text"}, "stronger evidence"),
        ({"tier": "text"}, {"tier": "physics"}, "stronger evidence"),
        ({"plane": "axial"}, {"plane": "coronal"}, "axial"),
        ({"plane": "sagittal", "isotropic_3d": True}, {"plane": "oblique"}, "axial"),
        ({"coverage": 90.0}, {"coverage": 89.0}, "whole head"),
        ({"image_type": ("M", "NORM")}, {"image_type": ("M", "ND")}, "corrected"),
        ({"image_type": ("M", "NORM", "DIS2D")}, {"image_type": ("M", "NORM")}, "corrected"),
        ({"size": (256, 256, 25)}, {"size": (512, 512, 24)}, "more slices"),
        ({"spacing": (0.5, 0.5, 5.0)}, {"spacing": (0.9, 0.9, 5.0)}, "smaller voxels"),
        ({"acquisition_time": "120000.5"}, {"acquisition_time": "115959"}, "in time"),
    ],
)
@pytest.mark.parametrize("contrast", ["T2", "TRACE", "ADC"])
def test_what_decides_between_two(better, worse, reason, contrast):
    study = [stack(contrast, 9, **worse), stack(contrast, 3, **better)]
    for order in (study, study[::-1]):
        assert taken(order) == {contrast: 3}
    choices = choose(study, EACH)
    assert reason in choices[0].why_not
    assert choices[0].why_not.startswith("series 3 is taken")
    assert not any(choice.ambiguous or choice.warnings for choice in choices)


def test_each_reason_goes_before_all_after_it():
    ladder = [
        ({"tier": "type"}, {"tier": "text"}),
        ({"plane": "axial"}, {"plane": "sagittal"}),
        ({"coverage": 120.0}, {"coverage": 80.0}),
        ({"image_type": ("NORM",)}, {"image_type": ("ND",)}),
        ({"size": (256, 256, 30)}, {"size": (256, 256, 20)}),
        ({"spacing": (0.5, 0.5, 5.0)}, {"spacing": (0.9, 0.9, 5.0)}),
        ({"acquisition_time": "12"}, {"acquisition_time": "10"}),
    ]
    for place in range(len(ladder)):
        winner, loser = dict(ladder[place][0]), dict(ladder[place][1])
        for worse_for_winner in ladder[place + 1 :]:
            loser |= worse_for_winner[0]
            winner |= worse_for_winner[1]
        assert taken([stack("T2", 9, **loser), stack("T2", 1, **winner)]) == {"T2": 1}


def test_equal_stacks_are_a_doubt_that_is_reported():
    study = [stack("T2", 5), stack("T2", 6), stack("T2", 7, coverage=80.0)]
    choices = choose(study, EACH)
    assert [choice.channel for choice in choices] == ["", "T2", ""]
    assert choices[1].warnings == ("W_AMBIGUOUS: T2: series 5 could be taken as well as 6",)
    assert [choice.ambiguous for choice in choices] == [True, True, False]
    assert choices[0].why_not == "series 6 is taken: nothing tells them apart but their numbers"
    echoes = choose([stack("GRE", 5), stack("GRE", 5)], EACH)
    assert [choice.channel for choice in echoes] == ["GRE", ""]
    assert all(choice.ambiguous for choice in echoes)


def test_axial_goes_first():
    study = [stack("T2", 1), stack("T2", 2, plane="coronal")]
    assert taken(study) == {"T2": 1}
    assert choose(study, EACH)[1].why_not == "series 1 is taken: the other is axial"


def b(value, number, **more):
    return stack("TRACE", number, tier="type", b_value=value, **more)


def test_the_b_value_nearest_to_the_wanted_one():
    study = [b(500.0, 1), b(1000.0, 2), b(1500.0, 3), b(2500.0, 4)]
    assert taken(study) == {"TRACE": 2}
    assert taken(study, b_value=1600.0) == {"TRACE": 3}
    assert taken(study, b_value=2500.0) == {"TRACE": 4}
    assert "b-value" in choose(study, EACH)[2].why_not
    assert taken([b(None, 1), b(2000.0, 2)]) == {"TRACE": 2}
    assert taken([b(None, 1), b(2500.0, 2)]) == {"TRACE": 1}


def test_an_implausible_b_value_is_taken_if_there_is_no_other_and_warned_of():
    choices = choose([b(2500.0, 1)], EACH)
    assert choices[0].warnings == ("W_B_VALUE: TRACE has b = 2500 s/mm2",)
    assert choices[0].channel == "TRACE"
    assert not choose([b(2500.0, 1)], EACH, b_value=2500.0)[0].warnings
    assert not choose([b(2000.0, 1)], EACH)[0].warnings
    assert not choose([b(700.0, 1)], EACH)[0].warnings
    assert choose([b(699.0, 1)], EACH)[0].warnings
    assert taken([b(2500.0, 1), stack("TRACE", 2, tier="text", b_value=800.0)]) == {"TRACE": 2}


def test_adc_and_trace_of_one_acquisition_go_together():
    lone = b(1000.0, 1, affine=OTHER, size=(256, 256, 40))
    study = [lone, b(1000.0, 2), stack("ADC", 3)]
    assert taken(study) == {"TRACE": 2, "ADC": 3}
    assert "one acquisition" in choose(study, EACH)[0].why_not
    without = {name: contrasts for name, contrasts in EACH.items() if name != "ADC"}
    assert taken(study, without) == {"TRACE": 1}
    # an ADC of another grid or frame belongs to another TRACE, unless the protocol is the same
    away = stack("ADC", 9, affine=OTHER, size=(256, 256, 40), tier="type")
    assert taken([b(1000.0, 2), stack("ADC", 3), away]) == {"TRACE": 2, "ADC": 3}
    moved = stack("ADC", 9, frame_of_reference="9", tier="type")
    assert taken([b(1000.0, 2), stack("ADC", 3), moved]) == {"TRACE": 2, "ADC": 3}
    protocol = {"protocol_name": "ep2d_diff"}
    away = stack("ADC", 9, affine=OTHER, tier="type", **protocol)
    assert taken([b(1000.0, 2, **protocol), stack("ADC", 3), away]) == {"TRACE": 2, "ADC": 9}


def test_the_adc_nearest_in_time_to_the_trace():
    study = [
        b(1000.0, 1, acquisition_time="100000"),
        stack("ADC", 2, acquisition_time="100001"),
        stack("ADC", 3, acquisition_time="103000"),
    ]
    assert taken(study) == {"TRACE": 1, "ADC": 2}
    assert taken(study[1:]) == {"ADC": 3}
    repeated = [*study, b(1000.0, 4, acquisition_time="102959.5")]
    assert taken(repeated) == {"TRACE": 4, "ADC": 3}


def test_alternatives_of_a_channel():
    accepts = {"SWI": ("SWI", "GRE"), "T1": ("T1", "T1CE")}
    assert taken([stack("GRE", 1)], accepts) == {"SWI": 1}
    study = [stack("GRE", 1), stack("SWI", 2), stack("T1CE", 3)]
    assert taken(study, accepts) == {"SWI": 2, "T1": 3}
    choices = choose(study, accepts)
    assert choices[0].why_not == "SWI is there, which the channel prefers"
    assert not choices[0].ambiguous


def test_a_t1_after_contrast_agent_is_left_out():
    study = [
        stack("T1", 1, acquisition_time="100000"),
        stack("T1CE", 2, acquisition_time="103000"),
        stack("T1", 3, acquisition_time="103500", size=(256, 256, 60)),
    ]
    assert taken(study) == {"T1": 1}
    late = choose(study, EACH)[2]
    assert "after a T1CE" in late.why_not
    assert not late.ambiguous
    alone = choose(study[1:], EACH)[1]
    assert not alone.channel
    assert alone.ambiguous
    mine = [study[1], stack("T1", 3, tier="user", acquisition_time="103500")]
    assert taken(mine) == {"T1": 3}
    silent = [stack("T1CE", 2, acquisition_time=""), study[2]]
    assert taken(silent) == {"T1": 3}


def test_a_doubtful_stack_is_never_taken_and_matters_if_its_channel_is_empty():
    doubt = stack("T2", 1, status="ambiguous", tier="")
    alone = choose([doubt], EACH)[0]
    assert (alone.channel, alone.why_not, alone.ambiguous) == ("", "because of 1", True)
    assert not choose([doubt, stack("T2", 2)], EACH)[0].ambiguous
    assert not choose([doubt], {"T1": ("T1",)})[0].ambiguous


def test_an_unverified_rule_is_warned_of_without_text_of_the_header():
    choice = choose([stack("FLAIR", 1, verified=False, series_description="SECRET")], EACH)[0]
    assert choice.warnings == ("W_UNVERIFIED: FLAIR was named by rule text.x",)


def test_the_order_of_the_stacks_does_not_matter():
    study = [
        b(1000.0, 1),
        b(500.0, 2),
        stack("ADC", 3),
        stack("T1", 4, plane="sagittal"),
        stack("T1", 5, tier="physics"),
        stack("T2", 6, status="ambiguous", tier=""),
        stack("SWI", 7),
    ]
    wanted = {"TRACE": 1, "ADC": 3, "T1": 4, "SWI": 7}
    shuffled = list(study)
    for seed in range(20):
        random.Random(seed).shuffle(shuffled)
        assert taken(shuffled) == wanted
    assert all(taken(list(pair)) for pair in itertools.permutations(study[:3], 2))


def test_a_study_without_anything():
    assert choose([], EACH) == []
    assert taken([stack("", 1, status="rejected")]) == {}


def test_a_study_from_files(tmp_path):
    """Written by a scanner of each habit, read, judged and chosen."""
    rng = np.random.default_rng(0)

    def write(number, maker, description, **more):
        shape = (6, 5, 24)
        voxels = rng.integers(1, 999, shape).astype(np.int16)
        write_series(
            tmp_path, voxels, number=number, manufacturer=maker, description=description,
            names=f"{number}-{more.get('b')}-{{}}", **more,
        )  # fmt: skip

    canon = {"first": 1, "ScanningSequence": "EP", "image_type": "ORIGINAL\\PRIMARY\\OTHER"}
    write(1, "Canon", "DWI", b=0.0, **canon)
    write(1, "Canon", "DWI", b=1000.0, **{**canon, "first": 101})
    for shell, b_value in enumerate((5.0, 1000.0, 2000.0, 2000.1)):  # a single volume at 1000 too
        write(2, "Canon", "D", b=b_value, **{**canon, "first": 1 + 100 * shell})
    write(3, "SIEMENS", "ep2d_diff_ADC", image_type=ADC, ScanningSequence="EP")
    write(4, "SIEMENS", "ep2d_diff_TRACEW", image_type=TRACE, b=2500, directionality="isotropic")
    write(5, "SIEMENS", "t2_tse_tra", echo_time=95.0)
    stacks = scan_dicom(tmp_path).stacks
    rules = load_rules()
    study = [Judged(stack, rules.judge(stack.facts, stack.code)) for stack in stacks]
    said = {
        (judged.facts.series_number, judged.facts.b_value): judged.verdict.evidence
        for judged in study
    }
    assert said == {
        (1, 0.0): "private.b0",
        (1, 1000.0): "private.single",
        (2, 5.0): "private.b0",
        (2, 1000.0): "no.directions",
        (2, 2000.0): "E_4D",
        (3, None): "type.adc",
        (4, 2500.0): "type.tracew",
        (5, None): "text.t2",
    }
    assert taken(study) == {"TRACE": 1, "ADC": 3, "T2": 5}
