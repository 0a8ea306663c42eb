"""Kinds of progress: those that there are, and the nearest to a word that is none."""

import pytest

import mtlib
from mtlib.errors import ConfigurationError
from mtlib.training.progress import PLAIN, SHOWN, kind


def test_the_environment_says_it_where_auto_is_asked(monkeypatch):
    for word in SHOWN:
        monkeypatch.setenv(PLAIN, word)
        assert kind("auto") == word and kind("none") == "none"
    monkeypatch.delenv(PLAIN)
    assert kind("auto") in ("bar", "lines")


def test_a_word_that_is_no_kind_of_progress_is_refused(corpus, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="^progress=line: unknown kind .*did you mean 'lines'"):
        mtlib.fit(mtlib.experiment("smoke"), corpus, tmp_path, progress="line")
    assert not list(tmp_path.rglob("config.json")), "nothing was begun"
    with pytest.raises(ConfigurationError, match="known: auto, bar, lines, none"):
        kind("")
    monkeypatch.setenv(PLAIN, "quite")
    with pytest.raises(ConfigurationError, match="^MTLIB_PROGRESS=quite: unknown kind of progress .*known: bar"):
        kind("auto")
