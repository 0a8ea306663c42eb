"""Configuration: strict, with faults that name the key, and an identity that is what is trained."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import mtlib
from mtlib.config import Experiment, checked, preset, presets_folder
from mtlib.errors import ConfigurationError
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.smart import Smart

PRESETS = ("smoke", "tour", "third", "laptop", "paper")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name):
    experiment = mtlib.experiment(name)
    assert experiment.encoder
    assert mtlib.pretraining(name).encoder == experiment.encoder


def test_the_presets_are_the_files():
    assert {path.stem for path in presets_folder().glob("*.yaml")} == set(PRESETS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learing_rate": 1e-5}, "unknown key 'learing_rate' .did you mean 'learning_rate'"),
        ({"learning_rate": "1e-5"}, "learning_rate: .*found '1e-5' .YAML reads 1e-5 as text: write 1.0e-5"),
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
        ({"penalties": [{"kind": "bregman", "weight": 1.0, "decay": 1.0}]}, "penalties.decay: .*less than 1"),
        ({"penalties": [Smart(weight=1.0), Smart(weight=2.0)]}, "a kind of penalty is given twice"),
        (
            {"penalties": [Smart(weight=1.0, dropout="shared"), Bregman(weight=1.0, decay=0.9)]},
            "their dropout policies must be equal",
        ),
        ({"precision": "float16"}, "precision: .*found 'float16'"),
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
    content["experiment"]["batch_size"] = 3
    path = Path(tmp_path / "mine.yaml")
    path.write_text(yaml.safe_dump(content))
    assert mtlib.experiment(str(path)).batch_size == 3


CHANGES = {
    "pooling": "cls",
    "tasks": ("qqp", "sst", "sts"),
    "sampler": "annealed",
    "penalties": [Smart(weight=1.0)],
    "epochs": 3,
    "steps": 5,
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
}


def test_identity_changes_with_every_field_but_the_names_of_things():
    base = mtlib.experiment("smoke")
    identities = {key: mtlib.experiment("smoke", **{key: value}).identity("c", "w") for key, value in CHANGES.items()}
    assert len(set(identities.values()) | {base.identity("c", "w")}) == len(CHANGES) + 1
    named = {"name", "encoder", "encoder_revision", "start_from"}
    assert set(CHANGES) | named == set(Experiment.model_fields)
    assert mtlib.experiment("smoke", name="other", encoder="minilm").identity("c", "w") == base.identity("c", "w")
    assert len({base.identity("c", "w"), base.identity("d", "w"), base.identity("c", "v")}) == 3


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
