"""The parameters cell: its types are read and never run, and its values come from preset, command line and defaults."""

import json
import math

import nbformat
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pipelines import write_notebook

from mtlib.errors import ConfigurationError
from mtlib.presets import preset
from mtlib.workbook.notebooks import with_preset
from mtlib.workbook.parameters import check_values, parameters_of, parse_scalar, read_parameters, values_at

CELL = """preset: str = "smoke"
corpus: str = ""
rate: float = 1e-3  # the learning rate
epochs: int = 3
fast: bool = False
seeds: list[int] = [0, 1]
weights: dict[str, list[float]] = {"sst": [1.0]}
anything: list = []"""


def known(cell: str = CELL):
    """The parameters of a notebook with this parameters cell."""
    cells = [nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]})]
    return parameters_of(nbformat.v4.new_notebook(cells=cells), "x.ipynb")


def test_types_and_defaults_are_read():
    found = known()
    assert [parameter.annotation for parameter in found.values()] == [
        "str", "str", "float", "int", "bool", "list[int]", "dict[str, list[float]]", "list",
    ]  # fmt: skip
    assert found["weights"].default == {"sst": [1.0]} and found["rate"].default == 1e-3
    assert found["weights"].type == dict[str, list[float]] and found["anything"].type is list


@pytest.mark.parametrize(
    "line",
    [
        "x: open({sentinel!r}, 'w').close() = 1",
        "x: list[open({sentinel!r}, 'w')] = []",
        "x: 'int' = open({sentinel!r}, 'w').close()",
        "x: int = open({sentinel!r}, 'w').close() or 1",
        "x: (lambda: open({sentinel!r}, 'w').close())() = 1",
        "x: list[(y := open({sentinel!r}, 'w'))] = []",
        "open({sentinel!r}, 'w').x: int = 1",
    ],
)
def test_code_in_the_cell_is_refused_and_never_run(tmp_path, line):
    sentinel = tmp_path / "sentinel"
    with pytest.raises(ConfigurationError, match="x.ipynb: parameters cell, line 2"):
        known(f"epochs: int = 3\n{line.format(sentinel=str(sentinel))}")
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "line",
    ["rate = 1e-3", "rate: float", "rate: float = 'fast'", "rate: Path = 1", "rate: float = 1 / 3", "import os", "a b"]
    + ["note: str | None = None", "rate: list[Path] = []", "rate: dict[str] = {}", "rate: tuple = ()", "fast: bool = 1"]
    + ["rate: float = float('nan')", "rate: float = 1e999", "seeds: list[int] = [True]", "x: list[int] = ['a']"],
)
def test_a_parameters_cell_holds_typed_literals(line):
    with pytest.raises(ConfigurationError, match="x.ipynb: parameters cell.*line 2"):
        known(f"epochs: int = 3\n{line}")


def test_a_notebook_has_one_parameters_cell(tmp_path):
    path = write_notebook(tmp_path / "x.ipynb", ("parameters", CELL), ("parameters", CELL))
    with pytest.raises(ConfigurationError, match="x.ipynb: expected one cell tagged 'parameters', found 2"):
        read_parameters(path)
    for content in ("no notebook", "{}", '{"cells": []}', "[" * 10_000):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match="x.ipynb: "):
            read_parameters(path)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"epoch": 3}, "unknown parameter 'epoch' .did you mean 'epochs'"),
        ({"x" * 9000: 3}, "unknown parameter 'x{120}'"),
        ({"rate": "1e-5"}, "'rate': expected float, found str"),
        ({"rate": math.nan}, "'rate': expected float"),
        ({"rate": math.inf}, "'rate': expected float"),
        ({"epochs": True}, "'epochs': expected int, found bool"),
        ({"epochs": 2.0}, "'epochs': expected int, found float"),
        ({"fast": 10**5000}, "'fast': expected bool, found int an integer of hundreds of digits"),
        ({"fast": 1}, "'fast': expected bool, found int"),
        ({"seeds": [0, "1"]}, r"'seeds': expected list\[int\]"),
        ({"seeds": 0}, r"'seeds': expected list\[int\], found int 0"),
        ({"weights": {"sst": 1.0}}, "'weights': expected dict"),
        ({"preset": None}, "'preset': expected str, found NoneType"),
    ],
)
def test_a_value_of_another_type_is_refused(values, message):
    with pytest.raises(ConfigurationError, match=f"x: .*{message}"):
        check_values(values, known(), "x")


def test_a_whole_number_is_a_float_where_one_is_expected():
    assert check_values({"rate": 1}, known(), "x") == {"rate": 1.0}


@pytest.mark.parametrize("text", ["123", "on", "null", "1e-5", "[x", '"sample"', "a=b", "", " ", "2026-01-01"])
def test_a_text_parameter_takes_the_text_as_it_stands(text):
    assert known()["corpus"].parse(text) == text


@pytest.mark.parametrize(
    "text, value",
    [("3", 3), ("1e-5", 1e-5), ("true", True), ("[0, 1]", [0, 1]), ("[1e-5, 2E4]", [1e-5, 2e4]), ("null", None)]
    + [("{sst: 1e-5}", {"sst": 1e-5}), ("a: 1", {"a": 1}), ('{"a": "\\ud83d\\ude00"}', {"a": "\N{GRINNING FACE}"})],
)
def test_values_of_the_command_line(text, value):
    assert parse_scalar(text) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_what_a_plan_writes_as_json_is_read_back(value):
    assert parse_scalar(json.dumps(value)) == value


@given(st.text(max_size=40))
@example('!!int ""')
@example("!!bool x")
@example("!!timestamp x")
@example("2020-13-45")
@example("9" * 5000)
@example("[" * 5000)
@example("{? [1]: 2}")
@example("&a [*a]")
@example("!!python/object/apply:os.system [touch never]")
@example("\x00")
def test_any_text_is_a_value_or_refused(text):
    try:
        parse_scalar(text)
    except ConfigurationError as error:
        assert "expected a YAML value" in str(error) and len(str(error)) < 1000


def sized(**notebooks):
    return preset("smoke").model_copy(update={"seeds": [5, 7], "notebooks": notebooks})


def test_values_come_from_the_preset_and_over_them_from_who_asks():
    values = values_at(sized(x={"epochs": 9, "rate": 0.5}, y={"epochs": 1}), "x", known(), {"rate": 1e-4})
    assert values == {"seeds": [5, 7], "epochs": 9, "rate": 1e-4}


def test_seeds_are_the_preset_s_unless_its_notebook_has_others():
    assert values_at(sized(), "x", known(), {}) == {"seeds": [5, 7]}
    assert values_at(sized(x={"seeds": [1]}), "x", known(), {}) == {"seeds": [1]}
    assert values_at(sized(x={"seeds": [1]}), "x", known(), {"seeds": [2, 3]}) == {"seeds": [2, 3]}
    assert values_at(sized(), "x", known("epochs: int = 3"), {}) == {}


@pytest.mark.parametrize(
    "values, message", [({"epoch": 1}, "unknown parameter 'epoch'"), ({"epochs": "1"}, "found str")]
)
def test_a_preset_s_value_that_the_notebook_cannot_take_is_refused(values, message):
    with pytest.raises(ConfigurationError, match=f"x: .*{message}"):
        values_at(sized(x=values), "x", known(), {})


def test_a_stage_is_called_after_the_preset_and_the_corpus_it_ends_with():
    parameters = known()
    assert with_preset("x", parameters, {})[1] == "smoke-sample"
    assert with_preset("x", parameters, {"corpus": "../shared/data/"})[1] == "smoke-data"
    assert with_preset("x", parameters, {"preset": "tour", "corpus": "123"})[1] == "tour-123"
    assert with_preset("x", parameters, {})[0]["seeds"] == preset("smoke").seeds
    with pytest.raises(ConfigurationError, match="unknown preset 'smok'"):
        with_preset("x", parameters, {"preset": "smok"})
