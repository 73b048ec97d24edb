"""AWP: adversarial weight perturbation (Wu et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, UsageError, defense, fit, ranks, sum_over_ranks
from defenses.at import look
from defenses.inner import Inner, craft, kl
from defenses.trades import INNER

COURSE = Course(epochs=200, drops=(100, 150))


@defense(paper="arXiv:2004.05884", version=1)
def at_awp(
    job: TrainJob, *, gamma: float = 0.01, awp_from: int = 1, clean_pass: bool = False, inner: Inner = Inner(),
    course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """Adversarial training at weights that were themselves moved uphill; gamma is how far, as a share of their norm.

    awp_from: the first epoch with moved weights.  clean_pass: as in at.  Where the attack is in training mode,
    the first batch after a validation is attacked in eval mode, as in the authors' code.  github.com/csdongxian/AWP.
    """
    push = Push(job, gamma)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        validated = feed.epoch > 1 and feed.place == 0 and inner.bn == "train"
        x_adv = craft(model, feed, job.threat, replace(inner, bn="eval") if validated else inner)
        if feed.epoch >= awp_from:
            push(model, lambda m: F.cross_entropy(m(x_adv), feed.y), len(feed))
        return F.cross_entropy(model(x_adv), feed.y)

    def back(model: nn.Module, feed: Batch) -> None:
        push.undo(model)
        if clean_pass:
            look(model, feed)

    return fit(job, job.net(), loss, course, after_step=back)


@defense(paper="arXiv:2004.05884", version=1)
def trades_awp(
    job: TrainJob, *, beta: float = 6.0, gamma: float = 0.005, awp_from: int = 10, forwards: int = 2,
    inner: Inner = INNER, course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """TRADES at weights that were moved uphill; the settings are those of trades and at-awp."""
    push = Push(job, gamma)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, inner)
        if feed.epoch >= awp_from:
            push(model, lambda m: _trades(m, feed, x_adv, beta, 1), len(feed))
        return _trades(model, feed, x_adv, beta, forwards)

    return fit(job, job.net(), loss, course, after_step=lambda model, _feed: push.undo(model))


def _trades(model: nn.Module, feed: Batch, x_adv: Tensor, beta: float, forwards: int) -> Tensor:
    """The loss of trades with the passes in the order of AWP's authors: x', then x, which the statistics remember."""
    logits_adv, logits = model(x_adv), model(feed.x)
    again = model(feed.x) if forwards == 2 else logits
    return F.cross_entropy(again, feed.y) + beta * kl(logits_adv, logits.softmax(1)).mean()


class Push:
    """Moves weights uphill and back: the step of the optimiser is taken between, and stays.

    Each weight of more than one axis (convolutions and linear layers) goes gamma times its own norm along the gradient
    that a copy of the model has in training mode; the model's batch statistics are not touched.
    """

    def __init__(self, job: TrainJob, gamma: float) -> None:
        if gamma <= 0:
            raise UsageError(f"gamma={gamma}: expected a share of the weights' norm above 0")
        self._gamma, self._copy = gamma, job.net()
        self._moves: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module, loss: Callable[[nn.Module], Tensor], images: int) -> None:
        """Move the weights to where the loss, a mean over so many images, is larger; only the direction counts."""
        self._copy.load_state_dict(model.state_dict())
        self._copy.train()
        own = {name: p for name, p in self._copy.named_parameters() if name.endswith("weight") and p.ndim > 1}
        climbed = loss(self._copy) if ranks() == 1 else loss(self._copy) * images
        found = torch.autograd.grad(climbed, list(own.values()), allow_unused=True)
        grads = {name: sum_over_ranks(grad) for name, grad in zip(own, found, strict=True) if grad is not None}
        self._moves = {
            name: self._gamma * own[name].detach().norm() / (grad.norm() + 1e-20) * grad for name, grad in grads.items()
        }
        self._add(model, 1.0)

    def undo(self, model: nn.Module) -> None:
        """Take the move back, not the step that came after it."""
        self._add(model, -1.0)
        self._moves = {}

    @torch.no_grad()
    def _add(self, model: nn.Module, sign: float) -> None:
        for name, move in self._moves.items():
            model.get_parameter(name).add_(move, alpha=sign)
