"""The same cases on a Dask cluster: a real scheduler and two worker processes."""

import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
from convert import misbehaving
from convert.misbehaving import spoil
from convert.studies import contents, ledger, make_case, write_template

from amae_nnunet.convert import cluster
from amae_nnunet.convert.dataset import convert
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.target import Target
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import ConfigError

pytestmark = pytest.mark.slow  # processes, or real work for half a minute

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
CASES = "abcdef"
DATASET = "Dataset001_Tiny"


@contextmanager
def cluster_of(workers):
    """A cluster whose workers are processes; a case may take two of them with it."""
    with (
        warnings.catch_warnings(),
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=50,
        ) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def scheduler():
    with cluster_of(2) as running:
        yield running


@pytest.fixture
def template(tmp_path):
    return load_template(str(write_template(tmp_path)))


@pytest.fixture
def cases(tmp_path, template):
    for name in CASES:
        make_case(tmp_path / "raw", name)
    return scan(tmp_path / "raw", template)


def tiny(tmp_path, name):
    return Target(tmp_path / name / DATASET, "train", DATASET)


def test_a_cluster_writes_what_one_machine_writes(cases, template, tmp_path, scheduler):
    here, there = tiny(tmp_path, "here"), tiny(tmp_path, "there")
    spoilt = spoil(cases, b="error", d="crash", e="hang")
    summary = convert(spoilt, template, there, dask=scheduler.scheduler_address, timeout=8)
    assert (summary.done, summary.failed) == (3, 3)
    codes = {line["case"]: line["code"] for line in ledger(there.folder, "failures.jsonl")}
    assert codes == {"b": "E_UNEXPECTED", "d": "E_CRASH", "e": "E_TIMEOUT"}
    assert all(worker.status == distributed.Status.running for worker in scheduler.workers.values())
    convert(spoilt, template, here, timeout=8)
    assert contents(there.folder) == contents(here.folder)
    again = convert(cases, template, there, dask=scheduler.scheduler_address)
    assert (again.done, again.skipped, again.failed) == (3, 3, 0)


def test_a_case_that_takes_its_worker_with_it_costs_itself(cases, template, tmp_path):
    target = tiny(tmp_path, "there")
    spoilt = spoil(cases, c="kill_worker")
    with cluster_of(2) as own:  # Dask does not replace a worker that is killed while it starts
        summary = convert(spoilt, template, target, dask=own.scheduler_address)
    assert (summary.done, summary.failed) == (5, 1)
    (failure,) = ledger(target.folder, "failures.jsonl")
    assert (failure["case"], failure["code"]) == ("c", "E_CRASH")
    assert failure["error"] == "each worker that converted it was lost: run again"


def test_more_cases_than_are_handed_over_at_once(cases, template, tmp_path, scheduler, monkeypatch):
    real = cluster._submit

    def one_ahead(client, jobs, timeout, ahead, watch):
        assert ahead in (256, 1)
        return real(client, jobs, timeout, 1, watch)

    monkeypatch.setattr(cluster, "_submit", one_ahead)
    there = tiny(tmp_path, "there")
    assert convert(cases, template, there, dask=scheduler.scheduler_address).done == 6


@pytest.fixture
def empty_scheduler():
    with cluster_of(0) as running:
        yield running


def test_no_worker_is_said_once_and_is_an_error_after_the_time_limit(
    cases, template, tmp_path, empty_scheduler, monkeypatch, caplog
):
    monkeypatch.setattr(cluster, "_ALONE", 1)
    address, target = empty_scheduler.scheduler_address, tiny(tmp_path, "there")
    with pytest.raises(ConfigError, match=r"has had no worker for [34] s: start one \(dask worker"):
        convert(cases, template, target, dask=address, timeout=3)
    said = [message for message in caplog.messages if "worker" in message]
    assert said == [
        f"the scheduler at {address} has no worker and waits: start one (dask worker {address})"
    ]


def test_workers_that_come_late_are_waited_for(cases, template, tmp_path, empty_scheduler):
    address, target = empty_scheduler.scheduler_address, tiny(tmp_path, "there")
    late = threading.Timer(3, empty_scheduler.scale, [1])
    late.start()
    assert convert(cases, template, target, dask=address).done == 6
    late.join()


def test_no_cluster_is_said_in_one_line(cases, template, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 1)
    target = tiny(tmp_path, "there")
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(ConfigError, match="no Dask scheduler answers at"):
            convert(cases, template, target, dask=address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'amae-nnunet\[dask\]'"):
        convert(cases, template, target, dask="tcp://127.0.0.1:9")
    assert convert(cases, template, target).done == 6


def test_paths_that_mean_something_here_only_are_refused(cases, template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="absolute paths, and here/"):
        convert(cases, template, Target(Path("here")), dask="tcp://127.0.0.1:9")
    near = scan(Path("raw"), template)
    with pytest.raises(ConfigError, match="absolute paths, and raw/a/T1.nii.gz is not"):
        convert(near, template, tiny(tmp_path, "there"), dask="tcp://127.0.0.1:9")


def test_workers_of_another_kind_are_refused(cases, template, tmp_path, scheduler, monkeypatch):
    address, target = scheduler.scheduler_address, tiny(tmp_path, "there")
    monkeypatch.setattr(cluster, "__version__", "9.9")
    with pytest.raises(ConfigError, match="workers of tcp://.* have amae-nnunet .*: install 9.9"):
        convert(cases, template, target, dask=address)
    monkeypatch.undo()
    monkeypatch.setattr(cluster, "_work_apart", misbehaving.work_elsewhere)
    with pytest.raises(ConfigError, match="--dask needs a file system that all machines share"):
        convert(cases, template, target, dask=address)
