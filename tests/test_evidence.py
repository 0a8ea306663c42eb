"""The numbers of README and guides are those of results/reference, and a wrong one is noticed."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = runpy.run_path(str(ROOT / "docs" / "evidence.py"))


def test_texts_and_tables_agree():
    done = subprocess.run([sys.executable, ROOT / "docs" / "evidence.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_changed_number_is_written_anew():
    text = (ROOT / "README.md").read_text()
    head, _, body, tail = EVIDENCE["BLOCK"].findall(text)[0]
    wrong = text.replace(head + body + tail, head + re.sub(r"[0-9]", "9", body) + tail)
    assert wrong != text and EVIDENCE["written"](wrong) == text


@pytest.mark.parametrize("word", ["yes", "no"])
def test_a_difference_says_whether_it_is_resolved(word):
    row = pd.Series({"difference": 0.0394, "low": 0.0036, "high": 0.075, "resolved": word})
    assert EVIDENCE["difference"](row) == "+0.039 [+0.004, +0.075]"
    assert EVIDENCE["resolved"](row) == ("resolved" if word == "yes" else "not resolved")


def test_limits_beside_zero_keep_their_sign_and_equal_systems_are_the_same():
    row = pd.Series({"difference": 0.0018, "low": 0.0002, "high": 0.0034, "resolved": "yes"})
    assert EVIDENCE["difference"](row) == "+0.002 [+0.0002, +0.003]"
    assert EVIDENCE["resolved"](pd.Series({"difference": 0.0, "low": 0.0, "high": 0.0, "resolved": "no"})) == "the same"


@pytest.mark.parametrize(("value", "shown"), [(1234.5, "1234"), (999.4, "999"), (12.34, "12.3"), (0.0, "0")])
def test_large_numbers_are_written_out(value, shown):
    assert EVIDENCE["shortened"](value) == shown


@pytest.mark.parametrize(
    ("table", "system", "against", "seeds"),
    [
        ("gpu-data table_seeds_differences", "annealed", "baseline", 3),
        ("ranking-data table_mnrl_seeds_differences", "10 epochs after MNRL", "10 epochs without MNRL", 3),
        ("samplers-data sweep_differences", "sampler annealed", "sampler round_robin", 5),
        ("gpu-data table_7_differences", "annealed", "baseline", 1),
    ],
)
def test_an_answer_says_how_many_seeds_it_rests_on(table, system, against, seeds):
    answer = EVIDENCE["answers"]("", f"Does it help? | {table} | {system} | {against}").splitlines()[-1]
    assert [cell.strip() for cell in answer.split("|")][3] == str(seeds)
