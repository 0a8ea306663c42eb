"""Ensembles: one member is itself, alignment by id, the gate, and averaged weights."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import mtlib
from mtlib.data.corpus import Splits
from mtlib.encoders import TINY, find_encoder
from mtlib.errors import CheckpointError, ConfigurationError, DataError
from mtlib.model import MultitaskModel
from mtlib.study import ensembles as e
from mtlib.study.cache import Cache
from mtlib.study.eval_splits import ChoosingHalf, Dev, ReportingHalf, Stored, Test, score_table, task_scores
from mtlib.tasks import QQP, SST, STS
from mtlib.training.evaluation import in_choosing_half
from mtlib.training.runs import Run

IDS = [f"x{i:04d}" for i in range(300)]


def labelled(task, seed=0):
    random = np.random.default_rng(seed)
    return {"sst": random.integers(0, 5, 300), "qqp": random.integers(0, 2, 300), "sts": random.uniform(0, 5, 300)}[
        task
    ]


def predictions(task, skill, seed):
    """Predictions whose probabilities lean to the label as far as `skill` says."""
    random, labels = np.random.default_rng(seed), labelled(task)
    frame = pd.DataFrame({"id": IDS, "label": labels})
    if task == "sts":
        return frame.assign(prediction=labels + random.normal(0, 2 * (1 - skill), 300))
    classes = 5 if task == "sst" else 2
    logits = random.normal(0, 1, (300, classes)) + 4 * skill * np.eye(classes)[labels]
    table = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return frame.assign(prediction=table.argmax(axis=1), **{f"p{k}": table[:, k] for k in range(classes)})


def member(skill, seed):
    tasks = ("sst", "qqp", "sts")
    return Stored({(split, t): predictions(t, skill, seed) for split in ("dev", "test") for t in tasks})


@pytest.mark.parametrize("task", ["sst", "qqp", "sts"])
def test_an_ensemble_of_one_is_its_member(task):
    frame = predictions(task, 0.4, 1)
    pd.testing.assert_frame_equal(e.average([frame], task), frame)
    twice = e.average([frame, frame], task)
    pd.testing.assert_frame_equal(twice, frame)


@pytest.mark.parametrize("task", ["sst", "qqp", "sts"])
def test_members_are_aligned_by_id_whatever_their_order(task):
    first, second = predictions(task, 0.4, 1), predictions(task, 0.4, 2)
    shuffled = second.sample(frac=1, random_state=3)
    found = e.average([first, shuffled], task)
    pd.testing.assert_frame_equal(found, e.average([first, second], task))
    swapped = e.average([shuffled, first], task).set_index("id").loc[IDS].reset_index()
    pd.testing.assert_frame_equal(found, swapped)


def test_the_average_is_that_of_probabilities():
    a = pd.DataFrame({"id": ["1", "2"], "prediction": [0, 1], "p0": [0.9, 0.4], "p1": [0.1, 0.6]})
    b = pd.DataFrame({"id": ["2", "1"], "prediction": [0, 1], "p0": [0.9, 0.4], "p1": [0.1, 0.6]})
    found = e.average([a, b], "qqp")
    assert found[["p0", "p1"]].to_numpy() == pytest.approx(np.array([[0.65, 0.35], [0.65, 0.35]]))
    assert list(found["prediction"]) == [0, 0] and list(found["id"]) == ["1", "2"]
    x, y = pd.DataFrame({"id": ["1"], "prediction": [2.0]}), pd.DataFrame({"id": ["1"], "prediction": [3.0]})
    assert e.average([x, y], "sts")["prediction"].item() == 2.5


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f.iloc[1:], "1 ids are in one system only, such as 'x0000'"),
        (lambda f: f.assign(label=f["label"] + 1), "two different labels"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "occurs twice"),
        (lambda f: f.drop(columns=["p0", "p1", "p2", "p3", "p4"]), "p0, p1"),
    ],
)
def test_members_that_do_not_match_are_refused(change, words):
    frame = predictions("sst", 0.4, 1)
    with pytest.raises(DataError, match=words):
        e.average([frame, change(frame)], "sst")


def test_the_gate_lets_in_by_task_and_the_ensemble_beats_its_members():
    candidates = {"weak": member(0.1, 1), "a": member(0.45, 2), "b": member(0.45, 3), "c": member(0.45, 4)}
    half, thresholds = ChoosingHalf(), {"sst": 0.73, "qqp": 0.75, "sts": 0.87}
    chosen = e.choose(candidates, half, thresholds)
    scores = score_table(candidates, half)
    for task in thresholds:
        assert list(chosen.members[task]) == [n for n in candidates if scores.loc[n, task] >= thresholds[task]]
        assert "weak" not in chosen.members[task]
    assert chosen.notes["sst"] == "SST-5, threshold 0.73: 2 of 4 candidates pass"
    report = ReportingHalf()
    together = task_scores(chosen, report)
    assert together["mean"] > max(task_scores(candidates[name], report)["mean"] for name in "abc")
    assert task_scores(chosen, Test())["mean"] > 0


def test_when_none_passes_the_best_one_stands_alone_and_it_is_said():
    candidates = {"a": member(0.2, 1), "b": member(0.5, 2)}
    chosen = e.choose(candidates, ChoosingHalf(), {"sst": 0.99, "qqp": 0.99, "sts": 1.0})
    assert [list(found) for found in chosen.members.values()] == [["b"]] * 3
    assert "no candidate passes, b with 0." in chosen.notes["qqp"] and "used alone" in chosen.notes["qqp"]
    pd.testing.assert_frame_equal(chosen.predictions("test", "sst"), candidates["b"].predictions("test", "sst"))


def test_forward_selection_takes_at_each_step_what_raises_the_average_most():
    """Against every order of joining, tried one by one: a brute force over candidates and prefixes."""
    candidates = {
        name: member(skill, seed)
        for seed, (name, skill) in enumerate([("weak", 0.1), ("a", 0.4), ("b", 0.42), ("c", 0.38)])
    }
    half = ChoosingHalf()
    chosen = e.select(candidates, half)
    for task, members in chosen.members.items():
        joined, reached = [], -1.0
        while True:
            scores = {}
            for name in candidates:
                if name not in joined:
                    together = e.of_all({each: candidates[each] for each in [*joined, name]})
                    scores[name] = task_scores(together, half, [task])[task]
            better = max(scores, key=scores.get, default=None)
            if better is None or scores[better] <= reached:
                break
            joined, reached = [*joined, better], scores[better]
        assert list(members) == joined and len(joined) > 1
        assert chosen.notes[task].endswith(f"{len(joined)} of 4 candidates, {reached:.3f}")
    with pytest.raises(ConfigurationError, match="at least one candidate"):
        e.select({})


def test_leaders_are_the_best_of_those_with_the_most_tasks():
    candidates = {
        "a": member(0.3, 1),
        "b": member(0.5, 2),
        "narrow": Stored({("dev", "sst"): predictions("sst", 1, 3)}),
    }
    found = e.leaders(candidates)
    assert found["single"] is candidates["b"] and set(found["ensemble"].tasks) == {"sst", "qqp", "sts"}
    assert all("narrow" not in members for members in found["ensemble"].members.values())
    with pytest.raises(ConfigurationError, match="at least one candidate"):
        e.leaders({})


def test_choosing_is_blind_to_the_reporting_half_and_to_test():
    """Whatever stands in the other half of dev and in test, the choice is the same."""

    def spoil(system):
        frames = {}
        for (split, task), frame in system.frames.items():
            hidden = ~in_choosing_half(frame["id"]) | (split == "test")
            frames[split, task] = frame.assign(prediction=frame["prediction"].mask(hidden, 0))
        return Stored(frames)

    candidates = {
        name: member(skill, seed) for seed, (name, skill) in enumerate({"a": 0.3, "b": 0.4, "c": 0.5}.items())
    }
    thresholds = {"sst": 0.6, "qqp": 0.8, "sts": 0.85}
    open_, blind = (
        e.choose(found, ChoosingHalf(), thresholds)
        for found in (candidates, {name: spoil(system) for name, system in candidates.items()})
    )
    assert {t: list(m) for t, m in open_.members.items()} == {t: list(m) for t, m in blind.members.items()}
    assert open_.notes == blind.notes
    open_, blind = (e.select({name: f(system) for name, system in candidates.items()}) for f in (lambda x: x, spoil))
    assert {t: list(m) for t, m in open_.members.items()} == {t: list(m) for t, m in blind.members.items()}
    for part in (Test(), Dev(), ReportingHalf()):
        with pytest.raises(ConfigurationError, match="ChoosingHalf"):
            e.choose(candidates, part, thresholds)
        with pytest.raises(ConfigurationError, match="ChoosingHalf"):
            e.best(candidates, part)
        with pytest.raises(ConfigurationError, match="ChoosingHalf"):
            e.select(candidates, part)


def test_a_task_without_threshold_has_every_candidate():
    candidates = {"a": member(0.4, 1), "b": member(0.6, 2)}
    chosen = e.choose(candidates, ChoosingHalf(), {"sst": 2.0})
    assert len(chosen.members["sst"]) == 1
    assert list(chosen.members["qqp"]) == list(chosen.members["sts"]) == ["a", "b"]
    assert chosen.notes["qqp"] == "QQP, no threshold: every candidate"


def test_no_candidate_and_a_threshold_of_no_task_are_refused():
    with pytest.raises(ConfigurationError, match="at least one"):
        e.choose({}, ChoosingHalf())
    for of_none in (e.of_all, e.best):
        with pytest.raises(ConfigurationError, match="at least one system, found none"):
            of_none({})
    with pytest.raises(ConfigurationError, match="threshold of an unknown task 'stt': known are sst"):
        e.choose({"a": member(0.4, 1)}, ChoosingHalf(), {"stt": 0.5})
    constant = {("dev", "sts"): predictions("sts", 0.5, 1).assign(prediction=1.0)}
    with pytest.raises(ConfigurationError, match="mean: the score of every candidate is undefined"):
        e.best({"a": Stored(constant), "b": Stored(constant)})


def test_the_best_has_the_highest_mean_on_the_choosing_half_and_one_alone_is_not_read():
    candidates = {"a": member(0.2, 1), "b": member(0.6, 2), "c": member(0.4, 3)}
    assert e.best(candidates) == "b" == score_table(candidates, ChoosingHalf())["mean"].idxmax()
    assert e.best({"only": None}) == "only"


def test_an_ensemble_without_a_gate_averages_everybody():
    candidates = {"a": member(0.2, 1), "b": member(0.6, 2)}
    found = e.of_all(candidates)
    frames = [system.predictions("dev", "qqp") for system in candidates.values()]
    pd.testing.assert_frame_equal(found.predictions("dev", "qqp"), e.average(frames, "qqp"))
    assert found.tasks == ["qqp", "sst", "sts"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two tiny models that share an encoder and differ in their heads, one of other tasks and one of another shape."""
    folder = tmp_path_factory.mktemp("models")
    encoder, tokenizer = find_encoder("tiny").load()
    for name, tasks, seed in [("a", (SST, STS), 1), ("b", (SST, STS), 2), ("other", (SST, QQP), 1)]:
        model = MultitaskModel(encoder, tokenizer, tasks, seed=seed).eval()
        model.save_pretrained(folder / name)
    model.temperatures, model.max_tokens = {"sst": 2.0}, 16
    model.save_pretrained(folder / "short")
    small = transformers.BertConfig(vocab_size=len(tokenizer), **TINY | {"intermediate_size": 32})
    narrow = MultitaskModel(transformers.BertModel(small, add_pooling_layer=False), tokenizer, (SST, STS))
    narrow.save_pretrained(folder / "narrow")
    return folder


def test_averaged_weights_of_equal_encoders_average_the_logits(stored):
    """Heads are linear: with the encoder in common the soup's regression is the mean of the members'."""
    texts, pairs = ["A lovely film.", "A mess."], [("a b", "c"), ("One day.", "Another day.")]
    a, b = (MultitaskModel.from_pretrained(stored / name) for name in "ab")
    soup = e.average_weights([stored / "a", stored / "b"])
    mean = (a.predict("sts", pairs)["prediction"] + b.predict("sts", pairs)["prediction"]) / 2
    assert soup.predict("sts", pairs)["prediction"].to_numpy() == pytest.approx(mean.to_numpy(), abs=1e-6)
    alone = e.average_weights([stored / "a", stored / "a"])
    pd.testing.assert_frame_equal(alone.predict("sst", texts), a.predict("sst", texts))


def test_weights_are_averaged_entry_by_entry_in_their_own_type(stored):
    members = (["a"], ["b"], ["a", "b"])
    a, b, soup = (e.average_weights([stored / name for name in names]).state_dict() for names in members)
    for name, tensor in soup.items():
        assert tensor.dtype == a[name].dtype
        assert torch.equal(tensor, ((a[name].double() + b[name].double()) / 2).to(tensor.dtype))


def test_a_soup_has_no_member_s_temperatures(stored):
    assert MultitaskModel.from_pretrained(stored / "short").temperatures == {"sst": 2.0}
    assert e.average_weights([stored / "short", stored / "short"]).temperatures == {}


def test_weights_of_different_models_are_refused(stored):
    with pytest.raises(CheckpointError, match="other: its tasks differ from those of .*a"):
        e.average_weights([stored / "a", stored / "other"])
    with pytest.raises(CheckpointError, match="other: its max_tokens differ from those of .*short"):
        e.average_weights([stored / "short", stored / "other"])
    with pytest.raises(CheckpointError, match="narrow: its weights .* differ in name or shape from those of .*a"):
        e.average_weights([stored / "a", stored / "narrow"])
    with pytest.raises(CheckpointError, match="expected a stored multitask model"):
        e.average_weights([stored / "a", stored / "nothing"])


def test_a_model_is_scored_like_a_run(stored):
    model = MultitaskModel.from_pretrained(stored / "a")
    sst = pd.DataFrame({"id": ["1", "2"], "text_a": ["Good.", "Bad."], "label": [3, 1]})
    sts = pd.DataFrame({"id": ["1", "2"], "text_a": ["a", "b"], "text_b": ["a", "c"], "label": [5.0, 1.0]})
    corpus = {"sst": Splits(sst, sst, sst.drop(columns="label")), "sts": Splits(sts, sts)}
    system = e.predicted(model, corpus)
    assert sorted(system.frames) == [("dev", "sst"), ("dev", "sts"), ("test", "sst")]
    assert list(system.predictions("dev", "sst")["label"]) == [3, 1]
    with pytest.raises(DataError, match="label"):
        Test().predictions(system, "sst")


class Fake(SimpleNamespace):
    """A finished run of an experiment."""

    tasks = ("sst", "qqp", "sts")


def test_cost_counts_every_ancestor_once():
    """Seconds: a 10, mnrl 1; c starts from mnrl, 1,000; d starts from c, 10,000."""
    mnrl, alone = mtlib.pretraining("smoke"), mtlib.experiment("smoke")
    third = mtlib.experiment("smoke", start_from=mnrl)
    fourth = mtlib.experiment("smoke", start_from=third)
    seconds = {alone: 10.0, mnrl: 1.0, third: 1000.0, fourth: 10_000.0}
    made = {
        experiment: Fake(id=experiment.digest, experiment=experiment, seconds=s) for experiment, s in seconds.items()
    }
    run_of = made.__getitem__
    assert e.cost(made[fourth], run_of) == {"models": "1, 1, 1", "seconds": 10_000 + 1000 + 1}
    ensemble = e.Ensemble({"qqp": {"a": made[alone]}, "sst": {"c": made[third], "d": made[fourth]}}, {})
    assert e.cost(ensemble, run_of) == {"models": "1, 2", "seconds": 10 + 10_000 + 1000 + 1}
    soup = e.Soup({("dev", "sst"): None}, (made[third], made[fourth]))
    assert e.cost(soup, run_of) == {"models": "1", "seconds": 10_000 + 1000 + 1}


def test_a_system_names_the_encoders_of_its_own_runs():
    tiny, other = (Fake(experiment=mtlib.experiment("smoke", encoder=name)) for name in ("tiny", "minilm"))
    mixed = e.Ensemble({"qqp": {"a": tiny, "b": other}, "sst": {"a": tiny}}, {})
    assert [e.encoders(each) for each in (other, mixed, e.Soup({("dev", "sst"): None}, (tiny,)))] == [
        "minilm",
        "tiny, minilm",
        "tiny",
    ]


def test_a_soup_of_one_is_the_run_and_is_kept(run, corpus, tmp_path, monkeypatch):
    made = e.soup([run], corpus, Cache(tmp_path))
    for split in ("dev", "test"):
        for task in run.experiment.tasks:
            pd.testing.assert_frame_equal(made.predictions(split, task), run.predictions(split, task), rtol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(e, "average_weights", None)
        kept = e.soup([run], corpus, Cache(tmp_path))
    assert kept.predictions("dev", "sst").equals(made.predictions("dev", "sst"))


def test_a_soup_is_made_of_the_models_that_the_runs_stored(run, corpus, tmp_path):
    copied = Run(shutil.copytree(run.path, tmp_path / run.id))
    other = copied.model()
    with torch.no_grad():
        other.heads["sst"].bias += 1
    other.save_pretrained(copied.path / "model")
    with pytest.raises(CheckpointError, match="multitask.json: changed since it was written"):
        e.soup([run, copied], corpus)
