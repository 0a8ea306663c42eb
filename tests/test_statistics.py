"""Comparisons against closed forms, scipy and simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from systems import classes, system, values

from mtlib.errors import ConfigurationError
from mtlib.metrics import similarity_score
from mtlib.study import statistics as s
from mtlib.study.eval_splits import Dev, ReportingHalf, Stored, task_scores

TASKS = ["qqp", "sst", "sts"]


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


def test_compare_ignores_the_order_of_rows_and_is_deterministic():
    systems = {"a": system(1), "b": system(2, skill=0.9, noise=0.5)}
    shuffled = {
        name: Stored({key: frame.sample(frac=1, random_state=5) for key, frame in found.frames.items()})
        for name, found in systems.items()
    }
    table = s.compare(systems, [("a", "b")], Dev(), draws=2000)
    pd.testing.assert_frame_equal(table, s.compare(shuffled, [("a", "b")], Dev(), draws=2000))
    assert not table["low"].equals(s.compare(systems, [("a", "b")], Dev(), draws=2000, seed=1)["low"])


def test_rows_are_the_tasks_the_mean_and_the_evenness_of_each_pair():
    systems = {"weak": system(1, skill=0.5), "middle": system(2), "strong": system(3, skill=0.98, noise=0.4)}
    table = s.compare(systems, [("weak", "middle"), ("middle", "strong")], draws=1000)
    assert list(table.columns) == s.COMPARISON and table["task"].tolist() == 2 * [*TASKS, "mean", "evenness"]
    np.testing.assert_array_equal(table["p_holm"], s.holm(table["p"]))
    for (name, against), rows in table.groupby(["system", "against"]):
        before, after = (task_scores(systems[each], ReportingHalf()) for each in (against, name))
        rows = rows.set_index("task")
        for task in after:
            expected = [before[task], after[task], after[task] - before[task]]
            assert rows.loc[task, ["baseline", "score", "difference"]].tolist() == pytest.approx(expected)
        assert (rows["low"] <= rows["difference"]).all() and (rows["difference"] <= rows["high"]).all()


def test_compare_resolves_a_large_difference_and_not_an_absent_one():
    systems = {"a": system(1), "better": system(2, skill=0.98, noise=0.4), "twin": system(3), "same": system(1)}
    table = s.compare(systems, [("a", name) for name in ("better", "twin", "same")], draws=2000)
    table = table[table["task"] != "evenness"].set_index(["system", "task"])
    assert (table.loc["better", "resolved"] == "yes").all()
    assert (table.loc["twin", "resolved"] == "no").all()
    same = table.loc["same"]
    assert (same[["difference", "low", "high"]] == 0).all(axis=None) and (same["p"] == 1).all()


def test_a_difference_that_is_sure_is_resolved_in_however_long_a_table():
    systems = {"a": system(1, skill=0.3), **{f"b{n}": system(2, skill=0.98, noise=0.1) for n in range(12)}}
    table = s.compare(systems, [("a", f"b{n}") for n in range(12)], draws=100)
    assert len(table) == 60 and (table.loc[table["task"] != "evenness", "resolved"] == "yes").all()


def test_differences_change_sign_with_the_baseline():
    systems = {"a": system(1), "b": system(2, skill=0.85)}
    forward, backward = (s.compare(systems, [pair], Dev(), draws=3000) for pair in (("a", "b"), ("b", "a")))
    assert forward["difference"].to_numpy() == pytest.approx(-backward["difference"].to_numpy())
    assert forward["low"].to_numpy() == pytest.approx(-backward["high"].to_numpy(), abs=4e-3)


def test_one_task_has_no_mean_and_pairs_share_their_tasks():
    two = Stored({key: frame for key, frame in system(2).frames.items() if key[1] != "sts"})
    one = Stored({key: frame for key, frame in system(3).frames.items() if key[1] == "sst"})
    systems = {"three": system(1), "two": two, "one": one}
    table = s.compare(systems, [("three", "two"), ("two", "one")], draws=200)
    assert table["task"].tolist() == ["qqp", "sst", "mean", "evenness", "sst"]


@given(st.lists(st.floats(0.2, 0.9), min_size=2, max_size=6), st.lists(st.floats(0.2, 0.9), min_size=2, max_size=6))
def test_degrees_of_freedom_are_welchs(first, second):
    assume(min(np.ptp(first), np.ptp(second)) > 1e-3)
    public = stats.ttest_ind(first, second, equal_var=False).df
    assert s.welch_freedom([first, second]) == pytest.approx(public)
    assert s.welch_freedom([[first[0]], second, second]) == pytest.approx(2 * (len(second) - 1))


@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.integers(2, 5))
def test_equal_seeds_are_equal_whatever_rounding_says(a, b, seeds):
    assert s.welch_freedom([[a] * seeds, [b] * seeds]) == np.inf


@pytest.mark.parametrize("differ", range(1, 9))
def test_a_few_other_answers_are_not_more_certain_than_mcnemars(differ):
    right = np.arange(400) < 280
    better = right | (np.arange(400) < 280 + differ)
    systems = {name: Stored({("dev", "qqp"): classes(each)}) for name, each in (("a", right), ("b", better))}
    (row,) = s.compare(systems, [("a", "b")], Dev()).to_dict("records")
    assert row["p"] >= 2 * 0.5**differ and row["resolved"] == ("yes" if differ > 5 else "no")


def test_a_system_is_the_same_as_itself_at_several_seeds():
    table = s.compare({"a": [system(1), system(2), system(3)]}, [("a", "a")], draws=200)
    assert (table[["difference", "low", "high"]] == 0).all(axis=None) and (table["p"] == 1).all()


def test_seeds_are_summed_up_over_the_tasks_that_all_have():
    two = Stored({key: frame for key, frame in system(3).frames.items() if key[1] != "sts"})
    table = s.seeds_summary({"three": [system(1), system(2)], "mixed": [system(1), two]})
    assert set(table["task"]) == {"qqp", "sst", "mean", "evenness"}
    assert table.notna().all(axis=None)


def test_of_one_run_or_equal_ones_nothing_is_estimated():
    assert s.welch_freedom([[0.5], [0.7]]) == s.welch_freedom([[0.5, 0.5], [0.7]]) == np.inf
    assert (s._t_tails(np.inf, 9, 0) == 1).all() and (s._seed_draws(1, 9, 0, "a") == 0).all()


def test_where_examples_leave_no_doubt_the_interval_is_welchs():
    """One example a class of answers: every run's score is what it is, whichever examples are drawn."""
    first, second = [0.70, 0.74, 0.81], [0.80, 0.83, 0.85, 0.92]
    drawn = [s._seed_draws(len(each), 400_000, 0, name) @ each for name, each in (("a", first), ("b", second))]
    change = (
        np.mean(second)
        - np.mean(first)
        + s._t_tails(s.welch_freedom([first, second]), 400_000, 0) * (drawn[1] - drawn[0])
    )
    public = stats.ttest_ind(second, first, equal_var=False)
    assert np.quantile(change, [0.025, 0.975]) == pytest.approx(public.confidence_interval(0.95), abs=2e-3)
    assert s.bootstrap_p(change) == pytest.approx(public.pvalue, rel=0.05)


def test_one_run_against_several_is_as_uncertain_as_they_are():
    """Where examples leave no doubt it is the t-interval of equal variances, whose one group is a single value."""
    rates = [0.80, 0.83, 0.85, 0.92]
    runs = [Stored({("dev", "qqp"): classes(np.arange(10_000) < rate * 10_000)}) for rate in (0.75, *rates)]
    public = stats.ttest_ind(rates, [0.75], equal_var=True)
    for flip in (1, -1):
        pair = ("one", "several")[::flip]
        table = s.compare({"one": runs[0], "several": runs[1:]}, [pair], Dev(), ["qqp"], draws=40_000)
        low, high = public.confidence_interval(0.95)
        assert table[["low", "high"]].iloc[0].tolist() == pytest.approx(sorted([flip * low, flip * high]), abs=0.01)
        assert table["p"].item() == pytest.approx(public.pvalue, rel=0.1)


def test_intervals_over_three_seeds_cover_a_difference_that_is_none():
    """Two systems whose runs differ by their seeds alone: 95 % intervals of 300 studies, three runs each."""
    random, hits, trials, n = np.random.default_rng(1), 0, 300, 200
    for trial in range(trials):
        rates = 0.6 + random.normal(0, 0.08, 6)
        runs = [Stored({("dev", "qqp"): classes(random.random(n) < rate)}) for rate in rates]
        table = s.compare({"a": runs[:3], "b": runs[3:]}, [("a", "b")], Dev(), ["qqp"], draws=400, seed=trial)
        hits += table["low"].item() <= 0 <= table["high"].item()
    assert 0.94 <= hits / trials <= 0.995


def test_seeds_widen_the_interval_by_their_own_variance():
    """Two systems of two runs: the draws' variance is that of examples plus s^2 / n of the seeds."""
    draws = s._seed_draws(3, 200_000, 0, "a")
    scores = np.array([0.70, 0.74, 0.81])
    assert draws.sum(axis=1) == pytest.approx(0)
    assert (draws @ scores).mean() == pytest.approx(0, abs=1e-3)
    assert (draws @ scores).var() == pytest.approx(scores.var(ddof=1) / 3, rel=0.02)
    runs = [system(1, skill=0.75), system(2, skill=0.85)]
    systems = {"a": system(3), "both": runs, "single": runs[1]}
    table = s.compare(systems, [("a", "both"), ("a", "single")], Dev(), draws=4000).set_index(["system", "task"])
    width = table["high"] - table["low"]
    assert width["both", "sst"] > width["single", "sst"]
    for task, score in pd.DataFrame([task_scores(run, Dev()) for run in runs]).mean().items():
        assert table.loc[("both", task), "score"] == pytest.approx(score)


def test_undefined_correlation_is_said():
    constant = Stored({key: frame.assign(prediction=1) for key, frame in system(1).frames.items()})
    table = s.compare({"a": system(1), "b": constant}, [("a", "b")], Dev(), draws=200).set_index("task")
    undefined = table.loc[["sts", "mean", "evenness"]]
    assert (undefined["resolved"] == "undefined").all() and undefined["low"].isna().all()
    assert table.loc["sst", "resolved"] == "yes" and "undefined" in s.verdict(table.loc["mean"])
    assert s.equivalence(table).tolist() == ["hurts", "hurts", "undefined", "undefined", "undefined"]


def test_unknown_and_empty_systems_are_refused():
    with pytest.raises(ConfigurationError, match="found 'x'"):
        s.compare({"a": system(1)}, [("x", "a")])
    with pytest.raises(ConfigurationError, match="no runs of"):
        s.compare({"a": system(1), "b": []}, [("a", "b")])
    run = system(2)
    with pytest.raises(ConfigurationError, match="^runs of b: one is given twice, expected one a seed$"):
        s.compare({"a": system(1), "b": [run, run]}, [("a", "b")])
    with pytest.raises(ConfigurationError, match="^pair 'a', 'b' is given twice$"):
        s.compare({"a": system(1), "b": run}, [("a", "b"), ("b", "a"), ("a", "b")])
    for pairs, found in ((("a", "b"), "'a'"), ([("a",)], r"\('a',\)"), ([("a", "b", "a")], r"\('a', 'b', 'a'\)")):
        with pytest.raises(ConfigurationError, match=f"compare: expected pairs of two names, found {found}"):
            s.compare({"a": system(1), "b": system(2)}, pairs)


def test_intervals_hold_the_score_and_match_the_normal_half_width():
    table = s.intervals(system(1), Dev()).set_index("task")
    assert list(table.index) == [*TASKS, "mean", "evenness"]
    assert ((table["low"] < table["score"]) & (table["score"] < table["high"])).drop("evenness").all()
    p, n = table.loc["qqp", "score"], 400
    assert table.loc["qqp", "high"] - p == pytest.approx(1.96 * np.sqrt(p * (1 - p) / n), abs=0.004)
    assert table.loc["qqp", "n"] == n and table.loc["mean", "n"] == 3 * n


def test_interval_of_a_mean_is_the_normal_one_whatever_the_order():
    sample = np.random.default_rng(0).normal(2, 3, 900)
    mean, low, high = s.mean_interval(sample)
    half = 1.96 * sample.std() / 30
    assert (mean, low, high) == pytest.approx((sample.mean(), sample.mean() - half, sample.mean() + half), abs=0.02)
    assert s.mean_interval(sample[::-1]) == (mean, low, high)


def test_t_interval_and_seed_summary_agree_with_scipy():
    sample = [0.51, 0.53, 0.56, 0.52]
    public = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    assert s.t_interval(sample) == pytest.approx((public.low, public.high))
    runs = [system(seed) for seed in range(3)]
    table = s.seeds_summary({"many": runs, "one": runs[0]}, Dev()).set_index(["system", "task"])
    scores = pd.DataFrame([task_scores(run, Dev()) for run in runs])
    for task, column in scores.items():
        row = table.loc["many", task]
        assert row[["mean", "sd"]].tolist() == pytest.approx([column.mean(), column.std(ddof=1)])
        assert row[["low", "high"]].tolist() == pytest.approx(list(s.t_interval(column)))
    assert table.loc["one", "low"].isna().all() and table.loc["many", "seeds"].tolist() == [3] * 5


def test_a_score_that_is_undefined_at_one_seed_has_no_mean_over_seeds():
    constant = Stored({key: frame.assign(prediction=1) for key, frame in system(3).frames.items()})
    table = s.seeds_summary({"x": [system(1), system(2), constant]}, Dev()).set_index("task")
    numbers = ["mean", "sd", "low", "high"]
    assert table.loc[["sts", "mean", "evenness"], numbers].isna().all(axis=None)
    assert table.loc[["sst", "qqp"], numbers].notna().all(axis=None) and (table["seeds"] == 3).all()


def rows(*cells):
    return pd.DataFrame(cells, columns=["difference", "low", "high", "resolved"])


def test_equivalence_is_an_interval_within_the_margin():
    table = rows((0.001, -0.004, 0.004, "no"), (0.01, 0.002, 0.02, "yes"), (-0.01, -0.02, -0.002, "yes"))
    assert s.equivalence(table).tolist() == ["equivalent", "helps", "hurts"]
    assert s.equivalence(table, margin=0.003).tolist() == ["undecided", "helps", "hurts"]
    # A difference can be resolved and too small to matter.
    assert s.equivalence(rows((0.002, 0.001, 0.003, "yes"))).tolist() == ["equivalent"]


def test_tost_rarely_calls_a_difference_of_the_margin_equivalent():
    """A true difference at the margin's edge: at most 2.5 % are called equivalent, up to the simulation's error."""
    random, called, margin = np.random.default_rng(0), 0, 0.08
    for trial in range(300):
        right = random.random(400) < 0.9
        worse = right & (random.random(400) > margin / 0.9)
        frames = {"a": classes(right), "b": classes(worse)}
        systems = {name: Stored({("dev", "qqp"): frame}) for name, frame in frames.items()}
        table = s.compare(systems, [("a", "b")], Dev(), draws=400, seed=trial)
        called += (s.equivalence(table, margin) == "equivalent").sum()
    assert called / 300 < 0.05


@pytest.mark.parametrize(
    ("resolved", "difference", "word"),
    [("yes", 0.1, "better"), ("yes", -0.1, "worse"), ("no", 0.1, "not resolved"), ("undefined", np.nan, "undefined")],
)
def test_verdicts(resolved, difference, word):
    row = {"system": "x", "against": "y", "task": "mean", "resolved": resolved, "difference": difference}
    row |= {"low": difference - 0.05, "high": difference + 0.05}
    sentence, *others = s.verdicts(pd.DataFrame([row | {"task": "sst"}, row]))
    assert sentence.startswith(f"x against y, mean: {word}")
    assert [other.partition(": ")[0] for other in others] == ["x against y, sst"] * (resolved == "yes")


def test_a_row_without_any_difference_is_called_the_same():
    row = {"system": "x", "against": "y", "task": "mean", "resolved": "no", "difference": 0.0, "low": 0.0, "high": 0.0}
    assert s.verdicts(pd.DataFrame([row])) == ["x against y, mean: the same"]
