"""Processes on this machine: what each bad end of a case costs, and what they leave behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from convert import misbehaving
from convert.misbehaving import spoil
from convert.studies import contents, ledger, make_case, write_template

from amae_nnunet.convert import processes, worker
from amae_nnunet.convert.case import CaseJob
from amae_nnunet.convert.codes import CODES, CaseError
from amae_nnunet.convert.dataset import convert
from amae_nnunet.convert.processes import run_here, run_local
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.source import NiftiFile, RawCase
from amae_nnunet.convert.target import Target
from amae_nnunet.convert.template import load_template
from amae_nnunet.convert.worker import Converted, Failure
from amae_nnunet.errors import CannotWrite, ConfigError

pytestmark = pytest.mark.slow  # processes, or real work for half a minute

CASES = "abcd"
DATASET = "Dataset001_Tiny"


@pytest.fixture
def template(tmp_path):
    return load_template(str(write_template(tmp_path)))


@pytest.fixture
def cases(tmp_path, template):
    for name in CASES:
        make_case(tmp_path / "raw", name)
    return scan(tmp_path / "raw", template)


@pytest.fixture
def jobs(cases, template, tmp_path):
    def make(**acts):
        return {
            raw.case: CaseJob(raw, template, tmp_path / "tmp" / raw.case, True)
            for raw in spoil(cases, **acts)
        }

    return make


def tiny(tmp_path, number=1):
    return Target(tmp_path / str(number) / DATASET, "train", DATASET)


@pytest.mark.parametrize("count", [1, 2])
def test_each_bad_end_costs_one_case(jobs, count):
    acts = {"a": "crash", "b": "error", "c": "awkward"}
    found = dict(run_local(jobs(**acts), count, 60))
    assert {case: getattr(found[case], "code", "") for case in CASES} == {
        "a": "E_CRASH",
        "b": "E_UNEXPECTED",
        "c": "E_UNEXPECTED",
        "d": "",
    }
    assert "unexpected Awkward: run with -v" in found["c"].message
    assert "Jane Doe" in found["b"].details
    for failure in (found["a"], found["b"], found["c"]):
        assert failure.code in CODES
        assert not any(word in failure.message for word in ("Jane", "/", "\n"))


@pytest.mark.parametrize("act", ["segfault", "killed"])
def test_a_process_that_is_killed_costs_one_case(jobs, act):
    found = dict(run_local(jobs(b=act), 1, 60))
    assert found["b"] == Failure(
        "E_CRASH", "its process died, perhaps out of memory: run again with a smaller -np"
    )
    assert all(isinstance(found[case], Converted) for case in "acd")


def test_a_hang_costs_one_case_and_the_time_limit(jobs):
    begin = time.monotonic()
    found = dict(run_local(jobs(b="hang"), 2, 5))
    assert 5 <= time.monotonic() - begin < 60
    assert found["b"].code == "E_TIMEOUT"
    assert "more than 5 s" in found["b"].message
    assert all(isinstance(found[case], Converted) for case in "acd")
    assert multiprocessing.active_children() == []


def test_bad_ends_that_leave_the_process_alive_cost_one_case_here_too(jobs):
    found = dict(run_here(jobs(a="no_memory", b="error", d="gone")))
    codes = [found[case].code for case in "abd"]
    assert codes == ["E_CRASH", "E_UNEXPECTED", "E_DAMAGED"]
    assert found["d"].message.startswith("T1.nii.gz is not there any more")
    assert isinstance(found["c"], Converted)


def test_a_process_uses_one_thread_and_leaves_the_environment_alone(jobs, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    job = {"a": jobs(a="threads")["a"]}
    # The contrast is optional, so it is what the case's warnings say.
    (outcome,) = dict(run_local(job, 1, 60)).values()
    assert "1 threads, OMP 1" in outcome.facts["warnings"][0]
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_processes_that_end_at_once_end_the_run(jobs, monkeypatch):
    monkeypatch.setattr(processes, "_start", misbehaving.end_at_once)
    with pytest.raises(ConfigError, match="end at once"):
        list(run_local(jobs(), 1, 60))


def test_a_broken_pool_is_replaced(jobs, monkeypatch):
    real, pools = processes._run_pool, []

    def broken(left, *rest):
        pools.append(list(left))
        yield next(real(left, *rest))

    monkeypatch.setattr(processes, "_run_pool", broken)
    assert sorted(case for case, _ in run_local(jobs(), 1, 60)) == list(CASES)
    assert [len(pool) for pool in pools] == [4, 3, 2, 1]


def test_all_ways_write_the_same_bytes(cases, template, tmp_path):
    ways = [{"processes": 1, "timeout": 0}, {"processes": 1}, {"processes": 3}]
    for number, way in enumerate(ways):
        summary = convert(spoil(cases, b="error"), template, tiny(tmp_path, number), **way)
        assert (summary.done, summary.failed) == (3, 1)
    first, *others = [contents(tiny(tmp_path, number).folder) for number in range(3)]
    assert others == [first, first]
    assert not any("/b" in name for name in first)


@pytest.mark.parametrize("what", ["voxels", "half", "presence", "grid"])
def test_a_file_written_wrong_is_noticed(jobs, monkeypatch, what):
    real = worker.convert_case

    def convert_case(job):
        facts = real(job)
        path = job.folder / "0000.nii.gz"
        if what == "half":
            path.write_bytes(path.read_bytes()[:-20])
        elif what == "presence":
            facts["present"] = "011"
        elif what == "grid":
            facts["size"] = [1, 1, 1]
        else:
            facts["label"] = {"background": 960, "lesion": 0}
        return facts

    monkeypatch.setattr(worker, "convert_case", convert_case)
    (outcome,) = dict(run_here({"a": jobs()["a"]})).values()
    assert outcome.code == "E_UNEXPECTED"
    assert "0000.nii.gz" in outcome.details or "label.nii.gz" in outcome.details


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("ways", [{"processes": 1, "timeout": 0}, {"processes": 2}])
def test_a_full_disk_stops_the_run_and_leaves_nothing_half(
    cases, template, tmp_path, small_disk, ways
):
    target = Target(small_disk / DATASET, "train", DATASET)
    message = r"cannot write .*Dataset001_Tiny \(No space left .*\): make room and run it again"
    with pytest.raises(CannotWrite, match=message):
        convert(cases, template, target, **ways)
    subprocess.run(["mount", "-o", "remount,size=80M", str(small_disk)], check=True)
    summary = convert(cases, template, target, **ways)
    assert summary.done + summary.skipped == 4
    other = tiny(tmp_path)
    convert(cases, template, other)
    assert contents(target.folder) == contents(other.folder)


SCRIPT = """
import signal
import sys
import tempfile
from pathlib import Path
from convert.misbehaving import spoil
from amae_nnunet.convert.dataset import convert
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.source import RawCase
from amae_nnunet.convert.target import Target
from amae_nnunet.convert.template import load_template

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # as the commands hear both
        signal.signal(number, signal.default_int_handler)
    root = Path(sys.argv[1])
    template = load_template(str(root / "tiny.json"))
    acts = {case: "slow" for case in "abcd"}
    target = Target(root / "1" / "Dataset001_Tiny", "train", "Dataset001_Tiny")
    try:
        convert(spoil(scan(root / "raw", template), **acts), template, target, 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def children_of(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_ended_run_leaves_true_records_and_no_process(cases, template, tmp_path, number):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.Popen(command, env=environment, start_new_session=True, stderr=-1, text=True)
    target = tiny(tmp_path)
    cases_done = target.folder / "cases.jsonl"
    wait_until(lambda: cases_done.is_file() and cases_done.read_text())
    children = children_of(run.pid)
    if number == signal.SIGINT:  # as a terminal does
        os.killpg(run.pid, number)
    else:
        run.send_signal(number)
    said = run.communicate()[1]
    assert len(children) >= 2
    wait_until(lambda: all(map(is_gone, children)), 20)
    if number != signal.SIGKILL:
        assert run.returncode == 130
        assert said == ""
        done = len(ledger(target.folder))
        assert 1 <= done < 4
        assert len(list((target.folder / "imagesTr").iterdir())) == 3 * done
        assert not (target.folder / ".amae_tmp").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    convert(spoil(cases, **dict.fromkeys(CASES, "slow")), template, tiny(tmp_path, 2))
    assert contents(target.folder) == contents(tiny(tmp_path, 2).folder)


def test_what_a_case_unpacks_lies_in_its_own_folder(tmp_path, monkeypatch):
    seen = []

    def read(self, scratch):
        seen.append(scratch)
        raise CaseError("E_4D", "no")

    monkeypatch.setattr(NiftiFile, "read", read)
    raw = RawCase("a", "a", "a", {"T1": NiftiFile(tmp_path / "T1.nii", "T1.nii")})
    worker.work(CaseJob(raw, None, tmp_path / "job", False))
    assert [folder.parent for folder in seen] == [tmp_path / "job"]
