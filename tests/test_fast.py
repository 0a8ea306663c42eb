"""The fast path against transformers' own forward pass: outputs, gradients, dropout, and when it is not taken."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers
from conftest import made_up
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mtlib
from mtlib import fast
from mtlib.data.batches import TokenizedSplit
from mtlib.encoders import find_encoder
from mtlib.errors import CheckpointError
from mtlib.exports import plain_outputs
from mtlib.gradients import Gradients
from mtlib.model import MultitaskModel
from mtlib.objectives.bregman import Bregman
from mtlib.objectives.penalty import Step
from mtlib.objectives.smart import Smart
from mtlib.prediction import predictions
from mtlib.randomness import seeded
from mtlib.tasks import QQP, SST
from mtlib.training import loop
from mtlib.training.runs import RunStore

SMALL = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
KINDS = ["Bert", "Roberta", "MPNet"]


def make(kind="Bert", dropout=0.0, initial=0.2, **settings) -> MultitaskModel:
    """A model on a small random encoder, whose weights are large enough for attention to differ between tokens."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **{**SMALL, "intermediate_size": 64, "initializer_range": initial, **settings},
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    encoder = getattr(transformers, f"{kind}Model")(config, add_pooling_layer=False)
    return MultitaskModel(encoder, find_encoder("tiny").load()[1], (SST, QQP))


def batch_of(model, task=QQP, rows=6):
    frame = made_up(task, "train", 40)
    batch = TokenizedSplit(task, frame, model.tokenizer, 64).batch(np.arange(rows))
    assert (batch.inputs["attention_mask"] == 0).any(), "the tests are about padding too"
    if type(model.encoder).__name__ != "BertModel":
        batch.inputs.pop("token_type_ids")
    return batch


@pytest.fixture
def plain(monkeypatch):
    """Turns the fast path off, and on again with False."""

    def turn(off=True):
        monkeypatch.setenv(fast.SWITCH, "0" if off else "1")

    return turn


def step(model, batch, precision=torch.float32):
    """Logits, and every parameter's gradient of the task's loss."""
    model.zero_grad()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        logits = model(batch.task.name, batch.inputs)
    batch.task.loss(logits, batch.labels).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def agree(found, expected):
    """Norm ratio and cosine of two sets of gradients."""
    a, b = (torch.cat([gradients[name].flatten() for name in expected]) for gradients in (found, expected))
    return (a.norm() / b.norm()).item(), torch.cosine_similarity(a, b, dim=0).item()


@pytest.mark.parametrize("kind", KINDS)
def test_float32_outputs_and_gradients_are_those_of_transformers(kind, plain):
    model = make(kind)
    batch = batch_of(model)
    assert model.fast
    logits, gradients = step(model, batch)
    plain()
    assert model.fast is None
    expected, expected_gradients = step(model, batch)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_gradients_are_as_close_to_float32_as_those_of_autocast(kind, plain):
    model = make(kind)
    batch = batch_of(model)
    found = step(model, batch, torch.bfloat16)[1]
    plain()
    exact, autocast = step(model, batch)[1], step(model, batch, torch.bfloat16)[1]
    ratio, cosine = agree(found, exact)
    assert ratio == pytest.approx(1, abs=0.01) and cosine > 0.999
    assert 1 - cosine < 2 * (1 - agree(autocast, exact)[1])


def test_smart_perturbs_in_the_same_direction(plain):
    """The inner gradient goes through given embeddings, and leaves every parameter's gradient as it is."""
    model = make()
    batch = batch_of(model)

    def seen():
        x = model.embed_tokens(batch.inputs)
        return Step(
            number=0,
            seed=0,
            kind="binary",
            mask=batch.inputs["attention_mask"],
            embeddings=x,
            logits=model("qqp", batch.inputs, x),
            labels=batch.labels,
            forward=lambda given: model("qqp", batch.inputs, given),
        )

    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    smart = Smart(weight=1.0)
    with model.fixed():
        found, penalty = smart.perturbation(seen()), smart(seen())
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    plain()
    torch.testing.assert_close(found, smart.perturbation(seen()), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(penalty, smart(seen()), rtol=1e-3, atol=0)


def collected(model, terms, gradients=None) -> dict[str, torch.Tensor]:
    """Every parameter's gradient of the sum of terms(), collected as a training step does."""
    gradients = gradients or Gradients(model)
    with gradients.collecting(), model.fixed():
        sum(terms()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def near(found, expected, rtol=1e-3):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        atol = rtol * gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=rtol, atol=max(atol, 1e-7), msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_two_passes_of_a_step_add_up(kind, plain):
    """SMART's pass at x + d and the clean one, whose inner step asks for the embeddings' gradient alone."""
    model = make(kind)
    batch = batch_of(model)

    def terms():
        x = model.embed_tokens(batch.inputs)
        logits = model("qqp", batch.inputs, x)
        step = Step(
            number=0,
            seed=0,
            kind="binary",
            mask=batch.inputs["attention_mask"],
            embeddings=x,
            logits=logits,
            labels=batch.labels,
            forward=lambda given: model("qqp", batch.inputs, given),
        )
        return batch.task.loss(logits, batch.labels), 10 * Smart(weight=1.0)(step)

    found = collected(model, terms)
    plain()
    near(found, collected(model, terms))


def test_gradients_that_come_from_elsewhere_are_added(plain):
    """A penalty on the weights themselves reaches them before or after the layers do; nothing stays for later."""
    model = make()
    batch = batch_of(model)

    def loss():
        return (batch.task.loss(model("qqp", batch.inputs), batch.labels),)

    def terms():
        return *loss(), sum(parameter.square().sum() for parameter in model.parameters())

    kept = Gradients(model)
    found = [collected(model, each, kept) for each in (terms, loss, terms, loss)]
    norm = kept.clip(1e9)
    plain()
    for gradients, each in zip(found, (terms, loss, terms, loss), strict=True):
        near(gradients, collected(model, each))
    assert norm == pytest.approx(Gradients(model).clip(1e9), rel=1e-4)


def test_the_gradient_for_embeddings_alone_costs_no_product_of_weights():
    model = make()
    batch = batch_of(model)

    def operations(of) -> int:
        x = model.embed_tokens(batch.inputs).detach().requires_grad_()
        loss = batch.task.loss(model("qqp", batch.inputs, x), batch.labels)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(loss, of(x))
        return counter.get_total_flops()

    alone = operations(lambda x: [x])
    weights = operations(lambda x: [x, *model.encoder.encoder.parameters()])
    tokens, width = batch.inputs["input_ids"].numel(), model.encoder.config.hidden_size
    assert weights - alone == 2 * tokens * 3 * (4 * width**2 + 2 * width * 64)  # three layers' six matrices


def test_a_second_derivative_is_refused():
    model = make()
    batch = batch_of(model)
    x = model.embed_tokens(batch.inputs).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model("qqp", batch.inputs, x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_frozen_layers_stay_as_they_are(plain):
    model = make()
    batch = batch_of(model)
    model.encoder.embeddings.requires_grad_(False)
    model.encoder.encoder.layer[0].requires_grad_(False)
    model.encoder.encoder.layer[1].output.dense.weight.requires_grad_(False)

    def terms():
        return (batch.task.loss(model("qqp", batch.inputs), batch.labels),)

    found = collected(model, terms)
    assert not any("layer.0" in name or "embeddings" in name for name in found)
    plain()
    near(found, collected(model, terms))


def test_padding_changes_nothing():
    model = make().eval()
    batch = batch_of(model)
    inputs, mask = batch.inputs, batch.inputs["attention_mask"]
    wider = {name: nn.functional.pad(tensor, (0, 6), value=0) for name, tensor in inputs.items()}
    wider["input_ids"][:, -6:] = 7
    torch.testing.assert_close(model("qqp", wider), model("qqp", inputs), rtol=1e-5, atol=1e-6)
    x = model.embed_tokens(inputs).detach().requires_grad_()
    model("qqp", inputs, x).sum().backward()
    assert (x.grad[mask == 0] == 0).all() and (x.grad[mask == 1] != 0).any()


def test_dropout_is_a_function_of_the_seed():
    model = make(dropout=0.1).train()
    batch = batch_of(model)

    def logits(seed):
        with seeded(seed, "dropout", 3):
            return model("qqp", batch.inputs)

    torch.manual_seed(1)
    first = logits(0)
    torch.manual_seed(2)
    assert torch.equal(first, logits(0))
    assert not torch.equal(first, logits(1))
    with seeded(0, "dropout", 3):
        assert not torch.equal(model("qqp", batch.inputs), model("qqp", batch.inputs))
    assert torch.equal(model.eval()("qqp", batch.inputs), make()("qqp", batch.inputs))


@pytest.mark.parametrize("dropped", [0.1, 0.5])
def test_masks_keep_their_share_and_the_mean(dropped):
    torch.manual_seed(0)
    mask = fast.Masks().draw((1000, 1000), dropped)
    values, counts = mask.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0, 1 / (1 - dropped)], rel=1e-4)
    assert counts[0] / mask.numel() == pytest.approx(dropped, abs=5 * (dropped * (1 - dropped) / 1e6) ** 0.5)
    rows = mask.mean(1)  # independent draws: the rows' means spread like a binomial's
    assert rows.std().item() == pytest.approx((dropped / (1 - dropped) / 1000) ** 0.5, rel=0.1)


def test_every_place_that_transformers_drops_is_dropped(plain):
    """Over many draws the mean of the dropped-out logits is that of ordinary dropout."""
    model = make(dropout=0.3, initial=0.1, num_hidden_layers=1).train()
    batch = batch_of(model, rows=2)

    def draws():
        torch.manual_seed(0)
        with torch.no_grad():
            return torch.cat([model("qqp", batch.inputs) for _ in range(600)], dim=1)

    found = draws()
    plain()
    expected = draws()
    error = (found.var(1) / 600 + expected.var(1) / 600).sqrt()
    assert ((found.mean(1) - expected.mean(1)).abs() < 4 * error).all()
    torch.testing.assert_close(found.std(1), expected.std(1), rtol=0.15, atol=0)


def test_encoders_it_does_not_know_are_left_to_transformers():
    assert make(hidden_act="relu").fast is None and make(hidden_act="gelu_new").fast is None
    model = make()
    dense = model.encoder.encoder.layer[0].output
    dense.dense = nn.Sequential(dense.dense, nn.Linear(32, 32))  # as an adapter would
    assert MultitaskModel(model.encoder, model.tokenizer, (SST,)).fast is None
    config = transformers.DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    assert MultitaskModel(transformers.DistilBertModel(config), model.tokenizer, (SST,)).fast is None
    assert not fast.enabled(torch.device("mps")) and not fast.enabled(torch.device("xpu"))


@pytest.mark.parametrize("copied", [False, True])
def test_what_is_put_into_an_encoder_later_is_computed_too(copied):
    class Adapter(nn.Linear):  # as peft's: the weight and bias that it wraps are its own
        def forward(self, x):
            return super().forward(x) + 1

    model = make().eval()
    batch = batch_of(model)
    before = model("qqp", batch.inputs)
    query = model.encoder.encoder.layer[0].attention.self.value
    adapter = Adapter(query.in_features, query.out_features)
    adapter.weight, adapter.bias = query.weight, query.bias
    assert model.fast is not None
    model.encoder.encoder.layer[0].attention.self.value = adapter
    model = copy.deepcopy(model) if copied else model
    assert model.fast is None and (model("qqp", batch.inputs) != before).any()
    torch.testing.assert_close(model.encode(batch.inputs), plain_outputs(model, batch.inputs)[0])


def test_a_hook_is_called():
    model, calls = make().eval(), []
    hook = model.encoder.encoder.layer[1].register_forward_hook(lambda *_: calls.append(1))
    model("qqp", batch_of(model).inputs)
    assert calls == [1] and model.fast is None
    hook.remove()
    assert model.fast is not None


def test_masks_of_the_devices_own_generator_are_functions_of_its_seed_and_keep_the_mean():
    def draw(seed):
        torch.manual_seed(seed)
        return fast.drawn(torch.device("cpu"))((200, 500), 0.1)

    mask = draw(0)
    assert torch.equal(mask, draw(0)) and not torch.equal(mask, draw(1))
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(1.0).div(0.9).item()}
    assert mask.mean() == pytest.approx(1, abs=5 * (0.1 / 0.9 / mask.numel()) ** 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "MPNet"])
def test_on_a_gpu_it_is_the_same_function_and_the_same_gradients_to_the_bit_twice(kind, plain):
    model = make(kind).cuda()
    batch = batch_of(model).to(torch.device("cuda"))
    assert model.fast is not None
    (logits, found), (again, repeated) = step(model, batch), step(model, batch)
    assert torch.equal(logits, again) and all(torch.equal(found[name], repeated[name]) for name in found)
    plain()
    expected, gradients = step(model, batch)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
    ratio, cosine = agree(found, gradients)
    assert ratio == pytest.approx(1, abs=1e-3) and cosine > 0.9999


def test_weights_are_cast_again_once_they_may_have_changed():
    model = make().eval()
    batch = batch_of(model)

    def logits():
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            return model("qqp", batch.inputs)

    with model.fixed():
        first = logits()
        assert torch.equal(first, logits())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with model.fixed():
        assert not torch.equal(first, logits())


def test_a_copy_has_weights_of_its_own():
    model = make().eval()
    batch = batch_of(model)
    before = model("qqp", batch.inputs)
    teacher = Bregman(weight=1.0, decay=0.5).start(model, 10).teacher()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert torch.equal(teacher("qqp", batch.inputs), before)
    assert not torch.equal(model("qqp", batch.inputs), before)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_add_up_in_the_kept_buffer(precision):
    """Two batches' gradients in one buffer are their sum, also where the graph has two lookups; and none stays over."""
    model = make()
    batches = batch_of(model), batch_of(model, SST)
    apart = [step(model, batch, precision)[1] for batch in batches]
    model.zero_grad()
    gradients = Gradients(model)
    for _ in range(2):
        with gradients.collecting():
            assert all(parameter.grad is None for parameter in model.parameters())
            with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
                losses = [batch.task.loss(model(batch.task.name, batch.inputs), batch.labels) for batch in batches]
            sum(losses).backward()
    for name, parameter in model.named_parameters():
        expected = sum(gradients[name] for gradients in apart if name in gradients)
        coarse = precision == torch.bfloat16  # handed on, a bias's gradient is rounded; kept, it is not
        near = {"rtol": 1e-2, "atol": 1e-2 * expected.abs().max().item()} if coarse else {"rtol": 1e-5, "atol": 1e-7}
        torch.testing.assert_close(parameter.grad, expected, **near, msg=name)
    table = model.encoder.embeddings.word_embeddings.weight
    assert table.grad is gradients.rows.total
    layer = model.encoder.encoder.layer[0].attention.self
    assert layer.query.weight.grad.data_ptr() == gradients.buffer.data_ptr()
    assert (table.grad[model.tokenizer.pad_token_id] == 0).all()


@pytest.mark.parametrize("largest", [1e-3, 1e3])
def test_clipping_is_torch_s(largest):
    model, batch = make(), None
    batch = batch_of(model)
    gradients = Gradients(model)
    with gradients.collecting():
        batch.task.loss(model("qqp", batch.inputs), batch.labels).backward()
    other = copy.deepcopy(model)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        theirs.grad = None if mine.grad is None else mine.grad.clone()
    norm = nn.utils.clip_grad_norm_(other.parameters(), largest)
    assert gradients.clip(largest) == pytest.approx(norm.item(), rel=1e-5)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad)


def test_predictions_barely_change(plain):
    model = make().eval()
    split = TokenizedSplit(QQP, made_up(QQP, "dev", 30), model.tokenizer, 64)
    found = predictions(model, split)
    plain()
    np.testing.assert_allclose(found["p1"], predictions(model, split)["p1"], rtol=1e-4)


def test_the_path_is_recorded_and_part_of_exact_resume(corpus, tmp_path, monkeypatch, plain):
    experiment = mtlib.experiment("smoke", epochs=1, steps_per_epoch=3)
    begun = loop.Training._step

    def dying(self, number):
        if number == 1:
            raise KeyboardInterrupt
        begun(self, number)
        self.minutes = 0

    monkeypatch.setattr(loop.Training, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        mtlib.fit(experiment, corpus, tmp_path, progress="none")
    monkeypatch.setattr(loop.Training, "_step", begun)
    (run,) = RunStore(tmp_path).all()
    assert json.loads((run.path / "environment.json").read_text())["fast"] is True
    plain()
    with pytest.raises(CheckpointError, match="fast was True, is False"):
        mtlib.fit(experiment, corpus, tmp_path, progress="none")
    plain(False)
    assert mtlib.fit(experiment, corpus, tmp_path, progress="none").complete
