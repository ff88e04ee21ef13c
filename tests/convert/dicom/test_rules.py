"""The shipped rules against names and tags of real scanners, and the checks of a user's table."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from amae_nnunet.convert.dicom import conditions
from amae_nnunet.convert.dicom.conditions import values_of, words
from amae_nnunet.convert.dicom.rules import TIERS, load_rules
from amae_nnunet.convert.dicom.stack import Facts
from amae_nnunet.errors import ConfigError

RULES = load_rules()
MAGNITUDE = ("ORIGINAL", "PRIMARY", "M", "ND", "NORM")
GE_TYPE = ("ORIGINAL", "PRIMARY", "OTHER")
BRAIN = Facts(
    modality="MR",
    sop_class="MR",
    manufacturer="Siemens",
    image_type=MAGNITUDE,
    acquisition_type="2D",
    plane="axial",
    size=(256, 256, 24),
    spacing=(0.9, 0.9, 5.0),
    coverage=120.0,
)


def seq(kind, te, tr, ti=None, **more):
    return dict(
        scanning_sequence=tuple(kind.split("+")),
        echo_time=te,
        repetition_time=tr,
        inversion_time=ti,
        **more,
    )


T1_SE = seq("SE", 9.0, 500.0)
MPRAGE = seq("GR+IR", 2.4, 1900.0, 900.0, acquisition_type="3D")
SPGR = seq("GR", 3.2, 8.9, acquisition_type="3D")
T1_FLAIR = seq("SE+IR", 23.0, 2200.0, 780.0)
FLAIR = seq("SE+IR", 120.0, 9000.0, 2500.0)
T2 = seq("SE", 95.0, 4500.0)
PD = seq("SE", 14.0, 2800.0)
GRE = seq("GR", 20.0, 620.0, flip_angle=20.0)
SWI = seq("GR", 25.0, 40.0, acquisition_type="3D", flip_angle=15.0)
DWI = seq("EP", 85.0, 5200.0)
BOLD = seq("EP+GR", 30.0, 2000.0, flip_angle=80.0)
NO_PRIVATE = {"b_value": None, "directionality": ""}
B0 = {"b_value": 0.0, "directionality": "none", "volumes_at_b": 1, "volumes_at_b_max": 1}
ISO = {"b_value": 1000.0, "directionality": "isotropic", "volumes_at_b": 1, "volumes_at_b_max": 1}
DIRECTION = {
    "b_value": 1000.0,
    "directionality": "directional",
    "volumes_at_b": 3,
    "volumes_at_b_max": 3,
}
ONE = {"b_value": 1000.0, "directionality": "unknown", "volumes_at_b": 1, "volumes_at_b_max": 1}
SEVERAL = {
    "b_value": 1000.0,
    "directionality": "unknown",
    "volumes_at_b": 12,
    "volumes_at_b_max": 12,
}


def kind(*tokens):
    return {"image_type": tokens}


RAW_DWI = kind("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND", "NORM")
TRACEW = kind("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND", "NORM")
SIEMENS_ADC = kind("DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND", "NORM")
PHILIPS_ADC = kind("ORIGINAL", "PRIMARY", "ADC_UNSPECIFIED", "ADC", "UNSPECIFIED")
SWI_TYPE = kind("ORIGINAL", "PRIMARY", "M", "SWI", "NORM")

S, P, G, U, C, T, H = "Siemens", "Philips", "GE", "UIH", "Canon", "Toshiba", "Hitachi"

#: vendor, description, what the headers say more, wanted: NAME, "?NAME" (ambiguous) or "-" (reject)
SERIES = [
    # ADC
    (S, "ep2d_diff_3scan_trace_p2_ADC", {**DWI, **SIEMENS_ADC}, "ADC"),
    (S, "DWI_dir80_AP_ADC", {**DWI, **SIEMENS_ADC, "sequence_name": "ep_b0_2500"}, "ADC"),
    (S, "resolve_3scan_trace_tra_p2_192_ADC_DFC_MIX", {**DWI, **SIEMENS_ADC}, "ADC"),
    (P, "dADC", {**DWI, **PHILIPS_ADC}, "ADC"),
    (P, "DWI_SSh", {**DWI, **kind("ORIGINAL", "PRIMARY", "ADC_SE", "ADC", "SE")}, "ADC"),
    (P, "ADC", {**DWI, **PHILIPS_ADC, **B0}, "ADC"),
    (G, "Apparent Diffusion Coefficient (mm2/s)", {**DWI, **kind(*GE_TYPE)}, "ADC"),
    (G, "ADC (10^-6 mm²/s)", {**DWI, **kind("DERIVED", "SECONDARY", "ADC"), **B0}, "ADC"),
    (G, "Average DC", {**DWI, **kind(*GE_TYPE)}, "ADC"),
    (G, "ADC map", {**DWI, **kind("DERIVED", "SECONDARY")}, "ADC"),
    (G, "DTI 25 dir ADC", {**DWI, **kind("DERIVED", "PRIMARY")}, "ADC"),
    (G, "Ax DWI ADC", {**DWI, **kind(*GE_TYPE), **ISO}, "?ADC"),
    (U, "dwi_epi_b1000_ADC", {**DWI, **kind("DERIVED", "PRIMARY", "ADC")}, "ADC"),
    (C, "ADC", {**DWI, **kind("DERIVED", "PRIMARY", "ADC", "ADC")}, "ADC"),
    (T, "ep2ddiff3scanADC", {**DWI, **kind("ORIGINAL", "PRIMARY")}, "ADC"),
    ("other", "coeficiente de difusion ADC", DWI, "ADC"),
    (S, "ep2d_diff_3scan_trace_p2_eADC", {**DWI, **kind("DERIVED", "DIFFUSION", "EXP")}, "-"),
    (P, "eADC", {**DWI, **kind("ORIGINAL", "PRIMARY", "EADC", "ADC")}, "-"),
    (G, "Exponential Apparent Diffusion Coefficient", {**DWI, **kind(*GE_TYPE)}, "-"),
    (G, "ExpADC", {**DWI, **kind(*GE_TYPE)}, "-"),
    # TRACE
    (S, "ep2d_diff_3scan_trace_p2_TRACEW", {**DWI, **TRACEW, **ISO}, "TRACE"),
    (S, "ep2d_diff_3scan_trace_p2", {**DWI, **TRACEW}, "TRACE"),
    (
        S,
        "DWI_dir80_AP_TRACEW",
        {**DWI, **TRACEW, **ISO, "b_value": 2500.0, "sequence_name": "ep_b2500t"},
        "TRACE",
    ),
    (S, "ep2d_diff", {**DWI, **kind("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW")}, "TRACE"),
    (P, "DWI_SSh SENSE", {**seq("SE", 90.0, 3500.0), **kind("M_SE", "M", "SE"), **ISO}, "TRACE"),
    (G, "Ax DWI b1000", {**DWI, **kind(*GE_TYPE), **ISO}, "TRACE"),
    (G, "isoDWI", {**DWI, **kind("DERIVED", "SECONDARY", "ISODWI")}, "TRACE"),
    (G, "Isotropic image", {**DWI, **kind(*GE_TYPE)}, "TRACE"),
    (U, "dwi_epi_tra_b1000", {**DWI, **ISO}, "TRACE"),
    (C, "DWI b1000", {**DWI, **ONE}, "TRACE"),
    (H, "DWI", {**DWI, **ONE}, "TRACE"),
    ("other", "DIFFUSION trace", {**DWI, **NO_PRIVATE}, "TRACE"),
    (T, "AX T2-weighted trace", {**DWI, **NO_PRIVATE}, "TRACE"),
    (S, "ep2d_diff_3scan_trace_p2", {**DWI, **TRACEW, **B0}, "DWIb0"),
    (G, "Ax DWI b0", {**DWI, **B0}, "DWIb0"),
    (S, "ep2d_diff_3scan_trace_p2", {**DWI, **RAW_DWI, **DIRECTION}, "-"),
    (S, "ep2d_diff_3scan_trace_p2", {**DWI, **RAW_DWI, **NO_PRIVATE}, "-"),
    (S, "ep2d_diff_3scan_trace_p2_ADC", {**DWI, **RAW_DWI, **DIRECTION}, "-"),
    (S, "ep2d_diff_mddw_20_p2", {**DWI, **RAW_DWI, **DIRECTION}, "-"),
    (P, "DTI_32", {**seq("SE", 122.0, 12638.0), **DIRECTION}, "-"),
    (C, "DTI 12 axis", {**DWI, **SEVERAL}, "-"),
    (C, "DTI", {**DWI, **ONE}, "?TRACE"),
    (C, "DWI", {**DWI, **ONE, "volumes_at_b_max": 30}, "-"),
    (G, "Ax DWI Asset", {**DWI, **NO_PRIVATE}, "?TRACE"),
    (P, "DWI b1000", {**seq("SE", 90.0, 3500.0), **NO_PRIVATE}, "?TRACE"),
    (S, "DIFUSION", DWI, "?TRACE"),
    (G, "Synthetic DWI b=1500", {**DWI, **ISO}, "-"),
    (S, "ep2d_diff_b1400_calc", {**DWI, **kind("DERIVED", "DIFFUSION", "CALC_BVALUE"), **ISO}, "-"),
    # maps of the tensor
    (S, "DWI_dir80_AP_FA", {**DWI, **kind("DERIVED", "PRIMARY", "DIFFUSION", "FA")}, "-"),
    (S, "DWI_dir80_AP_ColFA", {**DWI, **kind("DERIVED", "PRIMARY", "DIFFUSION", "FA")}, "-"),
    (
        S,
        "DWI_dir80_AP_TENSOR_B0",
        {**DWI, **B0, **kind("DERIVED", "PRIMARY", "DIFFUSION", "TENSOR_B0")},
        "-",
    ),
    (G, "Fractional Aniso.", {**DWI, **kind(*GE_TYPE)}, "-"),
    # T1
    (S, "t1_mprage_sag_p2_iso", MPRAGE, "T1"),
    (S, "t1_mpr_ns_sag_p2_iso_1mm", MPRAGE, "T1"),
    (S, "T1w_MPR", MPRAGE, "T1"),
    (S, "ABCD_T1w_MPR", MPRAGE, "T1"),
    (S, "MPRAGE", MPRAGE, "T1"),
    (S, "anat-T1w_acq-tfl", {**MPRAGE, **kind("DERIVED", "PRIMARY", "M", "NORM", "MFSPLIT")}, "T1"),
    (S, "t1_fl2d_sag", seq("GR", 2.46, 300.0), "T1"),
    (S, "t1_se_tra", T1_SE, "T1"),
    (S, "t1_tirm_tra_dark-fluid", T1_FLAIR, "T1"),
    (P, "sT1W_3D_TFE", SPGR, "T1"),
    (P, "T1W_SE", T1_SE, "T1"),
    (P, "T1W_IR_TSE", seq("IR", 15.0, 2500.0, 400.0), "T1"),
    (P, "WIP T1 FFE", seq("GR", 2.3, 180.0), "T1"),
    (G, "Ax T1 FLAIR", T1_FLAIR, "T1"),
    (G, "Sag T1 FLAIR PROPELLER", T1_FLAIR, "T1"),
    (G, "Ax FLAIR", T1_FLAIR, "T1"),
    (G, "Ax 3D BRAVO", {**SPGR, "inversion_time": 450.0}, "T1"),
    (G, "Sag FSPGR 3D", SPGR, "T1"),
    (G, "SAG T1", T1_SE, "T1"),
    (G, "AXT1FLAIR", T1_FLAIR, "T1"),
    (U, "t1_gre_fsp_3d_sag", SPGR, "T1"),
    (C, "T1W SE AX", T1_SE, "T1"),
    (H, "T1 SE", T1_SE, "T1"),
    (S, "t1 tse tra nativ", T1_SE, "T1"),
    (S, "T1 axial ohne KM", T1_SE, "T1"),
    (G, "T1 SE AX SANS GADO", T1_SE, "T1"),
    (G, "T1 AX SIN CONTRASTE", T1_SE, "T1"),
    (G, "AX T1 PRE GD", T1_SE, "T1"),
    (G, "AX T1 -C", T1_SE, "T1"),
    *(
        (S, f"t1_tse_tra {name}", T1_SE, "T1")
        for name in (
            "-KM",
            "-Gd",
            "KM-",
            "_GD-",
            "S/GD",
            "s/c",
            "zonder contrast",
            "sem contraste",
            "uten kontrast",
            "post surgery",
            "POST-STROKE",
            "post chemotherapy",
            "post resection",
        )
    ),
    (S, "Brain injury T1 MPRAGE", MPRAGE, "T1"),
    (S, "T1_head_injury", T1_SE, "T1"),
    (G, "AX T1 FAT SAT", T1_SE, "T1"),
    (G, "Ax T1 FA 20", SPGR, "T1"),
    (G, "T1 AX", {**T1_SE, "contrast_agent": "NO"}, "T1"),
    (S, "mp2rage_UNI-DEN", MPRAGE, "T1"),
    (G, "", {**seq("GR", 3.164, 8.9, 900.0), **kind(*GE_TYPE)}, "T1"),
    (G, "", T1_SE, "T1"),
    (S, "t1_mp2rage_sag_INV1", MPRAGE, "-"),
    (S, "t1_mp2rage_sag_UNI_Images", {**MPRAGE, **kind("DERIVED", "PRIMARY", "UNI")}, "-"),
    (G, "Ax T1", seq("SE", 60.0, 600.0), "?T1"),
    (G, "T1 SE", seq("SE", 12.0, 3000.0), "?T1"),
    (G, "Ax T1 GRE", seq("GR", 20.0, 500.0), "?T1"),
    (G, "C T1 AX", T1_SE, "?T1"),
    (G, "T1 W/WO", T1_SE, "?T1"),
    (G, "AX T1 W/WO CONTRAST", T1_SE, "?T1"),
    (G, "AX T1 PRE", {**T1_SE, "contrast_agent": "GADAVIST"}, "?T1"),
    (G, "T1 pre/post GD", T1_SE, "?T1"),
    (G, "AX T1 +/- C", T1_SE, "?T1"),
    (G, "AX T1 +/-GD", T1_SE, "?T1"),
    (G, "AX T1 - GADAVIST", T1_SE, "?T1"),
    (S, "T1 MPRAGE - CONTRAST", MPRAGE, "?T1"),
    (S, "t1_tra c/c", T1_SE, "?T1"),
    (S, "T1 T2 tra", T1_SE, "?T1"),
    # T1 after contrast agent
    (S, "t1_mprage_sag_p2_iso_post", MPRAGE, "T1CE"),
    (S, "t1_se_tra_KM", T1_SE, "T1CE"),
    (S, "t1 mprage tra nach KM", MPRAGE, "T1CE"),
    (P, "sT1W_3D_TFE_GADO", SPGR, "T1CE"),
    (G, "Ax T1 +C", T1_SE, "T1CE"),
    (G, "AX T1 C+", T1_SE, "T1CE"),
    (G, "+GD AX T1", T1_SE, "T1CE"),
    (S, "t1_tse_tra-km", T1_SE, "T1CE"),
    (S, "t1_mprage_post-op_km", MPRAGE, "T1CE"),
    (S, "T1 post injection", T1_SE, "T1CE"),
    (S, "T1 mit KM- sag", T1_SE, "T1CE"),
    (S, "T1 with GD- ax", T1_SE, "T1CE"),
    (S, "T1 post radial", T1_SE, "T1CE"),
    (G, "Ax T1 FLAIR POST GD", T1_FLAIR, "T1CE"),
    (G, "AX T1 WITH CONTRAST", T1_SE, "T1CE"),
    (G, "T1 SE AX APRES INJ", T1_SE, "T1CE"),
    (G, "T1 AX CON CONTRASTE", T1_SE, "T1CE"),
    (G, "t1tra post", T1_SE, "T1CE"),
    (G, "T1ce", T1_SE, "T1CE"),
    (G, "COR T1", {**T1_SE, "contrast_agent": "Gadavist 7.5 ml"}, "T1CE"),
    (G, "C T1 AX", {**T1_SE, "contrast_agent": "DOTAREM"}, "T1CE"),
    (G, "AX POST GD", T1_SE, "T1CE"),
    (G, "AX T1 post op", T1_SE, "T1"),
    # FLAIR
    (S, "t2_tirm_tra_dark-fluid_fs", FLAIR, "FLAIR"),
    (S, "t2_space_dark-fluid_sag_p2_iso", seq("SE+IR", 380.0, 5000.0, 1800.0), "FLAIR"),
    (S, "FLAIR post contrast", FLAIR, "FLAIR"),
    (S, "t2_spc_ir_sag", seq("SE+IR", 394.0, 6000.0, 2200.0), "FLAIR"),
    (P, "T2W_FLAIR_SPIR", seq("IR", 125.0, 11000.0, 2800.0), "FLAIR"),
    (P, "3D_Brain_VIEW_FLAIR", seq("IR", 387.0, 4800.0, 1650.0), "FLAIR"),
    (G, "Ax T2 FLAIR", FLAIR, "FLAIR"),
    (G, "Sag CUBE FLAIR", seq("SE+IR", 119.0, 6000.0, 1700.0), "FLAIR"),
    (U, "t2_flair_fs_tra", FLAIR, "FLAIR"),
    (C, "FLAIR AX", FLAIR, "FLAIR"),
    (H, "FLAIR", FLAIR, "FLAIR"),
    ("other", "flairax", FLAIR, "FLAIR"),
    ("Hyperfine", "FLAIR", seq("SE+IR", 194.4, 4000.0, 1400.0), "FLAIR"),
    (S, "", seq("SE+IR", 394.0, 6000.0, 2200.0), "FLAIR"),
    (P, "", {**seq("", 120.0, 9000.0), "acquisition_contrast": "FLUID_ATTENUATED"}, "FLAIR"),
    (G, "Ax FLAIR", seq("SE+IR", 20.0, 9000.0, 2500.0), "?FLAIR"),
    (G, "Ax FLAIR", seq("SE+IR", 90.0, 9000.0, 200.0), "?FLAIR"),
    (S, "FLAIR SWI fusion", FLAIR, "-"),
    (S, "flair swi", FLAIR, "?FLAIR"),
    (S, "t2_ir_tra", seq("SE+IR", 60.0, 5000.0, 900.0), "?T2"),
    (S, "t2_tirm_cor", seq("SE+IR", 60.0, 5000.0, 180.0), "-"),
    (S, "t2_stir_cor", seq("SE+IR", 60.0, 5000.0, 180.0), "-"),
    (S, "FLAIR_sag MPR cor", {**FLAIR, **kind("DERIVED", "PRIMARY", "M")}, "-"),
    # T2 and PD
    (S, "t2_tse_tra_512", T2, "T2"),
    (S, "t2_blade_tra", T2, "T2"),
    (S, "t2_spc_sag_p2_iso", seq("SE", 408.0, 3200.0), "T2"),
    (P, "T2W_TSE", T2, "T2"),
    (P, "T2W/TSE ax", T2, "T2"),
    (G, "Ax T2 FRFSE", T2, "T2"),
    (G, "AX FRFSE T2 PROPELLER", T2, "T2"),
    (U, "t2_fse_tra", T2, "T2"),
    (C, "T2W FSE AX", T2, "T2"),
    (H, "T2 FSE", T2, "T2"),
    (S, "pd+t2_tse_tra", seq("SE", 96.0, 3500.0), "T2"),
    (S, "pd+t2_tse_tra", PD, "PD"),
    (G, "PDT2", T2, "T2"),
    (G, "PDT2", PD, "PD"),
    (G, "PDT2", seq("SE", None, 3000.0), "?PD"),
    (G, "AX DP T2", PD, "PD"),
    (S, "pd_tse_tra", PD, "PD"),
    (G, "Ax T2 dual echo", PD, "PD"),
    (G, "Ax PD", seq("SE", 80.0, 3000.0), "?PD"),
    (G, "Ax T2", seq("SE", 90.0, 600.0), "?T2"),
    (S, "", T2, "T2"),
    (G, "", T2, "T2"),
    (P, "", {**seq("", 100.0, 4000.0), "acquisition_contrast": "T2"}, "T2"),
    (P, "", seq("SE", 122.0, 12638.0), "-"),  # the same numbers as of a diffusion scan
    # GRE
    (S, "t2_fl2d_tra_hemo", GRE, "GRE"),
    (S, "t2fl2dtrahemo", GRE, "GRE"),
    (S, "T2*_fl2d", GRE, "GRE"),
    (S, "gre_t2_medic", GRE, "GRE"),
    (P, "T2W_FFE", GRE, "GRE"),
    (P, "T2*W", GRE, "GRE"),
    (G, "Ax T2* GRE", GRE, "GRE"),
    (G, "AX GRE", GRE, "GRE"),
    (G, "Ax 3D MERGE", GRE, "GRE"),
    (G, "EG T2 AX", GRE, "GRE"),
    (C, "T2*W FE AX", GRE, "GRE"),
    (U, "t2_gre_tra", GRE, "GRE"),
    (G, "Ax T2", GRE, "GRE"),
    (P, "", {**seq("", 23.0, 700.0, flip_angle=18.0), "acquisition_contrast": "T2_STAR"}, "GRE"),
    (P, "", {**seq("", 30.0, 2000.0, flip_angle=80.0), "acquisition_contrast": "T2_STAR"}, "-"),
    (S, "", GRE, "GRE"),
    (G, "Ax T2*", seq("GR", 4.0, 300.0), "?GRE"),
    (G, "Ax T2*", T2, "?GRE"),
    (G, "Ax T2", seq("GR", 4.0, 300.0), "?T2"),
    (P, "", seq("GR", 27.0, 2000.0, flip_angle=80.0), "?GRE"),  # as functional MRI by Philips
    (P, "", SWI, "?GRE"),
    (S, "T2Star_Map", GRE, "-"),
    (S, "gre_qsm_5echo", GRE, "-"),
    # SWI
    (S, "SWI_Images", {**SWI, **SWI_TYPE, "protocol_name": "t2_swi_tra_p2"}, "SWI"),
    (S, "swi3d", SWI, "SWI"),
    (
        S,
        "SWI_Images",
        {**SWI, **kind("DERIVED", "PRIMARY", "M", "SWI", "NORM", "MFSPLIT")},
        "SWI",
    ),
    (P, "SWIp", SWI, "SWI"),
    (P, "VEN_BOLD_HR", SWI, "SWI"),
    (G, "Ax SWAN", {**SWI, **kind(*GE_TYPE)}, "SWI"),
    (G, "3D eSWAN", {**SWI, **kind(*GE_TYPE)}, "SWI"),
    (U, "swi_3d_tra", SWI, "SWI"),
    (C, "FSBB", SWI, "SWI"),
    (H, "BSI", SWI, "SWI"),
    (S, "Mag_Images", {**SWI, "protocol_name": "t2_swi_tra_p2"}, "-"),
    (S, "Pha_Images", {**SWI, **kind("ORIGINAL", "PRIMARY", "P")}, "-"),
    (S, "mIP_Images(SW)", {**SWI, **kind("DERIVED", "PRIMARY", "MNIP", "SWI")}, "-"),
    (S, "mIP_Images(SW)", {**SWI, "protocol_name": "t2_swi_tra_p2"}, "-"),
    (G, "FILT_PHA: Ax SWAN", {**SWI, **kind(*GE_TYPE)}, "-"),
    (G, "mIP: Ax SWAN", {**SWI, **kind(*GE_TYPE)}, "-"),
    (P, "SWIp", {**SWI, "component": "phase"}, "-"),
    (S, "swi", seq("GR", 5.0, 40.0), "?SWI"),
    (S, "Switch test", SPGR, "-"),
    # never
    (S, "localizer", SPGR, "-"),
    (S, "AAHead_Scout_MPR_tra", {**SPGR, **kind("DERIVED", "PRIMARY", "MPR", "NORM")}, "-"),
    (P, "Survey", SPGR, "-"),
    (G, "3-pl T2* FGRE", SPGR, "-"),
    (G, "3 Plane Loc SSFSE", T2, "-"),
    (G, "Repérage T2", T2, "-"),
    (G, "Localizador T1", T1_SE, "-"),
    (G, "ASSET calibration", SPGR, "-"),
    (S, "t1_mprage_sag_MPR_Cor", {**MPRAGE, **kind("DERIVED", "PRIMARY", "MPR")}, "-"),
    (S, "t1_mprage_sag_MPR_Cor", MPRAGE, "-"),
    (S, "<MPR Thick Range[1]>", MPRAGE, "-"),
    (G, "COR T1 REFORMAT", SPGR, "-"),
    (G, "SAG T1 RFMT", {**SPGR, **kind("DERIVED", "SECONDARY", "REFORMATTED")}, "-"),
    (G, "Ax T1", {**T1_SE, **kind("DERIVED", "SECONDARY")}, "-"),
    (S, "func-bold_task-fa_run-1", BOLD, "-"),
    (S, "ep2d_bold_moco", BOLD, "-"),
    (S, "ep2d_fid_basic_rest", BOLD, "-"),
    (P, "FE_EPI", seq("GR", 27.0, 2000.0, flip_angle=40.0), "-"),
    (S, "SpinEchoFieldMap_AP", seq("EP", 60.0, 8000.0), "-"),
    (S, "gre_field_mapping", seq("GR", 4.9, 400.0), "-"),
    (S, "ep2d_perf", BOLD, "-"),
    (S, "relCBV", {**BOLD, **kind("DERIVED", "PRIMARY", "PERFUSION", "RELCBV")}, "-"),
    (S, "pcasl_3d_tra", seq("SE", 15.0, 4600.0), "-"),
    (S, "T1 DCE dynamic", SPGR, "-"),
    (S, "TOF_3D_multi-slab", SPGR, "-"),
    (G, "3D TOF MRA", SPGR, "-"),
    (P, "PCA 3D venography", SPGR, "-"),
    (S, "t1_vibe_dixon_tra_W", {**SPGR, **kind("DERIVED", "PRIMARY", "DIXON", "WATER")}, "-"),
    (P, "svs_press 35", PD, "-"),
    (S, "Head_MRAC_PET_UTE T1", SPGR, "-"),
    (S, "se_epi_t2", seq("EP+SE", 90.0, 6000.0), "-"),
    (S, "PosDisp: [14] t1_mprage", {**MPRAGE, **kind("DERIVED", "SECONDARY", "POSDISP")}, "-"),
    (S, "Phoenix Evidence t1", T1_SE, "-"),
    (S, "T1 Sub", T1_SE, "-"),
    (G, "T1 Map", SPGR, "-"),
    (S, "t2_tse_sag HWS", T2, "-"),
    (G, "SAG T2 CERVICAL SPINE", T2, "-"),
    (G, "T2 AX", {**T2, "body_part": "CSPINE"}, "-"),
    (G, "T2 AX", {**T2, "body_part": "HEADNECK"}, "T2"),
    (S, "t2_ciss3d_tra", seq("GR", 4.0, 9.0), "-"),
    (S, "space_dir_sag", seq("SE+IR", 320.0, 7500.0, 3000.0), "-"),
    (G, "Color T2", {**T2, "samples_per_pixel": 3}, "-"),
    (G, "T2 AX", {**T2, "burned_in": True}, "-"),
    (G, "T2 AX", {**T2, "sop_class": "1.2.840.10008.5.1.4.1.1.7"}, "-"),
    (G, "T2 AX", {**T2, "modality": "CT"}, "-"),
    (G, "T2 AX", {**T2, "component": "real"}, "-"),
    (G, "T2 AX", {**T2, "orientations": 2}, "-"),
    (G, "T2 AX", {**T2, "size": (256, 256, 7)}, "-"),
    (G, "T2 AX", {**T2, "coverage": 59.0}, "-"),
    (G, "AX IAC T2", T2, "-"),
    (S, "something", seq("GR", 4.0, 9.0), "-"),
    (S, "", {}, "-"),
]


#: Series names of hospitals and studies, given by others; the numbers are those of the contrast.
NAMES = {
    "T1": (
        MPRAGE,
        "MP-RAGE REPEAT|Sagittal MPRAGE|3D MPRAGE|Accelerated Sag IR-FSPGR|Ax 3D T1BRAVO"
        "|OAx T1Flair|Sag T1,Flair|OSag T1FSE|OSag T1 FSE"
        "|t1_tse_dark-fluid_tra_p2|Sag CUBE T1|T1 TIR cor P3",
    ),
    "T1CE": (
        T1_FLAIR,
        "OAx T1+C|Ax T1,Flair +C|Sag CUBE T1 +C|t1_se_cor_civ|Ax T1 MPR GAD|T1 post GAD tra",
    ),
    "FLAIR": (
        FLAIR,
        "Ax Flair irFSE|t2_FLAIR_P3|OAx T2 FLAIR+C|Ax T2Flair|Axial T2-FLAIR SENSE"
        "|AX_T2_FLAIR_NO ANGLE=|t2_tse_dark-fluid_tra_320"
        "|t2_blade_tra_dark-fl_320|Sagittal 3D FLAIR",
    ),
    "T2": (
        T2,
        "FL:C/OAx T2 PROPELLER|t2_tse_tra_P2_24slice|OAx T2 frFSE|OCor fs T2|Ax T2 FSE with Fat Sat"
        "|Axial T2 TSE with Fat Sat rpt|AX PD-T2 NO ANGLE|Axial PD/T2 FSE #2",
    ),
    "PD": (PD, "AX PD-T2|Axial PD/T2 FSE - 48 slices|OAx fs PD"),
    "GRE": (
        GRE,
        "Axial 3TE T2 STAR  straight no angle|AXIAL_T2_ STAR|Axial T2 0 angle Star|AXIAL GRE 5MM"
        "|Axial T2 STAR phase R-L|Axial T2star",
    ),
    "SWI": (SWI, "Ax SWAN FAST|OAx SWI By X|t2_swi_tra_p2_2mm"),
    "ADC": (
        DWI,
        "Average DC:-PJ|Axial DTI_ADC|Axial MB DTI NEW_ADC|ep2d_diff_M128_b0_1000_DIN_ADC",
    ),
    "TRACE": (DWI, "resolve_3scan_trace_tra_176_p2_TRACEW|Axial DTI Phase Direction P>A_TRACEW"),
    "?TRACE": (DWI, "OAx DWI 1000|OVX DWI|Axial MB DTI low sar|Ax DTI 13 Directions"),
    "?GRE": (BOLD, "ep2d_tra_hemo"),
    "-": (
        T2,
        "3-pl T2* Loc|3-Pl Loc T1|3pl T2* Loc|3-Pl T2* FGRE|AAScout|Cal 8HRBRAIN|B1-Calibration PA"
        "|WATER: OSag T2 Ideal|AX InPhase|OutPhase: BH Ax LAVA-Flex Mask|OAx SWAN Out of Phase"
        "|Processed Images 2|COL:OAx 3D-TOF-MRA Asset|tof_fl3d_tra_p2_multi-slab_MIP_SAG"
        "|<MIP Range[1]>|MPR Ob_Ax_I -> S_Min IP_sp:5.0_th:5.0|AXIAL RFORMAT 1|AXIAL REFORMAT 2"
        "|Ax 3D ASL (non-contrast)|Cerebral Blood Flow|3D ASL PLD=1.5s|OAx PWI 50 Phase"
        "|TTP_OLEA_ANALYSIS|TMAX_OLEA_ANALYSIS|Axial fcMRI 0 angle|Axial MB rsfMRI (Eyes Open)"
        "|Axial RESTING fcMRI|Axial Field Mapping|ADNI_gre_field_mapping|Coronal T2 HighResHippo"
        "|Axial DTI_FA|Axial MB DTI_ColFA|Axial MB DTI_TENSOR_B0|OSag STIR|CEST_ssfse"
        "|2D CSI-PROBE 35|csi_se_30_fast|PhoenixZIPReport|SCREENSAVE|PosDisp: [8] T1 TIR cor P3"
        "|cine_tf2d13_retro_SA _8slice|III_AASpine_Scout|T2 FLAIR C-spine",
    ),
}
SERIES += [
    (G, name, {**more, **kind(*GE_TYPE)}, wanted)
    for wanted, (more, names) in NAMES.items()
    for name in names.split("|")
]


def brain(vendor, description, more):
    more = {"protocol_name": description, "series_description": description, **more}
    return replace(BRAIN, manufacturer=vendor, **more)


def said(verdict):
    return {"accepted": "", "ambiguous": "?", "rejected": "-"}[verdict.status] + verdict.contrast


@pytest.mark.parametrize(("vendor", "description", "more", "wanted"), SERIES)
def test_series(vendor, description, more, wanted):
    verdict = RULES.judge(brain(vendor, description, more))
    assert said(verdict) == wanted, verdict
    assert "\n" not in verdict.reason
    assert (verdict.tier in TIERS) == (verdict.status == "accepted")


def test_the_table_is_large_and_every_contrast_is_both_accepted_and_doubted():
    assert len(SERIES) >= 120
    wanted = {entry[3] for entry in SERIES}
    assert set(RULES.contrasts) <= wanted
    assert {"?ADC", "?TRACE", "?T1", "?FLAIR", "?T2", "?PD", "?GRE", "?SWI"} <= wanted


def test_every_rule_decides_some_series():
    used = {RULES.judge(brain(*entry[:3])).evidence for entry in SERIES}
    unused = [rule.verdict.evidence for rule in RULES.rules if rule.verdict.evidence not in used]
    assert unused == []


@pytest.mark.parametrize(
    ("vendor", "description", "more", "evidence", "verified"),
    [
        (S, "x_ADC", {**DWI, **SIEMENS_ADC}, "type.adc", True),
        (P, "dADC", {**DWI, **PHILIPS_ADC}, "type.adc", True),
        (U, "ADC", {**DWI, **SIEMENS_ADC}, "type.adc-other", False),
        (S, "trace", {**DWI, **TRACEW, **ISO}, "type.tracew", True),
        (P, "DWI", {**DWI, **ISO}, "private.isotropic", True),
        (G, "DWI", {**DWI, **ISO}, "private.isotropic-other", False),
        (C, "DWI", {**DWI, **ONE}, "private.single", False),
        (G, "T1", T1_SE, "text.t1", True),
        (G, "T1 post", T1_SE, "text.t1ce", True),
        (G, "T2", T2, "text.t2", True),
        (G, "FLAIR", FLAIR, "text.flair", False),
        (G, "T2*", GRE, "text.gre", False),
        (S, "SWI", {**SWI, **SWI_TYPE}, "type.swi", False),
        (G, "", T2, "physics.t2", False),
        (G, "ADC map", DWI, "text.adc-map", False),
        (G, "isoDWI", {**DWI, **kind("DERIVED", "ISODWI")}, "type.tracew-other", False),
        (G, "Ax T2", GRE, "text.gre-te", False),
        (G, "Ax GRE", GRE, "text.gre-only", False),
        (G, "Ax T1 FLAIR", T1_FLAIR, "text.t1-flair", False),
        (G, "", T1_SE, "physics.t1", False),
    ],
)
def test_evidence_and_what_real_data_confirmed(vendor, description, more, evidence, verified):
    verdict = RULES.judge(brain(vendor, description, more))
    assert (verdict.evidence, verdict.verified) == (evidence, verified)
    assert verdict.tier == evidence.split(".")[0]


def test_the_protocol_counts_where_it_names_one_series():
    more = {**T2, "series_description": "Ax T2", "protocol_name": "STROKE PERFUSION MRA"}
    assert said(RULES.judge(brain(G, "", more))) == "T2"
    assert said(RULES.judge(brain(S, "", more))) == "-"


def test_a_stack_that_is_no_volume_is_rejected_with_its_code():
    verdict = RULES.judge(brain(G, "T2 AX", T2), "E_MISSING_SLICES", "a gap of 14 mm")
    assert (verdict.status, verdict.evidence) == ("rejected", "E_MISSING_SLICES")
    assert verdict.reason == "E_MISSING_SLICES: a gap of 14 mm"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ep2ddiff3scanADC", "ep 2d diff3scan adc | ep 2d diff3scanadc"),
        ("t2_fl2d_tra_HEMO", "t2 fl 2d tra hemo"),
        ("T2*W FE", "t2 star w fe"),
        ("T2dixon", "t2 dixon"),
        ("sT1W_3D", "s t1 w 3d | st1w 3d"),
        ("Coupe à 3° – Repérage", "coupe a 3 reperage"),
        ("AX T1+C", "ax t1 plus c"),
        ("AX T1 -C", "ax t1 minus c"),
        ("AXT2FLAIR", "ax t2 flair"),
        ("", ""),
    ],
)
def test_words(text, wanted):
    assert words(text) == wanted


def user_rules(folder, *rules, **more):
    path = folder / "mine.json"
    path.write_text(json.dumps({"rules": list(rules), **more}))
    return path


def test_rules_of_the_user_come_first(tmp_path):
    mine = {
        "id": "mine.magnitude",
        "contrast": "GRE",
        "match": {"series_description": "^MAG images", "echo_time": {"ge": 15, "lt": 30}},
    }
    no = {"id": "mine.no", "reject": "bad coil", "match": {"series_number": {"eq": 7}}}
    rules = load_rules(user_rules(tmp_path, mine, no))
    verdict = rules.judge(brain(S, "Mag_Images", SWI))
    assert (said(verdict), verdict.tier, verdict.verified) == ("GRE", "user", True)
    assert said(rules.judge(brain(S, "Mag_Images", {**SWI, "echo_time": 40.0}))) == "-"
    verdict = rules.judge(brain(G, "T2", {**T2, "series_number": 7}))
    assert verdict.reason == "bad coil"
    assert said(rules.judge(brain(G, "T2", T2))) == "T2"


def test_a_new_contrast_and_definitions_of_ones_own(tmp_path):
    path = user_rules(
        tmp_path,
        {"id": "mine.dir", "contrast": "DIR", "match": {"is": ["long", "inversion"]}},
        define={"long": {"any_of": [{"echo_time": {"gt": 300}}, {"text": "dir"}]}},
    )
    rules = load_rules(path)
    assert "DIR" in rules.contrasts
    more = seq("SE+IR", 320.0, 7500.0, 3000.0)
    assert said(rules.judge(brain(S, "space_dir_sag", more))) == "DIR"


def test_a_rule_for_a_contrast_that_no_channel_takes(tmp_path):
    match = {"text": "x"}
    path = user_rules(
        tmp_path,
        {"id": "no", "reject": "x", "match": match},
        {"id": "gre", "contrast": "GRE", "match": match},
        {"id": "pd", "contrast": "PD", "ambiguous": "x", "match": match},
        {"id": "dir", "contrast": "DIR", "match": match},
    )
    accepts = {"T1": ["T1"], "SWI": ["SWI", "GRE"]}
    found = load_rules(path).without_channel(accepts)
    assert [(verdict.evidence, verdict.contrast) for verdict in found] == [
        ("pd", "PD"),
        ("dir", "DIR"),
    ]
    assert RULES.without_channel(accepts) == []


OK = {"id": "a", "reject": "x", "match": {"text": "x"}}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ([], "it must be an object with the keys id and match"),
        ({"id": "a"}, "it must be an object with the keys id and match"),
        ({**OK, "colour": "red"}, "colour is not one of"),
        ({**OK, "id": "My Rule"}, "id 'My Rule': use a-z"),
        ({**OK, "reject": 3}, "reject must be a text of one line"),
        ({**OK, "reject": "a\nb"}, "reject must be a text of one line"),
        ({"id": "a", "match": {"text": "x"}}, "give contrast, or reject"),
        ({**OK, "contrast": "T1"}, "give contrast, or reject"),
        ({**OK, "ambiguous": "hm"}, "give contrast, or reject"),
        ({"id": "a", "contrast": "T 1", "match": {"text": "x"}}, "contrast name 'T 1'"),
        ({**OK, "tier": "type"}, "tier and verified are for shipped rules"),
        ({**OK, "match": {}}, "match must be an object with at least one condition"),
        ({**OK, "match": {"not": {}}}, "match.not must be an object"),
        ({**OK, "match": {"SeriesDescription": "x"}}, "there is no field SeriesDescription"),
        ({**OK, "match": {"text": 3}}, "match.text must be a regular expression"),
        ({**OK, "match": {"text": "("}}, "match.text: '(' is not a regular expression"),
        ({**OK, "match": {"text": "t1_mpr"}}, "write ' ' for '_'"),
        ({**OK, "match": {"image_type": ["ADC"]}}, 'match.image_type must be {"all": [...]} or'),
        ({**OK, "match": {"image_type": {"any": "ADC"}}}, "match.image_type.any must be a list"),
        ({**OK, "match": {"plane": {"any": ["axial"]}}}, 'match.plane must be {"in": [...]}'),
        ({**OK, "match": {"echo_time": 30}}, "match.echo_time must be an object of lt"),
        ({**OK, "match": {"echo_time": {"lt": "30"}}}, "match.echo_time.lt must be a number"),
        ({**OK, "match": {"echo_time": {"below": 30}}}, "match.echo_time must be an object of lt"),
        ({**OK, "match": {"is": "nothing"}}, "match.is: nothing is not one of"),
        ({**OK, "match": {"any_of": {}}}, "match.any_of must be a list"),
        ({**OK, "match": {"any_of": [{"echo": "x"}]}}, "match.any_of.echo: there is no field echo"),
    ],
)
def test_a_bad_rule_is_named_in_one_line(tmp_path, rule, message):
    path = user_rules(tmp_path, {**OK, "id": "fine"}, rule)
    with pytest.raises(ConfigError) as caught:
        load_rules(path)
    assert str(caught.value).startswith("rules mine.json: rule 2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "mine.json is not valid JSON"),
        ("[]", 'mine.json: write {"rules": [...]}'),
        ('{"rule": []}', 'mine.json: write {"rules": [...]}'),
        ('{"rules": {}}', "rules mine.json: rules must be a list"),
        ('{"rules": [], "define": []}', "rules mine.json: define must be an object"),
        ('{"rules": [], "define": {"epi": {"text": "x"}}}', "define.epi is shipped already"),
        ('{"rules": [], "define": {"a": {"txt": "x"}}}', "define.a: txt: there is no field txt"),
        ('{"rules": [], "rules": []}', "rules is there twice in one object"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_rules(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_doubled_id(tmp_path):
    with pytest.raises(ConfigError, match="none.json: No such file"):
        load_rules(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="rule 2: id a is there twice"):
        load_rules(user_rules(tmp_path, OK, OK))
    with pytest.raises(ConfigError, match="rules mine.json: a rule text.t1 is shipped"):
        load_rules(user_rules(tmp_path, {**OK, "id": "text.t1"}))


DOCUMENT = Path(__file__).parents[3] / "docs" / "contrasts.md"


def test_the_example_of_the_manual_works(tmp_path):
    (example,) = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "mine.json"
    path.write_text(example)
    rules = load_rules(path)
    assert said(rules.judge(brain(S, "Mag_Images", SWI))) == "GRE"
    more = {**FLAIR, "field_strength": 3.0}
    assert rules.judge(brain(G, "Kopf_3", more)).evidence == "our.flair"
    assert said(rules.judge(brain(S, "T2 Kopf", T2))) == "?T2"
    assert rules.judge(brain(S, "t2", {**T2, "series_number": 7})).evidence == "text.t2"


def test_the_manual_lists_every_field_and_contrast():
    manual = DOCUMENT.read_text(encoding="utf-8")
    known = {item.name for item in fields(Facts)} - {"size", "spacing", "frame_of_reference"}
    known -= {"acquisition_time"}
    assert [name for name in sorted(known) if f"`{name}`" not in manual] == []
    assert [name for name in RULES.contrasts if f"| `{name}` |" not in manual] == []


def test_every_field_of_the_language_has_a_value():
    spoken = conditions._TEXTS | conditions._LISTS | conditions._WORDS | conditions._NUMBERS
    assert spoken <= set(values_of(BRAIN))
