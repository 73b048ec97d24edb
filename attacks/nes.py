"""NES: sign steps along a slope that is estimated from differences of scores."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.losses import misread
from attacks.spsa import differences
from bench import Draws, Model, ThreatModel, attack


def _steps(queries: int, pairs: int) -> int:
    """As many steps as the queries pay for: 2 pairs and a look at the new image each, and one look at x."""
    return max(queries - 1, 0) // (2 * pairs + 1)


def _cost(queries: int, pairs: int, **_: object) -> tuple[int, int]:
    """The judge asks about the last image."""
    return _steps(queries, pairs) * (2 * pairs + 1), 0


@attack(norms=("linf",), access="scores", paper="arXiv:1804.08598", version=1, cost=_cost)
def nes(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    queries: int = 5000,
    pairs: int = 15,
    size: float = 0.01,
    lr: float = 0.01,
) -> Tensor:
    """Sign steps of lr (pixels) up the margin, whose slope is estimated along random normal directions; starts at x.

    arXiv:1804.08598.  Access: scores.  Linf.  ANY: an image stops at the first misread image that it steps to, x
    included.
    A step asks about now + size * u and now - size * u for `pairs` normal directions u, drawn for each image alone,
    each clipped to the ball and [0, 1] before it is asked about; it goes along the sign of the sum of difference * u.
    queries: all questions about an image, also those that only look whether it fell (unlike BlackboxBench, whose
    pairs, size and lr these are, and which counts them apart and allows 10,000).
    Cost: steps * (2 pairs + 1) forwards, and the judge's is the last query; steps = (queries - 1) // (2 pairs + 1).
    """
    if not threat.eps:
        return x
    found, rows = x.clone(), torch.arange(len(x), device=x.device)
    now, draws, shape = x, draws.at("probe"), x.shape[1:]

    def normals(draws: Draws) -> Tensor:
        return draws.normal(*shape)

    for step in range(_steps(queries, pairs)):
        fell = misread(model(now), y)
        if fell.any():
            found[rows[fell]] = now[fell]
            if fell.all():
                return found
            model, x, y, draws, rows, now = model[~fell], x[~fell], y[~fell], draws[~fell], rows[~fell], now[~fell]
        places = range(step * pairs, (step + 1) * pairs)

        def inside(asked: Tensor, x: Tensor = x) -> Tensor:
            around = x.expand_as(asked).flatten(0, 1)
            return threat.project(asked.flatten(0, 1), around).view_as(asked)

        slope = differences(model, now, y, draws, places, size, normals, inside)
        now = threat.project(now + lr * slope.sign(), x)
    found[rows] = now
    return found
