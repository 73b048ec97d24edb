"""The shading of drops of water as the original makes it with OpenCV: edges, distances to them, and a relief.

All of it is whole numbers, (N, H, W) int64; the names are those of OpenCV's functions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ONE, DIAGONAL, KNIGHT = 65536, 91750, 143976  # steps of 1, 1.4 and 2.1969 in 16 bits: the 5 x 5 distance
FAR = 20  # pixels, beyond which distances are not told apart
TAN_22 = 13573  # tan(22.5 degrees) in 15 bits


def shading(liquid: Tensor) -> Tensor:
    """How light falls on drops, 0 to 255, from the liquid's height in grey levels."""
    dist = distance(canny(liquid, 50, 150))
    dist = (_sum_3x3(dist) / (9 * ONE)).floor().long()
    relief = torch.tensor([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    dist = _correlate(equalize(dist), relief).clamp(0, 255)
    return ((_sum_3x3(dist) * 2 + 9) / 18).floor().long()  # nines have no halves


def _pad(x: Tensor, mode: str, by: int = 1) -> Tensor:
    return F.pad(x[:, None].double(), (by,) * 4, mode=mode)[:, 0].long()


def _correlate(x: Tensor, kernel: Tensor, mode: str = "reflect") -> Tensor:
    """The sum of weighted shifts of x by up to one pixel."""
    h, w = x.shape[1:]
    padded, found = _pad(x, mode), torch.zeros_like(x)
    for i, weights in enumerate(kernel.tolist()):
        for j, weight in enumerate(weights):
            if weight:
                found += weight * padded[:, i : i + h, j : j + w]
    return found


def _sum_3x3(x: Tensor) -> Tensor:
    return _correlate(x, torch.ones(3, 3, dtype=torch.int64))


def canny(x: Tensor, low: int, high: int) -> Tensor:
    """Edges (bool): ridges of the gradient above `low` that hang together with one above `high`."""
    sobel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    across, down = _correlate(x, sobel, "replicate"), _correlate(x, sobel.T, "replicate")
    size = across.abs() + down.abs()
    padded, (h, w) = F.pad(size, (1, 1, 1, 1)), x.shape[1:]

    def beside(i: int, j: int) -> Tensor:
        return padded[:, 1 + i : 1 + i + h, 1 + j : 1 + j + w]

    flat, steep = across.abs() * TAN_22, down.abs() << 15
    level, upright = steep < flat, steep > flat + (across.abs() << 16)
    opposed = (across ^ down) < 0
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    ridge = torch.where(opposed, rising, falling)
    ridge = torch.where(upright, (size > beside(-1, 0)) & (size >= beside(1, 0)), ridge)
    ridge = torch.where(level, (size > beside(0, -1)) & (size >= beside(0, 1)), ridge)
    weak = ridge & (size > low)
    edges = weak & (size > high)
    while True:
        near = F.max_pool2d(edges[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
        grown = near & weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def distance(edges: Tensor) -> Tensor:
    """The distance to the nearest edge, at most FAR, in parts of 1/65536."""
    steps = [(0, 1, ONE), (1, 0, ONE), (1, 1, DIAGONAL), (1, -1, DIAGONAL)]
    steps += [(1, 2, KNIGHT), (1, -2, KNIGHT), (2, 1, KNIGHT), (2, -1, KNIGHT)]
    h, w = edges.shape[1:]
    # No step leaves the image, so two pixels of border that stay far are enough.
    found = F.pad(torch.where(edges, 0, FAR * ONE).int(), (2, 2, 2, 2), value=FAR * ONE)
    inner = found[:, 2:-2, 2:-2]
    while True:
        before = inner.clone()
        for down, right, length in steps:
            for i, j in ((2 + down, 2 + right), (2 - down, 2 - right)):
                torch.minimum(inner, found[:, i : i + h, j : j + w] + length, out=inner)
        if torch.equal(inner, before):
            return before.long()


def equalize(x: Tensor) -> Tensor:
    """Levels from 0 to FAR spread over 0 to 255 by their ranks; an even image stays as it is."""
    n, h, w = x.shape
    levels = torch.arange(FAR + 1, device=x.device)
    up_to = torch.stack([(x <= level).sum((1, 2)) for level in levels.tolist()], 1)
    least = x.amin((1, 2))
    first = up_to.gather(1, least[:, None])
    # OpenCV's scale is a float32.
    scale = torch.tensor(255.0, device=x.device) / (h * w - first).clamp(min=1).float()
    table = ((up_to - first).clamp(min=0).float() * scale).round().long()
    even = first == h * w
    table = torch.where(even, levels.expand_as(table), table)
    return table.gather(1, x.flatten(1)).view(n, h, w)
