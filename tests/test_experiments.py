"""Configuration: strict, with faults that name the key, and an identity that is what is trained."""

import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import mtlib
from mtlib import experiments
from mtlib.checking import checked
from mtlib.errors import ConfigurationError
from mtlib.experiments import Experiment, Pretraining
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.penalty import Penalty
from mtlib.objectives.smart import Smart
from mtlib.presets import REPORT, dialled, preset, preset_names, presets_folder
from mtlib.samplers import RoundRobin
from mtlib.study.study import Study

PRESETS = (
    "smoke",
    "tour",
    "afternoon",
    "gpu",
    "gpu-beyond",
    "laptop",
    "base",
    "best-laptop",
    "best-base",
    "taught-laptop",
    "paper",
)


def test_the_teacher_of_taught_laptop_is_the_model_of_best_base():
    assert mtlib.experiment("taught-laptop").teachers == (mtlib.experiment("best-base"),)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name):
    experiment = mtlib.experiment(name)
    assert experiment.encoder
    assert mtlib.pretraining(name).encoder == experiment.encoder


def test_the_presets_are_the_files():
    assert {path.stem for path in presets_folder().glob("*.yaml")} == set(PRESETS) == set(preset_names())


def test_every_penalty_of_the_library_is_known_before_anybody_imports_it():
    code = "import mtlib; print(mtlib.experiment('smoke', penalties=[{'kind': 'smart', 'weight': 1.0}]).label)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "round-robin-smart-1\n", done.stderr


@given(st.integers(1, 100), st.integers(1, 10_000), st.floats(1e-4, 1))
def test_the_dial_is_the_share_of_the_steps(epochs, steps, dial):
    some, each = dialled(epochs, steps, dial)
    assert 1 <= some <= epochs and each >= 1
    assert abs(some * each - epochs * steps * dial) <= some / 2 or each == 1
    assert dialled(epochs, steps, 1.0) == (epochs, steps)


def test_the_paper_preset_is_the_report(monkeypatch):
    experiment = mtlib.experiment("paper")
    assert {key: getattr(experiment, key) for key in REPORT} == REPORT
    assert experiment.encoder == "google-bert/bert-base-uncased" and preset("paper").corpus == "hub"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learing_rate": 1e-5}, "unknown key 'learing_rate' .did you mean 'learning_rate'"),
        ({"learning_rate": "1e-5"}, "learning_rate: .*found '1e-5' .YAML reads 1e-5 as text: write 1.0e-5"),
        ({"learning_rate": "one"}, "learning_rate: .*found 'one'$"),
        ({"learning_rate": -1e-5}, "learning_rate: .*greater than 0, found -1e-05"),
        ({"learning_rate": math.nan}, "learning_rate: .*found nan"),
        ({"learning_rate": math.inf}, "learning_rate: .*found inf"),
        ({"epochs": True}, "epochs: .*found True"),
        ({"epochs": 0}, "epochs: .*found 0"),
        ({"epochs": 2.0}, "epochs: .*found 2.0"),
        ({"betas": (0.9, 1.0)}, "betas.1: .*less than 1, found 1.0"),
        ({"tasks": ("sst", "foo")}, "tasks: unknown task 'foo'"),
        ({"tasks": ("sst", "sst")}, "tasks: a task is named twice"),
        ({"tasks": ()}, "tasks: expected at least one task"),
        ({"sampler": "anealed"}, "sampler: unknown sampler 'anealed' .did you mean 'annealed'"),
        ({"sampler": {"kind": "annealed", "alpha": 1.0}}, "unknown key 'sampler.alpha'"),
        ({"penalties": [{"kind": "smrt", "weight": 1.0}]}, "unknown penalty 'smrt' .did you mean 'smart'"),
        ({"penalties": [{"kind": "smart", "weight": -1.0}]}, "penalties.weight: .*found -1.0"),
        ({"penalties": [{"kind": "smart", "weight": 1.0, "raduis": 0.1}]}, "'penalties.raduis' .did you mean 'radius'"),
        ({"penalties": [{"kind": "bregman", "weight": 1.0, "decay": 1.0}]}, "penalties.decay: .*less than 1"),
        ({"penalties": [Smart(weight=1.0), Smart(weight=2.0)]}, "a kind of penalty is given twice"),
        (
            {"penalties": [Bregman(weight=1.0, decay=0.9, dropout="shared")]},
            "bregman makes no second pass to share a mask with",
        ),
        (
            {"penalties": [Smart(weight=1.0, dropout="shared"), Bregman(weight=1.0, decay=0.9)]},
            "their dropout policies must be equal",
        ),
        ({"precision": "float16"}, "precision: .*found 'float16'"),
        ({"epochs": 10**9, "steps_per_epoch": 1}, "at most 100,000,000 optimizer steps, .*, found 1,000,000,000"),
        ({"epochs": 10**4 + 1, "steps_per_epoch": 10**4}, "at most 100,000,000 optimizer steps, .*found 100,010,000"),
        ({"trust_remote_code": True}, "unknown key 'trust_remote_code'"),
    ],
)
def test_faults_are_refused_by_name(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        mtlib.experiment("smoke", **changes)


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigurationError, match="unknown preset 'tuor' .did you mean 'tour'"):
        mtlib.experiment("tuor")


@pytest.mark.parametrize("text", ["corpus: sample\nexperimnt: {}\n", "experiment: {}\n", "corpus: [\n", "just text"])
def test_a_preset_file_with_faults_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="mine.yaml"):
        preset(str(path))


def test_a_preset_file_of_ones_own_works(tmp_path):
    content = yaml.safe_load((presets_folder() / "smoke.yaml").read_text())
    content["experiment"]["warmup"] = 0.5
    path = Path(tmp_path / "mine.yaml")
    path.write_text(yaml.safe_dump(content))
    assert mtlib.experiment(str(path)).warmup == 0.5


CHANGES = {
    "pooling": "cls",
    "tasks": ("qqp", "sst", "sts"),
    "sampler": "annealed",
    "step": "joint",
    "penalties": [Smart(weight=1.0)],
    "epochs": 3,
    "steps_per_epoch": 5,
    "batch_size": 9,
    "learning_rate": 2e-5,
    "weight_decay": 0.0,
    "betas": (0.8, 0.999),
    "warmup": 0.2,
    "schedule": "halve",
    "clip": 2.0,
    "precision": "float32",
    "max_tokens": 32,
    "head_dropout": 0.1,
    "seed": 1,
    "dev_limit": 50,
    "layer_decay": 0.9,
    "head_rate": 10.0,
    "losses": {"sst": "ordinal"},
    "averages": ["ema"],
    "phrases": 0.5,
    "conflicts": 20,
    "teachers": [Experiment(seed=7)],
}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_head_dropout_that_nothing_draws_is_refused(weight):
    for dropout in ("independent", "shared"):
        if weight or dropout == "independent":
            penalties = [Smart(weight=weight, dropout=dropout)]
            assert mtlib.experiment("smoke", penalties=penalties, head_dropout=0.9).head_dropout == 0.9
    assert mtlib.experiment("smoke", penalties=[Smart(weight=weight)], head_dropout=0.0).dropout == "off"
    with pytest.raises(ConfigurationError, match="head_dropout: 0.9 changes nothing beside penalties whose dropout"):
        mtlib.experiment("smoke", penalties=[Smart(weight=weight)], head_dropout=0.9)
    with pytest.raises(ConfigurationError, match="head_dropout: .*, found 0.9"):
        mtlib.pretraining("smoke", head_dropout=0.9)


def test_identity_changes_with_every_field_but_the_names_of_things():
    base = mtlib.experiment("smoke")
    identities = {key: mtlib.experiment("smoke", **{key: value}).identity("c", "w") for key, value in CHANGES.items()}
    assert len(set(identities.values()) | {base.identity("c", "w")}) == len(CHANGES) + 1
    averaged = mtlib.experiment("smoke", averages=CHANGES["averages"])
    assert averaged.but(stored="ema").digest != averaged.digest
    named = {"name", "encoder", "encoder_revision", "start_from"}
    elsewhere = {"aggregate", "soft_share", "temperature"}  # in test_aggregation.py, test_distillation.py
    assert {*CHANGES, "stored"} | elsewhere | named == set(Experiment.model_fields)
    assert mtlib.experiment("smoke", name="other", encoder="minilm").identity("c", "w") == base.identity("c", "w")
    assert len({base.identity("c", "w"), base.identity("d", "w"), base.identity("c", "v")}) == 3


def test_changes_and_seeds_reach_what_they_should():
    ranked = mtlib.pretraining("smoke")
    child = mtlib.experiment("smoke", start_from=ranked)
    assert child.but(epochs=7).epochs == 7 and child.but(epochs=7).start_from == ranked
    assert child.at(3).seed == 3 and child.at(3).start_from == ranked.but(seed=3)
    with pytest.raises(ConfigurationError, match="unknown key 'epoch' .did you mean 'epochs'"):
        child.but(epoch=7)


def test_the_encoder_is_that_of_what_it_starts_from():
    ranked = mtlib.pretraining("smoke")
    assert Experiment(start_from=ranked).encoder == ranked.encoder == "tiny"
    with pytest.raises(ConfigurationError, match="encoder: expected 'tiny', that of start_from, found 'minilm'"):
        mtlib.experiment("smoke", start_from=ranked, encoder="minilm")


def test_equal_experiments_have_one_digest_whatever_they_are_called():
    ranked = mtlib.pretraining("smoke")
    child = mtlib.experiment("smoke", start_from=ranked)
    assert child.but(name="x", start_from=ranked.but(name="y")).digest == child.digest
    assert len({child.digest, child.at(1).digest, child.but(start_from=ranked.at(1)).digest}) == 3


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "round-robin"),
        ({"sampler": "annealed", "penalties": [Smart(weight=15.0)]}, "annealed-smart-15"),
        ({"sampler": "annealed", "penalties": [Smart(weight=0.0)]}, "annealed-dropout-off"),
        (
            {"penalties": [Smart(weight=1.0, mode="ball", radius=0.03)], "seed": 2},
            "round-robin-smart-1-ball-0.03-seed-2",
        ),
        ({"penalties": [Smart(weight=1.0, direction="random")]}, "round-robin-smart-1-random"),
        ({"penalties": [Bregman(weight=0.3, decay=0.99, late_decay=0.999)]}, "round-robin-bregman-0.3-0.99-0.999"),
    ],
)
def test_a_run_is_called_after_what_sets_it_apart(changes, label):
    assert mtlib.experiment("smoke", **changes).label == label


def test_penalty_settings_are_part_of_the_identity():
    weights = [mtlib.experiment("smoke", penalties=[Smart(weight=w)]).identity("c", "w") for w in (1.0, 2.0)]
    assert weights[0] != weights[1]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 50),
            "learning_rate": st.floats(1e-7, 1e-1),
            "sampler": st.sampled_from(["annealed", "proportional", "square_root", "round_robin"]),
            "penalties": st.lists(
                st.sampled_from([Smart(weight=0.1 + 0.2), Bregman(weight=3.0, decay=0.9)]), max_size=2, unique_by=type
            ),
            "seed": st.integers(0, 2**40),
        },
    )
)
def test_a_dumped_experiment_reads_back_to_itself(changes):
    experiment = mtlib.experiment("smoke", **changes)
    import json

    content = json.loads(json.dumps(experiment.model_dump(mode="json")))
    back = checked(Experiment, content, "dump")
    assert back == experiment
    assert back.identity("c", "w") == experiment.identity("c", "w")
    child = Experiment(start_from=Pretraining(start_from=experiment))
    assert checked(Experiment, json.loads(json.dumps(child.model_dump(mode="json"))), "dump") == child


DEFAULTS_OF_FORMAT_3 = {
    "epochs": 10,
    "steps_per_epoch": 300,
    "batch_size": 16,
    "learning_rate": 1e-5,
    "weight_decay": 1e-4,
    "betas": (0.9, 0.999),
    "warmup": 0.0,
    "schedule": "constant",
    "clip": 1.0,
    "precision": "auto",
    "max_tokens": 128,
    "head_dropout": 0.0,
    "seed": 0,
    "pooling": "mean",
    "start_from": None,
    "tasks": ("sst", "qqp", "sts"),
    "sampler": RoundRobin(),
    "penalties": (),
    "dev_limit": None,
}


def test_another_default_needs_another_format_for_identity_is_what_differs_from_defaults():
    assert experiments.FORMAT == 3, "then this table is of another format: write it anew"
    fields = Experiment.model_fields
    assert {name: fields[name].default for name in DEFAULTS_OF_FORMAT_3} == DEFAULTS_OF_FORMAT_3
    assert experiments.said(Experiment()) == {"": "Experiment"}


def test_what_a_penalty_of_ones_own_calls_name_is_part_of_the_identity():
    class Named(Penalty):
        kind: Literal["named"] = "named"
        name: str = ""

    one, other = (experiments.said(Experiment(penalties=[Named(weight=1.0, name=n)]), but=("name",)) for n in "ab")
    assert one != other


@pytest.mark.parametrize(
    "function, model",
    [(mtlib.experiment, Experiment), (mtlib.pretraining, Pretraining), (Study.experiment, Experiment)],
)
def test_what_an_editor_completes_are_the_fields(function, model):
    shown = inspect.signature(function).parameters.values()
    assert {each.name for each in shown if each.kind is each.KEYWORD_ONLY} == set(model.model_fields)


@pytest.mark.parametrize("again", ["dial: 1", "experiment: {max_tokens: 16, max_tokens: 32}"])
def test_a_key_that_is_given_twice_is_refused(tmp_path, again):
    path = tmp_path / "mine.yaml"
    path.write_text((presets_folder() / "smoke.yaml").read_text().replace("experiment:", "x:") + f"\n{again}\n")
    with pytest.raises(ConfigurationError, match="mine.yaml: .*key '(dial|max_tokens)' is given twice"):
        preset(str(path))
