"""The last lines of ``amae-nnunet-convert``: the commands they give are true, and can be run."""

import re
import shlex
from pathlib import Path

import pytest
from cli.script import SCRIPT, command
from convert.studies import make_case, write_template

from amae_nnunet.cli.closing import closing_lines
from amae_nnunet.cli.convert import _parser
from amae_nnunet.convert.dataset import Summary
from amae_nnunet.convert.target import Target

DATASET = "Dataset007_Tiny"
PLAN = "next: nnUNetv2_plan_and_preprocess -d 7 -c 3d_fullres --verify_dataset_integrity"
IMAGES = f"-i /raw/{DATASET}/imagesTs -o {DATASET}_predicted"


def closing(words="-d 7 -n Tiny", written=(), training=0, layout="folders", **counts):
    args = _parser().parse_args(["-i", "my raw", *words.split()])
    counts = {"done": 1, "skipped": 0, "failed": 0, "present": {}, **counts}
    summary = Summary(written=frozenset(written), training=training, **counts)
    return closing_lines(args, Target(Path("/raw", DATASET), dataset=DATASET), summary, layout)


def last(*arguments, **more):
    """The lines below the one that says where to look."""
    lines = closing(*arguments, **more)
    return lines[1 + lines.index(f"look: /raw/{DATASET}/report.html") :]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    return tmp_path / "results"


def trained(folder, *folds, checkpoint="checkpoint_final.pth"):
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / checkpoint).touch()
    return folder


def test_counts_folds_and_failures():
    lines = closing(present={"T1": 1, "LONG-NAME": 12}, folds=5, failed=1, written=["train"])
    assert lines == [
        f"{DATASET}: 1 done, 0 skipped, 1 failed",
        "  T1           1 case",
        "  LONG-NAME    12 cases",
        "folds: 5, no subject on both sides (splits_final.json)",
        "failed: 1 case, see above or failures.jsonl: correct the input and convert again, or go "
        "on without",
        f"look: /raw/{DATASET}/report.html",
        PLAN,
    ]


def test_what_comes_next_depends_on_what_is_there(results):
    once = "once it is trained: amae-nnunet-predict"
    assert last(written=["train"], training=3) == [PLAN]
    assert last(written=["test"]) == ["next: convert the training cases, too (--split train)"]
    stock = f"{once} {IMAGES} -d 7 -c 3d_fullres -tr AMAETrainer -f 0"
    assert last(written=["test"], training=3) == [stock]
    assert last(written=["test", "train"], training=3) == [PLAN, stock]
    trained(results / DATASET / "Mine__SomePlans__3d_lowres", 0, 3)
    known = f"amae-nnunet-predict {IMAGES} -d 7 -c 3d_lowres -tr Mine -p SomePlans -f 0 3"
    assert last(written=["test"], training=3) == [f"next: {known}"]
    assert last(written=["test", "train"], training=3) == [PLAN, f"then train again, and: {known}"]
    (line,) = last(written=["unlabeled"])
    assert line.startswith(
        "next: amae-nnunet-pretrain DATASET 3d_fullres --unlabeled 7  # DATASET: "
    )


def test_inference_inputs_name_the_model(results, tmp_path, monkeypatch):
    model = trained(results / "Dataset012_X" / "AMAETrainer__AMAEPlans__tiny", 1, 0, "all")
    (line,) = last(f"-o in --for_model {model}")
    images = "-i in -o in_predicted"
    assert line == (
        f"next: amae-nnunet-predict {images} -d 12 -c tiny -tr AMAETrainer -p AMAEPlans -f 0 1"
    )
    moved = trained(tmp_path / "my models" / "M", "all", checkpoint="checkpoint_best.pth")
    monkeypatch.chdir(moved)
    (line,) = last("-o in --for_model .")
    assert shlex.split(line)[1:] == [
        *("amae-nnunet-predict", *images.split(), "-m", str(moved.resolve())),
        *("-f", "all", "-chk", "checkpoint_best.pth"),
    ]
    monkeypatch.delenv("nnUNet_results")
    assert last(f"-o in --for_model {model}")[0].startswith(
        f"next: amae-nnunet-predict {images} -m {model.resolve()} -f 0 1"
    )
    assert last("-o in") == [
        f"next: amae-nnunet-predict {images} -d ID -c 3d_fullres -tr AMAETrainer -f 0  # ID: the "
        "model's data set; or give --for_model"
    ]


def test_who_converts_dicom_to_draw_labels_is_told_how(tmp_path):
    said = "to draw labels: save them as labels/CASE.nii.gz, then convert with --labels labels"
    assert last("-o look", layout="dicom")[1:] == [said]
    assert said not in last("-o look")
    model = trained(tmp_path / "M", 0)
    assert said not in last(f"-o look --for_model {model}", layout="dicom")
    assert said not in last(layout="dicom", written=["test"], training=3)


def test_the_command_given_to_a_part_merges_them(tmp_path):
    make_case(tmp_path / "my raw", "a")
    make_case(tmp_path / "my raw", "b")
    words = ("-i", tmp_path / "my raw", "-t", write_template(tmp_path), "-d", 7, "--folds", 2)
    raw = {"raw_folder": tmp_path / "raw"}
    for part in (0, 1):
        done = command(*words, "-num_parts", 2, "-part_id", part, **raw)
        assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"^next: the other parts, then (.*)$", done.stdout, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program == SCRIPT.name
    merged = command(*arguments, **raw)
    assert merged.returncode == 0, merged.stderr
    assert merged.stdout.splitlines() == [
        f"{DATASET}: 0 done, 2 skipped, 0 failed",
        *("  T1           2 cases", "  FLAIR        2 cases", "  T1CE         2 cases"),
        "folds: 2, no subject on both sides (splits_final.json)",
        f"look: {tmp_path / 'raw' / DATASET / 'report.html'}",
        PLAN,
    ]
