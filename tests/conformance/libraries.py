"""Our attacks beside those of foolbox and adversarial-library, where these are right: the last section of the page."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import ThreatModel
from bench.evaluate import Subject, images, judge
from bench.registry import plugins
from bench.victim import Victim, tile_size
from tests.conformance.scene import CPU, IMAGES, Counted, Scene, kept, places

TITLE = "## Beside foolbox and adversarial-library"
MODULES = {"foolbox": "foolbox", "adv-lib": "adv_lib"}  # distributions, and what they are imported as
EPS = 0.3
SEEDS = range(3)
SAME = 0.01  # distances that differ by no more than this share count as equal

INTRODUCTION = """\
Attacks of `foolbox` and of adversarial-library (`adv-lib` on the index) beside ours with equal settings, where the
libraries are right, on the MNIST net above and its first {count} test images.  FMN is compared in Linf alone: in L2
`foolbox` does not project at all, and `adv-lib` always rescales to the radius.  All images that the libraries return
are judged as ours are: asked again of the bare net, and where misread measured in float64.  They saw all images in
one batch.  Passes are an image's, in the mean; ours include the judge's."""

DEVIATIONS = """\
Where ours deviate on purpose:

- `fmn` takes the estimated distance to the boundary 1e-6 longer, so that iterates do not hover before it.
- `ddn` steps a length of 1 in a random direction where the gradient is zero, as `foolbox` does; there the step of
  `adv-lib` is not normalised.  All are compared without rounding to 256 levels, the default of `adv-lib`.
- `deepfool` asks about the last step's image too, so `adv-lib` is given one step more, and does not take gradients
  below 1e-6 for longer ones.  It asks about every iterate before it pays for gradients there.
- `pgd(keep='any')` stops an image at its first misread iterate, and asks about the start and all iterates; `adv-lib`
  goes on, and does not ask about the last one, so it is given one step more.  `foolbox` keeps the last image alone."""


@dataclass(frozen=True)
class Theirs:
    """An attack of a library, and its settings."""

    library: str
    name: str
    settings: dict[str, Any]
    eps: float | None = None  # what foolbox is given when it runs

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the library makes of the images."""
        if self.library == "adv-lib":
            attacks = importlib.import_module("adv_lib.attacks")
            return getattr(attacks, self.name)(module, x, y, **self.settings)
        foolbox = importlib.import_module("foolbox")
        # Not called but run: a call with an eps clips what was found, and asks again.
        attack = getattr(foolbox.attacks, self.name)(**self.settings)
        bound = {} if self.eps is None else {"epsilon": self.eps}
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
        return attack.run(model, x, foolbox.criteria.Misclassification(y), **bound)

    def __str__(self) -> str:
        """As a table names it."""
        settings = self.settings if self.eps is None else {"eps": self.eps} | self.settings
        return f"`{self.library}` `{self.name}({', '.join(f'{k}={v}' for k, v in settings.items())})`"


@dataclass(frozen=True)
class Pair:
    """An attack of ours, its norm, and what a library calls the same."""

    ours: str
    norm: str
    theirs: Theirs

    @property
    def threat(self) -> ThreatModel:
        """The threat of ours: without bound but for PGD."""
        return ThreatModel.of_cell(f"{self.norm}:{EPS}" if self.ours.startswith("pgd") else self.norm)


FMN = "fmn(steps=100, alpha=1)"
DDN = "ddn(steps=100, gamma=0.05, start=1, levels=0)"
DEEPFOOL = "deepfool(steps=50, overshoot=0.02)"
NEAREST = (
    Pair(FMN, "linf", Theirs("foolbox", "LInfFMNAttack", {"steps": 100, "max_stepsize": 1.0, "gamma": 0.05})),
    Pair(FMN, "linf", Theirs("adv-lib", "fmn", {"norm": math.inf, "steps": 100, "α_init": 1.0, "γ_init": 0.05})),
    Pair(DDN, "l2", Theirs("foolbox", "DDNAttack", {"steps": 100, "gamma": 0.05, "init_epsilon": 1.0})),
    Pair(DDN, "l2", Theirs("adv-lib", "ddn", {"steps": 100, "γ": 0.05, "init_norm": 1.0, "levels": None})),
    Pair(DEEPFOOL, "l2", Theirs("adv-lib", "df", {"steps": 51, "overshoot": 0.02, "norm": 2})),
    Pair(DEEPFOOL, "linf", Theirs("adv-lib", "df", {"steps": 51, "overshoot": 0.02, "norm": math.inf})),
)
IN_BALL = (
    Pair(
        "pgd(steps=20, step=0.25)", "linf",
        Theirs("foolbox", "LinfPGD", {"steps": 20, "abs_stepsize": EPS / 4, "random_start": True}, EPS),
    ),
    Pair(
        "pgd(steps=20, step=0.25, keep='any')", "linf",
        Theirs("adv-lib", "pgd_linf", {"ε": EPS, "steps": 21, "absolute_step_size": EPS / 4}),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """How far each image was moved, inf where it is read right, and what the run spent."""

    distances: list[float]
    forwards: int
    backwards: int

    @property
    def standing(self) -> set[int]:
        """Places of the images that are read right."""
        return {i for i, distance in enumerate(self.distances) if math.isinf(distance)}


def ours(scene: Scene, pair: Pair, seed: int) -> Found:
    """What our attack finds, by the judge."""
    subject = Subject(scene.module, tile_size(CPU, scene.module))
    recipe, asked = plugins().parse("attack", pair.ours), torch.arange(len(scene.part))
    done = judge(subject, recipe, pair.threat, scene.part, asked, seed=seed, batch=IMAGES, device=CPU)
    distances = done.distance.where(done.fell, torch.inf).tolist()
    return Found(distances, int(done.forwards.sum()), int(done.backwards.sum()))


def theirs(scene: Scene, pair: Pair, seed: int) -> Found:
    """What the library's attack finds, by the judge's rules; what rounding left outside the box is brought back."""
    x, y = images(scene.part, torch.arange(len(scene.part)), CPU)
    counted = Counted(scene.module).eval()
    torch.manual_seed(seed)
    moved = pair.theirs(counted, x, y).detach()
    size = pair.threat.size(moved.double() - x.double())
    if not pair.threat.holds(size).all() or (moved - moved.clamp(0, 1)).abs().max() > 1e-6:
        raise SystemExit(f"{pair.theirs} left the ball {pair.threat} or the box")
    judged = moved.clamp(0, 1)
    logits = Victim(scene.module, tile=tile_size(CPU, scene.module), access="scores", images=len(x))(judged)
    size = pair.threat.size(judged.double() - x.double())
    return Found(size.where(logits.argmax(1) != y, torch.inf).tolist(), *counted.counts)


def both(scene: Scene, cache: Path, pair: Pair, seed: int) -> tuple[Found, Found]:
    """What ours and the library's find, run now if they were not run before."""
    key, version = plugins().parse("attack", pair.ours).key, importlib.metadata.version(pair.theirs.library)
    norm = {"threat": str(pair.threat)}
    mine = scene.named("native", [key, f"tiles of {tile_size(CPU, scene.module)}"], seed) | norm
    other = scene.named(pair.theirs.library, [str(pair.theirs), version], seed) | norm
    return (
        kept(cache, {"distances": mine}, partial(ours, scene, pair, seed), Found),
        kept(cache, {"distances": other}, partial(theirs, scene, pair, seed), Found),
    )


def installed(library: str) -> bool:
    """Whether it is there; one that is there and cannot be imported is an error."""
    try:
        importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return False
    importlib.import_module(MODULES[library])
    return True


def section(scene: Scene, cache: Path, machine: str) -> list[str]:
    """What the page says about attacks of other libraries."""
    there = [name for name in MODULES if installed(name)]
    lines = [TITLE]
    for name in MODULES:
        if name not in there:
            lines += ["", f"Not compared with `{name}`, which was not installed."]
    if not there:
        return lines
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in (*there, "torch"))
    lines += ["", *INTRODUCTION.format(count=len(scene.part)).splitlines()]
    lines += [f"Measured on one thread of {machine}, with {versions}.", ""]
    lines += nearest(scene, cache, [pair for pair in NEAREST if pair.theirs.library in there])
    lines += ["", *in_ball(scene, cache, [pair for pair in IN_BALL if pair.theirs.library in there])]
    return [*lines, "", *DEVIATIONS.splitlines()]


def nearest(scene: Scene, cache: Path, pairs: list[Pair]) -> list[str]:
    """The tables of the attacks that look for the nearest misread image."""
    rows, differences = [], []
    for pair in pairs:
        mine, other = both(scene, cache, pair, seed=0)
        for name, found in ((f"`{pair.ours}`", mine), (str(pair.theirs), other)):
            count = len(found.distances)
            rows.append(
                f"| {pair.norm} | {name} | {count - len(found.standing)} | {statistics.median(found.distances):.5f} "
                f"| {found.forwards / count:.1f} / {found.backwards / count:.1f} |"
            )
        shares = [a / b - 1 for a, b in zip(mine.distances, other.distances, strict=True) if math.isfinite(max(a, b))]
        further, nearer = sum(s > SAME for s in shares), sum(s < -SAME for s in shares)
        differences.append(
            f"| `{pair.ours.partition('(')[0]}`, {pair.norm} | {pair.theirs.library} "
            f"| {places(mine.standing ^ other.standing)} | {statistics.median(map(abs, shares)):.1e} "
            f"| {min(shares):+.1e} | {max(shares):+.1e} | {nearer} | {further} |"
        )
    return [
        "| norm | attack | found | median distance | forwards / backwards |",
        "|---|---|---|---|---|",
        *dict.fromkeys(rows),  # ours once, also beside two libraries
        "",
        "The relative difference of the distances of an image that both found, ours over the library's less one; and",
        f"how many images ours moved less (nearer), or more (further), by over {SAME:.0%}:",
        "",
        "| ours | beside | found by one alone | median size | least | largest | nearer | further |",
        "|---|---|---|---|---|---|---|---|",
        *differences,
    ]


def in_ball(scene: Scene, cache: Path, pairs: list[Pair]) -> list[str]:
    """The table of the attacks within eps, seed by seed."""
    lines = [
        f"| images left standing, linf:{EPS} | " + " | ".join(f"seed {s}" for s in SEEDS) + " | always | changing |",
        "|---|" + "---|" * (len(SEEDS) + 2),
    ]
    for pair in pairs:
        runs = [both(scene, cache, pair, seed) for seed in SEEDS]
        for name, column in ((f"`{pair.ours}`", 0), (str(pair.theirs), 1)):
            left = [run[column].standing for run in runs]
            always, changing = set.intersection(*left), set.union(*left) - set.intersection(*left)
            counts = " | ".join(str(len(s)) for s in left)
            lines.append(f"| {name} | {counts} | {len(always)} | {places(changing)} |")
    return lines
