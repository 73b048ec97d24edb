"""HopSkipJump: steps along slopes that are estimated from labels at the boundary, and back to it by halves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attacks.decisions import HALVINGS, START, Hunt, begin, bisect, column, leave, noise
from attacks.spsa import VALUES
from bench import Draws, Model, ThreatModel, attack, per_image_sum

PROBES = (100, 10_000)  # of the first estimate, and of one at most
FINEST = 2.0**-20  # how far a probe moves a value at least, in the mean of squares: float32 must see it


@attack(
    norms=("l2", "linf"), access="labels", goal="minimum-norm", paper="arXiv:1904.02144", version=1,
    cost=lambda queries, tries: (min(1 + tries, queries), 0),
)  # fmt: skip
def hopskipjump(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    queries: int = 10_000,
    tries: int = 1000,
) -> Tensor:
    """Estimate at the boundary which way is out, step that way, and halve back to the boundary, nearer to the image.

    arXiv:1904.02144.  Access: labels.  L2 and Linf.  Minimum over ANY image that it steps to or halves through; the
    probes of an estimate are not kept.
    Start: the first misread one of `tries` noises, uniform in every value or, every second, in 4 by 4 fields (a model
    may read all fine noise as one class; the authors' code stops with an error then, after 10,000), halved to 0.001 of
    its way to the image.  Round t: 100 sqrt(t) probes, normal (Linf: uniform), at L2 distance 0.1 in the first round
    and later at the distance reached before halving over the number of values; a step of distance / sqrt(t) along the
    estimate (Linf: its sign), halved until it is misread; and back by halves to d^-1.5 (L2) or d^-2 (Linf) of the way,
    d the number of values.
    All in float64, but models see float32: halving also ends after 40 times and where no new image is left, probes lie
    at least 2^-20 from the image in the mean of squares (the authors' distance, in Linf and 64 x 64 pixels, rounds to
    nothing), and tiny images are halved to 0.001 at least.
    queries: all of an image; one that cannot pay for a whole round and a step is done, so fewer queries are the first
    of more.
    Cost: 1 + tries forwards, and no more than queries, where no start is found; else up to queries.
    """
    found = x.clone()
    hunt, now = noise(begin(model, x, y, draws, queries), threat, found, tries)
    count = x[0].numel()
    straight = threat.norm != "linf"
    gap = min(count**-1.5 if straight else count**-2.0, START)
    far = now
    if len(now):
        now = bisect(hunt, threat, far, gap, straight=straight)
    turn = 0
    while len(now):
        turn += 1
        probes = min(int(PROBES[0] * math.sqrt(turn)), PROBES[1])
        stays = hunt.left > probes
        hunt, now, far = leave(hunt, found, stays), now[stays], far[stays]
        if not len(now):
            break
        reach = (threat.size(far.double() - hunt.x.double()) / count).clamp_min(FINEST * count**0.5)
        size = reach if turn > 1 else torch.full_like(reach, 0.1)
        slope = _slope(hunt, now, threat, turn, probes, size)
        far = _step(hunt, threat, now, slope, turn)
        now = bisect(hunt, threat, far, gap, straight=straight)
    return found


def _slope(hunt: Hunt, now: Tensor, threat: ThreatModel, turn: int, probes: int, size: Tensor) -> Tensor:
    """Which way more probes around `now` are misread: a direction of L2 size 1, or its signs for Linf; float64.

    size: (n,) how far the probes lie, in L2.  All of them are paid for.
    """
    middle, draws = now.double(), hunt.draws.at(f"probe {turn}")
    every, hits, total = torch.zeros_like(middle), torch.zeros_like(middle), torch.zeros_like(size)
    many = max(VALUES // now.numel(), 1)
    for begins in range(0, probes, many):
        here = draws.at(step=range(begins, min(begins + many, probes)))
        v = here.normal(*now.shape[1:]) if threat.norm == "l2" else 2 * here.uniform(*now.shape[1:]) - 1
        v = v.double().transpose(0, 1)  # (probes, n, C, H, W)
        length = per_image_sum(v.square().flatten(0, 1)).sqrt().clamp_min(1e-12).view(len(v), -1, 1, 1, 1)
        asked = (middle + column(size) * (v / length)).clamp(0, 1).float()
        hit = hunt.probe(asked)
        moved = (asked.double() - middle) / column(size)
        # One after another, since a sum's order of adding may depend on the batch.
        for k in range(len(asked)):
            every, hits, total = every + moved[k], hits + column(hit[k]) * moved[k], total + hit[k]
    share = total / probes
    # The mean of phi v with phi = +-1; where both signs occur, phi is taken less its mean.
    both = (share > 0) & (share < 1)
    slope = 2 * hits - every - column(torch.where(both, 2 * share - 1, 0.0)) * every
    if threat.norm == "linf":
        return slope.sign()
    return slope / column(per_image_sum(slope.square()).sqrt().clamp_min(1e-300))


def _step(hunt: Hunt, threat: ThreatModel, now: Tensor, slope: Tensor, turn: int) -> Tensor:
    """A misread image along the slope: distance / sqrt(turn) away, or half of that, and so on; `now` if none is."""
    length = threat.size(now.double() - hunt.x.double()) / math.sqrt(turn)
    far, open_ = now, torch.ones_like(length, dtype=torch.bool)
    for _ in range(HALVINGS):
        new = (now.double() + column(length) * slope).clamp(0, 1).float()
        open_ = open_ & (hunt.left > 0) & (new != now).flatten(1).any(1)
        if not open_.any():
            break
        hit = hunt.ask(threat, new, open_)
        far = torch.where(column(hit), new, far)
        open_, length = open_ & ~hit, length / 2
    return far
