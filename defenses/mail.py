"""MAIL: margin-aware instance reweighting learning (Liu et al., 2021)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, defense, fit
from defenses.inner import Inner, craft
from defenses.mart import mart_loss
from defenses.trades import trades_loss
from defenses.weights import balanced, watch

COURSE = Course(epochs=120, lr=0.01, decay=3.5e-3, drops=(76, 91, 101))


@defense(paper="arXiv:2106.07904", version=1)
def mail_at(
    job: TrainJob, *, slope: float = 10.0, bias: float = -0.5, first: int = 77,
    norm: Literal["three", "batch", "none"] = "three", inner: Inner = Inner(start="gauss"), course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """Adversarial training that weighs an image by its probabilistic margin at x'.

    w = sigmoid(-slope (PM - bias)); first: the first epoch with weights (before: plain adversarial training).
    norm: three (the authors' code multiplies by 3), batch (mean 1, as the paper has it) or none.  The defaults are
    those of the authors' ResNet-18.  github.com/QizhouWang/MAIL.
    """
    weigh = partial(_weigh, job, first, slope, bias, norm)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        logits = model(craft(model, feed, job.threat, inner))
        return (weigh(feed, logits) * F.cross_entropy(logits, feed.y, reduction="none")).mean()

    return fit(job, job.net(), loss, course)


@defense(paper="arXiv:2106.07904", version=1)
def mail_trades(
    job: TrainJob, *, beta: float = 5.0, slope: float = 2.0, bias: float = 0.0, first: int = 77,
    norm: Literal["three", "batch", "none"] = "three", late_inner: Literal["kl", "ce"] = "kl",
    inner: Inner = Inner(start="gauss", inner="kl"), course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """TRADES with MAIL's weights on the divergence; other settings as in mail-at.

    late_inner: what the attack climbs once there are weights; the code behind the published figures probably climbed
    ce there.
    """
    weigh = partial(_weigh, job, first, slope, bias, norm)
    later = replace(inner, inner=late_inner)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, later if feed.epoch >= first else inner)
        return trades_loss(model, feed, x_adv, beta, 1, weigh=lambda _, logits_adv: weigh(feed, logits_adv))

    return fit(job, job.net(), loss, course)


@defense(paper="arXiv:2106.07904", version=1)
def mail_mart(
    job: TrainJob, *, beta: float = 5.0, slope: float = 10.0, bias: float = -0.5, first: int = 77,
    norm: Literal["three", "batch", "none"] = "three", inner: Inner = Inner(start="gauss"), course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """MART with MAIL's weights on its first term alone; settings as in mail-at."""
    weigh = partial(_weigh, job, first, slope, bias, norm)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, inner)  # before any pass that moves the batch statistics
        return mart_loss(model, feed, x_adv, beta, weigh=lambda _, logits_adv: weigh(feed, logits_adv))

    return fit(job, job.net(), loss, course)


def _weigh(job: TrainJob, first: int, slope: float, bias: float, norm: str, feed: Batch, logits: Tensor) -> Tensor:
    """The weights (B,) of a batch by the logits of x': ones before their first epoch; no gradient flows."""
    if feed.epoch < first:
        return torch.ones_like(logits[:, 0])
    w = torch.sigmoid(-slope * (margin(logits.detach(), feed.y) - bias))
    w = {"three": 3 * w, "batch": balanced(w), "none": w}[norm]
    watch(job, w, feed.y)
    return w


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """p_y - max p_j, j not y: (B,) from -1 to 1."""
    p = logits.softmax(1)
    return p.gather(1, y[:, None])[:, 0] - p.scatter(1, y[:, None], -1.0).amax(1)
