"""SMART taken apart: the ladder's first rung is plain training, its numbers are the log's, its answer follows."""

import pandas as pd
import pytest
import torch
import yaml

from mtlib.objectives.smart import Smart
from mtlib.study import ablation, sampling
from mtlib.study.grids import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory, corpus):
    """A study of a few steps of a random encoder on the made-up corpus."""
    folder = tmp_path_factory.mktemp("study")
    preset = {
        "corpus": "sample",
        "experiment": {"encoder": "tiny", "epochs": 2, "steps": 3, "batch_size": 4, "max_tokens": 32, "dev_limit": 20},
        "choices": {"radii": [0.1], "ball_weight": 1.0},
    }
    (folder / "preset.yaml").write_text(yaml.safe_dump(preset))
    study = Study(str(folder / "preset.yaml"), "sample", folder / "results", progress="none")
    study.corpus = corpus
    return study


@pytest.fixture(scope="module")
def ladder(study):
    return ablation.ladder(study, "ball", 0.1)


def test_no_penalty_with_independent_masks_is_plain_training(study, ladder):
    zero = study.run("zero", sampler="annealed", penalties=[Smart(weight=0.0, dropout="independent")])
    assert zero.id != ladder["none"].id and zero.scores == ladder["none"].scores
    first, second = (dict(run.model().named_parameters()) for run in (zero, ladder["none"]))
    assert all(torch.equal(first[name], second[name]) for name in first)
    off = study.run("off", sampler="annealed", penalties=[Smart(weight=0.0, dropout="off")])
    assert any(not torch.equal(p, first[name]) for name, p in off.model().named_parameters())


def test_rungs_differ_in_the_direction_alone(ladder):
    assert tuple(ladder) == ablation.LADDER
    changed = [set(ladder[name].experiment.penalties[0].model_dump().items()) for name in ("random", "adversarial")]
    assert {key for key, _ in changed[0] ^ changed[1]} == {"direction"}
    experiments = [run.experiment.model_copy(update={"name": "", "penalties": ()}) for run in ladder.values()]
    assert all(experiment == experiments[0] for experiment in experiments)
    penalties = [run.experiment.penalties[0] for name, run in ladder.items() if name != "none"]
    assert {penalty.weight for penalty in penalties} == {1.0}
    assert {penalty.dropout for penalty in penalties} == {"independent"}


def test_realised_numbers_are_the_logs(ladder):
    numbers = {name: ablation.realised(run) for name, run in ladder.items()}
    assert numbers["consistency"]["radius"] == 0
    for name in ("random", "adversarial"):
        assert numbers[name]["radius"] == pytest.approx(0.1, rel=1e-2)
    assert numbers["adversarial"]["last penalty"] == ladder["adversarial"].history["smart/penalty"].iloc[-1]
    assert pd.isna(numbers["none"]["radius"]) and numbers["none"]["skipped"] == 0


def test_a_single_radius_is_the_best_one(study):
    assert ablation.best_radius(study) == 0.1


def rungs(**steps):
    rows = [
        {"system": name, "task": "mean", "difference": change, "low": change - 0.01, "high": change + 0.01}
        | {"resolved": resolved}
        for name, (change, resolved) in steps.items()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("consistency", "random", "adversarial", "start"),
    [
        ((0.1, "yes"), (0.1, "yes"), (0.1, "yes"), "the adversary, which is better"),
        ((0.1, "yes"), (0.1, "yes"), (-0.1, "yes"), "not the adversary, which is worse"),
        ((0.1, "no"), (0.1, "yes"), (0.1, "no"), "random helped; what the adversary adds is not resolved"),
        ((0.1, "yes"), (-0.1, "yes"), (0.1, "no"), "consistency helped"),
        ((-0.1, "yes"), (0.0, "no"), (0.1, "no"), "neither can be told"),
        ((0.0, "no"), (float("nan"), "undefined"), (0.1, "yes"), "undefined"),
    ],
)
def test_answer(consistency, random, adversarial, start):
    assert ablation.answer(rungs(consistency=consistency, random=random, adversarial=adversarial)).startswith(start)


def test_draws_are_counted_against_the_samplers_probabilities(study, ladder):
    sizes = {"sst": 10, "qqp": 60, "sts": 30}
    runs = {"round robin": study.baseline(), "annealed": ladder["none"]}
    table = sampling.draws(runs["annealed"], sizes)
    assert (table.groupby("epoch")[["probability", "share"]].sum().round(12) == 1).all(axis=None)
    expected = {name: n / sum(sizes.values()) for name, n in sizes.items()}
    assert table[table["epoch"] == 1].set_index("task")["probability"].to_dict() == pytest.approx(expected)
    totals = sampling.totals(runs, sizes).set_index(["sampler", "task"])
    assert totals.loc["round robin", "batches"].tolist() == [2, 2, 2]
    assert totals.loc["round robin", "expected"].tolist() == pytest.approx([2, 2, 2])
    assert totals["batches"].groupby("sampler").sum().tolist() == [6, 6]
    assert totals.loc[("round robin", "sts"), "passes"] == pytest.approx(2 * 4 / sizes["sts"])
