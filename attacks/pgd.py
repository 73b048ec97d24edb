"""Projected gradient ascent with steps of a fixed size: PGD on the cross-entropy, CW on the margin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from attacks.eot import averaged
from attacks.losses import cross_entropy, margin, misread
from bench import Draws, Model, ThreatModel, attack

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    State = TypeVar("State", bound=DataclassInstance)

Loss = Callable[[Tensor, Tensor], Tensor]
# One search from one start: images (N, C, H, W), and the places (n,) of those not yet known to have fallen.
Search = Callable[[Model, Tensor, Tensor, Draws], tuple[Tensor, Tensor]]


def _cost(steps: int, restarts: int, eot: int, **_: object) -> tuple[int, int]:
    """The judge asks about the last image of all; between restarts the attack itself must."""
    return restarts * steps * eot + restarts - 1, restarts * steps * eot


def _together(loss: Loss) -> Callable[..., list[Tensor]]:
    """Images after several numbers of steps, from one run: a shorter climb is how a longer one begins."""

    def climbs(
        model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws,
        *, steps: tuple[int, ...], step: float, restarts: int, eot: int, **settings: Any,
    ) -> list[Tensor]:  # fmt: skip
        if not threat.eps:
            return [x for _ in steps]
        asked = averaged(model, eot)
        if restarts == 1:
            return climb(asked, x, y, threat, draws.at(restart=0), loss, stops=steps, step=step, **settings)[0]
        # Which images start again depends on where the climb before ended.
        return [
            ascend(asked, x, y, threat, draws, loss, steps=s, step=step, restarts=restarts, **settings) for s in steps
        ]

    return climbs


@attack(
    norms=("linf", "l2", "l1"), access="gradients", paper="arXiv:1706.06083", version=1, cost=_cost,
    together=("steps", _together(cross_entropy)),
)  # fmt: skip
def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 40,
    step: float = 0.25,
    restarts: int = 1,
    keep: Literal["last", "any"] = "last",
    start: Literal["uniform", "none"] = "uniform",
    eot: int = 1,
) -> Tensor:
    """Steps of size step * eps up the cross-entropy, each projected into the ball and [0, 1].

    arXiv:1706.06083.  Access: gradients.  Linf steps along the sign; L2 along the gradient over its norm, or a random
    direction where the gradient is zero; L1 along the steepest value that the box lets move.
    keep="last" (LAST): only the last image of each start is judged, as most papers do.  keep="any" (ANY): an image
    stops at its first misread iterate, the start included.
    start="uniform": uniform in the ball and clipped to [0, 1] before the first forward (some papers' code does not
    clip, and asks about images outside the box); every restart starts afresh around x.
    eot: each gradient is the mean of so many fresh passes (for models that draw random numbers); the last one's logits
    say whether an iterate is misread.
    Cost: restarts * steps * eot + restarts - 1 forwards and restarts * steps * eot backwards.
    """
    return ascend(
        averaged(model, eot), x, y, threat, draws, cross_entropy,
        steps=steps, step=step, restarts=restarts, keep=keep, start=start,
    )  # fmt: skip


@attack(
    norms=("linf", "l2", "l1"), access="gradients", paper="arXiv:1608.04644", version=1, cost=_cost,
    together=("steps", _together(margin)),
)  # fmt: skip
def cw(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 20,
    step: float = 0.25,
    restarts: int = 1,
    keep: Literal["last", "any"] = "last",
    start: Literal["uniform", "none"] = "uniform",
    eot: int = 1,
) -> Tensor:
    """PGD on the margin of Carlini and Wagner: the loop of `pgd`, up max_{j != y} z_j - z_y.

    arXiv:1608.04644 for the loss.  Access, norms, settings and cost as `pgd`, by default 20 steps; LAST by default.
    The papers' code stops the margin at a hinge of 50, which logits do not reach; here there is none, so sign steps
    are the same and no constant is to be tuned.  The best other class is found among all others, also where every
    logit is negative.
    """
    return ascend(
        averaged(model, eot), x, y, threat, draws, margin,
        steps=steps, step=step, restarts=restarts, keep=keep, start=start,
    )  # fmt: skip


def ascend(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    loss: Loss,
    *,
    steps: int,
    step: float,
    restarts: int,
    keep: Literal["last", "any"],
    start: Literal["uniform", "none"],
) -> Tensor:
    """The last image of the climb, or with keep="any" the first misread one: what `pgd` and `cw` do."""
    if not threat.eps:
        return x

    def search(model: Model, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        (found,), rows = climb(model, x, y, threat, draws, loss, stops=(steps,), step=step, keep=keep, start=start)
        return found, rows

    return over_restarts(search, model, x, y, draws, restarts)


def climb(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    loss: Loss,
    *,
    stops: tuple[int, ...],
    step: float,
    keep: Literal["last", "any"],
    start: Literal["uniform", "none"],
) -> tuple[list[Tensor], Tensor]:
    """One search by steps of step * eps: its images after each number of steps, and the places of those that stand.

    y is (N,), or (N, 2) of true class and target.
    """
    found, rows = {stop: x.clone() for stop in stops}, torch.arange(len(x), device=x.device)
    length = step * float(threat.eps)
    now = threat.random(x, draws.at("start")) if start == "uniform" else x
    for turn in range(max(stops)):
        if turn in found:
            found[turn][rows] = now
        logits, _, grad = model.gradient(now, y, loss)
        if keep == "any" and (fell := misread(logits, y if y.ndim == 1 else y[:, 0])).any():
            for stop in (s for s in found if s > turn):
                found[stop][rows[fell]] = now[fell]
            model, x, y, draws, rows = model[~fell], x[~fell], y[~fell], draws[~fell], rows[~fell]
            now, grad = now[~fell], grad[~fell]
            if not len(rows):
                return [found[stop] for stop in stops], rows
        now = threat.project(now + length * _direction(threat, now, grad, draws.at(step=turn)), x)
    found[max(stops)][rows] = now
    return [found[stop] for stop in stops], rows


def over_restarts(search: Search, model: Model, x: Tensor, y: Tensor, draws: Draws, restarts: int) -> Tensor:
    """Search again from another start where the search before it failed; y is (N,) or (N, k), true classes first."""
    found = x.clone()
    rows = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        images, undecided = search(model[rows], x[rows], y[rows], draws[rows].at(restart=restart))
        found[rows] = images
        rows = rows[undecided]
        if len(rows) and restart < restarts - 1:
            truth = y[rows] if y.ndim == 1 else y[rows, 0]
            rows = rows[~misread(model[rows](found[rows]), truth)]
        if not len(rows):
            break
    return found


def select(state: State, keep: Tensor) -> State:
    """A dataclass of things by image, for fewer images."""
    kept: dict[str, Any] = {f.name: getattr(state, f.name)[keep] for f in fields(state)}
    return replace(state, **kept)


def steepest(threat: ThreatModel, grad: Tensor) -> Tensor:
    """The direction of size 1 that climbs fastest; a gradient that is not a number counts as zero."""
    return threat.uphill(grad.nan_to_num())


def _direction(threat: ThreatModel, now: Tensor, grad: Tensor, draws: Draws) -> Tensor:
    """Where PGD steps from `now`: uphill, with what L1 and L2 need beside it."""
    if threat.norm == "l1":
        # One value moves at a time, so a value that the box holds must make way for the next one.
        held = ((now >= 1) & (grad > 0)) | ((now <= 0) & (grad < 0))
        grad = grad.masked_fill(held, 0)
    direction = steepest(threat, grad)
    if threat.norm == "l2":
        flat = (direction == 0).flatten(1).all(1)
        if flat.any():
            direction[flat] = threat.uphill(draws[flat].at("flat").normal(*now.shape[1:]))
    return direction
