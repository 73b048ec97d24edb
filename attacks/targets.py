"""Attacks that aim at one class after another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.losses import misread
from attacks.pgd import Search, over_restarts
from bench import Draws, Model

# Logits (N, K) of the images as they are, and labels (N,), to the classes (N, k) to aim at, in order.
Choose = Callable[[Tensor, Tensor], Tensor]


def over_targets(
    search: Search, model: Model, x: Tensor, y: Tensor, draws: Draws, choose: Choose, rounds: int = 1
) -> Tensor:
    """Search turn after turn, so many turns a target, while an image stands.

    `choose` sees the clean logits, for one forward; what is misread already comes back as it is.  The search is given
    labels (N, 1 + k), true class and targets, and finds the number of its turn in `draws.restart`.
    """
    found = x.clone()
    logits = model(x)
    rows = (~misread(logits, y)).nonzero()[:, 0]
    if len(rows):
        targets = choose(logits[rows], y[rows])
        labels = torch.cat([y[rows, None], targets], 1)
        turns = rounds * targets.shape[1]
        found[rows] = over_restarts(search, model[rows], x[rows], labels, draws[rows], turns)
    return found
