"""Parameters and multiply-adds, beside figures that others publish."""

import pytest
import torch
from torch import nn
from torchvision import models

from bench.exam import Shape
from bench.size import count


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "vgg16", "densenet121"])
def test_they_are_torchvisions_own_figures(name):
    """Its table of weights gives parameters, and billions of multiply-adds at 224x224 to three digits."""
    known = models.get_model_weights(name).DEFAULT.meta
    with torch.device("meta"):
        net = models.get_model(name, weights=None)
    parameters, macs = count(net, Shape(1000, 3, 224))
    assert parameters == known["num_params"]
    assert round(macs / 1e9, 3) == pytest.approx(known["_ops"], abs=0.0011)


def test_a_small_net_is_counted_by_hand():
    """A convolution costs its kernel at each place, a linear layer its weights; one image, whatever the mode."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    expected = (3 * 8 * 9 + 8 + 16 + 8 * 36 * 5 + 5, 36 * 3 * 8 * 9 + 8 * 36 * 5)
    statistics = net[1].running_mean.clone()
    net[1].eval()
    assert count(net, Shape(5, 3, 6)) == expected
    assert torch.equal(net[1].running_mean, statistics)
    assert [m.training for m in net] == [True, False, True, True, True]


def test_a_net_that_only_computes_for_real_is_asked_for_real():
    """A constant that it keeps beside its weights stays where it is; what fails there too has no count."""

    class Odd(nn.Module):
        def __init__(self, good):
            super().__init__()
            self.linear, self.constant, self.good = nn.Linear(4, 2), torch.ones(4), good

        def forward(self, x):
            if not self.good or (x.flatten(1) + self.constant).sum().item() < 0:
                raise ValueError
            return self.linear(x.flatten(1) + self.constant)

    assert count(Odd(True), Shape(2, 1, 2)) == (10, 8)
    assert count(Odd(False), Shape(2, 1, 2)) == (10, None)


def test_a_net_without_weights_has_none():
    """Nothing to count is 0, not an error."""
    assert count(nn.Flatten(), Shape(4, 1, 2)) == (0, 0)
