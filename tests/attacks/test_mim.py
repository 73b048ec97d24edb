import pytest
import torch
from torch import nn

from attacks.mim import mim


def naive(net, x, y, threat, eps, decay):
    """Ten lines of MI-FGSM, ten steps of eps / 10."""
    now, memory = x, torch.zeros_like(x)
    for _ in range(10):
        now = now.detach().requires_grad_()
        (grad,) = torch.autograd.grad(nn.functional.cross_entropy(net(now), y, reduction="sum"), now)
        memory = decay * memory + grad / grad.abs().sum((1, 2, 3), keepdim=True)
        if threat == "linf":
            moved = now.detach() + eps / 10 * memory.sign() - x
            now = (x + moved.clamp(-eps, eps)).clamp(0, 1)
        else:
            moved = now.detach() + eps / 10 * memory / memory.square().sum((1, 2, 3), keepdim=True).sqrt() - x
            size = moved.square().sum((1, 2, 3), keepdim=True).sqrt()
            now = (x + moved * (eps / size).clamp_max(1)).clamp(0, 1)
    return now


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.5)])
def test_ten_steps_are_the_textbook_ones(lab, norm, eps, decay):
    """Ten naive lines give the same images, bar a sign where a gradient rounds to nothing."""
    net = lab.small_net()
    torch.manual_seed(1)
    x = torch.rand(24, 3, 8, 8)
    y = net(x).argmax(1)
    ours, _ = lab.call(mim, net, x, y, f"{norm}:{eps}", decay=decay)
    assert ((ours - naive(net, x, y, norm, eps, decay)).abs() < 1e-5).float().mean() > 0.995
    any_, (forwards, _) = lab.call(mim, net, x, y, f"{norm}:{eps}", decay=decay, keep="any")
    fell = net(any_).argmax(1) != y
    assert fell.any()
    assert not ((net(ours).argmax(1) != y) & ~fell).any()
    assert torch.equal(any_[~fell], ours[~fell])
    assert forwards[~fell].eq(10).all()


@pytest.mark.parametrize("keep", ["last", "any"])
def test_the_passes_are_those_of_the_formula(lab, keep):
    """On a model that never falls and has no gradient: the images do not move, either."""
    x, y = torch.zeros(5, 1, 4, 4, dtype=torch.uint8) + 99, torch.zeros(5)
    verdict = lab.asked(mim, lab.Constant(0), x, y, "linf:0.1", steps=7, keep=keep)
    assert verdict.distance.tolist() == [0] * 5
    assert {(int(f) - 1, int(b)) for f, b in zip(verdict.forwards, verdict.backwards, strict=True)} == {
        mim.cost(**mim.recipe(steps=7, keep=keep).settings)
    }
