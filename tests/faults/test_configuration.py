"""Any value as a configuration: an experiment, or one ConfigurationError; never another exception."""

import math

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_helpers import JSON
from typer.testing import CliRunner

import mtlib
from mtlib.checking import checked
from mtlib.cli import app
from mtlib.cli.training import changed
from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment, Pretraining
from mtlib.presets import Preset, preset
from mtlib.study.study import Study
from mtlib.workbook import sweeps
from mtlib.workbook.parameters import parse_scalar

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


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
@example({"epochs": "x"})
@example({"epochs": 0})
@example({"steps_per_epoch": 0})
@example({"steps_per_epoch": -5})
@example({"steps_per_epoch": 10**12})
@example({"epochs": True})
@example({"epochs": 2.0})
@example({"learning_rate": "1e-5"})
@example({"learning_rate": 10**400})
@example({"learning_rate": math.nan})
@example({"batch_size": None})
def test_settings_in_the_report_s_terms_are_taken_or_refused_and_never_dialled_into_sense(settings):
    study = Study("smoke")
    for make, kind in ((study.experiment, Experiment), (study.pretraining, Pretraining)):
        whole = {"encoder": "tiny", **{key: value for key, value in settings.items() if key != "encoder"}}
        try:
            checked(kind, whole, "whole")
        except ConfigurationError:
            with pytest.raises(ConfigurationError, match="preset smoke"):
                make(**settings)
        else:
            assert kind.model_validate(make(**whole).model_dump(mode="json")).steps >= 1


def test_a_rate_is_dialled_whatever_kind_of_number_it_is():
    rates = [mtlib.Study("smoke").experiment(learning_rate=kind(0.5)).learning_rate for kind in (float, np.float64)]
    assert rates[0] == rates[1] == 0.5 * preset("smoke").learning_rate / 1e-5


@pytest.mark.parametrize("key", ["epochs", "steps_per_epoch", "learning_rate", "batch_size", "seed", "name", "encoder"])
def test_a_preset_s_experiment_sets_nothing_that_would_be_overruled(tmp_path, key):
    value = {"learning_rate": 0.1, "name": "x", "encoder": "tiny"}.get(key, 3)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"corpus": "sample", "dial": 0.1, "experiment": {key: value}}))
    with pytest.raises(ConfigurationError, match=f"mine.yaml: experiment: {key} is not set here"):
        preset(str(path))


SWEEP = {"preset": "smoke", "grid": {"learning_rate": [0.1, 0.2]}}
GRIDS = st.dictionaries(
    st.sampled_from([*FIELDS, "smart.weight", "smart.x", "sampler.kind", "sampler.end", "sampler."])
    | st.text(max_size=9),
    st.lists(VALUES, max_size=3) | VALUES | st.just({"from": 0.1, "to": 1.0, "points": 10**9}),
    max_size=3,
)


@given(
    st.fixed_dictionaries({}, optional={"grid": GRIDS, "experiment": CHANGES, "seeds": VALUES, "preset": VALUES})
    | st.dictionaries(st.text(max_size=9), VALUES, max_size=2)
    | VALUES
)
@example({"grid": {"epochs": [10**12]}})
@example({"grid": {"seed": [[]]}})
@example({"grid": {"penalties": [[{"kind": "smart", "weight": 1.0}], []]}, "experiment": {"penalties": [5]}})
@example({"experiment": {"penalties": [{"kind": "smart", "weight": 1.0}]}, "grid": {"smart.kind": ["bregman"]}})
@example({"grid": {"sampler.kind": ["annealed", "x"]}, "experiment": {"sampler": "annealed"}})
@example({"seeds": [10**30]})
def test_any_sweep_is_one_or_refused(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "any-sweep.yaml"
    path.write_text(yaml.safe_dump(SWEEP | changes if isinstance(changes, dict) else changes))
    try:
        assert sweeps.read(str(path)).experiments()
    except ConfigurationError as error:
        assert len(str(error)) < 20_000


TEXTS = st.sampled_from(
    ["!!int ''", "&a [*a, *a]", "9" * 5000, "2020-13-45", "2020-01-01", "[[[", "{? [1]: 2}", "1e999"]
)


@given(st.dictionaries(st.sampled_from(sorted(Experiment.model_fields)), TEXTS | st.text(max_size=30), max_size=3))
@example({"name": "2020-13-45"})
@example({"name": "2020-01-01"})
@example({"seed": "9" * 5000})
@example({"seed": "9" * 300})
@example({"encoder": "x" * 300})
@example({"tasks": "[&a [*a]]"})
@example({"steps_per_epoch": "1000000000000"})
@example({"steps_per_epoch": "1e12"})
@example({"start_from": "../../etc/passwd"})
@example({"start_from": "x" * 300})
@example({"start_from": "{a: 1}"})
@example({"betas": "[0.9, 1e999]"})
def test_any_text_of_set_is_taken_or_refused(tmp_path_factory, changes):
    results = tmp_path_factory.getbasetemp() / "no-runs"
    try:
        made = changed("smoke", [f"{key}={text}" for key, text in changes.items()], results)
    except ConfigurationError as error:
        assert len(str(error)) < 4000
    else:
        asked = mtlib.experiment("smoke", **{key: parse_scalar(text) for key, text in changes.items()})
        assert len(made.digest) == 64 and made.but(name=asked.name) == asked


@pytest.mark.parametrize(
    "arguments",
    [["--set", f"encoder={'x' * 300}"], ["--set", "encoder=../../../nowhere"], ["--set", f"name={'x' * 300}"]]
    + [["--set", "name=../x"], ["--set", "name=CON"], ["--set", f"seed={'9' * 5000}"], ["--set", "epochs=1e12"]]
    + [["--set", "steps_per_epoch=1000000000000"], ["--resume", "x" * 300], ["--resume", "a/../../b"]]
    + [["--preset", "x" * 300], ["--preset", "\0"], ["--set", f"start_from={'x' * 300}"]],
)
def test_the_command_refuses_in_one_message_and_trains_nothing(tmp_path, arguments):
    preset_given = [] if arguments[0] in ("--resume", "--preset") else ["--preset", "smoke"]
    done = CliRunner().invoke(app, ["train", *preset_given, *arguments, "--results", str(tmp_path / "results")])
    assert done.exit_code == 64, done.output
    assert done.output.startswith("mtlib: ") and len(done.output) < 4000 and done.output.count("\n") <= 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "predict", "card"])
@pytest.mark.parametrize("reference", ["x" * 300, "x" * 5000, "a\0b", "../..", "", "/etc", "."])
def test_no_reference_to_a_run_is_more_than_one_message(tmp_path, monkeypatch, command, reference):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [command, reference])
    assert done.exit_code == 64 and done.output.startswith("mtlib: run ") and len(done.output) < 1000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../tour", "/etc/passwd", "", "a\0b", "x" * 5000, "tour.yaml", "CON"])
def test_any_name_of_a_preset_that_is_none_is_refused(name):
    with pytest.raises(ConfigurationError):
        preset(name)
