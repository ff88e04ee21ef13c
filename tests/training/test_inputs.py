import pytest

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import ContrastError, InputError
from amae_nnunet.training.inputs import check_channel_files, folder_to_predict

CONTRASTS = ("ADC", "TRACE", "T2")
ENDINGS = [".nii.gz", ".nrrd"]


@pytest.fixture
def folder(tmp_path):
    names = ["a_b_000", "case"]
    for case in names:
        for number in range(3):
            (tmp_path / f"{case}_{number:04d}.nii.gz").touch()
    for name in ("report_2024.json", "case.nii.gz", "notes_12.nii.gz"):
        (tmp_path / name).touch()
    return tmp_path


def check(folder):
    check_channel_files(folder, CONTRASTS, ENDINGS)


def test_a_folder_with_one_file_a_contrast_is_right_whatever_else_it_holds(folder):
    check(folder)


def test_channels_in_the_order_of_another_data_set_are_refused(tmp_path, folder):
    images = folder.rename(tmp_path.parent / f"{tmp_path.name}_imagesTs")
    data_set = images.parent / f"{tmp_path.name}_data"
    data_set.mkdir()
    images = images.rename(data_set / "imagesTs")
    for contrasts, cases in ((CONTRASTS, ["case"]), (CONTRASTS[::-1], ["other"])):
        record = ContrastRecord(contrasts)
        for case in cases:
            record.add(case, (True, True, True), "test", case)
        record.write(data_set)
        check(images)  # the right order, or a record of other cases
    record.add("case", (True, True, True), "test", "case")
    for place in (data_set, images):
        record.write(place)
        with pytest.raises(InputError, match="was converted for T2, TRACE, ADC but the model"):
            check(images)


def test_another_ending_counts_as_well(folder):
    (folder / "case_0001.nii.gz").rename(folder / "case_0001.nrrd")
    check(folder)


@pytest.mark.parametrize(
    ("missing", "surplus", "message"),
    [
        ([1], [], r"^case case in .* lacks the file of channel 0001 \(TRACE\): the model wants"),
        ([0, 2], [], r"case case in .* lacks the file of channel 0000 \(ADC\), 0002 \(T2\): "),
        ([], [3, 12], "case case in .* has a file of channel 0003, 0012 too many: "),
        (
            [2],
            [3],
            r"lacks the file of channel 0002 \(T2\) and has a file of channel 0003 too many",
        ),
    ],
)
def test_a_wrong_case_is_named_with_its_channels_and_the_fix(folder, missing, surplus, message):
    for number in missing:
        (folder / f"case_{number:04d}.nii.gz").unlink()
    for number in surplus:
        (folder / f"case_{number:04d}.nii.gz").touch()
    with pytest.raises(ContrastError, match=message) as caught:
        check(folder)
    assert "(0000 ADC, 0001 TRACE, 0002 T2), all zero where it is absent" in str(caught.value)
    assert "amae-nnunet-convert --for_model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_first_wrong_case_is_named_and_the_others_counted(folder):
    for case in ("a_b_000", "case"):
        (folder / f"{case}_0002.nii.gz").unlink()
    with pytest.raises(ContrastError, match=r"case a_b_000 .* \(and 1 more of 2 cases are wrong\)"):
        check(folder)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("/venv/bin/nnUNetv2_predict -d 1 -i in -o out -f 0 1 --disable_tta", "in"),
        ("nnUNetv2_predict_from_modelfolder.exe -m model -o out -i in", "in"),
        ("/venv/bin/nnUNetv2_train 1 3d_fullres 0 -i in", None),
        ("/venv/bin/python -i in", None),
        ("nnUNetv2_predict -d 1", None),
    ],
)
def test_the_folder_is_that_of_nnunets_own_commands_to_predict(words, found):
    folder = folder_to_predict(words.split())
    assert (str(folder) if folder else None) == found
