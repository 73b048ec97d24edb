import pytest
import torch
from torch import nn

from attacks.apgd import apgd_ce, apgd_dlr
from attacks.eot import averaged
from attacks.losses import margin
from attacks.pgd import cw, pgd
from bench import UsageError
from bench.victim import Victim

METHODS = [(pgd, {"steps": 6}), (cw, {"steps": 5, "restarts": 2}), (apgd_ce, {"steps": 8}), (apgd_dlr, {"steps": 7})]
NAMES = [method.name for method, _ in METHODS]


class Noisy(nn.Module):
    """A net that sees every image through fresh gaussian noise."""

    def __init__(self, net, scale):
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x):
        return self.net(x + self.scale * torch.randn_like(x))


def scene(lab, images=12):
    net = lab.small_net(seed=2)
    torch.manual_seed(1)
    x = torch.rand(images, 3, 8, 8)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("method", "settings"), METHODS, ids=NAMES)
def test_a_model_without_noise_gives_the_same_images_for_three_times_the_passes(lab, method, settings, norm):
    """The mean of equal gradients is that gradient, up to its last bit."""
    net, x, y = scene(lab)
    threat = f"{norm}:{0.01 if norm == 'linf' else 0.1}"
    once, (forwards, backwards) = lab.call(method, net, x, y, threat, **settings)
    thrice, (forwards_3, backwards_3) = lab.call(method, net, x, y, threat, eot=3, **settings)
    assert (once != x).any()
    assert torch.allclose(once, thrice, atol=1e-5)
    assert torch.equal(3 * backwards, backwards_3)
    assert torch.equal(forwards_3 - backwards_3, forwards - backwards)  # looks between restarts are single


@pytest.mark.parametrize(("method", "settings"), METHODS, ids=NAMES)
def test_the_passes_are_those_of_the_formula(lab, method, settings):
    """On a model that never falls: eot times the gradients, and one look between restarts."""
    x = torch.zeros(3, 1, 4, 4, dtype=torch.uint8) + 99
    verdict = lab.asked(method, lab.Constant(0), x, torch.zeros(3), "linf:0.1", eot=4, **settings)
    cost = method.cost(**method.recipe(eot=4, **settings).settings)
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {cost}
    assert cost[1] == 4 * settings["steps"] * settings.get("restarts", 1)


def test_the_error_of_the_mean_gradient_falls_as_one_over_the_root(lab):
    """A square net has the gradient x + noise: of 64 passes an eighth of the error of one, of 16 a quarter."""

    class Square(nn.Module):
        def forward(self, x):
            half = (x + torch.randn_like(x)).square().flatten(1).sum(1) / 2
            return torch.stack([half, 0 * half], 1)

    torch.manual_seed(0)
    x, y = torch.rand(20, 3, 16, 16), torch.ones(20, dtype=torch.long)
    victim = Victim(Square(), tile=20, access="gradients", images=20)

    def error(eot):
        return (averaged(victim, eot).gradient(x, y, margin)[2] - x).square().mean().sqrt().item()

    assert [error(eot) for eot in (1, 16, 64)] == pytest.approx([1, 1 / 4, 1 / 8], rel=0.03)


def test_logits_and_loss_are_those_of_the_last_pass(lab):
    """They belong together, and differ from the mean."""
    seen = []

    class Watched(Noisy):
        def forward(self, x):
            seen.append(super().forward(x))
            return seen[-1]

    net, x, y = scene(lab)
    model = averaged(Victim(Watched(net, 0.1), tile=12, access="gradients", images=12), 5)
    logits, value, _ = model.gradient(x, y, margin)
    assert len(seen) == 5
    assert torch.equal(logits, seen[-1])
    assert torch.equal(value, margin(logits, y))
    assert not torch.allclose(logits, torch.stack(seen).mean(0), atol=1e-3)


def test_fewer_images_are_still_averaged_and_booked(lab):
    """What is kept pays for its own passes; classes in one go are averaged, too."""
    net, x, y = scene(lab)
    victim = Victim(net, tile=12, access="gradients", images=12)
    model = averaged(victim, 3)[torch.arange(12) < 2]
    _, _, grad = model.gradient(x[:2], y[:2], margin)
    assert torch.allclose(grad, Victim(net, tile=12, access="gradients", images=2).gradient(x[:2], y[:2], margin)[2])
    _, jacobian = model.jacobian(x[:2], torch.tensor([[0, 1], [2, 3]]))
    assert torch.allclose(jacobian, victim[:2].jacobian(x[:2], torch.tensor([[0, 1], [2, 3]]))[1])
    assert model(x[:2]).shape == (2, 5)
    forwards, backwards = victim.passes()
    assert forwards.tolist() == [3 + 3 + 1 + 1] * 2 + [0] * 10
    assert backwards.tolist() == [3 + 6 + 2] * 2 + [0] * 10


def test_means_fell_more_than_single_draws(lab):
    """Behind noise that drowns the gradient EOT-PGD fells at least as many images as PGD, and here many more."""
    torch.manual_seed(1)
    plain, x = lab.Linear(torch.randn(5, 192)), torch.rand(60, 3, 8, 8)
    y = plain(x).argmax(1)

    class Bent(nn.Module):
        """Linear logits whose gradient is drowned: each pass adds noise that is linear in the image."""

        def forward(self, x):
            return plain(x) + (x.flatten(1) - 0.5) @ (8 * torch.randn(192, 5))

    fell = {}
    for eot in (1, 40):
        torch.manual_seed(0)
        found, _ = lab.call(pgd, Bent(), x, y, "linf:0.04", tile=60, steps=10, eot=eot)
        fell[eot] = (plain(found).argmax(1) != y).sum().item()
    assert fell[40] > fell[1] + 5


def test_no_passes_are_no_gradient(lab):
    """The error says so, in a call that no recipe was read for."""
    with pytest.raises(UsageError, match=r"eot passes, which must be at least 1"):
        lab.call(pgd, lab.Constant(0), torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.long), "linf:0.1", eot=0)
