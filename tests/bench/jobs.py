"""Small trainings for tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.exam import Part, Shape
from bench.feed import Batch
from bench.threat import ThreatModel
from bench.training import TrainJob


class StoppedError(Exception):
    """What a test raises to end a training."""


def job(tmp_path: Path, images: int = 40) -> TrainJob:
    """A training on images of 4x4 in two classes, of a linear net with dropout."""
    rng = np.random.default_rng(0)
    y = np.arange(images) % 2
    x = (y[:, None, None, None] * 120 + rng.integers(0, 100, (images, 1, 4, 4))).astype(np.uint8)
    part = Part(x, y.astype(np.int64))
    return TrainJob(
        train=part, val=part, shape=Shape(2, 1, 4),
        build=lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 2)),
        threat=ThreatModel.parse("linf:0.05"), seed=5, device=torch.device("cpu"), scratch=tmp_path,
        report=lambda _line: None,
    )  # fmt: skip


def unwatched(here: TrainJob) -> TrainJob:
    """With so few validation images that no collapse is looked for."""
    here.val = Part(here.val.x[:10], here.val.y[:10])
    return here


def normed(tmp_path: Path) -> TrainJob:
    """A job whose net has batch statistics and dropout."""
    here = job(tmp_path)
    here.build = lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 2)
    )
    return here


def plain(model: nn.Module, feed: Batch) -> Tensor:
    """Cross-entropy on the images as they are."""
    return F.cross_entropy(model(feed.x), feed.y)


class Interrupted:
    """A loss that asks its own process to end, by a signal, in its nth step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.left, self.number = step, number

    def __call__(self, model: nn.Module, feed: Batch) -> Tensor:
        """Cross-entropy, and the signal in its time."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return plain(model, feed)
