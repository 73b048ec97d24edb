"""The inner maximisation of adversarial training: how training images are attacked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, ThreatModel, UsageError, frozen

SIGMA = 1e-3  # of the Gaussian start: at x itself the divergence of TRADES, and so its gradient, is zero

Climb = Callable[[Tensor], Tensor]  # logits (B, K) to a scalar, to climb
Move = Callable[[Tensor], Tensor]  # images or gradients to the same shape
See = Callable[[Tensor], None]  # is shown the logits (B, K) of every iterate but the last


@dataclass(frozen=True, kw_only=True)
class Radius:
    """How large the perturbations of training images are.

    eps: the radius to train for, as text (8/255); empty is the exam's.  ramp: the epochs over which it grows to that;
    without it a large eps may never be learnt.
    """

    eps: str = ""
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if self.eps:
            ThreatModel.parse(f"linf:{self.eps}")  # or an error that says how it is written
        if self.ramp < 0:
            raise UsageError(f"ramp={self.ramp}: expected epochs, 0 or more")

    def threat(self, threat: ThreatModel, feed: Batch) -> ThreatModel:
        """The threat with eps as far as it has grown."""
        if feed.progress >= self.ramp:
            return threat
        return ThreatModel(threat.norm, threat.eps * Fraction(max(feed.progress, 0.01) / self.ramp))


@dataclass(frozen=True, kw_only=True)
class Inner(Radius):
    """The attack on training images: `steps` signed (in L2 normalised) steps, last iterate.

    step: the size of a step, as a share of eps.  eps, ramp: as in Radius.
    start: clipped (uniform in the ball, clipped to [0, 1]), uniform (not clipped before the first gradient; Linf
    alone), gauss (0.001 of a standard normal off x) or centre (x itself).
    inner: what is climbed, ce (the cross-entropy with the label) or kl (the divergence from the clean prediction).
    bn: batch normalisation in eval mode, in train mode (every pass moves its statistics), or frozen (statistics of the
    batch, which leave no trace).  last_pass: one more pass of the last iterate, by which the attack of Rice et al.
    (2020) measures its loss: in train mode it moves the statistics.

    In L2 the authors of TRADES step by 2 eps / steps, which is step=0.2 here.
    """

    steps: int = 10
    step: float = 0.25
    start: Literal["clipped", "uniform", "gauss", "centre"] = "clipped"
    inner: Literal["ce", "kl"] = "ce"
    bn: Literal["eval", "train", "frozen"] = "eval"
    last_pass: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step <= 0:
            raise UsageError(f"step={self.step}: expected a share of eps above 0")
        if self.inner == "kl" and self.start == "centre":
            raise UsageError("inner='kl' climbs from where its gradient is zero with start='centre'; expected another")


def craft(
    model: nn.Module, feed: Batch, threat: ThreatModel, inner: Inner, *, project: Move | None = None,
    see: See | None = None,
) -> Tensor:  # fmt: skip
    """Adversarial images (B, C, H, W) of a batch; the threat is the full one, and its eps grows here.

    project: back into a smaller set than ball and box.  see: is shown each iterate's logits before it moves.
    """
    threat = inner.threat(threat, feed)
    if inner.inner == "kl":
        with frozen(model, inner.bn), torch.no_grad():
            p = model(feed.x).softmax(1)

    def climb(logits: Tensor) -> Tensor:
        if see is not None:
            see(logits.detach())
        if inner.inner == "kl":
            return F.kl_div(logits.log_softmax(1), p, reduction="sum")
        return F.cross_entropy(logits, feed.y, reduction="sum")

    uphill, back = _moves(feed, threat, inner)
    x_adv = ascend(
        model, _start(feed, threat, inner), climb, uphill=uphill, project=project or back,
        step=inner.step * float(threat.eps), steps=inner.steps, bn=inner.bn,
    )  # fmt: skip
    if inner.last_pass and inner.bn == "train":
        with frozen(model, inner.bn), torch.no_grad():
            model(x_adv)
    return x_adv


def _moves(feed: Batch, threat: ThreatModel, inner: Inner) -> tuple[Move, Move]:
    """A gradient's direction, and the way back into ball and box: the threat's, but for TRADES in L2.

    There the authors clip before they shorten, and go anywhere from where the gradient is zero.
    """
    if threat.norm != "l2" or inner.inner != "kl":
        return threat.uphill, partial(threat.project, x=feed.x)
    anywhere = threat.uphill(feed.draws.at("flat").normal(*feed.x.shape[1:]).to(feed.x.dtype))

    def uphill(grad: Tensor) -> Tensor:
        flat = (grad == 0).flatten(1).all(1)
        return anywhere.where(flat[:, None, None, None], threat.uphill(grad))

    return uphill, lambda x_adv: threat.project(x_adv.clamp(0, 1), feed.x)


def _start(feed: Batch, threat: ThreatModel, inner: Inner) -> Tensor:
    """Where the ascent begins: (B, C, H, W)."""
    draws, shape = feed.draws.at("start"), feed.x.shape[1:]
    match inner.start:
        case "gauss":
            return feed.x + SIGMA * draws.normal(*shape)
        case "centre":
            return feed.x
        case "uniform" if threat.norm == "linf":
            return feed.x + (2 * draws.uniform(*shape) - 1) * float(threat.eps)
        case _:
            return threat.random(feed.x, draws)


def ascend(
    model: nn.Module, x_adv: Tensor, climb: Climb, *, uphill: Move, project: Move, step: float, steps: int,
    bn: Literal["eval", "train", "frozen"] = "eval",
) -> Tensor:  # fmt: skip
    """The last of `steps` iterates from x_adv; no weight gradient is computed.

    step: in pixel units.  uphill: gradient to a direction of size 1.  project: back into the ball and the box.
    """
    with frozen(model, bn):
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(climb(model(x_adv)), x_adv)
            x_adv = project(x_adv.detach() + step * uphill(grad))
    return x_adv.detach()


def kl(logits: Tensor, p: Tensor) -> Tensor:
    """KL(p || softmax(logits)) of each image: logits (B, K), p (B, K) probabilities, to (B,)."""
    return divergence(p, logits.log_softmax(1))


def divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """Sum of p (log p - log q) of each image: (B, K) both, to (B,).

    Not torch's kl_div: its gradient by p is not a number where a probability has become 0.
    """
    return (p * (p.clamp_min(torch.finfo(p.dtype).tiny).log() - log_q)).sum(1)
