"""VIR: vulnerability-aware instance reweighting (Fakorede et al., 2023)."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, TrainJob, UsageError, defense, fit, frozen
from defenses.inner import Inner, craft, kl
from defenses.trades import trades_loss
from defenses.weights import balanced, watch

COURSE = Course(epochs=115, lr=0.01, decay=3.5e-3, drops=(75, 90))


@defense(paper="arXiv:2307.07167", version=1)
def vir_at(
    job: TrainJob, *, alpha: float = 7.0, gamma: float = 10.0, beta: float = 0.007, first: int = 76,
    parts: Literal["both", "vulnerability", "discrepancy"] = "both", norm: Literal["none", "batch"] = "none",
    natural: Literal["train", "eval"] = "train", inner: Inner = Inner(start="gauss"), course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """Adversarial training that weighs an image by how unsure the model is of it, and by what the attack changes.

    w = alpha exp(-gamma p_y(x)) KL(p(x) || p(x')) + beta.  first: the first epoch with weights.  parts: both, or for
    the ablations vulnerability (the first factor) or discrepancy (the second) alone, without beta.  natural: whether
    the clean pass for the weights moves batch statistics.  The defaults are those of the paper's ResNet-18; no code
    of its authors is public.
    """
    weigh = partial(_weigh, job, alpha, gamma, beta, parts, norm)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, inner)
        if feed.epoch < first:
            return F.cross_entropy(model(x_adv), feed.y, reduction="none").mean()
        with frozen(model, natural), torch.no_grad():
            logits = model(feed.x)
        logits_adv = model(x_adv)
        return (weigh(feed.y, logits, logits_adv) * F.cross_entropy(logits_adv, feed.y, reduction="none")).mean()

    return fit(job, job.net(), loss, course)


@defense(paper="arXiv:2307.07167", version=1)
def vir_trades(
    job: TrainJob, *, alpha: float = 8.0, gamma: float = 3.0, beta: float = 1.6, strength: float = 5.0,
    first: int = 76, parts: Literal["both", "vulnerability", "discrepancy"] = "both",
    norm: Literal["none", "batch"] = "none", forwards: int = 1, inner: Inner = Inner(start="gauss", inner="kl"),
    course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """TRADES with VIR's weights on the divergence; strength is the paper's 1/lambda, others as in vir-at.

    forwards: how often the clean batch passes in training mode, as in trades.
    """
    if forwards not in (1, 2):
        raise UsageError(f"forwards={forwards}: the clean batch passes once or twice; expected 1 or 2")
    weigh = partial(_weigh, job, alpha, gamma, beta, parts, norm)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = craft(model, feed, job.threat, inner)
        weighted = partial(weigh, feed.y) if feed.epoch >= first else None
        return trades_loss(model, feed, x_adv, strength, forwards, weigh=weighted)

    return fit(job, job.net(), loss, course)


def _weigh(
    job: TrainJob, alpha: float, gamma: float, beta: float, parts: str, norm: str,
    y: Tensor, logits: Tensor, logits_adv: Tensor,
) -> Tensor:  # fmt: skip
    """The weights (B,) of a batch; no gradient flows."""
    logits, logits_adv = logits.detach(), logits_adv.detach()
    p = logits.softmax(1)
    vulnerability = alpha * torch.exp(-gamma * p.gather(1, y[:, None])[:, 0])
    discrepancy = kl(logits_adv, p)
    w = {
        "both": vulnerability * discrepancy + beta, "vulnerability": vulnerability, "discrepancy": discrepancy
    }[parts]  # fmt: skip
    w = balanced(w) if norm == "batch" else w
    watch(job, w, y)
    return w
