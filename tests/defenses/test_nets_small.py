"""The small nets of MNIST and CIFAR papers, beside what is known of them."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import UsageError
from bench.fast import hasten
from bench.passes import lean
from tests.conftest import SHARED
from tests.defenses.making import gradient, last_map, lively, made, parameters

CHECKPOINTS = SHARED / "data" / "checkpoints"
SMALL = ["small-cnn", "small-cnn-bn", "mnist-cnn", "resnet20", "resnet-tsipras"]
RESNET20 = "resnet20(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"


@pytest.mark.parametrize(
    ("text", "channels", "size", "count"),
    [
        ("small-cnn", 1, 28, 320 + 9_248 + 18_496 + 36_928 + 1025 * 200 + 201 * 200 + 201 * 10),
        ("small-cnn-bn", 1, 28, 312_202 + 2 * (32 + 32 + 64 + 64)),
        ("mnist-cnn", 1, 28, 3_274_634),  # as the TensorFlow tutorial's net is known to have
        ("resnet20", 3, 32, 269_722),  # 0.27 million in the paper
        # 16 channels: stem 432; units of 2 BN and 2 convolutions; BN of 64; linear.
        ("resnet-tsipras", 3, 32, 432 + 5 * (64 + 4608) + (32 + 64 + 13_824) + 4 * (128 + 18_432)
                                  + (64 + 128 + 55_296) + 4 * (256 + 73_728) + 128 + 650),
    ],
)  # fmt: skip
def test_it_has_as_many_parameters_as_the_published_net(text, channels, size, count):
    """Counts that are known, or summed layer by layer."""
    assert parameters(made(text, channels=channels, size=size, device="meta")) == count


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("small-cnn", {28: 8, 32: 10, 64: 26, 96: 42, 224: 106, 16: 2}),
        ("small-cnn-bn", {28: 8, 32: 10, 64: 26, 96: 42, 224: 106, 16: 2}),
        ("mnist-cnn", {28: 14, 32: 16, 64: 32, 96: 48, 224: 112, 8: 4, 9: 5, 1: 1}),
        ("resnet20", {28: 7, 32: 8, 64: 16, 96: 24, 224: 56, 8: 2, 9: 3, 1: 1}),
        ("resnet-tsipras", {28: 7, 32: 8, 64: 16, 96: 24, 224: 56, 8: 2, 4: 1}),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_size_give_logits_and_a_feature_map(text, sides, channels):
    """MNIST, CIFAR, Tiny-ImageNet, STL and ImageNet sizes, and cam_layer names the last map (N, D, h, w)."""
    for size, side in sides.items():
        net = made(text, classes=7, channels=channels, size=size, device="meta")
        logits, found = last_map(net, torch.empty(2, channels, size, size, device="meta"))
        assert logits.shape == (2, 7)
        assert found.shape[2:] == (side, side)


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("small-cnn", 15, "small-cnn needs images of 16x16 or more, and they are 15x15"),
        ("small-cnn-bn", 8, "small-cnn-bn needs images of 16x16 or more, and they are 8x8"),
        ("resnet-tsipras", 30, "a multiple of 4 pixels, and they are 30x30"),
        ("resnet-madry", 2, "a multiple of 4 pixels, and they are 2x2"),
        ("resnet-madry(width=0)", 32, "expected 1 or more"),
    ],
)
def test_images_that_it_cannot_take_are_refused(text, size, message):
    """With the sizes that it can."""
    with pytest.raises(UsageError, match=message):
        made(text, size=size)


def test_small_cnn_starts_as_in_trades():
    """Convolutions normal with variance 2 / fan in, their biases zero; the last layer zero, so all logits are."""
    torch.manual_seed(0)
    net = made("small-cnn", channels=1, size=28)
    layers = net.feature_extractor
    assert layers.conv4.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.03)
    assert not any(layers.get_submodule(f"conv{i}").bias.any() for i in (1, 2, 3, 4))
    assert net.classifier.fc1.bias.any()  # torch's own start
    assert not net(torch.rand(3, 1, 28, 28)).any()


def test_small_cnn_drops_half_of_the_first_hidden_layer_in_training_alone():
    """In eval mode it answers twice the same; in training mode about half of the units are off, the others doubled."""
    torch.manual_seed(0)
    net = lively(made("small-cnn", channels=1, size=28))
    x = torch.rand(8, 1, 28, 28)
    assert torch.equal(net(x), net(x))
    seen = []
    net.classifier.drop.register_forward_hook(lambda _m, given, out: seen.append((given[0], out)))
    net.train()(x)
    ((given, out),) = seen
    kept = out[given > 0] != 0
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(out[given > 0][kept], 2 * given[given > 0][kept])


def test_mnist_cnn_starts_as_in_madrys_code():
    """Truncated normal of deviation 0.1, whose own deviation is 0.088; nothing beyond 0.2; every bias 0.1."""
    torch.manual_seed(0)
    net = made("mnist-cnn", channels=1, size=28)
    weight = net.fc1.weight
    assert weight.abs().max() <= 0.2
    assert weight.std().item() == pytest.approx(0.08796, rel=0.01)
    assert all((m.bias == 0.1).all() for m in (net.conv1, net.conv2, net.fc1, net.fc2))


def test_madrys_net_standardises_each_image_as_tensorflow_does():
    """Mean 0 and deviation 1 over all values of an image, whatever its brightness and contrast; a flat one is 0."""
    net = made("resnet-tsipras")
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = net.normalise(x)
    assert out.mean((1, 2, 3)).abs().max() < 1e-6
    assert torch.allclose(out.square().mean((1, 2, 3)), torch.ones(4), atol=1e-5)
    assert torch.allclose(net.normalise(0.2 + 0.5 * x), out, atol=1e-5)
    assert not net.normalise(torch.full((1, 3, 32, 32), 0.25)).any()
    # A deviation below 1 / sqrt(3072) of a grey level counts as that.
    faint = 0.5 + 1e-5 * (x[:1] - 0.5)
    assert torch.allclose(net.normalise(faint), (faint - faint.mean()) * 255 * 3072**0.5, atol=1e-3)


def test_madrys_blocks_are_those_of_his_code():
    """A naive computation: the first unit's shortcut sees the leaky BN; others are averaged and padded at widening."""
    torch.manual_seed(0)
    net = lively(made("resnet-madry(width=3)")).double()
    x = torch.rand(2, 16, 8, 8, dtype=torch.double)

    def leaky(z):
        return torch.where(z < 0, 0.1 * z, z)

    def norm(bn, z):
        mean, var = bn.running_mean.view(1, -1, 1, 1), bn.running_var.view(1, -1, 1, 1)
        return (z - mean) / (var + 1e-3).sqrt() * bn.weight.view(1, -1, 1, 1) + bn.bias.view(1, -1, 1, 1)

    first = net.layer1[0]
    active = leaky(norm(first.bn1, x))
    inner = F.conv2d(
        leaky(norm(first.bn2, F.conv2d(active, first.conv1.weight, padding=1))), first.conv2.weight, padding=1
    )
    zeros = torch.zeros(2, 16, 8, 8, dtype=torch.double)
    assert torch.allclose(first(x), inner + torch.cat([zeros, active, zeros], 1))

    second, z = net.layer2[0], torch.rand(2, 48, 8, 8, dtype=torch.double)
    # SAME at stride 2 on an even side: no row above, one below.
    windows = F.pad(leaky(norm(second.bn1, z)), (0, 1, 0, 1))
    out = F.conv2d(windows, second.conv1.weight, stride=2)
    out = F.conv2d(leaky(norm(second.bn2, out)), second.conv2.weight, padding=1)
    means = z.view(2, 48, 4, 2, 4, 2).mean((3, 5))
    zeros = torch.zeros(2, 24, 4, 4, dtype=torch.double)
    assert torch.allclose(second(z), out + torch.cat([zeros, means, zeros], 1))


def test_resnet20s_shortcuts_take_every_second_pixel_and_pad_with_zero_channels():
    """8 before and 8 behind where 16 become 32."""
    net = made("resnet20")
    x = torch.rand(2, 16, 6, 6)
    out = net.layer2[0].shortcut(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any() and out.shape == (2, 32, 3, 3)


@pytest.mark.parametrize("text", SMALL)
def test_gradients_are_numbers_also_on_flat_images(text):
    """Black, white and noise: gradients by images and by weights are finite, and those of noise are not all zero."""
    torch.manual_seed(0)
    net = lively(made(text, channels=1, size=28))
    x = torch.cat([torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28), torch.rand(2, 1, 28, 28)])
    grad = gradient(net, x, torch.tensor([0, 1, 2, 3]))
    assert grad.isfinite().all() and grad[2:].any()
    F.cross_entropy(net.train()(x), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("text", SMALL)
def test_faster_passes_leave_its_answers(text):
    """lean: equal logits to the bit and gradients to rounding; hasten: a copy that is used, so that it agrees."""
    torch.manual_seed(0)
    net = lively(made(text, channels=1, size=28)).requires_grad_(False)
    quick = lean(copy.deepcopy(net))
    x, y = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 3])
    assert torch.equal(quick(x), net(x))
    wanted = gradient(net, x, y)
    assert torch.allclose(gradient(quick, x, y), wanted, atol=1e-4 * wanted.abs().max().item())
    assert hasten(net, x) is not net


@pytest.mark.parametrize("text", [*SMALL, "he(net='resnet20')", "timm(name='resnet10t', resize=40)"])
def test_an_image_meets_the_same_arithmetic_in_any_slot_among_any_neighbours(text):
    """In a tile of 32, float32 logits and lean input gradients of an image are equal bit for bit."""
    torch.manual_seed(0)
    net = lean(lively(made(text, channels=1, size=28)).requires_grad_(False))
    image, wanted = torch.rand(1, 28, 28), None
    for slot in (0, 1, 17, 31):
        x, y = torch.rand(32, 1, 28, 28), torch.randint(10, (32,))
        x[slot], y[slot] = image, 3
        found = net(x)[slot], gradient(net, x, y)[slot]
        wanted = wanted or found
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


@pytest.mark.parametrize(("text", "normalised"), [(t, t != "resnet-tsipras") for t in SMALL])
def test_the_first_layer_normalises(text, normalised):
    """Mean and std act as on (x - mean) / std and add no weights; Madry's net has none, and says so."""
    if not normalised:
        with pytest.raises(UsageError, match="resnet-madry has no setting 'mean'"):
            made("resnet-madry(mean=(0.5,), std=(0.5,))")
        return
    plain = lively(made(text, channels=1, size=28))
    other = made(f"{text}(mean=(0.3,), std=(0.7,))", channels=1, size=28).eval()
    other.load_state_dict(plain.state_dict(), strict=True)
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(other(x), plain((x - torch.tensor(0.3)) / torch.tensor(0.7)))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("small-cnn", {"feature_extractor.conv1.weight", "feature_extractor.conv4.bias", "classifier.fc3.weight"}),
        ("small-cnn-bn", {"features.0.weight", "features.11.running_var", "fc1.weight", "fc3.bias"}),
        ("resnet20", {"conv1.weight", "bn1.bias", "layer3.2.bn2.running_mean", "linear.weight"}),
    ],
)
def test_submodules_are_named_as_in_public_checkpoints(text, names):
    """These are names from released weights."""
    assert names <= set(made(text, channels=1, size=28).state_dict())


def lossless(folder):
    """The lossless CIFAR-10 images as a file in the npz layout."""
    images = np.load(SHARED / "data" / "cifar10" / "lossless_subset.npz")
    np.savez(
        folder / "lossless.npz",
        x_train=images["x_train"][:100], y_train=images["y_train"][:100].astype(np.int64),
        x_test=images["x_test"], y_test=images["y_test"].astype(np.int64), classes=np.array(list("0123456789")),
    )  # fmt: skip


def standing(bench, weights, net, dataset, *more):
    """How many images the command line finds right, and what it reported."""
    done = bench(
        "run", "--defense", f"checkpoint(path={str(CHECKPOINTS / weights)!r})", "--net", net, "--dataset", dataset,
        "--columns", "clean", "--executor", "inline", "--json", *more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["board"]["sections"][0]["rows"]
    return row, done.stderr


@pytest.mark.shared
def test_the_public_resnet20_is_right_on_915_of_1000(bench, tmp_path):
    """91.5 % of the first 1,000 lossless test images; its file is older than BN's counters, and that is said."""
    lossless(tmp_path)
    row, said = standing(bench, "cifar10_resnet20.pth", RESNET20, "npz:lossless.npz", "-n", "1000")
    assert row["numbers"]["clean"]["standing"] == 915
    assert (row["parameters"], row["multiply_adds"]) == (269_722, 40_551_040)
    assert "no counts of batches, which older versions of torch did not keep" in said


@pytest.mark.shared
def test_the_public_mnist_net_with_batch_normalisation_is_right(bench, tmp_path):
    """RayS' undefended net: above 99 % of 2,000 images of MNIST, given pixels as they are."""
    raw = tmp_path / "datasets" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (SHARED / "data" / "mnist").glob("*.gz"):
        (raw / file.name).symlink_to(file)
    row, _ = standing(bench, "mnist_rays_standard.pth", "small-cnn-bn", "mnist", "-n", "2000")
    assert row["numbers"]["clean"]["accuracy"] > 0.99


def test_a_file_without_weights_of_batch_normalisation_is_refused(bench, tmp_path):
    """Only counters may be missing: not a running mean."""
    state = made("resnet20", channels=1, size=8).state_dict()
    state.pop("bn1.running_mean"), state.pop("bn1.num_batches_tracked")
    torch.save(state, tmp_path / "w.pth")
    done = bench("run", "--defense", "checkpoint(path='w.pth')", "--net", "resnet20", "--columns", "clean",
                 "--executor", "inline", "-n", "4")  # fmt: skip
    assert done.returncode == 2
    assert "missing ['bn1.running_mean']" in done.stderr


def test_resnet20_is_the_net_of_a_plain_naive_forward():
    """Convolution by convolution, with functions alone."""
    torch.manual_seed(0)
    net = lively(made("resnet20"))
    state = net.state_dict()

    def bn(name, z):
        return F.batch_norm(z, *(state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

    x = torch.rand(2, 3, 32, 32)
    out = bn("bn1", F.conv2d(x, state["conv1.weight"], padding=1)).relu()
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            kept = out
            if stride == 2:
                kept = F.pad(out[:, :, ::2, ::2], (0, 0, 0, 0, out.shape[1] // 2, out.shape[1] // 2))
            out = bn(f"{name}.bn1", F.conv2d(out, state[f"{name}.conv1.weight"], stride=stride, padding=1)).relu()
            out = (bn(f"{name}.bn2", F.conv2d(out, state[f"{name}.conv2.weight"], padding=1)) + kept).relu()
    wanted = nn.functional.linear(out.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    assert torch.allclose(net(x), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
