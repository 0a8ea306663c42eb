"""A two-layer random BERT with one head, and the steps that penalties see of it."""

import torch
from torch import nn
from transformers import BertConfig, BertModel

from mtlib.objectives.penalty import Step

OUTPUTS = {"classification": 5, "binary": 1, "regression": 1}


class TinyModel(nn.Module):
    """Encoder and head; logits [batch, outputs] from tokens, or from given embedding-block outputs."""

    def __init__(self, kind="classification", seed=0, dropout=0.0):
        super().__init__()
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.2,
            attn_implementation="eager",
        )
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(32, OUTPUTS[kind])
        self.kind = kind

    def forward(self, ids, mask, embeddings=None):
        if embeddings is not None:
            self.encoder.embeddings.forward = lambda *args, **kwargs: embeddings
        try:
            return self.head(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0])
        finally:
            self.encoder.embeddings.__dict__.pop("forward", None)


def tokens(batch=4, length=8, padding=0, seed=1):
    """Token ids and mask [batch, length]; the last `padding` tokens of every second row are padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding:
        mask[::2, -padding:] = 0
    return ids * mask, mask


def step_of(model, ids, mask, number=0, seed=0):
    """The step of `model` on one batch, its clean pass done."""
    x = model.encoder.embeddings(input_ids=ids)
    return Step(
        number=number,
        seed=seed,
        kind=model.kind,
        mask=mask,
        embeddings=x,
        logits=model(ids, mask, x),
        labels=torch.zeros(len(ids)),
        forward=lambda embeddings: model(ids, mask, embeddings),
        run=lambda other: other(ids, mask),
    )


def linear_step(weight, x, mask=None, kind="regression", number=0, seed=0):
    """The step of f(x) = x W^T on tokens of length one: x [batch, 1, hidden], W [outputs, hidden]."""

    def forward(embeddings):
        return embeddings[:, 0] @ weight.T

    mask = torch.ones(x.shape[:2]) if mask is None else mask
    return Step(number, seed, kind, mask, x, forward(x), torch.zeros(len(x)), forward)
