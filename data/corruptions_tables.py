"""What each severity of a corruption means: the published tables, for images of 32, 64 and 224 pixels.

32: how CIFAR-10-C was made, 64: Tiny-ImageNet-C, 224: ImageNet-C, all by Hendrycks and Dietterich (arXiv:1903.12261)
in their code (hendrycks/robustness).  Where one number stands for a row, the corruption has one setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Row = tuple[float, ...]

LEAST = 28  # pixels a side: of the smallest images that the first table is used for
SIDES = (32, 64, 224)
MAIN = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

# Standard deviation.
_GAUSSIAN = {
    32: (0.04, 0.06, 0.08, 0.09, 0.10),
    64: (0.04, 0.08, 0.12, 0.15, 0.18),
    224: (0.08, 0.12, 0.18, 0.26, 0.38),
}
# Counts of a white pixel.
_SHOT = {32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30, 15), 224: (60, 25, 12, 5, 3)}
# Share of the values.
_IMPULSE = {32: (0.01, 0.02, 0.03, 0.05, 0.07), 64: (0.01, 0.02, 0.05, 0.08, 0.14), 224: (0.03, 0.06, 0.09, 0.17, 0.27)}
# Standard deviation, of the value.
_SPECKLE = {32: (0.06, 0.1, 0.12, 0.16, 0.2), 64: (0.15, 0.2, 0.25, 0.3, 0.35), 224: (0.15, 0.2, 0.35, 0.45, 0.6)}
# Sigma in pixels.
_BLUR = {32: (0.4, 0.6, 0.7, 0.8, 1), 64: (0.5, 0.75, 1, 1.25, 1.5), 224: (1, 2, 3, 4, 6)}
# Sigma of the blurs before and after, largest offset, passes.
_GLASS = {
    32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}
# Radius of the disk, sigma of the blur that smooths its edge.
_DEFOCUS = {
    32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}
# Radius, sigma.
_MOTION = {
    32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}
# How many zooms from 1, the step between them in hundredths.  The original makes them by a float range whose end,
# by rounding, is sometimes in it; these are the counts that it comes to.
_ZOOM = {
    32: ((7, 1), (12, 1), (16, 1), (21, 1), (26, 1)),
    64: ((7, 1), (12, 1), (16, 1), (21, 1), (26, 1)),
    224: ((12, 1), (16, 1), (11, 2), (13, 2), (11, 3)),
}
# Mean and standard deviation of the layer, its zoom, threshold, radius and sigma of its motion, share of the image.
_SNOW = {
    32: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    64: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8), (0.1, 0.2, 1, 0.5, 10, 4, 0.8), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    224: (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
}  # fmt: skip
# Share of the image, share of the frost, size of the frost picture.
_FROST = {
    32: ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    64: ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
    224: ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
}
# Amount, decay of the roughness from one scale to the next.
_FOG = {
    32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}
# Added to the value of HSV.
_BRIGHT = {32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: (0.1, 0.2, 0.3, 0.4, 0.5), 224: (0.1, 0.2, 0.3, 0.4, 0.5)}
# Factor and summand of the saturation of HSV.
_SATURATE = {
    32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}
# Factor about the mean of each channel.
_CONTRAST = {32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: (0.4, 0.3, 0.2, 0.1, 0.05), 224: (0.4, 0.3, 0.2, 0.1, 0.05)}
# Mean, standard deviation and sigma of the liquid, its threshold, strength (of mud: sigma of its edge), whether mud.
_SPATTER = {
    32: (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    64: (
        (0.62, 0.1, 0.7, 0.7, 0.6, 0), (0.65, 0.1, 0.8, 0.7, 0.6, 0), (0.65, 0.3, 1, 0.69, 0.6, 0),
        (0.65, 0.1, 0.7, 0.68, 0.6, 1), (0.65, 0.1, 0.5, 0.67, 0.6, 1),
    ),
    224: (
        (0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1), (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
}  # fmt: skip
# Quality.
_JPEG = {32: (80, 65, 58, 50, 40), 64: (65, 58, 50, 40, 25), 224: (25, 18, 15, 10, 7)}
# Size of the small image.
_PIXELATE = {32: (0.95, 0.9, 0.85, 0.75, 0.65), 64: (0.9, 0.8, 0.7, 0.6, 0.5), 224: (0.6, 0.5, 0.4, 0.3, 0.25)}
# Displacement, its sigma, shift of the corners, all in sides.  The original's images of 224 were taken for 244.
_ELASTIC = {
    32: ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    64: ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    224: tuple(
        tuple(share * 244 / 224 for share in shares)
        for shares in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ),
}

TABLES: Mapping[str, Mapping[int, Sequence[float | Row]]] = {
    "gaussian_noise": _GAUSSIAN, "shot_noise": _SHOT, "impulse_noise": _IMPULSE, "speckle_noise": _SPECKLE,
    "defocus_blur": _DEFOCUS, "glass_blur": _GLASS, "motion_blur": _MOTION, "zoom_blur": _ZOOM, "gaussian_blur": _BLUR,
    "snow": _SNOW, "frost": _FROST, "fog": _FOG, "brightness": _BRIGHT, "spatter": _SPATTER,
    "contrast": _CONTRAST, "elastic_transform": _ELASTIC, "pixelate": _PIXELATE, "jpeg_compression": _JPEG,
    "saturate": _SATURATE,
}  # fmt: skip


def row(name: str, side: int, severity: int) -> Row:
    """The settings of a corruption at a severity from 1 to 5, from the table whose side is nearest in ratio."""
    nearest = min(SIDES, key=lambda s: max(s, side) / min(s, side))
    found = TABLES[name][nearest][severity - 1]
    return found if isinstance(found, tuple) else (found,)
