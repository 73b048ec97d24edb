"""Two Gaussian classes: the closed form beside draws, a search, the papers' own formula, and an attack."""

import math
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
import torch

from tests.conformance.mixture import FIGURE, Mixture, figure, rows, section, without_scatter
from tests.conformance.optimality import PAGE, ask, attacks
from tests.conformance.truth import Known

MIXTURE = Mixture()
HALF = 0.5 * MIXTURE.mean


@pytest.mark.parametrize("ratio", [1.2, 2.0, 5.0])
@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_the_risks_are_those_that_the_papers_state(ratio, eps):
    """Phi(A - K sqrt(A^2 + q)) and Phi(-K A + sqrt(A^2 + q)), with A = 2 sqrt(d) (eta - eps) / (sigma (K^2 - 1))."""
    mixture = Mixture(ratio=ratio)
    assert mixture.risks(eps, against=eps) == pytest.approx(mixture.published(eps), abs=1e-12)


@pytest.mark.parametrize("eps", [0.0, HALF])
def test_no_other_threshold_does_better(eps):
    """Nor does any other direction of a thousand random ones near it."""
    best = sum(MIXTURE.risks(eps, against=eps))
    others = [sum(MIXTURE.risks(eps, against=eps + step * MIXTURE.mean)) for step in (-0.3, -0.01, 0.01, 0.3)]
    assert all(other > best for other in others)
    torch.manual_seed(0)
    scale, b = math.sqrt(MIXTURE.values) * MIXTURE.sd, MIXTURE.threshold(eps)
    w = 1 + 0.3 * torch.randn(1000, MIXTURE.values).double()
    size, shift = w.norm(dim=1) / MIXTURE.values**0.5, w.sum(1) * MIXTURE.mean - w.abs().sum(1) * eps
    z = torch.stack([(b - shift) / (scale * size), (-b - shift) / (scale * size * MIXTURE.ratio)])
    assert (torch.special.ndtr(z).sum(0) > best).all()


def test_classes_that_scatter_alike_risk_alike():
    """Phi(-sqrt(d) eta / sigma), the textbook's."""
    expected = math.erfc(math.sqrt(64) * 0.02 / 0.05 / math.sqrt(2)) / 2
    assert without_scatter(MIXTURE).risks() == pytest.approx((expected, expected), rel=1e-3)


@pytest.mark.parametrize(("eps", "against"), [(0.0, 0.0), (0.0, HALF), (HALF, HALF), (HALF, 0.0)])
def test_draws_and_pgd_find_the_same_risks(eps, against):
    """Of 4,000 images a class, within four standard errors; PGD is exact on two classes."""
    n = 4000
    x, y = MIXTURE.drawn(n, seed=1)
    assert x.min() > 0 and x.max() < 1  # the box plays no part
    module = MIXTURE.classifier(against)
    known = Known("mixture", "linf", module, x.float(), y, torch.zeros(2 * n), None)
    if eps:
        ((_, recipe),) = attacks("linf", ["pgd(steps=5, step=0.5, keep='any')"])
        fell = ask(recipe, known, eps).fell
    else:
        fell = module(known.x).argmax(1) != y
    for measured, risk in zip(fell.view(2, n).double().mean(1).tolist(), MIXTURE.risks(eps, against), strict=True):
        assert abs(measured - risk) < 4 * math.sqrt(risk * (1 - risk) / n)


def test_the_hard_class_pays_for_robustness():
    """The papers' point: against a larger eps the gap between the classes grows, attacked and not."""
    gaps = [(hard - easy, natural_hard - natural_easy) for _, easy, hard, natural_easy, natural_hard in rows(MIXTURE)]
    assert all(b > a > 0 for one in zip(*gaps, strict=True) for a, b in pairwise(one))


def test_the_figure_and_the_page_are_those_of_the_code():
    """Byte by byte; with a title, a description and, beside it, the numbers."""
    assert FIGURE.read_text(encoding="utf-8") == figure(MIXTURE)
    assert section(MIXTURE) in PAGE.read_text(encoding="utf-8")
    root = ET.fromstring(figure(MIXTURE))
    names = {child.tag.rpartition("}")[2]: child for child in root}
    assert root.get("role") == "img" and names["title"].text and "scatters more" in names["desc"].text
    assert root.get("aria-labelledby") == names["title"].get("id")
