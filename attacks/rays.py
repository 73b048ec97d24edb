"""RayS: the nearest boundary along sign vectors, whose blocks are flipped one after another; labels alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from attacks.decisions import Hunt, begin, column, leave
from attacks.signhunter import blocks
from bench import Draws, Model, ThreatModel, attack

TOLERANCE = 1e-3  # of a bisection, in L2 units


@attack(
    norms=("linf",), access="labels", goal="minimum-norm", paper="arXiv:2006.12792", version=1,
    cost=lambda queries: (queries, 0),
)  # fmt: skip
def rays(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, queries: int = 10_000) -> Tensor:
    """Flip a block of signs; where the image is misread at the radius reached, halve to a smaller one, and keep both.

    arXiv:2006.12792.  Access: labels.  Linf.  No randomness.  Minimum over ANY: the nearest misread image asked about.
    An image is x + radius * signs, clipped to [0, 1].  All signs are + at first, the radius 1 (the corners of the
    box).  Blocks of consecutive values: all (so all - comes first, and all + never), then halves, quarters, ..., one;
    then those of one again and again.  Halving ends at 1e-3 in L2 units, 1.8e-5 in Linf for 3,072 values.
    queries: all of an image, the first one (about x itself) included, and never more; the authors' code looks at its
    limit between bisections only, and so asks some 20 more.  An image is done before where every single value has been
    flipped in vain, since all that would follow is asked already.
    Cost: queries forwards; fewer where an image is done, which takes more than twice as many as it has values.
    """
    found = x.clone()
    hunt = begin(model, x, y, draws, queries)
    hunt = leave(hunt, found, ~hunt.ask(threat, x, torch.ones_like(y, dtype=torch.bool)))
    count = x[0].numel()
    table = _blocks(count, x.device)
    ray = _Ray(**{f.name: getattr(hunt, f.name) for f in fields(hunt)}, **_start(hunt, count))
    while len(ray.rows):
        ray = leave(ray, found, (ray.left > 0) & (ray.vain < count))
        if len(ray.rows):
            _ask_once(ray, threat, table, TOLERANCE / count**0.5)
    return found


@dataclass
class _Ray(Hunt):
    """And where each image stands in its own search: every image asks one question a round, whatever its turn is."""

    signs: Tensor  # (n, d)
    radius: Tensor  # (n,) in float64: at which the signs are misread
    block: Tensor  # (n,) the one that is flipped
    halving: Tensor  # (n,) bool, whether the flipped signs are misread at `radius`, and a smaller one is searched
    low: Tensor  # (n,) the flipped signs are not misread at `low`, and are at `high`
    high: Tensor
    vain: Tensor  # (n,) single values flipped since a flip last brought a smaller radius


def _start(hunt: Hunt, count: int) -> dict[str, Any]:
    """All signs +, and the first block to be flipped."""
    radius = torch.ones(len(hunt.x), dtype=torch.double, device=hunt.x.device)
    return {
        "signs": radius.new_ones(len(radius), count), "radius": radius, "block": torch.zeros_like(hunt.y),
        "halving": torch.zeros_like(hunt.y, dtype=torch.bool), "low": radius * 0, "high": radius,
        "vain": torch.zeros_like(hunt.y),
    }  # fmt: skip


def _blocks(count: int, device: torch.device) -> Tensor:
    """Beginnings and ends of all blocks, those of one value last: (blocks, 2)."""
    listed = []
    for again, block in blocks(count):
        if again:
            break
        listed.append((block.start, block.stop))
    return torch.tensor(listed, device=device)


def _ask_once(ray: _Ray, threat: ThreatModel, table: Tensor, tolerance: float) -> None:
    """One question about every image, and what follows from the answer."""
    place = torch.arange(ray.signs.shape[1], device=ray.x.device)
    begins, ends = table[ray.block].unsqueeze(2).unbind(1)
    flipped = torch.where((place >= begins) & (place < ends), -ray.signs, ray.signs)
    radius = torch.where(ray.halving, (ray.low + ray.high) / 2, ray.radius)
    new = (ray.x.double() + column(radius) * flipped.view(ray.x.shape)).clamp(0, 1).float()
    hit = ray.ask(threat, new, torch.ones_like(ray.halving))
    ray.high = torch.where(hit, radius, ray.high)
    ray.low = torch.where(ray.halving & ~hit, radius, ray.low)
    halved = ray.halving & (ray.high - ray.low <= tolerance)
    found, over = halved & (ray.high < ray.radius), halved | (~ray.halving & ~hit)
    ray.halving = (ray.halving | hit) & ~over
    ray.signs = torch.where(found[:, None], flipped, ray.signs)
    ray.radius = torch.where(found, ray.high, ray.radius)
    single = ray.block >= len(table) - len(place)
    ray.vain = torch.where(found, 0, ray.vain + (over & single))
    following = torch.where(ray.block + 1 < len(table), ray.block + 1, len(table) - len(place))
    ray.block = torch.where(over, following, ray.block)
    ray.low = torch.where(over, 0.0, ray.low)
