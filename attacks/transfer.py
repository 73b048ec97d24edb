"""Transfer: images that fool another model, tried on this one."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from attacks.losses import cross_entropy
from attacks.mim import mim
from attacks.pgd import ascend
from bench import Draws, Model, ThreatModel, attack


@attack(
    norms=("linf",),
    access="labels",
    paper="arXiv:1605.07277",
    version=1,
    cost=lambda steps, **_: (steps, steps),
    surrogates=("surrogate",),
)
def transfer(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    surrogate: Model,
    steps: int = 20,
    step: float = 0.1,
    method: Literal["pgd", "mim"] = "pgd",
) -> Tensor:
    """PGD or MIM on a surrogate, whose last images are tried on the model.

    arXiv:1605.07277.  Access: none but the judge's one question; gradients of the surrogate.  Linf.  LAST: the last
    iterate, whatever the surrogate says of it.  surrogate: the hash of weights in the ledger, or how it begins (the
    board shows seven letters); their net is found there.  Steps are of step * eps, from a random start with "pgd" (as
    TRADES' black-box test: 20 of 0.003 at 0.031), and along the momentum's sign from the image with "mim".
    Cost: steps forwards and steps backwards, all of the surrogate.
    """
    del model
    if not threat.eps:
        return x
    if method == "mim":
        return mim(surrogate, x, y, threat, draws, steps=steps, step=step)
    return ascend(
        surrogate, x, y, threat, draws, cross_entropy, steps=steps, step=step, restarts=1, keep="last", start="uniform"
    )
