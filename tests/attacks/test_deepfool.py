import pytest
import torch

from attacks.deepfool import deepfool


def naive(net, x, y, norm, *, steps, classes=10):
    """The rule on one image, in float64: its first misread iterate, or None."""
    x = x.double()
    clean = net(x[None])[0]
    chosen = [j for j in clean.argsort(descending=True).tolist()[:classes] if j != y]
    for _ in range(steps):
        x = x.detach().requires_grad_()
        z = net(x[None])[0]
        best = None
        for j in chosen:
            f = z[j] - z[y]
            (w,) = torch.autograd.grad(f, x, retain_graph=True)
            length = w.abs().sum() if norm == "linf" else w.square().sum().sqrt()
            far = f.abs() / length
            if best is None or far < best[0]:
                best = (far, w.sign() if norm == "linf" else w / length)
        x = (x + 1.02 * (best[0] + 1e-4) * best[1]).clamp(0, 1).detach()
        if net(x[None])[0].argmax() != y:
            return x
    return None


@pytest.mark.parametrize("classes", [10, 3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_is_the_plain_rule(lab, norm, classes):
    """The same images as image by image in float64, also with fewer classes, and None where it stops too early."""
    net = lab.small_net(classes=6)
    torch.manual_seed(0)
    x = torch.rand(12, 3, 8, 8)
    net[-1].bias -= net(x).mean(0) / 2
    y = net(x).argmax(1)
    for steps in (1, 20):
        found, away = lab.nearest(deepfool, net.float(), x, y, norm, steps=steps, classes=classes)
        net.double()
        theirs = [naive(net, a, int(b), norm, steps=steps, classes=classes) for a, b in zip(x, y, strict=True)]
        assert away.isfinite().tolist() == [t is not None for t in theirs]
        assert steps == 1 or away.isfinite().all()
        for ours, other in zip(found, theirs, strict=True):
            if other is not None:
                assert (ours - other).abs().max() < 1e-5
        net.float()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_boundary_is_crossed_in_one_step(lab, norm):
    """By 2 % of the distance and 1.02e-4; the absolute part is much where the boundary is near."""
    net, x, y = lab.ten_classes(norm, 0.01, images=10)
    _, away = lab.nearest(deepfool, net, x, y, norm)
    assert away.tolist() == pytest.approx([1.02 * (0.01 + 1e-4)] * 10, rel=1e-3)
    _, (forwards, backwards) = lab.call(deepfool, net, x, y, norm)
    assert (forwards.tolist(), backwards.tolist()) == ([3] * 10, [10] * 10)


def test_few_classes_are_enough_where_the_nearest_is_among_them(lab):
    """Only as many gradients as classes are asked for, the true one's among them; never more than there are."""
    net = lab.small_net(classes=4)
    x = torch.rand(3, 3, 8, 8)
    y = net(x).argmax(1)
    for classes, gradients in ((1, 2), (2, 2), (3, 3), (10, 4)):
        _, (_, backwards) = lab.call(deepfool, net, x, y, "l2", steps=1, classes=classes)
        assert backwards.tolist() == [gradients] * 3


def test_a_gradient_however_small_is_followed(lab):
    """Logits scaled by 2^-40: the same images, where a floor under the gradient's norm would stop it."""
    net = lab.small_net()
    x = torch.rand(6, 3, 8, 8)
    y = net(x).argmax(1)

    class Quiet(torch.nn.Module):
        def forward(self, x):
            return net(x) * 2.0**-40

    for norm in ("linf", "l2"):
        assert torch.equal(*(lab.nearest(deepfool, m, x, y, norm)[0] for m in (net, Quiet())))
