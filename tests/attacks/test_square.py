import pytest
import torch

from attacks.square import _bump_at, bump, side, square
from bench import ThreatModel

LINF, L2, L1 = (ThreatModel.parse(text) for text in ("linf:8/255", "l2:0.5", "l1:12"))


def changes(threat, size, queries, rescale=0):
    """Where the window's side changes, and to what."""
    x = torch.zeros(1, 3, size, size)
    found = {}
    for q in range(queries):
        s = side(q, x, threat, 0.8, rescale)
        if s not in found.values():
            found[q] = s
    return found


def test_the_sides_are_those_of_the_published_schedule():
    """On 32 and 64 pixels, without and with the schedule squeezed into 5,000 queries."""
    at = [0, 11, 51, 201, 501, 1001, 2001, 4001]
    assert changes(LINF, 32, 5000) == dict(zip(at, [29, 20, 14, 10, 7, 5, 4, 3], strict=True))
    assert changes(LINF, 64, 5000) == dict(zip(at, [57, 40, 29, 20, 14, 10, 7, 5], strict=True))
    squeezed = [0, 6, 26, 101, 251, 501, 1001, 2001, 3001, 4001]
    assert changes(LINF, 32, 5000, 5000) == dict(zip(squeezed, [29, 20, 14, 10, 7, 5, 4, 3, 2, 1], strict=True))


@pytest.mark.parametrize("threat", [L2, L1])
def test_l2_and_l1_windows_are_odd_and_at_least_three(threat):
    """Unless the image is smaller."""
    assert set(changes(threat, 32, 10000).values()) == {29, 21, 15, 11, 7, 5, 3}
    assert side(0, torch.zeros(1, 1, 1, 1), threat, 0.8) == 1
    assert side(9999, torch.zeros(1, 1, 8, 8), threat, 0.8) == 3


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.5", "l1:1"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (1, 1, 1), (2, 3, 3), (1, 6, 9)])
def test_small_and_gray_images_have_valid_windows(lab, threat, shape):
    """The judge checks ball and box; a model that never falls is asked 1 + queries times."""
    torch.manual_seed(0)
    x = (torch.rand(4, *shape) * 255).byte()
    verdict = lab.asked(square, lab.Constant(0), x, torch.zeros(4), threat, queries=30)
    assert verdict.forwards.tolist() == [30 + 1 + 1] * 4  # the judge's own is the last
    assert verdict.backwards.tolist() == [0] * 4
    assert square.cost(**square.recipe(queries=30).settings) == (31, 0)
    assert (verdict.distance > 0.05).all()


def test_five_thousand_queries_are_the_first_of_ten_thousand(lab):
    """Scaled down: 70 queries meet the first 70 images of 140, and with the schedule rescaled they do not."""
    x, y = torch.rand(3, 3, 8, 8), torch.zeros(3, dtype=torch.long)

    def met(queries, rescale):
        seen = []

        class Watched(lab.Constant):
            def forward(self, images):
                seen.append(images.clone())
                return super().forward(images) - 1e-3 * images.flatten(1).sum(1, keepdim=True) * self.logits

        lab.call(square, Watched(0), x, y, "linf:0.1", tile=3, queries=queries, rescale=rescale)
        return torch.stack(seen)

    assert torch.equal(met(70, rescale=False), met(140, rescale=False)[:71])
    assert not torch.equal(met(70, rescale=True), met(140, rescale=True)[:71])


def test_the_margin_only_falls_and_linf_stays_on_the_edge(lab):
    """What is returned for a standing image is the best of all images met, and each value is x +- eps or clipped."""
    net = lab.small_net()
    x = torch.rand(8, 3, 8, 8)
    y = net(x).argmax(1)
    margins = []
    for queries in (0, 20, 200):
        found, _ = lab.call(square, net, x, y, "linf:0.01", queries=queries)
        z = net(found)
        own = z.gather(1, y[:, None])[:, 0]
        margins.append((own - z.scatter(1, y[:, None], -torch.inf).amax(1)).clamp_min(0))
    assert (margins[1] <= margins[0] + 1e-5).all()
    assert (margins[2] <= margins[1] + 1e-5).all()
    assert margins[2].sum() < margins[0].sum()
    edges = torch.stack([(x - 0.01).clamp(0, 1), (x + 0.01).clamp(0, 1)])
    assert (found - edges).abs().amin(0).max() < 1e-7


def test_every_image_draws_its_own_windows(lab):
    """Two copies of one image at two places in the data set meet different queries."""
    x = torch.rand(1, 3, 8, 8).expand(2, -1, -1, -1).clone()
    found, _ = lab.call(square, lab.Constant(0), x, torch.zeros(2, dtype=torch.long), "linf:0.1", queries=0)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 12, 29])
def test_a_bump_has_two_lobes_and_size_one(length, norm):
    """The upper lobe is positive, the lower negative."""
    drawn = bump(length, norm)
    assert drawn.double().norm(int(norm[1])).item() == pytest.approx(1)
    assert (drawn[: length // 2] > 0).all()
    assert (drawn[length // 2 :] < 0).all()


@pytest.mark.parametrize(("norm", "four", "nine"), [("l2", 4, 9), ("l1", 16, 81)])
def test_a_bump_of_five_by_hand(norm, four, nine):
    """The lower lobe of 3 x 5 pixels, before it is scaled: 1 + 1/4 + 1/9 in the middle, then 1/4 + 1/9, then 1/9."""
    lower = -bump(5, norm)[2:]
    inner, ring, rim = 1 + 1 / four + 1 / nine, 1 / four + 1 / nine, 1 / nine
    expected = torch.tensor([[rim, ring, ring, ring, rim], [rim, ring, inner, ring, rim], [rim, ring, ring, ring, rim]])
    assert torch.allclose(lower / lower[1, 2], expected / inner)


def test_a_bump_lies_in_its_window():
    """At its corner, turned or not, with zeros around it."""
    x = torch.zeros(2, 1, 7, 7)
    drawn = _bump_at(torch.tensor([[1, 2], [3, 0]]), torch.tensor([-1.0, 1.0]), 3, x, "l2")
    assert torch.equal(drawn[0, 0, 1:4, 2:5], bump(3, "l2"))
    assert torch.equal(drawn[1, 0, 3:6, 0:3], bump(3, "l2").T)
    assert drawn.abs().gt(0).sum((1, 2, 3)).tolist() == [9, 9]
