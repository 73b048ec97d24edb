"""Draws where models look: maps, masks and perturbations of each model, and the maps over training epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.canvas import GAP, ROW, Drawing, diverging, draw, fit, heads, levels, listed, picture, side_of
from leaderboard.drawing import text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

SAID = (
    "Where a model looks to tell the class that it predicts: class activation maps (red is warm), and the masks that "
    "PART makes of them. A mask holds the pixels whose squared heat is over one standard deviation above the image's "
    "mean; there an attack has its whole budget, elsewhere a part of it. The last column is what such an attack adds, "
    "under the GradCAM mask. Over epochs: the map of each snapshot of the training."
)
CAMS = ("GradCAM", "XGradCAM", "LayerCAM")
WARM = (226, 74, 51)


def drawings(found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> list[Drawing]:
    """Maps, masks and perturbations; and over epochs where there are snapshots."""
    made = [_maps(found, arrays, classes)]
    if len(arrays["snapshot_epoch"]):
        made.append(_epochs(found, arrays, classes))
    return made


def _maps(found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> Drawing:
    """A row for each image and model: the image, three maps, three masks, and the perturbation."""
    images, warm, masks = arrays["images"], arrays["heat"], arrays["masks"].astype(bool)
    names = heads(found)
    columns = ["image", *CAMS, *(f"mask ({cam[:-3]})" for cam in CAMS), "perturbation"]
    side = side_of(images.shape[2], len(columns))
    left, cell, top = 110, max(side, 96) + GAP, 44
    high = side + ROW + GAP
    parts = [text(0, 14, "Where the models look", class_="title")]
    parts += [text(left + k * cell, top - 8, fit(name, cell), class_="head") for k, name in enumerate(columns)]
    y = float(top)
    for i, place in enumerate(found.images):
        label = classes[int(arrays["labels"][i])]
        for m, name in enumerate(names):
            read, fell = (classes[int(arrays[k][m, i])] for k in ("predicted", "attacked"))
            parts.append(text(0, y + side / 2, fit(name, left), class_="name"))
            parts.append(text(0, y + side / 2 + ROW, fit(f"reads {read}", left), class_=_style(read, label)))
            pixels = levels(images[i])
            parts.append(picture(left, y, side, pixels, f"test image {place}, {label}"))
            dull = gray(images[i])
            for k, cam in enumerate(CAMS):
                x = left + (1 + k) * cell
                parts.append(picture(x, y, side, dull))
                parts.append(picture(x, y, side, heated(warm[m, k, i]), f"{cam} of {name}"))
                x = left + (1 + len(CAMS) + k) * cell
                parts.append(picture(x, y, side, dull))
                parts.append(picture(x, y, side, shaded(masks[m, k, i]), f"{cam} mask of {name}"))
                share = float(masks[m, k, i].mean())
                parts.append(text(x, y + side + ROW - 3, f"{100 * share:.1f} % in", class_="small"))
            x = left + (len(columns) - 1) * cell
            delta = arrays["perturbations"][m, i]
            parts.append(picture(x, y, side, shown(delta, float(arrays["eps"][m])), f"perturbation for {name}"))
            parts.append(f'<rect x="{x}" y="{y:g}" width="{side}" height="{side}" class="frame"/>')
            parts.append(text(left, y + side + ROW - 3, fit(f"{place}: {label}", cell), class_="small"))
            parts.append(text(x, y + side + ROW - 3, fit(f"then {fell}", cell), class_=f"small {_style(fell, label)}"))
            y += high
        y += GAP
    caption = f"Where models look: activation maps and masks, {found.dataset}"
    return draw("", caption, _words(found, arrays, names), (left + len(columns) * cell - GAP, y), *parts)


def _style(read: str, label: str) -> str:
    return "name" if read == label else "wrong"


def _words(found: Picture, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> str:
    shares = []
    for name, masks in zip(names, arrays["masks"], strict=True):
        said = ", ".join(f"{cam} {100 * float(mask.mean()):.1f} %" for cam, mask in zip(CAMS, masks, strict=True))
        shares.append(f"{name}: {said}")
    places = listed([str(p) for p in found.images])
    return f"Test images {places}. Mean share of the pixels in the masks of {'; of '.join(shares)}."


def gray(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (C, H, W) as gray pixels, on which the colour of heat is seen."""
    found: NDArray[np.uint8] = np.rint(levels(image).mean(2, keepdims=True)).astype(np.uint8)
    return found


def heated(warm: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Heat (H, W) from 0 to 1 as pixels (H, W, 4) to lay over the image: clear where it is cold."""
    opacity = np.rint(np.clip(np.nan_to_num(warm.astype(np.float64)), 0, 1) * 215)
    colour = np.broadcast_to(np.array(WARM), (*warm.shape, 3))
    return np.concatenate([colour, opacity[:, :, None]], 2).astype(np.uint8)


def shaded(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A mask (H, W) as pixels (H, W, 4) to lay over the image: warm inside, dim outside."""
    inside, outside = np.array([*WARM, 150]), np.array([20, 22, 26, 190])
    found: NDArray[np.uint8] = np.where(mask[:, :, None], inside, outside).astype(np.uint8)
    return found


def shown(delta: NDArray[np.floating[Any]], eps: float) -> NDArray[np.uint8]:
    """A perturbation (C, H, W) as pixels, from -most to most, which is eps or the largest value where that is less."""
    values = delta.astype(np.float64)
    most = min(eps, float(np.abs(values).max())) or 1.0
    scaled = np.clip(values / most, -1, 1)
    return levels((1 + scaled) / 2) if len(values) == 3 else diverging(scaled.mean(0))


def _epochs(found: Picture, arrays: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> Drawing:
    """GradCAM of the snapshots: a row for each image and model, a column an epoch, and the model shown last."""
    names = heads(found)
    at = {
        (int(m), int(e)): s
        for s, (m, e) in enumerate(zip(arrays["snapshot_model"], arrays["snapshot_epoch"], strict=True))
    }
    epochs = sorted({e for _, e in at})
    side = min(side_of(arrays["images"].shape[2], 8), 84)
    left, cell, top, high = 110, side + GAP, 44, side + ROW + 4
    parts = [text(0, 14, "Where the models look, over training epochs (GradCAM)", class_="title")]
    for k, head in enumerate([*(f"epoch {e}" for e in epochs), "shown"]):
        parts.append(text(left + k * cell, top - 8, fit(head, cell), class_="head"))
    y = float(top)
    for i in range(len(found.images)):
        label, pixels = classes[int(arrays["labels"][i])], gray(arrays["images"][i])
        for m, name in enumerate(names):
            parts.append(text(0, y + side / 2, fit(name, left), class_="name"))
            maps = [
                *((k, arrays["snapshot_heat"][at[m, e]][0, i], arrays["snapshot_predicted"][at[m, e]][i])
                  for k, e in enumerate(epochs) if (m, e) in at),
                (len(epochs), arrays["heat"][m, 0, i], arrays["predicted"][m, i]),
            ]  # fmt: skip
            for k, warm, read in maps:
                x, said = left + k * cell, classes[int(read)]
                parts.append(picture(x, y, side, pixels))
                parts.append(picture(x, y, side, heated(warm), f"{name}, reads {said}"))
                parts.append(text(x, y + side + ROW - 4, fit(said, cell), class_=f"small {_style(said, label)}"))
            y += high
        y += GAP
    caption = f"Where models look over training epochs, {found.dataset}"
    kept = {name: [e for e in epochs if (m, e) in at] for m, name in enumerate(names)}
    said = "; ".join(f"{name}: epochs {listed(list(map(str, e)))}" for name, e in kept.items() if e)
    size = (max(left + (len(epochs) + 1) * cell, 420), y)
    return draw("epochs", caption, f"Snapshots of {said}. Under each map is what the model reads.", size, *parts)
