"""PART: pixel-reweighted adversarial training (Zhang et al., ICML 2024).

The perturbation budget is eps on the pixels that a class activation map finds important and `low` * eps elsewhere.
The mask is the one the paper describes: two-dimensional, and made for the very batch that it is used on.  The
authors' release (github.com/JiachengZ01/PART) pairs masks with other images and differs by colour channel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Augment, Batch, TrainJob, UsageError, defense, fit
from defenses.at import madry
from defenses.cam import gradcam
from defenses.inner import ascend, ramped
from defenses.trades import disagreement, trades_loss

Step = Callable[[nn.Module, Batch], Tensor]


@defense(paper="arXiv:2406.00685", version=1)
def part(
    job: TrainJob, *, low: float = 0.875, s: int = 1, warm_up: int = 20, clip_start: bool = False, steps: int = 10,
    step: float = 0.25, epochs: int = 80, lr: float = 0.01, decay: float = 2e-4, batch: int = 128,
    drops: tuple[int, ...] = (60,), ramp: float = 0.0, augment: Augment = "none",
) -> nn.Module:  # fmt: skip
    """Adversarial training with a smaller budget on unimportant pixels.

    low: the budget there, as a share of eps.  s: the epochs between refreshes of the mask's model.  warm_up: epochs
    of plain adversarial training first.  ramp: the epochs over which eps grows.  clip_start: clip the attack's start
    to [0, 1] (the release does not).
    """

    def plain(model: nn.Module, feed: Batch) -> Tensor:
        threat = ramped(job.threat, feed, ramp)
        return F.cross_entropy(model(madry(model, feed, threat, steps=steps, step=step)), feed.y)

    def weighted(model: nn.Module, feed: Batch, size: Tensor) -> Tensor:
        eps = float(ramped(job.threat, feed, ramp).eps)
        start = feed.x + (2 * feed.draws.at("start").uniform(*feed.x.shape[1:]) - 1) * eps
        x_adv = ascend(
            model, start.clamp(0, 1) if clip_start else start,
            lambda logits: F.cross_entropy(logits, feed.y, reduction="sum"),
            uphill=job.threat.uphill, project=lambda x: within(x, feed.x, size), step=step * eps, steps=steps,
        )  # fmt: skip
        return F.cross_entropy(model(x_adv), feed.y)

    return _reweighted(
        job, plain, weighted, low=low, s=s, warm_up=warm_up, ramp=ramp,
        epochs=epochs, lr=lr, decay=decay, batch=batch, drops=drops, augment=augment,
    )  # fmt: skip


@defense(paper="arXiv:2406.00685", version=1)
def part_trades(
    job: TrainJob, *, beta: float = 6.0, low: float = 0.875, s: int = 1, warm_up: int = 20, steps: int = 10,
    step: float = 0.25, forwards: int = 2, epochs: int = 80, lr: float = 0.01, decay: float = 2e-4, batch: int = 128,
    drops: tuple[int, ...] = (60,), ramp: float = 0.0, augment: Augment = "none",
) -> nn.Module:  # fmt: skip
    """TRADES with a smaller budget on unimportant pixels (PART-T); the settings are those of part and trades."""

    def plain(model: nn.Module, feed: Batch) -> Tensor:
        x_adv = disagreement(model, feed, ramped(job.threat, feed, ramp), steps=steps, step=step)
        return trades_loss(model, feed, x_adv, beta, forwards)

    def weighted(model: nn.Module, feed: Batch, size: Tensor) -> Tensor:
        threat = ramped(job.threat, feed, ramp)
        x_adv = disagreement(model, feed, threat, steps=steps, step=step, project=lambda x: within(x, feed.x, size))
        return trades_loss(model, feed, x_adv, beta, forwards)

    return _reweighted(
        job, plain, weighted, low=low, s=s, warm_up=warm_up, ramp=ramp,
        epochs=epochs, lr=lr, decay=decay, batch=batch, drops=drops, augment=augment,
    )  # fmt: skip


def _reweighted(
    job: TrainJob, plain: Step, weighted: Callable[[nn.Module, Batch, Tensor], Tensor], *,
    low: float, s: int, warm_up: int, ramp: float, epochs: int, lr: float, decay: float,
    batch: int, drops: tuple[int, ...], augment: Augment,
) -> nn.Module:  # fmt: skip
    """Train plainly for `warm_up` epochs, then with the budgets of a snapshot that is renewed every `s` epochs."""
    if job.threat.norm != "linf":
        raise UsageError(f"PART's budgets are for Linf; the threat is {job.threat}")
    if s < 1:
        raise UsageError(f"s counts epochs between refreshes and is at least 1, not {s}")
    snapshot = job.net().requires_grad_(False)

    def refresh(model: nn.Module, epoch: int) -> None:
        if epoch > warm_up and (epoch - warm_up - 1) % s == 0:
            snapshot.load_state_dict(model.state_dict())

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        if feed.epoch <= warm_up:
            return plain(model, feed)
        eps = float(ramped(job.threat, feed, ramp).eps)
        return weighted(model, feed, budget(gradcam(snapshot, feed.x), eps, low))

    return fit(
        job, job.net(), loss, epochs=epochs, lr=lr, decay=decay, batch=batch, drops=drops,
        augment=augment, before_epoch=refresh, also={"snapshot": snapshot},
    )  # fmt: skip


def budget(heat: Tensor, eps: float, low: float) -> Tensor:
    """Each pixel's budget: eps where the squared heat is over one standard deviation above its mean: (N, 1, H, W)."""
    square = heat.square()
    mean, spread = square.mean((1, 2), keepdim=True), square.std((1, 2), keepdim=True, correction=0)
    return torch.where((square - mean) / (spread + 1e-12) > 1, eps, low * eps)[:, None]


def within(x_adv: Tensor, x: Tensor, size: Tensor) -> Tensor:
    """The nearest images within each pixel's budget of x, and in [0, 1]."""
    return x_adv.clamp(x - size, x + size).clamp(0, 1)
