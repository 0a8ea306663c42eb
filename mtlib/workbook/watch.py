"""What a pipeline says while it runs: how many jobs of how many, what is running, and how long it will take.

Snakemake's own messages, and all that its jobs print, are in a log. What happens reaches this process as events of
Snakemake's logger, one JSON object a line.
"""

import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from mtlib.training.progress import EPOCH, duration, say

EVENTS = "MTLIB_EVENTS"
"""Environment variable of a scheduler: the file that its events go to."""

VERBS = {
    "train": ("training", "trained"),
    "notebook": ("executing", "executed"),
    "collect": ("collecting", "collected"),
}
"""What a rule does, by the first word of its name: while it runs, and when it has."""

CLUSTER = ".snakemake/slurm_logs"
"""Where what jobs of a cluster print is."""

NOTEBOOK = 20.0
"""Seconds that a notebook is taken to need as long as none has finished, here or before."""

QUIET = 600.0
"""Seconds after which a log without a new line gets one, though no job has ended."""


class Events(logging.Handler):
    """Hands on what Snakemake's logger says of jobs; added by the Snakefile in the scheduler's own process."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record, if it tells of a job, to the file."""
        given = vars(record)
        about: dict[str, Any] = {"event": str(given.get("event", ""))}
        match about["event"]:
            case "run_info":
                about["stats"] = given["stats"]
            case "job_info":
                about |= {
                    "job": given["jobid"],
                    "rule": given["rule_name"],
                    "stage": dict(given["wildcards"]).get("stage"),
                }
            case "job_finished":
                about["job"] = given["job_id"]
            case "job_error":
                about["job"] = given["jobid"]
            case _:
                return
        with open(self.path, "a") as file:
            file.write(json.dumps(about) + "\n")


@dataclass
class Job:
    """A job that runs or has ended. name: of a run or a notebook. epochs: how far each of its runs is, by label."""

    kind: str
    name: str
    begun: float
    ended: float = 0.0
    failed: bool = False
    epochs: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.ended or time.monotonic()) - self.begun


def time_left(
    plan: Mapping[str, Any], expected: Mapping[str, int], jobs: list[Job], notebooks: Mapping[str, float]
) -> float | None:
    """Seconds until all jobs of a plan are done, roughly; None as long as there is nothing to tell by.

    Training takes in proportion to a job's `work` (its steps, and passes a step), at the speed of what was trained so
    far; a notebook as long as it took before, `notebooks`, or else as the others did. expected: jobs that are to run,
    by rule. As many are taken to run at the same time as did so far, on average.
    """
    work = {name: job["work"] for name, job in plan["jobs"].items() if f"train_{name}" in expected}
    trained = [job for job in jobs if job.kind == "train" and not job.failed and job.name in work]
    shares = {job.name: 1.0 if job.ended else _share(job, plan["jobs"][job.name]) for job in trained}
    done = sum(work[name] * share for name, share in shares.items())
    left = sum(each * (1 - shares.get(name, 0)) for name, each in work.items())
    if left and not done:
        return None
    seconds = left * sum(job.seconds for job in trained if shares[job.name]) / done if left else 0.0
    own = {job.name: job for job in jobs if job.kind == "notebook"}
    took = [job.seconds for job in own.values() if job.ended and not job.failed]
    usual = sum(took) / len(took) if took else NOTEBOOK
    waiting = [name for name in plan["stages"] if f"notebook_{name}" in expected and name not in own]
    seconds += sum(notebooks.get(name, usual) for name in waiting)
    seconds += sum(max(0, notebooks.get(name, usual) - job.seconds) for name, job in own.items() if not job.ended)
    elapsed = time.monotonic() - min((job.begun for job in jobs), default=0.0)
    return seconds / max(1.0, sum(job.seconds for job in jobs) / (elapsed or 1.0))


def _share(job: Job, planned: Mapping[str, Any]) -> float:
    """The part of a training job that is done, by the epochs of its runs."""
    labels = planned["labels"]
    return sum(done / of for label, (done, of) in job.epochs.items() if label in labels) / len(labels)


class Watch:
    """Follows a scheduler by its events and its log, and shows a line that overwrites itself, or one a finished job.

    plan: as the Snakefile reads it. log: where scheduler and jobs print. Lines of the log before `log`'s present end
    are another pipeline's.
    """

    def __init__(self, plan: Mapping[str, Any], events: Path, log: Path, out: TextIO | None = None):
        self.plan, self.out = plan, out or sys.stderr
        self.live = self.out.isatty() and os.environ.get("TERM") != "dumb"
        self.jobs: dict[int, Job] = {}
        self.expected: dict[str, int] = {}
        self.begun = self.said = time.monotonic()
        self.clock = time.time()
        self.log, self.log_begins = log, log.stat().st_size if log.exists() else 0
        self._events, self._lines = Tail(events), Tail(log, self.log_begins)
        folder = Path(plan["results"]) / "notebooks" / plan["name"]
        self.notebooks = {stage: took for stage in plan["stages"] if (took := _took(folder / f"{stage}.status.json"))}

    @property
    def total(self) -> int:
        """Jobs that this pipeline has, the ones that have ended among them."""
        return sum(count for rule, count in self.expected.items() if rule.partition("_")[0] in VERBS)

    def look(self) -> None:
        """Read what is new, and show it."""
        for line in self._lines:
            if found := EPOCH.match(line):
                self._epoch(found["name"], int(found["done"]), int(found["of"]))
        for line in self._events:
            self._event(json.loads(line))
        if self.live and self.total:
            width = shutil.get_terminal_size().columns - 1
            self.out.write(f"\r{self.line()[:width]}\x1b[K")
            self.out.flush()
        elif self.total and time.monotonic() - self.said > QUIET:
            self._say(self.line())

    def line(self) -> str:
        """What is done, what runs, and how long the rest will take."""
        running = [job for job in self.jobs.values() if not job.ended]
        shown = ", ".join(_shown(job) for job in running[:2]) + (f" and {len(running) - 2} more" if running[2:] else "")
        done = sum(bool(job.ended) for job in self.jobs.values())
        parts = [f"{done} of {self.total} jobs done", shown, duration(time.monotonic() - self.begun), self.left()]
        return " · ".join(filter(None, parts))

    def left(self) -> str:
        """ "about 12 min left", or nothing while that cannot be told."""
        seconds = time_left(self.plan, self.expected, list(self.jobs.values()), self.notebooks)
        return f"about {duration(seconds)} left" if seconds else ""

    def _event(self, about: dict[str, Any]) -> None:
        if about["event"] == "run_info":
            self.expected = dict(about["stats"])
        elif about["event"] == "job_info":
            kind, _, name = about["rule"].partition("_")
            if kind in VERBS:
                self.jobs[about["job"]] = Job(kind, name or about["stage"], time.monotonic())
        elif job := self.jobs.get(about["job"]):
            job.ended, job.failed = time.monotonic(), about["event"] == "job_error"
            done = sum(bool(each.ended) for each in self.jobs.values())
            if job.failed:
                self._say(f"job {done} of {self.total}: {job.name} failed")
            elif not self.live:
                left = self.left()
                took = f"{VERBS[job.kind][1]} {job.name} in {duration(job.seconds)}"
                self._say(f"job {done} of {self.total}: {took}{'; ' * bool(left)}{left}")

    def _epoch(self, label: str, done: int, of: int) -> None:
        for job in self.jobs.values():
            if job.kind == "train" and not job.ended and label in self.plan["jobs"].get(job.name, {}).get("labels", ()):
                job.epochs[label] = done, of

    def _say(self, line: str) -> None:
        self.said = time.monotonic()
        if self.live:
            self.out.write("\r\x1b[K")
            self.out.flush()
        say(line)

    def end(self, code: int) -> None:
        """Say what was done; of a pipeline that failed, every message of its jobs, and how it goes on."""
        self.look()
        if self.live:
            self.out.write("\r\x1b[K")
        plan = self.plan
        if code == 0:
            counts = f"{self._count('train')} training jobs, {self._count('notebook')} notebooks"
            took = f"done in {duration(time.monotonic() - self.begun)}: {counts}"
            say(took if self.jobs else "nothing to be done: everything is there")
            results, name = plan["results"], plan["name"]
            places = {"notebooks": f"{results}/notebooks/{name}", "tables": f"{results}/tables/{name}"}
            places |= {"figures": f"{plan['figures']}/{name}", "runs": f"{results}/runs", "log": str(self.log)}
            say("\n".join(f"  {what:10} {path}" for what, path in places.items() if Path(path).exists()))
            return
        for message in self.messages():
            print(message, file=self.out)
        folder = Path(plan["results"]) / "notebooks" / plan["name"]
        failed = [str(file) for file in sorted(folder.glob("*.failed.ipynb"))]
        say(f"failed: {', '.join(failed)}; all messages are in {self.log}" if failed else f"stopped; see {self.log}")
        say(f"`{plan['again']}` goes on from here, redoing only what is missing.")

    def _count(self, kind: str) -> int:
        return sum(job.kind == kind and bool(job.ended) for job in self.jobs.values())

    def messages(self) -> list[str]:
        """What jobs said they failed of; if they said nothing, the last lines of the log."""
        with open(self.log, errors="replace") as file:
            file.seek(self.log_begins)
            lines = file.read().splitlines()
        for path in Path(CLUSTER).glob("**/*.log"):
            if path.stat().st_mtime >= self.clock:
                lines += path.read_text(errors="replace").splitlines()
        return list(dict.fromkeys(line for line in lines if line.startswith("mtlib: "))) or lines[-8:]


class Tail:
    """Whole lines that were added to a file since it was last read."""

    def __init__(self, path: Path, begin: int = 0):
        self.path, self.place, self.rest = path, begin, b""

    def __iter__(self) -> Iterator[str]:
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.place)
            new = file.read()
        self.place += len(new)
        *lines, self.rest = re.split(rb"[\r\n]", self.rest + new)
        for line in lines:
            yield line.decode(errors="replace")


def _shown(job: Job) -> str:
    epochs = [f"epoch {done} of {of}" for done, of in job.epochs.values() if done < of][-1:]
    return f"{VERBS[job.kind][0]} {job.name}" + (f" ({epochs[0]})" if epochs else "")


def _took(file: Path) -> float:
    """Seconds of a notebook's last execution, 0 if it did not end well."""
    try:
        about = json.loads(file.read_bytes())
        return about["seconds"] if about["status"] == "complete" else 0.0
    except (OSError, ValueError, LookupError, TypeError):
        return 0.0
