"""On whatever device a model is: no tensor stays behind on the CPU. Devices that are not here are stood in for."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from tiny import linear_step
from torch import nn

from mtlib.device import PATIENCE, join, resolved
from mtlib.encoders import find_encoder
from mtlib.errors import ConfigurationError
from mtlib.model import MultitaskModel
from mtlib.objectives import penalty as penalties
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.losses import LOSSES
from mtlib.objectives.penalty import Share, Step
from mtlib.objectives.ranking import multiple_negatives_ranking_loss
from mtlib.objectives.smart import Smart
from mtlib.randomness import torch_generator
from mtlib.tasks import QQP, SST, STS


class Block(nn.Embedding):
    """An embedding block; with it the least that a model takes for an encoder is made, which asks for no values."""

    def forward(self, input_ids):
        return super().forward(input_ids)


def stood_in() -> MultitaskModel:
    encoder = nn.Module()
    encoder.embeddings, encoder.config = Block(30522, 8), SimpleNamespace(hidden_size=8)
    encoder.forward = lambda input_ids, **_: SimpleNamespace(last_hidden_state=encoder.embeddings(input_ids=input_ids))
    return MultitaskModel(encoder, find_encoder("tiny").load()[1], (SST, QQP, STS))


@pytest.fixture
def elsewhere(monkeypatch):
    """The meta device, whose tensors have no content and refuse to meet those of the CPU."""
    monkeypatch.setattr(penalties, "torch_generator", lambda *stream, device: torch_generator(*stream))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for the meta device
    monkeypatch.setattr(Step, "everywhere", lambda step, flag: flag.device.type == "meta")
    return torch.device("meta")


@pytest.mark.parametrize("inputs", [["red cat", "a"], []])
@pytest.mark.parametrize("ask", [lambda model, inputs: model.predict("sst", inputs), MultitaskModel.embed])
def test_a_model_predicts_and_embeds_where_it_is(ask, inputs, elsewhere):
    assert len(ask(stood_in(), inputs)) == len(inputs)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # the last step: results come back
        ask(stood_in().to("meta"), inputs)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("mode", ["rescaled", "projected", "ball"])
@pytest.mark.parametrize("direction", ["adversarial", "random"])
def test_smart_computes_where_the_step_is(elsewhere, mode, direction, shared):
    weight, x = torch.ones(3, 6, device=elsewhere), torch.ones(4, 1, 6, device=elsewhere)
    step = linear_step(weight, x, torch.ones(4, 1, device=elsewhere))
    if shared:
        step.share = Share(torch.arange(4), 9, 4 / 9)
    assert Smart(weight=1, mode=mode, direction=direction)(step).device == x.device
    assert {value.device for value in step.log.values() if torch.is_tensor(value)} == {x.device}
    with pytest.raises(Exception, match="device"):
        Smart(weight=1)(linear_step(weight, x, torch.ones(4, 1)))


def test_a_teacher_is_where_its_student_is(elsewhere):
    student = nn.Linear(3, 2, device=elsewhere)
    working = Bregman(weight=1, decay=0.9).start(student, 10)
    x = torch.ones(4, 3, device=elsewhere)
    step = Step(0, 0, "classification", x, x, student(x), x, None, run=lambda other: other(x))
    assert working(step).device.type == "meta"
    working.after_step(student, 0)
    assert {tensor.device.type for tensor in working.state().values()} == {"meta"}


def test_losses_are_where_their_outputs_are(elsewhere):
    a = torch.ones(4, 8, device=elsewhere)
    labels = torch.arange(4, device=elsewhere)
    for name, loss in LOSSES.items():
        assert loss(a if name == "classification" else a[:, :1], labels).device.type == "meta"
    assert multiple_negatives_ranking_loss(a, a, 20.0).device.type == "meta"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE: expected a positive number, found 'abc'; correct it, or unset it"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: expected a positive number, found '0'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: expected what `accelerate launch` says to each process, MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "::1", "RANK": "2"}, "RANK: expected a number from 0 to 1, found '2'"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "::1", "LOCAL_RANK": "-1"}, "LOCAL_RANK: expected a number from 0 to 1"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "::1", "MASTER_PORT": "http"}, "MASTER_PORT: expected a number from 0 to"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "::1", PATIENCE: "soon"}, f"{PATIENCE}: expected a positive number"),
    ],
)
def test_an_environment_that_no_launcher_leaves_is_one_message(environment, message, monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", PATIENCE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=message):
        join()


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bfloat16"),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, "float32"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bfloat16"),
        ({"architecture": "aarch64", "bf16": True}, "bfloat16"),
        ({"avx2": True, "cpu_name": "AMD EPYC"}, "float32"),
    ],
)
def test_precision_is_what_a_cpu_multiplies_fastest_in(able, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert resolved("auto", torch.device("cpu")) == expected
    assert resolved("bfloat16", torch.device("cpu")) == "bfloat16"
