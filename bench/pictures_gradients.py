"""Gradients of the loss by the pixels: what a model looks at (Tsipras et al., 2019, figure 2).

The loss is the cross-entropy with the true label, the model is in eval mode, and nothing is done to the image before.
Two numbers tell how such a gradient looks, both the same if it is scaled:

- total variation: the sum of the differences between neighbours, across and down, over the sum of absolute values;
  for independent normal values it is near 2 sqrt 2, for large smooth areas near 0;
- edge alignment: the cosine between how strong the gradient is at each pixel and how strong an edge the image has
  there (Sobel's operator on the mean over channels).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import UsageError
from bench.portraits import Answer, Arrays, Row, Scene, Shown, picture
from bench.threat import per_image_sum

if TYPE_CHECKING:
    from bench.records import Picture

VERSION = 1
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
BATCH = 512


def gradients(scene: Scene, n: int) -> Picture:
    """The gradients of the scene's images, and both numbers of these and of the first n test images."""
    if not 1 <= n <= len(scene.dataset.test):
        raise UsageError(f"-n {n}: {scene.dataset.name} has {len(scene.dataset.test)} test images")
    return picture(scene, "gradients", VERSION, {"n": n}, lambda: _answer(scene, n))


def _answer(scene: Scene, n: int) -> Answer:
    shown = list(scene.images)
    first = [_numbers(scene, model, range(n)) for model in scene.models]
    looks = [_look(scene, model, shown) for model in scene.models]
    arrays: Arrays = {
        "images": scene.levels(shown), "labels": scene.dataset.test.y[shown],
        "gradients": np.stack([grad.numpy() for grad, _ in looks]),
        "predicted": np.stack([predicted.numpy() for _, predicted in looks]),
        "variation": np.stack([v for v, _ in first]), "alignment": np.stack([a for _, a in first]),
    }  # fmt: skip
    x, _ = scene.look(shown)
    rows: list[Row] = []
    for model, (grad, predicted) in zip(scene.models, looks, strict=True):
        figures = zip(
            *(f.tolist() for f in (total_variation(grad), alignment(grad, x.cpu()), sigma(grad))), strict=True
        )
        named = zip(scene.names(scene.dataset.test.y[shown].tolist()), scene.names(predicted.tolist()), strict=True)
        for place, (label, said), numbers in zip(shown, named, figures, strict=True):
            rows.append([model.about.short, str(place), label, said, *numbers])
    for model, (variation, aligned) in zip(scene.models, first, strict=True):
        means = [float(np.nanmean(v)) if np.isfinite(v).any() else None for v in (variation, aligned)]
        rows.append([model.about.short, f"mean of the first {n}", "", "", *means, None])
    heads = ["model", "image", "label", "predicted", "total variation", "edge alignment", "sigma"]
    return Answer(arrays, heads, rows)


def _look(scene: Scene, model: Shown, places: list[int]) -> tuple[Tensor, Tensor]:
    """The gradients (n, C, H, W) and predicted classes (n,)."""
    x, y = scene.look(places)
    logits, _, grad = model.victim.gradient(x, y, cross_entropy)
    return grad.cpu(), logits.argmax(1).cpu()


def _numbers(scene: Scene, model: Shown, places: range) -> tuple[np.ndarray, np.ndarray]:
    """Total variation and edge alignment of images, a batch at a time: (n,) each, NaN where the gradient is zero."""
    found = []
    for start in range(0, len(places), BATCH):
        part = list(places[start : start + BATCH])
        grad, _ = _look(scene, model, part)
        found.append(torch.stack([total_variation(grad), alignment(grad, scene.look(part)[0].cpu())]))
    variation, aligned = torch.cat(found, 1).numpy()
    return variation, aligned


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The loss of each image: (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def sigma(grad: Tensor) -> Tensor:
    """The standard deviation of all entries of each gradient: (N,)."""
    return grad.double().flatten(1).std(1, correction=0)


def total_variation(grad: Tensor) -> Tensor:
    """Of each gradient (N, C, H, W), over the sum of its absolute values: (N,) float64, NaN of a zero one."""
    values = grad.double()
    across = per_image_sum((values[..., 1:] - values[..., :-1]).abs())
    down = per_image_sum((values[..., 1:, :] - values[..., :-1, :]).abs())
    return (across + down) / per_image_sum(values.abs())


def edges(x: Tensor) -> Tensor:
    """How strong an edge each pixel lies on: Sobel's operator on the mean over channels, (N, H, W) float64."""
    gray = F.pad(x.double().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor(SOBEL, dtype=torch.double)[None, None]
    both = F.conv2d(gray, torch.cat([across, across.transpose(2, 3)]))
    return both.square().sum(1).sqrt()


def alignment(grad: Tensor, x: Tensor) -> Tensor:
    """The cosine between the strength of each gradient, its L2 norm over channels, and the image's edges: (N,)."""
    strength = grad.double().square().sum(1).sqrt()
    strength = strength / strength.flatten(1).amax(1)[:, None, None]  # so that no square of it underflows
    edge = edges(x)
    sizes = per_image_sum(strength.square()).sqrt() * per_image_sum(edge.square()).sqrt()
    return per_image_sum(strength * edge) / sizes
