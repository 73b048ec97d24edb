"""Auto-PGD: gradient ascent with momentum and a step size that looks after itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from attacks.apgd_l1 import climb_l1
from attacks.eot import averaged
from attacks.losses import cross_entropy, dlr, misread, rivals, targeted_dlr
from attacks.pgd import Loss, over_restarts, select, steepest
from attacks.targets import over_targets
from bench import Draws, Model, ThreatModel, attack

INERTIA = 0.75  # the share of a move that is new; the rest repeats the move before
RISING = 0.75  # the share of a window's iterates that must rise for the step to stay


def _cost(steps: int, restarts: int, eot: int = 1) -> tuple[int, int]:
    """The judge asks about the last image of all; between restarts the attack itself must."""
    return restarts * steps * eot + restarts - 1, restarts * steps * eot


@attack(norms=("linf", "l2", "l1"), access="gradients", paper="arXiv:2003.01690", version=1, cost=_cost)
def apgd_ce(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    restarts: int = 1,
    eot: int = 1,
) -> Tensor:
    """Auto-PGD on the cross-entropy.

    arXiv:2003.01690.  Access: gradients.  Linf, L2 and L1.  ANY: an image stops at its first misread iterate, the
    start included, and is searched again from another start only while it stands.
    eot: each gradient is the mean of so many fresh passes, for models that draw random numbers; loss and class of an
    iterate are those of the last pass, as in AutoAttack's version `rand` (20 passes).
    Cost: restarts * steps * eot + restarts - 1 forwards and restarts * steps * eot backwards.  The authors' code asks
    once more a start: it differentiates at the last iterate too, of which only the class matters, which the judge asks.
    The step is halved where at most 75 % of a window's iterates rose (the code's rule; the paper has fewer than), and
    the momentum then keeps the move before.  The first iterate is compared with the start, not with zero as there.
    L1 (arXiv:2103.01208, the form that AutoAttack runs): 30, 30 and 40 % of the passes in the balls of 3, 2 and 1 eps,
    each from the best image of the one before, and only the last ball's iterates count; a step moves the values with
    the largest gradients, fewer as the best image gets sparser, without momentum, and is projected exactly.  The
    code asks about the last iterates of the larger balls too; here the cost is that of the other norms.
    """
    return apgd(averaged(model, eot), x, y, threat, draws, cross_entropy, steps=steps, restarts=restarts)


@attack(
    norms=("linf", "l2", "l1"), access="gradients", paper="arXiv:2003.01690", version=1, cost=_cost, least_classes=3
)
def apgd_dlr(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    restarts: int = 1,
    eot: int = 1,
) -> Tensor:
    """Auto-PGD on the difference-of-logits ratio, which does not see the scale of the logits.

    arXiv:2003.01690.  Access, norms, ANY, settings and cost as `apgd-ce`.  From 3 classes on: the ratio's divisor is
    the gap between the first and the third logit.
    """
    return apgd(averaged(model, eot), x, y, threat, draws, dlr, steps=steps, restarts=restarts)


def _cost_t(steps: int, targets: int, all_classes: int = 10) -> tuple[int, int]:
    """One forward ranks the targets; then each is searched as by a restart."""
    forwards, backwards = _cost(steps, min(targets, all_classes - 1))
    return 1 + forwards, backwards


@attack(norms=("linf", "l2", "l1"), access="gradients", paper="arXiv:2003.01690", version=1, cost=_cost_t)
def apgd_t(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, steps: int = 100, targets: int = 9
) -> Tensor:
    """Auto-PGD on the targeted difference-of-logits ratio, towards one class after the other.

    arXiv:2003.01690.  Access and norms as `apgd-ce`.  The targets are the classes with the largest logits on the clean
    image beside the true one, best first; with K classes there are at most K - 1.  With 2 or 3 classes the ratio has
    no divisor, and the plain margin to the target is climbed instead.
    ANY: an image is done at its first misread iterate, whatever class it is taken for, and pays for no other target;
    every target begins at a random start of its own.
    Cost: targets * (steps + 1) forwards, of which one ranks the targets, and targets * steps backwards.
    """
    if not threat.eps:
        return x

    def search(model: Model, x: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        pair = labels[:, [0, 1 + draws.restart]]
        return climb_once(model, x, pair, threat, draws, targeted_dlr, steps)

    return over_targets(search, model, x, y, draws, partial(rivals, count=targets))


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    loss: Loss,
    *,
    steps: int,
    restarts: int = 1,
) -> Tensor:
    """Auto-PGD up any loss of logits and y; y is (N,), or (N, k) with the true class first.

    Gives the first misread iterate, and the last one where there is none.
    """
    if not threat.eps:
        return x

    def search(model: Model, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        return climb_once(model, x, y, threat, draws, loss, steps)

    return over_restarts(search, model, x, y, draws, restarts)


@dataclass
class _Climb:
    """Where the search stands on each image that has not fallen."""

    model: Model
    rows: Tensor  # (n,) places among the images searched
    x: Tensor
    y: Tensor
    now: Tensor  # the iterate, its gradient and the iterate before it
    grad: Tensor
    before: Tensor
    value: Tensor  # (n,) the loss of the iterate that was asked about last
    best: Tensor  # the iterate with the highest loss, its gradient and its loss
    best_grad: Tensor
    best_value: Tensor
    size: Tensor  # (n,) of a step
    rises: Tensor  # (n,) iterates of this window that rose above the one before them
    best_then: Tensor  # (n,) the highest loss at the last check
    halved: Tensor  # (n,) bool, whether the last check halved the step
    low: Tensor  # Linf: the ball's edges in [0, 1]
    high: Tensor


def climb_once(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, loss: Loss, steps: int
) -> tuple[Tensor, Tensor]:
    """One climb from one start: its images, and the places of those that no iterate but perhaps the last has felled."""
    if threat.norm == "l1":
        return climb_l1(model, x, y, threat, draws, loss, steps)
    found = x.clone()
    climb = _begin(model, x, y, start_at_edge(x, threat, draws.at("start")), threat)
    windows = dict(checks(steps))
    for i in range(steps):
        logits, value, climb.grad = climb.model.gradient(climb.now, climb.y, loss)
        fell = misread(logits, climb.y if y.ndim == 1 else climb.y[:, 0])
        if fell.any():
            found[climb.rows[fell]] = climb.now[fell]
            if fell.all():
                return found, climb.rows[~fell]
            climb, value = select(climb, ~fell), value[~fell]
        _note(climb, value)
        if i in windows:
            _check(climb, windows[i])
        _move(climb, threat, INERTIA if i else 1.0)
    found[climb.rows] = climb.now
    return found, climb.rows


def _move(climb: _Climb, threat: ThreatModel, new: float) -> None:
    """Go on: a step uphill for the share `new`, and the move before for the rest, each projected.  In place."""

    def project(image: Tensor) -> Tensor:
        if threat.norm == "linf":  # the same as threat.project, whose edges are always these
            return torch.clamp(image, climb.low, climb.high, out=image)
        return threat.project(image, climb.x)

    ahead = project(steepest(threat, climb.grad).mul_(_column(climb.size)).add_(climb.now))
    again = (climb.now - climb.before).mul_(1 - new)
    now = project(ahead.sub_(climb.now).mul_(new).add_(again).add_(climb.now))
    climb.now, climb.before = now, climb.now


def start_at_edge(x: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """A random image eps away from x, clipped to [0, 1]: a random direction, Linf uniform and L2 normal."""
    shape = x.shape[1:]
    direction = 2 * draws.uniform(*shape) - 1 if threat.norm == "linf" else draws.normal(*shape)
    length = float(threat.eps) / threat.size(direction).clamp_min(1e-12)
    return threat.project(x + direction * _column(length), x)


def checks(steps: int) -> Iterator[tuple[int, int]]:
    """The iterates after which the step size is looked at, each with the length of the window that it closes."""
    window, at = max(int(0.22 * steps), 1), 0
    while (at := at + window) <= steps:
        yield at, window
        window = max(window - max(int(0.03 * steps), 1), int(0.06 * steps), 1)


def _begin(model: Model, x: Tensor, y: Tensor, start: Tensor, threat: ThreatModel) -> _Climb:
    """Nothing asked yet: the start will be the best iterate, and not a rise."""
    each, eps = torch.zeros(len(x), device=x.device), float(threat.eps)
    return _Climb(
        model=model, rows=torch.arange(len(x), device=x.device), x=x, y=y,
        now=start, grad=torch.zeros_like(x), before=start,
        value=each + torch.inf, best=start, best_grad=torch.zeros_like(x), best_value=each - torch.inf,
        size=each + 2 * eps, rises=each, best_then=each - torch.inf, halved=each == 0,
        low=(x - eps).clamp(0, 1), high=(x + eps).clamp(0, 1),
    )  # fmt: skip


def _note(climb: _Climb, value: Tensor) -> None:
    """Book the loss (n,) of the iterate that was just asked about."""
    better = value > climb.best_value
    if better.all():  # as mostly in the beginning
        climb.best, climb.best_grad = climb.now, climb.grad
    elif better.any():
        climb.best = torch.where(_column(better), climb.now, climb.best)
        climb.best_grad = torch.where(_column(better), climb.grad, climb.best_grad)
    climb.best_value = torch.where(better, value, climb.best_value)
    # The rises go from iterate to iterate, also across a return to the best one.
    climb.rises = climb.rises + (value > climb.value)
    climb.value = value


def _check(climb: _Climb, window: int) -> None:
    """Halve the step and return to the best iterate, where too few rose or where nothing is gained any more."""
    wavers = climb.rises <= RISING * window
    stalls = ~climb.halved & (climb.best_then >= climb.best_value)
    climb.halved = wavers | stalls
    climb.size = torch.where(climb.halved, climb.size / 2, climb.size)
    climb.now = torch.where(_column(climb.halved), climb.best, climb.now)
    climb.grad = torch.where(_column(climb.halved), climb.best_grad, climb.grad)
    climb.best_then, climb.rises = climb.best_value, torch.zeros_like(climb.rises)


def _column(values: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
