"""TRADES (Zhang et al., 2019)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Augment, Batch, ThreatModel, TrainJob, defense, fit
from defenses.inner import Move, ascend, kl, ramped

SIGMA = 1e-3  # of the start: at x itself the divergence, and so its gradient, is zero


@defense(paper="arXiv:1901.08573", version=1)
def trades(
    job: TrainJob, *, beta: float = 6.0, steps: int = 10, step: float = 0.25, forwards: int = 2, epochs: int = 76,
    lr: float = 0.1, decay: float = 2e-4, batch: int = 128, drops: tuple[int, ...] = (75, 90, 100),
    ramp: float = 0.0, augment: Augment = "none",
) -> nn.Module:  # fmt: skip
    """Be right on x, and of one mind about everything near x; `step` is a share of eps.

    ramp: the epochs over which eps grows.  forwards: how often the clean batch passes in training mode (the authors'
    code: 2, which counts twice in the batch statistics).  The published step is 0.007 at eps 0.031.
    github.com/yaodongyu/TRADES.
    """

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = disagreement(model, feed, ramped(job.threat, feed, ramp), steps=steps, step=step)
        return trades_loss(model, feed, x_adv, beta, forwards)

    return fit(
        job, job.net(), loss,
        epochs=epochs, lr=lr, decay=decay, batch=batch, drops=drops, augment=augment,
    )  # fmt: skip


def trades_loss(model: nn.Module, feed: Batch, x_adv: Tensor, beta: float, forwards: int = 2) -> Tensor:
    """CE(f(x), y) + beta KL(p(x) || p(x_adv)); the gradient flows through both arguments of the divergence."""
    logits = model(feed.x)
    logits_adv = model(x_adv)
    again = model(feed.x) if forwards == 2 else logits
    return F.cross_entropy(logits, feed.y) + beta * kl(logits_adv, again.softmax(1))


def disagreement(
    model: nn.Module, feed: Batch, threat: ThreatModel, *, steps: int, step: float, project: Move | None = None
) -> Tensor:
    """Climb KL(p(x) || p(x')) from a small normal step off x; last iterate: (B, C, H, W)."""
    training = model.training
    model.eval()
    with torch.no_grad():
        p = model(feed.x).softmax(1)
    model.train(training)
    noise = feed.draws.at("start").normal(*feed.x.shape[1:])
    return ascend(
        model, feed.x + SIGMA * noise, lambda logits: kl(logits, p),
        uphill=threat.uphill, project=project or partial(threat.project, x=feed.x),
        step=step * float(threat.eps), steps=steps,
    )  # fmt: skip
