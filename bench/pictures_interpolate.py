"""The way from an image to its large adversarial example, and that example over the epochs of a training.

Frames lie on the straight line x + t d, t uniform from 0 to the length of the perturbation, clipped to [0, 1] (Tsipras
et al., 2019).  Kept beside them: the same distances along the first gradient alone, and every iterate of the ascent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.errors import UsageError
from bench.pictures_gradients import cross_entropy
from bench.pictures_large_eps import ascend, probabilities, rule, usual
from bench.portraits import Answer, Arrays, Row, Scene, Shown, picture, victim
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from bench.records import Picture
    from bench.victim import Victim

VERSION = 1


def interpolate(scene: Scene, eps: str, frames: int, *, epochs: bool) -> Picture:
    """The way of the scene's one image, for each model; with `epochs` also its example under each snapshot."""
    threat = ThreatModel.parse(eps or usual(scene.dataset.shape)[0])
    if threat.norm not in {"linf", "l2"}:
        raise UsageError(f"--eps {threat}: expected an Linf or an L2 radius (l2:4)")
    if epochs:
        for model in scene.models:
            if not model.snapshots:
                raise UsageError(
                    f"--epochs: the training of {model.about.label} kept no snapshots; train it with snapshots=1, "
                    "which keeps the weights of every epoch"
                )
    steps, share = rule(threat, scene.dataset.shape)
    settings = {"threat": str(threat), "frames": frames, "steps": steps, "step": share, "epochs": epochs}
    return picture(scene, "interpolate", VERSION, settings, lambda: _answer(scene, threat, frames, epochs=epochs))


def _answer(scene: Scene, threat: ThreatModel, frames: int, *, epochs: bool) -> Answer:
    ways = [_way(scene, model, threat, frames) for model in scene.models]
    arrays: Arrays = {"images": scene.levels(scene.images), "labels": scene.dataset.test.y[list(scene.images)]}
    arrays |= {name: np.stack([way[name] for way in ways]) for name in ways[0]}
    label = int(arrays["labels"][0])
    rows: list[Row] = []
    for model, way in zip(scene.models, ways, strict=True):
        for frame, (at, shares) in enumerate(zip(way["distance"], way["probability"], strict=True)):
            rows.append(_row(scene, model, f"frame {frame + 1}", float(at), shares, label))
    if epochs:
        for place, model in enumerate(scene.models):
            over = _over_epochs(scene, model, threat)
            arrays |= {f"{name}_{place}": values for name, values in over.items()}
            for epoch, at, shares in zip(over["epoch"], over["epoch_distance"], over["epoch_probability"], strict=True):
                rows.append(_row(scene, model, f"epoch {epoch}", float(at), shares, label))
    heads = ["model", "where", "distance", "predicted", "its probability", "probability of the label"]
    return Answer(arrays, heads, rows)


def _row(scene: Scene, model: Shown, where: str, distance: float, shares: np.ndarray, label: int) -> Row:
    top = int(shares.argmax())
    return [model.about.short, where, distance, scene.names([top])[0], float(shares[top]), float(shares[label])]


def _way(scene: Scene, model: Shown, threat: ThreatModel, frames: int) -> Arrays:
    """A model's frames, and what it says of each; all images but the last as levels."""
    x, y = scene.look(scene.images)
    asked = model.victim
    iterates = ascend(asked, x, y, threat, *rule(threat, scene.dataset.shape))
    x_adv = iterates[-1]
    path, distance = line(x, x_adv, frames)
    _, _, grad = asked.gradient(x, y, cross_entropy)
    first = (x + float(threat.eps) * _shares(frames, x) * threat.uphill(grad)).clamp(0, 1)
    trajectory = torch.cat(iterates)
    return {
        "adversarial": x_adv[0].cpu().numpy(), "frames": _levels(path), "distance": distance.cpu().numpy(),
        "probability": _floats(asked, path),
        "single": _levels(first), "single_probability": _floats(asked, first),
        "trajectory": _levels(trajectory), "trajectory_probability": _floats(asked, trajectory),
    }  # fmt: skip


def line(x: Tensor, x_adv: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Images on the line between two (1, C, H, W), both ends among them: (F, C, H, W); and their L2 distances (F,)."""
    length = (x_adv.double() - x.double()).square().sum().sqrt()
    direction = (x_adv.double() - x.double()) / length.clamp_min(1e-12)
    at = length * torch.linspace(0, 1, frames, dtype=torch.double, device=x.device)
    return (x.double() + at.view(-1, 1, 1, 1) * direction).clamp(0, 1).float(), at


def _shares(frames: int, x: Tensor) -> Tensor:
    return torch.linspace(0, 1, frames, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)


def _over_epochs(scene: Scene, model: Shown, threat: ThreatModel) -> Arrays:
    """The image's example under each snapshot of the model's training."""
    x, y = scene.look(scene.images)
    found, shares = [], []
    for weights in model.snapshots.values():
        asked = victim(model.with_weights(weights))
        x_adv = ascend(asked, x, y, threat, *rule(threat, scene.dataset.shape))[-1]
        found.append(x_adv)
        shares.append(_floats(asked, x_adv))
    sizes = threat.size(torch.cat(found).double() - x.double())
    return {
        "epoch": np.array(list(model.snapshots), np.int64), "epoch_examples": torch.cat(found).cpu().numpy(),
        "epoch_distance": sizes.cpu().numpy(), "epoch_probability": np.concatenate(shares),
    }  # fmt: skip


def _floats(asked: Victim, x: Tensor) -> np.ndarray:
    return probabilities(asked, x).float().numpy()


def _levels(x: Tensor) -> np.ndarray:
    return (x * 255).round().to(torch.uint8).cpu().numpy()
