"""The notebook runner: what is refused before a kernel starts, and every way a notebook can end."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlib.errors import ConfigurationError, LockedError, StageError
from mtlib.notebooks import find_stage, label, parse_scalar, read_parameters, run_notebook, stage_status
from mtlib.training.files import RunLock

PARAMETERS = """preset: str = "smoke"
results: str = "results"
rate: float = 1e-3  # the learning rate
epochs: int = 3
fast: bool = False
seeds: list[int] = [0, 1]
note: str | None = None"""


@pytest.fixture
def notebook(tmp_path):
    """Write a notebook of a parameters cell and the given code cells; returns its path."""

    def write(*sources, parameters=PARAMETERS, folder=tmp_path, name="x"):
        cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell(parameters)]
        cells[1].metadata.tags = ["parameters"]
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        path = folder / f"{name}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    return write


def left(folder):
    """Names of the files a stage left, locks apart."""
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"epoch": 3}, "unknown parameter 'epoch' .*'epochs'"),
        ({"rate": "1e-5"}, "'rate': expected float, found str"),
        ({"rate": float("nan")}, "'rate': expected float"),
        ({"epochs": True}, "'epochs': expected int, found bool"),
        ({"epochs": 2.0}, "'epochs': expected int, found float"),
        ({"fast": 1}, "'fast': expected bool, found int"),
        ({"seeds": [0, "1"]}, r"'seeds': expected list\[int\]"),
        ({"preset": None}, "'preset': expected str, found NoneType"),
        ({"note": 3}, r"'note': expected str \| None, found int"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_written(notebook, tmp_path, parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        run_notebook(notebook("1"), parameters, results=tmp_path / "results")
    assert left(tmp_path) == ["x.ipynb"]


@pytest.mark.parametrize(
    "cell",
    ["rate = 1e-3", "rate: float", "rate: float = 'fast'", "rate: Path = 1", "rate: float = 1 / 3", "import os", "a b"],
)
def test_a_parameters_cell_must_be_typed_literals(notebook, cell):
    with pytest.raises(ConfigurationError, match="x.ipynb: parameters cell, line 2"):
        read_parameters(notebook(parameters=f"epochs: int = 3\n{cell}"))


def test_a_notebook_needs_one_parameters_cell(notebook):
    path = notebook("1")
    content = nbformat.read(path, as_version=4)
    content.cells.append(nbformat.v4.new_code_cell(PARAMETERS, metadata=content.cells[1].metadata))
    nbformat.write(content, path)
    with pytest.raises(ConfigurationError, match="found 2"):
        read_parameters(path)
    path.write_text("no notebook")
    with pytest.raises(ConfigurationError, match="not a notebook"):
        read_parameters(path)


def test_a_stage_name_never_leads_out_of_the_notebooks_folder(notebook, tmp_path, monkeypatch):
    folder = tmp_path / "root" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "root" / "presets").mkdir()
    inside, outside = notebook(folder=folder, name="01_baseline"), notebook()
    (folder / "link.ipynb").symlink_to(outside)
    (tmp_path / "root" / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "root" / "deeper")
    assert find_stage("01_baseline") == inside
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
    path = notebook("import os, sys", "print(sys.executable, os.getcwd(), rate, seeds, results)")
    executed = run_notebook(path, {"rate": 1, "seeds": [7]}, results=tmp_path / "results")
    expected = f"{sys.executable} {os.getcwd()} 1.0 [7] {tmp_path / 'results'}\n"
    assert executed == tmp_path / "results" / "notebooks" / "smoke" / "x.ipynb"
    assert left(executed.parent) == ["x.ipynb", "x.status.json"]
    cells = nbformat.read(executed, as_version=4).cells
    assert cells[-1].outputs[0].text == expected
    assert len(cells) == 5, "title, parameters, injected parameters and two cells; no sentinel"
    assert f"x | {expected}" in capsys.readouterr().out
    status = stage_status(executed)
    assert status["status"] == "complete"
    assert status["parameters"] == {"results": str(tmp_path / "results"), "rate": 1.0, "seeds": [7]}


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
    folder = tmp_path / "results" / "notebooks" / "smoke"
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
    assert stage_status(tmp_path / "results/notebooks/smoke/x.ipynb")["status"] == "failed"


HOLDING_THE_GIL = "import ctypes; ctypes.PyDLL(None).sleep(60)"


@pytest.mark.parametrize(
    "number, wait", [(signal.SIGKILL, HOLDING_THE_GIL), (signal.SIGTERM, "import time; time.sleep(60)")]
)
def test_a_killed_runner_takes_its_kernel_along(notebook, tmp_path, number, wait):
    source = f"import os, sys; print('pid', os.getpid()); sys.stdout.flush()\n{wait}"
    command = [sys.executable, "-m", "mtlib", "run", "--path", str(notebook(source)), "--results", str(tmp_path / "r")]
    executed = tmp_path / "r" / "notebooks" / "smoke" / "x.ipynb"
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
    (tmp_path / "x.status.json").write_text(json.dumps(status | {"host": "another"}))
    assert stage_status(executed)["status"] == "running"


@pytest.mark.parametrize(
    "text, value", [("3", 3), ("1e-5", 1e-5), ("true", True), ("[0, 1]", [0, 1]), ("null", None), ("a: 1", {"a": 1})]
)
def test_values_of_the_command_line(text, value):
    assert parse_scalar(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_float_is_read_back(value):
    assert parse_scalar(repr(value)) == value


def test_a_text_parameter_takes_the_text_as_it_stands(notebook):
    known = read_parameters(notebook())
    assert [known["preset"].parse(text) for text in ("on", "007", "[x")] == ["on", "007", "[x"]
    assert (known["note"].parse("null"), known["note"].parse("tour")) == (None, "tour")
    with pytest.raises(ConfigurationError, match="expected a YAML value"):
        known["seeds"].parse("[x")


def test_labels_are_folder_names():
    assert label("tour", "sample") == "tour-sample"
    assert label("presets/my own.yaml", "../shared/data/") == "my_own.yaml-data"
    assert label(None, None) == "default"
    assert "/" not in label("..", "/")
