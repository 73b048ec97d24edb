"""Draws depend on their name and on the image, and on nothing else."""

import numpy as np
import pytest
import torch
from scipy import stats

from bench.draws import Draws, philox

IDS = torch.tensor([0, 5, 17, 3, 2**40 + 1, 4])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter, key, words):
    """Philox4x32-10 gives the answers that its authors publish with Random123."""
    c0, c1, c2, c3 = (torch.tensor(int(c, 16)) for c in counter.split())
    k0, k1 = (int(k, 16) for k in key.split())
    assert philox((c0, c1, c2, c3), (k0, k1)).tolist() == [int(w, 16) for w in words.split()]


@pytest.mark.parametrize(
    "draw",
    [
        lambda d: d.bits(3, 5),
        lambda d: d.uniform(7),
        lambda d: d.normal(2, 3),
        lambda d: d.sign(9),
        lambda d: d.integers(10, 6),
        lambda d: d.order(11),
        lambda d: d.uniform(),
    ],
    ids=["bits", "uniform", "normal", "sign", "integers", "order", "scalar"],
)
def test_neighbours_do_not_matter(draw):
    """An image draws the same numbers alone, among others and in any order; steps come one by one or at once."""
    draws = Draws(7, IDS).at("start", restart=2)
    whole = draw(draws)
    for i in range(len(IDS)):
        assert torch.equal(draw(draws[i : i + 1]), whole[i : i + 1])
    mixed = torch.tensor([4, 0, 4, 2])
    assert torch.equal(draw(draws[mixed]), whole[mixed])
    keep = IDS % 2 == 1
    assert torch.equal(draw(draws[keep]), whole[keep])
    assert len(draw(draws[:0])) == 0
    steps = draw(draws.at(step=range(3, 9, 2)))
    assert torch.equal(steps, torch.stack([draw(draws.at(step=s)) for s in (3, 5, 7)], 1))


def test_names_do_matter():
    """Another seed, purpose, restart, step or image gives other numbers."""
    one = Draws(0, torch.tensor([1]))
    other = [
        Draws(1, one.ids), Draws(0, one.ids + 1), Draws(0, one.ids + 2**31), one.at("a"), one.at("b"),
        one.at("a").at("b"), one.at("ab"), one.at(restart=1), one.at(step=1), one.at(step=2),
    ]  # fmt: skip
    drawn = [tuple(d.bits(4).flatten().tolist()) for d in [one, *other]]
    assert len(set(drawn)) == len(drawn)
    assert torch.equal(one.bits(4), Draws(0, torch.tensor([1])).bits(4))


@pytest.mark.parametrize("axis", ["images", "steps", "values"])
def test_distributions(axis):
    """Uniforms, normals, signs and integers follow their laws across images, across steps and within an image."""
    count = 1 << 16
    draws = Draws(3, torch.arange(count if axis == "images" else 1))
    draws = draws.at(step=range(count)) if axis == "steps" else draws
    shape = (count,) if axis == "values" else (1,)
    uniform, normal = draws.at("u").uniform(*shape).flatten(), draws.at("n").normal(*shape).flatten()
    assert uniform.min() >= 0 and uniform.max() < 1
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3
    sign = draws.at("s").sign(*shape).flatten()
    assert set(sign.tolist()) == {-1.0, 1.0} and abs(sign.mean()) < 4 / count**0.5
    whole = draws.at("i").integers(7, *shape).flatten()
    assert stats.chisquare(np.bincount(whole.numpy(), minlength=7)).pvalue > 1e-3


def test_values_of_an_image_are_independent():
    """The normals of neighbouring values and neighbouring images are not correlated."""
    drawn = Draws(1, torch.arange(200)).normal(200).numpy()
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.02


def test_orders_are_uniform():
    """All 24 orders of four things come equally often."""
    orders = Draws(0, torch.arange(24_000)).order(4)
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(24_000, 4))
    place = (orders * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(place) == 24 and stats.chisquare(place.numpy()).pvalue > 1e-3


def test_integers_below_a_tensor():
    """The bound may differ by value, and no draw reaches it."""
    high = torch.tensor([1, 2, 2**31 - 1])
    drawn = Draws(0, torch.arange(1000)).integers(high, 3)
    assert (drawn >= 0).all() and (drawn < high).all() and (drawn[:, 0] == 0).all()


@pytest.mark.gpu
def test_same_bits_on_a_gpu():
    """Bits, signs, uniforms and orders are equal on every device; normals agree within rounding."""
    here, there = Draws(5, IDS), Draws(5, IDS.cuda())
    for draw in (lambda d: d.bits(50), lambda d: d.uniform(50), lambda d: d.sign(50), lambda d: d.order(50)):
        assert torch.equal(draw(here), draw(there).cpu())
    torch.testing.assert_close(here.normal(50), there.normal(50).cpu(), rtol=0, atol=1e-6)
