"""Fast search, exact verdict: a faster copy answers, and the model itself confirms every success."""

import copy

import pytest
import torch
from torch import nn

from bench.draws import Draws
from bench.fast import Hastened, fold, hasten
from bench.threat import ThreatModel
from bench.victim import Victim, freeze, small


class Branches(nn.Module):
    """A forward that looks at values, which no tracer follows."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.end = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        z = self.norm(self.conv(x))
        return self.end(z.mean((2, 3)) if x.sum() > 0 else z.amax((2, 3)))


class Whole(nn.Module):
    """Takes float32 alone."""

    def forward(self, x):
        assert x.dtype == torch.float32
        return x.flatten(1)[:, :3] * torch.arange(1, 4)


def seasoned(net):
    """The net with running statistics and scales that are not those of a new one."""
    torch.manual_seed(1)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3), m.running_var.uniform_(0.5, 2)
            m.weight.data.uniform_(0.5, 1.5), m.bias.data.normal_(0, 0.3)
    return freeze(net, torch.device("cpu"))


def block():
    return seasoned(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, bias=False),
            nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 36, 5),
        )
    )  # fmt: skip


def test_folding_leaves_the_logits_and_takes_the_norms():
    """Within rounding; a norm with no convolution right before it stays."""
    net, x = block(), torch.rand(4, 3, 8, 8)
    folded = fold(net)
    assert torch.allclose(folded(x), net(x), atol=1e-5)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == 1
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 3


def test_a_convolution_that_two_layers_read_is_not_folded():
    """Its plain output is needed too."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            z = self.conv(x)
            return (self.norm(z) + z).mean((2, 3))

    net, x = seasoned(Both()), torch.rand(2, 3, 6, 6)
    assert torch.allclose(fold(net)(x), net(x), atol=1e-6)


def test_what_cannot_be_traced_or_lowered_still_answers():
    """The same logits within rounding."""
    x = torch.rand(4, 3, 8, 8)
    for net in (seasoned(Branches()), freeze(Whole(), torch.device("cpu"))):
        assert torch.allclose(hasten(net, x)(x), net(x), atol=1e-2)


def test_only_nets_that_gain_by_it_are_lowered():
    """Below a million parameters in float32; above in the machine's quick format, with logits about the same."""
    tiny, x = block(), torch.rand(4, 3, 8, 8)
    assert small(tiny)
    assert hasten(tiny, x).dtype == torch.float32
    large = seasoned(nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 512, 3), nn.Flatten(), nn.Linear(8192, 10)))
    assert not small(large)
    fast = hasten(large, x)
    assert isinstance(fast, Hastened)
    assert (fast(x) - large(x)).abs().max() < 0.05 * large(x).abs().max()
    assert fast(x).dtype == torch.float32
    assert torch.equal(large(x), copy.deepcopy(large)(x))


class Liar(nn.Module):
    """Says of every image that it is of the class beside the one it looks like."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).roll(1, 1)


@pytest.fixture
def scene():
    net = block()
    x = torch.rand(9, 3, 8, 8)
    return net, x, net(x).argmax(1)


def test_what_the_search_misreads_the_model_is_asked_about(scene):
    """A search that misreads them is corrected for a forward an image; where it agrees with the truth it stays."""
    net, x, y = scene
    truth = y.clone()
    truth[3] = (y[3] + 1) % 5  # the liar's word
    victim = Victim(net, tile=4, access="gradients", images=9, search=Liar(net), truth=truth)
    others = torch.arange(9) != 3
    logits = victim(x)
    assert torch.allclose(logits[others], net(x)[others], atol=1e-6)
    assert torch.allclose(logits[3], net(x)[3].roll(1), atol=1e-6)
    assert victim.passes()[0].tolist() == [1 if i == 3 else 2 for i in range(9)]
    logits, _, _ = victim.gradient(x, y, lambda z, _y: z[:, 0])
    assert torch.equal(logits.argmax(1)[:3], y[:3])
    few = victim[torch.tensor([0, 5])]
    assert torch.equal(few(x[[0, 5]].repeat(3, 1, 1, 1)).argmax(1), y[[0, 5]].repeat(3))
    graph = victim(x.clone().requires_grad_())
    assert torch.equal(graph.argmax(1)[:3], y[:3])
    (slope,) = torch.autograd.grad(graph.sum(), [graph])
    assert slope.shape == (9, 5)


def test_a_fast_search_says_the_same_in_any_batch(scene):
    """Confirmed logits too come from tiles of one shape."""
    from attacks.apgd import apgd_ce

    net, x, y = scene
    fast = Hastened(copy.deepcopy(net), torch.bfloat16)

    def images(rows):
        victim = Victim(net, tile=4, access="gradients", images=len(rows), search=fast, truth=y[rows])
        draws = Draws(0, rows, "apgd-ce")
        return apgd_ce(victim, x[rows], y[rows], ThreatModel.parse("linf:0.02"), draws, steps=8)

    whole = images(torch.arange(9))
    for rows in (torch.arange(9).flip(0), torch.tensor([4]), torch.tensor([7, 0, 8, 2])):
        assert torch.equal(images(rows), whole[rows])
