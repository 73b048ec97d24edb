"""The active test: problems whose solution is known, on the model's own features; an attack must find one.

After Zimmermann et al. (2022, arXiv:2206.13991), written from the paper's description: the model's last layer is
replaced by one of two classes, which tells the images around x from one image at the edge of the ball.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import AttackError
from bench.evaluate import Subject, judge
from bench.exam import Part

if TYPE_CHECKING:
    from bench.draws import Draws
    from bench.recipe import Recipe
    from bench.threat import ThreatModel

INSIDE = 512  # random images of the ball on one side of the new layer
LUCK = 512  # others, which must seldom solve the problem by themselves
RIDGE = 1.0  # of the features' mean variance
LEVEL = 0.7  # between the last of the images around x and the one at the edge


@dataclass(frozen=True)
class Solved:
    """Of each image: whether a problem could be posed, whether the attack solved it, and whether luck did."""

    posed: Tensor
    found: Tensor
    lucky: Tensor
    forwards: int
    backwards: int


def active(subject: Subject, x: Tensor, threat: ThreatModel, draws: Draws, attack: Recipe, places: Tensor) -> Solved:
    """Pose a problem at each image x (n, C, H, W), and let the attack solve it; places: (n,) in the test part."""
    body = _Body(subject.module)
    posed, found, lucky = (torch.zeros(len(x), dtype=torch.bool) for _ in range(3))
    forwards = backwards = 0
    for k in range(len(x)):
        one = draws[k : k + 1]
        pose = _pose(body, x[k : k + 1], threat, one, subject.tile)
        forwards += INSIDE + 1
        if pose is None:
            continue
        posed[k] = True
        model = _Two(body, *pose)
        with torch.no_grad():
            tries = _around(x[k : k + 1], threat, one.at("luck"), LUCK)
            lucky[k] = any(bool((model(part).argmax(1) == 1).any()) for part in tries.split(subject.tile))
        forwards += LUCK
        pixels = (x[k : k + 1] * 255).round().byte().cpu().numpy()
        part = Part(pixels, np.zeros(1, np.int64))
        try:
            verdict = judge(
                replace(subject, module=model, tile=1), attack, threat, part, torch.zeros(1, dtype=torch.long),
                seed=int(places[k]), batch=1, device=x.device,
            )  # fmt: skip
        except AttackError:  # what raises in a backward solves nothing
            continue
        found[k] = bool(verdict.fell[0])
        forwards += int(verdict.forwards.sum())
        backwards += int(verdict.backwards.sum())
    return Solved(posed, found, lucky, forwards, backwards)


def _around(x: Tensor, threat: ThreatModel, draws: Draws, count: int) -> Tensor:
    """Random images of the ball of one image (1, C, H, W): (count, C, H, W)."""
    several = replace(draws, ids=torch.arange(count, device=x.device) + count * draws.ids[0])
    return threat.random(x.expand(count, *x.shape[1:]), several)


def _pose(
    body: _Body, x: Tensor, threat: ThreatModel, draws: Draws, tile: int
) -> tuple[Tensor, float] | None:  # fmt: skip
    """A plane between the features of images around x and of one at the edge of the ball; None where there is none."""
    way = threat.uphill(draws.at("edge").normal(*x.shape[1:]))
    edge = threat.project(x + float(threat.eps) * way, x)
    with torch.no_grad():
        images = torch.cat([_around(x, threat, draws.at("inside"), INSIDE), x, edge])
        features = torch.cat([body(part) for part in images.split(tile)]).double()
    inside, there = features[:-1], features[-1]
    if not features.isfinite().all():
        return None
    middle = inside.mean(0)
    spread = (inside - middle).T @ (inside - middle) / len(inside)
    ridge = RIDGE * spread.diagonal().mean() + 1e-12
    plane = torch.linalg.solve(
        spread + ridge * torch.eye(len(middle), dtype=spread.dtype, device=x.device), there - middle
    )
    plane = plane / plane.norm().clamp_min(1e-300)
    scores, score = (inside - middle) @ plane, float((there - middle) @ plane)
    last = float(scores.max())
    if not score > last + 1e-6 * abs(score):
        return None
    level = last + LEVEL * (score - last)
    return plane, float(middle @ plane) + level


class _Body(nn.Module):
    """What a model gives to its last linear layer of classes; its logits where it has none."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.base = copy.deepcopy(module)
        self.kept: list[Tensor] = []
        for layer in self.base.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(self._keep)

    def _keep(self, _layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.kept.append(given[0])

    def forward(self, x: Tensor) -> Tensor:
        """Images to features (N, F)."""
        self.kept.clear()
        logits: Tensor = self.base(x)
        features = self.kept[-1] if self.kept and self.kept[-1].ndim == 2 and len(self.kept[-1]) == len(x) else logits
        self.kept.clear()
        return features


class _Two(nn.Module):
    """Logits of two classes: this side of a plane in the features, and the other."""

    def __init__(self, body: _Body, plane: Tensor, level: float) -> None:
        super().__init__()
        self.body, self.level = body, level
        self.plane = plane

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        score = (self.body(x).double() @ self.plane - self.level).float()
        return torch.stack([-score, score], 1)
