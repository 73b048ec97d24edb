"""Square: random search over square windows, by scores alone."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import margin, misread
from attacks.pgd import select
from bench import Draws, Model, ThreatModel, attack, per_image_sum

AHEAD = 64  # queries whose randomness is drawn in one call
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after each of these queries the windows' area halves


@attack(
    norms=("linf", "l2", "l1"),
    access="scores",
    paper="arXiv:1912.00049",
    version=1,
    cost=lambda queries, **_: (1 + queries, 0),
)
def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    queries: int = 5000,
    p: float = 0.8,
    rescale: bool = False,
) -> Tensor:
    """Change one random window a query, and keep the change where the margin falls.

    arXiv:1912.00049.  Access: scores.  Linf (vertical stripes, then windows of one sign a channel), L2 and L1 (a grid
    of bumps, then bumps that move from window to window; L1, arXiv:2103.01208, has steeper bumps and projects exactly
    where L2 scales).  ANY: an image stops at its first misread query.
    p: the first windows' share of the image; it halves after queries 10, 50, 200, 500, 1000, 2000, 4000, 6000 and
    8000.  rescale=True squeezes that schedule, made for 10,000 queries, into `queries`; without it (as in AutoAttack)
    5,000 queries are the first 5,000 of 10,000.
    Cost: 1 + queries forwards; `queries` are those after the first image.
    AutoAttack's code shares windows and, in Linf, signs between the images of a batch; here every image draws its
    own, as in the paper.  As in both codes a window never touches the last row and column unless it fills the image,
    and in L1 what a window was freed of comes back once for every channel, before the projection takes the excess.
    """
    if not threat.eps:
        return x
    found = x.clone()
    search = _begin(model, x, y, threat, draws)
    propose = _push if threat.norm == "linf" else _move
    new = search.best
    for query in range(queries + 1):
        if query:
            place = (query - 1) % AHEAD
            if not place:
                sides = [side(q, x, threat, p, queries if rescale else 0) for q in range(query - 1, query - 1 + AHEAD)]
                _draw(search, range(query - 1, query - 1 + AHEAD), sides)
            new = propose(search, place, sides[place], threat)
        logits = search.model(new)
        value = margin(logits, search.y)
        fell = misread(logits, search.y)
        better = value > search.value
        search.best[better] = new[better]
        search.value = torch.where(better, value, search.value)
        if fell.any():
            found[search.rows[fell]] = new[fell]
            if fell.all():
                return found
            search = select(search, ~fell)
    found[search.rows] = search.best
    return found


@dataclass
class _Search:
    """Where the search stands on each image that has not fallen."""

    model: Model
    draws: Draws
    rows: Tensor  # (n,) places among the images attacked
    x: Tensor
    y: Tensor
    best: Tensor  # the image with the highest margin loss, and that loss (n,)
    value: Tensor
    corners: Tensor  # (n, AHEAD, 2, 2) row and column at which each of two windows begins, of the next queries
    signs: Tensor  # (n, AHEAD, C + 1) one sign a channel, and one that turns the bump
    down: Tensor  # (n, AHEAD, H) and across (n, AHEAD, W): which rows and columns lie in the first window
    across: Tensor
    low: Tensor  # Linf: the ball's edges in [0, 1]
    high: Tensor


def _begin(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> _Search:
    """The first image: vertical stripes, or a grid of bumps."""
    eps, (channels, _, width) = float(threat.eps), x.shape[1:]
    if threat.norm == "linf":
        start = (x + eps * draws.at("stripes").sign(channels, 1, width)).clamp(0, 1)
    else:
        start = _within(_grid(x, threat, draws.at("grid")), x, threat)
    return _Search(
        model=model, draws=draws, rows=torch.arange(len(x), device=x.device), x=x, y=y,
        best=start.clone(), value=x.new_full((len(x),), -torch.inf),
        corners=y.new_zeros(len(x), 0), signs=x.new_zeros(len(x), 0),
        down=x.new_zeros(len(x), 0), across=x.new_zeros(len(x), 0),
        low=(x - eps).clamp(0, 1), high=(x + eps).clamp(0, 1),
    )  # fmt: skip


def _draw(search: _Search, queries: range, sides: list[int]) -> None:
    """The randomness of the queries to come, in one call because a call has its price."""
    channels, height, width = search.x.shape[1:]
    # The upper bound is exclusive, as in the authors' code: the last place is never drawn.
    rooms = [[[max(length - s, 1) for length in (height, width)]] * 2 for s in sides]
    high = torch.tensor(rooms, device=search.x.device)
    search.corners = search.draws.at("place", step=queries).integers(high, 2, 2)
    search.signs = search.draws.at("sign", step=queries).sign(channels + 1)
    long = torch.tensor(sides, device=search.x.device)[:, None]
    for name, axis, length in (("down", 0, height), ("across", 1, width)):
        offset = torch.arange(length, device=search.x.device) - search.corners[:, :, 0, axis, None]
        setattr(search, name, (offset >= 0) & (offset < long))


def side(query: int, x: Tensor, threat: ThreatModel, p: float, rescale: int = 0) -> int:
    """The side of the window of a query, counted from 0; `rescale` is the number of queries, or 0."""
    height, width = x.shape[2:]
    at = int(query / rescale * 10000) if rescale else query
    share = p / 2 ** bisect_left(HALVINGS, at)
    length = round(math.sqrt(share * height * width))
    if threat.norm != "linf":
        length = max(length, 3) | 1  # odd, so that a bump has a middle
    return min(max(length, 1), height, width)


def _push(search: _Search, place: int, length: int, threat: ThreatModel) -> Tensor:
    """Linf: a window goes to the edge of the ball, each channel to one side."""
    del length, threat
    # 1 from any place in the ball is at or beyond its edge in [0, 1], and elsewhere 0 is added.
    down = search.signs[:, place, :-1, None] * search.down[:, place, None]
    new = down[..., None] * search.across[:, place, None, None].float()
    return torch.clamp(new.add_(search.best), search.low, search.high, out=new)


def _move(search: _Search, place: int, length: int, threat: ThreatModel) -> Tensor:
    """L2 and L1: a second window is emptied, and a new bump in the first gets its size and what eps leaves."""
    corners, signs = search.corners[:, place], search.signs[:, place]
    first, second = (_window(corners[:, k], length, search.x) for k in (0, 1))
    delta = search.best - search.x
    drawn = _bump_at(corners[:, 0], signs[:, -1], length, search.x, threat.norm) * signs[:, :-1, None, None]
    size = _room(delta, first | second, threat)
    kept = delta * first
    new = drawn + kept / (_sizes(kept, threat.norm) + 1e-12)
    new = new * (size / (_sizes(new, threat.norm) + 1e-12))
    return _within(torch.where(first, new, delta.masked_fill(second, 0)), search.x, threat)


def _room(delta: Tensor, freed: Tensor, threat: ThreatModel) -> Tensor:
    """The size that each channel's new bump may have: (n, C, 1, 1)."""
    eps, channels, inside = float(threat.eps), delta.shape[1], _by_channel(_mass(delta, threat.norm) * freed)
    if threat.norm == "l1":
        return inside * channels + _column((eps - per_image_sum(delta.abs())).clamp_min(0))
    return (inside + _column((eps**2 - per_image_sum(delta.square())).clamp_min(0)) / channels).sqrt()


def _within(delta: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """L2: the image at distance eps from x along delta, clipped to [0, 1].  L1: the nearest image of the ball."""
    if threat.norm == "l1":
        return threat.project(x + delta, x)
    size = per_image_sum(delta.square()).sqrt()
    return (x + delta * _column(float(threat.eps) / (size + 1e-12))).clamp(0, 1)


def _window(corner: Tensor, length: int, x: Tensor) -> Tensor:
    """Which pixels lie in the window of this side at `corner` (n, 2): (n, 1, H, W) bool."""
    rows, columns = _offsets(corner, x)
    inside = ((rows >= 0) & (rows < length)).unsqueeze(2) & ((columns >= 0) & (columns < length)).unsqueeze(1)
    return inside.unsqueeze(1)


def _offsets(corner: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, H) and columns (n, W), counted from `corner`."""
    height, width = (torch.arange(length, device=x.device) for length in x.shape[2:])
    return height - corner[:, :1], width - corner[:, 1:]


def _bump_at(corner: Tensor, turn: Tensor, length: int, x: Tensor, norm: str) -> Tensor:
    """A bump in the window at `corner`, lying where `turn` is positive, on zeros: (n, 1, H, W)."""
    standing = bump(length, norm).to(x)
    rows, columns = (o.clamp(0, length - 1) for o in _offsets(corner, x))
    both = torch.stack([standing, standing.T])
    drawn = both[(turn > 0).long().view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)
    return drawn * _window(corner, length, x)


def _grid(x: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Five by five bumps in the middle of the image, each turned and signed at random (fewer in images below 5)."""
    channels, height, width = x.shape[1:]
    length = max(min(height, width) // 5, 1)
    down, across = min(5, height), min(5, width)
    top, left = (height - down * length) // 2, (width - across * length) // 2
    signs = draws.sign(channels + 1, down, across)
    delta = torch.zeros_like(x)
    for i in range(down):
        for j in range(across):
            corner = torch.tensor([[top + i * length, left + j * length]], device=x.device)
            drawn = _bump_at(corner.expand(len(x), 2), signs[:, -1, i, j], length, x, threat.norm)
            delta += drawn * signs[:, :-1, i, j, None, None]
    return delta


def bump(length: int, norm: str) -> Tensor:
    """Two lobes of opposite sign, one above the other, of size 1 in L2 or L1: (length, length)."""
    above = length // 2
    drawn = torch.cat([_lobe(above, length, norm), -_lobe(length - above, length, norm)])
    return _unit(drawn, norm).float()


def _lobe(height: int, width: int, norm: str) -> Tensor:
    """Rectangles around the middle, the k-th reaching k pixels out, of size 1; it weighs (k + 1)^-2, in L1 ^-4."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns[None, :])  # a pixel lies in all rectangles from this one on
    weights = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** (-4 if norm == "l1" else -2)
    drawn = weights.flip(0).cumsum(0).flip(0)[ring]
    return _unit(drawn, norm)


def _unit(drawn: Tensor, norm: str) -> Tensor:
    """The same, of size 1."""
    size = _mass(drawn, norm).sum()
    return drawn / (size if norm == "l1" else size.sqrt()).clamp_min(1e-12)


def _mass(values: Tensor, norm: str) -> Tensor:
    """What adds up to the L1 norm, or to the square of the L2 norm."""
    return values.abs() if norm == "l1" else values.square()


def _sizes(values: Tensor, norm: str) -> Tensor:
    """The norm of each channel alone: (n, C, 1, 1)."""
    sums = _by_channel(_mass(values, norm))
    return sums if norm == "l1" else sums.sqrt()


def _by_channel(values: Tensor) -> Tensor:
    """The sum over each channel's pixels: (n, C, 1, 1)."""
    return per_image_sum(values.flatten(0, 1)).view(*values.shape[:2], 1, 1)


def _column(values: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
