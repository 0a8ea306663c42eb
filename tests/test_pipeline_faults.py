"""Crashes of the pipeline: killed schedulers and jobs, two at once, a notebook that raises, a full disk."""

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
from pipelines import BASELINE, ROOT, command, environment, pipeline, preset_with, project, tables

from mtlib.errors import LockedError
from mtlib.pipeline import SCHEDULER, require_alone, tidy

CHANGED = BASELINE.replace("smoke-sample", "changed.yaml-sample")
LONGER = {"experiment.epochs": 3, "experiment.steps": 60}


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


def by_hand(folder: Path, preset: str) -> dict[str, str]:
    """The tables of 01_baseline, executed without the pipeline in `folder`; it trains what is missing."""
    given = ["-p", f"preset={preset}", "-p", f"figures=figures/{preset}-sample"]
    run = [sys.executable, "-m", "mtlib", "run", "01_baseline", *given]
    alone = environment(OMP_NUM_THREADS="1")
    subprocess.run(run, cwd=folder, env=alone, check=True, capture_output=True)
    return tables(folder)


@pytest.mark.timeout(900)
def test_a_killed_scheduler_takes_its_jobs_along_and_resume_gives_the_same_tables(tmp_path):
    folder, alone = project(tmp_path / "killed"), project(tmp_path / "alone")
    name = preset_with(folder, LONGER)
    shutil.copy(folder / name, alone)
    process = started(folder, CHANGED, preset=name)
    until(lambda: list(folder.glob("results/runs/*/history.csv")), "the end of a first epoch")
    for goal in ("run", "resume"):
        second = pipeline(folder, goal, CHANGED, preset=name)
        assert second.returncode == 75, second.stderr
        assert f"held by process {scheduler_of(process).pid}" in second.stderr
    jobs = scheduler_of(process).children(recursive=True)
    killed(process)
    assert not psutil.wait_procs(jobs, timeout=60)[1], "a job has outlived its scheduler"
    status = json.loads(next(folder.glob("results/runs/*/status.json")).read_text())
    assert status["status"] == "interrupted" and status["step"] >= 60
    refused = pipeline(folder, "run", CHANGED, preset=name)
    assert refused.returncode == 75 and "`make resume` goes on" in refused.stderr
    resumed = pipeline(folder, "resume", CHANGED, preset=name)
    assert resumed.returncode == 0, resumed.stderr
    assert tables(folder) == by_hand(alone, name) != {}


SCHEDULING = """
import subprocess, sys, threading
for file in sys.argv[2:]:
    threading.Thread(target=subprocess.run, args=([sys.executable, "-c", sys.argv[1], file],)).start()
"""
SCHEDULED = """
import os, pathlib, signal, sys, time
from mtlib.pipeline import end_with
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
    elsewhere = written("runs/c-3/status.json", status="running", **gone | {"host": "another"})
    complete = written("runs/d-4/status.json", status="complete", **gone)
    temporary = written(f"points/s/.tmp-{gone['pid']}-a.json")
    stage = written("notebooks/s/x.status.json", status="running", **gone)
    running = written("notebooks/s/x.running.ipynb")
    written("notebooks/s/y.status.json", status="running", **here)
    kept = written("notebooks/s/y.running.ipynb")
    good, bad = written("points/s/d.json", run="d-4"), written("points/s/a.json", run="a-1")
    lines = "\n".join(tidy())
    assert "interrupted: a-1" in lines and "interrupted: x" in lines and "points/s/a.json" in lines
    found = [json.loads(file.read_text())["status"] for file in (dead, live, elsewhere, complete, stage)]
    assert found == ["interrupted", "running", "running", "complete", "interrupted"]
    assert [file.exists() for file in (temporary, running, kept, good, bad)] == [False, False, True, True, False]
    assert list(tidy()) == []


def test_a_job_that_outlives_its_scheduler_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtlib.pipeline.PATIENCE", 0.2)
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
    require_alone()
    (tmp_path / ".snakemake" / "locks").mkdir()
    (tmp_path / ".snakemake" / "locks" / "0.output.lock").write_text("x")
    with pytest.raises(LockedError, match="make resume"):
        require_alone()
    require_alone(resuming=True)


@pytest.mark.slow
def test_a_notebook_that_raises_fails_its_branch_only(tmp_path):
    folder = project(tmp_path / "p", "notebooks")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    broken = nbformat.read(folder / "notebooks" / "00_data.ipynb", as_version=4)
    broken.cells[2:2] = [nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(broken, folder / "notebooks" / "00_data.ipynb")
    sibling, failing = folder / BASELINE, BASELINE.replace("01_baseline", "00_data")
    done = pipeline(folder, "run", failing, BASELINE)
    assert done.returncode != 0
    assert sibling.is_file() and not (folder / failing).exists()
    failed = failing.replace(".ipynb", ".failed.ipynb")
    assert (folder / failed).is_file()
    assert f"failed: {failed}" in done.stdout and "ZeroDivisionError" in done.stderr
    shutil.copy(ROOT / "notebooks" / "00_data.ipynb", folder / "notebooks")
    resumed = pipeline(folder, "resume", failing, BASELINE)
    assert resumed.returncode == 0, resumed.stderr
    assert not (folder / failed).exists() and "01_baseline |" not in resumed.stdout


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
    folder = project(tmp_path / "p")
    (folder / "results").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL, "sh", *command("run", BASELINE)],
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
    """The tables of a whole smoke pipeline that nothing disturbed, one job at a time."""
    folder = project(tmp_path_factory.mktemp("reference") / "p")
    done = pipeline(folder, "run")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_notebooks_only_gather_what_the_points_trained(reference):
    from mtlib.study.plan import Plan

    points = Plan("smoke").points
    assert len(list((reference / "results" / "points" / "smoke-sample").glob("*.json"))) == len(points)
    assert len(list((reference / "results" / "runs").iterdir())) == len(points)
    assert "nothing to be done" in pipeline(reference, "plan").stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_results_do_not_depend_on_how_many_jobs_ran(reference, tmp_path):
    folder = project(tmp_path / "p")
    done = pipeline(folder, "run", jobs=2)
    assert done.returncode == 0, done.stderr
    assert tables(folder) == tables(reference) != {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_of_schedulers_and_of_a_training_job_leave_no_trace_in_the_tables(reference, tmp_path):
    folder = project(tmp_path / "p")

    process = started(folder)
    holders: list[Path] = []
    until(lambda: holders or holders.extend(folder.glob("results/runs/*/lock.holder")), "a job that trains")
    os.kill(json.loads(holders[0].read_text())["pid"], signal.SIGKILL)
    until(lambda: len(list(folder.glob("results/points/*/*.json"))) >= 4, "four points")
    killed(process)
    process = subprocess.Popen(command("resume"), cwd=folder, env=environment())
    running = folder / "results/notebooks/smoke-sample/06_ensemble.running.ipynb"
    until(running.exists, "06_ensemble to begin", 1800)
    killed(process)
    done = pipeline(folder, "resume")
    assert done.returncode == 0, done.stderr
    assert tables(folder) == tables(reference)
