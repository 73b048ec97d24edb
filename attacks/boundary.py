"""The boundary attack: a random walk along the boundary towards the image; labels alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from attacks.decisions import Hunt, begin, column, leave, noise
from bench import Draws, Model, ThreatModel, attack, per_image_sum

EVERY = 10  # steps from one look at the step sizes to the next
FACTOR = 1.5  # by which they change
CONVERGED = 1e-7  # the step towards the image at which an image is done
SIDEWAYS = (100, 0.2, 0.5)  # looks back, and the shares of successes below and above which both step sizes change
INWARDS = (30, 0.1, 0.25)  # likewise for the step towards the image alone


@attack(
    norms=("l2",), access="labels", goal="minimum-norm", paper="arXiv:1712.04248", version=1,
    cost=lambda queries, tries, **_: (min(1 + tries, queries), 0),
)  # fmt: skip
def boundary(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    queries: int = 25_000,
    tries: int = 1000,
    sideways: float = 0.01,
    inwards: float = 0.01,
) -> Tensor:
    """Step sideways on the sphere around the image, then a little inwards; keep what is misread and nearer.

    arXiv:1712.04248.  Access: labels.  L2.  Minimum over ANY.  Start as `hopskipjump`.
    sideways and inwards: the first steps, as shares of the distance.  Every tenth step also asks about the image on the
    sphere, before its step inwards.  Where of the last 100 such looks more than half were misread, both steps grow by
    1.5, and where less than a fifth, they shrink; where of the last 30 the whole step was misread in more than a
    quarter, the step inwards grows, and in less than a tenth, it shrinks; a change empties its list.  An image is done
    when its step inwards falls below 1e-7.  These rules are foolbox's (the authors'), which draws one direction for a
    whole batch; here every image draws its own.
    queries: all of an image, the start's and the looks' included (elsewhere 25,000 is the number of steps).
    Cost: 1 + tries forwards, and no more than queries, where no start is found; else up to queries.
    """
    found = x.clone()
    hunt, now = noise(begin(model, x, y, draws, queries), threat, found, tries)
    fresh = torch.ones(len(now), dtype=torch.double, device=x.device)
    walk = _Walk(
        **{f.name: getattr(hunt, f.name) for f in fields(hunt)},
        now=now, sideways=sideways * fresh, inwards=inwards * fresh,
        around=torch.zeros(len(now), SIDEWAYS[0], dtype=torch.bool, device=x.device),
        ahead=torch.zeros(len(now), INWARDS[0], dtype=torch.bool, device=x.device),
        looks_around=torch.zeros_like(hunt.y), looks_ahead=torch.zeros_like(hunt.y),
    )  # fmt: skip
    step = 0
    while len(walk.rows):
        step += 1
        _take(walk, threat, step)
        walk = leave(walk, found, (walk.left > 0) & (walk.inwards >= CONVERGED))
    return found


@dataclass
class _Walk(Hunt):
    """And where each image stands on its own walk."""

    now: Tensor  # a misread image
    sideways: Tensor  # (n,) the steps, as shares of the distance: on the sphere around x, and then towards x
    inwards: Tensor
    around: Tensor  # (n, 100) bool, the last looks at whether the image on the sphere is misread
    ahead: Tensor  # (n, 30) likewise the image nearer to x
    looks_around: Tensor  # (n,) how many looks since the step sizes changed
    looks_ahead: Tensor


def _take(walk: _Walk, threat: ThreatModel, step: int) -> None:
    """One step, which is kept where it is misread and nearer; every tenth also looks at the step sizes."""
    x, now = walk.x.double(), walk.now.double()
    away = now - x
    far = threat.size(away)
    sphere = _sidestep(x, away, far, walk.draws.at("step", step=step).normal(*x.shape[1:]).double(), walk.sideways)
    near = threat.size(sphere - x)
    # So long as the image lies on the sphere, which the box may have taken it off.
    length = (walk.inwards * far + near - far).clamp_min(0) / near.clamp_min(1e-300)
    new = (sphere + column(length) * (x - sphere)).clamp(0, 1).float()
    everyone = torch.ones_like(walk.y, dtype=torch.bool)
    looks = (walk.left > 1) & (step % EVERY == 0)
    hit = walk.ask(threat, new, everyone)
    nearer = hit & (threat.size(new.double() - x) < far)
    walk.now = torch.where(column(nearer), new, walk.now)
    if looks.any():
        aside = walk.ask(threat, sphere.float(), looks)
        rises, falls = _look(walk.around, walk.looks_around, aside, looks, SIDEWAYS)
        walk.sideways, walk.inwards = _scaled(walk.sideways, rises, falls), _scaled(walk.inwards, rises, falls)
        rises, falls = _look(walk.ahead, walk.looks_ahead, hit, looks, INWARDS)
        walk.inwards = _scaled(walk.inwards, rises, falls)


def _scaled(step: Tensor, rises: Tensor, falls: Tensor) -> Tensor:
    """Steps (n,), changed by the factor where they rise or fall."""
    return torch.where(rises, step * FACTOR, torch.where(falls, step / FACTOR, step))


def _sidestep(x: Tensor, away: Tensor, far: Tensor, eta: Tensor, sideways: Tensor) -> Tensor:
    """A random step along the sphere around x on which the image lies, clipped to [0, 1]."""
    unit = away / column(far)
    eta = eta - column(per_image_sum(eta * unit)) * unit
    eta = eta * column(sideways * far / per_image_sum(eta.square()).sqrt().clamp_min(1e-300))
    return (x + (eta + away) / column((sideways.square() + 1).sqrt())).clamp(0, 1)


def _look(
    window: Tensor, looks: Tensor, hit: Tensor, who: Tensor, rule: tuple[int, float, float]
) -> tuple[Tensor, Tensor]:
    """Note a success or not; whether the share in a full window is above or below the rule's bounds: (n,) bool each."""
    size, low, high = rule
    rows = who.nonzero()[:, 0]
    window[rows, looks[rows] % size] = hit[rows]
    looks[rows] += 1
    share = window.sum(1) / size
    full = who & (looks >= size)
    rises, falls = full & (share > high), full & (share < low)
    looks[rises | falls] = 0
    return rises, falls
