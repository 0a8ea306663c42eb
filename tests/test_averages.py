"""Averaged weights: closed forms, no effect on the training, and what a run keeps of them."""

import pandas as pd
import pytest
import torch
from conftest import made_up_corpus
from torch import nn

import mtlib
from mtlib.averages import Average, Ema, Lawa
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.tasks import SST
from mtlib.training.evaluation import scores

AVERAGES = {"ema": Ema(decay=0.9, every=2), "lawa": Lawa(window=2)}
every_average = pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)


def model(value: float) -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            tensor.fill_(value)
    return made


def moved(average: Average, values: list[float], per_epoch: int = 1, start: float = 0.0) -> Average:
    """The average after its model had these weights after step 0, 1, ..."""
    working = average.start(model(start), per_epoch)
    for number, value in enumerate(values):
        working.after_step(model(value), number)
    return working


def weight(average: Average) -> float:
    values = {round(float(value), 6) for tensor in average.model().parameters() for value in tensor.flatten()}
    assert len(values) == 1
    return values.pop()


def test_of_a_constant_student_ema_is_the_product_of_its_decays():
    working = moved(Ema(decay=0.5, every=1), [1.0] * 4)
    share = 1.0
    for n in range(4):
        share *= min(0.5, (1 + n) / (10 + n))
    assert weight(working) == pytest.approx(1 - share, rel=1e-5)


def test_ema_once_its_decay_is_reached_is_torchs():
    decay, values = 0.2, [1.0, -2.0, 0.5, 3.0]
    ours = moved(Ema(decay=decay, every=1), values)
    theirs = torch.optim.swa_utils.AveragedModel(
        model(0.0), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    )
    theirs.n_averaged.fill_(1)  # else the first update copies
    expected = 0.1 * 0.0 + 0.9 * 1.0  # our first updates have the decays 1/10 and 2/11
    theirs.module.load_state_dict(model(expected).state_dict())
    expected = 2 / 11 * expected + 9 / 11 * -2.0
    theirs.module.load_state_dict(model(expected).state_dict())
    for value in values[2:]:
        theirs.update_parameters(model(value))
    assert weight(ours) == pytest.approx(next(theirs.parameters()).flatten()[0].item(), rel=1e-5)


def test_ema_moves_every_so_many_steps():
    assert weight(moved(Ema(every=3), [1.0, 1.0])) == 0
    assert weight(moved(Ema(every=3), [5.0, 5.0, 1.0])) == pytest.approx(0.9)


def test_lawa_is_the_mean_of_the_last_epochs_ends():
    values = [float(v) for v in range(1, 13)]  # epochs of three steps end with 3, 6, 9, 12
    assert weight(moved(Lawa(window=3), values[:2], 3, start=7.0)) == 7
    assert weight(moved(Lawa(window=3), values[:3], 3)) == 3
    assert weight(moved(Lawa(window=3), values[:6], 3)) == 4.5
    assert weight(moved(Lawa(window=3), values, 3)) == 9


@every_average
def test_an_average_continues_from_its_state_and_refuses_another(average):
    whole = moved(average, [1.0, 4.0, 2.0, 8.0, 3.0])
    half = moved(average, [1.0, 4.0])
    other = average.start(model(99.0), 1)
    other.load_state({name: tensor.clone() for name, tensor in half.state().items()})
    for number, value in enumerate([2.0, 8.0, 3.0], 2):
        other.after_step(model(value), number)
    assert all(torch.equal(whole.state()[name], tensor) for name, tensor in other.state().items())
    for wrong in ({}, {**half.state(), "0.weight": torch.zeros(1)}):
        with pytest.raises(CheckpointError, match=f"average {average.kind}"):
            other.load_state(wrong)


@every_average
def test_weights_that_are_not_contiguous_come_back(average):
    turned = model(1.0)
    turned[0].weight = nn.Parameter(torch.arange(6.0).view(3, 2).t())
    kept = average.start(turned, 1)
    other = average.start(model(99.0), 1)
    other.model()[0].weight.data = torch.zeros(3, 2).t()
    other.load_state(kept.state())
    assert torch.equal(other.model()[0].weight, turned[0].weight)


@every_average
def test_the_configured_value_never_changes_and_integer_buffers_are_the_models(average):
    working = moved(average, [1.0, 4.0, 5.0, 6.0])
    assert working.model()[1].num_batches_tracked == 6
    assert not any(parameter.requires_grad for parameter in working.model().parameters())
    with pytest.raises(RuntimeError, match="start"):
        average.model()


@every_average
def test_averages_are_equal_by_their_fields_before_and_after_the_start(average):
    same = type(average).model_validate(average.model_dump())
    working = moved(average, [1.0, 4.0])
    assert average == same == working == moved(same, [2.0]) and len({average, same, working}) == 1
    assert average != AVERAGES["ema" if average.kind == "lawa" else "lawa"] and average != average.kind
    assert type(average)() != average
    experiments = [mtlib.experiment("smoke", averages=[each]) for each in (average, same)]
    assert experiments[0] == experiments[1] and len(set(experiments)) == 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Plain, with both averages, and storing each of them."""
    folder, corpus = tmp_path_factory.mktemp("averages"), made_up_corpus((SST,))
    plain = mtlib.experiment("smoke", tasks=["sst"])
    both = plain.but(averages=list(AVERAGES.values()))
    experiments = {"plain": plain, "both": both, **{name: both.but(stored=name) for name in AVERAGES}}
    return {name: mtlib.fit(each, corpus, folder, progress="none") for name, each in experiments.items()}


def test_averages_change_nothing_of_the_training(runs):
    plain, both = runs["plain"], runs["both"]
    shared = [name for name in plain.history if name != "seconds"]
    pd.testing.assert_frame_equal(plain.history[shared], both.history[shared])
    states = [run.model().state_dict() for run in (plain, both)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert plain.scores == both.scores and plain.identity != both.identity


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_scored_beside_the_run_and_stored_where_it_says_so(runs, name):
    both, stored = runs["both"], runs[name]
    frame = both.predictions(name, "sst")
    assert both.read("scores.json")[name]["sst"] == scores({"sst": frame})["sst"]
    assert both.history[f"{name}_sst"].notna().all()
    columns = ["train_loss", "sst"]
    pd.testing.assert_frame_equal(both.history[columns], stored.history[columns])
    if stored.best_epoch == stored.experiment.epochs:
        pd.testing.assert_frame_equal(stored.predictions("dev", "sst"), frame)
    own, kept = both.model().state_dict(), stored.model().state_dict()
    assert any(not torch.equal(own[key], kept[key]) for key in own)
    assert name in stored.id


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stored": "ema"}, "expected one of own, found 'ema'"),
        ({"averages": ["ema", "ema"]}, "given twice"),
        ({"averages": [{"kind": "ema", "decay": 1.0}]}, "less than 1"),
        ({"averages": ["laws"]}, "did you mean 'lawa'"),
        ({"averages": [Ema(every=13)], "stored": "ema"}, "at most the run's 12 steps, found 13"),
    ],
)
def test_what_cannot_be_averaged_is_refused(changes, expected):
    with pytest.raises(ConfigurationError, match=expected):
        mtlib.experiment("smoke", **changes)


def test_an_average_that_moves_once_may_be_stored_and_one_that_never_does_may_be_scored():
    assert mtlib.experiment("smoke", averages=[Ema(every=12)], stored="ema").steps == 12
    assert mtlib.experiment("smoke", averages=[Ema(every=13)]).stored == "own"
