"""Comparisons against closed forms, scipy and simulation; the halves of dev."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mtlib.errors import ConfigurationError, DataError
from mtlib.metrics import similarity_score
from mtlib.study import statistics as s
from mtlib.study.parts import (
    ChoosingHalf,
    Dev,
    ReportingHalf,
    Stored,
    Test,
    aligned,
    require_choosing,
    task_scores,
)
from mtlib.training.evaluation import in_choosing_half


def classes(right, labels=None):
    """Predictions of QQP that are right where `right` says so."""
    right = np.asarray(right, bool)
    labels = np.arange(len(right)) % 2 if labels is None else labels
    return pd.DataFrame(
        {
            "id": [f"q{i:05d}" for i in range(len(right))],
            "label": labels,
            "prediction": np.where(right, labels, 1 - labels),
        }
    )


def values(labels, predictions):
    ids = [f"s{i:05d}" for i in range(len(labels))]
    return pd.DataFrame({"id": ids, "label": np.asarray(labels, float), "prediction": np.asarray(predictions, float)})


def system(seed, n=400, skill=0.8, noise=1.0):
    """A system with predictions for three tasks on the same examples as every other."""
    base, own = np.random.default_rng(7), np.random.default_rng(seed)
    sst = base.integers(0, 5, n)
    similarity = base.uniform(0, 5, n)
    frames = {
        "sst": values(sst, np.where(own.random(n) < skill, sst, (sst + 1) % 5)),
        "qqp": classes(own.random(n) < skill),
        "sts": values(similarity, similarity + own.normal(0, noise, n)),
    }
    return Stored({(split, task): frame for split in ("dev", "test") for task, frame in frames.items()})


def test_bootstrap_of_accuracy_is_the_binomial_distribution():
    frames = [classes(np.arange(200) < 150), classes(np.arange(200) % 2 == 0)]
    drawn = s.resampled_scores(frames, "qqp", draws=40_000)
    assert drawn.mean(axis=0) == pytest.approx([0.75, 0.5], abs=1e-3)
    assert drawn.std(axis=0) == pytest.approx(np.sqrt([0.75 * 0.25 / 200, 0.25 / 200]), rel=0.02)
    both = (frames[0]["label"] == frames[0]["prediction"]) & (frames[1]["label"] == frames[1]["prediction"])
    covariance = (both.mean() - 0.75 * 0.5) / 200
    assert np.cov(drawn.T)[0, 1] == pytest.approx(covariance, abs=3e-5)


def test_many_systems_are_drawn_from_the_same_distribution_as_two():
    """With many patterns of right and wrong examples are drawn one by one; mean and covariance stay the same."""
    right = np.random.default_rng(0).random((300, 9)) < 0.7
    drawn = s.resampled_scores([classes(column) for column in right.T], "qqp", draws=20_000)
    assert len(np.unique(right, axis=0)) > 300 // 8
    assert drawn.mean(axis=0) == pytest.approx(right.mean(axis=0), abs=1.5e-3)
    assert np.cov(drawn.T) == pytest.approx(np.cov(right.T, ddof=0) / 300, abs=3e-5)


def test_bootstrap_of_pearson_agrees_with_scipy_and_scores():
    random = np.random.default_rng(1)
    labels = random.uniform(0, 5, 150)
    frame = values(labels, labels + random.normal(0, 1, 150))
    drawn = s.resampled_scores([frame], "sts", draws=6000)[:, 0]
    data = (frame["label"].to_numpy(), frame["prediction"].to_numpy())
    public = stats.bootstrap(
        data, similarity_score, paired=True, vectorized=False, n_resamples=1500, method="percentile", rng=random
    )
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx(list(public.confidence_interval), abs=2e-3)
    assert drawn.mean() == pytest.approx(similarity_score(*data), abs=2e-3)


def test_pearson_of_a_draw_is_the_pearson_of_its_rows():
    random = np.random.default_rng(2)
    y, x = random.normal(10, 1, 30), random.normal(-5, 3, (30, 2))
    picked = np.random.default_rng(3).integers(30, size=(4, 30))
    drawn = s._resampled_pearson(y, x, 4, np.random.default_rng(3))
    for draw, rows in zip(drawn, picked, strict=True):
        expected = [stats.pearsonr(x[rows, k], y[rows]).statistic for k in (0, 1)]
        assert draw == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["accuracy", "pearson"])
def test_intervals_cover_the_true_difference(kind):
    """Nominal 95 % intervals of a known difference, 200 simulated dev sets."""
    random, hits, trials = np.random.default_rng(4), 0, 200
    for trial in range(trials):
        if kind == "accuracy":
            task, right = "qqp", random.random(250) < 0.7
            repaired = ~right & (random.random(250) < 0.25)  # the second mends a quarter of the first's mistakes
            first, second, truth = classes(right), classes(right | repaired), 0.25 * 0.3
        else:
            task = "sts"
            labels = random.normal(0, 1, 250)
            first = values(labels, labels + random.normal(0, 1, 250))
            second = values(labels, labels + random.normal(0, 0.7, 250))
            truth = (1 / np.sqrt(1.49) - 1 / np.sqrt(2)) / 2
        drawn = s.resampled_scores([first, second], task, draws=400, seed=trial)
        low, high = np.quantile(drawn[:, 1] - drawn[:, 0], [0.025, 0.975])
        hits += low <= truth <= high
    assert 0.91 <= hits / trials <= 0.985


def test_compare_ignores_the_order_of_rows_and_is_deterministic():
    systems = {"a": system(1), "b": system(2, skill=0.9, noise=0.5)}
    shuffled = {
        name: Stored({key: frame.sample(frac=1, random_state=5) for key, frame in found.frames.items()})
        for name, found in systems.items()
    }
    table = s.compare(systems, "a", Dev(), draws=2000)
    pd.testing.assert_frame_equal(table, s.compare(shuffled, "a", Dev(), draws=2000))
    assert not table["low"].equals(s.compare(systems, "a", Dev(), draws=2000, seed=1)["low"])


def test_compare_resolves_a_large_difference_and_not_an_absent_one():
    a, better, twin = system(1), system(2, skill=0.98, noise=0.4), system(3)
    table = s.compare({"a": a, "better": better, "twin": twin, "same": a}, "a", ReportingHalf(), draws=2000)
    table = table.set_index(["system", "task"])
    assert (table.loc["better", "resolved"] == "yes").all()
    assert (table.loc["twin", "resolved"] == "no").all()
    same = table.loc["same"]
    assert (same["difference"] == 0).all() and (same["low"] == 0).all() and (same["p"] == 1).all()
    expected = task_scores(better, ReportingHalf())["mean"] - task_scores(a, ReportingHalf())["mean"]
    assert table.loc[("better", "mean"), "difference"] == pytest.approx(expected)
    assert table["p_mcnemar"].notna().groupby("task").all().to_dict() == {
        "sst": True, "qqp": True, "sts": False, "mean": False
    }  # fmt: skip


def test_differences_change_sign_with_the_baseline():
    a, b = system(1), system(2, skill=0.85)
    forward, backward = s.paired_bootstrap(a, b, Dev(), draws=3000), s.paired_bootstrap(b, a, Dev(), draws=3000)
    assert forward["difference"].to_numpy() == pytest.approx(-backward["difference"].to_numpy())
    assert forward["low"].to_numpy() == pytest.approx(-backward["high"].to_numpy(), abs=4e-3)


def test_seeds_widen_the_interval_by_their_own_variance():
    """Two systems of two runs: the draws' variance is that of examples plus s^2 / n of the seeds."""
    weights = s._seed_weights(3, 200_000, 0, "a")
    scores = np.array([0.70, 0.74, 0.81])
    assert weights.sum(axis=1) == pytest.approx(1)
    assert (weights @ scores).mean() == pytest.approx(scores.mean(), abs=1e-3)
    assert (weights @ scores).var() == pytest.approx(scores.var(ddof=1) / 3, rel=0.02)
    runs = [system(1, skill=0.75), system(2, skill=0.85)]
    table = s.compare({"a": system(3), "b": runs}, "a", Dev(), draws=4000).set_index("task")
    single = s.compare({"a": system(3), "b": runs[1]}, "a", Dev(), draws=4000).set_index("task")
    assert table.loc["sst", "seeds"] == 2 and np.isnan(table.loc["sst", "p_mcnemar"])
    width = table["high"] - table["low"]
    assert width["sst"] > (single["high"] - single["low"])["sst"]
    means = [task_scores(run, Dev())["sst"] for run in runs]
    assert table.loc["sst", "score"] == pytest.approx(np.mean(means))


def test_undefined_correlation_is_said():
    constant = values(np.arange(40) % 5, np.ones(40))
    good = values(np.arange(40) % 5, np.arange(40) % 5)
    systems = {"a": Stored({("dev", "sts"): good}), "b": Stored({("dev", "sts"): constant})}
    table = s.compare(systems, "a", Dev(), ["sts"], draws=200)
    assert list(table["resolved"]) == ["undefined", "undefined"] and table["low"].isna().all()


def test_intervals_hold_the_score_and_match_the_normal_half_width():
    table = s.intervals(system(1), Dev()).set_index("task")
    assert ((table["low"] < table["score"]) & (table["score"] < table["high"])).all()
    p, n = table.loc["qqp", "score"], 400
    assert table.loc["qqp", "high"] - p == pytest.approx(1.96 * np.sqrt(p * (1 - p) / n), abs=0.004)
    assert table.loc["qqp", "n"] == n and table.loc["mean", "n"] == 3 * n


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f.iloc[1:], "ids are in one system only"),
        (lambda f: f.assign(label=1 - f["label"]), "two different labels"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "occurs twice"),
        (lambda f: f.drop(columns="label"), "expected the columns"),
    ],
)
def test_examples_that_do_not_match_are_refused(change, words):
    frame = classes(np.ones(10))
    with pytest.raises(DataError, match=words):
        aligned([frame, change(frame)], "qqp")


def test_unknown_baseline_and_empty_system_are_refused():
    with pytest.raises(ConfigurationError, match="baseline 'x'"):
        s.compare({"a": system(1)}, "x", Dev())
    with pytest.raises(ConfigurationError, match="no runs of"):
        s.compare({"a": system(1), "b": []}, "a", Dev())


def test_t_interval_and_seed_summary_agree_with_scipy():
    sample = [0.51, 0.53, 0.56, 0.52]
    public = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert s.t_interval(sample) == pytest.approx((public.low, public.high))
    runs = pd.DataFrame({"weight": [1, 1, 1, 1, 5], "sst": [*sample, 0.6], "mean": [*sample, 0.6]})
    table = s.seeds_summary(runs, ["weight"], ["sst", "mean"])
    assert table.loc[0, "mean"] == pytest.approx(0.53) and table.loc[0, "sd"] == pytest.approx(np.std(sample, ddof=1))
    assert list(table["seeds"]) == [4, 4, 1, 1] and np.isnan(table.loc[2, "low"])


def test_mcnemar_agrees_with_closed_forms():
    labels = np.zeros(40, int)
    first, second = labels.copy(), labels.copy()
    first[:9], second[9:11] = 1, 1  # 9 only the second gets right, 2 only the first
    found = s.mcnemar(labels, first, second)
    assert (found.only_first, found.only_second) == (2, 9)
    by_hand = 2 * sum(stats.binom.pmf(k, 11, 0.5) for k in range(3))
    assert found.p == pytest.approx(by_hand)
    assert s.mcnemar(labels, second, first).p == pytest.approx(found.p)
    assert s.mcnemar(labels, first, second, exact=False).p == pytest.approx(stats.chi2.sf((7 - 1) ** 2 / 11, 1))
    assert s.mcnemar(labels, first, first).p == 1
    with pytest.raises(DataError, match="one shape"):
        s.mcnemar(labels, first[1:], second)


def test_holm_of_the_textbook_and_undefined_values():
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = s.holm([0.04, np.nan, 0.01])
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.02]) and np.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_equals_the_closed_test_by_bonferroni(p):
    """Closure: a hypothesis' adjusted p is the largest Bonferroni p over all subsets that contain it."""
    found = s.holm(p)
    for index in range(len(p)):
        subsets = (c for size in range(1, len(p) + 1) for c in itertools.combinations(range(len(p)), size))
        closed = max(min(1, len(c) * min(p[i] for i in c)) for c in subsets if index in c)
        assert found[index] == pytest.approx(closed)


def test_bootstrap_p_counts_draws_beyond_zero():
    assert s.bootstrap_p(np.array([1.0] * 97 + [-1.0] * 2)) == pytest.approx(2 * 3 / 100)
    assert s.bootstrap_p(np.zeros(9)) == 1 and np.isnan(s.bootstrap_p(np.array([])))


def test_halves_of_dev_are_disjoint_complete_and_follow_the_id():
    ids = [f"id{i}" for i in range(4000)]
    member = in_choosing_half(ids)
    assert 0.46 < member.mean() < 0.54
    assert (in_choosing_half(ids[::-1])[::-1] == member).all()
    run = system(1)
    chosen, reported = ChoosingHalf().predictions(run, "sst"), ReportingHalf().predictions(run, "sst")
    assert not set(chosen["id"]) & set(reported["id"])
    assert set(chosen["id"]) | set(reported["id"]) == set(Dev().predictions(run, "sst")["id"])


def test_the_choosing_half_reads_dev_only():
    asked = []

    class Spy(Stored):
        def predictions(self, split, task):
            asked.append(split)
            return super().predictions(split, task)

    ChoosingHalf().predictions(Spy(system(1).frames), "sst")
    assert asked == ["dev"]
    for part in (Test(), Dev(), ReportingHalf(), "dev", None):
        with pytest.raises(ConfigurationError, match="ChoosingHalf"):
            require_choosing(part)
    with pytest.raises(TypeError):
        ChoosingHalf("test")
    with pytest.raises(AttributeError):
        ChoosingHalf().split = "test"
    with pytest.raises(ConfigurationError, match="redefined"):
        type("Cheat", (ChoosingHalf,), {})
    with pytest.raises(DataError, match="no predictions of sst on test"):
        Test().predictions(Stored({}), "sst")
