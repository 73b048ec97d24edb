from itertools import combinations, product

import pytest
import torch
from torch import nn

from attacks.sparse_rs import moves, other_colours, sparse_rs


class Watched(nn.Module):
    """A module that keeps every image it is asked about."""

    def __init__(self, module):
        super().__init__()
        self.module, self.seen = module, []

    def forward(self, images):
        self.seen.append(images.clone())
        return self.module(images)


def test_the_share_that_moves_is_that_of_the_published_schedule():
    """150 pixels and 10,000 queries, as in the paper; and the same squeezed into 1,000."""
    at = [1, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001, 9999]
    number = [22, 22, 11, 11, 9, 9, 7, 7, 5, 5, 4, 4, 3, 3, 3, 3, 2, 2]
    assert [moves(q, 10_000, 0.3, 150) for q in at] == number
    assert [moves(q, 1000, 0.3, 150) for q in (5, 6, 20, 21, 50, 51)] == [22, 11, 11, 9, 9, 7]
    assert moves(9999, 10_000, 0.3, 1) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_query_moves_as_many_pixels_as_the_schedule_says(lab, channels):
    """Where no margin falls nothing is kept: each query lies that many pixels from the first; all in corner colours."""
    torch.manual_seed(0)
    x = 0.25 + 0.5 * torch.rand(1, channels, 6, 6)

    spy = Watched(lab.Constant(0))
    _, (forwards, _) = lab.call(sparse_rs, spy, x, torch.tensor([0]), "l0:10", tile=1, queries=200)
    assert forwards.tolist() == [200]
    seen = torch.cat(spy.seen)
    repainted = (seen != x).any(1)
    assert repainted.flatten(1).sum(1).eq(10).all()
    assert seen.permute(0, 2, 3, 1)[repainted].unique().tolist() == [0, 1]
    given_back = (repainted[0] & ~repainted).flatten(1).sum(1).tolist()
    assert given_back == [0, *[moves(q, 200, 0.3, 10) for q in range(1, 200)]]
    assert len({tuple(r.flatten().tolist()) for r in repainted[1:]}) > 120
    assert repainted.any(0).all()  # every pixel has its turn
    assert not repainted.all(0).any()


def test_a_colour_is_never_the_old_one_and_the_others_are_even():
    """All pairs of an old and a drawn colour, each with every way out: each other colour comes as often."""
    for channels in (1, 3):
        corners = torch.tensor(list(product([0.0, 1.0], repeat=channels)))
        count = len(corners)
        old = corners.repeat_interleave(count * (count - 1), 0)[None]
        drawn = corners.repeat_interleave(count - 1, 0).repeat(count, 1)[None]
        others = torch.arange(count - 1).repeat(count * count)[None]
        new = other_colours(old, drawn, others)
        assert (new != old).any(2).all()
        codes = (torch.cat([old, new], 2)[0] * 2 ** torch.arange(2 * channels)).sum(1).long()
        assert set(codes.bincount()[codes.unique()].tolist()) == {count}
    grey = torch.full((1, 2, 1), 0.5)
    assert other_colours(grey, torch.tensor([[[0.0], [1.0]]]), torch.zeros(1, 2, dtype=torch.long)).tolist() == [
        [[0.0], [1.0]]
    ]


def test_the_exact_distance_of_a_linear_model_is_reached(lab):
    """Two classes: nearly all fall with as many pixels as the gains of the best ones must be, none with one less."""
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 75), torch.tensor([0.0, 0])
    x = (torch.rand(40, 3, 5, 5) * 255).byte()
    net = lab.Linear(weight, bias)
    y = net(x.float() / 255).argmax(1)
    away = lab.distance(weight, bias, x.float() / 255, y, "l0")
    assert len(away.unique()) >= 3
    for pixels in away.unique().tolist():
        verdict = lab.asked(sparse_rs, net, x, y, f"l0:{int(pixels)}", queries=1500)
        possible = away <= pixels
        assert not (verdict.fell & ~possible).any()
        assert (
            verdict.fell.sum() >= possible.sum() - 1
        )  # a pixel that moves never keeps its place: not all ways are open
        assert verdict.distance.max() <= pixels


def test_it_finds_what_an_exhaustive_search_finds(lab):
    """Nine gray pixels of which two may be repainted: on every image where any repainting is misread, and no other."""
    net = lab.small_net(channels=1, size=3, classes=3, seed=2)
    torch.manual_seed(5)
    x = torch.rand(40, 1, 3, 3)
    net[-1].bias -= net(x).mean(0)
    net[-1].bias[0] += 0.035
    y = net(x).argmax(1)
    possible = torch.zeros(40, dtype=torch.bool)
    for places in combinations(range(9), 2):
        for colours in product([0.0, 1.0], repeat=2):
            painted = x.flatten(1).clone()
            painted[:, list(places)] = torch.tensor(colours)
            possible |= net(painted.view_as(x)).argmax(1) != y
    found, _ = lab.call(sparse_rs, net, x, y, "l0:2", queries=400)
    fell = net(found).argmax(1) != y
    assert 0.2 < possible.float().mean() < 0.9
    assert not (fell & ~possible).any()
    assert fell.sum() >= possible.sum() - 2  # one move at a time may end where no single one helps


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 1), (3, 1, 1), (2, 3, 5)])
@pytest.mark.parametrize("pixels", [1, 9, 14, 100])
@pytest.mark.parametrize("queries", [1, 90])
def test_any_number_of_pixels_and_the_passes_of_the_formula(lab, shape, pixels, queries):
    """Also more pixels than the image has: then the colours alone change."""
    x = torch.full((2, *shape), 99, dtype=torch.uint8)
    verdict = lab.asked(sparse_rs, lab.Constant(0), x, torch.zeros(2), f"l0:{pixels}", queries=queries)
    assert verdict.forwards.tolist() == [queries + 1] * 2
    assert verdict.backwards.sum() == 0
    assert sparse_rs.cost(**sparse_rs.recipe(queries=queries).settings) == (queries, 0)
    assert verdict.distance.tolist() == [min(pixels, shape[1] * shape[2])] * 2


def test_all_colours_of_one_pixel_are_met(lab):
    """A single pixel that may be repainted goes through every corner of the colour cube."""
    spy = Watched(lab.Constant(0))
    lab.call(sparse_rs, spy, torch.full((1, 3, 1, 1), 0.5), torch.tensor([0]), "l0:5", tile=1, queries=60)
    assert len({tuple(s.flatten().tolist()) for s in torch.cat(spy.seen)}) == 8


def test_the_margin_only_falls(lab):
    """What is returned for a standing image has the least margin of all images met."""
    module = lab.small_net()
    x = torch.rand(1, 3, 8, 8)
    y = module(x).argmax(1)
    module[-1].bias[y] += 0.1
    net = Watched(module)
    net.seen.clear()
    found, _ = lab.call(sparse_rs, net, x, y, "l0:1", tile=1, queries=50)

    def margin(images):
        z = net.module(images)
        return z[:, y[0]] - z.scatter(1, y.expand(len(z), 1), -torch.inf).amax(1)

    margins = margin(torch.cat(net.seen))
    assert len(margins) == 50
    assert margins.min() > 0
    assert margin(found).item() == pytest.approx(margins.min().item(), abs=1e-5)
    assert margins.min() < margins[0]
