"""Attacks that aim at one class after another: which classes, and what they climb."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.losses import misread
from attacks.pgd import Search, over_restarts
from bench import Draws, Model

# Logits (N, K) of the images as they are, and labels (N,), to the classes (N, k) to aim at, in order.
Choose = Callable[[Tensor, Tensor], Tensor]


def toward(logits: Tensor, pair: Tensor) -> Tensor:
    """z_t - z_y: (N,), for pairs (N, 2) of the true class and a target; without a hinge, and never rescaled."""
    return logits.gather(1, pair[:, 1:])[:, 0] - logits.gather(1, pair[:, :1])[:, 0]


def best_others(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The classes other than the true one with the largest logits, best first; all K - 1 where that is fewer."""
    masked = logits.scatter(1, y[:, None], -torch.inf)
    order = masked.argsort(dim=1, descending=True, stable=True)
    # The true class is taken out by name: a class of logit -inf may tie with it.
    others = order[order != y[:, None]].view(len(y), -1)
    return others[:, :count]


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
