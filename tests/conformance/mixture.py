"""Two Gaussian classes of unequal variance: what each class risks, in closed form, without an attack and under one.

The setting is that of Appendix A of VIR (arXiv:2307.07167), after Xu et al. (arXiv:2010.06121): class -1 is
N(-mean, sd^2 I) and class +1 is N(+mean, (ratio sd)^2 I) in d values, all of whose means are alike.  By symmetry the
best linear classifier weighs all values alike, so that only its threshold is to be found; an Linf adversary then moves
each mean by eps towards the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from leaderboard.drawing import Axis, frame, path, svg, tag, text
from tests.conformance.truth import Linear

FIGURE = Path(__file__).parents[2] / "docs" / "mixture.svg"
SIZE = (640, 360)
SHARES = tuple(k / 40 for k in range(37))  # of the mean, by which the adversary moves a value
CURVES = (
    ("easy", "rob", "class −1, attacked"), ("hard", "rob", "class +1, attacked"),
    ("easy", "nat", "class −1, as it is"), ("hard", "nat", "class +1, as it is"),
)  # fmt: skip
STYLE = """
text{font:12px system-ui,sans-serif;fill:#444}.hair{stroke:#ddd;fill:none}.rule{stroke:#222;fill:none}
.line{fill:none;stroke-width:2}.easy{stroke:#0b57a4}.hard{stroke:#b3261e}.nat{stroke-dasharray:5 4}
@media (prefers-color-scheme:dark){svg{background:#161616}text{fill:#ccc}.hair{stroke:#333}.rule{stroke:#eee}
.easy{stroke:#7ab8ff}.hard{stroke:#ff9a91}}
"""


@dataclass(frozen=True)
class Mixture:
    """The two classes; ratio is above 1, so that +1 is the one that scatters more, and is harder."""

    values: int = 64
    mean: float = 0.02
    sd: float = 0.05
    ratio: float = 2.0

    def threshold(self, eps: float = 0.0) -> float:
        """b, where sign(sum of values + b) is the best linear classifier against an adversary of this eps.

        There both classes are as dense: u^2 - v^2 = 2 log(ratio) of the two standardised distances.
        """
        k, away = self.ratio, self._away(eps)
        root = math.sqrt(away**2 + (k**2 - 1) * math.log(k) / 2)
        return math.sqrt(self.values) * self.sd * ((k**2 + 1) * away - 2 * k * root) / (k**2 - 1)

    def risks(self, eps: float = 0.0, against: float = 0.0) -> tuple[float, float]:
        """How often -1 and +1 are misread under an adversary of `eps`, by the best classifier `against` another."""
        b, shift, scale = self.threshold(against), self.values * (self.mean - eps), math.sqrt(self.values) * self.sd
        return _normal((b - shift) / scale), _normal((-b - shift) / (scale * self.ratio))

    def published(self, eps: float = 0.0) -> tuple[float, float]:
        """The same of the classifier that is best against this very eps, as the papers write it."""
        a = 2 * self._away(eps) / (self.ratio**2 - 1)
        q = 2 * math.log(self.ratio) / (self.ratio**2 - 1)
        root = math.sqrt(a**2 + q)
        return _normal(a - self.ratio * root), _normal(-self.ratio * a + root)

    def _away(self, eps: float) -> float:
        return math.sqrt(self.values) * (self.mean - eps) / self.sd

    def drawn(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """n images of each class around grey (2n, 1, h, w), in float64, and their labels 0 and 1."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(2, n, self.values, generator=generator, dtype=torch.double)
        sign = torch.tensor([-1.0, 1.0]).double().view(2, 1, 1)
        scatter = torch.tensor([1.0, self.ratio]).double().view(2, 1, 1)
        x = 0.5 + sign * self.mean + self.sd * scatter * noise
        side = math.isqrt(self.values)
        return x.view(2 * n, 1, side, side), torch.arange(2).repeat_interleave(n)

    def classifier(self, against: float = 0.0) -> nn.Module:
        """The best linear classifier as a net of two logits, on images around grey."""
        weight = torch.stack([torch.zeros(self.values), torch.ones(self.values)])
        bias = torch.tensor([0.0, self.threshold(against) - 0.5 * self.values])
        return Linear(weight, bias).eval()


def _normal(z: float) -> float:
    """The share of a standard normal below z."""
    return math.erfc(-z / math.sqrt(2)) / 2


def rows(mixture: Mixture, shares: Sequence[float] = SHARES) -> list[tuple[float, float, float, float, float]]:
    """eps over the mean, and the risks of the best against that eps: -1 and +1 attacked, -1 and +1 as they are."""
    found = []
    for share in shares:
        eps = share * mixture.mean
        found.append((share, *mixture.risks(eps, against=eps), *mixture.risks(0.0, against=eps)))
    return found


def figure(mixture: Mixture) -> str:
    """The risks over eps, as a drawing that stands alone."""
    across, up = Axis(0, SHARES[-1], 52, SIZE[0] - 150), Axis(0, 70, SIZE[1] - 44, 34)
    drawn = rows(mixture)
    marks = [f"{v:.1f}" for v in across.ticks], [f"{v:.0f}" for v in up.ticks]
    inside = [tag("style", STYLE), *frame(across, up, ("eps, over the mean", "misread, %"), marks)]
    for k, (which, kind, name) in enumerate(CURVES, start=1):
        inside.append(path([(across.at(row[0]), up.at(100 * row[k])) for row in drawn], f"line {which} {kind}"))
        inside.append(text(across.end + 8, up.at(100 * drawn[-1][k]) + 4, name))
    said = (
        "The class that scatters more is misread more often in both cases, and the better the classifier is against an "
        "adversary, the more so: at eps = 0.5 of the mean "
        f"{100 * drawn[20][1]:.1f} % of class −1 and {100 * drawn[20][2]:.1f} % of class +1."
    )
    whole = svg("mixture", "Two Gaussian classes: risks over eps", said, *SIZE, *inside)
    return whole.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def section(mixture: Mixture) -> str:
    """What docs/optimality.md says of it: the figure, and its numbers as a table."""
    found = f"""## Two Gaussian classes of unequal variance

The setting of VIR's Appendix A: class −1 is N(−m, s²), class +1 is N(m, ({mixture.ratio:g} s)²) in {mixture.values} \
values, m = {mixture.mean:g}, s = {mixture.sd:g}. Drawn are what the best linear classifier against each eps misreads, \
in closed form; the tests hold it against draws, and against what PGD finds on them.

![Risks of the two classes over eps](mixture.svg)

| eps / m | −1 attacked | +1 attacked | −1 as it is | +1 as it is |
| ---: | ---: | ---: | ---: | ---: |
"""
    for share, *risks in rows(mixture, SHARES[::4]):
        found += f"| {share:.1f} | {' | '.join(f'{100 * r:.2f} %' for r in risks)} |\n"
    return found + "\n"


def without_scatter(mixture: Mixture) -> Mixture:
    """Both classes nearly alike: then both risks are those of one Gaussian."""
    return replace(mixture, ratio=1 + 1e-6)


def write() -> None:
    """The figure."""
    FIGURE.write_text(figure(Mixture()), encoding="utf-8")
