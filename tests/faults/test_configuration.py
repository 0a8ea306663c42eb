"""Any value as a configuration: an experiment, or one ConfigurationError; never another exception."""

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_helpers import JSON

import mtlib
from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment, Pretraining, checked
from mtlib.presets import Preset, preset

KINDS = [Experiment, Pretraining, Preset]
FIELDS = sorted({name for kind in KINDS for name in kind.model_fields})
VALUES = JSON | st.sampled_from(
    [
        1e-5,
        "1e-5",
        True,
        -1,
        float("nan"),
        float("inf"),
        [],
        {},
        [[]],
        [{}],
        ["sst"],
        ["sst", "sst"],
        [1],
        "sst",
        10**400,
    ]
    + [{"kind": "annealed"}, {"kind": "annealed", "x": 1}, {"kind": []}, [{"kind": "smart", "weight": 1.0}]]
    + [
        [{"kind": "smart", "weight": "1"}],
        [{"kind": ["smart"]}],
        [["kind"]],
        [None],
        ["kind"],
        {"sst": 1},
        ["ab", "cd"],
    ]
)
CHANGES = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=12), VALUES, min_size=1, max_size=4)


def read_or_refused(kind, content) -> None:
    try:
        value = checked(kind, content, "here")
    except ConfigurationError as error:
        assert str(error).startswith("here: ") and error.exit_code == 64
    else:
        assert checked(kind, value.model_dump(mode="json"), "again") == value, "what is accepted reads back to itself"


@settings(max_examples=300)
@given(st.sampled_from(KINDS), CHANGES)
@example(Experiment, {"tasks": 5})
@example(Experiment, {"tasks": [[]]})
@example(Experiment, {"tasks": "sst"})
@example(Experiment, {"sampler": 5})
@example(Experiment, {"sampler": ["ab"]})
@example(Experiment, {"sampler": {"kind": []}})
@example(Experiment, {"penalties": None})
@example(Experiment, {"penalties": 1.5})
@example(Experiment, {"penalties": [5]})
@example(Experiment, {"penalties": [{"kind": ["smart"]}]})
@example(Experiment, {"betas": {"a": 1}})
@example(Experiment, {"seed": 10**400})
@example(Pretraining, {"task": []})
@example(Experiment, {"start_from": {"task": "sst", "start_from": {"start_from": 3}}})
@example(Preset, {"corpus": "sample", "dial": 0.1, "experiment": {"a": "b"}})
def test_any_fields_are_an_experiment_or_refused(kind, content):
    read_or_refused(kind, content)


@given(st.sampled_from(KINDS), JSON)
def test_any_value_is_an_experiment_or_refused(kind, content):
    read_or_refused(kind, content)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2))
def test_changes_to_a_preset_are_taken_or_refused(changes):
    for make in (mtlib.experiment, mtlib.pretraining):
        try:
            made = make("smoke", **changes)
        except ConfigurationError as error:
            assert "preset smoke" in str(error)
        else:
            assert len(made.identity("corpus", "weights")) == 64


@given(st.binary(max_size=60) | JSON.map(lambda value: yaml.safe_dump(value).encode()))
@example(b"\xff")
@example(b"corpus: [")
@example(b"- &a [*a]")
@example(b"corpus: sample\nexperiment: {? [1]: 2}\n")
@example(b"1: 2\n")
@example(b"\x00")
@example(b"a: !!python/object/apply:os.system [touch /tmp/never]\n")
@example(b"a: 2026-99-99\n")
def test_any_file_as_a_preset_is_one_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(preset(str(path)), Preset)
    except ConfigurationError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("name", ["../tour", "/etc/passwd", "", "a\0b", "x" * 5000, "tour.yaml", "CON"])
def test_any_name_of_a_preset_that_is_none_is_refused(name):
    with pytest.raises(ConfigurationError):
        preset(name)
