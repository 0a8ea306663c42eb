"""The notebook runner: what is refused before a kernel starts, and every way a notebook can end."""

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
from pipelines import write_notebook

from mtlib.errors import ConfigurationError, LockedError, StageError
from mtlib.presets import label
from mtlib.training.files import RunLock
from mtlib.workbook.notebooks import find_stage, run_notebook, stage_status

PARAMETERS = """preset: str = "smoke"
corpus: str = ""
rate: float = 1e-3  # the learning rate
seeds: list[int] = [0, 1]"""


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook of a parameters cell and the given code cells; returns its path."""

    def write(*sources, parameters=PARAMETERS, folder=tmp_path, name="x"):
        cells = [("parameters", parameters), *(("", source) for source in sources)]
        return write_notebook(folder / f"{name}.ipynb", *cells)

    return write


def left(folder):
    """Names of the files a stage left, locks apart."""
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


@pytest.mark.parametrize("parameters", [{"epoch": 3}, {"rate": "1e-5"}, {"preset": "smok"}, {"seeds": [0, "1"]}])
def test_a_wrong_parameter_is_refused_before_anything_is_written(notebook, tmp_path, parameters):
    with pytest.raises(ConfigurationError, match="x: .*parameter|unknown preset 'smok'"):
        run_notebook(notebook("1"), parameters, results=tmp_path / "results")
    assert left(tmp_path) == ["x.ipynb"]


def test_a_stage_name_never_leads_out_of_the_notebooks_folder(notebook, tmp_path, monkeypatch):
    folder = tmp_path / "root" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "root" / "presets").mkdir()
    inside, outside = notebook(folder=folder, name="01_baseline"), notebook()
    (folder / "link.ipynb").symlink_to(outside)
    (tmp_path / "root" / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "root" / "deeper")
    for name in ("01_baseline", "01_baseline.ipynb", "../notebooks/01_baseline.ipynb", str(inside)):
        assert find_stage(name) == inside
    for name in ("../../x", "../../x.ipynb", str(outside), "link"):
        with pytest.raises(ConfigurationError, match="given by its path"):
            find_stage(name)
    assert find_stage(outside) == outside
    with pytest.raises(ConfigurationError, match="unknown stage '01_baselin' .*'01_baseline'"):
        find_stage("01_baselin")


def test_a_complete_stage(notebook, tmp_path, monkeypatch, capsys):
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    places = "os.environ['MTLIB_RESULTS'], os.environ['MTLIB_FIGURES']"
    path = notebook("import os, sys", f"print(sys.executable, os.getcwd(), rate, seeds, {places})")
    results = tmp_path / "with ${HOME} and $PATH"
    executed = run_notebook(path, {"rate": 1, "corpus": "some/where"}, results=results, figures="pictures")
    root = os.getcwd()
    expected = f"{sys.executable} {root} 1.0 [0] {results} {root}/pictures\n"
    assert executed == results / "notebooks" / "smoke-where" / "x.ipynb"
    assert left(executed.parent) == ["x.ipynb", "x.status.json"]
    cells = nbformat.read(executed, as_version=4).cells
    assert cells[-1].outputs[0].text == expected
    assert len(cells) == 4, "parameters, injected parameters and two cells; no sentinel"
    assert f"x | {expected}" in capsys.readouterr().out
    status = stage_status(executed)
    assert status["status"] == "complete"
    assert status["parameters"] == {"rate": 1.0, "corpus": "some/where", "seeds": [0]}


def test_paths_lead_on_from_the_folder_that_one_stands_in(notebook, tmp_path, monkeypatch):
    root = os.getcwd()
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "smoke").mkdir()
    shutil.copy("presets/smoke.yaml", tmp_path / "mine" / "small.yaml")
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setattr("mtlib.workbook.notebooks.project_root", lambda: Path(root))
    path = notebook("import os", "print(os.getcwd(), preset, corpus)")
    for preset, corpus in (("small.yaml", "data"), ("smoke", "sample"), (f"{root}/presets/smoke.yaml", "elsewhere")):
        executed = run_notebook(path, {"preset": preset, "corpus": corpus}, results=tmp_path / "results")
        there = [
            str(Path(each).absolute()) if Path(each).is_file() or each == "data" else each for each in (preset, corpus)
        ]
        assert nbformat.read(executed, as_version=4).cells[-1].outputs[0].text == " ".join([root, *there]) + "\n"


@pytest.mark.parametrize(
    "source, message",
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 9)", "the kernel died"),
        ("import sys; sys.exit(0)", "left"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_notebook_that_does_not_reach_its_end_has_failed(notebook, tmp_path, source, message):
    folder = tmp_path / "results" / "notebooks" / "smoke-sample"
    with pytest.raises(StageError, match=f"x: code cell 3: .*{message}.*x.failed.ipynb"):
        run_notebook(notebook("a = 1", source, "b = 1"), {}, results=tmp_path / "results")
    assert left(folder) == ["x.failed.ipynb", "x.status.json"]
    status = stage_status(folder / "x.ipynb")
    assert (status["status"], status["cell"]) == ("failed", 3)
    assert message in status["message"]


def test_a_cell_that_takes_too_long_is_reaped_with_its_kernel(notebook, tmp_path):
    source = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(StageError, match="code cell 2: took longer than 3 s"):
        run_notebook(notebook(source), {}, results=tmp_path / "results", timeout=3)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert stage_status(tmp_path / "results/notebooks/smoke-sample/x.ipynb")["status"] == "failed"


HOLDING_THE_GIL = "import ctypes, time; time.sleep(1); ctypes.PyDLL(None).sleep(60)"  # once the print is sent


@pytest.mark.parametrize(
    "number, wait", [(signal.SIGKILL, HOLDING_THE_GIL), (signal.SIGTERM, "import time; time.sleep(60)")]
)
def test_a_killed_runner_takes_its_kernel_along(notebook, tmp_path, number, wait):
    source = f"import os, sys; print('pid', os.getpid()); sys.stdout.flush()\n{wait}"
    command = [sys.executable, "-m", "mtlib", "run", "--path", str(notebook(source)), "--results", str(tmp_path / "r")]
    executed = tmp_path / "r" / "notebooks" / "smoke-sample" / "x.ipynb"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        kernel = next(psutil.Process(int(line.split()[-1])) for line in runner.stdout if "pid" in line)
        assert stage_status(executed)["status"] == "running"
        with pytest.raises(LockedError, match=str(runner.pid)):
            run_notebook(tmp_path / "x.ipynb", {}, results=tmp_path / "r")
        runner.send_signal(number)
        assert runner.wait(30) == (143 if number == signal.SIGTERM else -9)
    deadline = time.monotonic() + 30
    while kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the kernel has outlived its runner"
        time.sleep(0.05)
    assert stage_status(executed)["status"] == "interrupted"
    assert not executed.exists()
    with RunLock(executed.with_name(".x.lock")):
        pass


def test_running_means_interrupted_when_another_process_has_the_number(tmp_path):
    executed = tmp_path / "x.ipynb"
    assert stage_status(executed) == {"status": "missing"}
    status = {"status": "running", "pid": os.getpid(), "started": 0.0, "host": os.uname().nodename}
    (tmp_path / "x.status.json").write_text(json.dumps(status))
    assert stage_status(executed)["status"] == "interrupted"
    (tmp_path / "x.status.json").write_text(json.dumps(status | {"pid": 10**12}))
    assert stage_status(executed)["status"] == "interrupted"
    (tmp_path / "x.status.json").write_text(json.dumps(status | {"host": "another"}))
    assert stage_status(executed)["status"] == "running"


def test_labels_are_folder_names():
    assert label("tour", "sample") == "tour-sample"
    assert label("presets/my own.yaml", "../shared/data/") == "my_own-data"
    assert label("", "") == "default"
    assert "/" not in label("..", "/")


@pytest.mark.slow
@pytest.mark.parametrize("stage, given", [
    ("03_smart", {"weights": [], "long_weights": [], "ablation": [], "radii": []}),
    ("04_mnrl", {"ranking_sizes": [5], "repeats": [0, 1, 1]}),
    ("11_best", {"preset": "own.yaml"}),
])  # fmt: skip
def test_a_notebook_ends_whatever_its_knobs_leave_out(stage, given, tmp_path, monkeypatch):
    rows = "".join(f"text {word} {n},{word}\n" for n in range(30) for word in ("up", "down"))
    (tmp_path / "own.csv").write_text(f"text,label\n{rows}")
    (tmp_path / "own-corpus.yaml").write_text("tasks: {way: {file: own.csv, text: text, label: label}}\n")
    own = {"corpus": "own-corpus.yaml", "encoder": "tiny", "dial": 0.0006, "only": ["11_best"]}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    monkeypatch.chdir(tmp_path)
    given = {"preset": "smoke"} | given
    assert run_notebook(stage, given, results=tmp_path / "results", figures=tmp_path / "figures").is_file()
