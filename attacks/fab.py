"""FAB: walk along the decision boundary towards the image, and stop where the walk enters the ball."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.apgd import start_at_edge
from attacks.losses import misread, rivals, targeted_margin
from attacks.pgd import select
from bench import Draws, Model, ThreatModel, attack, per_image_sum

AT_ONCE = 64  # images whose gradients to all classes are held together

# Images and labels to the boundary as it looks from there: a value (n,), negative where the image is read right, and
# its gradient (n, C, H, W).
Plane = Callable[[Model, Tensor, Tensor], tuple[Tensor, Tensor]]


def _cost(steps: int, restarts: int, all_classes: int = 10, **_: object) -> tuple[int, int]:
    return 1 + restarts * 2 * steps, restarts * steps * all_classes


@attack(
    norms=("linf", "l2", "l1"),
    access="gradients",
    paper="arXiv:1907.02044",
    version=1,
    cost=_cost,
    zero=("alpha_max",),
    coarse=False,
)
def fab(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> Tensor:
    """Project onto the nearest class's linearised boundary, step after step, drawn back to the image.

    arXiv:1907.02044.  Access: gradients.  Linf, L2 and L1.  A step goes to the exact nearest points, within the box,
    of the plane that the class's boundary looks like, both from the iterate and from the image, overshoots by eta, and
    mixes the two with a weight of at most alpha_max on the image's; a misread iterate is drawn back to the share beta
    of its way from the image.
    ANY, in the ball: an image is done at its first misread iterate that is no further away than eps; of the other
    steps only the way matters.  The first start is the image; others lie at random at half of eps.  The paper's final
    line search is left out, as in AutoAttack.
    Cost: 1 + restarts * 2 * steps forwards and restarts * steps * K backwards for K classes.
    """
    settings = _Settings(steps, restarts, alpha_max, eta, beta)
    return _in_ball(model, x, y, threat, draws, settings, targets=0)


def _cost_t(steps: int, restarts: int, targets: int, all_classes: int = 10, **_: object) -> tuple[int, int]:
    runs = min(targets, all_classes - 1) * restarts
    return 1 + runs * 2 * steps, runs * steps


@attack(
    norms=("linf", "l2", "l1"),
    access="gradients",
    paper="arXiv:1907.02044",
    version=1,
    cost=_cost_t,
    zero=("alpha_max",),
    coarse=False,
)
def fab_t(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> Tensor:
    """FAB onto the boundary to one class, for one class after the other.

    arXiv:1907.02044 and arXiv:2003.01690.  Access, norms, ANY and the other settings as `fab`.  The targets are the
    classes with the largest logits on the clean image beside the true one, best first; with K classes there are at
    most K - 1.  Any misreading counts, and an image that is done pays for no other target.  With one restart nothing
    is random.
    Cost: 1 + targets * restarts * 2 * steps forwards and targets * restarts * steps backwards.
    """
    settings = _Settings(steps, restarts, alpha_max, eta, beta)
    return _in_ball(model, x, y, threat, draws, settings, targets=targets)


def _cost_min(steps: int, targets: int, all_classes: int = 10, **_: object) -> tuple[int, int]:
    return _cost_t(steps, 1, targets, all_classes) if targets else _cost(steps, 1, all_classes)


@attack(
    norms=("linf", "l2", "l1"),
    access="gradients",
    goal="minimum-norm",
    paper="arXiv:1907.02044",
    version=1,
    cost=_cost_min,
    zero=("alpha_max",),
)
def fab_min(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    *,
    steps: int = 100,
    targets: int = 0,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> Tensor:
    """FAB as the minimum-norm attack that it is: all steps are taken, and the nearest misread iterate counts.

    arXiv:1907.02044.  Access and norms as `fab`, and the other settings too.  MINIMUM over ANY: the image itself where
    it is misread as it is, and where nothing is found.  targets=0 goes to the nearest class at every step, as `fab`;
    other numbers to so many classes one after the other, as `fab-t`, each for all steps.  One walk from the image, so
    that nothing is random; the paper's final line search is left out, as in AutoAttack.
    Cost: 1 + 2 * steps forwards and steps * K backwards for K classes (told for 10); with targets
    1 + targets * 2 * steps forwards and targets * steps backwards.
    """
    settings = _Settings(steps, 1, alpha_max, eta, beta)
    return nearest_misread(model, x, y, threat, draws, settings, targets=targets, within=0)[0]


@dataclass(frozen=True)
class _Settings:
    """As the attacks name them."""

    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9


def _in_ball(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, settings: _Settings, *, targets: int
) -> Tensor:
    """The misread images within eps that were found, and x where there is none."""
    if not threat.eps:
        return x
    eps = float(threat.eps)
    found, distance = nearest_misread(model, x, y, threat, draws, settings, targets=targets, within=eps)
    return torch.where(_column(distance <= eps), found, x)


def nearest_misread(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draws: Draws,
    settings: _Settings,
    *,
    targets: int,
    within: float,
) -> tuple[Tensor, Tensor]:
    """The nearest misread images found, and their distances (N,) in float64: infinite where there is none.

    An image is done when it is found within this distance.  targets=0 goes for the nearest boundary of all at every
    step.  Of the threat, eps only says how far out the random starts lie.
    """
    logits = model(x)
    stands = ~misread(logits, y)
    found, distance = (
        x.clone(),
        torch.where(stands, torch.inf, torch.zeros(len(x), dtype=torch.double, device=x.device)),
    )
    ranked = rivals(logits, y, targets)
    runs = [(k, restart) for k in range(ranked.shape[1] or 1) for restart in range(settings.restarts)]
    for k, restart in runs:
        rows = (distance > within).nonzero()[:, 0]
        if not len(rows):
            break
        mine, labels, plane = (
            draws[rows].at(f"target {k}", restart=restart),
            y[rows],
            _to_nearest(threat, logits.shape[1]),
        )
        if targets:
            labels, plane = torch.stack([labels, ranked[rows, k]], 1), _to_target
        start = start_at_edge(x[rows], ThreatModel(threat.norm, threat.eps / 2), mine) if restart else x[rows]
        walk = _Walk(model[rows], torch.arange(len(rows), device=x.device), x[rows], labels, start)
        images, sizes = _search(walk, threat, plane, settings, within)
        closer = sizes < distance[rows]
        found[rows[closer]], distance[rows[closer]] = images[closer], sizes[closer]
    return found, distance


@dataclass
class _Walk:
    """Where the search stands on each image that is not done."""

    model: Model
    rows: Tensor  # (n,) places among the images searched
    x: Tensor
    labels: Tensor  # (n,), or (n, 2) with the targets second
    now: Tensor


def _search(
    walk: _Walk, threat: ThreatModel, plane: Plane, settings: _Settings, within: float
) -> tuple[Tensor, Tensor]:
    """The nearest misread iterates of one walk, and their distances."""
    best, size = walk.x.clone(), torch.full((len(walk.x),), torch.inf, dtype=torch.double, device=walk.x.device)
    for _ in range(settings.steps):
        value, normal = plane(walk.model, walk.now, walk.labels)
        ahead = _ahead(walk, threat, value, normal.nan_to_num_(), settings)
        truth = walk.labels if walk.labels.ndim == 1 else walk.labels[:, 0]
        crossed = misread(walk.model(ahead), truth).nonzero()[:, 0]
        walk.now = ahead
        if not len(crossed):
            continue
        rows, images, x = (v.index_select(0, crossed) for v in (walk.rows, ahead, walk.x))
        ahead.index_copy_(0, crossed, x + settings.beta * (images - x))  # drawn back
        far = threat.size(images.double() - x.double())
        closer = (far < size[rows]).nonzero()[:, 0]
        best[rows[closer]], size[rows[closer]] = images[closer], far[closer]
        stands = size[walk.rows] > within
        left = int(stands.sum())
        if not left:
            break
        if left < len(stands):
            walk = select(walk, stands)
    return best, size


def _ahead(walk: _Walk, threat: ThreatModel, value: Tensor, normal: Tensor, settings: _Settings) -> Tensor:
    """The next iterate: near the plane's nearest points to the iterate and to the image."""
    value_at_x = value + per_image_sum((walk.x - walk.now).mul_(normal))
    slopes = _slopes(normal)
    here = _onto(threat.norm, slopes, value, walk.now)
    from_x = _onto(threat.norm, slopes, value_at_x, walk.x)
    far, far_x = (threat.size(move).clamp_min(1e-8) for move in (here, from_x))
    share = _column((far / (far + far_x)).clamp_max(settings.alpha_max))
    here.mul_(settings.eta).add_(walk.now).mul_(1 - share)
    from_x.mul_(settings.eta).add_(walk.x).mul_(share)
    return here.add_(from_x).clamp_(0, 1)


def _to_target(model: Model, now: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """The boundary between the true class and the target."""
    _, value, normal = model.gradient(now, pair, targeted_margin)
    return value, normal


def _to_nearest(threat: ThreatModel, classes: int) -> Plane:
    """The boundary of the true class that, as far as gradients see, is nearest in the threat's norm."""

    def plane(model: Model, now: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        every = torch.arange(classes, device=now.device).expand(len(now), classes)
        return nearest_boundary(threat, model, now, y, every)

    return plane


def nearest_boundary(
    threat: ThreatModel, model: Model, now: Tensor, y: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """The boundary of the true class y that looks nearest in the threat's norm, as a `Plane` gives it.

    Each image has its own classes (n, k), the true one among them.
    """
    # One gradient a class is large: on a CPU, where memory that runs out is no exception, it is cut.
    cut = AT_ONCE if now.device.type == "cpu" else len(now)
    parts = [
        _nearest(threat, model[rows], now[rows], y[rows], classes[rows])
        for rows in (slice(i, i + cut) for i in range(0, len(now), cut))
    ]
    return torch.cat([value for value, _ in parts]), torch.cat([normal for _, normal in parts])


def _nearest(threat: ThreatModel, model: Model, now: Tensor, y: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The same for as many images as fit together."""
    logits, slopes = model.jacobian(now, classes)
    rows, own = torch.arange(len(now), device=now.device), classes == y[:, None]
    values = logits.gather(1, classes) - logits[rows, y][:, None]
    normals = (slopes - slopes[own][:, None]).nan_to_num()
    length = dual_size(threat.norm, normals.flatten(0, 1)).view_as(values)
    far = (values.abs() / (length + 1e-12)).masked_fill(own, torch.inf)
    nearest = far.argmin(1)
    return values[rows, nearest], normals[rows, nearest]


def dual_size(norm: str, normal: Tensor) -> Tensor:
    """How fast a value with this gradient changes at best, per unit of the norm: (n, ...) to (n,)."""
    rows = normal.abs().flatten(1)
    match norm:
        case "linf":
            return per_image_sum(rows)
        case "l2":  # the largest value is taken out, so that no square of a small gradient underflows
            top = rows.amax(1)
            return top * per_image_sum((rows / _or_one(top)[:, None]).square()).sqrt()
        case _:
            return rows.amax(1)


def onto_plane(norm: str, normal: Tensor, value: Tensor, points: Tensor) -> Tensor:
    """The least moves, in the norm, after which `value` (n,) with gradient `normal` is zero, and that keep to [0, 1].

    Where the box does not reach that far, every pixel goes as far towards it as it can.
    """
    return _onto(norm, _slopes(normal), value, points)


def _slopes(normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A gradient's absolute values with the largest brought to 1, its signs, and what it was divided by (n,)."""
    normal = normal.flatten(1)
    steep = normal.abs()
    scale = _or_one(steep.amax(1))  # gradients of any size are then far from under- and overflow
    slopes = normal / scale[:, None]
    return torch.abs(slopes, out=steep), slopes.sign_(), scale  # what is nothing beside the largest has no sign


def _onto(norm: str, slopes: tuple[Tensor, Tensor, Tensor], value: Tensor, points: Tensor) -> Tensor:
    """`onto_plane` for a gradient whose slopes are known."""
    steep, sign, scale = slopes
    way = sign * -value.sign()[:, None]
    room = way.clamp_min(0).sub_(points.flatten(1)).abs_()  # to 1 where it goes up, to 0 elsewhere
    goal = value.abs() / scale
    sizes = _fill(steep, room, goal) if norm == "l1" else _saturate(norm, steep, room, goal)
    return sizes.mul_(way).view(points.shape)


def _saturate(norm: str, steep: Tensor, room: Tensor, goal: Tensor) -> Tensor:
    """min(t * pace, room) for the least t with which sum(steep * min(t * pace, room)) reaches the goal (n,): (n, d).

    In Linf the pace is 1 (where `steep` is 0 what comes out means nothing), and in L2 it is `steep`.
    The sum grows in t by linear pieces, ever more slowly, so Newton's steps from 0 never pass the root and end on its
    piece; an image whose t grows no more stays as it is, however long the others take.
    """
    linf = norm == "linf"
    free = room.sign().mul_(steep)  # at t = 0 all move that have room
    t = (goal / per_image_sum(free if linf else free.mul_(steep)).clamp_min(1e-30)).clamp_max(1e30)
    rows, now, steeps, rooms, goals = None, t, steep, room, goal  # of those that may still grow
    free = torch.empty_like(steep)
    while True:
        # The slopes of the values that may still move, and 0 of those that are held.
        pace = now[:, None] if linf else now[:, None] * steeps
        torch.gt(rooms, pace, out=free).mul_(steeps)  # numbers, for which a CPU takes a seventh of the time of bools
        slope = per_image_sum(free if linf else free * steeps)
        missing = goals + per_image_sum(free.sub_(steeps).mul_(rooms))
        ahead = (missing / slope.clamp_min(1e-30)).clamp_max(1e30)
        grows = (ahead > now).nonzero()[:, 0]
        now = now.maximum(ahead)
        t = now if rows is None else t.index_copy(0, rows, now)
        if not len(grows):
            return room.minimum(t[:, None] if linf else t[:, None] * steep)
        if 4 * len(grows) < len(now):  # to leave the others out costs as much as a turn
            rows = grows if rows is None else rows[grows]
            now, steeps, rooms, goals = (v.index_select(0, grows) for v in (now, steeps, rooms, goals))
            free = torch.empty_like(steeps)


def _fill(steep: Tensor, room: Tensor, goal: Tensor) -> Tensor:
    """The room of the steepest values, filled one after the other up to the goal (n,), the last one in part: (n, d)."""
    ordered, order = steep.sort(dim=1, descending=True, stable=True)
    rooms = room.gather(1, order)
    place = torch.arange(steep.shape[1], device=steep.device)

    def gained(count: Tensor) -> Tensor:
        return per_image_sum((ordered * rooms).masked_fill(place >= count[:, None], 0))

    low = torch.zeros(len(steep), dtype=torch.long, device=steep.device)  # so many can be filled
    high = low + steep.shape[1] + 1  # and so many cannot
    for _ in range(math.ceil(math.log2(steep.shape[1] + 1))):
        middle = (low + high) // 2
        fits = gained(middle) <= goal
        low, high = middle.where(fits, low), high.where(fits, middle)
    part = (goal - gained(low)) / ordered.gather(1, low.clamp_max(steep.shape[1] - 1)[:, None])[:, 0].clamp_min(1e-30)
    rest = torch.minimum(part.clamp_min(0)[:, None], rooms)
    filled = torch.where(place < low[:, None], rooms, rest.masked_fill(place > low[:, None], 0))
    return torch.zeros_like(steep).scatter(1, order, filled)


def _or_one(values: Tensor) -> Tensor:
    """The values, with 1 for 0: what can be divided by."""
    return torch.where(values > 0, values, 1.0)


def _column(values: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
