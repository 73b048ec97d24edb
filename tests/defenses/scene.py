"""What tests of defenses share: a small net in float64, a batch, jobs, and everything a defense computes, naively."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import Batch, Course, Defense, Draws, Part, Shape, ThreatModel, TrainJob

THREAT = ThreatModel.parse("linf:8/255")
EPS = 8 / 255
CLASSES = 4


def net() -> nn.Module:
    """A convolution, batch statistics that are not those of its images, and a linear layer: float64."""
    made = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, CLASSES)
    ).double()  # fmt: skip
    made[1].running_mean.add_(torch.linspace(-0.3, 0.3, 6))  # type: ignore[operator, union-attr]
    made[1].running_var.mul_(0.4)  # type: ignore[operator, union-attr]
    with torch.no_grad():
        made[4].weight.mul_(4)  # type: ignore[operator, union-attr]
    return made


def small() -> nn.Module:
    """The same in float32, as trainings need it."""
    return net().float()


def feed(n: int = 8, epoch: int = 1, seed: int = 1) -> Batch:
    """Random images with random labels, float64."""
    made = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 8, 8, generator=made).double()
    x[:, :, 0] = x[:, :, 0].round()  # some pixels at the border of [0, 1]
    y = torch.randint(CLASSES, (n,), generator=made)
    return Batch(x, y, Draws(0, torch.arange(n), "train", restart=1), epoch, epoch - 1.0)


def stopping(job: TrainJob, epochs: int) -> TrainJob:
    """The same job, interrupted after so many epochs."""

    def stop(history: list[dict[str, Any]]) -> None:
        if len(history) == epochs:
            raise KeyboardInterrupt

    job.log = stop
    return job


def job(
    folder: Path, build: Callable[[], nn.Module] = net, *, images: int = 48, threat: ThreatModel = THREAT, **more: Any
) -> TrainJob:
    """Images of four brightnesses, for training and validation."""
    rng = np.random.default_rng(0)
    y = np.arange(images) % CLASSES
    x = rng.integers(0, 60, (images, 1, 8, 8)) + (y * 60)[:, None, None, None]
    part = Part(x.astype(np.uint8), y.astype(np.int64))
    return TrainJob(
        train=part, val=part, shape=Shape(CLASSES, 1, 8), build=build, threat=threat, seed=0,
        device=torch.device("cpu"), scratch=folder, report=lambda _line: None,
        build_other=lambda _recipe: build(), **more,
    )  # fmt: skip


@dataclass
class Caught:
    """What a defense handed to the training loop."""

    job: TrainJob
    model: nn.Module
    loss: Callable[[nn.Module, Batch], Tensor]
    course: Course
    hooks: dict[str, Any]

    def gradients(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """The loss of a batch in training mode, and its gradient by every weight."""
        self.model.train()
        return graded(self.loss(self.model, batch), self.model)

    def step(self, batch: Batch, lr: float = 0.0) -> None:
        """One step of plain gradient descent, with the hook after it."""
        self.model.train()
        self.loss(self.model, batch).backward()
        with torch.no_grad():
            for p in self.model.parameters():
                p.sub_(lr * p.grad)
        self.hooks.get("after_step", lambda *_: None)(self.model, batch)


def catch(
    monkeypatch: pytest.MonkeyPatch, defense: Defense, here: TrainJob, settings: Mapping[str, Any] | None = None
) -> Caught:
    """Run a defense as far as its (last) call of fit."""
    caught: list[Caught] = []

    def fit(
        of: TrainJob, model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], course: Course, **hooks: Any
    ) -> nn.Module:
        caught.append(Caught(of, model, loss, course, hooks))
        return model

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[defense.function.__module__], "fit", fit)
        defense(here, **(settings or {}))
    return caught[-1]


def graded(value: Tensor, model: nn.Module) -> tuple[Tensor, list[Tensor]]:
    """A loss and its gradient by every weight; zeros where there is none."""
    grads = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return value.detach(), [
        torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), grads, strict=True)
    ]


def alike(one: tuple[Tensor, list[Tensor]], two: tuple[Tensor, list[Tensor]], rtol: float = 1e-6) -> None:
    """Equal losses and equal gradients, relative to their size; and the gradients are not all zero."""
    torch.testing.assert_close(one[0], two[0], rtol=rtol, atol=1e-12)
    scale = max(float(g.abs().max()) for g in two[1])
    assert scale > 1e-6
    for a, b in zip(one[1], two[1], strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * scale)


# The formulas, written down again from the papers.


def softmax(z: Tensor) -> Tensor:
    """Exponentials over their sum."""
    return z.exp() / z.exp().sum(1, keepdim=True)


def ce(z: Tensor, y: Tensor) -> Tensor:
    """-log p_y of each image."""
    return torch.stack([-softmax(z)[i, y[i]].log() for i in range(len(y))])


def divergence(z: Tensor, z_adv: Tensor) -> Tensor:
    """KL of p(x) to p(x') of each image."""
    p, q = softmax(z), softmax(z_adv)
    return torch.stack(
        [sum(p[i, k] * (p[i, k].log() - q[i, k].log()) for k in range(z.shape[1])) for i in range(len(z))]
    )


def attack(
    model: nn.Module, batch: Batch, *, start: str = "clipped", inner: str = "ce", steps: int = 10,
    step: float = EPS / 4, eps: float = EPS, budget: Tensor | float | None = None, mode: str = "eval",
    seen: list[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """PGD by Linf on a copy of the model: the last iterate."""
    model = copy.deepcopy(model)
    model.train(mode != "eval")
    x, y, draws = batch.x, batch.y, batch.draws.at("start")
    if start == "gauss":
        x_adv = x + 0.001 * draws.normal(1, 8, 8).double()
    else:
        x_adv = x + (2 * draws.uniform(1, 8, 8).double() - 1) * eps
        x_adv = x_adv.clamp(0, 1) if start == "clipped" else x_adv
    budget = eps if budget is None else budget
    with torch.no_grad():
        clean = model(x)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        z = model(x_adv)
        if seen is not None:
            seen.append(z.detach())
        value = ce(z, y).sum() if inner == "ce" else divergence(clean, z).sum()
        (grad,) = torch.autograd.grad(value, x_adv)
        moved = x_adv.detach() + step * grad.sign()
        x_adv = torch.minimum(torch.maximum(moved, x - budget), x + budget).clamp(0, 1)
    return x_adv


def passes(model: nn.Module, batch: Batch) -> list[str]:
    """A list that will hold the passes that move batch statistics: x for the clean batch, a for any other."""
    seen: list[str] = []

    def note(norm: nn.Module, _inputs: object) -> None:
        if norm.training and norm.track_running_stats:
            seen.append(kind[-1])

    def kinds(_model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kind.append("x" if torch.equal(inputs[0], batch.x) else "a")

    kind: list[str] = []
    model.register_forward_pre_hook(kinds)
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).register_forward_pre_hook(note)
    return seen


SHORT = {"epochs": 2, "lr": 0.05, "batch": 16, "drops": (), "falls": ()}
