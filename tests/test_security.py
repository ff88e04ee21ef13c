"""Attacks, one by one: ``docs/security.md`` names the test of each of its lines."""

import ast
import ctypes
import gzip
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import nibabel as nib
import pytest
import torch
from convert.dicom.scanner import write_series
from convert.studies import AFFINE, make_case, voxels, write_template
from safetensors.torch import load_file, save_file
from tiny import make_config

from amae_nnunet import unpack
from amae_nnunet.convert import nifti
from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.dicom import headers, scan, volume
from amae_nnunet.errors import CheckpointError, InputError
from amae_nnunet.intact import check_complete
from amae_nnunet.networks.checkpoint import read_checkpoint, save_checkpoint
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.pretraining import state

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "amae_nnunet").rglob("*.py"))
SAID = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


class Touch:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# Our code


@cache
def all_calls():
    """Each call in our code: the module, the function's name and the keyword arguments."""
    found = []
    for path in MODULES:
        module = path.relative_to(ROOT / "amae_nnunet").as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                found.append((module, ast.unparse(node.func), given))
    return found


def calls(name):
    """Where our code calls a function, and with which keyword arguments."""
    return [(module, given) for module, called, given in all_calls() if called == name]


def test_every_state_is_loaded_without_running_code():
    found = calls("torch.load")
    assert found
    assert all(given["weights_only"] == "True" for _, given in found)
    text = "".join(path.read_text(encoding="utf-8") for path in MODULES)
    assert "weights_only=False" not in text


def test_nothing_runs_code_from_a_file_or_a_text():
    never = (
        "eval", "exec", "os.system", "os.popen", "np.load", "numpy.load", "joblib.load",
        "pickle.loads", "pickle.Unpickler", "yaml.load", "shutil.unpack_archive", "__import__",
    )  # fmt: skip
    assert [calls(name) for name in never] == [[]] * len(never)
    # nnU-Net's own properties of a case, from the user's own preprocessed folder, as nnU-Net does
    assert {path for path, _ in calls("pickle.load")} == {"pretraining/show.py"}
    assert not any("shell" in given for _, given in calls("subprocess.run"))
    text = "".join(path.read_text(encoding="utf-8") for path in MODULES)
    assert not re.search(r"\.extract(all)?\(", text)


def test_the_page_names_tests_that_are_there():
    named = re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", SAID)
    assert named
    for path, test in named:
        source = ROOT / path if path else Path(__file__)
        assert f"def {test}(" in source.read_text(encoding="utf-8"), (path, test)
    own = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(encoding="utf-8"), re.M)
    assert {test for path, test in named if not path} == {*own} - {
        "test_the_page_names_tests_that_are_there"
    }


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint_final.safetensors"
    save_checkpoint(path, AdaptiveMAE(make_config()), {})
    return path


def refused(path):
    with pytest.raises(CheckpointError, match=re.escape(path.name)) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_metadata(path, content):
    """The same tensors under other metadata."""
    tensors = load_file(path)
    text = content if isinstance(content, str) else json.dumps(content)
    save_file({name: t.clone() for name, t in tensors.items()}, path, metadata={"amae": text})


def test_code_under_the_name_of_a_checkpoint_is_not_run(tmp_path):
    path, mark = tmp_path / "checkpoint_final.safetensors", tmp_path / "ran"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Touch(mark))),
        lambda: torch.save({"network_weights": Touch(mark)}, path),
    ):
        write()
        assert "is not a readable safetensors file" in refused(path)
        assert not mark.exists()


def test_code_in_a_state_to_continue_from_is_not_run(tmp_path):
    path, mark = tmp_path / state.LATEST_NAME, tmp_path / "ran"
    torch.save({"identity": "{}", "network_weights": Touch(mark)}, path)
    assert state._read_identity(path) is None
    assert not mark.exists()


def test_sizes_that_the_file_does_not_have(checkpoint):
    content = checkpoint.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    for shape, end in (([2**40], 2**42), ([2**62, 4], 2**64), ([3], 2**40)):
        wrong = {**header, name: {**header[name], "shape": shape, "data_offsets": [0, end]}}
        text = json.dumps(wrong).encode()
        checkpoint.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        refused(checkpoint)
    checkpoint.write_bytes(struct.pack("<Q", 2**63) + content[8:])
    refused(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 10**9},
        {"decoder_depth": 10**12},
        {"embed_dim": 2**60, "num_heads": 1},
        {"mlp_ratio": 1e300},
        {"patch_size": [2**40, 8, 12]},
        {"patch_size": [0, 8, 12]},
        {"strides": [[0, 2, 2]]},
        {"spacing": [5.0, 0.0, 1.0]},
        {"contrasts": ["ADC", "../../x", "T2"]},
        {"contrasts": [f"T{number}" for number in range(100_000)]},
    ],
)
def test_a_model_that_would_fill_the_memory_or_cannot_be(checkpoint, changes):
    model = read_checkpoint(checkpoint).facts["model"]
    with_metadata(checkpoint, {"model": {**model, **changes}})
    refused(checkpoint)


@pytest.mark.parametrize(
    "metadata",
    ["", "{", "[" * 50_000, "null", "[]", '"model"', '{"model": []}', '{"model": null}', "1e999"],
)
def test_metadata_that_is_no_json_or_of_wrong_types(checkpoint, metadata):
    with_metadata(checkpoint, metadata)
    refused(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [{"seen_cases": [1]}, {"seen_cases": {"hashes": [{}]}}, {"added_contrasts": "x"}],
)
def test_facts_of_wrong_types(checkpoint, changes):
    with_metadata(checkpoint, {**read_checkpoint(checkpoint).facts, **changes})
    refused(checkpoint)


def test_paths_in_the_metadata_lead_nowhere(checkpoint, tmp_path):
    facts = read_checkpoint(checkpoint).facts
    places = {"dataset": "../../x", "plans": "/etc/passwd", "configuration": "$(touch x)"}
    with_metadata(checkpoint, {**facts, "plan": places, "path": "/etc/passwd"})
    assert read_checkpoint(checkpoint).facts["plan"] == places
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


def test_names_cannot_write_to_the_terminal(checkpoint):
    tensors = {name: tensor.clone() for name, tensor in load_file(checkpoint).items()}
    facts = read_checkpoint(checkpoint).facts
    tensors["\x1b[2J\nall is well"] = torch.zeros(1)
    save_file(tensors, checkpoint, metadata={"amae": json.dumps(facts)})
    assert "\x1b" not in refused(checkpoint)


# What is unpacked


def absurd(path, dims, spare=0):
    """A NIfTI file of a few bytes whose header says that it has ``dims`` voxels."""
    header = nib.Nifti1Image(voxels(), AFFINE).header
    header["dim"][: len(dims) + 1] = [len(dims), *dims]
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content = header.binaryblock + bytes(4 + spare)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["T1.nii", "T1.nii.gz"])
@pytest.mark.parametrize("dims", [[32767] * 3, [32767] * 7, [4096] * 3, [1000] * 3, [-5, 3, 3]])
def test_a_header_that_declares_what_is_not_there(tmp_path, name, dims):
    path = absurd(tmp_path / name, dims)
    with pytest.raises(CaseError) as caught:
        nifti.open_nifti(path, path.name)
    assert caught.value.code in ("E_DAMAGED", "E_4D")
    if min(dims) > 0:
        with pytest.raises(InputError, match=r"T1\.nii.*is damaged"):
            check_complete(path)


def test_a_nifti_file_that_unpacks_to_more_than_it_declares(tmp_path, monkeypatch):
    path = absurd(tmp_path / "T1.nii.gz", [12, 10, 8], spare=3 << 20)
    monkeypatch.setattr(unpack, "_SPARE", 1 << 20)
    with pytest.raises(CaseError, match="goes on long behind its voxels"):
        nifti.open_nifti(path, path.name)
    with pytest.raises(InputError, match="goes on long behind its voxels"):
        check_complete(path)


def test_an_archive_that_unpacks_to_a_full_disk(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    write_series(raw, voxels(), description="t1")
    for path in sorted(raw.iterdir()):
        content = path.read_bytes() + bytes(1 << 20)
        path.with_suffix(".dcm.gz").write_bytes(gzip.compress(content))
        path.unlink()
    (stack,) = scan.scan_dicom(raw).stacks
    monkeypatch.setattr(volume, "MAX_BYTES", 3 << 20)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(CaseError, match="it unpacks to more than"):
        volume.DicomVolume(stack).read(scratch)
    assert list(scratch.iterdir()) == []


def test_a_deflated_file_that_fills_the_memory(tmp_path, monkeypatch):
    write_series(tmp_path, voxels(), description="t1")
    path = sorted(tmp_path.iterdir())[0]
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    uid = b"1.2.840.10008.1.2.1"
    meta = content[:start].replace(uid + b"\0", uid + b".99")
    meta = meta.replace(b"\x10\0UI" + struct.pack("<H", 20), b"\x10\0UI" + struct.pack("<H", 22))
    meta = meta[:140] + struct.pack("<I", len(meta) - 144) + meta[144:]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content[start:]) + packer.flush()
    path.write_bytes(meta + packed + b"\0" * (len(packed) % 2))
    with path.open("rb") as file:
        assert headers.read_header(file, path.name)[0].size == (12, 10)
    monkeypatch.setattr(headers, "_MAX_DEFLATED", 100)
    with path.open("rb") as file, pytest.raises(headers.Damaged, match="unpacks to more than"):
        headers.read_header(file, path.name)


def test_a_value_of_a_header_that_fills_the_memory(tmp_path, monkeypatch):
    write_series(tmp_path, voxels(), description="t1", ImageComments="x" * 3000)
    path = sorted(tmp_path.iterdir())[0]
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(headers, "_MAX_VALUE", 2000)
    with gzip.open(packed) as file, pytest.raises(headers.Damaged, match="longer than any"):
        headers.read_header(file, packed.name)


# Folders that may not be written


def _obey():
    """Make a process of root's obey permissions."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="needs capabilities")
def test_a_folder_that_may_not_be_written(tmp_path):
    make_case(tmp_path / "raw", "a")
    template, closed = write_template(tmp_path), tmp_path / "closed"
    closed.mkdir(mode=0o555)
    (tmp_path / "file").touch()
    code = "import sys; from amae_nnunet.cli import convert; sys.exit(convert.main())"
    for place in ("closed/inputs", "file/inputs"):
        words = ["-i", "raw", "-t", template, "-o", place, "-np", "1"]
        answer = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path, preexec_fn=_obey, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert answer.returncode == 2
        last = answer.stderr.splitlines()[-1]
        assert last.startswith("amae-nnunet-convert: error: ")
        assert "Traceback" not in answer.stderr
    assert list(closed.iterdir()) == []
