"""What the corruptions are made of: filters, zooms, warps and maps, whose bits depend on one image alone.

Images are float64 (N, C, H, W) in grey levels, 0 to 255.  A filter's weights are whole multiples of 2^-24 and what it
is given of 2^-16 of a level, so that every sum is exact: neither its order nor the batch nor the device can change it.
The rest is done value by value.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

GRID = 2.0**16  # parts of a level
UNIT = 2.0**24  # parts of a weight
FEW = 3  # pixels of a filter's radius up to which shifts of the image are quicker than a matrix
Edge = Literal["nearest", "reflect"]  # a a a|a b c, c b a|a b c


def on_grid(x: Tensor) -> Tensor:
    """The nearest multiples of 2^-16."""
    return x.mul(GRID).round_().div_(GRID)


def edged(place: Tensor, side: int, edge: Edge) -> Tensor:
    """Whole places, also far outside, brought into 0..side-1 as the edge says."""
    if edge == "nearest":
        return place.clamp(0, side - 1)
    folded = place.remainder(2 * side)
    return torch.minimum(folded, 2 * side - 1 - folded)


def bell(sigma: float, radius: int) -> NDArray[np.float64]:
    """A normal curve at -radius..radius, of sum 1."""
    curve = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(curve / curve.sum())


def whole(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights in whole units of 2^-24, with the sum that they have: the largest takes what rounding leaves."""
    units = np.rint(weights * UNIT)
    units.flat[weights.argmax()] += np.rint(weights.sum() * UNIT) - units.sum()
    return units


@lru_cache(maxsize=64)
def blur_rows(side: int, sigma: float, truncate: float, edge: Edge, device: torch.device) -> Tensor:
    """The Gaussian filter along one axis as a matrix (side, side)."""
    radius = int(truncate * sigma + 0.5)
    rows = torch.zeros(side, side, dtype=torch.float64)
    here = torch.arange(side)
    for offset, units in zip(range(-radius, radius + 1), whole(bell(sigma, radius)).tolist(), strict=True):
        rows[here, edged(here + offset, side, edge)] += units / UNIT
    return rows.to(device)


def to_grid(x: Tensor) -> Tensor:
    """As on_grid, of numbers below 2^35, in their place and in a third of the time."""
    # What is added and taken away leaves 52 - 36 bits behind the point.
    return x.add_(1.5 * 2.0**36).sub_(1.5 * 2.0**36)


def separable(x: Tensor, rows: Tensor) -> Tensor:
    """The matrix (side, side) applied along both axes of x (N, C, side, side), which is on the grid."""
    n, channels, side, _ = x.shape
    # The rows of all images side by side: two large products take less time than one for each image.
    across = to_grid(x.permute(2, 0, 1, 3).reshape(-1, side) @ rows.T)
    down = rows @ across.view(side, -1)
    return down.view(side, n, channels, side).permute(1, 2, 0, 3).contiguous()


def gaussian(x: Tensor, sigma: float, truncate: float = 4.0, edge: Edge = "nearest") -> Tensor:
    """The Gaussian filter of SciPy and scikit-image, of what is on the grid."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    if radius <= FEW and edge == "nearest":
        return _shifted(x, (whole(bell(sigma, radius)) / UNIT).tolist()[radius:])
    return separable(x, blur_rows(x.shape[-1], float(sigma), truncate, edge, x.device))


def _shifted(x: Tensor, weights: list[float]) -> Tensor:
    """Along both axes, the sum of x and its shifts both ways by these weights; the edges go on for ever."""
    n, channels, side, _ = x.shape
    reach = len(weights) - 1
    wide = side + 2 * reach
    flat = F.pad(x, (reach,) * 4, mode="replicate").flatten()
    # A shift by rows or columns is one of the flat values; what it takes from other rows and images is cut off.
    for step in (1, wide):
        count, middle = len(flat) - 2 * reach * step, reach * step
        found = flat[middle : middle + count] * weights[0]
        for k, weight in enumerate(weights[1:], 1):
            before, after = middle - k * step, middle + k * step
            found.add_(flat[before : before + count] + flat[after : after + count], alpha=weight)
        flat = to_grid(found) if step == 1 else found
    strides = (channels * wide * wide, wide * wide, wide, 1)
    return flat.as_strided((n, channels, side, side), strides)


@lru_cache(maxsize=16)
def disk(radius: float, alias: float) -> list[tuple[int, int, float]]:
    """A disk whose edge is smoothed by a small Gaussian: (down, right, weight) where it is not zero.

    Where it fills its square, the mirroring beyond changes the sum from 1, as it does in the original.
    """
    reach, small = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    line = np.arange(-reach, reach + 1)
    flat = (line[:, None] ** 2 + line[None, :] ** 2 <= radius**2).astype(np.float64)
    flat /= flat.sum()
    soft = bell(alias, small)
    mirrored = np.pad(flat, small, mode="reflect")
    smooth = sum(
        soft[i] * soft[j] * mirrored[i : i + len(line), j : j + len(line)]
        for i in range(2 * small + 1)
        for j in range(2 * small + 1)
    )
    units = whole(np.asarray(smooth))
    return [(int(i) - reach, int(j) - reach, float(units[i, j] / UNIT)) for i, j in np.argwhere(units)]


def correlate(x: Tensor, taps: Iterable[tuple[int, int, float]]) -> Tensor:
    """The sum of weighted shifts of x, mirrored at its edges."""
    taps = list(taps)
    reach = max(max(abs(down), abs(right)) for down, right, _ in taps)
    side = x.shape[-1]
    padded = F.pad(x, (reach,) * 4, mode="reflect") if reach else x
    found = torch.zeros_like(x)
    for weight in sorted({w for _, _, w in taps}):
        alike = [(i + reach, j + reach) for i, j, w in taps if w == weight]
        total = torch.zeros_like(x)
        for i, j in alike:
            total += padded[..., i : i + side, j : j + side]
        found += total * weight
    return found


def motion(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """ImageMagick's motion blur of whole levels: half a Gaussian along an angle (N,) in radians; rounded."""
    n, channels, side, _ = x.shape
    width = 2 * math.ceil(radius) + 1
    half = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    cos, sin = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    here = torch.arange(side, device=x.device)
    flat, found = x.reshape(n, channels, -1), torch.zeros_like(x).view(n, channels, -1)
    for step, units in enumerate(whole(half / half.sum()).tolist()):
        if units:
            down = edged(here.view(1, -1, 1) + torch.ceil(step * sin - 0.5).long(), side, "nearest")
            right = edged(here.view(1, 1, -1) + torch.ceil(step * cos - 0.5).long(), side, "nearest")
            place = (down * side + right).view(n, 1, -1).expand(-1, channels, -1)
            found += flat.gather(2, place) * (units / UNIT)
    return torch.floor(found + 0.5).view_as(x)


def zoom_taps(side: int, zoom: float) -> tuple[Tensor, Tensor, Tensor]:
    """Enlarging the middle of an axis: each place is low + share * (high - low) of two places, (side,) each."""
    crop = math.ceil(side / zoom)
    large = round(crop * zoom)
    at = (torch.arange(side) + (large - side) // 2) * ((crop - 1) / (large - 1))
    low = at.floor().clamp(0, crop - 1)
    start = (side - crop) // 2
    return start + low.long(), start + (low + 1).clamp(0, crop - 1).long(), at - low


@lru_cache(maxsize=16)
def zoom_rows(side: int, zoom: float, device: torch.device) -> Tensor:
    """Enlarging the middle of an axis as a matrix (side, side)."""
    low, high, share = zoom_taps(side, zoom)
    units = (share * UNIT).round() / UNIT
    rows, here = torch.zeros(side, side, dtype=torch.float64), torch.arange(side)
    rows[here, low] += 1 - units
    rows[here, high] += units
    return rows.to(device)


@lru_cache(maxsize=8)
def zooms(side: int, count: int, step: int, device: torch.device) -> Tensor:
    """The sum of an image and of its zooms, 1 and on in hundredths, as a sparse matrix (side^2, side^2).

    Its weights are multiples of 2^-32; sums of so many whole levels are exact still.
    """
    pixels = torch.arange(side * side)
    cells, parts = [pixels * side**2 + pixels], [torch.full((side * side,), 2**32)]
    part_step = (1 + step / 100) - 1  # as a float range has it: 26 * 1.25 is then a little more than 32.5
    for zoom in (1 + i * part_step for i in range(count)):
        low, high, share = zoom_taps(side, zoom)
        upper = (share * 2**16).round().long()
        ends = ((low, 2**16 - upper), (high, upper))
        for down, weight in ends:
            for right, other in ends:
                cells.append(pixels * side**2 + (down[:, None] * side + right).flatten())
                parts.append((weight[:, None] * other).flatten())
    cell, where = torch.cat(cells).unique(return_inverse=True)
    part = torch.zeros(len(cell), dtype=torch.int64).index_add_(0, where, torch.cat(parts))
    cell, part = cell[part > 0], part[part > 0]
    places = torch.stack([cell // side**2, cell % side**2])
    weights = part.double() / 2**32
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        return torch.sparse_coo_tensor(places, weights, (side**2, side**2), is_coalesced=True).to(device)


def sample(x: Tensor, grid: Tensor, *, twice: bool) -> Tensor:
    """x between its pixels, linearly, at the places of a grid (N, H, W, right and down), and mirrored beyond its edges.

    twice: a mirrored pixel of the edge comes twice.  Each image is done for itself.  The grid is in units of `unit`.
    """
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=not twice)


def unit(side: int, *, twice: bool) -> tuple[float, float]:
    """(scale, start): the pixel p of a side lies at p * scale + start in a grid, whose edges are -1 and 1."""
    return (2 / side, 1 / side - 1) if twice else (2 / (side - 1), -1.0)


def copies(offsets: Tensor, side: int) -> Tensor:
    """Where each pixel of a frosted glass comes from: (N, side * side) places.

    From the last pixel to the first, each becomes the one at its offset, down and right, in (N, 2, inner, inner).
    That one may have been replaced before, so chains are followed, all at once and twice as far each time.
    """
    n, _, inner, _ = offsets.shape
    count, border = side * side, (side - inner) // 2
    within = slice(border + 1, side - border + 1)
    source = torch.arange(count, device=offsets.device).repeat(n, 1)
    square = source.view(n, side, side)
    ahead = offsets[:, 0] * side + offsets[:, 1]
    square[:, within, within] += ahead
    if not (ahead > 0).any():
        return source
    own = torch.arange(count, device=offsets.device)
    replaced = torch.zeros(side, side, dtype=torch.bool, device=offsets.device)
    replaced[within, within] = True
    chained = (source > own) & replaced.flatten()[source]
    # Places from count on are those of the image as it was, and lead to themselves.
    source = torch.cat([torch.where(chained, source, source + count), (own + count).expand(n, -1)], 1)
    while ((found := source[:, :count]) < count).any():
        source[:, :count] = source.gather(1, found)
    return found - count


def diamond_square(numbers: Tensor, decay: float) -> Tensor:
    """A cloudy map in [0, 1], (N, side, side) of a power of two that wraps around, from as many uniforms in [-1, 1)."""
    n, side, _ = numbers.shape
    height, flat = torch.zeros_like(numbers), numbers.reshape(n, -1)
    used, step, rough = 0, side, 100.0

    def wobbled(total: Tensor) -> Tensor:
        nonlocal used
        count = total.shape[1] * total.shape[2]
        wobble = flat[:, used : used + count].view_as(total)
        used += count
        return total / 4 + wobble * (rough * rough)

    while step >= 2:
        half = step // 2
        corner = height[:, ::step, ::step]
        pair = corner + corner.roll(-1, 1)
        middle = wobbled(pair + pair.roll(-1, 2))
        height[:, half::step, half::step] = middle
        corner = height[:, ::step, ::step]
        height[:, ::step, half::step] = wobbled((middle + middle.roll(1, 1)) + (corner + corner.roll(-1, 2)))
        height[:, half::step, ::step] = wobbled((middle + middle.roll(1, 2)) + (corner + corner.roll(-1, 1)))
        step, rough = half, rough / decay
    height = height - height.amin((1, 2), keepdim=True)
    return height / height.amax((1, 2), keepdim=True)


@lru_cache(maxsize=16)
def poisson_steps(counts: float, device: torch.device) -> tuple[Tensor, int]:
    """The distribution functions of Poisson counts for each grey level, in 32 bits, one after the other; their length.

    Row m, from m * 2^33 on, is of the mean counts * m / 255.
    """
    length = int(counts + 9 * math.sqrt(counts) + 20)
    k = np.arange(length)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, length)))])
    mean = (counts * np.arange(256) / 255)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.exp(np.where(k == 0, 0.0, k * np.log(mean)) - mean - log_factorial)
    steps = np.rint(np.minimum(np.cumsum(share, axis=1), 1.0) * 2**32).astype(np.int64)
    steps += np.arange(256)[:, None] << 33
    return torch.from_numpy(steps.ravel()).to(device), length
