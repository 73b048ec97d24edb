"""Sparse-RS: random search over which few pixels to repaint, by scores alone."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import margin, misread
from attacks.pgd import select
from bench import Draws, Model, ThreatModel, attack

AHEAD = 64  # queries whose randomness is drawn in one call
# Of 10,000 queries, those up to which the share of pixels that move is alpha over 1, 2, 4, ...; later ones: the last.
UNTIL = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
OVER = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)


@attack(norms=("l0",), access="scores", paper="arXiv:2006.12834", version=1, cost=lambda queries, **_: (queries, 0))
def sparse_rs(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, queries: int = 10_000, alpha: float = 0.3
) -> Tensor:
    """Repaint eps pixels in corner colours, move a few of them a query, and keep the move where the margin falls.

    arXiv:2006.12834.  Access: scores.  L0, in pixels.  ANY: an image stops at its first misread query.
    The first query repaints random pixels, each channel 0 or 1; a later one gives max(int(share * eps), 1) of them
    back and repaints as many others.  share: alpha, then alpha over 2, 4, 5, 6, 8, 10, 12, 15 and 20 after queries 0,
    50, 200, 500, 1,000, 2,000, 4,000, 6,000 and 8,000 of 10,000, squeezed into `queries` as the authors do; so fewer
    queries are not the first of more.  10,000 is the paper's number (the class in the authors' code has 5,000).
    A moved pixel never takes the colour that it had; the authors' later code sees to that where one pixel moves, which
    on digits with their empty corners is worth a fifth of what falls.
    Cost: queries forwards, the first image's included.
    The authors' code moves the same places of the list of pixels in every image of a batch; here every image draws
    its own.  Success is the argmax, there a margin of at most 0.  Where eps leaves too few other pixels, the rest of
    those to move stay and take new colours; that code fails there.
    """
    if not threat.eps:
        return x
    found = x.clone()
    search = _begin(model, x, y, threat, draws)
    for query in range(queries):
        if query:
            if (query - 1) % AHEAD == 0:
                _draw(search, query, max(moves(q, queries, alpha, search.pixels) for q in (query, query + AHEAD - 1)))
            new, swapped = _propose(search, (query - 1) % AHEAD, moves(query, queries, alpha, search.pixels))
        else:
            new, swapped = search.best, search.places
        logits = search.model(new)
        value, fell = margin(logits, search.y), misread(logits, search.y)
        better = value > search.value
        search.best = torch.where(better.view(-1, 1, 1, 1), new, search.best)
        search.places = torch.where(better[:, None], swapped, search.places)
        search.value = torch.where(better, value, search.value)
        if fell.any():
            found[search.rows[fell]] = new[fell]
            if fell.all():
                return found
            search = select(search, ~fell)
    found[search.rows] = search.best
    return found


def moves(query: int, queries: int, alpha: float, pixels: int) -> int:
    """How many of the repainted pixels a query moves."""
    share = alpha / OVER[bisect_left(UNTIL, int(query / queries * 10_000))]
    return max(int(share * pixels), 1)


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
    places: Tensor  # (n, H * W) all pixels, those repainted in `best` first
    picks: Tensor  # (n, AHEAD, most, 2) which repainted and which other pixel moves, of the next queries
    colours: Tensor  # (n, AHEAD, most, C), and (n, AHEAD, most) what to take where that is the pixel's already
    others: Tensor
    repainted: Tensor  # (n,) how many pixels are repainted

    @property
    def pixels(self) -> int:
        """How many pixels are repainted: the same number in every image."""
        return int(self.repainted[0])


def _begin(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws) -> _Search:
    """Random pixels in random corner colours."""
    count = x.shape[2] * x.shape[3]
    pixels = min(int(threat.eps), count)
    places = draws.at("place").order(count)
    colours = _corners(draws.at("colour").sign(pixels, x.shape[1]))
    return _Search(
        model=model, draws=draws, rows=torch.arange(len(x), device=x.device), x=x, y=y,
        best=_paint(x, places[:, :pixels], colours), value=x.new_full((len(x),), -torch.inf), places=places,
        picks=y.new_zeros(len(x), 0), colours=x.new_zeros(len(x), 0),
        others=y.new_zeros(len(x), 0), repainted=torch.full_like(y, pixels),
    )  # fmt: skip


def _draw(search: _Search, query: int, most: int) -> None:
    """The randomness of the queries to come, in one call because a call has its price."""
    count, pixels = search.places.shape[1], search.pixels
    # The j-th pick is among those not picked yet, which is what a partial shuffle needs.
    left = [[max(pixels - j, 1), max(count - pixels - j, 1)] for j in range(most)]
    steps = range(query, query + AHEAD)
    search.picks = search.draws.at("pick", step=steps).integers(torch.tensor(left, device=search.x.device), most, 2)
    search.colours = _corners(search.draws.at("repaint", step=steps).sign(most, search.x.shape[1]))
    search.others = search.draws.at("other", step=steps).integers(2 ** search.x.shape[1] - 1, most)


def _propose(search: _Search, ahead: int, moved: int) -> tuple[Tensor, Tensor]:
    """The next image, and the pixels in the order that they have if it is kept."""
    count, pixels = search.places.shape[1], search.pixels
    swaps = min(moved, count - pixels)
    places, images = search.places.clone(), torch.arange(len(search.x), device=search.x.device)
    for j in range(moved):
        # Shuffles within the repainted, and within the others: the last `moved` of each are then a random choice.
        for begin, end, pick in ((0, pixels, 0), (pixels, count, 1))[: 1 + (j < swaps)]:
            last, picked = places[:, end - 1 - j].clone(), begin + search.picks[:, ahead, j, pick]
            places[:, end - 1 - j] = places[images, picked]
            places[images, picked] = last
    back, others = places[:, pixels - moved : pixels], places[:, count - swaps :]
    taken = torch.cat([others, back[:, swaps:]], 1)
    colours = other_colours(
        _colours_at(search.best, taken), search.colours[:, ahead, :moved], search.others[:, ahead, :moved]
    )
    new = _paint(_paint(search.best, back, _colours_at(search.x, back)), taken, colours)
    swapped = places.clone()
    swapped[:, pixels - moved : pixels - moved + swaps], swapped[:, count - swaps :] = others, back[:, :swaps]
    return new, swapped


def _paint(images: Tensor, places: Tensor, colours: Tensor) -> Tensor:
    """The images with the pixels at `places` (n, k) in the colours (n, k, C)."""
    at = places[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).scatter(2, at, colours.transpose(1, 2)).view_as(images)


def _colours_at(images: Tensor, places: Tensor) -> Tensor:
    """The colours (n, k, C) of the pixels at `places` (n, k)."""
    return images.flatten(2).transpose(1, 2).gather(1, places[:, :, None].expand(-1, -1, images.shape[1]))


def other_colours(old: Tensor, drawn: Tensor, others: Tensor) -> Tensor:
    """Corner colours (n, k, C) as drawn; where that is the old one, the corner 1 + others (n, k) after it."""
    bits = 2 ** torch.arange(old.shape[2], device=old.device)
    code = ((drawn > 0).long() * bits).sum(2)
    following = (code + 1 + others) % 2 ** old.shape[2]
    differs = ((following.unsqueeze(2) // bits) % 2).to(old.dtype)
    return torch.where((drawn == old).all(2, keepdim=True), differs, drawn)


def _corners(signs: Tensor) -> Tensor:
    """0 for -1 and 1 for +1."""
    return (signs + 1) / 2
