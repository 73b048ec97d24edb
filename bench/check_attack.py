"""The conformance test of an attack: its contract, under every layout of a batch and every size of a problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.draws import Draws
from bench.errors import RampartError
from bench.evaluate import Subject, Verdict, judge
from bench.exam import Part, Shape
from bench.faults import Findings, drawn, place_of, places
from bench.recipe import Attack, Recipe
from bench.request import passes
from bench.threat import ThreatModel
from bench.victim import Victim, freeze

if TYPE_CHECKING:
    from bench.threat import Norm

EPS: dict[Norm, str] = {"linf": "0.1", "l2": "0.5", "l1": "4", "l0": "3"}
USUAL = Shape(10, 1, 8)
ODD = {"two classes": Shape(2, 1, 8), "one pixel": Shape(10, 1, 1), "three channels of odd size": Shape(5, 3, 7)}
CPU = torch.device("cpu")
TILE = 32
LONG = 2000  # passes an image, from which on fewer images are asked

BATCH_WHY = (
    "a verdict may depend on its image alone: else numbers change with --batch, with workers and with every resume"
)
BATCH_MEND = (
    "take all randomness from `draws`, combine nothing across images, sum over pixels with bench.per_image_sum, and "
    "drop finished images by model[keep], x[keep], y[keep], draws[keep]"
)


class Curved(nn.Module):
    """A smooth model whose weights are drawn; with `shift` no image within reach can be misread."""

    def __init__(self, shape: Shape, shift: float = 0.0) -> None:
        super().__init__()
        inside = shape.channels * shape.size**2
        generator = torch.Generator().manual_seed(inside + shape.classes)
        self.first = nn.Parameter(torch.randn(32, inside, generator=generator) / inside**0.5)
        self.last = nn.Parameter(torch.randn(shape.classes, 32, generator=generator))
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        inside = F.linear(3 * (x.flatten(1) - 0.5), self.first)
        # Softsign, since the last bits of a tanh depend on a value's place in memory.
        logits = F.linear(inside / (1 + inside.abs()), self.last)
        sure = torch.zeros_like(logits)
        sure[:, 0] = self.shift
        return logits + sure


def check_attack(recipe: Recipe) -> Findings:
    """Run the attack on small smooth models and see whether it keeps what the bench promises of verdicts."""
    plugin = recipe.plugin
    assert isinstance(plugin, Attack)
    found = Findings("attack", str(recipe), place_of(plugin))
    if plugin.surrogates:
        found.skipped.append(f"it needs the weights of another model ({', '.join(plugin.surrogates)})")
        return found
    if not plugin.norms:
        _norm(found, recipe, None)
    long = sum(passes(recipe, USUAL)) >= LONG
    for k, norm in enumerate(plugin.norms):
        _norm(found, recipe, norm, brief=long and k > 0)
    return found


def _norm(found: Findings, recipe: Recipe, norm: Norm | None, *, brief: bool = False) -> None:
    """All checks under one norm; where the first fails the others say nothing.  brief: only that it runs."""
    plugin = recipe.plugin
    assert isinstance(plugin, Attack)
    threat = ThreatModel.parse(f"{norm}:{EPS[norm]}") if norm else None
    if threat is not None and plugin.goal == "minimum-norm":
        threat = threat.without_bound
    case = _Case(found, recipe, threat, norm or "no norm")
    if USUAL.classes < plugin.least_classes:
        found.skipped.append(f"it needs {plugin.least_classes} classes")
        return
    case.whole = case.run("it runs", USUAL)
    if case.whole is None or brief:
        return
    case.layouts()
    case.repeats()
    case.inputs()
    if threat is not None and plugin.goal == "in-ball":
        case.nothing_to_spend()
    case.few()
    for words, shape in ODD.items():
        if shape.classes >= plugin.least_classes and (words == "one pixel" or not case.long):
            case.run(words, shape)
    case.cost()


class _Case:
    """An attack under a norm."""

    def __init__(self, found: Findings, recipe: Recipe, threat: ThreatModel | None, norm: str) -> None:
        self.found, self.recipe, self.threat, self.norm = found, recipe, threat, norm
        self.whole: Verdict | None = None  # on all images at once
        self.long = sum(passes(recipe, USUAL)) >= LONG
        self.n = 2 if self.long else 10

    def judged(
        self, shape: Shape = USUAL, *, batch: int = 64, order: Tensor | None = None, threat: ThreatModel | None = None,
        shift: float = 0.0, part: Part | None = None,
    ) -> Verdict:  # fmt: skip
        """The judge's verdict; the images that the model reads right, and one that it does not."""
        module = freeze(Curved(shape, shift), CPU)
        part = part or labelled(module, shape, self.n)
        order = torch.arange(len(part)) if order is None else order
        return judge(
            Subject(module, TILE), self.recipe, threat or self.threat, part, order, seed=7, batch=batch, device=CPU
        )

    def run(self, words: str, shape: Shape) -> Verdict | None:
        """The contract: images of the right shape, in the ball and the box, numbers, and no exception."""
        try:
            verdict = self.judged(shape)
        except RampartError as error:
            self.found.fault(
                "contract", str(error).replace("; no record was written", ""), self._where(shape),
                "the bench writes no record of an attack that fails: its column stays empty",
                _mend(str(error)),
            )  # fmt: skip
            return None
        self._passed(words)
        return verdict

    def layouts(self) -> None:
        """Alone, by sevens, all together and in reversed order: the same verdicts."""
        whole = self.whole
        assert whole is not None
        back = torch.arange(self.n).flip(0)
        for words, other in (
            ("one at a time", lambda: self.judged(batch=1)),
            ("in batches of 7", lambda: self.judged(batch=7)),
            ("in reversed order", lambda: _ordered(self.judged(order=back), back)),
        ):
            if self.long and words == "in batches of 7":  # there are two images
                continue
            if self._differs(whole, other, f"differ when images come {words}", BATCH_WHY, BATCH_MEND, "batch"):
                return
        self._passed("batch independence")

    def repeats(self) -> None:
        """The same seed, the same answer, whatever torch's and numpy's own generators are at."""
        whole = self.whole
        assert whole is not None

        def again() -> Verdict:
            with torch.random.fork_rng(devices=[]), _numpy_kept():
                torch.manual_seed(12345)
                np.random.seed(54321)  # noqa: NPY002  the generator that an attack must not use
                return self.judged()

        if not self._differs(
            whole, again, "differ between two runs of one seed",
            "nobody can repeat such a number, and a resumed run mixes two",
            "take all randomness from `draws`: draws.at('name').uniform(*shape), never torch.rand or numpy.random",
            "seed",
        ):  # fmt: skip
            self._passed("one seed, one answer")

    def inputs(self) -> None:
        """The images and labels that it is given are left as they are."""
        module = freeze(Curved(USUAL), CPU)
        part = labelled(module, USUAL, self.n)
        x, y = torch.from_numpy(part.x.copy()).float() / 255, torch.from_numpy(part.y.copy())
        assert isinstance(self.recipe.plugin, Attack)
        kept = x.clone(), y.clone()
        victim = Victim(module, tile=TILE, access=self.recipe.plugin.access, images=len(x))
        with torch.enable_grad():
            self.recipe.plugin.function(
                victim, x, y, self.threat, Draws(7, torch.arange(len(x)), self.recipe.name), **self.recipe.settings
            )
        if not (torch.equal(x, kept[0]) and torch.equal(y, kept[1])):
            self.found.fault(
                "writes", "it writes into the images or labels that it is given", self._where(USUAL),
                "an attack that is called from another one, or by a person, spoils what they go on with",
                "begin with x_adv = x.clone(), and use no operation in place (a name that ends in _) on x or y",
            )  # fmt: skip
        else:
            self._passed("inputs are left alone")

    def nothing_to_spend(self) -> None:
        """At eps = 0 there is one image in the ball."""
        assert self.threat is not None
        try:
            at_zero = self.judged(threat=replace(self.threat, eps=self.threat.eps * 0))
        except RampartError as error:
            what = str(error).replace("; no record was written", "")
        else:
            right = at_zero.predicted == torch.tensor(labelled(freeze(Curved(USUAL), CPU), USUAL, self.n).y)
            if torch.equal(at_zero.fell, ~right) and not at_zero.distance.any():
                self._passed("eps = 0 changes nothing")
                return
            what = "it changes images at eps = 0"
        self.found.fault(
            "eps-0", what, f"{self.norm}, eps 0, images 1x8x8",
            "robust accuracy at eps = 0 is clean accuracy; an attack that says otherwise is wrong at every eps",
            "return x where threat.eps is 0, or end with threat.project(x_adv, x)",
        )  # fmt: skip

    def few(self) -> None:
        """One image, and none."""
        module = freeze(Curved(USUAL), CPU)
        part = labelled(module, USUAL, self.n)
        try:
            self.judged(part=Part(part.x[:1], part.y[:1]))
        except RampartError as error:
            self.found.fault(
                "one", str(error), f"{self.norm}, one image alone", "the last batch of a data set may be one image",
                "write x[:, 0] and not x.squeeze(): an axis of length 1 is still an axis",
            )  # fmt: skip
            return
        self._passed("one image")

    def cost(self) -> None:
        """What it spends on images that never fall is what it says."""
        plugin = self.recipe.plugin
        assert isinstance(plugin, Attack)
        if plugin.cost is None:
            self.found.skipped.append(
                "what it costs: it declares no cost=…, so bench plan cannot say how long it takes"
            )
            return
        said = passes(self.recipe, USUAL)
        part = drawn(USUAL, self.n)
        verdict = self.judged(shift=40.0, part=Part(part.x, np.zeros(self.n, np.int64)))
        if verdict.fell.any():
            self.found.skipped.append("what it costs: images fell that no attack within the ball fells")
            return
        spent = [round(float(v.double().mean())) for v in (verdict.forwards, verdict.backwards)]
        if spent[0] > said[0] * 1.02 + 1 or spent[1] > said[1] * 1.02 + 1:
            self.found.fault(
                "cost",
                f"it spends {spent[0] - 1:,} forwards and {spent[1]:,} backwards on an image that never falls, and "
                f"declares {said[0] - 1:,} and {said[1]:,}",
                self._where(USUAL),
                "bench plan tells people how long a run takes, and boards compare attacks at equal cost",
                "mend cost=lambda …: (forwards, backwards), without the judge's own pass",
            )
        else:
            self._passed("its cost is what it declares")

    def _differs(
        self, whole: Verdict, other: Callable[[], Verdict], words: str, why: str, mend: str, code: str
    ) -> bool:
        """Whether another run says something else; a fault names the images."""
        try:
            verdict = other()
        except RampartError as error:
            self.found.fault(code, str(error), self._where(USUAL), why, mend)
            return True
        apart = torch.zeros(len(whole.fell), dtype=torch.bool)
        for name in ("fell", "predicted", "margin", "distance", "forwards", "backwards"):
            one, two = getattr(whole, name), getattr(verdict, name)
            apart |= (one != two) & ~(one.isnan() & two.isnan() if one.is_floating_point() else apart & False)
        if apart.any():
            named = places(apart.nonzero()[:, 0].tolist())
            self.found.fault(code, f"its answers to {named} {words}", self._where(USUAL), why, mend)
        return bool(apart.any())

    def _where(self, shape: Shape) -> str:
        size = f"{shape.channels}x{shape.size}x{shape.size}"
        bound = f", {self.threat}" if self.threat is not None else ""
        return f"{self.n} images of {size} in {shape.classes} classes{bound}"

    def _passed(self, words: str) -> None:
        if words not in self.found.passed:
            self.found.passed.append(words)


def _mend(error: str) -> str:
    """What mends a breach of the contract."""
    for words, mend in {
        "leaves": "end with threat.project(x_adv, x): it keeps the ball and [0, 1]",
        "declares access": "declare what it needs: access='gradients', 'scores' or 'labels'",
        "not numbers": "look for divisions by zero: a gradient may be zero, and logits may be equal",
        "expected images": "return images shaped as x, float32, on its device",
    }.items():
        if words in error:
            return mend
    return "take images of any size and any number of classes that the decorator allows (least_classes=…)"


def labelled(module: nn.Module, shape: Shape, n: int) -> Part:
    """Random images with the classes that a model gives them, but for the last one's."""
    part = drawn(shape, n)
    with torch.no_grad():
        y = module(torch.from_numpy(part.x.copy()).float() / 255).argmax(1).numpy().copy()
    if n > 1:
        y[-1] = (y[-1] + 1) % shape.classes
    return Part(part.x, y)


def _ordered(verdict: Verdict, order: Tensor) -> Verdict:
    """A verdict in the order of its images; without the images themselves."""
    back = order.argsort()
    fields = {name: getattr(verdict, name) for name in Verdict.__dataclass_fields__}
    return Verdict(**{name: value if name == "adversarial" else value[back] for name, value in fields.items()})


@contextmanager
def _numpy_kept() -> Iterator[None]:
    """numpy's global generator is afterwards where it was."""
    state = np.random.get_state()  # noqa: NPY002  it is the global one that is meant
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
