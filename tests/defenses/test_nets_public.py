"""Nets of timm and torchvision: as their libraries make them, behind the images' size, channels and normalisation."""

import json
import socket

import pytest
import torch
from torch.nn import functional as F
from torchvision import models
from torchvision.transforms import functional as pictures

from bench import UsageError
from bench.passes import lean
from defenses.nets_public import Resize, _timm
from tests.defenses.making import gradient, last_map, made, parameters

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Whatever these nets are, nothing is fetched for them."""

    def refuse(*_args, **_more):
        raise AssertionError("a net asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("text", "classes", "count"),
    [
        ("resnet50", 1000, 25_557_032),
        ("torchvision(name='resnet50')", 1000, 25_557_032),
        ("resnet50", 9, 25_557_032 - 2049 * 1000 + 2049 * 9),
        ("torchvision(name='vit_b_16')", 1000, 86_567_656),
        ("torchvision(name='densenet121')", 1000, 7_978_856),
        ("timm(name='resnet18')", 1000, 11_689_512),
        ("timm(name='resnet18.a1_in1k')", 1000, 11_689_512),
        ("timm(name='efficientnet_b0')", 1000, 5_288_548),
    ],
)
def test_it_has_as_many_parameters_as_the_published_net(text, classes, count):
    """The libraries' own figures for 1,000 classes; fewer classes take only from the last layer."""
    assert parameters(made(text, classes=classes, size=224, device="meta")) == count


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_torchvisions_net_is_that_of_the_library(name):
    """The same weights give the same logits on images normalised by hand, and its own figures are the defaults."""
    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None, num_classes=7).eval()
    ours = made(f"torchvision(name={name!r})", classes=7).eval()
    ours.load_state_dict({f"net.{k}": v for k, v in theirs.state_dict().items()}, strict=True)
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    assert torch.equal(ours(x), theirs((x - mean) / std))
    other = made(f"torchvision(name={name!r}, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))", classes=7).eval()
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other(x), theirs(x))


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("timm(name='resnet18.a1_in1k')", IMAGENET[0]),
        ("timm(name='vit_tiny_patch16_224.augreg_in21k_ft_in1k', resize=224)", (0.5, 0.5, 0.5)),
        ("torchvision(name='resnet18')", IMAGENET[0]),
        ("torchvision(name='googlenet')", (0.5, 0.5, 0.5)),
        ("torchvision(name='resnet18', mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))", (0.1, 0.2, 0.3)),
    ],
)
def test_images_are_normalised_as_for_the_public_weights_unless_told_else(text, mean):
    """The Inceptions' weights want [-1, 1]; so do many transformers'."""
    assert made(text).normalise.mean.flatten().tolist() == pytest.approx(mean)


@pytest.mark.parametrize(
    "text",
    [
        "timm(name='resnet18')",
        "torchvision(name='resnet18')",
        "torchvision(name='shufflenet_v2_x0_5')",
        "timm(name='mobilenetv3_small_050')",
        "torchvision(name='squeezenet1_1')",
    ],
)
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 32, 10), (3, 64, 200), (2, 96, 2)])
def test_images_of_other_channels_sizes_and_classes_are_taken(text, channels, size, classes):
    """Grey images are normalised by the average of the three colours' figures; gradients reach every channel."""
    torch.manual_seed(0)
    net = made(text, channels=channels, size=size, classes=classes).eval()
    x = torch.rand(2, channels, size, size)
    assert net(x).shape == (2, classes)
    assert net.normalise.mean.shape == (1, channels, 1, 1)
    grad = gradient(net, x, torch.tensor([0, 1]))
    assert grad.isfinite().all() and all(grad[:, c].any() for c in range(channels))
    frozen = lean(net.requires_grad_(False))
    assert torch.allclose(gradient(frozen, x, torch.tensor([0, 1])), grad, atol=1e-3 * grad.abs().max().item())


@pytest.mark.parametrize(
    ("text", "layer", "channels", "side"),
    [
        ("torchvision(name='resnet50')", "net.layer4", 2048, 7),
        ("torchvision(name='densenet121')", "net.features", 1024, 7),
        ("torchvision(name='mobilenet_v2')", "net.features", 1280, 7),
        ("torchvision(name='inception_v3')", "net.Mixed_7c", 2048, 5),
        ("timm(name='resnet18')", "net.layer4", 512, 7),
        ("timm(name='efficientnet_b0')", "net.bn2", 1280, 7),
        ("torchvision(name='vit_b_16')", "net.conv_proj", 768, 14),
        ("torchvision(name='vgg11')", "net.features", 512, 7),
    ],
)
def test_cam_layer_is_the_last_map_of_the_net(text, layer, channels, side):
    """At the published size; a transformer's only map is that of its patches."""
    net = made(text, size=224, device="meta")
    assert net.cam_layer == layer
    _, found = last_map(net.eval(), torch.empty(1, 3, 224, 224, device="meta"))
    assert found.shape == (1, channels, side, side)


def test_a_net_of_one_size_says_it_and_takes_other_images_resized():
    """A transformer for 224 pixels refuses 32, and with resize=224 answers as on the enlarged images."""
    for text in ("torchvision(name='vit_b_16'{})", "timm(name='vit_tiny_patch16_224'{})"):
        with pytest.raises(UsageError, match=r"cannot take images of 32x32.*for 224x224: add resize=224"):
            made(text.format(""))
    with pytest.raises(UsageError, match="for 224x224: add resize=224"):  # though its best weights are for 518
        made("torchvision(name='vit_h_14')", device="meta")
    torch.manual_seed(0)
    resized = made("timm(name='vit_tiny_patch16_224', resize=224)").eval()
    plain = made("timm(name='vit_tiny_patch16_224')", size=224).eval()
    plain.load_state_dict(resized.state_dict(), strict=True)
    x = torch.rand(1, 3, 32, 32)
    large = F.interpolate(x, (224, 224), mode="bilinear", align_corners=False)
    assert torch.allclose(resized(x), plain(large), atol=1e-4)


@pytest.mark.parametrize(("size", "wanted"), [(28, 32), (32, 224), (64, 32), (96, 70), (8, 8)])
def test_resizing_is_the_librarys_own(size, wanted):
    """As torchvision resizes tensors, smoothed where images shrink; the gradient is the transposed product."""
    x = torch.rand(2, 3, size, size)
    ours = Resize(size, wanted)
    expected = pictures.resize(x, [wanted, wanted], antialias=True)
    assert torch.allclose(ours(x), expected, atol=1e-5)
    assert not ours.state_dict()


def test_public_weights_load_without_the_prefix(bench, tmp_path):
    """A timm ResNet-18 as timm saves it, with and without `module.`, gives the same weights, and it is said."""
    torch.manual_seed(0)
    theirs = _timm().create_model("resnet18", num_classes=10, in_chans=1)
    net = ("--net", "timm(name='resnet18')", "--columns", "clean", "-n", "4", "--executor", "inline", "--json")
    for name, front in (("plain.pth", ""), ("parallel.pth", "module."), ("ours.pth", "net.")):
        torch.save({f"{front}{k}": v for k, v in theirs.state_dict().items()}, tmp_path / name)
        done = bench("run", "--defense", f"checkpoint(path={name!r})", *net)
        assert done.returncode == 0, done.stderr
        assert ("'net.' before the names" in done.stderr) == (front != "net.")
    (section,) = json.loads(done.stdout)["board"]["sections"]
    assert len({row["weights"] for row in section["rows"]}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timm(name='resnt18')", "timm has no net 'resnt18'; did you mean 'resnet18'"),
        ("timm(name='resnet18.a1in1k')", "did you mean 'resnet18.a1_in1k'"),
        ("timm(name='hf-hub:timm/resnet18.a1_in1k')", "timm has no net 'hf-hub:"),
        ("timm(name='')", "timm has no net ''"),
        ("torchvision(name='resnet-18')", "did you mean 'resnet18'"),
        ("torchvision(name='fcn_resnet50')", "torchvision has no classifier"),
        ("torchvision", r"torchvision needs a setting: torchvision\(name=…\)"),
        ("torchvision(name='resnet18', resize=-1)", "expected a size in pixels"),
        ("torchvision(name='vit_b_16', resize=100)", "cannot take images of 100x100.*add resize=224"),
        ("torchvision(name='inception_v3')", "cannot take images of 32x32.*for 299x299: add resize=299"),
        ("timm(name='botnet26t_256')", r"cannot take images of 32x32: AssertionError; .*add resize=256"),
        ("torchvision(name='resnet18', mean=(0.5,))", "expected 3 values"),
        ("torchvision(name='resnet18', size=3)", "has no setting 'size'"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    """With what can, and without the network."""
    with pytest.raises(UsageError, match=message):
        made(text)


def test_making_a_net_leaves_it_training_and_draws_only_its_weights():
    """The trial forward leaves no mode, hook or statistic behind, and equal seeds give equal weights."""
    nets = []
    for _ in range(2):
        torch.manual_seed(3)
        nets.append(made("torchvision(name='resnet18')"))
    first, second = nets
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert all(m.training for m in first.modules())
    assert not any(m._forward_hooks for m in first.modules())
    assert not first.net.bn1.running_mean.any()
