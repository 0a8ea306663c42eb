"""What a model costs and scores in each form it can be used in: float32, bfloat16, ONNX, ONNX in 8 bits."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from mtlib.data.batches import TokenizedSplit
from mtlib.data.corpus import Corpus
from mtlib.device import Precision, autocast
from mtlib.errors import DataError
from mtlib.model import MultitaskModel
from mtlib.onnx_model import FLOAT32, INT8, OnnxModel
from mtlib.prediction import predictions
from mtlib.study.eval_splits import REPORTING, Part, Stored, score_table
from mtlib.study.statistics import compare

Answers = Callable[[TokenizedSplit], pd.DataFrame]
SLOWER = 0.95
"""Share of float32's speed below which a form is called slower: repeated timings differ by a few hundredths."""


def table(
    model: MultitaskModel, corpus: Corpus, on: Part = REPORTING, *, timed: int = 300, rounds: int = 3
) -> pd.DataFrame:
    """A row a form: its size, speed and scores, and how its scores differ from those of float32.

    on: the part that is scored. timed: texts a task whose prediction is timed, tokens given; the best of `rounds`
    rounds counts. Both libraries compute with torch's number of threads, torch where the model is.
    Columns: form, MB (of weights and graph), texts_per_second, the scores by task, mean, evenness, difference (of the
    mean, with low and high, a 95 % interval, and resolved, as in `statistics.compare`), and verdict: what a form loses.
    Raises DataError for a corpus without labels in that part, or whose labels mean something else, and what
    `export_onnx` raises.
    """
    corpus.expect_labels_of(model.tasks)
    splits = {task.name: getattr(corpus[task.name], on.split) for task in model.tasks}
    if unlabelled := [name for name, frame in splits.items() if frame is None or "label" not in frame]:
        raise DataError(f"{corpus.title}: expected a labelled {on.split} of every task, found none of {unlabelled[0]}")
    tokenized = {}
    for task in model.tasks:
        scored = splits[task.name][on.keeps(splits[task.name]["id"])].reset_index(drop=True)
        tokenized[task.name] = TokenizedSplit(task, scored, model.tokenizer, model.max_tokens)
    with tempfile.TemporaryDirectory(prefix="mtlib-formats-") as place:
        model.export_onnx(place, int8=True)
        model.save_pretrained(f"{place}/model")
        size = _megabytes(*Path(place, "model").glob("*.safetensors"))
        forms: dict[str, tuple[float, Answers]] = {
            "float32": (size, _in(model, "float32")),
            "bfloat16": (size, _in(model, "bfloat16")),
            "ONNX": (_megabytes(Path(place, FLOAT32)), OnnxModel(Path(place, FLOAT32)).predictions),
            "ONNX int8": (_megabytes(Path(place, INT8)), OnnxModel(Path(place, INT8)).predictions),
        }
        speeds = _speeds({name: answers for name, (_, answers) in forms.items()}, tokenized, timed, rounds)
        systems = {name: Stored(_frames(answers, tokenized, on.split)) for name, (_, answers) in forms.items()}
    rows = pd.DataFrame({"MB": {name: size for name, (size, _) in forms.items()}, "texts_per_second": speeds})
    rows = rows.join(score_table(systems, on)).rename_axis("form")
    differences = compare(systems, [("float32", name) for name in list(forms)[1:]], on)
    last = differences[differences["task"] == ("mean" if len(tokenized) > 1 else next(iter(tokenized)))]
    rows = rows.join(last.set_index("system")[["difference", "low", "high", "resolved"]])
    rows["verdict"] = [_verdict(name, rows, differences) for name in rows.index]
    return rows.reset_index()


def _in(model: MultitaskModel, precision: Precision) -> Answers:
    def answers(split: TokenizedSplit) -> pd.DataFrame:
        with autocast(model.device, precision):
            return predictions(model, split)

    return answers


def _megabytes(*paths: Path) -> float:
    return sum(path.stat().st_size for path in paths) / 1e6


def _frames(answers: Answers, splits: Mapping[str, TokenizedSplit], name: str) -> dict[tuple[str, str], pd.DataFrame]:
    return {(name, task): answers(split) for task, split in splits.items()}


def _speeds(
    forms: Mapping[str, Answers], splits: Mapping[str, TokenizedSplit], timed: int, rounds: int
) -> dict[str, float]:
    """Texts a second of each form; the forms take turns, so that a busy moment is not one form's alone."""
    some = [split.part(range(min(timed, len(split)))) for split in splits.values()]
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(rounds + 1):  # the first is slower: kernels are chosen and memory is taken
        for name, answers in forms.items():
            start = time.perf_counter()
            for split in some:
                answers(split)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: sum(map(len, some)) / seconds for name, seconds in best.items()}


def _verdict(name: str, rows: pd.DataFrame, differences: pd.DataFrame) -> str:
    if name == "float32":
        return ""
    speed = rows.loc[name, "texts_per_second"] / rows.loc["float32", "texts_per_second"]
    mine = differences[(differences["system"] == name) & (differences["resolved"] == "yes")]
    losses = mine.loc[mine["difference"] < 0, "task"].tolist()
    said = [f"slower than float32 (x {speed:.2f})" if speed < SLOWER else f"x {speed:.2f} of float32's speed"]
    said.append(f"costs score ({', '.join(losses)})" if losses else "no loss of score resolved")
    return "; ".join(said)
