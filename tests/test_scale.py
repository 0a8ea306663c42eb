"""Regressions of one's own: whatever their range, their heads learn 0 to 5, and every answer is on the range itself."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from conftest import made_up_corpus
from hypothesis import given
from hypothesis import strategies as st

import mtlib
from mtlib import Dev
from mtlib.encoders import find_encoder
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.model import MultitaskModel
from mtlib.onnx_model import OnnxModel
from mtlib.study.attributions import integrated_gradients
from mtlib.study.eval_splits import task_scores
from mtlib.tasks import QQP, SST, STS, TASKS, Task

pytestmark = pytest.mark.usefixtures("forgotten")

TEXTS = ["a red house", "an old house of many rooms, by the river"]


def price(low=0.0, high=5.0):
    """A regression of one text."""
    return Task("price", "regression", ("text",), "label", low=low, high=high)


@pytest.fixture
def model():
    """A model of a task from 1,000 to 6,000, whose outputs are some units apart."""
    made = MultitaskModel(*find_encoder("tiny").load(), (price(1000.0, 6000.0), SST)).eval()
    with torch.no_grad():
        made.heads["price"].weight.mul_(30)
        made.heads["price"].bias.add_(2)
    return made


FINITE = st.floats(-1e6, 1e6)


@given(FINITE, st.floats(1e-3, 1e6), st.lists(st.floats(0, 1), min_size=1))
def test_values_are_the_inverse_of_targets_which_are_0_to_5(low, width, shares):
    task = price(low, low + width)
    labels = task.low + (task.high - task.low) * np.array(shares)
    targets = task.targets(labels)
    assert targets.min() > -1e-6 and targets.max() < 5 + 1e-6
    np.testing.assert_allclose(task.values(targets), labels, rtol=1e-12, atol=1e-9)


def test_of_sts_and_of_classes_nothing_is_changed():
    labels = np.random.default_rng(0).random(100) * 5
    assert (STS.targets(labels) == labels).all() and (STS.values(labels) == labels).all()
    assert SST.targets(labels) is labels and QQP.values(labels) is labels


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.0, np.inf), (-1e308, 1e308), (np.nan, 1.0), (0.0, 5e-324)])
def test_a_range_without_a_width_is_refused(low, high):
    with pytest.raises(ConfigurationError, match="expected finite low < high"):
        price(low, high)


@pytest.mark.parametrize("changes", [
    {},
    {"penalties": [mtlib.Smart(weight=1.0), mtlib.Bregman(weight=1.0, decay=0.9)]},
    {"losses": {"price": mtlib.Correlation(share=0.5)}},
])  # fmt: skip
def test_a_range_changes_nothing_of_the_training_but_the_scale_of_the_answers(changes, tmp_path):
    runs = {}
    for low, high in ((0.0, 5.0), (1000.0, 6000.0), (-0.5, 0.5)):
        TASKS["price"] = task = price(low, high)
        experiment = mtlib.experiment("smoke").but(
            tasks=("price",), epochs=1, steps_per_epoch=12, precision="float32", **changes
        )
        runs[low] = mtlib.fit(experiment, made_up_corpus((task,)), tmp_path, progress="none")
        runs[low].outputs = task.targets(runs[low].predictions("dev", "price")["prediction"])
        assert runs[low].model().predict("price", TEXTS)["prediction"].between(low - 1, high).all()
    assert len({run.id for run in runs.values()}) == 3
    for low, run in runs.items():
        np.testing.assert_allclose(run.outputs, runs[0.0].outputs, atol=2e-5, err_msg=str(low))
        assert run.scores["price"] == pytest.approx(runs[0.0].scores["price"], abs=1e-4)
        assert run.history["train_loss"].to_numpy() == pytest.approx(runs[0.0].history["train_loss"], rel=1e-4)


def test_the_forms_that_are_taken_away_answer_on_the_range(model, tmp_path):
    ours = model.predict("price", TEXTS, precision="float32")["prediction"]
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model.export("price", tmp_path / "hf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        theirs = classifier(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits[:, 0]
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    file = OnnxModel(model.export_onnx(tmp_path / "onnx"))
    np.testing.assert_allclose(file.predict("price", TEXTS)["prediction"], ours, rtol=1e-5)
    model.save_pretrained(tmp_path / "model")
    again = MultitaskModel.from_pretrained(tmp_path / "model").predict("price", TEXTS, precision="float32")
    assert again["prediction"].equals(ours)


def test_words_share_the_prediction_itself(model):
    found = integrated_gradients(model, "price", TEXTS[1], steps=64)
    assert found.answer == pytest.approx(model.predict("price", TEXTS[1], precision="float32")["prediction"].item())
    assert abs(found.gap) < 0.01 * abs(found.answer - found.hidden)


def test_a_model_that_was_stored_before_is_no_other_scale_s(model, tmp_path):
    for name, tasks in (("other", model.tasks), ("same", (STS,))):
        MultitaskModel(model.encoder, model.tokenizer, tasks).save_pretrained(tmp_path / name)
        path = tmp_path / name / "multitask.json"
        about = json.loads(path.read_text())
        assert about.pop("scale") == 5
        path.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="price: stored before .* train it again"):
        MultitaskModel.from_pretrained(tmp_path / "other")
    MultitaskModel.from_pretrained(tmp_path / "same")


def test_a_run_is_scored_as_its_own_task_whatever_its_name_means_since(tmp_path):
    """A regression, then classes of the same name: each run keeps its score, in whichever order they are read."""
    words = [f"a text of {number} words" for number in range(80)]
    labels = {
        "number": [round(number * 7 % 50 / 10, 1) for number in range(80)],
        "class": ["xyz"[n % 3] for n in range(80)],
    }
    runs, scores = {}, {}
    for name, own in labels.items():
        TASKS.pop("mood", None)
        table = pd.DataFrame({"text": words, "label": own})
        task = mtlib.own_task("mood", table, text="text", label="label")
        corpus = mtlib.Corpus.from_frames(name, {task: table})
        losses = {"mood": {"kind": "correlation" if name == "number" else "ordinal"}}
        settings = mtlib.experiment("smoke", tasks=["mood"], name=name, epochs=1, steps_per_epoch=2, losses=losses)
        runs[name] = mtlib.fit(settings, corpus, tmp_path)
        scores[name] = runs[name].scores["mood"]
    for name in ("number", "class", "number"):
        found = mtlib.RunStore(tmp_path).get(name)
        assert found.experiment.losses == runs[name].experiment.losses
        assert task_scores(found, Dev())["mood"] == pytest.approx(scores[name])
    table = mtlib.RunStore(tmp_path).table()
    assert (table["status"] == "complete").all() and len(table) == 2
