"""Model cards: the README.md beside a finished run's weights, with the metadata that the Hugging Face Hub reads."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

import mtlib
from mtlib.data import sample
from mtlib.data.corpus import TITLES
from mtlib.encoders import BERT_BASE
from mtlib.errors import CheckpointError
from mtlib.storage import ABOUT, About
from mtlib.study.eval_splits import Dev, ReportingHalf, Test
from mtlib.study.statistics import intervals
from mtlib.study.tables import pretty
from mtlib.tasks import ORDER, TASKS, in_order
from mtlib.training.files import write_atomic
from mtlib.training.runs import CARD, Run

BASES = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "mpnet": "sentence-transformers/all-mpnet-base-v2",
    BERT_BASE: BERT_BASE,
}
"""Encoders whose Hub id and licence (Apache 2.0) are known, by the name an experiment gives them."""

ENVIRONMENT = ("device", "device_name", "threads", "precision")
"""What the card says of where the run was trained."""

PARTS = {"dev": Dev(), "reporting half of dev": ReportingHalf(), "test": Test()}

QUORA = (
    "The encoder was trained on Quora duplicate questions among others, so a QQP score on Quora's questions is not "
    "that of an encoder that has never seen them."
)

CITATION = """```bibtex
@software{mtlib,
  title  = {mtlib: one encoder, many tasks},
  author = {{The mtlib authors}},
}
@techreport{jack_of_all_trades,
  title       = {Jack of All Trades, Master of Some: Improving BERT for Multitask Learning},
  institution = {Stanford University},
  note        = {CS224N final project report; source of the methods},
}
```"""


def write_card(run: Run) -> Path:
    """Write, or replace, the finished run's model card; raises CheckpointError for a damaged run, StorageError."""
    write_atomic(run.path / CARD, card_text(run).encode("utf-8", "backslashreplace"))
    return run.path / CARD


def card_text(run: Run, source: str = "") -> str:
    """The finished run's model card; source: the Hub id it is for, by which its code then loads the model."""
    scores = pd.DataFrame() if isinstance(run.experiment, mtlib.Pretraining) else part_scores(run)
    parts = [
        f"# {run.id}",
        *_about(run, source),
        *_labels(run),
        *_scores(run, scores),
        *_cost(run),
        *_limits(run),
        "## Citation",
        CITATION,
    ]
    body = "\n\n".join(parts)
    return f"---\n{metadata(run, scores).to_yaml()}\n---\n\n{body}\n"


def part_scores(run: Run) -> pd.DataFrame:
    """Scores with 95 % bootstrap intervals: columns part, task, score, low, high, n.

    Test has rows where the run has test predictions of every task, and they are labelled; a part of dev, where it has
    examples of every task.
    """
    tasks = in_order(run.experiment.task_names)
    tested = all((run.path / "predictions" / f"test-{task}.csv").is_file() for task in tasks)
    labelled = tested and all("label" in run.predictions("test", task) for task in tasks)
    parts = {name: part for name, part in PARTS.items() if name != "test" or labelled}
    parts = {name: part for name, part in parts.items() if all(len(part.predictions(run, task)) for task in tasks)}
    rows = [intervals(run, part, tasks).assign(part=name) for name, part in parts.items()]
    return pd.concat(rows, ignore_index=True)[["part", "task", "score", "low", "high", "n"]]


def encoder_of(run: Run) -> str:
    """The encoder that the run began with, and so did all its ancestors."""
    return run.experiment.encoder


def metadata(run: Run, scores: pd.DataFrame) -> ModelCardData:
    """The card's YAML header; an undefined score is left out of it."""
    names, base = _tasks(run), BASES.get(encoder_of(run))
    results = [
        _result(run, row)
        for row in scores.to_dict("records")
        if row["task"] in TASKS and row["part"] in ("dev", "test") and math.isfinite(row["score"])
    ]
    return ModelCardData(
        language="en" if set(names) <= set(ORDER) else None,
        library_name="mtlib",
        license="apache-2.0" if base else None,
        base_model=base,
        pipeline_tag="text-classification",
        tags=["multitask-learning", "bert", *names],
        model_name=run.id if results else None,
        eval_results=results or None,
    )


def _result(run: Run, row: dict) -> EvalResult:
    """One task's score on one split as the Hub lists it; a similarity is given by Pearson's r itself."""
    similar = TASKS[row["task"]].kind == "regression"
    return EvalResult(
        task_type="sentence-similarity" if similar else "text-classification",
        dataset_type=run.corpus["name"],
        dataset_config=row["task"],
        dataset_name=f"{_title(row['task'])}, {run.corpus['title']}",
        dataset_split={"dev": "validation"}.get(row["part"], row["part"]),
        metric_type="pearsonr" if similar else "accuracy",
        metric_name="Pearson's r" if similar else "accuracy",
        metric_value=round(2 * row["score"] - 1 if similar else row["score"], 4),
    )


def _tasks(run: Run) -> list[str]:
    e = run.experiment
    return [e.task] if isinstance(e, mtlib.Pretraining) else in_order(e.task_names)


def _title(task: str) -> str:
    return TASKS[task].title or task


def _about(run: Run, source: str) -> list[str]:
    e, corpus = run.experiment, run.corpus
    titles = ", ".join(map(_title, _tasks(run)))
    if isinstance(e, mtlib.Pretraining):
        what = f"An encoder after multiple negatives ranking on {titles}. Its heads are untrained: it is a start."
        use = "model.embed(texts)  # [texts, hidden]"
    else:
        what = f"One encoder with a linear head for each of: {titles}."
        use = "\n".join(f'model.predict("{name}", {_example(name)})' for name in _tasks(run))
    place = f'"{source}")' if source else '"model")  # this folder'
    code = f"```python\nimport mtlib\n\nmodel = mtlib.MultitaskModel.from_pretrained({place}\n{use}\n```"
    data = f"Trained on {corpus['title']}, SHA-256 of its content `{corpus['fingerprint']}`."
    settings = e.model_dump(mode="json", exclude={"name", "tasks", "task", "start_from"})
    settings["encoder"] = _named(encoder_of(run))
    settings["start_from"] = " < ".join(start.label for start in e.ancestors()) or "the encoder"
    rows = pd.DataFrame([(key, _shown(value)) for key, value in settings.items()], columns=["setting", "value"])
    return [what, data, code, "## Settings", rows.to_markdown(index=False, disable_numparse=True)]


def _labels(run: Run) -> list[str]:
    """What each task's labels are called, and where its data is from, as far as the tasks say."""
    lines = []
    for task in (TASKS[name] for name in _tasks(run)):
        labels = f"`{task.label_column}` from {task.low:g} to {task.high:g}" if task.kind == "regression" else ""
        labels = labels or ", ".join(f"{index} {name}" for index, name in enumerate(task.class_names))
        data = [task.citation, f"licence {task.licence}" if task.licence else ""]
        lines.append(f"- `{task.name}`: {'. '.join(filter(None, [labels, *data]))}.")
    return ["## Labels", "\n".join(lines)]


def _named(encoder: str) -> str:
    return Path(encoder).name if Path(encoder).is_absolute() else encoder


def _shown(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{key} {_shown(entry)}" for key, entry in value.items() if entry is not None) or "none"
        case list():
            return "; ".join(map(_shown, value)) or "none"
        case None:
            return "none"
    return str(value)


def _example(task: str) -> str:
    return '[("How old is it?", "What is its age?")]' if TASKS[task].is_pair else '["A lovely film.", "A mess."]'


def _scores(run: Run, scores: pd.DataFrame) -> list[str]:
    if scores.empty:
        return ["## Scores", f"Ranking loss on dev: {run.scores['dev_loss']:.3f}."]
    table = scores.assign(task=[_title(task) if task in TASKS else task for task in scores["task"]])
    shown = pretty(table).replace("", "undefined").to_markdown(index=False, disable_numparse=True)
    text = (
        f"Accuracy, and (r + 1) / 2 for similarities, with 95 % bootstrap intervals over the examples. The weights are "
        f"those of epoch {run.best_epoch} of {run.experiment.epochs}, the best on one half of dev, so scores on all of "
        "dev are a little optimistic; the reporting half chose nothing."
    )
    return ["## Scores", text, shown]


def _cost(run: Run) -> list[str]:
    where, e = {key: run.entry("environment.json", key) for key in ENVIRONMENT}, run.experiment
    examples = int(run.history["examples"].sum())
    device = where["device_name"] or where["device"]
    before = f" What it started from, `{e.start_from.label}`, cost extra." if e.start_from else ""
    if teachers := ", ".join(f"`{teacher.label}`" for teacher in getattr(e, "teachers", ())):
        before += f" What taught it, {teachers}, cost extra."
    return [
        "## Cost",
        f"{parameters(run) / 1e6:.1f} million parameters. {e.epochs} epochs x {e.steps_per_epoch} steps x "
        f"{e.batch_size} ({examples} examples) took {run.seconds:.0f} s with evaluation on {device}, "
        f"{where['threads']} threads, {where['precision']}.{before}",
    ]


def parameters(run: Run) -> int:
    """Number of stored weights, from the headers of the safetensors files; raises CheckpointError for a damaged one."""
    total = 0
    for path in sorted((run.path / "model").glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
        except SafetensorError as error:
            raise CheckpointError(f"{path}: expected the weights that were stored ({error})") from error
    return total


def _longest(run: Run) -> int:
    """Tokens beyond which inputs are cut: as many as was set, or fewer where the encoder reads no more."""
    about = run.path / "model" / ABOUT
    if not about.is_file():
        return run.experiment.max_tokens
    try:
        return About.model_validate_json(about.read_bytes()).max_tokens
    except ValidationError as error:
        raise CheckpointError(
            f"{about}: expected what a stored model says of itself ({error.errors()[0]['msg']})"
        ) from error


def _untrained(run: Run) -> list[str]:
    """Tasks of which no step of the run had an example."""
    history = run.history
    return [name for name in _tasks(run) if f"draws_{name}" in history and not history[f"draws_{name}"].sum()]


def _limits(run: Run) -> list[str]:
    encoder = encoder_of(run)
    kinds = "English sentences" if set(_tasks(run)) <= set(ORDER) else "Texts"
    limits = [f"{kinds} of the kinds above; it was tested on nothing else, and may repeat its texts' biases."]
    limits.append(f"Inputs beyond {_longest(run)} tokens are cut.")
    limits.append("One seed: another one gives other scores, by about as much as the intervals say or more.")
    generated = (
        [name for name in _tasks(run) if name in sample.TASKS] if TITLES["sample"] in run.corpus["title"] else []
    )
    if generated:
        titles = ", ".join(map(_title, generated))
        limits.append(f"The texts of {titles} are generated. Their scores say nothing about real text.")
    if untrained := _untrained(run):
        limits.append(f"No step trained {', '.join(map(_title, untrained))}: those heads are as they were drawn.")
    if encoder in ("minilm", "mpnet") and "qqp" in _tasks(run):
        limits.append(QUORA)
    if encoder == "tiny":
        limits.append("The encoder is small and began at random: for tests alone.")
    return ["## Limits", "\n".join(f"- {limit}" for limit in limits)]
