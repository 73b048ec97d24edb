"""Where models look: class activation maps, the masks that PART makes of them, and what a masked attack changes.

A pixel is in the mask where the square of the map is over one standard deviation above its mean in the image; there the
attack has its whole budget, elsewhere `low` of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.cam import Cam, heat, outlying, within
from bench.draws import Draws
from bench.errors import UsageError
from bench.portraits import Answer, Arrays, Row, Scene, Shown, picture
from bench.threat import ThreatModel
from bench.training import frozen

if TYPE_CHECKING:
    from bench.records import Picture

VERSION = 1
CAMS: tuple[Cam, ...] = get_args(Cam)
HEADS = ("model", "epoch", "image", "map", "label", "predicted", "mask", "mean heat", "agreement", "attacked")


@dataclass(frozen=True)
class Masked:
    """An attack whose budget is `low` of eps outside the mask: signed steps from a random start, last iterate."""

    low: float
    steps: int
    step: float  # as a share of eps

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1:
            raise UsageError(f"low={self.low}: expected a share of eps, from 0 to 1")


def masks(scene: Scene, low: float, steps: int, step: float) -> Picture:
    """The maps, masks and perturbations of the scene's models and images, and the maps of their snapshots."""
    masked = Masked(low, steps, step)
    kept = {f"{m.about.weights[:12]}:{e}": w[:12] for m in scene.models for e, w in m.snapshots.items()}
    settings = {"low": low, "steps": steps, "step": step, "snapshots": sorted(f"{k}={w}" for k, w in kept.items())}
    return picture(scene, "masks", VERSION, settings, lambda: _answer(scene, masked))


def _answer(scene: Scene, masked: Masked) -> Answer:
    x, y = scene.look(scene.images)
    seen = [_see(shown, shown.about.weights, x) for shown in scene.models]
    deltas = [_perturbed(scene, shown, x, y, maps, masked) for shown, (maps, _) in zip(scene.models, seen, strict=True)]
    later = [
        (place, epoch, *_see(shown, weights, x))
        for place, shown in enumerate(scene.models) for epoch, weights in shown.snapshots.items()
    ]  # fmt: skip
    shape = (len(CAMS), *x.shape[:1], *x.shape[2:])
    arrays: Arrays = {
        "images": scene.levels(scene.images), "labels": y.cpu().numpy(),
        "heat": np.stack([maps.numpy() for maps, _ in seen]),
        "masks": np.stack([mask_of(maps).numpy() for maps, _ in seen]).astype(np.uint8),
        "predicted": np.stack([predicted.numpy() for _, predicted in seen]),
        "perturbations": np.stack([delta.numpy() for delta, _ in deltas]),
        "attacked": np.stack([predicted.numpy() for _, predicted in deltas]),
        "eps": np.array([float(_threat(scene, shown).eps) for shown in scene.models]),
        "snapshot_model": np.array([place for place, *_ in later], np.int32),
        "snapshot_epoch": np.array([epoch for _, epoch, *_ in later], np.int32),
        "snapshot_heat": np.stack([maps.numpy() for _, _, maps, _ in later]) if later else np.zeros((0, *shape), "f4"),
        "snapshot_predicted": np.array([p.numpy() for *_, p in later], np.int64).reshape(len(later), len(x)),
    }  # fmt: skip
    rows: list[Row] = []
    first = mask_of(seen[0][0])
    for place, (shown, (maps, predicted)) in enumerate(zip(scene.models, seen, strict=True)):
        fell = deltas[place][1]
        rows += _rows(scene, shown, None, maps, predicted, first, fell)
        for where, epoch, snapshot, said in later:
            if where == place:
                rows += _rows(scene, shown, epoch, snapshot, said, first, None)
    return Answer(arrays, HEADS, rows)


def _see(shown: Shown, weights: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The maps (3, n, H, W) of a model with some weights, and the classes that it predicts (n,); an image at a time."""
    module = shown.with_weights(weights).module
    try:
        maps = [torch.cat([heat(module, one[None], cam) for one in x]) for cam in CAMS]
    except UsageError as error:
        raise UsageError(f"the net {shown.about.net} of {shown.about.short}: {error}") from None
    with torch.no_grad():
        predicted = torch.cat([module(one[None]).argmax(1) for one in x])
    return torch.stack(maps).float().cpu(), predicted.cpu()


def mask_of(maps: Tensor) -> Tensor:
    """The pixels with the whole budget, of maps (..., H, W): booleans of the same shape."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return outlying(flat.square()).view(maps.shape)


def _threat(scene: Scene, shown: Shown) -> ThreatModel:
    """What the model was trained for; of standard training the data set's own threat."""
    return ThreatModel.parse(shown.about.threat or scene.threat)


def _perturbed(
    scene: Scene, shown: Shown, x: Tensor, y: Tensor, maps: Tensor, masked: Masked
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the attack adds (n, C, H, W) within the budgets of the first map's masks, and what is read then (n,)."""
    module, threat = shown.subject.module, _threat(scene, shown)
    found, read = [], []
    for place, image, label, one in zip(scene.images, x, y, mask_of(maps[0]), strict=True):
        draws = Draws(0, torch.tensor([place], device=x.device), "masks")
        adversarial = attack(module, image[None], label[None], threat, one[None, None].to(x.device), draws, masked)
        with torch.no_grad():
            read.append(module(adversarial).argmax(1))
        found.append(adversarial - image[None])
    return torch.cat(found).float().cpu(), torch.cat(read).cpu()


def attack(
    module: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, mask: Tensor, draws: Draws, masked: Masked
) -> Tensor:  # fmt: skip
    """Adversarial images within each pixel's budget under Linf; in other norms the whole ball is allowed."""
    eps = float(threat.eps)
    size = torch.where(mask, eps, masked.low * eps).to(x.dtype)

    def back(moved: Tensor) -> Tensor:
        return within(moved, x, size) if threat.norm == "linf" else threat.project(moved, x)

    x_adv = back(threat.random(x, draws))
    with frozen(module):
        for _ in range(masked.steps):
            x_adv = x_adv.detach().requires_grad_()
            with torch.enable_grad():
                (grad,) = torch.autograd.grad(F.cross_entropy(module(x_adv), y, reduction="sum"), x_adv)
            x_adv = back(x_adv.detach() + masked.step * eps * threat.uphill(grad))
    return x_adv.detach()


def _rows(
    scene: Scene, shown: Shown, epoch: int | None, maps: Tensor, predicted: Tensor, first: Tensor, fell: Tensor | None
) -> list[Row]:  # fmt: skip
    """A line for each image and map; agreement: the mask's intersection over union with the first model's."""
    labels = scene.names(scene.dataset.test.y[list(scene.images)].tolist())
    said = scene.names(predicted.tolist())
    under = scene.names(fell.tolist()) if fell is not None else [None] * len(said)
    found: list[Row] = []
    for k, (cam, warm, mask) in enumerate(zip(CAMS, maps, mask_of(maps), strict=True)):
        for i, place in enumerate(scene.images):
            both, either = (mask[i] & first[k, i]).sum(), (mask[i] | first[k, i]).sum()
            found.append([
                shown.about.short, epoch, place, cam, labels[i], said[i], float(mask[i].float().mean()),
                float(warm[i].mean()), float(both / either) if either else None, under[i],
            ])  # fmt: skip
    return found
