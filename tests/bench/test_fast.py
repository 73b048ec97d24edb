"""Fast search, exact verdict: attacks ask a faster copy, and what only that one misreads is attacked again."""

import copy

import pytest
import torch
from torch import nn

from attacks.apgd import apgd_ce
from attacks.pgd import pgd
from attacks.square import square
from bench.evaluate import Subject, judge, judge_together
from bench.exam import Part
from bench.fast import Hastened, fold, hasten
from bench.threat import ThreatModel
from bench.victim import freeze


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
    torch.manual_seed(2)
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


def test_a_copy_is_in_the_quick_format_of_the_machine():
    """With logits about the same, in float32; the model itself stays as it was."""
    net, x = block(), torch.rand(4, 3, 8, 8)
    before = net(x)
    fast = hasten(net, x)
    assert isinstance(fast, Hastened)
    assert (fast(x) - before).abs().max() <= 0.05 * before.abs().max()
    assert fast(x).dtype == torch.float32
    assert torch.equal(net(x), before)


def test_small_nets_keep_the_plain_layout_on_a_cpu():
    """Channels last is for the large ones, which gain by it."""
    wide = seasoned(nn.Sequential(nn.Conv2d(3, 40_000, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    for net, layout in ((block(), torch.contiguous_format), (wide, torch.channels_last)):
        fast = hasten(net, torch.rand(2, 3, 8, 8))
        (weight,) = (w for w in list(fast.parameters())[:1] if w.ndim == 4)
        assert fast.layout == layout
        assert weight.is_contiguous(memory_format=layout)


def test_a_blind_search_is_for_attacks_without_gradients_alone(scene):
    """Gradients are the model's own, to the bit; Square asks the liar, is told so, and is asked again."""
    net, part = scene
    plain, blind = Subject(net, 4), Subject(net, 4, search=Liar(net), blind=True)
    threat, place = ThreatModel.parse("linf:0.1"), {"seed": 0, "batch": 4, "device": torch.device("cpu")}
    for recipe, asked_liar in ((apgd_ce.recipe(steps=5), False), (square.recipe(queries=9), True)):
        mine, its = (judge(s, recipe, threat, part, torch.arange(9), **place) for s in (plain, blind))
        assert torch.equal(mine.fell, its.fell)
        assert torch.equal(mine.forwards, its.forwards) is not asked_liar


class Odd(nn.Module):
    """A convolution and a normalisation, used in one of many ways in which they must not become one."""

    def __init__(self, way):
        super().__init__()
        self.way, self.conv, self.norm = way, nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.other, self.end = nn.BatchNorm2d(3), nn.Linear(3, 2)
        if way == "spectral":
            nn.utils.parametrizations.spectral_norm(self.conv)

    def forward(self, x):
        z = self.norm(input=self.conv(x)) if self.way == "keyword" else self.norm(self.conv(x))
        if self.way == "twice":
            z = self.conv(z)
        if self.way == "two norms":
            z = z + self.other(self.conv(x))
        if self.way == "weight read":
            z = z + self.conv.weight.sum()
        if self.way == "adapts":
            self.norm.train()
        if self.way == "noise":
            z = z + 10 * torch.randn(1)
        return self.end(z.mean((2, 3)))


WAYS = ["twice", "two norms", "weight read", "keyword", "spectral", "adapts", "noise"]


@pytest.mark.parametrize("way", [*WAYS, "hook within", "hook outside", "hook of the norm"])
def test_a_copy_says_what_the_model_says_or_is_not_used(way):
    """Whatever a net does with its layers: hastening raises nothing, and the logits stay near."""
    net = seasoned(Odd(way))
    if way == "hook within":
        net.conv.register_forward_hook(lambda _m, _x, z: z.clamp_min(0))
    if way == "hook outside":
        net.register_forward_pre_hook(lambda _m, x: (4 * x[0] - 2,))
    if way == "hook of the norm":
        net.norm.register_forward_hook(lambda _m, _x, z: z * 3)
    x = torch.rand(6, 3, 8, 8)
    fast = hasten(net, x)
    if way == "noise":
        assert fast is net
    elif way != "adapts":  # which is another model after each call
        net.eval()
        assert (fast(x) - net(x)).abs().max() <= 0.05 * net(x).abs().max()
        assert torch.allclose(fold(net)(x), net(x), atol=1e-5)


class Liar(nn.Module):
    """Says of every image that it is of the class beside the one it looks like."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).roll(1, 1)


class Believer(nn.Module):
    """Says of every image that it is of class 0, whatever it looks like."""

    def forward(self, x):
        return nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 5) + 0 * x.flatten(1)[:, :1]


@pytest.fixture
def scene():
    """A net, images and its classes of them, two of which are given wrong."""
    net = block()
    torch.manual_seed(3)
    x = (torch.rand(9, 3, 8, 8) * 255).byte()
    y = net(x.float() / 255).argmax(1)
    y[[2, 5]] = (y[[2, 5]] + 1) % 5
    return net, Part(x.numpy(), y.numpy())


def asked(net, part, search, attack=apgd_ce, batch=4, order=None, **settings):
    return judge(
        Subject(net, 4, search=search), attack.recipe(**settings), ThreatModel.parse("linf:0.1"), part,
        torch.arange(9) if order is None else order, seed=0, batch=batch, device=torch.device("cpu"),
    )  # fmt: skip


def test_a_search_that_cries_wolf_is_not_believed(scene):
    """It misreads all at once; the judge does not, and these images are attacked again without it, as if never with."""
    net, part = scene
    slow, fast = asked(net, part, None, steps=9), asked(net, part, Liar(net), steps=9)
    assert 2 < slow.fell.sum() < 9
    assert torch.equal(fast.fell, slow.fell)
    again = torch.ones(9, dtype=torch.bool).index_fill(0, torch.tensor([2, 5]), value=False)  # the liar's word is true
    for field in ("predicted", "margin", "distance"):
        assert torch.equal(getattr(fast, field)[again], getattr(slow, field)[again])
    assert torch.equal(fast.forwards[again], slow.forwards[again] + 2)  # the start in vain, and the judge's look at it
    where = fast.fell & again
    mine, theirs = fast.adversarial[where[fast.fell]], slow.adversarial[where[slow.fell]]
    assert torch.equal(mine, theirs)


def test_a_search_that_sees_nothing_fells_nothing_but_what_is_lost(scene):
    """Every image is of class 0 to it, so gradients are nil; what it never misread is not attacked again."""
    net, part = scene
    blind = asked(net, part, Believer(), steps=9)
    assert (blind.backwards[torch.tensor(part.y == 0)] == 9).all()


def test_each_attack_of_a_run_is_judged_for_itself(scene):
    """Shorter and longer climbs of one run with a search that lies: as apart."""
    net, part = scene
    recipes = [pgd.recipe(steps=s, step=0.3) for s in (6, 2)]
    place = {"seed": 0, "batch": 4, "device": torch.device("cpu")}
    threat = ThreatModel.parse("linf:0.02")
    together = judge_together(Subject(net, 4, search=Liar(net)), recipes, threat, part, torch.arange(9), **place)
    for recipe, verdict in zip(recipes, together, strict=True):
        alone = judge(Subject(net, 4, search=Liar(net)), recipe, threat, part, torch.arange(9), **place)
        for field in ("fell", "predicted", "margin", "distance", "adversarial"):
            assert torch.equal(getattr(verdict, field), getattr(alone, field)), field


def test_a_fast_search_says_the_same_in_any_batch(scene):
    """In bfloat16, whatever stands beside an image, and whoever has to be attacked again."""
    net, part = scene
    fast = Hastened(copy.deepcopy(net), torch.bfloat16)
    whole = asked(net, part, fast, steps=8)
    for batch, order in ((1, torch.arange(9)), (7, torch.arange(9).flip(0)), (9, torch.tensor([4, 7, 0, 8]))):
        other = asked(net, part, fast, batch=batch, order=order, steps=8)
        for field in ("fell", "predicted", "margin", "distance", "forwards", "backwards"):
            assert torch.equal(getattr(other, field), getattr(whole, field)[order]), field
