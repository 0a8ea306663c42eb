"""All tasks of a model as one ONNX file, in float32 or int8, and what onnxruntime answers with it."""

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import transformers
from pydantic import TypeAdapter
from torch import nn

from mtlib.data.batches import TokenizedSplit
from mtlib.errors import CheckpointError, ConfigurationError
from mtlib.exports import ONNX, TOLERANCE, is_export, plain_outputs, save_tokenizer, trial
from mtlib.prediction import answered, answers_to, inputs_frame
from mtlib.tasks import Task
from mtlib.training.files import outside_runs, staged

if TYPE_CHECKING:
    from mtlib.model import MultitaskModel

FLOAT32, INT8 = ONNX, "model-int8.onnx"
"""Names of the files."""

EMBEDDING = "sentence_embedding"
TASKS = TypeAdapter(tuple[Task, ...])


class Graph(nn.Module):
    """Encoder, pooling and every head, as the graph that is exported."""

    def __init__(self, model: "MultitaskModel", names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The sentence vectors [batch, hidden], then the logits [batch, outputs] of each task."""
        return plain_outputs(self.model, dict(zip(self.names, inputs, strict=True)))


def export_onnx(model: "MultitaskModel", folder: Path | str, int8: bool = False) -> Path:
    """Write encoder and heads as one ONNX file, `model.onnx`, with the tokenizer beside it; the file's path.

    Inputs: those of the tokenizer, [batch, tokens] of any size. Outputs: `sentence_embedding` [batch, hidden] and
    `<task>_logits` [batch, outputs], all of one pass; of a regression, 0 to 5 there is its range, `low` to `high`.
    The file says itself which tasks it has: `OnnxModel` reads it.
    int8: write `model-int8.onnx` too, matrices and word vectors in 8 bits (onnxruntime's dynamic quantisation), and
    give its path. Smaller; whether it is also faster, and what it costs, `mtlib.study.formats.table` measures.
    Raises ConfigurationError where `pip install mtlib[export]` is missing or onnxruntime answers otherwise, for the
    folder of a run or a stored model and for one whose files are no export's, StorageError where the folder cannot be
    written.
    """
    _require_onnx()
    folder, moved = outside_runs(folder), copy.deepcopy(model).cpu().eval()
    with staged(folder, is_export, replaced=(FLOAT32, INT8)) as place:
        save_tokenizer(moved, place)
        _trace(moved, place / FLOAT32)
        _require_equal(moved, place / FLOAT32)
        if int8:
            _quantise(place)
    return folder / (INT8 if int8 else FLOAT32)


def _require_equal(model: "MultitaskModel", path: Path) -> None:
    session, batch = _session(path), trial(model, model.tasks[0])
    with torch.no_grad():
        expected = [model.encode(batch.inputs), *(model(task.name, batch.inputs) for task in model.tasks)]
    found = session.run(None, _fed(session, batch.inputs))
    if not all(np.allclose(a, b.numpy(), atol=TOLERANCE) for a, b in zip(found, expected, strict=True)):
        raise ConfigurationError(f"{path.name}: onnxruntime's outputs are not the model's to {TOLERANCE:g}")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings, raised or logged: such as that torchvision is missing, whose operators no encoder has."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _trace(model: "MultitaskModel", path: Path) -> None:
    import onnx

    inputs = trial(model, model.tasks[0]).inputs
    names, outputs = list(inputs), [EMBEDDING, *(f"{task.name}_logits" for task in model.tasks)]
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    with _quietly(), torch.no_grad(), tempfile.TemporaryDirectory() as place:
        torch.onnx.export(
            Graph(model, names),
            tuple(inputs.values()),
            f"{place}/traced.onnx",
            input_names=names,
            output_names=outputs,
            dynamic_shapes=(tuple(axes for _ in names),),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        traced = onnx.load(f"{place}/traced.onnx")
    about: dict[str, Any] = {"tasks": TASKS.dump_python(model.tasks, mode="json"), "max_tokens": model.max_tokens}
    onnx.helper.set_model_props(traced, {"mtlib": json.dumps(about | {"temperatures": model.temperatures})})
    onnx.save(traced, path)


def _quantise(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = {"op_types_to_quantize": ["MatMul", "Gather"], "per_channel": True, "weight_type": QuantType.QInt8}
    with _quietly():
        quantize_dynamic(folder / FLOAT32, folder / INT8, **options)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"ONNX needs {error.name}: pip install 'mtlib[export]'") from None


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _fed(session: Any, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {each.name: inputs[each.name].numpy() for each in session.get_inputs()}


class OnnxModel:
    """An exported ONNX file and the tokenizer beside it, computed by onnxruntime with torch's number of threads.

    path: `model.onnx` or `model-int8.onnx`. tasks, max_tokens, temperatures: as of the model that was exported.
    Raises CheckpointError for a file that was not written by `export_onnx`.
    """

    def __init__(self, path: Path | str):
        _require_onnx()
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: expected a file that export_onnx wrote, found none")
        try:
            self.session = _session(path)
            about = json.loads(self.session.get_modelmeta().custom_metadata_map["mtlib"])
            self.tasks = TASKS.validate_python(about["tasks"])
            self.max_tokens, self.temperatures = about["max_tokens"], about["temperatures"]
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent)
        except Exception as error:  # those of onnxruntime and of tokenizers have no base class of their own
            reason = (str(error).splitlines() or [""])[0][:200]
            raise CheckpointError(f"{path}: expected a file that export_onnx wrote ({reason})") from error

    def outputs(self, split: TokenizedSplit, name: str, batch_size: int | None = None) -> np.ndarray:
        """One output [n, width] of the file over a split, in its order, float32."""
        parts, rows = [], []
        for batch in split.evaluation_batches(examples=batch_size):
            parts.append(self.session.run([name], _fed(self.session, batch.inputs))[0])
            rows.append(batch.rows)
        order = np.argsort(np.concatenate(rows))
        return np.concatenate(parts)[order]

    def predictions(self, split: TokenizedSplit, temperature: float = 1.0) -> pd.DataFrame:
        """As `mtlib.prediction.predictions`."""
        return answers_to(split, self.outputs(split, f"{split.task.name}_logits"), temperature)

    def predict(self, task: str, inputs: Any) -> pd.DataFrame:
        """As `MultitaskModel.predict`: a text, a pair or a list of them, one row each."""
        known = next((each for each in self.tasks if each.name == task), None)
        if known is None:
            raise ConfigurationError(f"unknown task {task!r}: this file has {', '.join(t.name for t in self.tasks)}")

        def predict(listed: Sequence) -> pd.DataFrame:
            frame = inputs_frame(known, listed)
            return self.predictions(TokenizedSplit(known, frame, self.tokenizer, self.max_tokens))

        return answered(known, inputs, predict)
