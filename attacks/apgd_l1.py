"""Auto-PGD in L1: sparse steps in balls that shrink to the threat's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.losses import misread
from attacks.pgd import Loss, select
from bench import Draws, Model, ThreatModel

RADII = (3, 2, 1)  # of the balls, one after another, in eps
SLOWER = 1.5  # a step is divided by this at a look that finds the best image hardly sparser than the look before
SHORTEST = 10  # a step is never shorter than the ball's radius over this


@dataclass
class _Climb:
    """Where the search stands on each image that has not fallen."""

    model: Model
    rows: Tensor  # (n,) places among the images searched
    x: Tensor
    y: Tensor
    now: Tensor  # the iterate, and its gradient
    grad: Tensor
    best: Tensor  # this ball's iterate with the highest loss, its gradient and its loss (n,)
    best_grad: Tensor
    best_value: Tensor
    size: Tensor  # (n,) of a step
    changed: Tensor  # (n,) values in which the best image differed from x at the last look


def climb_l1(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, loss: Loss, steps: int
) -> tuple[Tensor, Tensor]:
    """One climb from one start: its images, and the places of those that no iterate but perhaps the last has felled.

    Only the last ball is the threat's: a misread iterate of the larger ones ends nothing.
    """
    found = x.clone()
    climb = _begin(model, x, y, x + draws.at("start").normal(*x.shape[1:]))
    for radius, asked in zip(RADII, stages(steps), strict=True):
        ball = replace(threat, eps=radius * threat.eps)
        _enter(climb, ball)
        window = max(asked // 25, 1)
        for i in range(asked):
            if i:
                _step(climb, ball)
            logits, value, climb.grad = climb.model.gradient(climb.now, climb.y, loss)
            fell = misread(logits, climb.y if y.ndim == 1 else climb.y[:, 0])
            if radius == 1 and fell.any():
                found[climb.rows[fell]] = climb.now[fell]
                if fell.all():
                    return found, climb.rows[~fell]
                climb, value = select(climb, ~fell), value[~fell]
            _note(climb, value)
            if i and i % window == 0:
                _look(climb, ball)
    _step(climb, ball)
    found[climb.rows] = climb.now
    return found, climb.rows


def stages(steps: int) -> tuple[int, int, int]:
    """How many iterates are asked about in each ball: of 100, 30, 30 and 40."""
    outer = max(min(-(-3 * steps // 10), (steps - 1) // 2), 0)
    return outer, outer, steps - 2 * outer


def _begin(model: Model, x: Tensor, y: Tensor, start: Tensor) -> _Climb:
    """The start, which lies in no ball yet."""
    each, zero = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
    return _Climb(
        model=model, rows=torch.arange(len(x), device=x.device), x=x, y=y, now=start, grad=zero,
        best=start, best_grad=zero, best_value=each, size=each, changed=each.long(),
    )  # fmt: skip


def _enter(climb: _Climb, ball: ThreatModel) -> None:
    """Begin in the next ball at the best image of the ball before it; of the rest nothing is kept."""
    climb.now = climb.best = ball.project(climb.best, climb.x)
    climb.grad = climb.best_grad = torch.zeros_like(climb.x)
    climb.best_value = torch.full_like(climb.best_value, -torch.inf)
    climb.size = torch.full_like(climb.size, float(ball.eps))
    climb.changed = _changed(climb)


def _note(climb: _Climb, value: Tensor) -> None:
    """Book the loss (n,) of the iterate that was just asked about."""
    better = value > climb.best_value
    climb.best = torch.where(_column(better), climb.now, climb.best)
    climb.best_grad = torch.where(_column(better), climb.grad, climb.best_grad)
    climb.best_value = torch.where(better, value, climb.best_value)


def _look(climb: _Climb, ball: ThreatModel) -> None:
    """Where the best image got sparser by 5 %, go back to it and take long steps again; elsewhere shorten them."""
    changed, radius = _changed(climb), float(ball.eps)
    sparser = 20 * changed < 19 * climb.changed
    climb.size = torch.where(sparser, radius, (climb.size / SLOWER).clamp_min(radius / SHORTEST))
    climb.now = torch.where(_column(sparser), climb.best, climb.now)
    climb.grad = torch.where(_column(sparser), climb.best_grad, climb.grad)
    climb.changed = changed


def _step(climb: _Climb, ball: ThreatModel) -> None:
    """Move the values with the largest gradients, two thirds as many as the best image changes, all equally far."""
    size = climb.grad.nan_to_num().abs().flatten(1)
    values = size.shape[1]
    place = (values - (2 * climb.changed + 2) // 3).clamp(0, values - 1)
    least = size.sort(1).values.gather(1, place[:, None]).view(-1, 1, 1, 1)
    moved = climb.grad.nan_to_num().sign() * (climb.grad.nan_to_num().abs() >= least)
    count = (moved != 0).flatten(1).sum(1).clamp_min(1)
    climb.now = ball.project(climb.now + _column(climb.size / count) * moved, climb.x)


def _changed(climb: _Climb) -> Tensor:
    """The values in which the best image differs from x: (n,)."""
    return (climb.best != climb.x).flatten(1).sum(1)


def _column(values: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
