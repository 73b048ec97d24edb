"""Margin decomposition: the two terms of the margin one after the other, then the margin itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.losses import margin, misread, rivals, targeted_margin
from attacks.pgd import Loss, over_restarts, steepest
from attacks.targets import over_targets
from bench import Draws, Model, ThreatModel, UsageError, attack

AUTHORS_CLASSES = 10  # the authors' code for many targets is written for ten classes


def _cost(steps: int, restarts: int, searches: int = 2) -> tuple[int, int]:
    """The judge asks about the last image of all; between searches the attack itself must."""
    turns = searches * restarts
    return turns * steps + turns - 1, turns * steps


def _check(steps: int, change: int, **_: object) -> None:
    if change >= steps:
        raise UsageError(f"the loss changes at step {change}, which must lie below the {steps} steps: change=…")


def _cost_of_targets(
    steps: int, restarts: int, true_class: bool, all_classes: int = 10, **_: object
) -> tuple[int, int]:
    """The clean logits, and two searches a target."""
    with_true = true_class and all_classes == AUTHORS_CLASSES
    forwards, backwards = _cost(steps, restarts, 2 * (10 if with_true else min(9, all_classes - 1)))
    return 1 + forwards, backwards


@attack(
    norms=("linf",),
    access="gradients",
    paper="arXiv:2006.13726",
    version=1,
    cost=lambda steps, restarts, **_: _cost(steps, restarts),
    zero=("change",),
    check=_check,
)
def md(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 50,
    change: int = 20,
    restarts: int = 1,
) -> Tensor:
    """Margin decomposition: climb one term of max_{j != y} z_j - z_y, and from step `change` on the whole margin.

    Ma et al. (MDAttack), as its authors' code has it.  Access: gradients.  Linf.  ANY: an image stops at its first
    misread iterate, the start included.
    Two searches a restart, each from its own uniform start, clipped to [0, 1]: the first stage climbs -z_y in the one
    and max_{j != y} z_j in the other; the very first step of both raises z_y, as in the code.
    With P = change, step i is eps (1 + cos(pi (i - 1) / (steps - P))) long up to i = P, and then
    eps (1 + cos(pi (i - P - 1) / (steps - P))): stage one begins at 2 eps and does not end at 0, stage two does.
    Cost: 2 restarts * (steps + 1) - 1 forwards, 2 restarts * steps backwards.
    The authors' code does not clip the start, and counts a misread start outside [0, 1]; here robust accuracy may be
    a little higher for that.
    """
    if not threat.eps:
        return x

    def search(model: Model, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        losses = [_own, (_not_own, _best_other)[draws.restart % 2], margin]
        return _decompose(model, x, y, threat, draws, losses, steps, change)

    return over_restarts(search, model, x, y, draws, 2 * restarts)


@attack(
    norms=("linf",),
    access="gradients",
    paper="arXiv:2006.13726",
    version=1,
    cost=_cost_of_targets,
    zero=("change",),
    check=_check,
)
def mdmt(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 50,
    change: int = 20,
    restarts: int = 1,
    true_class: bool = True,
) -> Tensor:
    """Margin decomposition towards many targets: `md` with z_t in place of the best other logit.

    Ma et al. (MDAttack), as its authors' code has it.  Access: gradients.  Linf.  ANY.  Steps, starts and stages as
    `md`, with fresh starts for each target; the targets are ranked by the clean logits.
    Ten classes: all ten, the 9th largest logit first, then up to the largest, then the smallest.  So the true class is
    among them, as in the code: its second stage has no gradient, yet its first may fell an image.  true_class=False
    leaves it out.  More than ten classes: the nine largest others, the smallest of these first.  Fewer than ten (where
    the code would repeat a class or fail): all others, in that order.
    restarts=10 is the authors' MDMT+.
    Cost at ten classes: 1 + 20 restarts * (steps + 1) - 1 forwards, 20 restarts * steps backwards; a target less is
    2 restarts less.
    """
    if not threat.eps:
        return x

    def search(model: Model, x: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        target = 1 + draws.restart // 2 % (labels.shape[1] - 1)
        losses = [_own, (_not_own, _target)[draws.restart % 2], targeted_margin]
        return _decompose(model, x, labels[:, [0, target]], threat, draws, losses, steps, change)

    def choose(logits: Tensor, y: Tensor) -> Tensor:
        return targets(logits, y, true_class=true_class)

    return over_targets(search, model, x, y, draws, choose, 2 * restarts)


def targets(logits: Tensor, y: Tensor, *, true_class: bool) -> Tensor:
    """The classes (N, k) that `mdmt` aims at, in its order."""
    if logits.shape[1] == AUTHORS_CLASSES and true_class:
        ranked = logits.argsort(dim=1, descending=True, stable=True)
        return torch.cat([ranked[:, :9].flip(1), ranked[:, 9:]], 1)
    return rivals(logits, y, 9).flip(1)


def length(step: int, steps: int, change: int) -> float:
    """How long a step is, as a share of eps."""
    since = step - 1 if step <= change else step - change - 1
    return 1 + math.cos(math.pi * since / (steps - change))


def _decompose(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    losses: Sequence[Loss],
    steps: int,
    change: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One search: its images, and the places of those that no iterate but perhaps the last has felled.

    losses: of the first step, of the rest of stage one, and of stage two; y is (N,), or (N, 2) with a target.
    """
    found, rows = x.clone(), torch.arange(len(x), device=x.device)
    now = threat.random(x, draws.at("start"))
    for step in range(steps):
        loss = losses[0 if not step else 1 if step < change else 2]
        logits, _, grad = model.gradient(now, y, loss)
        fell = misread(logits, y if y.ndim == 1 else y[:, 0])
        if fell.any():
            found[rows[fell]] = now[fell]
            if fell.all():
                return found, rows[~fell]
            model, x, y, rows, now, grad = model[~fell], x[~fell], y[~fell], rows[~fell], now[~fell], grad[~fell]
        now = threat.project(now + float(threat.eps) * length(step, steps, change) * steepest(threat, grad), x)
    found[rows] = now
    return found, rows


def _own(logits: Tensor, y: Tensor) -> Tensor:
    """z_y: (N,)."""
    return logits.gather(1, y.view(len(y), -1)[:, :1])[:, 0]


def _not_own(logits: Tensor, y: Tensor) -> Tensor:
    """-z_y: (N,)."""
    return -_own(logits, y)


def _best_other(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j: (N,)."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)


def _target(logits: Tensor, pair: Tensor) -> Tensor:
    """z_t: (N,)."""
    return logits.gather(1, pair[:, 1:])[:, 0]
