"""Adversarial images of a size that people see (Tsipras et al., 2019, figure 3): what a model takes for another class.

The rules are those of the paper's code: ascent on the cross-entropy with the true label from the image itself, the
last iterate, each step clipped to [0, 1] and then brought back into the ball.  On ImageNet 40 steps of 1.5 at an L2
radius of 40, and 120 steps of 0.003 at a Linf radius of 0.25; elsewhere 40 steps of the same share of the radius as
the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.errors import UsageError
from bench.pictures_gradients import cross_entropy
from bench.portraits import Answer, Arrays, Row, Scene, Shown, picture
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from bench.exam import Shape
    from bench.records import Picture
    from bench.victim import Victim

VERSION = 1
LARGE = 224  # pixels of a side, from which on ImageNet's rules hold
STEPS, SHARE = 40, 0.0375  # and how long each step is, of the radius
IMAGENET_LINF = 120, 0.012  # likewise


def large_eps(scene: Scene, threats: Sequence[str]) -> Picture:
    """The scene's images, and each model's examples of them under each threat; without any those of the paper."""
    found = [ThreatModel.parse(text) for text in threats or usual(scene.dataset.shape)]
    for threat in found:
        if threat.norm not in {"linf", "l2"}:
            raise UsageError(f"--eps {threat}: expected an Linf or an L2 radius (l2:4)")
    settings = {
        "threats": [str(t) for t in found],
        "steps": [rule(t, scene.dataset.shape)[0] for t in found],
        "step": [rule(t, scene.dataset.shape)[1] for t in found],
    }
    return picture(scene, "large-eps", VERSION, settings, lambda: _answer(scene, found))


def usual(shape: Shape) -> tuple[str, str]:
    """The paper's radii, by the kind of images: as of MNIST, CIFAR-10 or ImageNet, in L2 scaled with their side."""
    if shape.size >= LARGE:
        return f"l2:{round(40 * shape.size / 224, 2):g}", "linf:0.25"
    if shape.channels == 1:
        return f"l2:{round(4 * shape.size / 28, 2):g}", "linf:0.3"
    return f"l2:{round(4.7 * shape.size / 32, 2):g}", "linf:0.125"


def rule(threat: ThreatModel, shape: Shape) -> tuple[int, float]:
    """How many steps, and how long each is as a share of the radius."""
    return IMAGENET_LINF if threat.norm == "linf" and shape.size >= LARGE else (STEPS, SHARE)


def ascend(model: Victim, x: Tensor, y: Tensor, threat: ThreatModel, steps: int, share: float) -> list[Tensor]:
    """Every iterate of the ascent, x first: steps + 1 of (N, C, H, W)."""
    path = [x]
    for _ in range(steps):
        _, _, grad = model.gradient(path[-1], y, cross_entropy)
        moved = path[-1] + share * float(threat.eps) * threat.uphill(grad)
        path.append(threat.project(moved.clamp(0, 1), x))
    return path


def _answer(scene: Scene, threats: Sequence[ThreatModel]) -> Answer:
    places = list(scene.images)
    y = scene.dataset.test.y[places]
    arrays: Arrays = {"images": scene.levels(places), "labels": y}
    before = [probabilities(model.victim, scene.look(places)[0]) for model in scene.models]
    arrays["predicted"] = np.stack([probability.argmax(1).numpy() for probability in before])
    rows: list[Row] = []
    parts: dict[str, list[np.ndarray]] = {"adversarial": [], "taken_for": [], "probability": [], "size": []}
    for threat in threats:
        found = [_examples(scene, model, threat) for model in scene.models]
        for name, index in (("adversarial", 0), ("taken_for", 1), ("probability", 2), ("size", 3)):
            parts[name].append(np.stack([values[index] for values in found]))
        for i, place in enumerate(places):
            for model, was, (_, taken, probability, size) in zip(scene.models, before, found, strict=True):
                label, first, last = scene.names([int(y[i]), int(was[i].argmax()), int(taken[i])])
                at = float(probability[i]), float(was[i][int(y[i])]), float(size[i])
                rows.append([str(place), label, str(threat), model.about.short, first, last, *at])
    heads = [
        "image", "label", "radius", "model", "predicted before", "predicted after", "its probability",
        "probability of the label before", "distance",
    ]  # fmt: skip
    return Answer({**arrays, **{name: np.stack(values) for name, values in parts.items()}}, heads, rows)


def _examples(scene: Scene, model: Shown, threat: ThreatModel) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The examples (n, C, H, W), what they are taken for, with what probability, and how far they are."""
    x, y = scene.look(scene.images)
    steps, share = rule(threat, scene.dataset.shape)
    x_adv = ascend(model.victim, x, y, threat, steps, share)[-1]
    probability, taken = probabilities(model.victim, x_adv).max(1)
    size = threat.size(x_adv.double() - x.double())
    return x_adv.cpu().numpy(), taken.numpy(), probability.float().numpy(), size.float().cpu().numpy()


def probabilities(model: Victim, x: Tensor) -> Tensor:
    """The softmax of a model's logits: (n, K) float64."""
    with torch.no_grad():
        return model(x).double().softmax(1).cpu()
