"""SMART: smoothness-inducing adversarial regularisation (Jiang et al. 2020), as published and made to work."""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mtlib.numbers import NonNegative, Positive
from mtlib.objectives.divergences import symmetric_divergence
from mtlib.objectives.penalty import Penalty, Step, require_dropout

DEFAULTS = {
    "rescaled": {"epsilon": 1e-6, "eta": 1e-3, "sigma": 1e-5},
    "projected": {"epsilon": 1e-5, "eta": 1e-3, "sigma": 1e-5},
    "ball": {"radius": 0.1, "sigma": 0.01},
}
OPTIONS = ("epsilon", "radius", "eta", "sigma")


class Smart(Penalty):
    """Penalty l_s(f(x + d), f(x)) at a perturbation d of the embeddings that was chosen to make it large.

    Every step draws nu ~ N(0, sigma^2), takes g, the gradient of l_s(f(x + nu), f(x)) with respect to nu, and sets
    mode "rescaled": d = (nu + eta g) / (max_hidden|nu + eta g| + epsilon), as public implementations do. epsilon
        only guards the division: |d| is about 1 at every token.
    mode "projected": d = clip(nu + eta g / max|g|, -epsilon, epsilon), the paper's formula. max|g| is over the batch.
    mode "ball": d = clip(nu + eps sign(g), -eps, eps) with eps = radius * mean|x|, the mean over the batch's tokens;
        sign(g) is the steepest ascent in the l-inf ball. Here sigma is in units of eps: nu has to be small against
        eps and never zero, for at d = 0 the divergence has no gradient. Under bfloat16 autocast nu is below rounding
        and half of the signs differ from float64's, yet d reaches 80 to 110 % of the same penalty (MiniLM, three
        tasks), provided that logits are float32: rounded ones often do not differ at all and leave d no direction.
    steps: repetitions, each starting from the d before it instead of nu. An option left out has its mode's default.

    direction is the ablation. "adversarial" is the above. "random" is the same arithmetic without a gradient, at the
        same l-inf radius: random signs take the place of g in "projected" and "ball", and in "rescaled" g is zero,
        its d being the rescaled noise. "none" is d = 0, consistency between two dropout masks.

    The gradient of the penalty flows through both outputs, f(x + d) and f(x), as in the paper's formula and public
    implementations; d is a constant. d is zero on padding. The inner step differentiates with respect to d alone and
    shares the clean logits, so one step costs 8 forward passes where plain training costs 3. A step with a
    non-finite inner gradient adds nothing and is counted (that check is the one device synchronisation of a step).
    Several processes that share a batch come to the d that one would: noise is drawn for the whole batch, and mean|x|,
    max|g|, the division by the batch size and the decision to skip are the whole batch's.
    Logs smart/penalty, smart/radius (|d|_inf / mean|x|) and smart/skipped (0 or 1).
    Raises ValueError (pydantic's ValidationError) for values and combinations that cannot work.
    """

    kind: Literal["smart"] = "smart"
    mode: Literal["rescaled", "projected", "ball"] = "rescaled"
    direction: Literal["adversarial", "random", "none"] = "adversarial"
    steps: Annotated[int, Field(ge=1, le=100)] = 1
    epsilon: Positive | None = None
    radius: Positive | None = None
    eta: Positive | None = None
    sigma: NonNegative | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("direction") == "none":
            return data
        mode = data.get("mode", "rescaled")
        defaults = DEFAULTS.get(mode, {}) if isinstance(mode, str) else {}
        return {**data, **{name: value for name, value in defaults.items() if data.get(name) is None}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in OPTIONS if getattr(self, name) is not None]
        if self.direction == "none":
            if self.dropout != "independent":
                raise ValueError(
                    f"direction 'none' compares two dropout masks and needs dropout 'independent'; "
                    f"with {self.dropout!r} both passes are the same and the penalty is always 0"
                )
            given += ["steps"] * (self.steps != 1) + ["mode"] * (self.mode != "rescaled")
            if given:
                raise ValueError(f"direction 'none' has no perturbation and does not use {', '.join(given)}")
            return self
        unused = [name for name in given if name not in DEFAULTS[self.mode]]
        if unused:
            raise ValueError(f"mode {self.mode!r} uses {', '.join(DEFAULTS[self.mode])}, not {', '.join(unused)}")
        if self.sigma == 0:
            raise ValueError("sigma 0 starts at d = 0, where the divergence has no gradient: expected a positive sigma")
        if self.mode == "ball" and self.sigma is not None and self.sigma >= 1:
            raise ValueError(f"sigma is in units of the ball's radius and must be small against 1, found {self.sigma}")
        return self

    @property
    def label(self) -> str:
        """Kind and weight, and what differs from the published form."""
        mode = [] if self.mode == "rescaled" or self.direction == "none" else [self.mode]
        radius = [f"{self.radius:g}"] if self.radius else []
        direction = {"adversarial": [], "none": ["consistency"]}.get(self.direction, [self.direction])
        dropout = [self.dropout] if self.dropout != "off" and self.direction != "none" else []
        return "-".join([super().label, *([*mode, *radius, *direction, *dropout] if self.weight else [])])

    def start(self, model: nn.Module, steps: int) -> Self:
        """Itself; raises ConfigurationError for direction "none" with a model without dropout: it is always 0."""
        if self.direction == "none":
            require_dropout(model, self.label)
        return self

    def __call__(self, step: Step) -> Tensor:
        """The penalty of this step; 0 when the inner gradient was not finite."""
        d = self.perturbation(step)
        step.log["smart/skipped"] = float(d is None)
        if d is None:
            return torch.zeros((), device=step.logits.device)
        term = symmetric_divergence(step.kind, step.forward(step.embeddings + d), step.logits)
        step.log["smart/penalty"] = term.detach()
        step.log["smart/radius"] = step.largest(d.abs().max()) / mean_size(step)
        return term

    def perturbation(self, step: Step) -> Tensor | None:
        """d [batch, tokens, hidden], a constant; None when the inner gradient is not finite."""
        if self.direction == "none":
            return torch.zeros_like(step.embeddings)
        d, bound = self.noise(step), self._bound(step)
        if self.direction == "random":
            ascent = torch.zeros_like(d) if self.mode == "rescaled" else step.randn("smart/signs").sign()
        for _ in range(self.steps):
            if self.direction == "adversarial":
                ascent = inner_gradient(step, d)
                if not step.everywhere(torch.isfinite(ascent).all()):
                    return None
            d = self._move(step, d, ascent * _columns(step), bound)
        return d

    def noise(self, step: Step) -> Tensor:
        """nu [batch, tokens, hidden], from the stream "smart" of the step; zero on padding."""
        assert self.sigma is not None, "direction 'none' draws nothing"
        scale = self.sigma * self._bound(step) if self.mode == "ball" else self.sigma
        return scale * step.randn("smart") * _columns(step)

    def _bound(self, step: Step) -> Tensor | float:
        return self.radius * mean_size(step) if self.mode == "ball" else self.epsilon

    def _move(self, step: Step, d: Tensor, g: Tensor, bound: Tensor | float) -> Tensor:
        if self.mode == "rescaled":
            moved = d + self.eta * g
            return moved / (moved.abs().amax(-1, keepdim=True) + bound)
        if self.mode == "projected":
            moved = d + self.eta * g / step.largest(g.abs().max()).clamp_min(torch.finfo(g.dtype).tiny)
        else:
            moved = d + bound * g.sign()
        return moved.clamp(-bound, bound)


def inner_gradient(step: Step, d: Tensor) -> Tensor:
    """Gradient of l_s(f(x + d), f(x)), the whole batch's, with respect to d alone, [batch, tokens, hidden]."""
    d = d.detach().requires_grad_()
    with torch.enable_grad():
        divergence = symmetric_divergence(step.kind, step.forward(step.embeddings.detach() + d), step.logits.detach())
        return torch.autograd.grad(step.share.weight * divergence, d)[0]


def mean_size(step: Step) -> Tensor:
    """mean|x| over the tokens of the whole batch's embeddings, padding left out; a scalar."""
    size = (step.embeddings.detach().abs().mean(-1) * step.mask).sum()
    summed, tokens = step.total(torch.stack([size, step.mask.sum().to(size)]))
    return summed / tokens


def _columns(step: Step) -> Tensor:
    return step.mask.unsqueeze(-1).to(step.embeddings.dtype)  # [batch, tokens, 1]
