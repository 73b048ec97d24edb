"""Checks of a model that attack it: do attacks find more when they are given more, and does luck find what they do not.

They ask a few dozen images what a strong attack would, so they are part of an escalation and of `bench check
--thorough`, never of what comes before every attack (arXiv:1902.06705, arXiv:2106.09947, arXiv:2206.13991).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.active import active
from bench.doubts import Doubt
from bench.draws import Draws
from bench.errors import AttackError
from bench.evaluate import Subject, Verdict, judge, misread
from bench.honesty import Checked, margin
from bench.recipe import Attack, Recipe
from bench.threat import ThreatModel
from bench.victim import Victim, small

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.exam import Part

VERSION = 1  # of these checks: raise it when their answers change
IMAGES, LARGE = (64, 64), (32, 8)  # the first of the test part, and of these for random search; of a large model
CLIMB = "pgd(steps=20, step=0.25, keep='any')"  # up the cross-entropy
MARGIN = "cw(steps=20, step={}, keep='any')"  # up the margin
NEAREST, LONGER, TARGETED = "apgd-dlr", "apgd-dlr(steps=200, restarts=2)", "apgd-t"
MINIMUM = "fmn(steps=100)"
UNIFORM, CORNERS = 10_000, 1_000  # random images of the ball, and of its edge
AT_ONCE = 512  # of these

SCALES, SCALED = (1e-3, 1e-1, 10.0, 100.0), 0.1  # constants on the logits; a share of the images
BUDGETS = (Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4))  # of eps; then the whole box
FELL_BACK = 0.02  # the share that stands at a budget and fell at a smaller one
UNREACHED = 0.02  # that stands in the whole box
NO_MINIMUM = 0.5  # without a minimum norm; honest MNIST models at 0.3, flat in large balls, leave a third
CONVERGED = 0.05  # by which twice the steps and restarts may lower the accuracy
TARGETS = 0.125  # likewise nine targets in place of the nearest class
STEPS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # of eps
ENDS = 0.05  # by which the best step at an end of these may be better than those between
SOLVED = 0.95  # of problems whose solution is known, that an attack must solve
RUGGED, HALF_WIDTH, LOOKS = 0.1, 4 / 255, 100  # a mean relative change of the margin, in a box of uniform noise
EOT, PLATEAU = (1, 2, 5, 10, 20), 0.05  # passes a gradient is the mean of; what the last doubling may still find

CHECKS = ("scale", "budgets", "convergence", "steps", "active", "landscape", "luck", "rounded")  # in this order
FOR_RANDOM = ("scale", "draws", "rounded")


def check_thoroughly(
    subject: Subject, part: Part, threat: ThreatModel, find: Callable[[str], Recipe], device: torch.device, *,
    most: int = 0, lucky: int = 0, only: Collection[str] = (),
) -> Checked:  # fmt: skip
    """Look at a model under a threat by the first images of a test part.

    find: an attack by its recipe.  most, lucky: images that are looked at, and that random search is asked about; 0 is
    as many as its size allows.
    only: the checks that are made, by name; all that fit where none is named.
    Attacks that do not search the threat's norm, or need more classes, are left out, and the checks that need them.
    """
    usual = IMAGES if small(subject.module) else LARGE
    checks = _Checks(subject, part, threat, find, device, most or usual[0], lucky or usual[1])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        checks.run(only)
    return Checked(tuple(checks.found), checks.figures, len(checks.all), checks.forwards, checks.backwards)


class _UnfitError(Exception):
    """An attack does not search this norm, or needs more classes."""


class _Checks:
    """The checks of one model, which share verdicts."""

    def __init__(
        self, subject: Subject, part: Part, threat: ThreatModel, find: Callable[[str], Recipe], device: torch.device,
        most: int, lucky: int,
    ) -> None:  # fmt: skip
        self.tile = subject.tile
        self.subject = replace(subject, tile=min(subject.tile, most), search=None)
        self.part, self.threat, self.find, self.device, self.lucky = part, threat, find, device, lucky
        self.found: list[Doubt] = []
        self.figures: dict[str, float] = {}
        self.forwards = self.backwards = 0
        self.known: dict[tuple[str, int, str, bytes], Verdict] = {}
        self.modules: list[nn.Module | None] = [None]  # by number in the names of verdicts
        self.all = torch.arange(min(most, len(part)))
        self.x = torch.from_numpy(part.x[: len(self.all)].copy()).to(device).float() / 255
        self.y = torch.from_numpy(part.y[: len(self.all)].copy()).to(device)
        logits, wrong = misread(self.subject, self.x, self.y)
        self.classes, self.right = logits.shape[1], ~wrong.cpu()
        self.size = float(margin(logits, self.y).abs().nan_to_num().median().clamp_min(1e-30))
        self.forwards += len(self.all)

    def run(self, only: Collection[str]) -> None:
        """Those that this model and threat admit; on a random model those that know randomness."""
        if not self.right.any():
            return
        fitting = FOR_RANDOM if self.subject.random else CHECKS
        for name in fitting:
            if only and name not in only:
                continue
            try:
                getattr(self, f"_{name}")()
            except _UnfitError:
                continue
            except AttackError:  # its backward raises, say: of that the checks before any attack tell
                self.figures[f"failed_{name}"] = 1.0

    def fell(
        self, attack: str, module: nn.Module | None = None, threat: ThreatModel | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Which of all images fell to an attack: (n,) bool; those that were misread to begin with are not asked."""
        verdict = self.verdict(attack, module, threat, rows)
        fell = torch.zeros(len(self.all), dtype=torch.bool)
        fell[verdict.asked[verdict.fell]] = True
        return fell

    def verdict(
        self, attack: str, module: nn.Module | None = None, threat: ThreatModel | None = None,
        rows: Tensor | None = None,
    ) -> Verdict:  # fmt: skip
        """The judge's, on another module or under another threat where these are given; the same is asked once."""
        if module not in self.modules:
            self.modules.append(module)
        asked = (self.right if rows is None else rows).nonzero()[:, 0]
        name = (attack, self.modules.index(module), str(threat or ""), asked.numpy().tobytes())
        if name not in self.known:
            recipe = self.find(attack)
            assert isinstance(recipe.plugin, Attack)
            if self.threat.norm not in recipe.plugin.norms or self.classes < recipe.plugin.least_classes:
                raise _UnfitError(attack)
            subject = self.subject if module is None else replace(self.subject, module=module)
            self.known[name] = verdict = judge(
                subject, recipe, threat or self.threat, self.part, asked, seed=0, batch=512, device=self.device
            )
            self.forwards += int(verdict.forwards.sum())
            self.backwards += int(verdict.backwards.sum())
        return self.known[name]

    def doubt(self, code: str, where: Tensor, **figures: float) -> None:
        """Take a doubt down, with the images where it shows."""
        self.found.append(Doubt(code, tuple(where.nonzero()[:, 0].tolist()), figures))

    def share(self, which: Tensor) -> float:
        """Of all images that are looked at."""
        return float(which.sum()) / len(self.all)

    def more(self, which: Tensor, share: float) -> bool:
        """Whether it is more than this share of the images, and more than two of them."""
        return int(which.sum()) > max(share * len(self.all), 2)

    def _scale(self) -> None:
        """PGD on the cross-entropy and APGD on the DLR, which has no scale, find the same when logits are rescaled."""
        scales = [*SCALES, 1 / self.size]  # the last brings the margins to 1
        modules = [_Times(self.subject.module, by) for by in scales]
        plain = self.fell(CLIMB)
        gains = [self.fell(CLIMB, module) & ~plain for module in modules]
        losses = [plain & ~self.fell(CLIMB, module) for module in modules]
        net = [int(gain.sum()) - int(loss.sum()) for gain, loss in zip(gains, losses, strict=True)]
        best = max(range(len(net)), key=net.__getitem__)
        self.figures["found_by_rescaling"] = max(0, net[best]) / len(self.all)
        if net[best] > max(SCALED * len(self.all), 2):
            self.doubt("scale", gains[best], by=scales[best], share=net[best] / len(self.all))
            return
        if self.subject.random:
            return
        still = self.fell("apgd-dlr(steps=20)")
        moved = [self.fell("apgd-dlr(steps=20)", module) ^ still for module in modules]
        most = max(range(len(moved)), key=lambda k: int(moved[k].sum()))
        self.figures["dlr_moved_by_rescaling"] = self.share(moved[most])
        if self.more(moved[most], SCALED):
            self.doubt("scale", moved[most], by=scales[most], share_of_dlr=self.share(moved[most]))

    def _budgets(self) -> None:
        """What falls at a budget falls at larger ones; in the whole box all does, to a climb and to a minimum norm."""
        box = ThreatModel("linf", Fraction(1)) if self.threat.norm == "linf" else None
        threats = [replace(self.threat, eps=self.threat.eps * by) for by in BUDGETS if self.threat.norm != "l0"]
        threats = [t for t in threats if box is None or t.eps < 1] + ([box] if box else [])
        before, back = torch.zeros_like(self.right), torch.zeros_like(self.right)
        standing = []
        for threat in threats:
            fell = self.fell(MARGIN.format(0.25), threat=threat)
            back |= before & ~fell
            standing.append(self.share(self.right & ~fell))
            before = fell
        self.figures |= {f"stand_at_{float(t.eps):.4g}": share for t, share in zip(threats, standing, strict=True)}
        rise = max((after - now for now, after in pairwise(standing)), default=0.0)
        far = self.right & ~before if box else torch.zeros_like(before)
        missing = self.right & ~self.fell(MINIMUM, threat=self.threat.without_bound)
        self.figures |= {"stand_in_the_box": self.share(far), "no_minimum_norm": self.share(missing)}
        if rise > max(FELL_BACK, 1.5 / len(self.all)):
            self.doubt("budget", back, rise=rise)
        elif self.more(far, UNREACHED) or self.more(missing, NO_MINIMUM):
            self.doubt("budget", far | missing, stand_in_the_box=self.share(far), no_minimum_norm=self.share(missing))

    def _convergence(self) -> None:
        """Twice the steps and restarts of APGD find little more, and so do its targets."""
        first, longer = self.verdict(NEAREST), self.verdict(LONGER)
        plain, more = self.fell(NEAREST), self.fell(LONGER)
        both = ~first.fell & ~longer.fell
        lower = 0.0
        if both.any():
            least = first.margin[both].mean().abs().clamp_min(1e-12)
            lower = float((first.margin[both].mean() - longer.margin[both].mean()) / least)
        self.figures |= {"found_by_twice_the_steps": self.share(more & ~plain), "margin_by_twice_the_steps": lower}
        if self.more(more & ~plain, CONVERGED):
            self.doubt("converges", more & ~plain, share=self.share(more & ~plain), margin=lower)
        targeted = self.fell(TARGETED)
        self.figures["found_by_targets"] = self.share(targeted & ~plain & ~more)
        if self.more(targeted & ~plain & ~more, TARGETS):
            self.doubt("targets", targeted & ~plain & ~more, share=self.share(targeted & ~plain & ~more))

    def _steps(self) -> None:
        """The best size of a step is neither the smallest nor the largest of those that are tried."""
        fell = [int(self.fell(MARGIN.format(step)).sum()) for step in STEPS]
        best = max(fell)
        self.figures["best_step"] = STEPS[fell.index(best)]
        over = (best - max(fell[1:-1])) / len(self.all)
        if over > max(ENDS, 1 / len(self.all)):
            end = STEPS[0] if fell[0] == best else STEPS[-1]
            only = self.fell(MARGIN.format(end)) & ~self.fell(MARGIN.format(STEPS[2]))
            self.doubt("step", only, step=end, share=over)

    def _active(self) -> None:
        """With a last layer for which a solution lies in the ball, attacks find one, and luck does not."""
        if self.threat.norm == "l0":
            return
        few = self.right.nonzero()[:, 0][: max(1, len(self.all) // 2)]
        there = few.to(self.device)
        draws = Draws(0, few.to(self.device), "active")
        find = self.find(MARGIN.format(0.25).replace("steps=20", "steps=100"))
        solved = active(self.subject, self.x[there], self.threat, draws, find, few)
        self.forwards += solved.forwards
        self.backwards += solved.backwards
        if not solved.posed.any():
            return
        posed = int(solved.posed.sum())
        rate, luck = (float((s & solved.posed).sum()) / posed for s in (solved.found, solved.lucky))
        self.figures |= {"solvable": posed / len(few), "solved": rate, "solved_by_luck": luck}
        missed = torch.zeros_like(self.right)
        missed[few[solved.posed & ~solved.found]] = True
        if rate < SOLVED and int(missed.sum()) > 1:
            self.doubt("active", missed, solved=rate, by_luck=luck)

    def _landscape(self) -> None:
        """A little uniform noise changes the margin little."""
        draws = Draws(0, self.all.to(self.device), "landscape")
        model = Victim(self.subject.module, tile=self.subject.tile, access="scores", images=len(self.all))
        first = margin(model(self.x), self.y)
        total = torch.zeros_like(first)
        for k in range(LOOKS):
            noise = (2 * draws.at(step=k).uniform(*self.x.shape[1:]) - 1) * HALF_WIDTH
            change = margin(model((self.x + noise).clamp(0, 1)), self.y) - first
            total += (change.abs() / first.abs().clamp_min(1e-12)).nan_to_num(1.0).clamp_max(1)
        self.forwards += (LOOKS + 1) * len(self.all)
        mean = (total / LOOKS).cpu()
        self.figures["ruggedness"] = float(mean[self.right].median())
        if self.figures["ruggedness"] > RUGGED:
            self.doubt("rugged", self.right & (mean > RUGGED), median=self.figures["ruggedness"])

    def _luck(self) -> None:
        """Random images of the ball fool it nowhere where gradients did not."""
        fell, asked = torch.zeros_like(self.right), False
        for attack in (CLIMB, *(MARGIN.format(step) for step in STEPS), NEAREST, LONGER, TARGETED):
            try:
                fell |= self.fell(attack)
            except (_UnfitError, AttackError):
                continue
            asked = True
        if not asked:  # luck finds more than nothing, which says nothing of gradients
            raise _UnfitError
        stands = (self.right & ~fell).nonzero()[:, 0][: self.lucky].tolist()
        lucky = torch.zeros_like(self.right)
        for image in stands:
            lucky[image] = any(self._fools(image, tries) for tries in self._tries(image))
        self.figures |= {"asked_at_random": float(len(stands)), "fell_at_random": float(lucky.sum())}
        if lucky.any():
            self.doubt("luck", lucky, share=self.share(lucky))

    def _tries(self, image: int) -> Iterator[Tensor]:
        """Random images of the ball of one image, then of its edge: (AT_ONCE or fewer, C, H, W) at a time."""
        x = self.x[image : image + 1]
        for begin in range(0, UNIFORM + CORNERS, AT_ONCE):
            count = min(AT_ONCE, UNIFORM + CORNERS - begin)
            ids = torch.arange(begin, begin + count, device=self.device)
            draws, many = Draws(image, ids, "luck"), x.expand(count, *x.shape[1:])
            edge = many + float(self.threat.eps) * self.threat.uphill(draws.at("edge").normal(*x.shape[1:]))
            inside = (ids < UNIFORM).view(-1, 1, 1, 1)
            yield torch.where(inside, self.threat.random(many, draws), self.threat.project(edge, many))

    def _fools(self, image: int, tries: Tensor) -> bool:
        """Whether one of these images is misread."""
        _, wrong = misread(replace(self.subject, tile=self.tile), tries, self.y[image].expand(len(tries)))
        self.forwards += len(tries)
        return bool(wrong.any())

    def _draws(self) -> None:
        """Gradients that are means of more passes find no more; with its randomness held it falls at least as often."""
        fell = [self.fell(f"pgd(steps=20, step=0.25, eot={eot})") for eot in EOT]
        held = self.fell(CLIMB, _Held(self.subject.module))
        self.figures |= {f"stand_at_eot_{eot}": self.share(self.right & ~f) for eot, f in zip(EOT, fell, strict=True)}
        self.figures["stand_held"] = self.share(self.right & ~held)
        more = self.share(fell[-1]) - self.share(fell[-2])
        less = self.share(fell[-1]) - self.share(held)
        if max(more, less) > max(PLATEAU, 1 / len(self.all)):
            where = fell[-1] & ~(fell[-2] if more > less else held)
            self.doubt("draws", where, by_twice_the_draws=more, by_randomness=less)

    def _rounded(self) -> None:
        """Of the images that fell, those that still do when they are stored in 8 bits: a figure, no doubt."""
        plain = [v for (attack, module, threat, _), v in self.known.items() if not module and not threat]
        for verdict in plain:
            if not verdict.fell.any():
                continue
            y = self.y[verdict.asked[verdict.fell].to(self.device)]
            rounded = (verdict.adversarial.to(self.device) * 255).round() / 255
            _, wrong = misread(self.subject, rounded, y)
            self.forwards += len(y)
            self.figures["fell_in_8_bits"] = float(wrong.float().mean())
            return


class _Times(nn.Module):
    """A model whose logits are multiplied."""

    def __init__(self, base: nn.Module, by: float) -> None:
        super().__init__()
        self.base, self.by = base, by

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.base(x)
        return logits * self.by


class _Held(nn.Module):
    """A random model with the same random numbers at each call."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(0)
            logits: Tensor = self.base(x)
        return logits
