"""One task of a model as transformers' own sequence classifier, which anybody loads without mtlib."""

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from mtlib.data.batches import Batch, forget_truncation
from mtlib.errors import ConfigurationError
from mtlib.tasks import Task
from mtlib.training.files import outside_runs, staged

if TYPE_CHECKING:
    from mtlib.model import MultitaskModel

HEADS = {
    "BertModel": ("pooler.dense", "classifier"),
    "RobertaModel": ("classifier.dense", "classifier.out_proj"),
    "MPNetModel": ("classifier.dense", "classifier.out_proj"),
}
"""Encoders whose classifier of transformers is tanh between two products of the first token's vector -> these two."""

SMALL = 2.0**-12
"""Scale on which tanh(x) is x: of a vector's largest entries, about 10, it takes two millionths."""

AMPLIFIED = 2.0**24
"""Weight of a mean beside the residual connection that it is added to, which float32 then rounds away."""

LINEAR = 2.0**-19
"""LayerNorm of x is linear in it where its deviation is this small beside sqrt(eps); and what makes up for it is
infinite in float16, whose answer is therefore no number instead of a wrong one."""

SIGN, ONNX = "One task of a multitask model of mtlib", "model.onnx"
"""What tells the exports of a task, and of all of them, from other folders: words of README.md, and a file."""

TOLERANCE = 1e-4
"""Largest difference of an exported form's outputs from the model's in float32, on the scale of the outputs."""


def export_task(model: "MultitaskModel", task: str, folder: Path | str) -> Path:
    """Write one task as transformers' own sequence classifier, with its trained head and its classes' names.

    `AutoModelForSequenceClassification.from_pretrained(folder)` gives the task's logits; of a binary task they are
    0 and its logit, of a regression its prediction. Its class puts a product and tanh between the first token's vector
    and the head: the product is a small multiple of the identity, which tanh leaves as it is. For mean pooling there is
    one layer more, which attends to all tokens alike and whose LayerNorms are kept on a scale where they are linear.
    Equal to float32 rounding; for prediction in float32 and bfloat16 (float16 gives NaN with mean pooling), not for
    further training.
    Raises ConfigurationError for an encoder whose class cannot say this, for the folder of a run or a stored model and
    for one with files of those names that are no export's, StorageError where the folder cannot be written; what an
    earlier export left there then stands.
    """
    known, folder = model.task(task), outside_runs(folder)
    classifier = _classifier(model, known).eval()
    _require_equal(model, known, classifier)
    with staged(folder, is_export) as place:
        classifier.save_pretrained(place)
        save_tokenizer(model, place)
        (place / "README.md").write_text(_about(known, type(classifier).__name__), encoding="utf-8")
    return folder


def is_export(folder: Path) -> bool:
    """Whether what is in the folder is an export, of a task or as ONNX."""
    about = folder / "README.md"
    is_task = about.is_file() and SIGN in about.read_text(encoding="utf-8", errors="replace")
    return is_task or (folder / ONNX).is_file()


def save_tokenizer(model: "MultitaskModel", folder: Path) -> None:
    """The tokenizer as it was loaded, for inputs of the model's length: its last call's settings are not written."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.model_max_length = model.max_tokens
    forget_truncation(tokenizer)
    tokenizer.save_pretrained(folder)


def _classifier(model: "MultitaskModel", task: Task) -> nn.Module:
    kind, config = type(model.encoder).__name__, copy.deepcopy(model.encoder.config)
    if kind not in HEADS:
        raise ConfigurationError(
            f"export of {task.name}: the classifier of {kind} in transformers has a head that ours is no case of; "
            f"known are {', '.join(HEADS)}, and any encoder as ONNX"
        )
    if model.pooling == "mean" and hasattr(model.encoder.encoder, "compute_position_bias"):
        raise ConfigurationError(
            f"export of {task.name}: {kind} attends by position, so no layer of it is the mean of its tokens: "
            "train with pooling 'cls', or export ONNX"
        )
    names = task.class_names or (task.title or task.name,)
    config.num_hidden_layers += model.pooling == "mean"
    config.num_labels = len(names)
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    config.problem_type = "regression" if task.kind == "regression" else "single_label_classification"
    classifier = transformers.AutoModelForSequenceClassification.from_config(config)
    encoder = getattr(classifier, classifier.base_model_prefix)
    head: Any = model.heads[task.name]
    with torch.no_grad():
        encoder.load_state_dict(model.encoder.state_dict(), strict=False)
        weight, bias = head.weight.cpu().double(), head.bias.cpu().double()
        if model.pooling == "mean":
            weight, bias = _averaging(encoder.encoder.layer[-2:], config.layer_norm_eps, weight, bias)
        weight, bias = weight * task.unit, task.values(bias)
        if task.kind == "binary":  # logits 0 and z: their softmax is sigmoid(z)
            weight, bias = (torch.cat([torch.zeros_like(values), values]) for values in (weight, bias))
        first, last = HEADS[kind]
        first = (encoder if kind == "BertModel" else classifier).get_submodule(first)
        _fill(first, SMALL)
        _fill(classifier.get_submodule(last), weight / SMALL, bias)
    return classifier


def _averaging(layers: Any, eps: float, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the last of two layers the mean over tokens; the head [outputs, hidden] that reads it as it did the mean.

    With LayerNorm's weight g and bias b in a head W: W mean(g n + b) = (W g) mean(n) + W b, where n has no mean over
    the hidden units, so that a further LayerNorm, which takes that away, takes nothing.
    """
    norm, layer = layers[0].output.LayerNorm, layers[1]
    attention = layer.attention
    weight, bias = weight * norm.weight.double(), bias + weight @ norm.bias.double()
    root = 2.0 ** round(math.log2(eps) / 2)  # of eps, as a power of two, which no format rounds
    signal = root * LINEAR
    norm.weight.fill_(signal / AMPLIFIED)
    norm.bias.zero_()
    for product, scale in (
        (attention.self.query, 0.0),
        (attention.self.key, 0.0),
        (attention.self.value, 1.0),
        (attention.output.dense, AMPLIFIED),
        (layer.intermediate.dense, 0.0),
        (layer.output.dense, 0.0),
    ):
        _fill(product, scale)
    for each, scale in ((attention.output.LayerNorm, root), (layer.output.LayerNorm, 1 / LINEAR)):
        each.weight.fill_(scale)
        each.bias.zero_()
    return weight * eps / root**2, bias


def _fill(product: nn.Linear, weight: torch.Tensor | float, bias: torch.Tensor | float = 0.0) -> None:
    """Give a linear layer a weight, or that multiple of the identity, and a bias."""
    if isinstance(weight, float):
        weight = weight * torch.eye(*product.weight.shape)
    product.weight.copy_(weight)
    product.bias.copy_(torch.as_tensor(bias).expand(len(product.bias)))


@torch.no_grad()
def _require_equal(model: "MultitaskModel", task: Task, classifier: nn.Module) -> None:
    """Raise ConfigurationError where the classifier's logits are not the model's, on texts of different lengths."""
    batch = trial(model, task)
    ours = task.values(model(task.name, batch.to(model.device).inputs).cpu())
    theirs = classifier(**batch.to("cpu").inputs).logits
    if task.kind == "binary":
        theirs = theirs[:, 1:] - theirs[:, :1]
    largest = (ours - theirs).abs().max().item()
    if not largest <= TOLERANCE * max(1.0, ours.abs().max().item()):
        raise ConfigurationError(
            f"export of {task.name}: expected logits equal to {TOLERANCE:g}, found a difference of {largest:.2g}"
        )


def _about(task: Task, kind: str) -> str:
    call = '{"text": "How old is it?", "text_pair": "What is its age?"}' if task.is_pair else '"A lovely film."'
    return f"""---
library_name: transformers
pipeline_tag: text-classification
---

# {task.title or task.name}

{SIGN}, as transformers' `{kind}`.

```python
from transformers import pipeline

pipeline("text-classification", ".")({call})
```

For prediction in float32 or bfloat16. Its last products, and with mean pooling its last layer, say what the multitask
model computes: do not train it further, and do not load it in float16, which may give NaN.
"""


def trial(model: "MultitaskModel", task: Task) -> Batch:
    """Two texts, or pairs, of different lengths, to compare an exported form with the model on."""
    texts = ["A short one.", "A text of a few more words, so that the other one is padded when both are read."]
    return model.tokenize(task, list(zip(texts, texts[::-1], strict=True)) if task.is_pair else texts).batch([0, 1])


def plain_outputs(model: "MultitaskModel", inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Sentence vectors and every task's logits by transformers' own modules, which can be traced."""
    vectors = model.pool(model.encoder(**inputs).last_hidden_state, inputs["attention_mask"])
    return vectors, *(model.heads[task.name](vectors) for task in model.tasks)
