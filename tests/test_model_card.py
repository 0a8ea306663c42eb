"""Model cards: what the Hub reads of them, what they must say, and that they change nothing."""

import dataclasses
import json
import shutil

import pytest
from conftest import made_up_corpus
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import mtlib
from mtlib.cli import app
from mtlib.data.corpus import Corpus, Splits
from mtlib.errors import CheckpointError
from mtlib.experiments import Experiment
from mtlib.study import model_card as cards
from mtlib.tasks import SST, TASKS, Task
from mtlib.training import fit as fitting
from mtlib.training.evaluation import in_choosing_half
from mtlib.training.runs import CARD, Run


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the finished run that a test may alter."""
    copy = Run(shutil.copytree(run.path, tmp_path / "runs" / run.id))
    copy.set_status("complete")
    return copy


def with_experiment(run, **changes):
    """The run with other fields in its config.json."""
    config = run.read("config.json")
    config["experiment"] |= changes
    (run.path / "config.json").write_text(json.dumps(config))
    return run


def test_the_hub_reads_one_result_a_task_and_split_and_they_are_the_run_s(copied):
    card = ModelCard.load(cards.write_card(copied))
    assert card.data.library_name == "mtlib" and card.data.model_name == copied.id
    found = {(r.dataset_config, r.dataset_split): (r.metric_type, r.metric_value) for r in card.data.eval_results}
    assert len(card.data.eval_results) == len(found) == 6
    dev = copied.scores
    expected = {"sst": ("accuracy", dev["sst"]), "qqp": ("accuracy", dev["qqp"]), "sts": ("pearsonr", dev["sts_r"])}
    for task, (metric, value) in expected.items():
        assert found[task, "validation"] == (metric, pytest.approx(value, abs=1e-4))
        assert found[task, "test"][0] == metric


def test_the_card_says_data_scores_cost_limits_and_citation(copied):
    text = cards.write_card(copied).read_text()
    assert copied.corpus["title"] in text and copied.corpus["fingerprint"] in text
    for part in ("dev", "reporting half of dev", "test"):
        assert f"| {part} " in text
    assert f"{copied.scores['mean']:.3f}" in text and "95 % bootstrap intervals" in text
    assert f"took {copied.seconds:.0f} s" in text and "began at random" in text
    assert "Jack of All Trades, Master of Some" in text
    assert str(copied.path.parent) not in text
    model = copied.model()
    assert cards.parameters(copied) == sum(weights.numel() for weights in model.parameters())
    assert f"{cards.parameters(copied) / 1e6:.1f} million parameters" in text


def test_minilm_s_acquaintance_with_quora_is_said_wherever_qqp_is(copied):
    assert cards.QUORA not in cards.write_card(copied).read_text()
    minilm = cards.write_card(with_experiment(copied, encoder="minilm")).read_text()
    assert cards.QUORA in minilm and ModelCard(minilm).data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert ModelCard(minilm).data.license == "apache-2.0"
    folder = cards.write_card(with_experiment(copied, encoder="/somewhere/else/encoder")).read_text()
    assert "/somewhere" not in folder and ModelCard(folder).data.license is None


def test_an_undefined_score_is_called_so_and_kept_out_of_the_metadata(copied):
    frame = copied.predictions("dev", "sts").assign(prediction=2.5)
    copied.write_frame("predictions/dev-sts.csv", frame)
    text = cards.write_card(copied).read_text()
    assert "undefined" in text and "nan" not in text.split("---")[1]
    splits = {r.dataset_split for r in ModelCard(text).data.eval_results if r.dataset_config == "sts"}
    assert splits == {"test"}


def test_without_labels_on_test_or_without_test_there_are_no_test_scores(copied):
    for task in copied.experiment.tasks:
        copied.write_frame(f"predictions/test-{task}.csv", copied.predictions("test", task).drop(columns="label"))
    assert set(cards.part_scores(copied)["part"]) == {"dev", "reporting half of dev"}
    for task in copied.experiment.tasks:
        (copied.path / f"predictions/test-{task}.csv").unlink()
    copied.set_status("complete")
    assert set(cards.part_scores(copied)["part"]) == {"dev", "reporting half of dev"}
    assert {r.dataset_split for r in ModelCard.load(cards.write_card(copied)).data.eval_results} == {"validation"}


def test_a_half_of_dev_without_examples_has_no_scores(tmp_path):
    splits = made_up_corpus((SST,))["sst"]
    chosen = splits.dev[in_choosing_half(splits.dev["id"])].head(5)
    corpus = Corpus("small", (SST,), {"sst": Splits(splits.train, chosen.reset_index(drop=True), splits.test)})
    experiment = mtlib.experiment("smoke", tasks=["sst"], epochs=1, steps_per_epoch=2)
    run = mtlib.fit(experiment, corpus, tmp_path, progress="none")
    assert (run.path / CARD).is_file() and set(cards.part_scores(run)["part"]) == {"dev", "test"}


def test_a_finished_run_without_a_card_gets_one_when_it_is_loaded(run, corpus, tmp_path):
    shutil.copytree(run.path.parent, tmp_path / "runs")
    copy = Run(tmp_path / "runs" / run.id)
    (copy.path / CARD).unlink()
    mtlib.fit(copy.experiment, corpus, tmp_path, progress="none")
    assert (copy.path / CARD).read_text() == (run.path / CARD).read_text()


def test_base_model_and_licence_are_those_of_the_ancestor_s_encoder(copied, monkeypatch):
    """A run that starts from another has the encoder that its first ancestor began with."""
    ranked = mtlib.pretraining("smoke").but(encoder="minilm")
    own = Experiment(start_from=Experiment(start_from=ranked))
    monkeypatch.setattr(Run, "experiment", own)
    data = cards.metadata(copied, cards.part_scores(copied))
    assert (data.base_model, data.license) == ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0")
    assert cards.encoder_of(copied) == "minilm" and any(cards.QUORA in line for line in cards._limits(copied))


def test_what_was_trained_before_it_is_named_and_cost_extra(copied, monkeypatch):
    assert "cost extra" not in cards.card_text(copied)
    own = mtlib.experiment("smoke")
    taught = own.but(start_from=own.but(seed=3), teachers=[own.but(seed=1), own.but(name="wise")])
    monkeypatch.setattr(Run, "experiment", taught)
    (_, cost) = cards._cost(copied)
    started = "What it started from, `round-robin-seed-3`, cost extra."
    assert cost.endswith(f". {started} What taught it, `round-robin-seed-1`, `wise`, cost extra.")


def test_a_run_of_a_task_that_is_not_known_here_says_itself_what_it_is(tmp_path, monkeypatch):
    stranger = Task("stranger", "binary", ("text",), "odd", names=("usual", "odd"), licence="CC0", citation="Who 2020")
    monkeypatch.setitem(TASKS, "stranger", stranger)
    fields = {"tasks": ("stranger",), "epochs": 1, "steps_per_epoch": 2}
    run = mtlib.fit(mtlib.experiment("smoke").but(**fields), made_up_corpus((stranger,)), tmp_path, progress="none")
    del TASKS["stranger"]
    text = cards.card_text(run, "user/name")
    assert TASKS["stranger"] == stranger and TASKS["stranger"].licence == "CC0"
    assert "- `stranger`: 0 usual, 1 odd. Who 2020. licence CC0." in text
    assert 'MultitaskModel.from_pretrained("user/name")' in text
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "status.json").unlink()  # it seals the file
    for damage in ([{"name": "x"}], "stranger", [{**config["tasks"][0], "kind": "odd"}]):
        (run.path / "config.json").write_text(json.dumps(config | {"tasks": damage}))
        with pytest.raises(CheckpointError, match="config.json: tasks"):
            _ = run.experiment


def test_a_card_changes_neither_the_model_nor_a_card_that_is_there(run, copied):
    model, seal = copied.path / "model", run.read("status.json")["seal"]
    path = copied.path / CARD
    assert path.read_text() == cards.write_card(copied).read_text()
    assert len(mtlib.MultitaskModel.from_pretrained(model, seal).predict("sst", ["red cat"])) == 1
    path.write_text("my own words")
    fitting._write_card(copied)
    assert path.read_text() == "my own words"


def test_a_card_of_a_run_without_weights_is_refused_with_the_remedy(copied):
    shutil.rmtree(copied.path / "model")
    done = CliRunner().invoke(app, ["card", str(copied.path)])
    assert done.exit_code == 66 and "found no folder; a run that was unpacked has none: remove it and" in done.output
    assert not (copied.path / "model").exists()


def test_a_run_whose_model_was_taken_away_is_left_alone(copied):
    shutil.rmtree(copied.path / "model")
    fitting._write_card(copied)
    assert not (copied.path / "model").exists()


def test_a_pretrained_encoder_s_card_warns_of_its_heads(corpus, tmp_path):
    run = mtlib.fit(mtlib.pretraining("smoke", name="ranked"), corpus, tmp_path, progress="none")
    text = cards.write_card(run).read_text()
    assert "heads are untrained" in text and f"{run.scores['dev_loss']:.3f}" in text
    assert not ModelCard(text).data.eval_results


@pytest.mark.parametrize("name", ["model.safetensors", "heads.safetensors"])
def test_a_card_of_damaged_weights_is_one_message(copied, name):
    (copied.path / "model" / name).write_bytes((copied.path / "model" / name).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{name}: expected the weights that were stored"):
        cards.write_card(copied)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("environment.json", "device_name", ...),
        ("config.json", "corpus", "news"),
        ("config.json", "corpus", {"name": "x", "title": "x"}),
        ("config.json", "corpus", {"name": "x", "title": 5, "fingerprint": "x"}),
        ("scores.json", "chosen", [1]),
        ("scores.json", "seconds", "long"),
        ("scores.json", "epoch", True),
    ],
)
def test_a_wrong_value_in_a_run_is_one_message(copied, name, key, value):
    content = copied.read(name) | {key: value}
    (copied.path / name).write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    with pytest.raises(CheckpointError, match=name):
        cards.write_card(copied)
        assert copied.scores


def test_a_corpus_whose_name_is_no_utf_8_has_a_card(copied):
    config = copied.read("config.json")
    config["corpus"]["title"] = "folder cs\udcff"
    (copied.path / "config.json").write_text(json.dumps(config))
    assert "folder cs\\udcff" in cards.write_card(copied).read_text(encoding="utf-8")


def test_what_the_card_says_of_texts_is_of_the_run_s_tasks(tmp_path, monkeypatch):
    news = Task("news", "binary", ("text",), "label", title="News")
    monkeypatch.setitem(TASKS, "news", news)
    corpus = dataclasses.replace(made_up_corpus((SST, news)), name="sample (synthetic) + news")
    said = {}
    for tasks in (("news",), ("sst", "news")):
        changes = {"tasks": tasks, "epochs": 1, "steps_per_epoch": 1, "max_tokens": 4000}
        said[tasks] = cards.card_text(mtlib.fit(mtlib.experiment("smoke").but(**changes), corpus, tmp_path))
    for text in said.values():
        assert "English" not in text and "language: en" not in text
        assert "Inputs beyond 128 tokens are cut." in text
    assert "generated" not in said["news",] and "No step trained" not in said["news",]
    assert "The texts of SST-5 are generated." in said["sst", "news"]
    assert "No step trained News: those heads" in said["sst", "news"]
