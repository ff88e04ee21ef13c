"""Bad rows of a table of cases. Each function changes the cells of a row that is good."""

from cli.bad_inputs import FAILS, RIGHT, WARNS, Rows
from cli.bad_nifti import GOOD

TABLES = Rows()
#: Of a table beside the folder ``good``, with the files of a good case and ``four.nii.gz``, 4-D.
COLUMNS = ("case", "subject", "split", "T1", "FLAIR", "T1CE", "label", "problem")
row = TABLES.row


def good_row(name):
    files = {"T1": "good/T1.nii.gz", "FLAIR": "good/FLAIR.nii.gz", "T1CE": "good/T1CE.nii.gz"}
    return {"case": name, "label": "good/seg.nii.gz", **files}


@row(FAILS, "E_TABLE", "T1: good/gone.nii.gz is not there: correct the path")
def file_gone(cells):
    """A path to nothing."""
    cells["T1"] = "good/gone.nii.gz"


@row(FAILS, "E_TABLE", "T1: /etc/passwd does not end in .nii or .nii.gz")
def other_file(cells):
    """A path to a file that is no image."""
    cells["T1"] = "/etc/passwd"


@row(FAILS, "E_TABLE", "good/T1.nii.gz in two cells: correct one")
def same_file_twice(cells):
    """One file as two contrasts."""
    cells["T1CE"] = cells["T1"]


@row(FAILS, "E_TABLE", "split validation is not one of train, test, unlabeled")
def unknown_split(cells):
    """An unknown split."""
    cells["split"] = "validation"


@row(FAILS, "E_TABLE", "has a cell beyond the last column: more")
def long_row(cells):
    """A cell too many."""
    cells["beyond"] = "more"


@row(FAILS, "E_TABLE", "still has a problem: which one?")
def problem_left(cells):
    """A problem that the dry run noted and nobody cleared."""
    cells["problem"] = "which one?"


@row(FAILS, "E_4D", "four.nii.gz is 12 x 10 x 8 x 2 and has no volume 2")
def no_such_volume(cells):
    """A volume that the 4-D file has not; it is required."""
    cells["FLAIR"] = "good/four.nii.gz[2]"


@row(RIGHT)
def one_volume(cells):
    """A volume of a 4-D file."""
    cells["T1"] = "good/four.nii.gz[1]"
    return {"T1": GOOD["T1CE"]}


@row(RIGHT)
def absent(cells):
    """`n/a` instead of a path."""
    cells["T1"] = "n/a"
    return {"T1": None}


@row(FAILS, "E_NO_LABEL", "no label")
def label_gone(cells):
    """A training case whose label cell is empty."""
    cells["label"] = ""


@row(FAILS, "E_NAME", "ABSENT gets the same name as absent")
def clash(cells):
    """The name of another row, but for upper case."""
    cells["case"] = "ABSENT"


@row(FAILS, "E_NAME", "case '../../absent' is a path, no name: rename it")
def path_as_name(cells):
    """A case called `../../x`; a case `x` beside it is converted."""
    cells["case"] = "../../absent"


@row(FAILS, "E_NAME", "subject '..' is a path, no name: rename it")
def path_as_subject(cells):
    """A subject called like a path."""
    cells["subject"] = ".."


@row(FAILS, "E_NAME", " are all called incomplete_twin: rename or remove all but one")
def incomplete_twin(cells):
    """Two rows of one name, the second without a required contrast: both fail."""
    cells["twin"] = {**cells, "FLAIR": ""}


@row(RIGHT)
def name_of_many_signs(cells):
    """A case called `a case; (old)`: spaces and signs become `-`, which is printed."""
    cells["case"] = "name_of_many signs"


@row(WARNS, "W_SUBJECT", "its subject absent is trained on as well (absent)")
def tested_subject(cells):
    """A test case whose subject is in the training set too; an error with `--strict`."""
    cells["split"] = "test"
    cells["subject"] = "absent"
