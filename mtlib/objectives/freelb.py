"""FreeLB: the task loss over the path of an adversary that climbs it (Zhu et al. 2020)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtlib.numbers import NonNegative, Positive
from mtlib.objectives.penalty import Dropout, Penalty, Step


class FreeLB(Penalty):
    """Penalty (1/K) sum_t L(f(x + d_t), y) - L(f(x), y): at weight 1 the clean loss falls out, as in the paper.

    Every example draws d_0, uniform in +-initial / sqrt(n) for its n numbers (tokens times hidden), and climbs
        d_{t+1} = P(d_t + ascent g / |g|),  g the gradient of L(f(x + d_t), y) with respect to d_t,
    |.| being the Frobenius norm over an example's tokens, and P the projection onto the ball |d| <= radius. All K
    passes train the model; the last one needs no g.

    weight: 1 is FreeLB; w is (1 - w) clean + w adversarial loss. steps: K. dropout: "shared" is the paper's (section
    3.3): one mask for the whole path.
    Where it deviates from the paper: d is added to the output of the embedding block (after LayerNorm), as in `Smart`,
    not to the word vectors; the clean pass, which the loop makes for all penalties, is computed though its gradient
    cancels at weight 1; the passes are differentiated twice, with respect to d and in the end to the weights, where the
    authors do both at once.
    d is zero on padding. One step costs 4 K + 2 passes where plain training costs 3: 10 with K = 2.
    Logs freelb/penalty and freelb/radius (the batch's mean |d| in the last pass).
    Source: Zhu et al. 2020, algorithm 1; the defaults are in the range it searches for GLUE.

    >>> FreeLB(weight=1.0, steps=3).label
    'freelb-1-3'
    """

    kind: Literal["freelb"] = "freelb"
    dropout: Dropout = "shared"
    steps: Annotated[int, Field(ge=1, le=100)] = 2
    initial: NonNegative = 0.05
    ascent: Positive = 0.1
    radius: Positive = 0.3

    @property
    def label(self) -> str:
        """Kind, weight and steps, and a radius that is not the usual one."""
        radius = f"-r{self.radius:g}" if self.radius != 0.3 else ""
        return f"{super().label}-{self.steps}{radius}" if self.weight else super().label

    def __call__(self, step: Step) -> Tensor:
        """The penalty of this step: how much the loss rises along the path, its mean over the passes."""
        d, clean, rises = self.start_of_path(step), step.loss(step.logits), []
        for number in range(self.steps):
            d = d.detach().requires_grad_()
            loss = step.loss(step.forward(step.embeddings + d))
            rises.append(loss - clean)
            if number < self.steps - 1:
                (g,) = torch.autograd.grad(loss, d, retain_graph=True)
                d = self.climbed(d, g * step.mask.unsqueeze(-1))
        term = torch.stack(rises).mean()
        step.log["freelb/penalty"] = term.detach()
        step.log["freelb/radius"] = norm(d.detach()).mean()
        return term

    def start_of_path(self, step: Step) -> Tensor:
        """d_0 [batch, tokens, hidden], from the stream "freelb" of the step; zero on padding."""
        mask = step.mask.unsqueeze(-1).to(step.embeddings.dtype)  # [batch, tokens, 1]
        numbers = mask.sum(1, keepdim=True) * step.embeddings.shape[-1]  # of each example
        uniform = torch.erf(step.randn("freelb") / 2**0.5)  # of a normal number: uniform in +-1
        return self.initial * uniform * mask / numbers.sqrt()

    def climbed(self, d: Tensor, g: Tensor) -> Tensor:
        """The next d: one step of length `ascent` along g, projected onto the ball, each example by itself."""
        d = d.detach() + self.ascent * g / norm(g).clamp_min(torch.finfo(g.dtype).tiny)
        return d * (self.radius / norm(d).clamp_min(torch.finfo(d.dtype).tiny)).clamp_max(1)


def norm(d: Tensor) -> Tensor:
    """Frobenius norm of each example's perturbation [batch, tokens, hidden], as [batch, 1, 1]."""
    return d.flatten(1).norm(dim=1)[:, None, None]
