"""The wide nets that are not TRADES' own, and the branch of TRADES' files that no forward asks."""

import copy
import math

import pytest
import torch
from torch import nn

from bench import UsageError
from bench.fast import hasten
from bench.passes import lean
from tests.defenses.making import gradient, last_map, lively, made, parameters, zoo

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("wrn-silu", 36_479_194),  # 36.48 million
        ("wrn-28-10-silu", 36_479_194),
        ("wrn-70-16-silu", 266_796_506),  # 266.80 million
        ("wrn-28-10", 36_479_194),
        ("resnet-madry(width=10)", 45_901_914),
    ],
)
def test_it_has_as_many_parameters_as_the_published_net(text, count):
    """Also where normalised, and SiLU has none of its own."""
    assert parameters(made(text, device="meta")) == count


@pytest.mark.parametrize("text", ["wrn-silu(depth=10, width=2)", "resnet-madry(width=10)"])
def test_images_of_every_size_give_logits_and_a_feature_map(text):
    """A quarter of the side is left, and cam_layer names that map."""
    for channels, size in ((1, 8), (1, 28), (3, 32), (3, 64), (3, 96), (3, 224)):
        net = made(text, classes=7, channels=channels, size=size, device="meta")
        logits, found = last_map(net, torch.empty(2, channels, size, size, device="meta"))
        assert logits.shape == (2, 7)
        assert found.shape[2:] == (size // 4, size // 4)


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("wrn-silu", 30, "a multiple of 4 pixels, and they are 30x30"),
        ("wrn-silu(depth=12)", 32, r"wrn-silu\(depth=12\).*the nearest is 10"),
        ("wrn-silu(width=0)", 32, "expected 1 or more"),
        ("wrn-28-10-swish", 32, "did you mean 'wrn-28-10-silu'"),
    ],
)
def test_what_cannot_be_is_refused(text, size, message):
    """With what can."""
    with pytest.raises(UsageError, match=message):
        made(text, size=size)


def test_wrn_silu_is_the_public_net():
    """It takes the state dict of the zoo's net as it is, and gives its logits and gradients."""
    torch.manual_seed(0)
    theirs = lively(zoo("dm_wide_resnet", "DMWideResNet")(depth=16, width=2, activation_fn=nn.SiLU))
    ours = made(f"wrn-silu(depth=16, width=2, mean={MEAN}, std={STD})").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, y = torch.rand(3, 3, 32, 32), torch.tensor([1, 2, 3])
    wanted = theirs(x)
    assert torch.allclose(ours(x), wanted, atol=1e-5 * wanted.abs().max().item())
    grad = gradient(theirs, x, y)
    assert grad.any()
    assert torch.allclose(gradient(ours, x, y), grad, atol=1e-4 * grad.abs().max().item())


def test_wrn_is_the_public_net_without_its_unused_branch():
    """The zoo's net with sub_block1 gives the same logits from the weights that are not left out."""
    torch.manual_seed(0)
    theirs = lively(zoo("wide_resnet", "WideResNet")(depth=10, widen_factor=2, sub_block1=True))
    ours = made("wrn(depth=10, width=2)").eval()
    extra = [k for k in theirs.state_dict() if k.startswith(ours.ignored_keys)]
    assert set(extra) == theirs.state_dict().keys() - ours.state_dict().keys() != set()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k not in extra}, strict=True)
    x = torch.rand(2, 3, 32, 32)
    wanted = theirs(x)
    assert torch.allclose(ours(x), wanted, atol=1e-5 * wanted.abs().max().item())


def test_a_checkpoint_of_trades_loads_and_says_what_it_leaves_out(bench, tmp_path):
    """Weights under `module.`, with the unused branch: the run goes through."""
    theirs = zoo("wide_resnet", "WideResNet")(depth=10, widen_factor=1, sub_block1=True)
    state = {f"module.{k}": v for k, v in theirs.state_dict().items()}
    state["module.conv1.weight"] = state["module.conv1.weight"][:, :1].clone()  # digits are grey
    torch.save(state, tmp_path / "w.pth")
    words = ("--net", "wrn(depth=10, width=1)", "--columns", "clean", "-n", "8", "--executor", "inline")
    done = bench("run", "--defense", "checkpoint(path='w.pth')", *words)
    assert done.returncode == 0, done.stderr
    assert "all but 12 weights that the net does not use, as sub_block1.layer.0.bn1.weight" in done.stderr
    # What is neither the net's nor known to be unused is still an error.
    torch.save({**state, "module.sub_block2.weight": torch.zeros(1)}, tmp_path / "w.pth")
    done = bench("run", "--defense", "checkpoint(path='w.pth')", *words)
    assert done.returncode == 2
    assert "not in the net ['sub_block2.weight']" in done.stderr


def test_wrn_silu_starts_as_published():
    """Convolutions normal with variance 2 / (k k out), the linear bias 0, and BN with a momentum of 0.01."""
    torch.manual_seed(0)
    net = made("wrn-silu(depth=10, width=4)")
    assert net.layer[2].block[0].conv_1.weight.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    assert not net.logits.bias.any()
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}


def test_madrys_net_starts_as_in_his_code():
    """Convolutions as wide ResNets; the linear layer uniform up to sqrt(3 / inputs), its bias 0; BN eps 0.001."""
    torch.manual_seed(0)
    net = made("resnet-madry(width=4)")
    assert net.layer3[1].conv2.weight.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    bound = math.sqrt(3 / 256)
    assert 0.98 * bound < net.linear.weight.abs().max().item() <= bound
    assert not net.linear.bias.any()
    assert {(m.momentum, m.eps) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {(0.1, 1e-3)}


@pytest.mark.parametrize("text", ["wrn-silu(depth=10, width=1)", "resnet-madry(width=2)"])
def test_faster_passes_leave_its_answers(text):
    """lean: equal logits to the bit and gradients to rounding; hasten: a copy that is used, so that it agrees."""
    torch.manual_seed(0)
    net = lively(made(text)).requires_grad_(False)
    quick = lean(copy.deepcopy(net))
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    assert torch.equal(quick(x), net(x))
    wanted = gradient(net, x, y)
    assert wanted.isfinite().all() and wanted.any()
    assert torch.allclose(gradient(quick, x, y), wanted, atol=1e-4 * wanted.abs().max().item())
    assert hasten(net, x) is not net
