"""Snakemake started, planned and taken up again: the lock of a checkout, what a crash left behind, and fingerprints."""

import ctypes
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from mtlib.errors import ConfigurationError, LockedError
from mtlib.training.files import RunLock, sweep, write_json

SCHEDULER = "MTLIB_SCHEDULER"
"""Environment variable of a job: the process that scheduled it, with which it ends."""

PR_SET_PDEATHSIG = 1
DRY = ("--dry-run", "--quiet", "host")
PATIENCE = 120.0
"""Seconds that jobs of a killed pipeline have to save and end."""


def lock(root: str | os.PathLike = ".") -> RunLock:
    """The lock of the pipeline that runs in `root`; the Snakefile holds it while jobs run."""
    (Path(root) / ".snakemake").mkdir(exist_ok=True)
    return RunLock(Path(root) / ".snakemake" / "pipeline.lock")


def snakemake(
    goal: str, settings: dict[str, str | int], jobs: int, threads: int, *more: str, profile: str = "default"
) -> int:
    """Run Snakemake in the current folder and return its exit code.

    goal: "run", "plan" (a dry run that says why), "resume" (unlock, sweep, run) or "report" (run, then collect
    `results/report.html`). settings: the Snakefile's configuration. jobs: how many at the same time, each with
    `threads` cores. more: options of Snakemake. profile: a folder of `profiles`, where the jobs run; "default" is
    this machine.
    Raises LockedError when a pipeline runs here, or was killed here and is not resumed; ConfigurationError without a
    Snakefile.
    """
    if not Path("Snakefile").is_file():
        raise ConfigurationError(f"{Path.cwd()}: expected a Snakefile; go to the project's root")
    if goal != "plan":
        require_alone(goal == "resume")
    width = ["--cores", str(jobs * threads)] if profile == "default" else ["--jobs", str(jobs)]
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", f"profiles/{profile}", *width]
    config = ["--config", f"threads={threads}", *(f"{key}={value}" for key, value in settings.items() if value)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}
    if goal == "resume":
        for line in tidy(str(settings.get("results") or "results")):
            print(line, flush=True)
        unlocking = [*command, "--unlock", *more, *config]
        if code := subprocess.run(unlocking, env=environment, stderr=subprocess.DEVNULL).returncode:
            return code
    if goal == "plan":
        done = subprocess.run([*command, *DRY, *more, *config], env=environment, capture_output=True, text=True)
        print("\n".join(planned(done.stdout)) or "nothing to be done", end="\n" if not done.returncode else done.stderr)
        return done.returncode
    sys.stdout.flush()
    targets = [*(["gallery"] if goal == "report" else []), *more]
    with subprocess.Popen([*command, *targets, *config], env=environment) as process:
        code = _awaited(process)
    if code or goal != "report":
        return code
    page = Path(settings.get("results") or "results") / "report.html"
    return subprocess.run([*command, *targets, "--report", str(page), *config], env=environment).returncode


def planned(text: str) -> Iterator[str]:
    """A line for each job of a dry run's output: the point or notebook, and why it would run."""
    for job in re.split(r"^(?:local)?rule ", text, flags=re.MULTILINE)[1:]:
        rule, found = job.partition(":")[0], dict(re.findall(r"^    (reason|wildcards): (.*)$", job, re.MULTILINE))
        if rule != "all":
            name = found.get("wildcards", rule).removeprefix("point=")
            yield f"{name:30} {found['reason']}"


def _awaited(process: subprocess.Popen) -> int:
    """Its exit code; Ctrl-C reaches it by itself, SIGTERM is handed on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    return process.wait()


def require_alone(resuming: bool = False) -> None:
    """Raise LockedError when a pipeline runs in this folder, or was killed here and is not being resumed."""
    with lock():
        pass
    if not resuming and any(Path(".snakemake/locks").glob("*.lock")):
        raise LockedError(
            f"{Path.cwd()}: an earlier pipeline was killed here, or one that mtlib did not start still runs; "
            "`make resume` goes on where it stopped (of a sweep: `mtlib sweep FILE --resume`)"
        )


def tidy(results: str | os.PathLike = "results") -> Iterator[str]:
    """Put in order what killed processes left below `results`; yields a line for each thing done.

    Jobs that outlived their scheduler get PATIENCE seconds to save. Runs and notebooks whose process is gone become
    "interrupted" (what a run left half done is its own to sweep, when it goes on); temporaries beside notebooks and
    markers go, and so do markers of points whose run is gone or not complete.
    Raises LockedError when such a job does not end.
    """
    orphans = list(_orphans())
    if orphans:
        yield f"waiting for {len(orphans)} jobs of the killed pipeline to save"
    if alive := psutil.wait_procs(orphans, timeout=PATIENCE)[1]:
        raise LockedError(f"processes {', '.join(str(each.pid) for each in alive)} of a killed pipeline still run")
    root = Path(results)
    for file in sorted([*root.glob("runs/*/status.json"), *root.glob("notebooks/*/*.status.json")]):
        if _mark_interrupted(file):
            yield f"interrupted: {file.parent.name if file.name == 'status.json' else file.name.split('.')[0]}"
    for folder in {*root.glob("points/*/"), *root.glob("notebooks/*/")}:
        sweep(folder)
    for running in root.glob("notebooks/*/*.running.ipynb"):
        if not _status(running.with_name(running.name.replace(".running.ipynb", ".status.json")), "running"):
            running.unlink()
    for marker in root.glob("points/*/*.json"):
        if not _status(root / "runs" / json.loads(marker.read_text())["run"] / "status.json", "complete"):
            marker.unlink()
            yield f"its run is gone: {marker}"


def _status(file: Path, status: str) -> bool:
    return file.is_file() and json.loads(file.read_text())["status"] == status


def _mark_interrupted(file: Path) -> bool:
    """Whether the status file said "running" of a process that is gone; it then says "interrupted"."""
    about = json.loads(file.read_text())
    here = about.get("host") == os.uname().nodename
    if about["status"] != "running" or not here or psutil.pid_exists(about["pid"]):
        return False
    write_json(file, about | {"status": "interrupted"})
    return True


def _orphans() -> Iterator[psutil.Process]:
    """Jobs of this folder whose scheduler is gone."""
    for process in psutil.process_iter():
        try:
            scheduler = process.environ().get(SCHEDULER)
            if scheduler and process.ppid() != int(scheduler) and process.cwd() == os.getcwd():
                if not psutil.pid_exists(int(scheduler)):
                    yield process
        except (psutil.Error, OSError):
            continue


def end_with(parent: int, number: int) -> None:
    """Have this process receive signal `number` once when `parent`, which started it, ends (on Linux).

    Linux sends the signal again for each thread of the parent that dies (prctl(2), PR_SET_PDEATHSIG), and a second
    SIGTERM would cut short what the first asked to finish. So the kernel sends SIGUSR2, whose handler hands on one
    `number`; SIGKILL is sent as it is.
    """
    if sys.platform != "linux":
        return

    once = iter([number])

    def hand_on(*_):
        for each in once:  # taken from the iterator by the first call, even when the second interrupts that one
            os.kill(os.getpid(), each)

    if number != signal.SIGKILL:
        signal.signal(signal.SIGUSR2, hand_on)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number if number == signal.SIGKILL else signal.SIGUSR2)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def fingerprint(part: str = "") -> str:
    """The first digits of the SHA-256 of the library's code, or of one part of it, such as "data"."""
    root = Path(__file__).parent
    content = hashlib.sha256()
    for file in sorted((root / part).rglob("*.py")):
        content.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return content.hexdigest()[:16]
