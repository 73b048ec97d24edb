"""The inner maximisation of adversarial training: a few steps uphill, the model in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, ThreatModel

Climb = Callable[[Tensor], Tensor]  # logits (B, K) to a scalar, to climb
Move = Callable[[Tensor], Tensor]  # images or gradients to the same shape


def ascend(
    model: nn.Module, x_adv: Tensor, climb: Climb, *, uphill: Move, project: Move, step: float, steps: int
) -> Tensor:
    """The last of `steps` iterates from x_adv; no weight gradient is computed and no batch statistic moves.

    step: in pixel units.  uphill: gradient to a direction of size 1.  project: back into the ball and the box.
    """
    training = model.training
    model.eval()
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(climb(model(x_adv)), x_adv)
        x_adv = project(x_adv.detach() + step * uphill(grad))
    model.train(training)
    return x_adv.detach()


def ramped(threat: ThreatModel, feed: Batch, ramp: float) -> ThreatModel:
    """The threat with eps grown linearly over the first `ramp` epochs, without which large eps may never be learnt."""
    if feed.progress >= ramp:
        return threat
    return ThreatModel(threat.norm, threat.eps * Fraction(max(feed.progress, 0.01) / ramp))


def kl(logits: Tensor, p: Tensor) -> Tensor:
    """KL(p || softmax(logits)), a mean over the batch: logits (B, K), p (B, K) probabilities."""
    return F.kl_div(logits.log_softmax(1), p, reduction="batchmean")
