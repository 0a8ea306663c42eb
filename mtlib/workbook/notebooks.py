"""The notebook runner: papermill with the rules that make an executed notebook trustworthy.

A stage is complete when its last cell has been reached, not merely when no error was seen: the runner appends a
sentinel cell with a random word and looks for its output. Parameters are checked against the typed `parameters` cell
before a kernel starts. The kernel is this interpreter, and dies with the process that started it.
"""

import json
import logging
import os
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtlib.checking import nearest
from mtlib.data.corpus import TITLES
from mtlib.errors import ConfigurationError, StageError
from mtlib.extensions import import_inherited
from mtlib.presets import label, preset, project_root
from mtlib.training.files import RunLock, is_gone, make_folder, storage, this_process, write_json
from mtlib.workbook.parameters import Parameter, check_values, load_notebook, parameters_of, values_at
from mtlib.workbook.processes import end_with
from mtlib.yaml_files import is_yaml


def find_stage(stage: str | Path) -> Path:
    """The notebook of `stage`: a str is a name or a path inside the notebooks folder, a Path is that very file.

    Raises ConfigurationError for an unknown name, or one that leads out of the notebooks folder.
    """
    if isinstance(stage, Path):
        if stage.suffix != ".ipynb" or not stage.is_file():
            raise ConfigurationError(f"{stage}: expected an existing .ipynb file")
        return stage.resolve()
    folder = (project_root() / "notebooks").resolve()
    is_path = stage.endswith(".ipynb") and os.path.isfile(stage)
    path = Path(stage) if is_path else folder / f"{stage.removesuffix('.ipynb')}.ipynb"
    if path.resolve().parent != folder:
        raise ConfigurationError(
            f"stage {stage!r}: not in {folder}; a notebook elsewhere is given by its path (--path)"
        )
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.ipynb"))
        raise ConfigurationError(f"unknown stage {stage!r}{nearest(stage, names)}; expected one of {', '.join(names)}")
    return folder / path.name


def run_notebook(
    stage: str | Path,
    parameters: dict[str, Any],
    *,
    results: str | Path = "results",
    figures: str | Path = "figures",
    timeout: float | None = None,
) -> Path:
    """Execute one stage and return the executed notebook, `<results>/notebooks/<preset>-<corpus>/<stage>.ipynb`.

    What `parameters` leaves open is the preset's for this notebook. While it runs the file is called
    `<stage>.running.ipynb`, after an error `<stage>.failed.ipynb`, and `<stage>.status.json` tells the same (see
    `stage_status`). timeout: seconds a cell may take.
    Raises ConfigurationError before a kernel starts (unknown stage or parameter, wrong type), LockedError when
    another process runs the same stage, StageError naming the cell when it raises, dies, exits or takes too long.
    """
    path, root = find_stage(stage), project_root()
    notebook = load_notebook(path)
    known = parameters_of(notebook, path.name)
    parameters, name = with_preset(path.stem, known, parameters)
    parameters = {key: _from_root(root, key, value) for key, value in parameters.items()}
    folder = (root / results / "notebooks" / name).absolute()
    with storage("create", folder):
        make_folder(folder)
    places = {"MTLIB_RESULTS": str(root / results), "MTLIB_FIGURES": str(root / figures)}
    with RunLock(folder / f".{path.stem}.lock"):
        return _run(notebook, path.stem, parameters, folder, root, timeout, places)


def _from_root(root: Path, name: str, value: Any) -> Any:
    """A preset's or a corpus's path that leads on from this folder alone, made absolute: the kernel's is the root."""
    is_path = isinstance(value, str) and (is_yaml(value) or (name == "corpus" and value not in TITLES))
    return os.path.abspath(value) if is_path and os.path.exists(value) and not (root / value).exists() else value


def with_preset(stage: str, known: dict[str, Parameter], given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """All parameters of a stage, the preset's where none is given; and the name of its folder, `<preset>-<corpus>`.

    A notebook without a parameter `preset` takes what is given; one with `file` is called after that.
    """
    given = check_values(given, known, stage)
    values = {name: parameter.default for name, parameter in known.items()} | given
    if "preset" in known:
        chosen = preset(values["preset"])
        return values_at(chosen, stage, known, given), label(values["preset"], values.get("corpus") or chosen.corpus)
    return given, label(values.get("file", ""), values.get("corpus", ""))


def stage_status(executed: Path) -> dict[str, Any]:
    """What became of the stage whose executed notebook is (or would be) at `executed`.

    `status` is "missing", "running", "complete", "failed" (with `cell` and `message`) or "interrupted": stopped by
    a signal, or its process died without writing a status.
    """
    file = executed.with_suffix(".status.json")
    if not file.is_file():
        return {"status": "missing"}
    status = json.loads(file.read_text(encoding="utf-8"))
    if status["status"] == "running" and is_gone(status):
        status["status"] = "interrupted"
    return status


def _run(
    notebook: Any, stem: str, parameters: dict, folder: Path, root: Path, timeout: float | None, places: dict[str, str]
) -> Path:
    running, failed, complete = (folder / f"{stem}{end}.ipynb" for end in (".running", ".failed", ""))
    for leftover in (running, failed):
        leftover.unlink(missing_ok=True)
    begun = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    status = {"status": "running", **this_process(), "begun": begun, "parameters": parameters}
    clock = time.monotonic()

    def record(**news: Any) -> None:
        status.update(news)
        write_json(complete.with_suffix(".status.json"), status)

    record()
    progress = _Progress(stem, sum(cell.cell_type == "code" for cell in notebook.cells))
    try:
        _execute(notebook, running, parameters, root, timeout, progress, places)
    except BaseException as error:
        ending = "failed" if isinstance(error, Exception) else "interrupted"
        message = _explain(error, timeout)
        if running.exists():
            running.replace(failed)
        record(status=ending, cell=progress.cell, message=message, seconds=round(time.monotonic() - clock, 1))
        if ending == "interrupted":
            raise
        raise StageError(f"{stem}: code cell {progress.cell}: {message}; see {_short(failed, root)}") from error
    running.replace(complete)
    record(status="complete", seconds=round(time.monotonic() - clock, 1), environment=_environment())
    return complete


def _environment() -> dict[str, object]:
    """What an executed notebook may depend on: versions, system and commit."""
    from mtlib.device import Device
    from mtlib.training.environment import environment

    device = Device()
    return environment(device.device, device.precision)


def _execute(
    notebook: Any,
    output: Path,
    parameters: dict,
    root: Path,
    timeout: float | None,
    progress: "_Progress",
    places: dict,
) -> None:
    """Run all cells, writing `output` as they finish; raises unless the sentinel behind the last cell answered."""
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    sentinel = nbformat.v4.new_code_cell(repr(secrets.token_hex(16)))
    notebook.cells.append(sentinel)
    try:
        with _terminable(), tempfile.TemporaryDirectory(prefix="mtlib-") as sockets:
            executed = papermill.execute_notebook(
                notebook,
                str(output).replace("{", "{{").replace("}", "}}"),  # papermill takes it for a format string
                parameters,
                kernel_name="python3",
                language="python",
                cwd=root,
                progress_bar=False,
                stdout_file=progress,
                stderr_file=progress,
                start_timeout=300,  # seconds: a busy machine is no fault
                execution_timeout=timeout,
                kernel_manager_class=_kernel_manager(Path(sockets), places),
                on_cell_start=progress.start,
            )
        if [answer.get("data", {}).get("text/plain") for answer in executed.cells[-1].outputs] != [sentinel.source]:
            raise RuntimeError("the notebook was left (sys.exit or the like) before its end")
    finally:
        if output.exists():
            executed = nbformat.read(output, as_version=4)
            executed.cells = [cell for cell in executed.cells if cell.source != sentinel.source]
            executed.metadata.get("papermill", {}).pop("input_path", None)
            nbformat.write(executed, output)


def _explain(error: BaseException, timeout: float | None) -> str:
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    match error:
        case PapermillExecutionError():
            return f"{error.ename}: {error.evalue}"
        case CellTimeoutError():
            return f"took longer than {timeout} s"
        case DeadKernelError():
            return "the kernel died"
        case KeyboardInterrupt() | SystemExit():
            return "stopped by a signal"
        case RuntimeError():
            return str(error)
    return f"{type(error).__name__}: {error}"


class _Progress:
    """Sends what the kernel prints to stdout, prefixed with the stage's name, and counts the cells as they start."""

    def __init__(self, stem: str, cells: int):
        self.stem, self.cells, self.cell, self.line = stem, cells, 0, ""

    def start(self, cell: Any, cell_index: int) -> None:
        """nbclient's hook before each cell; headings become lines of progress."""
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", []):
            self.cell = min(self.cell + 1, self.cells)
        elif cell.cell_type == "markdown" and (heading := re.match(r"#+ +(.+)", cell.source)):
            self.write(f"[{self.cell}/{self.cells}] {heading[1]}\n")

    def write(self, text: str) -> None:
        """Print the complete lines of `text`; of a line that overwrites itself only its last state is kept."""
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            print(f"{self.stem} | {line.rstrip().rsplit(chr(13), 1)[-1]}", flush=True)

    def flush(self) -> None:
        """Nothing is held back but the line that is still being written."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends this block like an exception, so that the kernel is shut down and the status written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _kernel_manager(folder: Path, places: dict[str, str]) -> type:
    """A kernel manager that knows one kernel, this interpreter, whatever kernelspecs are installed.

    places: environment variables of the kernel that say where results and figures are.

    It talks over sockets in `folder`, so kernels started at the same time cannot take each other's ports.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(AsyncKernelManager):
        def __init__(self, **settings: Any) -> None:
            transport = "tcp" if sys.platform == "win32" else "ipc"
            super().__init__(connection_file=str(folder / "kernel.json"), transport=transport, **settings)

        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "mtlib.workbook.notebooks", "-f", "{connection_file}"]
            env = {name: place.replace("$", "$$") for name, place in places.items()}  # else $PATH would be filled in
            return KernelSpec(argv=argv, display_name="Python 3", language="python", env=env)

    return ThisInterpreter


def _launch_kernel() -> None:
    """Become an IPython kernel that ends with its parent: by signal on Linux, by ipykernel's own polling elsewhere."""
    end_with(int(os.environ.get("JPY_PARENT_PID", os.getppid())), signal.SIGKILL)
    from ipykernel.kernelapp import launch_new_instance

    import_inherited()
    os.environ.setdefault("MTLIB_PROGRESS", "lines")
    launch_new_instance()


def _short(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


if __name__ == "__main__":
    _launch_kernel()
