"""How wide an interval is at so many seeds: predicted from a few of them, and what more of them then gave."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mtlib.errors import ConfigurationError
from mtlib.study import plots
from mtlib.study import statistics as s
from mtlib.study.eval_splits import Dev, Stored
from mtlib.study.variances import Variances, half_width, variances


def simulated(rng, seeds: int, m: int, shift: float, of_seeds: float, difficulty, kind="sst"):
    """Runs whose answers share the examples' difficulty [m]; a seed is better or worse as a whole by `of_seeds`."""
    ids = [f"e{n:05d}" for n in range(m)]
    runs = []
    for _ in range(seeds):
        skill = shift + rng.normal(0, of_seeds) + rng.normal(0, abs(0.6 + rng.normal(0, 2 * of_seeds)), m)
        if kind == "sst":
            frame = {"label": np.zeros(m, int), "prediction": (skill + difficulty < 0).astype(int)}
        else:
            frame = {"label": difficulty, "prediction": difficulty + skill + rng.normal(0, 0.3, m) * difficulty}
        runs.append(Stored({("dev", kind): pd.DataFrame({"id": ids, **frame})}))
    return runs


@pytest.mark.parametrize("kind", ["sst", "sts"])
def test_what_a_few_seeds_predict_is_what_more_then_gave(kind):
    """Ten studies of four seeds each foretell the interval of `compare` at twelve; their median within 20 %."""
    ratios = []
    for study in range(10):
        rng = np.random.default_rng([study, kind == "sts"])
        difficulty = rng.normal(0.3, 1, 550)
        systems = {n: simulated(rng, 12, 550, shift, 0.02, difficulty, kind) for n, shift in (("a", 0.2), ("b", 0.25))}
        measured = variances(systems["a"][:4], systems["b"][:4], kind, Dev())
        (row,) = s.compare(systems, [("a", "b")], Dev(), [kind], draws=2000).to_dict("records")
        ratios.append(half_width(measured, 12) / ((row["high"] - row["low"]) / 2))
    assert np.median(ratios) == pytest.approx(1, abs=0.1)
    assert sum(abs(ratio - 1) < 0.2 for ratio in ratios) >= 8, ratios


def test_at_one_seed_it_is_the_interval_over_examples():
    rng = np.random.default_rng(3)
    difficulty = rng.normal(0.3, 1, 1000)
    systems = {n: simulated(rng, 4, 1000, shift, 0.0, difficulty) for n, shift in (("a", 0.2), ("b", 0.25))}
    widths = []
    for first, second in zip(systems["a"], systems["b"], strict=True):
        table = s.compare({"a": first, "b": second}, [("a", "b")], Dev(), ["sst"], draws=4000)
        widths.append(float((table["high"] - table["low"]).iloc[0] / 2))
    measured = variances(systems["a"], systems["b"], "sst", Dev())
    assert half_width(measured, 1) == pytest.approx(np.mean(widths), rel=0.08)


def test_the_parts_of_a_crossed_design_are_found_again():
    """Scores made of a known seed, example and rest: their variances, from many runs."""
    rng = np.random.default_rng(0)
    n, m = 200, 400
    labels = rng.normal(0, 1, m)
    answers = rng.random((n, m)) < np.clip(0.6 + rng.normal(0, 0.05, (n, 1)) + 0.3 * np.sign(labels), 0, 1)
    runs = []
    for right in answers:
        frame = pd.DataFrame({"id": [f"e{k}" for k in range(m)], "label": 0, "prediction": 1 - right.astype(int)})
        runs.append(Stored({("dev", "sst"): frame}))
    measured = variances(runs, task="sst", on=Dev())
    assert measured.seed**0.5 == pytest.approx(0.05, rel=0.25)
    assert measured.example * m == pytest.approx(0.3**2, rel=0.3)
    assert measured.example + measured.rest == pytest.approx(np.var(answers, axis=1).mean() / m, rel=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_seeds_alone_it_is_students_t(seeds):
    for systems in (1, 2):
        measured = Variances(seed=1e-5, example=0.0, rest=0.0, examples=500, systems=systems)
        expected = stats.t.ppf(0.975, systems * (seeds - 1)) * (1e-5 / seeds) ** 0.5
        assert half_width(measured, seeds) == pytest.approx(expected)


def test_more_seeds_and_more_examples_never_widen_it():
    measured = Variances(seed=1e-5, example=2e-5, rest=4e-5, examples=500)
    widths = [half_width(measured, seeds) for seeds in range(2, 50)]
    assert all(b < a for a, b in zip(widths, widths[1:], strict=False))
    assert widths[-1] > 1.959 * 2e-5**0.5, "seeds alone do not help below what the examples leave"
    assert half_width(measured, 10**9, 2000) == pytest.approx(1.95996 * (2e-5 / 4) ** 0.5, rel=1e-4)
    assert half_width(measured, 5, level=0.9) < half_width(measured, 5)


def test_the_mean_of_tasks_is_that_of_independent_examples():
    rng = np.random.default_rng(5)
    difficulty = rng.normal(0.3, 1, 300)
    sst, sts = (simulated(rng, 5, 300, 0.2, 0.0, difficulty, kind) for kind in ("sst", "sts"))
    both = [Stored({**a.frames, **b.frames}) for a, b in zip(sst, sts, strict=True)]
    mean = variances(both, on=Dev())
    parts = [variances(both, task=task, on=Dev()) for task in ("sst", "sts")]
    assert mean.example == pytest.approx(sum(part.example for part in parts) / 4)
    assert mean.rest == pytest.approx(sum(part.rest for part in parts) / 4)
    assert mean.examples == 600


def test_one_run_tells_nothing_of_seeds():
    runs = simulated(np.random.default_rng(1), 2, 50, 0.2, 0.1, np.zeros(50))
    with pytest.raises(ConfigurationError, match="two runs or more"):
        variances(runs[:1], runs, "sst", Dev())
    for none in ([], (), "sst"), ([], runs, "sst"), ([], (), "mean"):
        with pytest.raises(ConfigurationError, match="two runs or more"):
            variances(*none, Dev())
    for twice in ([runs[0], runs[0]], ()), (runs, [runs[1], *runs]):
        with pytest.raises(ConfigurationError, match="a run is given twice, expected one a seed"):
            variances(*twice, "sst", Dev())


def test_an_undefined_score_varies_by_an_undefined_amount():
    runs = simulated(np.random.default_rng(1), 3, 50, 0.2, 0.1, np.random.default_rng(2).normal(0, 1, 50), "sts")
    for value in (2.5, 0.1):
        constant = Stored({key: frame.assign(prediction=value) for key, frame in runs[0].frames.items()})
        found = variances([*runs, constant], task="sts", on=Dev())
        assert np.isnan([found.seed, found.example, found.rest]).all() and found.examples == 50
        assert np.isnan(half_width(found, 3))


def test_the_plot_has_a_line_a_column_and_the_margin():
    measured = Variances(seed=1e-5, example=2e-5, rest=4e-5, examples=500)
    seeds = range(1, 11)
    widths = pd.DataFrame({"mean": [half_width(measured, n) for n in seeds]}, index=list(seeds))
    axes = plots.half_widths(widths).axes[0]
    assert axes.lines[0].get_ydata().tolist() == widths["mean"].tolist() and axes.get_ylim()[0] == 0
