"""`mtlib predict --task`: texts as arguments, in a file or on stdin, answered as the model answers them."""

import io
import os
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app
from mtlib.cli.texts import from_arguments
from mtlib.errors import ConfigurationError
from mtlib.study.calibration import calibrated
from mtlib.tasks import SST


def asked(run, *arguments, stdin=None, code=0):
    """What `mtlib predict RUN ...` prints on stdout, as a table, and on stderr."""
    line = ["predict", str(run.path), *map(str, arguments)]
    result = CliRunner().invoke(app, line, input=stdin)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    if code:
        return result.output
    return pd.read_csv(io.StringIO(result.stdout), keep_default_na=False), result.stderr


def expected(run, task, inputs, **options):
    """The model's own answers, computed as the command does."""
    model = calibrated(run) if options else run.model()
    return model.predict(task, inputs, precision=run.experiment.precision, **options)


def same(found, answers):
    """Whether the command's columns are those of the model, to six digits."""
    pd.testing.assert_frame_equal(found[list(answers)], answers, rtol=1e-5, check_dtype=False)


def test_texts_and_pairs_are_answered_with_names_and_probabilities(run):
    found, _ = asked(run, "--task", "sst", "red cat", 'a "small", old dog')
    assert found["sentence"].tolist() == ["red cat", 'a "small", old dog']
    same(found, expected(run, "sst", found["sentence"].tolist()))
    found, _ = asked(run, "--task", "qqp", "red cat", "old dog", "a bird", "NA")
    pairs = [("red cat", "old dog"), ("a bird", "NA")]
    assert list(found[["sentence1", "sentence2"]].itertuples(index=False, name=None)) == pairs
    assert set(found["label"]) <= {"different", "duplicate"}
    same(found, expected(run, "qqp", pairs))


@pytest.mark.parametrize(
    "command", [["predict", "{}", "--task", "sst", "red cat"], ["predict", "{}"], ["evaluate", "{}"]]
)
def test_a_pretraining_answers_nothing(command, corpus, tmp_path):
    ranked = mtlib.fit(mtlib.pretraining("smoke", epochs=1, steps_per_epoch=2), corpus, tmp_path)
    result = CliRunner().invoke(app, [part.format(ranked.path) for part in command])
    assert result.exit_code == 66 and "trains the encoder alone, and its heads know nothing" in result.output


@pytest.mark.parametrize("corpus", ["hub", "sample"])
def test_a_preset_that_draws_phrases_is_refused_where_there_are_none(corpus):
    result = CliRunner().invoke(app, ["pipeline", "plan", "--preset", "best-laptop", "--corpus", corpus])
    assert result.exit_code == 64 and "expected CORPUS=FOLDER with ids-sst-phrases.csv" in result.output


def test_a_carriage_return_within_a_text_ends_no_line(run):
    found, _ = asked(run, "--task", "sst", "red\rcat", "old, dog")
    assert found["sentence"].tolist() == ["red\rcat", "old, dog"]


def test_stdin_goes_to_stdout_a_text_a_line(run):
    found, _ = asked(run, "--task", "sst", "-", stdin="red cat\n\nold dog\r\nübel\n")
    assert found["sentence"].tolist() == ["red cat", "old dog", "übel"]
    found, _ = asked(run, "--task", "sts", "-", stdin="red cat\told dog\n")
    same(found, expected(run, "sts", [("red cat", "old dog")]))
    assert "stdin:2: expected two texts" in asked(run, "--task", "sts", "-", stdin="a\tb\na\n", code=65)
    assert len(asked(run, "--task", "sst", "-", stdin="")[0]) == 0


def test_a_table_on_stdout_is_utf_8_whatever_the_terminal():
    program = "import pandas; from mtlib.cli.texts import print_csv; print_csv(pandas.DataFrame({'text': ['übel 猫']}))"
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", program], env=latin, capture_output=True, check=True)
    assert done.stdout == "text\nübel 猫\n".encode()


def test_a_closed_stdin_is_one_message(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigurationError, match="-: expected texts on stdin, found it closed; .*--from FILE"):
        from_arguments(SST, ["-"])


def test_a_line_of_stdin_ends_where_a_file_s_does_and_nowhere_else(run):
    strange = "one\u2028two\x0bthree\x1cfour\x85five"
    found, _ = asked(run, "--task", "sst", "-", stdin=f"\ufeff{strange}\nold dog\rred cat")
    assert found["sentence"].tolist() == [strange, "old dog", "red cat"]


@pytest.mark.parametrize("stdin, message", [
    (b"red cat\nol\xffd dog\n", "stdin:2: expected text in UTF-8, found byte 0xff at offset 10"),
    ("red cat\n".encode("utf-16"), "stdin:1: expected text in UTF-8, found byte 0xff at offset 0"),
    (b"\xed\xa0\x80", "stdin:1: expected text in UTF-8, found byte 0xed"),
    (b"red\0cat\n", "stdin:1: expected text in UTF-8, found a NUL byte at offset 3"),
])  # fmt: skip
def test_what_is_no_text_on_stdin_is_named_by_line(run, stdin, message):
    assert message in asked(run, "--task", "sst", "-", stdin=stdin, code=65)


def test_a_pair_of_stdin_has_two_texts_and_an_argument_is_utf_8(run):
    for half in ("a\t\n", "\tb\n", "a\tb\t\n"):
        assert "stdin:1: expected two texts with a tab" in asked(run, "--task", "qqp", "-", stdin=half, code=65)
    message = asked(run, "--task", "sst", "red cat", "old \udcff dog", code=65)
    assert "text 2:1: expected text in UTF-8, found byte 0xff at offset 4" in message


def test_a_plain_file_is_read_by_its_columns_and_its_separator_is_said(run, tmp_path):
    frame = pd.DataFrame({"id": ["x1", "x2"], "review": ["red; cat", "NA"], "stars": [1, 2]})
    frame.to_csv(tmp_path / "reviews.csv", index=False, sep=";")
    found, said = asked(run, "--task", "sst", "--from", tmp_path / "reviews.csv", "--text", "review")
    assert "separated by semicolon (';'), 2 rows, text in review" in said
    assert found["id"].tolist() == ["x1", "x2"] and found["review"].tolist() == ["red; cat", "NA"]
    same(found, expected(run, "sst", ["red; cat", "NA"]))
    frame[["review"]].to_csv(tmp_path / "one.csv", index=False)
    assert len(asked(run, "--task", "sst", "--from", tmp_path / "one.csv")[0]) == 2, "the only column there is"
    message = asked(run, "--task", "qqp", "--from", tmp_path / "reviews.csv", code=64)
    assert "expected --text with 2 of the columns 'id', 'review', 'stars'" in message


def test_a_text_s_column_that_is_called_as_an_answer_is_told_from_it(run, tmp_path):
    pd.DataFrame({"prediction": ["red cat"], "p0": ["old dog"]}).to_csv(tmp_path / "odd.csv", index=False)
    both = ("--text", "prediction", "--text", "p0")
    found, _ = asked(run, "--task", "qqp", "--from", tmp_path / "odd.csv", *both)
    assert list(found) == ["text_prediction", "text_p0", "prediction", "label", "p0", "p1"]
    same(found, expected(run, "qqp", [("red cat", "old dog")]))


def test_calibrated_probabilities_are_those_of_the_fitted_temperature(run):
    found, _ = asked(run, "--task", "sst", "--calibrated", "red cat")
    same(found, expected(run, "sst", ["red cat"], calibrated=True))
    assert found["p0"].tolist() != asked(run, "--task", "sst", "red cat")[0]["p0"].tolist()


@pytest.mark.parametrize("arguments, message", [
    (["--task", "sst"], "one of the three"),
    (["--task", "sst", "a", "--from", "b.csv"], "one of the three"),
    (["--task", "foo", "a"], "unknown task 'foo'"),
    (["--task", "qqp", "a"], "an even number of texts"),
    (["a"], "need --task TASK"),
    (["--calibrated"], "need --task TASK"),
    (["--task", "sst", "a", "--output", "answers"], "answers to texts go to stdout"),
    (["--task", "sst", "a", "--split", "dev"], "are of a split"),
    (["--task", "sst", "a", "--corpus", "sample"], "are of a split"),
    (["--task", "sst", "a", "--text", "review"], "expected --from FILE too"),
])  # fmt: skip
def test_what_cannot_be_meant_is_one_message(run, arguments, message):
    assert message in asked(run, *arguments, code=64)
