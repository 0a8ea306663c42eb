"""Kills of runs with averaged weights, other losses and layer-wise learning rates: the same bits, or the test knows."""

import signal

import numpy as np
import pandas as pd
import pytest
from conftest import write_corpus
from run_helpers import SMART_BALL, after_step, tiny
from store_helpers import fork

import mtlib
from mtlib.averages import Average, Ema, Lawa
from mtlib.objectives.correlation import Correlation
from mtlib.objectives.freelb import FreeLB
from mtlib.objectives.ordinal import Ordinal
from mtlib.objectives.rdrop import RDrop

AVERAGED = {
    "averages": [Ema(decay=0.8, every=2), Lawa(window=2)],
    "layer_decay": 0.7,
    "head_rate": 5.0,
    "losses": {"sst": Ordinal(share=0.5), "sts": Correlation(share=0.5)},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"stored": "ema", "penalties": [RDrop(weight=1.0)], **AVERAGED},
        {"stored": "lawa", "penalties": [FreeLB(weight=1.0)], **AVERAGED},
    ],
    ids=["ema and R-Drop", "lawa and FreeLB"],
)
def test_killed_runs_come_to_the_same_bits(changes, tmp_path):
    experiment = tiny(SMART_BALL, **changes)
    assert experiment.child(tmp_path / "whole") == 0
    for step in (4, 6):  # within an epoch, and at the end of one
        folder = tmp_path / str(step)
        assert experiment.child(folder, after_step(step)) == -signal.SIGKILL
        assert experiment.child(folder) == 0
        assert experiment.outcome(folder) == experiment.outcome(tmp_path / "whole"), f"killed after step {step}"


def test_an_average_that_is_not_restored_is_noticed(tmp_path):
    experiment = tiny(SMART_BALL, **AVERAGED)
    assert experiment.child(tmp_path / "whole") == 0
    assert experiment.child(tmp_path / "killed", after_step(7)) == -signal.SIGKILL

    def forgets(patch):
        patch.setattr(Average, "load_state", lambda self, state: None)

    assert experiment.child(tmp_path / "killed", forgets) == 0
    assert experiment.outcome(tmp_path / "killed") != experiment.outcome(tmp_path / "whole")


def test_a_killed_student_of_phrases_and_teachers_comes_to_the_same_bits(tmp_path):
    source = write_corpus(tmp_path / "corpus")
    frame = pd.DataFrame({"id": [f"p{n}" for n in range(40)], "sentence": [f"phrase {n}" for n in range(40)]})
    frame.assign(sentiment=np.arange(40) % 5).to_csv(source / "ids-sst-phrases.csv", sep="\t")
    corpus = mtlib.load_corpus(source)
    plain = tiny(SMART_BALL, penalties=[]).settings
    student = plain.but(teachers=[plain.but(seed=1)], phrases=0.5)

    def outcome(folder, *kills):
        mtlib.fit(student.teachers[0], corpus, folder, progress="none")
        for step in kills:

            def work(step=step):
                with pytest.MonkeyPatch.context() as patch:
                    after_step(step)(patch)
                    mtlib.fit(student, corpus, folder, progress="none", minutes=0)

            assert fork(work) == -signal.SIGKILL
        run = mtlib.fit(student, corpus, folder, progress="none")
        return run.read("status.json")["seal"], run.history.drop(columns="seconds")

    seal, history = outcome(tmp_path / "whole")
    killed_seal, killed_history = outcome(tmp_path / "killed", 2, 7)
    assert killed_seal == seal
    pd.testing.assert_frame_equal(killed_history, history)
