"""What the study trains: rankings at equal pairs seen, and controls that differ from their row in one thing."""

import pytest

from mtlib.experiments import pretraining
from mtlib.objectives.bregman import Bregman
from mtlib.study import grids


@pytest.fixture
def study(corpus, tmp_path, monkeypatch):
    """A study on made-up rows that trains nothing: its runs are the values that would have been trained."""
    monkeypatch.setattr(grids, "load_corpus", lambda source: corpus)
    study = grids.Study("laptop", "made up", tmp_path)
    monkeypatch.setattr(study, "_carried_out", lambda training, settings: settings)
    return study


def test_rankings_see_equally_many_pairs_and_hold_the_presets_own(study):
    rankings = study.rankings()
    assert list(rankings) == ["K = 5", "K = 10, keep", "K = 10, mask", "K = 20, keep", "K = 20, mask"]
    assert {e.epochs * e.steps * e.batch_size for e in rankings.values()} == {5 * 200 * 5}
    assert rankings["K = 5"].model_copy(update={"name": "run"}) == pretraining("laptop")
    assert rankings["K = 20, mask"].false_negatives == "mask" and rankings["K = 20, keep"].steps == 50


def test_a_control_differs_from_its_row_in_what_was_changed(study):
    row = study.preset.grids["table_5"][0]
    run, fields = study.row(5, row), study.fields(5, row)
    control = study.run("control", **fields | {"penalties": [Bregman(weight=0.0, decay=0.99)]})
    assert run.penalties == (Bregman(weight=0.3, decay=0.75),) and run.learning_rate == 1e-4
    assert control.model_copy(update={"name": run.name, "penalties": run.penalties}) == run
