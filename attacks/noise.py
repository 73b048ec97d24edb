"""Random noise: what falls to it needs no attack."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attacks.losses import misread
from attacks.spsa import VALUES, signs
from bench import Draws, Model, ThreatModel, attack


@attack(norms=("linf",), access="labels", version=1, cost=lambda tries, **_: (max(tries - 1, 0), 0))
def noise(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    tries: int = 100,
    kind: Literal["uniform", "corners"] = "uniform",
) -> Tensor:
    """Random images of the ball, one after another: uniform, or its corners x +- eps; clipped to [0, 1].

    Access: labels.  Linf.  ANY: an image stops at its first misread try.
    Fewer tries are the first of more, so accuracies at several numbers nest.
    Cost: tries - 1 forwards; the judge asks about the last.
    """
    if not threat.eps:
        return x
    found, rows = x.clone(), torch.arange(len(x), device=x.device)
    draws, ahead, start = draws.at(kind), x[:, None], 0
    now = x
    for turn in range(tries):
        if turn == start + ahead.shape[1] or not turn:
            # The randomness of several tries in one call, because a call has its price.
            start, count = turn, min(max(VALUES // x.numel(), 1), tries - turn)
            ahead = _directions(draws.at(step=range(turn, turn + count)), kind, x)
        now = threat.project(x + float(threat.eps) * ahead[:, turn - start], x)
        if turn < tries - 1 and (fell := misread(model(now), y)).any():
            found[rows[fell]] = now[fell]
            if fell.all():
                return found
            model, x, y, draws, rows = model[~fell], x[~fell], y[~fell], draws[~fell], rows[~fell]
            ahead, now = ahead[~fell], now[~fell]
    found[rows] = now
    return found


def _directions(draws: Draws, kind: str, x: Tensor) -> Tensor:
    """Directions in the ball of size 1: (n, tries, C, H, W)."""
    return signs(draws, *x.shape[1:]) if kind == "corners" else 2 * draws.uniform(*x.shape[1:]) - 1
