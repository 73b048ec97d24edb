from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bench import UsageError
from bench.registry import Registry
from data.mnist import mnist
from defenses import nets

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
REGISTRY = Registry()
REGISTRY.collect(nets)


def build(text, *, classes=10, channels=3, size=32, device="cpu"):
    """The net of this recipe; on the meta device it has shapes and no numbers."""
    recipe = REGISTRY.parse("net", text)
    with torch.device(device):
        return recipe.plugin(classes=classes, channels=channels, size=size, **recipe.settings)


@pytest.mark.parametrize(
    ("text", "classes", "count"),
    [
        ("resnet18", 10, 11_173_962),
        ("resnet18", 100, 11_220_132),
        ("resnet18", 200, 11_271_432),
        ("preactresnet18", 10, 11_172_170),
        ("preactresnet18(variant='fast')", 10, 11_171_146),
        ("wrn", 10, 46_160_474),
        ("wrn-34-10", 10, 46_160_474),
        ("wrn-34-10", 200, 46_282_264),
        ("wrn-28-10", 10, 36_479_194),
    ],
)
def test_it_has_as_many_parameters_as_the_published_net(text, classes, count):
    """Counts of the papers' own code, without the branch of TRADES' file that is never used."""
    net = build(text, classes=classes, device="meta")
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("cnn", (4, 7, 8, 16)),
        ("resnet18", (1, 4, 4, 8)),
        ("preactresnet18", (1, 4, 4, 8)),
        ("preactresnet18(variant='fast')", (1, 4, 4, 8)),
        ("wrn(depth=10)", (2, 7, 8, 16)),
    ],
)
def test_any_images_give_logits_and_a_feature_map(text, sides):
    """Digits, MNIST, CIFAR and Tiny-ImageNet all fit, and cam_layer names the last map (N, D, h, w)."""
    for channels, size, side in zip((1, 1, 3, 3), (8, 28, 32, 64), sides, strict=True):
        net = build(text, classes=7, channels=channels, size=size, device="meta")
        maps = []
        net.get_submodule(net.cam_layer).register_forward_hook(lambda _m, _i, out, maps=maps: maps.append(out))
        assert net(torch.empty(2, channels, size, size, device="meta")).shape == (2, 7)
        assert [m.shape[2:] for m in maps] == [(side, side)]


@pytest.mark.parametrize("size", [4, 5, 9, 15, 16, 17, 29])
def test_cnn_fits_odd_sizes(size):
    """The small net counts its last map right at every size from 4."""
    assert build("cnn", size=size)(torch.zeros(1, 3, size, size)).shape == (1, 10)


def test_cnn_is_the_published_net_on_mnist():
    """Its state dict has the names and shapes of the public adversarially trained MNIST net."""
    shapes = {name: tuple(value.shape) for name, value in build("cnn", channels=1, size=28).state_dict().items()}
    assert shapes == {
        "0.weight": (16, 1, 4, 4), "0.bias": (16,), "2.weight": (32, 16, 4, 4), "2.bias": (32,),
        "5.weight": (100, 1568), "5.bias": (100,), "7.weight": (10, 100), "7.bias": (10,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "resnet18",
            {"conv1.weight", "bn1.weight", "layer2.0.shortcut.1.running_var", "layer4.1.bn2.bias", "linear.bias"},
        ),
        (
            "preactresnet18",
            {"conv1.weight", "layer2.0.shortcut.0.weight", "layer4.1.conv2.weight", "bn.bias", "linear.bias"},
        ),
        (
            "wrn",
            {"conv1.weight", "block1.layer.0.convShortcut.weight", "block3.layer.4.bn2.bias", "bn1.bias", "fc.bias"},
        ),
    ],
)
def test_submodules_are_named_as_in_public_checkpoints(text, names):
    """These are names from the papers' released weights, and normalisation adds none."""
    net = build(text, device="meta")
    normalised = build(f"{text}(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))", device="meta")
    assert names <= set(net.state_dict())
    assert list(net.state_dict()) == list(normalised.state_dict())


def test_fast_ends_without_batch_normalisation():
    """The two variants have different weights: the fast one lacks the last BN."""
    rice, fast = (build(f"preactresnet18(variant={v!r})", device="meta") for v in ("rice", "fast"))
    assert {n.split(".")[0] for n in set(rice.state_dict()) ^ set(fast.state_dict())} == {"bn"}


@pytest.mark.parametrize(
    ("text", "block", "shortcut", "raw"),
    [
        ("resnet18", "layer2.0", "shortcut", True),
        ("preactresnet18(variant='rice')", "layer2.0", "shortcut", False),
        ("preactresnet18(variant='fast')", "layer2.0", "shortcut", True),
        ("wrn(depth=10, width=2)", "block2.layer.0", "convShortcut", False),
    ],
)
def test_the_shortcut_sees_what_the_papers_code_shows_it(text, block, shortcut, raw):
    """It takes the block's raw input in ResNet and the fast variant, and the input after BN and ReLU in the others."""
    net = build(text).eval()
    seen = []
    module = net.get_submodule(block)
    for part in (module, module.get_submodule(shortcut)):
        part.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].clone()))
    net(torch.rand(1, 3, 32, 32))
    given, taken = seen
    assert torch.equal(taken, given if raw else module.bn1(given).relu())


@pytest.mark.parametrize("text", ["cnn", "resnet18", "preactresnet18", "wrn(depth=10, width=1)"])
def test_the_first_layer_normalises(text):
    """A net with mean and std gives on x what the same weights without them give on (x - mean) / std."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    recipe = REGISTRY.parse("net", text).with_settings({"mean": mean, "std": std})
    plain, normalised = build(text).eval(), build(recipe.key).eval()
    normalised.load_state_dict(plain.state_dict(), strict=True)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    by_hand = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(normalised(x), plain(by_hand))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cnn(mean=(0.5,), std=(0.2,))", r"mean=\(0\.5,\): expected 3 values"),
        ("resnet18(mean=(0.5, 0.5, 0.5))", r"std=\(\): expected 3 values"),
        ("wrn(std=(1, 1, 0), mean=(0, 0, 0))", r"expected numbers above 0"),
        ("resnet18(mean=('a', 'b', 'c'), std=(1, 1, 1))", r"expected numbers"),
        ("preactresnet18(variant='rise')", "did you mean 'rice'"),
        ("wrn(depth=32)", "the nearest is 34"),
        ("wrn(depth=4)", "the nearest is 10"),
        ("wrn(width=0)", "expected 1 or more"),
    ],
)
def test_a_wrong_setting_is_a_usage_error(text, message):
    """What was wrong, what was expected, what is nearest."""
    with pytest.raises(UsageError, match=message):
        build(text)


def test_cnn_refuses_images_that_it_would_shrink_to_nothing():
    """Below 4x4 there is no map left."""
    with pytest.raises(UsageError, match="4x4 or more, and they are 3x3"):
        build("cnn", size=3)


def test_initial_weights_depend_on_the_seed_alone():
    """Two ResNet-18s made after the same manual_seed are equal, and another seed gives another."""

    def made(seed):
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build("resnet18").parameters()])

    first = made(0)
    assert torch.equal(first, made(0)) and not torch.equal(first, made(1))


def test_wide_resnet_starts_as_in_trades():
    """Convolutions are normal with variance 2 / (k k out), BN is the identity, and the linear bias is zero."""
    net = build("wrn(depth=10, width=4)")
    weight = net.get_submodule("block3.layer.0.conv2").weight
    assert weight.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    assert not net.fc.bias.any() and bool((net.bn1.weight == 1).all()) and not net.bn1.bias.any()


def answers(net, tile, labels):
    """Logits and the input gradients of the summed cross-entropy."""
    x = tile.clone().requires_grad_()
    logits = net(x)
    (grad,) = torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), x)
    return logits.detach(), grad


@pytest.mark.parametrize(
    ("text", "channels", "size", "tile"), [("cnn", 1, 28, 32), ("cnn", 1, 8, 32), ("resnet18", 3, 32, 16)]
)
def test_an_image_meets_the_same_arithmetic_in_any_slot_among_any_neighbours(text, channels, size, tile):
    """In a tile of fixed shape, float32 logits and input gradients of an image are equal bit for bit."""
    torch.manual_seed(0)
    net = build(text, channels=channels, size=size).eval()
    image = torch.rand(1, channels, size, size)
    wanted = None
    for slot in (0, 1, tile // 2 + 1, tile - 1):
        images, labels = torch.rand(tile, channels, size, size), torch.randint(10, (tile,))
        images[slot], labels[slot] = image[0], 3
        logits, grad = answers(net, images, labels)
        wanted = wanted or (logits[slot], grad[slot])
        assert torch.equal(logits[slot], wanted[0]) and torch.equal(grad[slot], wanted[1])


@pytest.mark.shared
def test_the_public_mnist_net_loads_and_is_right_on_9899_of_10000(tmp_path):
    """The adversarially trained net of Fast AT has a clean accuracy of 98.99 % on MNIST."""
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(SHARED / "mnist")
    test = mnist(tmp_path).test
    net = build("cnn", channels=1, size=28).eval()
    weights = torch.load(
        SHARED / "checkpoints" / "mnist_fast_adversarial_pgd.pth", weights_only=True, map_location="cpu"
    )
    net.load_state_dict(weights, strict=True)
    with torch.no_grad():
        predicted = np.concatenate([net(torch.tensor(x) / 255).argmax(1) for x in np.array_split(test.x, 20)])
    assert (predicted == test.y).sum() == 9899


@pytest.mark.shared
def test_the_public_provably_trained_cifar_net_loads():
    """At 32 pixels and 3 channels cnn is the net of the convex adversarial polytope's public weights."""
    file = torch.load(SHARED / "checkpoints" / "cifar10_convex_small_8px.pth", weights_only=True, map_location="cpu")
    net = build("cnn(mean=(0.485, 0.456, 0.406), std=(0.225, 0.225, 0.225))")
    net.load_state_dict(file["state_dict"][0] if isinstance(file, dict) else file[0], strict=True)
