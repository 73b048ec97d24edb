"""Checks of a model before any attack: is it one function of the image, and are its gradients that function's.

They cost about what one attack of thirty steps costs on 64 images, and find most of what has ever made a defense look
robust that was not (arXiv:1802.00420, arXiv:1902.06705).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.doubts import Doubt
from bench.draws import Draws
from bench.errors import ModelError
from bench.evaluate import Subject
from bench.inside import inside
from bench.threat import per_image_sum
from bench.victim import Victim, logits_of, small

if TYPE_CHECKING:
    from bench.exam import Part

VERSION = 1  # of the checks: raise it when their answers change
IMAGES, LARGE = 64, 32  # the first of the test part; fewer for a large model.  Half of them are differentiated by hand
DIRECTIONS = 4  # random ones an image, beside the gradient's own
FEW = 0.02  # a share of images that may be odd
ODD = 0.05  # likewise of gradients by hand, where an image may sit on an edge
AGAIN = 1e-5  # of the largest logit: rounding between two passes
BESIDE = 1e-4  # of the largest logit: rounding between two layouts of a batch
NOISE = 0.03  # half-width of the noise around an image, for a second look at its gradients
JUMP = 0.2  # of the spread of an image's logits, for a step of 1/255 in one pixel
STEP, TOLERANCE = 1e-5, 0.05  # of central differences in float64
COARSE_STEP, COARSE_TOLERANCE = 2e-3, 0.2  # where the model computes in float32 alone
LEAPS, LEAP, LEAST_LEAP = 8, 3e-4, 0.003  # directions; a step in every pixel; what slopes do not foresee, in spreads


@dataclass(frozen=True)
class Checked:
    """What the checks found: doubts, figures by name, and how many passes of an image they took."""

    doubts: tuple[Doubt, ...]
    figures: Mapping[str, float]
    images: int
    forwards: int
    backwards: int

    @property
    def codes(self) -> tuple[str, ...]:
        """The kinds of doubt."""
        return tuple(doubt.code for doubt in self.doubts)


def check_model(subject: Subject, part: Part, device: torch.device, most: int = 0) -> Checked:
    """Look at a model with the first images of a test part; the subject's module is changed if it changes itself.

    most: images; 0 is as many as its size allows.

    The order matters: where a model is no function of one image, checks that take it for one are left out.
    """
    checks = _Checks(subject, part, device, most or (IMAGES if small(subject.module) else LARGE))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        checks.run()
    found = {doubt.code: doubt for doubt in checks.found}
    return Checked(tuple(found.values()), checks.figures, len(checks.x), *checks.passes())


class _Checks:
    """The checks of one model, which share passes."""

    def __init__(self, subject: Subject, part: Part, device: torch.device, most: int) -> None:
        n = min(most, len(part))
        self.subject = replace(subject, tile=min(subject.tile, most))
        self.module, self.part, self.view = subject.module, part, inside(subject.module)
        self.x = torch.from_numpy(part.x[:n].copy()).to(device).float() / 255
        self.draws = Draws(0, torch.arange(n, device=device), "check")
        self.found: list[Doubt] = []
        self.figures: dict[str, float] = {}
        self.meter = self._victim(n)
        self.more = [0, 0]

    def passes(self) -> tuple[int, int]:
        """Forwards and backwards, counted in images."""
        forwards, backwards = (int(count.sum()) for count in self.meter.passes())
        return forwards + self.more[0], backwards + self.more[1]

    def run(self) -> None:
        """All of them."""
        first = self.view.fingerprints()
        self._modes()
        self._form()
        # What a first call makes of nothing, a table of positions say, it keeps.
        made = {name: now for name, now in self.view.fingerprints().items() if first.get(name) in {None, "None"}}
        if self._is_a_function(first | made):
            self._jumps()
            try:
                self._gradients()
                self._slopes()
            except (torch.OutOfMemoryError, ModelError):
                raise
            except Exception as error:  # noqa: BLE001  whatever a layer's backward raises
                self.doubt("undifferentiable", what=repr(error))
        self._holds_images()

    def doubt(self, code: str, where: Tensor | None = None, what: str = "", **figures: float) -> None:
        """Take a doubt down, with the images where it shows."""
        images = tuple(where.nonzero()[:, 0].tolist()) if where is not None else ()
        self.found.append(Doubt(code, images, figures, what))

    def ask(self, x: Tensor) -> Tensor:
        """Logits without a graph; a random model has the same draws each time."""
        if self.subject.random:
            torch.manual_seed(0)
        victim: Victim = self.meter[torch.arange(len(x)) % len(self.x)]
        return victim(x).detach()

    def _victim(self, n: int) -> Victim:
        return Victim(self.module, tile=self.subject.tile, access="gradients", images=n)

    def _modes(self) -> None:
        """Every module is in eval mode, as it was told to be."""
        left = self.view.training()
        if left:
            self.doubt("training", what=_names(left))

    def _form(self) -> None:
        """What it answers is float32 logits, all of them numbers, also a little beside the test images."""
        clean, near = self.ask(self.x), self.ask(self._near())
        bad = ~(clean.isfinite().all(1) & near.isfinite().all(1))
        if bad.any():
            self.doubt("not-a-number", bad, share=_share(bad))
        if bool((clean >= 0).all()) and bool(((clean.sum(1) - 1).abs() < 1e-3).all()):
            self.doubt("distribution")
        kept = self.x[: self.subject.tile].clone()
        with torch.no_grad():
            dtype = self.module(kept).dtype
        self.more[0] += len(kept)
        if dtype in {torch.float16, torch.bfloat16}:
            self.doubt("coarse", what=str(dtype).removeprefix("torch."))
        changed = (kept != self.x[: len(kept)]).flatten(1).any(1)
        if changed.any():
            self.doubt("writes", changed)

    def _near(self) -> Tensor:
        """The images with noise of 0.03, in [0, 1]."""
        noise = 2 * self.draws.at("near").uniform(*self.x.shape[1:]) - 1
        return (self.x + NOISE * noise).clamp(0, 1)

    def _is_a_function(self, before: Mapping[str, str]) -> bool:
        """Whether it answers the same again, alone or in company, and is the same afterwards."""
        if self.subject.random:
            return True
        with self.view.differentiations() as backwards:
            first = self.ask(self.x).nan_to_num()
            again = self.ask(self.x).nan_to_num()
        if backwards():
            self.doubt("dynamic", backwards=float(backwards()))
        scale = first.abs().max().clamp_min(1e-12)
        moved = (again - first).abs().amax(1) > AGAIN * scale
        if moved.any():
            self.doubt("fickle", moved, share=_share(moved))
        else:
            self._company(first, float(scale))
        late = (self.ask(self.x).nan_to_num() - first).abs().amax(1) > AGAIN * scale
        if late.any() and not moved.any():
            self.doubt("fickle", late, share=_share(late))
        changed = [name for name, now in self.view.fingerprints().items() if before.get(name) != now]
        if changed:
            self.doubt("state", what=_names(changed))
        return not ({"fickle", "mixes", "dynamic"} & {doubt.code for doubt in self.found})

    def _company(self, first: Tensor, scale: float) -> None:
        """Each image in reversed order, some of seven, some alone: the same answer."""
        strange = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        strange |= (self.ask(self.x.flip(0)).flip(0).nan_to_num() - first).abs().amax(1) > BESIDE * scale
        with torch.no_grad():  # without padding: these are the batches that a user of the model would pass
            for rows in (slice(0, 7), slice(7, 8), slice(8, 9)):
                if not len(self.x[rows]):
                    continue
                try:
                    alone = logits_of(self.module, self.x[rows].clone()).nan_to_num()
                except ModelError:  # it answered when there were more
                    strange[rows] = True
                    continue
                self.more[0] += len(alone)
                strange[rows] |= (alone - first[rows]).abs().amax(1) > 10 * BESIDE * scale
        if strange.any():
            self.doubt("mixes", strange, share=_share(strange))

    def _gradients(self) -> None:
        """Of the margin and of the cross-entropy, at the images and beside them: none is exactly zero."""
        clean, near, moved = self.x, self._near(), self.x.roll((1, 1), (2, 3))
        label = self.ask(clean).nan_to_num().argmax(1)
        flat, dark = (
            torch.stack([self._zero(x, label, loss) for x in (clean, near)]).any(0) for loss in (margin, cross_entropy)
        )
        self.figures["zero_gradients_of_margin"] = _share(flat)
        self.figures["zero_gradients_of_cross_entropy"] = _share(dark)
        if _many(flat, FEW):
            here = self._zero(clean, label, margin)
            there = self._zero(moved, self.ask(moved).nan_to_num().argmax(1), margin)
            if _share(here) > 0.5 > 2 * _share(there):
                self.doubt("recognises", here, share=_share(here), share_when_moved=_share(there))
            self.doubt("flat", flat, share=_share(flat))
        elif _many(dark, FEW):
            self.doubt("underflow", dark, share=_share(dark))
        with_grad = self.meter(clean.clone().requires_grad_()).detach().nan_to_num()
        plain = self.ask(clean).nan_to_num()
        apart = (with_grad - plain).abs().amax(1) > AGAIN * plain.abs().max()
        if apart.any() and not self.subject.random:
            self.doubt("dynamic", apart, share=_share(apart))

    def _zero(self, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """At which images the gradient of a loss is exactly zero."""
        _, _, grad = self.meter.gradient(x, y, loss)
        return ~grad.nan_to_num(1.0).flatten(1).any(1)

    def _jumps(self) -> None:
        """A step of 1/255 in the middle pixel changes little."""
        middle = self.x.shape[2] // 2
        moved = self.x.clone()
        inward = torch.where(moved[:, 0, middle, middle] < 0.5, 1 / 255, -1 / 255)
        moved[:, 0, middle, middle] += inward
        first, then = self.ask(self.x).nan_to_num(), self.ask(moved).nan_to_num()
        jump = (then - first).abs().amax(1) / _spread(first)
        self.figures["largest_jump_of_one_pixel"] = float(jump.max())
        if _many(jump > JUMP, FEW):
            self.doubt("jumps", jump > JUMP, share=_share(jump > JUMP), largest=float(jump.max()))

    def _slopes(self) -> None:
        """Autograd's slopes beside central differences: along random directions and along the gradient's signs."""
        stand_in = self.view.stands_in()
        if stand_in or self.subject.random:
            # Its gradients are a stand-in's, and say so; of random answers there is no difference to take.
            self.figures |= {"stand_in": float(stand_in), "random": float(self.subject.random)}
            return
        x = self.x[: max(1, len(self.x) // 2)].clamp(
            2 * NOISE, 1 - 2 * NOISE
        )  # away from the edges of the box, where clamps may bend
        function, precise = self._exact(x)
        step, tolerance = (STEP, TOLERANCE) if precise else (COARSE_STEP, COARSE_TOLERANCE)
        error, leap = self._slope_errors(function, x.double() if precise else x, step)
        wrong = error > tolerance
        self.figures["gradient_honesty"] = 1 - _share(wrong)
        self.figures["gradient_error"] = float(error.median())
        self.figures["float64"] = float(precise)
        rough = leap > LEAST_LEAP
        self.figures["rough"] = _share(rough)
        self.figures["largest_leap"] = float(leap.max())
        if _many(rough, ODD):
            self.doubt("rough", rough, share=_share(rough), largest=float(leap.max()))
        elif _many(wrong, ODD):
            self.doubt("dishonest", wrong, share=_share(wrong), median_error=float(error.median()))

    def _exact(self, x: Tensor) -> tuple[Callable[[Tensor], Tensor], bool]:
        """The model in float64, where it answers there as in float32; else as it is; and which."""
        try:
            double = copy.deepcopy(self.module).double()
            with torch.no_grad():
                logits, plain = double(x[:4].double()), self.module(x[:4].clone()).float()
            self.more[0] += 2 * len(x[:4])
            close = (logits.float() - plain).abs().max() <= 1e-3 * plain.abs().max().clamp_min(1e-12)
            if logits.dtype == torch.float64 and bool(close):
                return double, True
        except Exception:  # noqa: BLE001, S110  whatever it is, the model can be asked in float32
            pass
        return self.module, False

    def _slope_errors(self, function: Callable[[Tensor], Tensor], x: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Of each image: the relative error of autograd's slopes, and by how much the answer jumps from them nearby."""
        tile = self.subject.tile

        def logits(x: Tensor) -> Tensor:
            self.more[0] += len(x)
            return torch.cat([function(part.clone()) for part in x.split(tile)])

        with torch.no_grad():
            pair = logits(x).topk(2).indices

        def value(x: Tensor, times: int = 1) -> Tensor:
            picked = logits(x).gather(1, pair.repeat(times, 1))
            return picked[:, 0] - picked[:, 1]

        def slope(x: Tensor) -> Tensor:
            point = x.detach().clone().requires_grad_()
            self.more[1] += len(x)
            total = value(point).sum()
            found = torch.autograd.grad(total, point, allow_unused=True)[0] if total.requires_grad else None
            return torch.zeros_like(point) if found is None else found

        grad = slope(x)
        draws = self.draws[: len(x)]
        ways = [draws.at("way", step=k).sign(*x.shape[1:]).to(x.dtype) for k in range(DIRECTIONS)] + [grad.sign()]
        way = torch.cat(ways)
        times = len(ways)
        with torch.no_grad():
            there, back = (value((x.repeat(times, 1, 1, 1) + s * step * way), times) for s in (1, -1))
        hand = ((there - back) / (2 * step)).view(times, -1)
        auto = torch.stack([per_image_sum(grad * w) for w in ways])
        size = torch.maximum(hand.norm(dim=0), auto.norm(dim=0))
        error = (hand - auto).norm(dim=0) / size.where(size > 0, 1.0)
        return error.nan_to_num(1.0).float(), self._leaps(x.float(), pair, grad)

    def _leaps(self, x: Tensor, pair: Tensor, grad: Tensor) -> Tensor:
        """The largest change of each image's answer, a tiny way off, that its slope does not foresee, in spreads."""
        first = self.ask(x)

        def value(logits: Tensor) -> Tensor:
            picked = logits.gather(1, pair)
            return picked[:, 0] - picked[:, 1]

        most = torch.zeros(len(x), device=x.device)
        for k in range(LEAPS):
            way = self.draws[: len(x)].at("leap", step=k).sign(*x.shape[1:])
            foreseen = LEAP * per_image_sum(grad * way.to(grad.dtype)).float()
            change = value(self.ask(x + LEAP * way)) - value(first)
            most = most.maximum((change - foreseen).abs() / _spread(first))
        return most.nan_to_num(1.0)

    def _holds_images(self) -> None:
        """No weight, buffer or attribute holds a test image."""
        wanted = self.x[:8].flatten(1)
        wanted = wanted[wanted.amax(1) > wanted.amin(1)]  # a blank image is in many a tensor
        held = self.view.holding(wanted)
        if held:
            self.doubt("holds-images", what=_names(held))


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{j != y} z_j: (N,)."""
    return logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log of the class's probability: (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def drifted(subject: Subject, x: Tensor, before: Tensor) -> bool:
    """Whether the model answers otherwise than before, when it was asked about the same images."""
    now = answers(subject, x)
    return bool(((now - before).abs().amax(1) > AGAIN * before.abs().max().clamp_min(1e-12)).any())


def answers(subject: Subject, x: Tensor) -> Tensor:
    """The model's logits of images, with zeros where they are no numbers: one forward an image."""
    return Victim(subject.module, tile=subject.tile, access="scores", images=len(x))(x).nan_to_num()


def _spread(logits: Tensor) -> Tensor:
    """The largest logit less the smallest: (N,)."""
    return (logits.amax(1) - logits.amin(1)).clamp_min(1e-12)


def _share(which: Tensor) -> float:
    return float(which.float().mean()) if len(which) else 0.0


def _many(which: Tensor, share: float) -> bool:
    """Whether it is more than this share of the images, and more than one, unless there are very few."""
    return int(which.sum()) > max(share * len(which), 1 if len(which) > 4 else 0)


def _names(names: list[str], most: int = 3) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
