"""The reference implementation of AutoAttack, `pyautoattack`, run attack by attack: what ours are compared with.

Unlike every other attack here, these give verdicts that depend on the batch: the reference draws the randomness of all
images of a batch from one generator, thins the batch as images fall, and (Square) tries one window on all of them.  So
another `--batch`, another range of images or another attack before them may change which images fall.  The generator
is seeded with the attack's seed plus the first image's place in its data set, and torch's own is left as it was.
What rounding leaves outside the ball is projected back.  Passes of a thinned batch are spread evenly over its images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench import Draws, Model, ThreatModel, UsageError, attack

if TYPE_CHECKING:
    from types import ModuleType

PAPER = "arXiv:2003.01690"


@attack(
    norms=("linf", "l2", "l1"),
    access="gradients",
    paper=PAPER,
    version=1,
    cost=lambda steps, restarts: (1 + restarts * (steps + 1), restarts * (steps + 1)),
)
def reference_apgd_ce(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, steps: int = 100, restarts: int = 1
) -> Tensor:
    """The reference's Auto-PGD on the cross-entropy; its verdicts depend on the batch.

    arXiv:2003.01690.  Access: gradients.  Linf, L2 and L1 (with its schedule of larger balls).  ANY.
    Cost: 1 + restarts * (steps + 1) forwards and restarts * (steps + 1) backwards; in L1 2 more a restart.
    """
    if not threat.eps:
        return x
    method = _imported("autopgd_base").APGDAttack(
        _asked(model), n_iter=steps, n_restarts=restarts, loss="ce", **_apgd(x, threat, draws)
    )
    return _perturb(method, x, y, threat)


@attack(
    norms=("linf", "l2", "l1"),
    access="gradients",
    paper=PAPER,
    version=1,
    cost=lambda steps, targets: (2 + targets * (steps + 2), targets * (steps + 1)),
    least_classes=4,
)
def reference_apgd_t(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, steps: int = 100, targets: int = 9
) -> Tensor:
    """The reference's Auto-PGD on the targeted difference-of-logits ratio; its verdicts depend on the batch.

    arXiv:2003.01690.  Access: gradients.  Linf, L2 and L1 (with its schedule of larger balls).  ANY.  From 4 classes
    on; with K classes there are at most K - 1 targets.
    Cost: 2 + targets * (steps + 2) forwards, of which one asks for the number of classes, and targets * (steps + 1)
    backwards; in L1 2 more of both a target.
    """
    if not threat.eps:
        return x
    classes = model(x).shape[1]
    if classes < 4:
        raise UsageError(f"the targeted DLR compares the first, third and fourth logit; there are {classes} classes")
    method = _imported("autopgd_base").APGDAttack_targeted(
        _asked(model), n_iter=steps, n_target_classes=min(targets, classes - 1), **_apgd(x, threat, draws)
    )
    return _perturb(method, x, y, threat)


@attack(
    norms=("linf", "l2", "l1"),
    access="gradients",
    paper=PAPER,
    version=1,
    cost=lambda steps, targets: (2 + targets * (2 * steps + 3), targets * steps),
)
def reference_fab_t(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, steps: int = 100, targets: int = 9
) -> Tensor:
    """The reference's FAB with targets, which draws nothing.

    arXiv:1907.02044.  Access: gradients.  Linf, L2 and L1.  With K classes there are at most K - 1 targets.
    Cost: 2 + targets * (2 * steps + 3) forwards, of which one asks for the number of classes, and targets * steps
    backwards.
    """
    if not threat.eps:
        return x
    targets = min(targets, model(x).shape[1] - 1)
    method = _imported("fab_pt").FABAttack_PT(
        _asked(model), n_iter=steps, targeted=True, n_target_classes=targets, **_common(x, threat, draws)
    )
    return _perturb(method, x, y, threat)


@attack(
    norms=("linf", "l2", "l1"),
    access="scores",
    paper="arXiv:1912.00049",
    version=1,
    cost=lambda queries: (3 + queries, 0),
)
def reference_square(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, *, queries: int = 5000
) -> Tensor:
    """The reference's Square, its schedule not rescaled; its verdicts depend on the batch.

    arXiv:1912.00049.  Access: scores.  Linf, L2 and L1; in L2 and L1 images of at least 5 by 5 pixels.  ANY.
    Cost: 3 + queries forwards.
    """
    if not threat.eps:
        return x
    if threat.norm != "linf" and min(x.shape[2:]) < 5:
        raise UsageError(f"the reference's Square begins with 5 by 5 bumps in {threat.norm}: too many for this image")
    method = _imported("square").SquareAttack(
        _asked(model), p_init=0.8, n_queries=queries, resc_schedule=False, **_common(x, threat, draws)
    )
    return _perturb(method, x, y, threat)


def _imported(module: str) -> ModuleType:
    """A module of the reference, which nothing else here needs."""
    import importlib

    try:
        importlib.import_module("pyautoattack")
    except ModuleNotFoundError as error:
        if error.name != "pyautoattack":
            raise
        raise UsageError("the reference attacks run pyautoattack, which is missing: pip install pyautoattack") from None
    return importlib.import_module(f"pyautoattack.{module}")


def _common(x: Tensor, threat: ThreatModel, draws: Draws) -> dict[str, Any]:
    """What each of its attacks is told."""
    seed = draws.seed + int(draws.ids[0])
    return {"norm": threat.norm.capitalize(), "eps": float(threat.eps), "seed": seed, "device": x.device}


def _apgd(x: Tensor, threat: ThreatModel, draws: Draws) -> dict[str, Any]:
    """What its Auto-PGD is told beside it: where its warnings of zero gradients go, and the balls of L1."""
    quiet = logging.getLogger("pyautoattack")
    quiet.addHandler(logging.NullHandler())
    return {"use_largereps": threat.norm == "l1", "logger": quiet, **_common(x, threat, draws)}


def _asked(model: Model) -> Callable[[Tensor], Tensor]:
    """The model for its eyes, which may also ask about no image at all."""
    classes = [0]

    def ask(x: Tensor) -> Tensor:
        if not len(x):
            return x.new_zeros(0, classes[0])
        logits = model(x)
        classes[0] = logits.shape[1]
        return logits

    return ask


def _perturb(method: Any, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """Its images: the misread ones, and x where it found none."""
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        found: Tensor = method.perturb(x, y)
    return threat.project(found.detach(), x)
