"""Crashes of the pipeline: killed schedulers and jobs, two at once, a notebook that raises, a full disk."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from pipelines import (
    command,
    environment,
    executed,
    pipeline,
    planned,
    project,
    tables,
    trains,
    write_preset,
)
from typer.testing import CliRunner

from mtlib.cli import app
from mtlib.errors import LockedError
from mtlib.workbook.pipeline import require_alone, tidy
from mtlib.workbook.processes import SCHEDULER

FIRST, SECOND = executed("01_first"), executed("02_second")
LONGER = {"dial": 0.01}
"""200 steps in five epochs: seconds, in one job with what starts from it."""

ONE_RUN = 'runs = {"plain": study.experiment()}'


def started(folder: Path, *targets: str, **options) -> subprocess.Popen:
    """The pipeline, running in `folder`; its output goes to `log` there."""
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            command("run", *targets, **options), cwd=folder, env=environment(), stdout=log, stderr=log
        )


def until(condition, what: str, seconds: float = 200) -> None:
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def scheduler_of(process: subprocess.Popen) -> psutil.Process:
    """The Snakemake that `mtlib pipeline` started."""
    return next(child for child in psutil.Process(process.pid).children() if "snakemake" in " ".join(child.cmdline()))


def killed(process: subprocess.Popen) -> None:
    """SIGKILL to the scheduler, then to the command around it."""
    scheduler_of(process).kill()
    process.kill()
    process.wait()


def by_hand(folder: Path) -> dict[str, str]:
    """The tables of 01_first, its cells executed in this process with `folder` as the current one."""
    cells = nbformat.read(folder / "notebooks" / "01_first.ipynb", 4).cells
    with contextlib.chdir(folder):
        exec("\n".join(cell.source for cell in cells if cell.metadata.tags != ["check"]), {})
    return tables(folder)


def of_one_run(folder: Path) -> Path:
    """The project with one longer run in 01_first."""
    project(folder)
    trains(folder / "notebooks" / "01_first.ipynb", ONE_RUN)
    write_preset(folder, **LONGER)
    return folder


def statuses(folder: Path) -> dict[str, str]:
    """The status of every run below `folder`, by its name."""
    files = folder.glob("results/runs/*/status.json")
    return {file.parent.name.rpartition("-")[0]: json.loads(file.read_text())["status"] for file in files}


@pytest.mark.timeout(900)
def test_a_killed_scheduler_takes_its_jobs_along_and_resume_gives_the_same_tables(tmp_path, monkeypatch):
    folder, alone = of_one_run(tmp_path / "killed"), of_one_run(tmp_path / "alone")
    process = started(folder, FIRST)
    until(lambda: list(folder.glob("results/runs/*/history.csv")), "the end of a first epoch")
    monkeypatch.chdir(folder)
    for resuming in (False, True):
        with pytest.raises(LockedError, match=f"held by process {scheduler_of(process).pid}"):
            require_alone("again", resuming)
    jobs = scheduler_of(process).children(recursive=True)
    killed(process)
    assert not psutil.wait_procs(jobs, timeout=60)[1], "a job has outlived its scheduler"
    assert list(statuses(folder).values()) == ["interrupted"]
    refused = CliRunner().invoke(app, command("run", FIRST)[3:])
    assert refused.exit_code == 75
    assert f"`mtlib pipeline resume --preset=mine.yaml --jobs=1 --threads=1 -- {FIRST}` goes on" in refused.stderr
    pipeline(folder, "resume", FIRST)
    assert tables(folder) == by_hand(alone) != {}


@pytest.mark.timeout(900)
def test_sigterm_ends_the_pipeline_and_its_jobs_with_143_and_leaves_no_lock(tmp_path, monkeypatch):
    folder = of_one_run(tmp_path)
    process = started(folder, FIRST)
    until(lambda: list(folder.glob("results/runs/*/history.csv")), "the end of a first epoch")
    process.terminate()
    assert process.wait(120) == 143
    assert list(statuses(folder).values()) == ["interrupted"]
    monkeypatch.chdir(folder)
    require_alone("again")
    log = (folder / "log").read_text()
    assert "`mtlib pipeline resume --preset=mine.yaml --jobs=1 --threads=1 -- " in log and "Traceback" not in log


SCHEDULING = """
import subprocess, sys, threading
for file in sys.argv[2:]:
    threading.Thread(target=subprocess.run, args=([sys.executable, "-c", sys.argv[1], file],)).start()
"""
SCHEDULED = """
import os, pathlib, signal, sys, time
from mtlib.workbook.processes import end_with
signals = []
signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
end_with(os.getppid(), signal.SIGTERM)
print(flush=True)
while not signals:
    time.sleep(0.01)
time.sleep(0.5)
pathlib.Path(sys.argv[1]).write_text(str(signals))
"""


def test_a_job_receives_one_signal_however_many_threads_its_scheduler_had(tmp_path):
    files = [tmp_path / str(number) for number in range(8)]
    starting = [sys.executable, "-c", SCHEDULING, SCHEDULED, *map(str, files)]
    with subprocess.Popen(starting, env=environment(), stdout=subprocess.PIPE) as scheduler:
        for _ in files:
            scheduler.stdout.readline()
        scheduler.kill()
    until(lambda: all(file.is_file() and file.read_text() for file in files), "every job's count")
    assert [file.read_text() for file in files] == [f"[{int(signal.SIGTERM)}]"] * len(files)


def test_resume_puts_in_order_what_dead_processes_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gone, here = {"pid": 2**22 + 1, "host": os.uname().nodename}, {"pid": os.getpid(), "host": os.uname().nodename}

    def written(path: str, **about) -> Path:
        file = tmp_path / "results" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(about))
        return file

    dead = written("runs/a-1/status.json", status="running", **gone)
    live = written("runs/b-2/status.json", status="running", **here)
    reused = written("runs/e-5/status.json", status="running", started=0.0, **here)
    elsewhere = written("runs/c-3/status.json", status="running", **gone | {"host": "another"})
    complete = written("runs/d-4/status.json", status="complete", **gone)
    temporary = written(f"plans/s/.tmp-{gone['pid']}-a.json")
    stage = written("notebooks/s/x.status.json", status="running", **gone)
    running = written("notebooks/s/x.running.ipynb")
    written("notebooks/s/y.status.json", status="running", **here)
    kept = written("notebooks/s/y.running.ipynb")
    good, bad = written("plans/s/d.done", run="d-4"), written("plans/s/a.done", run="a-1")
    experiment = written("plans/s/a.json", run="a-1")
    damaged, lost = written("plans/s/b.done"), written("plans/s/c.done", run="../../etc")
    damaged.write_bytes(b"\xff")
    lines = "\n".join(tidy())
    assert "interrupted: a-1" in lines and "interrupted: x" in lines and "plans/s/a.done" in lines
    found = [json.loads(file.read_text())["status"] for file in (dead, live, reused, elsewhere, complete, stage)]
    assert found == ["interrupted", "running", "interrupted", "running", "complete", "interrupted"]
    assert [file.exists() for file in (temporary, running, kept, good, bad)] == [False, False, True, True, False]
    assert [file.exists() for file in (experiment, damaged, lost)] == [True, False, False]
    assert list(tidy()) == []


def test_a_job_that_outlives_its_scheduler_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtlib.workbook.pipeline.PATIENCE", 0.2)
    code = "import time; print(flush=True); time.sleep(60)"
    of_dead = os.environ | {SCHEDULER: str(2**22 + 1)}
    with subprocess.Popen([sys.executable, "-c", code], env=of_dead, stdout=subprocess.PIPE) as job:
        job.stdout.readline()
        try:
            with pytest.raises(LockedError, match=str(job.pid)):
                list(tidy())
        finally:
            job.kill()
    assert list(tidy()) == []


def test_locks_that_nobody_holds_are_only_taken_over_by_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_alone("again")
    (tmp_path / ".snakemake" / "locks").mkdir()
    (tmp_path / ".snakemake" / "locks" / "0.output.lock").write_text("x")
    with pytest.raises(LockedError, match="`make resume` goes on"):
        require_alone("make resume")
    require_alone("make resume", resuming=True)


@pytest.mark.slow
def test_a_notebook_that_raises_fails_its_branch_only(tmp_path):
    folder = project(tmp_path)
    second = folder / "notebooks" / "02_second.ipynb"
    whole = second.read_bytes()
    second.write_bytes(whole.replace(b"study.save(runs", b"1 / 0; study.save(runs"))
    done = pipeline(folder, "run", code=None)
    assert done.returncode not in (0, 143)
    assert (folder / FIRST).is_file() and not (folder / SECOND).exists()
    failed = SECOND.replace(".ipynb", ".failed.ipynb")
    assert f"failed: {failed}" in done.stdout and "ZeroDivisionError" in done.stderr and (folder / failed).is_file()
    second.write_bytes(whole)
    assert planned(folder) == {"trains": set(), "executes": {"02_second"}}
    resumed = pipeline(folder, "resume")
    assert not (folder / failed).exists() and "01_first |" not in resumed.stdout


FULL = """
mount -t tmpfs -o size=2m tmpfs results && "$@"
echo code $?
grep -h status results/runs/*/status.json
mount -o remount,size=200m results
shift 5
"$PYTHON" -m mtlib pipeline resume "$@"
"""


@pytest.mark.slow
def test_a_full_disk_ends_in_a_message_and_a_state_to_resume_from(tmp_path):
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this kernel gives no mount namespaces to users")
    folder = project(tmp_path)
    (folder / "results").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL, "sh", *command("run", FIRST)],
        cwd=folder,
        env=environment(PYTHON=sys.executable),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert "code 1" in done.stdout and '"status": "complete"' not in done.stdout.partition("code 1")[2][:200]
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A whole pipeline that nothing disturbed, one job at a time."""
    folder = larger(tmp_path_factory.mktemp("reference"))
    pipeline(folder, "run")
    return folder


def larger(folder: Path) -> Path:
    """The project with a notebook that shows what both others trained."""
    project(folder)
    trains(folder / "notebooks" / "03_all.ipynb", "runs = runs_of(study)")
    write_preset(folder, **LONGER)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_notebooks_only_gather_what_the_jobs_trained(reference):
    marks = list((reference / "results" / "plans" / "mine-sample").glob("*.done"))
    runs = {path.name for path in (reference / "results" / "runs").iterdir()}
    assert {json.loads(mark.read_text())["run"] for mark in marks} == runs and len(runs) == 4
    assert planned(reference) == {"trains": set(), "executes": set()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_results_do_not_depend_on_how_many_jobs_ran(reference, tmp_path):
    folder = larger(tmp_path / "p")
    pipeline(folder, "run", jobs=2)
    assert tables(folder) == tables(reference) != {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_of_schedulers_and_of_a_training_job_leave_no_trace_in_the_tables(reference, tmp_path):
    folder = larger(tmp_path / "p")
    process = started(folder)
    holders: list[Path] = []
    until(lambda: holders or holders.extend(folder.glob("results/runs/*/lock.holder")), "a job that trains")
    os.kill(json.loads(holders[0].read_text())["pid"], signal.SIGKILL)
    until(lambda: process.poll() is not None or list(folder.glob("results/plans/*/*.done")), "a finished run")
    if process.poll() is None:
        killed(process)
    process = subprocess.Popen(command("resume"), cwd=folder, env=environment())
    until(lambda: list(folder.glob("results/notebooks/*/*.running.ipynb")), "a notebook that runs")
    killed(process)
    pipeline(folder, "resume")
    assert tables(folder) == tables(reference)


@pytest.mark.slow
def test_a_run_whose_folder_is_gone_is_trained_again_by_resume(tmp_path):
    folder = project(tmp_path)
    pipeline(folder, "run", SECOND)
    before = tables(folder)
    for gone in folder.glob("results/runs/annealed-*"):
        shutil.rmtree(gone)
    (folder / SECOND).unlink()
    pipeline(folder, "resume", SECOND)
    assert tables(folder) == before and "annealed" in statuses(folder)


@pytest.mark.slow
def test_the_report_shows_tables_and_where_they_come_from(tmp_path):
    folder = project(tmp_path)
    pipeline(folder, "report")
    page = (folder / "results" / "report.html").read_text()
    assert "scores_01_first" in page and "02_second" in page
    shown = folder / "results" / "report" / "mine-sample" / "01_first" / "scores_01_first.html"
    assert "evenness" in shown.read_text()
