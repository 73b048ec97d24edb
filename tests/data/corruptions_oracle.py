"""The corruptions once more, an image at a time with NumPy and SciPy, from their definition: what ours must equal.

Each takes an image (H, W, C) of float64 levels 0..255, the draws of that one image, and the row of the table.  What it
gives is cut to whole levels by `spoilt`.
"""

import math

import numpy as np
from scipy import fft, ndimage, stats

from data import frost as frosts
from data.corruptions_tables import row


def spoilt(name, image, severity, draws):
    """The spoilt image: uint8 (H, W, C)."""
    found = ORACLES[name](image.astype(float), draws, *row(name, len(image), severity))
    return np.clip(np.floor(found + 1e-3), 0, 255).astype(np.uint8)


def numbers(drawn):
    """The draws of one image as an array whose first axis, the channels, comes last."""
    return np.moveaxis(drawn[0].double().numpy(), 0, -1)


def channelwise(function, x, *args, **settings):
    return np.stack([function(x[..., c], *args, **settings) for c in range(x.shape[2])], 2)


def gray(x):
    return x if x.shape[2] == 1 else x @ np.array([[0.299], [0.587], [0.114]])


def painted(colour, like):
    colour = np.array(colour, float).reshape(1, 1, 3)
    return colour if like.shape[2] == 3 else gray(colour)


def gaussian_noise(x, draws, sd):
    return x + 255 * sd * numbers(draws.normal(x.shape[2], *x.shape[:2]))


def shot_noise(x, draws, counts):
    share = (numbers(draws.bits(x.shape[2], *x.shape[:2])) + 0.5) / 2**32
    return stats.poisson.ppf(share, x / 255 * counts) / counts * 255


def impulse_noise(x, draws, share):
    drawn = (numbers(draws.bits(x.shape[2], *x.shape[:2])) + 0.5) / 2**32
    return np.where(drawn < share / 2, 255, np.where(drawn < share, 0, x))


def speckle_noise(x, draws, sd):
    return x * (1 + sd * numbers(draws.normal(x.shape[2], *x.shape[:2])))


def defocus_blur(x, draws, radius, alias):
    reach, small = (8, 1) if radius <= 8 else (int(radius), 2)
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (down**2 + right**2 <= radius**2).astype(float)
    soft = np.exp(-(np.arange(-small, small + 1) ** 2) / (2 * alias**2))
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, soft / soft.sum(), axis, mode="mirror")
    # The sum of the disk before it was smoothed.
    return channelwise(ndimage.correlate, x, disk / (down**2 + right**2 <= radius**2).sum(), mode="mirror")


def blurred(x, sigma):
    return channelwise(ndimage.gaussian_filter, x, sigma, mode="nearest", truncate=4)


def glass_blur(x, draws, sigma, reach, passes):
    side, inner = len(x), len(x) - 2 * reach
    x = np.floor(blurred(x, sigma) + 1e-3)
    offsets = draws.integers(2 * reach, passes, 2, inner, inner)[0].numpy() - reach
    for down, right in offsets:
        for h in range(side - reach, reach, -1):
            for w in range(side - reach, reach, -1):
                place = h - reach - 1, w - reach - 1
                x[h, w] = x[h + down[place], w + right[place]]
    return blurred(x, sigma)


def moved(x, radius, sigma, angle):
    side, width = len(x), 2 * radius + 1
    weights = stats.norm.pdf(np.arange(width), scale=sigma)
    around = np.pad(x, ((width, width), (width, width), (0, 0)), mode="edge")
    total = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        down, right = (width + math.ceil(i * f(angle) - 0.5) for f in (math.sin, math.cos))
        total += weight * around[down : down + side, right : right + side]
    return np.floor(total + 0.5)


def angle_between(draws, low, high):
    return math.radians(low + (high - low) * float(draws.at("angle").uniform(1)))


def motion_blur(x, draws, radius, sigma):
    return moved(x, radius, sigma, angle_between(draws, -45, 45))


def zoomed(x, zoom):
    side = len(x)
    crop = math.ceil(side / zoom)
    top = (side - crop) // 2
    large = ndimage.zoom(x[top : top + crop, top : top + crop], (zoom, zoom, 1), order=1)
    trim = (len(large) - side) // 2
    return large[trim : trim + side, trim : trim + side]


def zoom_blur(x, draws, count, step):
    zooms = np.arange(count) * (1 + step / 100 - 1) + 1
    return (x + sum(zoomed(x, zoom) for zoom in zooms)) / (count + 1)


def gaussian_blur(x, draws, sigma):
    return blurred(x, sigma)


def snow(x, draws, mean, sd, zoom, least, radius, sigma, mix):
    layer = zoomed(mean + sd * numbers(draws.normal(1, *x.shape[:2])), zoom)
    layer = np.floor(255 * np.clip(np.where(layer < least, 0, layer), 0, 1))
    layer = moved(layer, radius, sigma, angle_between(draws, -135, -45))
    white = np.maximum(x, 1.5 * gray(x) + 127.5)
    return mix * x + (1 - mix) * white + layer + np.rot90(layer, 2)


def frost(x, draws, image, ice, size):
    from PIL import Image

    side = len(x)
    which = int(draws.at("picture").integers(5, 1))
    picture = np.array(Image.open(frosts.places()[which]).convert("RGB")).astype(float)
    share = max(size, (side + 1) / min(picture.shape[:2]))
    shape = [round(length * share) for length in picture.shape[:2]]
    at = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / share - 0.5 for n in shape), indexing="ij"))
    small = np.floor(channelwise(ndimage.map_coordinates, picture, at, order=1, mode="nearest") + 0.5)
    # One call for both numbers, each below the room on its axis.
    drawn = draws.at("crop").bits(2)[0].numpy()
    top, left = (int(d) * (n - side) // 2**32 for d, n in zip(drawn, shape, strict=True))
    layer = small[top : top + side, left : left + side]
    return image * x + ice * (layer if x.shape[2] == 3 else gray(layer))


def clouds(side, decay, drawn):
    """Diamond-square on a torus, cell by cell; the draws are used level by level: middles, then sides."""
    height, step, wobble = np.zeros((side, side)), side, 100.0
    drawn = iter(drawn)
    while step >= 2:
        half = step // 2

        def mean(places, wobble=wobble):
            return sum(height[i % side, j % side] for i, j in places) / 4 + wobble * wobble * next(drawn)

        for i in range(0, side, step):
            for j in range(0, side, step):
                height[i + half, j + half] = mean([(i, j), (i + step, j), (i, j + step), (i + step, j + step)])
        for first, second in ((0, half), (half, 0)):
            for i in range(first, side, step):
                for j in range(second, side, step):
                    height[i, j] = mean([(i - half, j), (i + half, j), (i, j - half), (i, j + half)])
        step, wobble = half, wobble / decay
    height -= height.min()
    return height / height.max()


def fog(x, draws, amount, decay):
    side = len(x)
    square = 1 << (side - 1).bit_length()
    drawn = 2 * draws.uniform(square, square)[0].double().numpy().ravel() - 1
    layer = clouds(square, decay, drawn.tolist())[:side, :side, None]
    return (x + 255 * amount * layer) * x.max() / (x.max() + 255 * amount)


def to_hsv(rgb):
    value, spread = rgb.max(2), np.ptp(rgb, axis=2)
    saturation = np.divide(spread, value, out=np.zeros_like(value), where=value > 0)
    safe = np.where(spread > 0, spread, 1)
    r, g, b = np.moveaxis(rgb, 2, 0)
    hue = np.select([r == value, g == value], [(g - b) / safe, 2 + (b - r) / safe], 4 + (r - g) / safe)
    return np.where(spread > 0, hue / 6 % 1, 0), saturation, value


def to_rgb(hue, saturation, value):
    sector, part = np.divmod(hue * 6, 1)
    p, q, t = (value * (1 - saturation * f) for f in (1, part, 1 - part))
    which = [sector % 6 == k for k in range(6)]
    of = [(value, t, p), (q, value, p), (p, value, t), (p, q, value), (t, p, value), (value, p, q)]
    return np.stack([np.select(which, [colour[c] for colour in of]) for c in range(3)], 2)


def through_hsv(x, change):
    rgb = np.repeat(x, 3, 2) if x.shape[2] == 1 else x
    found = to_rgb(*change(*to_hsv(rgb / 255))) * 255
    return found if x.shape[2] == 3 else gray(found)


def brightness(x, draws, more):
    return through_hsv(x, lambda h, s, v: (h, s, np.clip(v + more, 0, 1)))


def saturate(x, draws, factor, more):
    return through_hsv(x, lambda h, s, v: (h, np.clip(s * factor + more, 0, 1), v))


def contrast(x, draws, factor):
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * factor + mean


def canny(x, low, high):
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    across, down = (ndimage.correlate(x, kernel, mode="nearest") for kernel in (sobel, sobel.T))
    size = np.pad(abs(across) + abs(down), 1)
    weak = np.zeros(x.shape, bool)
    for i, j in np.argwhere(size[1:-1, 1:-1] > low):
        dx, dy, here = across[i, j], down[i, j], size[i + 1, j + 1]
        angle = math.degrees(math.atan2(abs(dy), abs(dx)))
        if angle < 22.5:
            before, after, strict = size[i + 1, j], size[i + 1, j + 2], False
        elif angle > 67.5:
            before, after, strict = size[i, j + 1], size[i + 2, j + 1], False
        else:
            sign = -1 if (dx < 0) != (dy < 0) else 1
            before, after, strict = size[i, j + 1 - sign], size[i + 2, j + 1 + sign], True
        weak[i, j] = here > before and (here > after if strict else here >= after)
    together, _ = ndimage.label(weak, np.ones((3, 3)))
    return weak & np.isin(together, np.unique(together[weak & (size[1:-1, 1:-1] > high)]))


def chamfer(edges):
    """The length of the shortest way to an edge in straight, diagonal and knight's steps, at most 20."""
    one, diagonal, knight = 1, 91750 / 65536, 143976 / 65536
    near = np.full(edges.shape, 20.0)
    for i, j in np.argwhere(edges):
        far, less = (f(abs(np.arange(len(edges))[:, None] - i), abs(np.arange(len(edges))[None] - j))
                     for f in (np.maximum, np.minimum))  # fmt: skip
        flat = one * (far - 2 * less) + knight * less
        steep = diagonal * (2 * less - far) + knight * (far - less)
        near = np.minimum(near, np.where(far >= 2 * less, flat, steep))
    return near


def equalized(x):
    counts = np.bincount(x.ravel(), minlength=256)
    least = x.min()
    if counts[least] == x.size:
        return x
    scale = np.float32(255) / np.float32(x.size - counts[least])
    return np.rint((np.cumsum(counts) - counts[least]).astype(np.float32) * scale).astype(int).clip(0)[x]


def spatter(x, draws, mean, sd, sigma, least, strength, mud):
    liquid = ndimage.gaussian_filter(
        mean + sd * numbers(draws.normal(1, *x.shape[:2]))[..., 0], sigma, mode="nearest", truncate=4
    )
    if mud:
        cover = ndimage.gaussian_filter((liquid > least).astype(float), strength, mode="nearest", truncate=4)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return x * (1 - cover) + cover * painted((63, 42, 20), x)
    height = np.floor(np.where(liquid < least, 0, liquid) * 255).astype(int) % 256
    near = np.floor(ndimage.uniform_filter(chamfer(canny(height, 50, 150)), 3, mode="mirror") + 1e-9).astype(int)
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = ndimage.correlate(equalized(near), relief, mode="mirror").clip(0, 255)
    light = height * np.rint(ndimage.uniform_filter(lit.astype(float), 3, mode="mirror"))
    return x + painted((175, 238, 238), x) * (light / max(light.max(), 1) * strength)[..., None]


def elastic_transform(x, draws, amount, sigma, shift):
    side = len(x)
    half, third = side // 2, side // 3
    corners = np.array([[half + third, half + third], [half + third, half - third], [half - third, half - third]])
    ends = corners + (2 * draws.at("corners").uniform(3, 2)[0].double().numpy() - 1) * shift * side
    down, right = np.mgrid[:side, :side]
    back = np.linalg.solve(np.c_[ends, np.ones(3)], corners)  # (right, down, 1) @ back is where it was
    was_right, was_down = np.moveaxis(np.stack([right, down, np.ones_like(down)], 2) @ back, 2, 0)
    x = channelwise(ndimage.map_coordinates, x, [was_down, was_right], order=1, mode="mirror")
    field = 2 * draws.at("field").uniform(2, side, side)[0].double().numpy() - 1
    by = [ndimage.gaussian_filter(f, sigma * side, mode="reflect", truncate=3) * amount * side for f in field]
    return channelwise(ndimage.map_coordinates, x, [down + by[1], right + by[0]], order=1, mode="reflect")


def pixelate(x, draws, size):
    side = len(x)
    for length in (int(side * size), side):
        scale = len(x) / length
        middles = np.arange(len(x)) + 0.5
        for axis in (1, 0):  # along the rows first, rounded, as Pillow does
            new, reach = (np.arange(length) + 0.5) * scale, max(scale, 1) / 2
            windows = [(middles > low) & (middles <= high) for low, high in zip(new - reach, new + reach, strict=True)]
            means = [np.compress(window, x, axis).mean(axis) for window in windows]
            x = np.floor(np.stack(means, axis) + 0.5 + 1e-9)
    return x


LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMINANCE = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66" + " 99" * 38


def coded(plane, base, quality):
    """One plane through the cosine transform of 8 x 8 blocks, rounded to multiples of the table, and back."""
    table = np.array(base.split(), float).reshape(8, 8)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = np.clip((table * scale + 50) // 100, 1, 255)
    h, w = plane.shape
    blocks = (plane - 128).reshape(h // 8, 8, w // 8, 8).swapaxes(1, 2)
    kept = np.rint(fft.dctn(blocks, axes=(2, 3), norm="ortho") / table) * table
    blocks = np.rint(fft.idctn(kept, axes=(2, 3), norm="ortho")) + 128
    return np.clip(blocks, 0, 255).swapaxes(1, 2).reshape(h, w)


def doubled(plane):
    """Twice the size: three quarters of the nearer pixel and one of the next, along both axes."""
    for axis in (0, 1):
        around = np.pad(plane, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        before, after = (np.take(around, range(k, k + plane.shape[axis]), axis) for k in (0, 2))
        pair = np.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis + 1)
        plane = pair.reshape([n * 2 if a == axis else n for a, n in enumerate(plane.shape)])
    return plane


def jpeg_compression(x, draws, quality):
    side, grid = len(x), 8 if x.shape[2] == 1 else 16
    x = np.pad(x, ((0, -side % grid), (0, -side % grid), (0, 0)), mode="edge")
    if x.shape[2] == 1:
        return coded(x[..., 0], LUMINANCE, quality)[:side, :side, None]
    luma = np.rint(gray(x)[..., 0])
    planes = [np.rint((x[..., c] - gray(x)[..., 0]) * f + 128) for c, f in ((2, 0.5 / 0.886), (0, 0.5 / 0.701))]
    bias = np.tile([0.25, 0.5], len(x) // 4)[: len(x) // 2]
    small = [np.floor(p.reshape(len(x) // 2, 2, -1, 2).mean((1, 3)) + bias) for p in planes]
    y = coded(luma, LUMINANCE, quality)
    blue, red = (np.floor(doubled(coded(p, CHROMINANCE, quality)) + 0.5) - 128 for p in small)
    rgb = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]
    return np.rint(np.stack(rgb, 2))[:side, :side]


ORACLES = {
    f.__name__: f
    for f in (
        gaussian_noise, shot_noise, impulse_noise, speckle_noise, defocus_blur, glass_blur, motion_blur, zoom_blur,
        gaussian_blur, snow, frost, fog, brightness, saturate, contrast, spatter, elastic_transform, pixelate,
        jpeg_compression,
    )
}  # fmt: skip
