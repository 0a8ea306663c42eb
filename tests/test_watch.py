"""What a pipeline says while it runs: few lines, the rest in its log, and how long it will take."""

import io
import logging
import time
from types import SimpleNamespace

import pytest
from pipelines import ROOT, executed, pipeline, project

from mtlib.training.progress import EPOCH
from mtlib.workbook.watch import NOTEBOOK, Events, Job, Tail, Watch, time_left

PLAN = {
    "name": "p-sample",
    "figures": "figures",
    "again": "make resume PRESET=p",
    "jobs": {"a-1": {"work": 100, "labels": ["a"]}, "b-2": {"work": 300, "labels": ["b", "c"]}},
    "stages": {"01_first": {}, "02_second": {}},
}
FIRST = executed("01_first")
EXPECTED = {"all": 1, "train_a-1": 1, "train_b-2": 1, "notebook_01_first": 1, "notebook_02_second": 1}


NOW = 10_000.0


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """A clock that stands, so that no time passes however busy the machine is."""
    monkeypatch.setattr("mtlib.workbook.watch.time", SimpleNamespace(monotonic=lambda: NOW, time=time.time))


def job(kind: str, name: str, seconds: float, ended: bool = True, ago: float = 0.0, **more) -> Job:
    """A job that took, or has taken, so many seconds; ended: `ago` seconds ago."""
    now = NOW - ago
    return Job(kind, name, now - seconds, now if ended else 0.0, **more)


def left(*jobs: Job, expected=EXPECTED, **notebooks: float) -> float | None:
    return time_left(PLAN, expected, list(jobs), notebooks)


def test_the_time_left_is_work_over_speed_and_what_notebooks_took():
    assert left() is None and left(job("train", "a-1", 5, ended=False)) is None, "nothing to tell by"
    a = job("train", "a-1", 50)
    assert left(a) == pytest.approx(300 / (100 / 50) + 2 * NOTEBOOK)
    assert left(a, **{"01_first": 5.0}) == pytest.approx(150 + 5 + NOTEBOOK)
    a = job("train", "a-1", 50, ago=100)
    half = job("train", "b-2", 100, ended=False, epochs={"b": (2, 2)})
    assert left(a, half) == pytest.approx(150 / ((100 + 150) / 150) + 2 * NOTEBOOK)
    a, b, first = (
        job("train", "a-1", 50, ago=190),
        job("train", "b-2", 150, ago=40),
        job("notebook", "01_first", 30, ago=10),
    )
    second = job("notebook", "02_second", 10, ended=False)
    assert left(a, b, first, second) == pytest.approx(20), "the second as long as the first"
    late = job("notebook", "02_second", 99, ended=False)
    assert left(a, b, first, late) == 0


def test_the_time_left_is_shared_by_as_many_jobs_as_ran_at_a_time_so_far():
    a = job("train", "a-1", 50, ago=50)
    both = [job("train", "b-2", 50, ended=False), job("notebook", "01_first", 50, ended=False)]
    rest = 300 / (100 / 50) + NOTEBOOK  # 01_first has taken longer than was foretold
    assert left(a, *both) == pytest.approx(rest / 1.5)
    one, other = job("train", "a-1", 50), job("train", "b-2", 50)
    assert left(one, other) == pytest.approx(2 * NOTEBOOK / 2), "also in the moment when nothing runs"


def test_only_what_this_pipeline_is_to_do_takes_time():
    wanted = {"train_a-1": 1, "notebook_02_second": 1, "all": 1, "total": 3}
    a = job("train", "a-1", 10, ended=False, epochs={"a": (1, 2)})
    assert left(a, expected=wanted) == pytest.approx(50 / (50 / 10) + NOTEBOOK)


def test_a_line_of_progress_after_an_epoch_is_recognised():
    found = EPOCH.match("annealed-smart-15: epoch 3/10  loss 0.4  qqp 0.7  4 s, 3 min left")
    assert (found["name"], found["done"], found["of"]) == ("annealed-smart-15", "3", "10")
    assert not EPOCH.match("03_smart | annealed: epoch 3/10  loss") and not EPOCH.match("[1/2] epoch 3/10 of")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.fixture
def watched(tmp_path):
    """A watch on a plan, a logger whose events it sees, and the stream it writes to."""

    def start(stream: io.StringIO):
        log, events = tmp_path / "log", tmp_path / "events"
        log.write_text("mtlib: of an earlier one\n")
        watch = Watch(PLAN | {"results": str(tmp_path)}, events, log, stream)
        logger = logging.Logger("scheduler")
        logger.addHandler(Events(str(events)))

        def tell(event: str, **more):
            logger.info("", extra={"event": event, **more})
            watch.look()

        tell("run_info", stats={"all": 1, "train_a-1": 1, "train_b-2": 1, "notebook_01_first": 1, "total": 4})
        tell("job_info", jobid=4, rule_name="train_a-1", wildcards={})
        return watch, tell, log

    return start


def test_without_a_terminal_a_line_a_job(watched, capsys):
    watch, tell, log = watched(io.StringIO())
    tell("job_finished", job_id=4)
    tell("job_info", jobid=5, rule_name="train_b-2", wildcards={})
    with open(log, "a") as file:
        file.write("Select jobs to execute...\nmtlib: the loss is not finite\nx\nmtlib: the loss is not finite\n")
    tell("job_error", jobid=5)
    watch.end(1)
    assert capsys.readouterr().out.splitlines() == [
        "job 1 of 3: trained a-1 in 0 s; about 20 s left",
        "job 2 of 3: b-2 failed",
        f"stopped; see {log}",
        "`make resume PRESET=p` goes on from here, redoing only what is missing.",
    ]
    assert watch.out.getvalue() == "mtlib: the loss is not finite\n"


def test_in_a_terminal_one_line_that_overwrites_itself(watched, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    watch, tell, log = watched(Terminal())
    with open(log, "a") as file:
        file.write("a: epoch 3/10  loss 0.4\n")
    tell("progress", done=0, total=4)
    line = watch.out.getvalue().rpartition("\r")[2]
    assert line.startswith("0 of 3 jobs done · training a-1 (epoch 3 of 10) · 0 s · about ") and "\n" not in line
    tell("job_finished", job_id=4)
    watch.end(0)
    said = capsys.readouterr().out.splitlines()
    assert said == ["done in 0 s: 1 training jobs, 0 notebooks", f"  log        {log}"]


def test_a_tail_gives_whole_lines_once_whenever_they_are_written(tmp_path):
    path, tail = tmp_path / "log", Tail(tmp_path / "log")
    assert list(tail) == []
    path.write_bytes(b"one\ntw")
    assert list(tail) == ["one"]
    with open(path, "ab") as file:
        file.write(b"o\rthree\n\xff\n")
    assert list(tail) == ["two", "three", "\ufffd"] and list(tail) == []


@pytest.mark.timeout(900)
def test_a_pipeline_says_on_few_lines_what_it_did_and_keeps_the_rest_in_its_log(tmp_path):
    folder = project(tmp_path)
    done = pipeline(folder, "run", FIRST)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 5 and lines[0].startswith("job 1 of 2: trained 01_first in ")
    assert lines[1].startswith("job 2 of 2: executed 01_first in ")
    assert lines[2].startswith("done in ") and lines[2].endswith(": 1 training jobs, 1 notebooks")
    for line in lines[3:]:
        assert (folder / line.split()[1]).exists(), line
    log = (folder / lines[-1].split()[1]).read_text()
    assert "rule notebook_01_first" in log and "epoch 1/2" in log and "01_first | " in log
    again = pipeline(folder, "run", FIRST).stdout.splitlines()
    assert again[0] == "nothing to be done: everything is there" and again[1:] == lines[3:]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_smoke_study_is_told_on_sixty_lines(tmp_path):
    for name in ("Snakefile", "presets", "profiles", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = pipeline(tmp_path, "run", preset="smoke")
    assert len((done.stdout + done.stderr).splitlines()) <= 60
