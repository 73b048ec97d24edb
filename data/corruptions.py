"""The 19 corruptions of CIFAR-10-C at five severities, for images of any data set from 28 pixels a side on.

Each is the definition by which the published sets were made (Hendrycks and Dietterich, arXiv:1903.12261), with draws
that are named by image, corruption and severity: a set is the same everywhere, in any batch.  It cannot be the
published one, whose randomness nobody kept.  Where the original calls a library, this says what that computes.

An image of one channel has the colours of gray, and what is colour in the result is turned to gray by its luma.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench import Draws, Shape, UsageError, corruption
from data import frost as frosts
from data.corruptions_filters import (
    copies,
    correlate,
    diamond_square,
    disk,
    gaussian,
    motion,
    on_grid,
    poisson_steps,
    sample,
    separable,
    unit,
    zoom_rows,
    zooms,
)
from data.corruptions_liquid import shading
from data.corruptions_tables import LEAST, row

PAPER = "arXiv:1903.12261"
HAIR = 2.0**-10  # of a level: what rounding may take from a whole level before it is cut to the level below
PIECE = {"cpu": 2**18}  # values at once: what fits into a cache
LUMA = (0.299, 0.587, 0.114)
WATER, MUD = (175, 238, 238), (63, 42, 20)


def unfit(shape: Shape) -> str:
    """Why images of this shape cannot be spoilt; empty where they can."""
    if shape.size < LEAST:
        return f"corruptions are tabled for images of {LEAST} pixels a side or more, and these have {shape.size}"
    if shape.channels not in {1, 3}:
        return f"corruptions are for images of 1 or 3 channels, and these have {shape.channels}"
    return ""


def _unfit_for_frost(shape: Shape) -> str:
    return unfit(shape) or frosts.lacks()


def tabled(function: Callable[..., Tensor]) -> Callable[[Tensor, int, Draws], Tensor]:
    """A corruption from a function of (levels, draws, *its row of the table) that gives levels.

    The function's images are float64 (N, C, H, W) in 0..255; what it gives is cut to whole levels, as the original
    cuts it, and comes back as float32 in [0, 1].
    """

    def spoil(x: Tensor, severity: int, draws: Draws) -> Tensor:
        channels, height, width = x.shape[1:]
        if reason := unfit(Shape(0, channels, min(height, width))):
            raise UsageError(f"{function.__name__}: {reason}")
        if height != width:
            raise UsageError(f"{function.__name__}: images must be square, and are {height} x {width}")
        if not len(x):
            return x.clone()
        settings = row(function.__name__, width, severity)
        size = max(1, PIECE.get(x.device.type, 2**24) // x[:1].numel())
        pieces = [slice(start, start + size) for start in range(0, len(x), size)]
        return torch.cat([_cut(function((x[p] * 255).round_().double(), draws[p], *settings)) for p in pieces])

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(spoil, name, getattr(function, name))
    return spoil


def _cut(levels: Tensor) -> Tensor:
    """Whole levels from 0 to 255, as float32 in [0, 1]."""
    return (levels + HAIR).floor_().clamp_(0, 255).float().div_(255)


def _gray(x: Tensor) -> Tensor:
    """(N, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    return x[:, :1] * LUMA[0] + x[:, 1:2] * LUMA[1] + x[:, 2:] * LUMA[2]


def _colour(colour: tuple[int, int, int], like: Tensor) -> Tensor:
    """A colour in the channels that the images have: (C, 1, 1)."""
    paint = torch.tensor(colour, dtype=torch.float64, device=like.device).view(1, 3, 1, 1)
    return (paint if like.shape[1] == 3 else _gray(paint))[0]


def _between(draws: Draws, purpose: str, low: float, high: float) -> Tensor:
    """A uniform number for each image: (N,) float64."""
    return low + (high - low) * draws.at(purpose).uniform(1)[:, 0].double()


@corruption(paper=PAPER, unfit=unfit)
@tabled
def gaussian_noise(v: Tensor, draws: Draws, sd: float) -> Tensor:
    """Normal noise on every value."""
    return v + draws.normal(*v.shape[1:]).double() * (255 * sd)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def shot_noise(v: Tensor, draws: Draws, counts: float) -> Tensor:
    """Poisson counts in place of every value, as of few photons."""
    steps, length = poisson_steps(counts, v.device)
    level = v.long()
    drawn = torch.searchsorted(steps, (level << 33) + draws.bits(*v.shape[1:]), right=True) - level * length
    return drawn.double() * 255 / counts


@corruption(paper=PAPER, unfit=unfit)
@tabled
def impulse_noise(v: Tensor, draws: Draws, share: float) -> Tensor:
    """Salt and pepper: some values become white or black."""
    drawn = draws.bits(*v.shape[1:])
    edge = round(share * 2**32)
    return torch.where(drawn < edge // 2, 255.0, torch.where(drawn < edge, 0.0, v))


@corruption(paper=PAPER, unfit=unfit)
@tabled
def speckle_noise(v: Tensor, draws: Draws, sd: float) -> Tensor:
    """Normal noise in proportion to every value."""
    return v + v * (draws.normal(*v.shape[1:]).double() * sd)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def defocus_blur(v: Tensor, draws: Draws, radius: float, alias: float) -> Tensor:
    """The mean over a disk, as out of focus; below a radius of 1 only the smoothing of the disk's edge blurs."""
    return correlate(v, disk(radius, alias))


@corruption(paper=PAPER, unfit=unfit)
@tabled
def glass_blur(v: Tensor, draws: Draws, sigma: float, reach: int, passes: int) -> Tensor:
    """Frosted glass: a blur, pixels that take their neighbours' place, and the blur again."""
    side = v.shape[-1]
    inner = side - 2 * reach
    v = (gaussian(v, sigma) + HAIR).floor_()
    offsets = draws.integers(2 * reach, passes, 2, inner, inner) - reach
    place = copies(offsets[:, 0], side)
    for i in range(1, passes):
        place = place.gather(1, copies(offsets[:, i], side))
    v = v.flatten(2).gather(2, place[:, None].expand(-1, v.shape[1], -1)).view_as(v)
    return gaussian(v, sigma)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def motion_blur(v: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """A moving camera: half a Gaussian along a line within 45 degrees of the horizontal."""
    return motion(v, radius, sigma, _between(draws, "angle", -math.pi / 4, math.pi / 4))


@corruption(paper=PAPER, unfit=unfit)
@tabled
def zoom_blur(v: Tensor, draws: Draws, count: int, step: int) -> Tensor:
    """The mean of the image and of its zooms, as of a camera that moves towards it."""
    n, channels, side, _ = v.shape
    columns = v.reshape(n * channels, side * side).T.contiguous()
    total: Tensor = torch.sparse.mm(zooms(side, count, step, v.device), columns)
    return total.T.reshape(v.shape) / (count + 1)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def gaussian_blur(v: Tensor, draws: Draws, sigma: float) -> Tensor:
    """A Gaussian filter."""
    return gaussian(v, sigma)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def snow(
    v: Tensor, draws: Draws, mean: float, sd: float, zoom: float, least: float, radius: float, sigma: float, mix: float
) -> Tensor:
    """Flakes that fall within 45 degrees of the vertical, once more turned by 180 degrees, on a whitened image."""
    side = v.shape[-1]
    layer = on_grid((draws.normal(1, side, side).double() * sd + mean) * 255)
    if zoom != 1:
        layer = separable(layer, zoom_rows(side, zoom, v.device))
    layer = torch.where(layer < 255 * least, 0.0, layer).floor().clamp(0, 255)
    layer = motion(layer, radius, sigma, _between(draws, "angle", -0.75 * math.pi, -0.25 * math.pi))
    white = torch.maximum(v, _gray(v) * 1.5 + 127.5)
    return v * mix + white * (1 - mix) + layer + layer.flip(2, 3)


@corruption(paper=PAPER, unfit=_unfit_for_frost)
@tabled
def frost(v: Tensor, draws: Draws, image: float, ice: float, size: float) -> Tensor:
    """A part of one of five photographs of frost laid over the image; it needs those photographs."""
    side = v.shape[-1]
    found = frosts.pictures(size, side)
    which, where = draws.at("picture").integers(len(found), 1)[:, 0], draws.at("crop")
    # The crop's first row and column are below height - side and width - side, as in the original.
    room = torch.tensor([[p.shape[0] - side, p.shape[1] - side] for p in found], device=v.device)
    corners = where.integers(room[which], 2)
    crops = [
        torch.from_numpy(found[k][top : top + side, left : left + side])
        for k, (top, left) in zip(which.tolist(), corners.tolist(), strict=True)
    ]
    layer = torch.stack(crops).to(v.device).permute(0, 3, 1, 2).double()
    return v * image + (layer if v.shape[1] == 3 else _gray(layer)) * ice


@corruption(paper=PAPER, unfit=unfit)
@tabled
def fog(v: Tensor, draws: Draws, amount: float, decay: float) -> Tensor:
    """A cloudy map by the diamond-square algorithm laid over the image, which keeps its brightest value."""
    side = v.shape[-1]
    square = 2 ** math.ceil(math.log2(side))
    clouds = diamond_square(draws.uniform(square, square).double() * 2 - 1, decay)[:, None, :side, :side]
    most = v.amax((1, 2, 3), keepdim=True)
    return (v + clouds * (255 * amount)) * most / (most + 255 * amount)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def brightness(v: Tensor, draws: Draws, more: float) -> Tensor:
    """A higher value in HSV, with hue and saturation kept."""
    value = v.amax(1, keepdim=True)
    brighter = (value + 255 * more).clamp(max=255)
    return torch.where(value > 0, v * brighter / value.clamp(min=1), brighter)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def saturate(v: Tensor, draws: Draws, factor: float, more: float) -> Tensor:
    """Another saturation in HSV, with hue and value kept; what is gray has the hue of red."""
    rgb = v.expand(-1, 3, -1, -1)
    value, least = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    saturation = (value - least) / value.clamp(min=1)
    wanted = (saturation * factor + more).clamp(0, 1)
    # How far each channel lies below the value, as a share of the way to the least one.
    red = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64, device=v.device).view(1, 3, 1, 1)
    way = torch.where(value > least, (value - rgb) / (value - least).clamp(min=1), red)
    rgb = value - value * wanted * way
    return rgb if v.shape[1] == 3 else _gray(rgb)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def contrast(v: Tensor, draws: Draws, factor: float) -> Tensor:
    """Values nearer to the mean of their channel."""
    mean = v.sum((2, 3), keepdim=True) / v[0, 0].numel()  # a sum of whole numbers, the same in any order
    return (v - mean).mul_(factor).add_(mean)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def spatter(
    v: Tensor, draws: Draws, mean: float, sd: float, sigma: float, least: float, strength: float, mud: int
) -> Tensor:
    """Drops of water with light on them, or at higher severities splashes of mud."""
    side = v.shape[-1]
    liquid = gaussian(on_grid((draws.normal(1, side, side).double() * sd + mean) * 255), sigma)
    if mud:
        cover = gaussian((liquid > 255 * least).double(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return v * (1 - cover) + _colour(MUD, v) * cover
    # What is above white wraps around, as in the original's cast to 8 bits.
    height = torch.where(liquid < 255 * least, 0.0, liquid).floor().long() % 256
    light = height * shading(height[:, 0])[:, None]
    return v + _colour(WATER, v) * (light.double() / light.amax((2, 3), keepdim=True).clamp(min=1) * strength)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def elastic_transform(v: Tensor, draws: Draws, amount: float, sigma: float, shift: float) -> Tensor:
    """A random affine map, then a smooth random displacement of every pixel."""
    n, side = len(v), v.shape[-1]
    half, third = side // 2, side // 3
    moved = (draws.at("corners").uniform(3, 2).double() * 2 - 1) * (shift * side)
    corner = [(half + third, half + third), (half + third, half - third), (half - third, half - third)]
    ends = moved + torch.tensor(corner, dtype=torch.float64, device=v.device)
    line = torch.arange(side, dtype=torch.float64, device=v.device)
    right, down = line.view(1, 1, -1, 1), line.view(1, -1, 1, 1)
    # In the moved corners, (right, down) = first + a (second - first) + b (third - first): solved for a and b.
    (ax, ay), (bx, by), (cx, cy) = (ends[:, i].T.unbind() for i in range(3))
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    across = torch.stack([cy - ay, ay - by], 1) / area[:, None]  # of a and b, one pixel to the right
    along = torch.stack([ax - cx, bx - ax], 1) / area[:, None]
    first = -(across * ax[:, None] + along * ay[:, None])
    # The corners as they were are one apart by (0, -2 third), the other by (-2 third, -2 third).
    was = [torch.stack([ab[:, 1], ab.sum(1)], 1).view(n, 1, 1, 2) * (-2 * third) for ab in (first, across, along)]
    scale, start = unit(side, twice=False)
    origin, was_right, was_down = ((was[0] + half + third) * scale + start, was[1] * scale, was[2] * scale)
    v = sample(v, (origin + was_right * right) + was_down * down, twice=False)
    if not amount:
        return v
    # Smoothed on a grid of 2^-24: numbers from -1 to 1, and a filter allows 256.
    field = draws.at("field").uniform(2, side, side).double().mul_(512).sub_(256)
    scale, start = unit(side, twice=True)
    field = gaussian(field, sigma * side, truncate=3, edge="reflect").mul_(amount * side / 256 * scale)
    here = line * scale + start
    field[:, 0] += here
    field[:, 1] += here[:, None]
    return sample(v, field.permute(0, 2, 3, 1), twice=True)


@corruption(paper=PAPER, unfit=unfit)
@tabled
def pixelate(v: Tensor, draws: Draws, size: float) -> Tensor:
    """Fewer pixels: the image made smaller and larger again, by Pillow's box filter."""
    side = v.shape[-1]
    return _boxes(_boxes(v, int(side * size)), side)


def _boxes(v: Tensor, side: int) -> Tensor:
    """Each new pixel is the mean of those whose middle lies in it; rounded along one axis, then the other."""
    scale = v.shape[-1] / side
    reach = max(scale, 1) / 2
    ends = [(int((i + 0.5) * scale - reach + 0.5), int((i + 0.5) * scale + reach + 0.5)) for i in range(side)]
    if all(high - low == 1 for low, high in ends):
        own = torch.tensor([low for low, _ in ends], device=v.device)
        return v.index_select(2, own).index_select(3, own)
    rows = torch.zeros(side, v.shape[-1], dtype=torch.float64)
    for row_, (low, high) in zip(rows, ends, strict=True):
        row_[low:high] = 1
    rows, count = rows.to(v.device), rows.sum(1).to(v.device)
    for _ in range(2):
        v = (v @ rows.T).div_(count).add_(0.5 + 2**-30).floor_().transpose(-1, -2)
    return v


@corruption(paper=PAPER, unfit=unfit)
@tabled
def jpeg_compression(v: Tensor, draws: Draws, quality: int) -> Tensor:
    """JPEG as Pillow writes it, colours at half the size; coded on the CPU, whatever the device."""
    gray = v.shape[1] == 1
    plain = v.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    coded = np.stack([_jpeg(image[..., 0] if gray else image, int(quality)) for image in plain])
    found = torch.from_numpy(coded).to(v.device)
    return (found[:, None] if gray else found.permute(0, 3, 1, 2)).double()


def _jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """An image (H, W) or (H, W, 3) written and read."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as found:
        return np.asarray(found)
