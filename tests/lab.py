"""JupyterLab as a person has it: a server on a project's folder, and its notebooks in a browser."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
from pipelines import ROOT, environment

SCREENSHOTS = Path(os.environ.get("MTLIB_SCREENSHOTS", ROOT / "build" / "screenshots"))

SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are not on the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "apputils-extension/themes": {"theme": "JupyterLab Light"},
}

PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.textContent)"
WAITING = "[*]:"


def photograph(page, name: str) -> Path:
    """Keep what the page shows as `<name>.png`, for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    return SCREENSHOTS / f"{name}.png"


def put_notebook(source: Path, folder: Path, **parameters) -> Path:
    """A copy of a notebook in `folder`, with a cell behind its parameters that sets these."""
    notebook = nbformat.read(source, as_version=4)
    (place,) = (n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / source.name)
    return folder / source.name


class Lab:
    """A JupyterLab server on `folder`, a context manager; nothing of the user's own settings is read or written."""

    def __init__(self, folder: Path, home: Path, **variables: str):
        self.folder, self.token = folder, secrets.token_hex(8)
        for name, values in SETTINGS.items():
            place = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(values))
        places = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
        places |= {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
        self.places = {name: str(home / place) for name, place in places.items()}
        self.log, self.variables = home / "lab.log", variables

    def __enter__(self) -> "Lab":
        options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
        options += [f"--IdentityProvider.token={self.token}", "--ServerApp.root_dir=."]
        env = environment(**self.places, **self.variables)
        env.pop("MTLIB_PROGRESS", None)
        command = [sys.executable, "-m", "jupyterlab", *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=env, stdout=log, stderr=log)
        self.address = self._address()
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(60)

    def _address(self, patience: float = 120) -> str:
        """Where the server answers, once it does."""
        runtime, until = Path(self.places["JUPYTER_RUNTIME_DIR"]), time.monotonic() + patience
        while time.monotonic() < until and self.process.poll() is None:
            for file in runtime.glob("jpserver-*.json"):
                try:
                    url = json.loads(file.read_text())["url"]
                    urllib.request.urlopen(f"{url}api/status?token={self.token}", timeout=5).close()
                    return url
                except (ValueError, KeyError, urllib.error.URLError, OSError):
                    pass
            time.sleep(0.2)
        raise AssertionError(f"JupyterLab did not start:\n{self.log.read_text()}")

    def open(self, page, name: str) -> "Notebook":
        """The notebook `notebooks/<name>.ipynb` in the browser's page, its kernel started."""
        page.set_default_timeout(120_000)
        page.set_viewport_size({"width": 1400, "height": 1000})
        page.goto(f"{self.address}lab/tree/notebooks/{name}.ipynb?token={self.token}&reset")
        cells = len(nbformat.read(self.folder / "notebooks" / f"{name}.ipynb", as_version=4).cells)
        page.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-Cell').length == {cells}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        return Notebook(page, name)


class Notebook:
    """An open notebook: what a person does to it, and sees."""

    def __init__(self, page, name: str):
        self.page, self.name = page, name

    def menu(self, menu: str, entry: str) -> None:
        """Choose an entry of the menu bar."""
        self.page.get_by_role("menubar").get_by_role("menuitem", name=menu, exact=True).first.click()
        self.page.get_by_role("menuitem", name=entry).first.click()

    def run_all(self, timeout: float = 300) -> None:
        """Run all cells and wait until each has run; raises AssertionError with what the cell that failed shows."""
        self.menu("Run", "Run All Cells")
        self.wait(timeout)
        ran = [prompt != "[ ]:" for prompt in self.page.evaluate(PROMPTS)]
        if not all(ran):
            failed = self.page.locator(".jp-CodeCell").nth(max(0, ran.index(False) - 1))
            raise AssertionError(f"{self.name}: {failed.inner_text()[-3000:]}")

    def wait(self, timeout: float = 300) -> None:
        """Wait until no cell is running or is to be run."""
        self.page.wait_for_function(f"!{PROMPTS}.includes('{WAITING}')", timeout=1000 * timeout)

    def cell(self, source: str):
        """The code cell that has this in its source."""
        return self.page.locator(".jp-CodeCell").filter(has=self.page.locator(".jp-Editor", has_text=source)).first

    def output(self, source: str) -> str:
        """The text of that cell's outputs."""
        return self.cell(source).locator(".jp-OutputArea").first.inner_text()

    def photograph(self, title: str) -> Path:
        """Keep what is seen now."""
        return photograph(self.page, f"lab-{self.name}-{title}")
