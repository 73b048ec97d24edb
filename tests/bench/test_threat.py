"""Balls: projections against oracles, laws of random starts, and the same bits in any batch."""

import contextlib
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from bench.draws import Draws
from bench.errors import UsageError
from bench.threat import ThreatModel, per_image_sum

THREATS = ["linf:8/255", "l2:0.5", "l1:2", "l0:3"]


def images(n, *shape, seed=0, reach=0.3):
    """Images, some with values at the border of the box, and the same images moved about."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator).mul(1.4).sub(0.2).clamp(0, 1)
    return x, x + reach * torch.randn(n, *shape, generator=generator)


# ---- how it is written


@pytest.mark.parametrize(
    ("text", "eps", "printed"),
    [
        ("linf:8/255", Fraction(8, 255), "linf:8/255"),
        ("linf:0.031", Fraction(31, 1000), "linf:0.031"),
        ("linf:0.3", Fraction(3, 10), "linf:0.3"),
        ("linf:0.30", Fraction(3, 10), "linf:0.3"),
        (" L2: 128 / 255", Fraction(128, 255), "l2:128/255"),
        ("l2:1", Fraction(1), "l2:1"),
        ("l1:1e-7", Fraction(1, 10**7), "l1:1/10000000"),
        ("l0:10", Fraction(10), "l0:10"),
        ("linf:0", Fraction(0), "linf:0"),
    ],
)
def test_parse_and_print(text, eps, printed):
    """A threat is an exact fraction, and is written in one way, which reads back to it."""
    threat = ThreatModel.parse(text)
    assert threat.eps == eps and str(threat) == printed and ThreatModel.parse(str(threat)) == threat


def test_near_is_not_equal():
    """8/255 and 0.031 are two threats; 0.3 and 0.30 are one."""
    assert ThreatModel.parse("linf:8/255") != ThreatModel.parse("linf:0.031")
    assert ThreatModel.parse("linf:0.3") == ThreatModel.parse("linf:0.30")


@given(st.fractions(min_value=0, max_value=100, max_denominator=10**9))
def test_every_eps_reads_back(eps):
    """What is printed reads back to the same threat, for any fraction."""
    threat = ThreatModel("l2", eps)
    assert ThreatModel.parse(str(threat)) == threat


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("linff:8/255", "did you mean 'linf'"),
        ("l3:1", "l2"),
        ("8/255", "linf:8/255"),
        ("linf:", "norm:eps"),
        ("linf:eight", "norm:eps"),
        ("linf:8/0", "norm:eps"),
        ("linf:nan", "norm:eps"),
        ("linf:inf", "norm:eps"),
        ("linf:-1/255", "at least 0"),
        ("l0:1/2", "whole pixels"),
        ("", "norm:eps"),
    ],
)
def test_bad_texts(text, words):
    """What cannot be read is a usage error that says what was expected, or the nearest name."""
    with pytest.raises(UsageError, match=words):
        ThreatModel.parse(text)


@given(st.text(max_size=30))
def test_odd_texts(text):
    """No text gives anything but a threat or a usage error."""
    with contextlib.suppress(UsageError):
        assert ThreatModel.parse(str(ThreatModel.parse(text))) == ThreatModel.parse(text)


@pytest.mark.parametrize("text", ["linf:1e400", "linf:1e999999999", "l2:" + "9" * 4000])
def test_an_eps_beyond_numbers(text):
    """A size that no float can hold is a usage error, and not a crash later."""
    with pytest.raises(UsageError):
        ThreatModel.parse(text)


# ---- sizes and projections


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_size_is_the_norm(norm):
    """Sizes are numpy's vector norms."""
    delta = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    expected = np.linalg.norm(delta.flatten(1).double().numpy(), order, axis=1)
    np.testing.assert_allclose(ThreatModel(norm, Fraction(1)).size(delta), expected, rtol=1e-6)


def test_l0_counts_pixels():
    """A pixel counts once, however many of its channels differ."""
    delta = torch.zeros(3, 3, 4, 4)
    delta[1, :, 0, 0] = 1
    delta[2, 0, 1, 1] = delta[2, 2, 3, 3] = -1e-20
    assert ThreatModel.parse("l0:1").size(delta).tolist() == [0, 1, 2]


@pytest.mark.parametrize("text", [*THREATS, "linf:0", "l2:0", "l1:0", "l0:0", "l1:10000", "l0:10000"])
def test_projections_are_feasible_and_idempotent(text):
    """A projected image is in the ball and the box, and projecting it again, or an image inside, changes nothing."""
    threat = ThreatModel.parse(text)
    x, moved = images(20, 3, 6, 6)
    inside = threat.project(moved, x)
    assert inside.min() >= 0 and inside.max() <= 1 and inside.shape == x.shape and inside.dtype == x.dtype
    assert (threat.size((inside - x).double()) <= float(threat.eps) * (1 + 1e-6) + 1e-7).all()
    torch.testing.assert_close(threat.project(inside, x), inside, rtol=0, atol=0 if threat.norm != "l2" else 1e-7)
    assert torch.equal(threat.project(x, x), x)
    assert len(threat.project(moved[:0], x[:0])) == 0


def test_linf_is_nearest():
    """The nearest image clips each value by itself."""
    x, moved = images(10, 3, 8, 8)
    start = x.double().numpy()
    expected = np.clip(moved.double().numpy(), np.maximum(start - 8 / 255, 0), np.minimum(start + 8 / 255, 1))
    np.testing.assert_allclose(ThreatModel.parse("linf:8/255").project(moved, x), expected, atol=1e-7)


def test_l2_scales_and_then_clips():
    """L2 scales the perturbation to the ball and then clips; where the box does not bind that is the nearest image."""
    threat = ThreatModel.parse("l2:0.5")
    x, moved = images(10, 3, 8, 8)
    delta = (moved - x).double().numpy()
    size = np.sqrt((delta**2).sum((1, 2, 3), keepdims=True))
    expected = np.clip(x.double().numpy() + delta * np.minimum(1, 0.5 / size), 0, 1)
    np.testing.assert_allclose(threat.project(moved, x), expected, atol=1e-6)
    grey = torch.full_like(x, 0.5)
    assert threat.size(threat.project(grey + delta_of(x), grey) - grey).numpy() == pytest.approx(0.5, rel=1e-5)


def delta_of(x):
    """A perturbation that is outside an L2 ball of 0.5 and stays in a grey image's box."""
    return 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("eps", ["0.05", "0.5", "1.5"])
def test_l1_is_nearest_by_a_solver(eps):
    """No image that a general solver (scipy's SLSQP) finds in the ball and the box is nearer."""
    threat = ThreatModel.parse(f"l1:{eps}")
    x, moved = images(12, 1, 2, 3, seed=4, reach=0.6)
    found = threat.project(moved, x)
    for a, z, mine in zip(x.flatten(1).double().numpy(), moved.flatten(1).double().numpy(), found, strict=True):
        n = len(a)
        best = optimize.minimize(
            lambda w, a=a, z=z, n=n: ((a + w[:n] - w[n:] - z) ** 2).sum(),
            np.zeros(2 * n),
            jac=lambda w, a=a, z=z, n=n: np.concatenate([r := 2 * (a + w[:n] - w[n:] - z), -r]),
            bounds=[*((0, 1 - v) for v in a), *((0, v) for v in a)],
            constraints={"type": "ineq", "fun": lambda w: float(eps) - w.sum()},
            options={"ftol": 1e-12, "maxiter": 500},
        )
        distance = ((mine.flatten().double().numpy() - z) ** 2).sum()
        assert distance <= best.fun + 1e-5 and distance >= best.fun - 1e-5


def test_l1_is_nearest_by_bisection():
    """On full images, the threshold is the one that slow bisection in float64 finds."""
    x, moved = images(8, 3, 32, 32, reach=0.1)
    a, z = x.double().flatten(1).numpy(), moved.double().flatten(1).numpy()
    cap, delta = np.where(z > a, 1 - a, a), z - a
    low, high = np.zeros((8, 1)), np.full((8, 1), 2.0)
    for _ in range(100):
        middle = (low + high) / 2
        above = np.minimum(np.maximum(abs(delta) - middle, 0), cap).sum(1, keepdims=True) > 12
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    expected = a + np.sign(delta) * np.minimum(np.maximum(abs(delta) - high, 0), cap)
    np.testing.assert_allclose(ThreatModel.parse("l1:12").project(moved, x).flatten(1), expected, atol=1e-6)


@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_l0_is_nearest(pixels):
    """No choice of so many pixels is nearer: all of them are tried."""
    x, moved = images(10, 2, 2, 3, reach=0.8)
    found = ThreatModel.parse(f"l0:{pixels}").project(moved, x)
    inside = moved.clamp(0, 1)
    nearest = torch.full((10,), torch.inf)
    for chosen in itertools.combinations(range(6), pixels):
        tried = x.clone().flatten(2)
        tried[:, :, chosen] = inside.flatten(2)[:, :, chosen]
        nearest = nearest.minimum((tried.view_as(x) - moved).square().flatten(1).sum(1))
    torch.testing.assert_close((found - moved).square().flatten(1).sum(1), nearest)


# ---- random starts and steps


@pytest.mark.parametrize("text", THREATS)
def test_random_starts_are_inside(text):
    """A random start is in the ball and the box, differs from x, and differs between restarts."""
    threat = ThreatModel.parse(text)
    x, _ = images(30, 3, 6, 6)
    draws = Draws(0, torch.arange(30))
    start = threat.random(x, draws)
    assert start.min() >= 0 and start.max() <= 1
    size = threat.size((start - x).double())
    assert (size <= float(threat.eps) * (1 + 1e-6) + 1e-7).all() and (size > 0).all()
    assert not torch.equal(start, threat.random(x, draws.at(restart=1)))
    assert torch.equal(ThreatModel(threat.norm, Fraction(0)).random(x, draws), x)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_random_radii(norm):
    """Uniform in a ball of 12 dimensions: the radius to the power of 12 is uniform, and so is the direction."""
    x = torch.full((4000, 3, 2, 2), 0.5)
    threat = ThreatModel(norm, Fraction(1, 4))
    delta = threat.random(x, Draws(1, torch.arange(4000))) - x
    assert stats.kstest((threat.size(delta) / 0.25).double().numpy() ** 12, "uniform").pvalue > 1e-3
    assert delta.mean(0).abs().max() < 4 * delta.std() / 4000**0.5
    if norm == "l1":  # shares of a point on the L1 sphere: |d_i| / size is Beta(1, 11)
        share = (delta.flatten(1)[:, 0].abs() / threat.size(delta)).numpy()
        assert stats.kstest(share, stats.beta(1, 11).cdf).pvalue > 1e-3
    else:  # d_i^2 / size^2 is Beta(1/2, 11/2)
        share = (delta.flatten(1)[:, 0].square() / threat.size(delta).square()).numpy()
        assert stats.kstest(share, stats.beta(0.5, 5.5).cdf).pvalue > 1e-3


def test_random_linf_and_l0():
    """Linf starts are uniform in the cube; L0 starts change exactly as many pixels as allowed, evenly over places."""
    x, draws = torch.full((3000, 1, 4, 4), 0.5), Draws(1, torch.arange(3000))
    cube = (ThreatModel.parse("linf:0.1").random(x, draws) - x) / 0.1
    assert stats.kstest(cube.flatten().numpy()[::7], stats.uniform(-1, 2).cdf).pvalue > 1e-3
    few = ThreatModel.parse("l0:3").random(x, draws) != x
    assert (few.flatten(1).sum(1) == 3).all()
    assert stats.chisquare(few.flatten(1).sum(0).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_uphill(norm, dual):
    """The step is of size 1 and climbs by the dual norm of the gradient, which no other step of size 1 exceeds."""
    threat = ThreatModel(norm, Fraction(1))
    grad = torch.randn(20, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    step = threat.uphill(grad)
    np.testing.assert_allclose(threat.size(step), 1, rtol=1e-6)
    climbed = (step * grad).flatten(1).double().sum(1)
    np.testing.assert_allclose(climbed, np.linalg.norm(grad.flatten(1).numpy(), dual, axis=1), rtol=1e-5)


@pytest.mark.parametrize("text", THREATS)
def test_uphill_without_a_slope(text):
    """Where the gradient is zero there is no step; tiny and huge gradients keep their direction."""
    threat = ThreatModel.parse(text)
    grad = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert threat.uphill(torch.zeros_like(grad)).eq(0).all()
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(threat.uphill(grad * scale), threat.uphill(grad))


# ---- one image, one answer


@pytest.fixture
def threads():
    """Leaves the number of threads as it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("text", ["linf:8/255", "l2:0.5", "l1:12", "l0:10"])
def test_same_bits_in_any_batch(text, side, threads):
    """Sizes, projections, random starts and steps of an image are the same bits in any batch, with 1 or 2 threads."""
    threat = ThreatModel.parse(text)
    x, moved = images(64, 3, side, side, reach=0.1)
    grad = moved - 0.5
    draws = Draws(3, torch.arange(1000, 1064))

    def answers(rows):
        yield threat.size(moved[rows] - x[rows])
        yield threat.project(moved[rows], x[rows])
        yield threat.random(x[rows], draws[rows])
        yield threat.uphill(grad[rows])
        yield threat.uphill((grad[rows] * 4).round())  # with ties

    threads(2)
    whole = list(answers(slice(None)))
    for count in (1, 2):
        threads(count)
        for rows in [slice(0, 1), slice(63, 64), slice(61, 63), slice(50, 57), *([slice(None)] if side == 32 else [])]:
            for one, all_ in zip(answers(rows), whole, strict=True):
                assert torch.equal(one, all_[rows])


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (5, 7, 3), (1, 1, 1)])
def test_same_bits_in_odd_shapes(shape, threads):
    """The same holds where an image's size is no multiple of a vector register, and in other memory layouts."""
    x, moved = images(33, *shape)
    grad = moved - 0.5
    for count in (1, 2):
        threads(count)
        for threat in map(ThreatModel.parse, THREATS):
            whole = threat.project(moved, x), threat.uphill(grad), threat.size(grad)
            for i in range(33):
                one = slice(i, i + 1)
                for found, expected in zip(
                    (threat.project(moved[one], x[one]), threat.uphill(grad[one]), threat.size(grad[one])),
                    whole,
                    strict=True,
                ):
                    assert torch.equal(found, expected[one])
            last = grad.contiguous(memory_format=torch.channels_last)
            assert torch.equal(threat.size(last), whole[2])


def test_radii_have_the_same_bits():
    """The radius of a random start has the same bits at the ragged end of a batch as inside it."""
    threat, x = ThreatModel.parse("l2:1"), torch.empty(1, 1, 8, 8).expand(40_000, 1, 8, 8)
    draws = Draws(0, torch.arange(40_000))
    whole = threat._radius(x, draws)
    parts = [threat._radius(x[i : i + 7], draws[i : i + 7]) for i in range(0, 40_000, 7)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_per_image_sum(dtype, threads):
    """Sums are right, and the same bits in batches of 1 to 5, in any memory layout, with 1 or 2 threads."""
    values = torch.randn(5, 3, 100, 101, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = values.double().numpy().sum((1, 2, 3))
    threads(1)
    whole = per_image_sum(values)
    np.testing.assert_allclose(whole, expected, atol=1e-3 if dtype == torch.float32 else 1e-9)
    for count in (1, 2):
        threads(count)
        for n in range(1, 6):
            assert torch.equal(per_image_sum(values[:n]), whole[:n])
            assert torch.equal(per_image_sum(values[5 - n :]), whole[5 - n :])
        assert torch.equal(per_image_sum(values.contiguous(memory_format=torch.channels_last)), whole)
    assert per_image_sum(values[:0]).shape == (0,)


@pytest.mark.parametrize("text", ["l2:1/2", "l1:12", "linf:4/255"])
def test_large_images_stay_within_rounding(text):
    """On ImageNet's size, rounding takes projected images and random starts no further out than the judge allows."""
    threat = ThreatModel.parse(text)
    x, moved = images(4, 3, 224, 224, reach=0.001)
    for found in (threat.project(moved, x), threat.random(x, Draws(0, torch.arange(4)))):
        excess = threat.size(found.double() - x.double()) - float(threat.eps)
        assert excess.max() <= float(threat.eps) * 1e-6 + 1e-7


def test_a_threat_without_bound_is_written_as_its_norm_and_holds_every_image():
    """As the cells of minimum-norm attacks write it; nobody can ask for it on the line."""
    threat = ThreatModel.parse("l2:0.5").without_bound
    assert str(threat) == "l2"
    assert ThreatModel.of_cell("l2") == threat
    assert ThreatModel.of_cell("l2:0.5") == ThreatModel.parse("l2:0.5")
    x = torch.zeros(2, 3, 8, 8)
    assert torch.equal(threat.project(x + 1, x), x + 1)
    assert threat.holds(threat.size(x + 1)).all()
    for text in ("l2", "l2:2147483648"):
        with pytest.raises(UsageError, match=r"norm:eps|below 2"):
            ThreatModel.parse(text)


def test_the_ball_holds_what_rounding_puts_a_little_outside():
    """eps (1 + 1e-6) + 1e-7, the judge's tolerance."""
    sizes = torch.tensor([0.3, 0.3 + 3.9e-7, 0.3 + 4.1e-7], dtype=torch.float64)
    assert ThreatModel.parse("linf:0.3").holds(sizes).tolist() == [True, True, False]


@pytest.mark.parametrize(("norm", "sizes"), [("linf", [0.1, 0.3]), ("l2", [0.5, 2]), ("l1", [0, 3]), ("l0", [0, 5])])
def test_a_radius_stands_in_for_eps_image_by_image(norm, sizes):
    """Bit by bit as by the threat of that size; a radius without end is the box."""
    torch.manual_seed(0)
    x, x_adv = torch.rand(2, 3, 6, 6), 2 * torch.rand(2, 3, 6, 6) - 0.5
    threat = ThreatModel.of_cell(norm)
    found = threat.project(x_adv, x, torch.tensor(sizes, dtype=torch.double))
    for i, size in enumerate(sizes):
        alone = ThreatModel(norm, Fraction(size)).project(x_adv[i : i + 1], x[i : i + 1])
        assert torch.equal(found[i : i + 1], alone)
    assert torch.allclose(threat.project(x_adv, x, torch.full((2,), torch.inf)), x_adv.clamp(0, 1), atol=1e-6)
