"""Running, planning and resuming Snakemake: the lock of a checkout, cleaning up after a crash, and fingerprints."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from mtlib.checking import nearest
from mtlib.data.corpus import TITLES, load_corpus
from mtlib.errors import ConfigurationError, LockedError
from mtlib.identity import sha256
from mtlib.training.files import RunLock, is_gone, lives, make_folder, storage, sweep, write_json
from mtlib.training.progress import say, tracker_asked_for
from mtlib.workbook.gallery import open_on_results
from mtlib.workbook.plan import Plan
from mtlib.workbook.processes import SCHEDULER
from mtlib.workbook.watch import EVENTS, Watch

DRY = ("--dry-run", "--quiet", "host")
LOOK = 0.5
"""Seconds between two looks at what a pipeline does."""

PATIENCE = 120.0
"""Seconds that jobs of a killed pipeline have to save and end."""


def lock(root: str | os.PathLike = ".") -> RunLock:
    """The lock of the pipeline that runs in `root`; the Snakefile holds it while jobs run."""
    (Path(root) / ".snakemake").mkdir(exist_ok=True)
    return RunLock(Path(root) / ".snakemake" / "pipeline.lock")


def prepare(goal: str, plan: Plan, results: str | Path, figures: str | Path, again: str) -> Path:
    """Read the corpus of a plan once, and write what is to be done; the file's path. "resume" tidies up before that.

    goal: as in `snakemake`; a dry run's plan has a file of its own, for another may be running. again: the command that
    goes on after a crash.
    Raises LockedError when a pipeline runs here, or was killed here and is not resumed; ConfigurationError for a place
    that Snakemake would take for a pattern; what reading the corpus raises.
    """
    tracker_asked_for()
    _expect_no_patterns(results=results, figures=figures, corpus=plan.corpus)
    if goal != "plan":
        require_alone(again, goal == "resume")
    if goal == "resume":
        for line in tidy(results):
            print(line, flush=True)
    path = Path(results) / "plans" / f"{plan.name}{'.dry' if goal == 'plan' else ''}.json"
    return plan.write(path, figures, content(plan), results=str(results), code=fingerprint(), again=again)


def content(plan: Plan) -> str:
    """Fingerprint of what a plan's runs are trained on: corpus, phrases where one draws them, encoders in folders."""
    from mtlib.data.phrases import with_phrases
    from mtlib.encoders import find_encoder

    experiments = list(plan.experiments.values())
    folders = sorted({each.encoder for each in experiments if os.path.isdir(each.encoder)})
    found = [find_encoder(folder).fingerprint for folder in folders]
    if plan.corpus in TITLES:
        return sha256([fingerprint("data"), *found])
    corpus = load_corpus(plan.corpus, plan.basis.tasks)
    drawn = any(getattr(each, "phrases", 0) for each in experiments)
    return sha256([(with_phrases(corpus) if drawn else corpus).fingerprint, *found])


def _expect_no_patterns(**places: str | Path) -> None:
    for name, place in places.items():
        if {*"{}"} & {*str(place)}:
            raise ConfigurationError(f"{name} {str(place)!r}: expected a path without braces, which Snakemake fills in")


def snakemake(goal: str, plan: Path, jobs: int, threads: int, *more: str, profile: str = "default") -> int:
    """Run Snakemake in the current folder and return its exit code.

    goal: "run", "plan" (a dry run that says why), "resume" (unlock, run) or "report" (run, then collect
    `results/report.html`). plan: the file that `prepare` wrote. jobs: how many at the same time, each with
    `threads` cores; 0 is what fits this machine, elsewhere as many jobs as the profile says. more: options of
    Snakemake. profile: a folder of `profiles`, where the jobs run; "default" is this machine.
    """
    about = json.loads(plan.read_text())
    threads = threads or cores_of_a_job(about["corpus"])
    if profile == "default":
        width = ["--cores", str((jobs or max(1, (os.cpu_count() or 1) // threads)) * threads)]
    else:
        width = ["--jobs", str(jobs)] if jobs else []
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", f"profiles/{profile}", *width]
    config = ["--config", f"threads={threads}", f"plan={json.dumps([str(plan)])}"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}
    if goal == "resume":
        unlocking = [*command, "--unlock", *more, *config]
        if code := subprocess.run(unlocking, env=environment, stderr=subprocess.DEVNULL).returncode:
            return code
    if goal == "plan":
        done = subprocess.run([*command, *DRY, *more, *config], env=environment, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout + done.stderr, end="", file=sys.stderr)  # a dry run's errors are on stdout
        else:
            print("\n".join(planned(done.stdout)) or "nothing to be done")
        return done.returncode
    targets = [*(["gallery"] if goal == "report" else []), *more]
    page = Path(about["results"]) / "report.html"
    events, printed = _logs(about["name"])
    with open(printed, "ab" if goal == "resume" else "wb") as log:
        watch = Watch(about, events, printed)
        watched = environment | {EVENTS: str(events.absolute())}
        with subprocess.Popen([*command, *targets, *config], env=watched, stdout=log, stderr=log) as process:
            code = _awaited(process, watch)
        if goal == "report" and not code:
            drawing = [*command, *targets, "--report", str(page), *config]
            code = subprocess.run(drawing, env=environment, stdout=log, stderr=log).returncode
    if goal == "report" and not code:
        open_on_results(page)
    watch.end(code)
    if goal == "report" and not code:
        say(f"  report     {page}")
    return code


def _logs(name: str) -> tuple[Path, Path]:
    """Where a plan's events and all that its scheduler and jobs print go: not below results, whose disk may be full."""
    folder = Path(".snakemake/log")
    with storage("create", folder):
        make_folder(folder)
        events = folder / f"{name}.events"
        events.unlink(missing_ok=True)
    return events, folder / f"{name}.log"


def cores_of_a_job(corpus: str) -> int:
    """How many cores a job uses unless it is said: at most 4, and of the generated corpus half of the machine's.

    Runs on that are so short that starting them takes longer than training: two at a time are faster.
    """
    return min(4, max(1, (os.cpu_count() or 1) // (2 if corpus == "sample" else 1)))


def require_project(profile: str = "default") -> None:
    """Raise ConfigurationError unless the current folder has a Snakefile, and the profile is there."""
    if not Path("Snakefile").is_file():
        raise ConfigurationError(f"{Path.cwd()}: expected a Snakefile; go to the project's root")
    known = sorted(path.parent.name for path in Path("profiles").glob("*/config.yaml"))
    if profile not in known:
        raise ConfigurationError(f"unknown profile {profile!r}{nearest(profile, known)}")


REASONS = {
    "Missing output files": "not there yet",
    "Input files updated by another job": "its runs are trained first",
    "Updated input files": "notebook or runs are newer",
    "Set of input files has changed": "it shows other runs",
    "Params have changed": "parameters, data or library changed",
    "Code has changed": "the job's command changed",
    "Forced": "asked for",
}
"""Snakemake's reasons, and how a plan says them."""


def planned(text: str) -> Iterator[str]:
    """A line for each job of a dry run's output, its name and why it would run; and one that counts them."""
    counts = {"trains": 0, "executes": 0}
    for job in re.split(r"^(?:local)?rule ", text, flags=re.MULTILINE)[1:]:
        rule, notes = job.partition(":")[0], dict(re.findall(r"^    (reason|wildcards): (.*)$", job, re.MULTILINE))
        if rule not in ("all", "collect", "gallery"):
            kind, _, name = rule.partition("_")
            verb = "trains" if kind == "train" else "executes"
            counts[verb] += 1
            reasons = [said for reason, said in REASONS.items() if reason in notes.get("reason", "")]
            yield f"{name:40} {verb:8}; {', '.join(reasons) or notes.get('reason', '')[:60]}"
    if any(counts.values()):
        yield f"in all: {counts['trains']} jobs that train, {counts['executes']} notebooks"


def _awaited(process: subprocess.Popen, watch: Watch) -> int:
    """Its exit code, watched until then.

    Ctrl-C reaches it and its jobs by itself, SIGTERM is handed on to both: it would wait for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    received: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        received.append(number)
        process.send_signal(number)
        for job, scheduler in _jobs():
            if scheduler == process.pid:
                job.send_signal(number)

    signal.signal(signal.SIGTERM, hand_on)
    while process.poll() is None:
        watch.look()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
    code = process.returncode
    return 128 + received[0] if received and code else code


def require_alone(again: str, resuming: bool = False) -> None:
    """Raise LockedError when a pipeline runs in this folder, or was killed here and is not being resumed.

    again: the command that resumes.
    """
    with lock():
        pass
    if not resuming and any(Path(".snakemake/locks").glob("*.lock")):
        raise LockedError(
            f"{Path.cwd()}: an earlier pipeline was killed here, or one that mtlib did not start still runs; "
            f"`{again}` goes on where it stopped"
        )


def tidy(results: str | os.PathLike = "results") -> Iterator[str]:
    """Clean up what killed processes left below `results`; yields a line for each thing done.

    Jobs that outlived their scheduler get PATIENCE seconds to save. Runs and notebooks whose process is gone become
    "interrupted" (what a run left half done is its own to sweep, when it goes on); temporaries beside notebooks and
    plans go, and so do marks of runs that are gone or not complete.
    Raises LockedError when such a job does not end.
    """
    if orphans := _orphans():
        yield f"waiting for {len(orphans)} jobs of the killed pipeline to save"
    if alive := psutil.wait_procs(orphans, timeout=PATIENCE)[1]:
        raise LockedError(f"processes {', '.join(str(each.pid) for each in alive)} of a killed pipeline still run")
    root = Path(results)
    for file in sorted([*root.glob("runs/*/status.json"), *root.glob("notebooks/*/*.status.json")]):
        if _mark_interrupted(file):
            yield f"interrupted: {file.parent.name if file.name == 'status.json' else file.name.split('.')[0]}"
    for folder in {*root.glob("plans/*/"), *root.glob("notebooks/*/")}:
        sweep(folder)
    for running in root.glob("notebooks/*/*.running.ipynb"):
        if not _status(running.with_name(running.name.replace(".running.ipynb", ".status.json")), "running"):
            running.unlink()
    for mark in root.glob("plans/*/*.done"):
        if not _status(root / "runs" / str(_read(mark).get("run")) / "status.json", "complete"):
            mark.unlink()
            yield f"its run is gone: {mark}"


def _status(file: Path, status: str) -> bool:
    return file.is_file() and _read(file).get("status") == status


def _read(file: Path) -> dict:
    """The JSON object in a file; an empty one if the file is damaged, which then counts as no status at all."""
    with suppress(OSError, ValueError, RecursionError):
        if isinstance(content := json.loads(file.read_bytes()), dict):
            return content
    return {}


def _mark_interrupted(file: Path) -> bool:
    """Mark a status file "interrupted" if it says "running" but its process is gone; whether it was marked."""
    about = _read(file)
    if about.get("status") != "running" or not is_gone(about):
        return False
    write_json(file, about | {"status": "interrupted"})
    return True


def _orphans() -> list[psutil.Process]:
    """Jobs of this folder whose scheduler is gone."""
    return [job for job, scheduler in _jobs() if not lives(scheduler)]


def _jobs() -> Iterator[tuple[psutil.Process, int]]:
    """Processes in this folder that a scheduler started, with its number."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, ValueError):
            scheduler = process.environ().get(SCHEDULER)
            if scheduler and process.cwd() == os.getcwd():
                yield process, int(scheduler)


def fingerprint(part: str = "") -> str:
    """The first digits of the SHA-256 of the library's code, or of one part of it, such as "data"."""
    root = Path(__file__).parents[1]
    content = hashlib.sha256()
    for file in sorted(path for path in (root / part).rglob("*") if path.suffix in (".py", ".txt", ".ipynb")):
        content.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return content.hexdigest()[:16]
