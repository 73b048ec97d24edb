"""PART: pixel-reweighted adversarial training (Zhang et al., ICML 2024).

The perturbation budget is eps on the pixels that a class activation map finds important and `low` * eps elsewhere.
By default the mask is the one the paper describes: two-dimensional, and made for the very batch that it is used on.
The authors' release (github.com/JiachengZ01/PART) thresholds the colours of a colour map, so that its masks differ by
channel, and uses them on other images than they were made for; both are here by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Cam, Course, TrainJob, UsageError, defense, fit, heat, outlying, within
from defenses.inner import Inner, craft
from defenses.mart import mart_loss
from defenses.trades import trades_loss

QUARTERS = {  # whether it is the lower and the right half
    "upper-left": (False, False), "upper-right": (False, True), "lower-left": (True, False), "lower-right": (True, True)
}  # fmt: skip
COURSE = Course(epochs=80, lr=0.01, decay=2e-4, drops=(60,))
Loss = Callable[[nn.Module, Batch, Tensor], Tensor]  # a model, a batch and its adversarial images to a scalar


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Which pixels keep the whole budget, and what that means.

    low: the budget of the others, as a share of eps.  s: the epochs between refreshes of the masks' model, the first of
    which comes after warm_up, the epochs without masks.  cam: how the map is made.
    mask: cam (its square over one standard deviation above its mean), jet (the release's: thresholds the colours of the
    map), random (as many pixels as cam, elsewhere) or none (every pixel gets `low`); the last two are controls.  A
    quarter of the image (upper-left and so on) gets `low`, the rest the whole budget: the authors' first experiment.
    align: own (the image's own mask) or shuffled (the release's: that of the image in the same place of a pass in
    another order, with another augmentation; the refreshes are then those of the release, in the epochs after warm-up
    that are multiples of s).
    mask_op: clamp (to the budget, after every step) or scale (the last perturbation, by the mask, once).
    """

    low: float = 0.875
    s: int = 1
    warm_up: int = 20
    cam: Literal["gradcam", "xgradcam", "layercam"] = "gradcam"
    mask: Literal["cam", "jet", "random", "none", "upper-left", "upper-right", "lower-left", "lower-right"] = "cam"
    align: Literal["own", "shuffled"] = "own"
    mask_op: Literal["clamp", "scale"] = "clamp"

    def __post_init__(self) -> None:
        if self.s < 1:
            raise UsageError(f"s={self.s}: counts epochs between refreshes; expected 1 or more")
        if not 0 <= self.low <= 1:
            raise UsageError(f"low={self.low}: expected a share of eps, from 0 to 1")


@defense(paper="arXiv:2406.00685", version=2)
def part(
    job: TrainJob, *, masks: Masks = Masks(), inner: Inner = Inner(start="uniform"), course: Course = COURSE
) -> nn.Module:
    """Adversarial training with a smaller budget on unimportant pixels."""

    def loss(model: nn.Module, feed: Batch, x_adv: Tensor) -> Tensor:
        return F.cross_entropy(model(x_adv), feed.y)

    return _reweighted(job, loss, masks, inner, course)


@defense(paper="arXiv:2406.00685", version=2)
def part_trades(
    job: TrainJob, *, beta: float = 6.0, forwards: int = 2, masks: Masks = Masks(),
    inner: Inner = Inner(start="gauss", inner="kl"), course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """TRADES with a smaller budget on unimportant pixels (PART-T); beta and forwards as in trades."""

    def loss(model: nn.Module, feed: Batch, x_adv: Tensor) -> Tensor:
        return trades_loss(model, feed, x_adv, beta, forwards)

    return _reweighted(job, loss, masks, inner, course)


@defense(paper="arXiv:2406.00685", version=1)
def part_mart(
    job: TrainJob, *, beta: float = 6.0, masks: Masks = Masks(), inner: Inner = Inner(start="gauss"),
    course: Course = COURSE,
) -> nn.Module:  # fmt: skip
    """MART with a smaller budget on unimportant pixels (PART-M)."""

    def loss(model: nn.Module, feed: Batch, x_adv: Tensor) -> Tensor:
        return mart_loss(model, feed, x_adv, beta)

    return _reweighted(job, loss, masks, inner, course)


def _reweighted(job: TrainJob, loss: Loss, masks: Masks, inner: Inner, course: Course) -> nn.Module:
    """Train without masks for the warm-up, then with those of a snapshot that is renewed every `s` epochs."""
    if job.threat.norm != "linf":
        raise UsageError(f"PART's budgets are for Linf; the threat is {job.threat}")
    snapshot = job.net().requires_grad_(False)
    plain = replace(inner, start="clipped") if inner.start == "uniform" else inner  # as the release warms up

    def refreshed(epoch: int) -> int:
        """The epoch at whose start the snapshot was last taken."""
        count = epoch - masks.warm_up
        since = min(count % masks.s, count - 1) if masks.align == "shuffled" else (count - 1) % masks.s
        return epoch - since

    def refresh(model: nn.Module, epoch: int) -> None:
        if epoch > masks.warm_up and refreshed(epoch) == epoch:
            snapshot.load_state_dict(model.state_dict())

    def masked(model: nn.Module, feed: Batch) -> Tensor:
        if feed.epoch <= masks.warm_up:
            return loss(model, feed, craft(model, feed, job.threat, plain))
        shown = feed
        if masks.align == "shuffled":  # the pass in which the release makes its masks has an order of its own
            shown = job.feed(course).batch(course.batch, -refreshed(feed.epoch), feed.place, course.augment)
        keep = important(snapshot, shown, masks)
        job.watch("mask_density", keep.float().mean((1, 2, 3)))
        eps = float(inner.threat(job.threat, feed).eps)
        size = torch.where(keep, feed.x.new_full((), eps), masks.low * eps)  # in the images' own precision
        if masks.mask_op == "clamp":
            x_adv = craft(model, feed, job.threat, inner, project=lambda x: within(x, feed.x, size))
        else:
            x_adv = feed.x + (craft(model, feed, job.threat, inner) - feed.x) * size / eps
        return loss(model, feed, x_adv)

    return fit(job, job.net(), masked, course, before_epoch=refresh, also={"snapshot": snapshot})


def important(model: nn.Module, feed: Batch, masks: Masks) -> Tensor:
    """Which pixels of a batch keep the whole budget: booleans that broadcast with (B, C, H, W)."""
    if masks.mask == "none":
        return torch.zeros(len(feed), 1, *feed.x.shape[2:], dtype=torch.bool, device=feed.x.device)
    if masks.mask in QUARTERS:
        return quarter(feed.x, *QUARTERS[masks.mask])
    cam: Cam = masks.cam
    if masks.mask == "jet":  # the release does not clip what overshoots
        return outlying(jet(heat(model, feed.x, cam, clip=False).square()))[:, : feed.x.shape[1]]
    keep = outlying(heat(model, feed.x, cam).square()[:, None])
    if masks.mask == "random":
        places = feed.draws.at("mask").order(keep[0].numel())
        keep = keep.flatten(1).gather(1, places).view_as(keep)
    return keep


def quarter(x: Tensor, down: bool, right: bool) -> Tensor:
    """All pixels (1, 1, H, W) but those of a quarter; of an odd side the middle belongs to the lower or right half."""
    height, width = x.shape[2:]
    keep = torch.ones(1, 1, height, width, dtype=torch.bool, device=x.device)
    rows = slice(height // 2, None) if down else slice(height // 2)
    columns = slice(width // 2, None) if right else slice(width // 2)
    keep[:, :, rows, columns] = False
    return keep


def jet(values: Tensor) -> Tensor:
    """The colours of the map of that name, from 256 of them: (N, H, W) in [0, 1] to (N, 3, H, W)."""
    level = ((values * 256).long().clamp(max=255).float() / 255)[:, None]
    knots = (
        ((0.0, 0.35, 0.66, 0.89, 1.0), (0.0, 0.0, 1.0, 1.0, 0.5)),
        ((0.0, 0.125, 0.375, 0.64, 0.91, 1.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)),
        ((0.0, 0.11, 0.34, 0.65, 1.0), (0.5, 1.0, 1.0, 0.0, 0.0)),
    )
    return torch.cat([_piecewise(level, *channel) for channel in knots], 1)


def _piecewise(at: Tensor, xs: tuple[float, ...], ys: tuple[float, ...]) -> Tensor:
    """Linear between the points (xs, ys)."""
    out = torch.full_like(at, ys[0])
    for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:], strict=False):
        out = torch.where(at > x0, y0 + (y1 - y0) * (at - x0) / (x1 - x0), out)
    return out
