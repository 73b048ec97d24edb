"""Studies of what robustness costs (Tsipras et al., 2019): which nets are trained for which eps on how many images.

The eps of training and examination are the paper's (`main`) and others around it; small training sets are passed more
often, so that a training on them is not merely a shorter one.
"""

from __future__ import annotations

from bench import Regions, Study

_LINF, _L2 = ("0.1", "0.2", "0.3"), ("0.5", "1.5", "2.5")


def _mnist(epochs: int, drops: tuple[int, int], ramp: float) -> tuple[str, str]:
    """Standard and adversarial training, as the presets of MNIST have it, over more epochs."""
    return f"standard(epochs={epochs}, drops={drops})", f"at(epochs={epochs}, drops={drops}, ramp={ramp})"


MNIST_STUDY = Study(
    "mnist", "mnist", "cnn",
    eps=(("linf", _LINF), ("l2", _L2)), main=(("linf", "0.3"), ("l2", "1.5")),
    sizes=(
        (0, "standard", "at"), (10_000, *_mnist(16, (12, 15), 4.0)), (2_000, *_mnist(40, (30, 37), 10.0)),
        (500, *_mnist(80, (60, 75), 20.0)),
    ),
    column="pgd(steps=40, step=0.1)", n=2_000, about="MNIST in short courses of ours, for a CPU",
)  # fmt: skip


MIXED_STUDY = Study(
    "mnist-mixed", "mnist", "cnn", eps=MNIST_STUDY.eps, main=MNIST_STUDY.main, sizes=((0, "standard", "at(mix=0.5)"),),
    column=MNIST_STUDY.column, n=MNIST_STUDY.n, about="MNIST, where half of the loss is on clean images",
)  # fmt: skip


def _cifar(epochs: int, drops: tuple[int, int]) -> tuple[str, str]:
    return f"standard(epochs={epochs}, drops={drops})", f"at(epochs={epochs}, drops={drops}, steps=7)"


CIFAR_STUDY = Study(
    "cifar10", "cifar10", "resnet20",
    eps=(("linf", ("2/255", "4/255", "8/255")), ("l2", ("20/255", "80/255", "320/255"))),
    main=(("linf", "4/255"), ("l2", "80/255")),
    sizes=(
        (0, *_cifar(110, (100, 105))), (25_000, *_cifar(160, (145, 152))), (10_000, *_cifar(240, (218, 229))),
        (5_000, *_cifar(360, (327, 343))),
    ),
    column="pgd-20", about="CIFAR-10 with a small ResNet; days on a CPU, hours on an accelerator",
)  # fmt: skip


# Also for fewer images than CIFAR-10 has: --dataset npz:FILE.
def _short(epochs: int, drops: tuple[int, int], ramp: float) -> tuple[str, str]:
    usual = f"epochs={epochs}, drops={drops}, lr=0.05, snapshots=1, augment='flip'"
    return f"standard({usual})", f"at({usual}, steps=3, step=0.5, ramp={ramp})"


CIFAR_SHORT_STUDY = Study(
    "cifar10-short", "cifar10", "cnn",
    eps=CIFAR_STUDY.eps, main=CIFAR_STUDY.main,
    sizes=((0, *_short(8, (6, 8), 2.0)), (2_000, *_short(20, (15, 19), 5.0))),
    column="pgd-20", n=1_000, about="CIFAR-10 in a short course of ours, for a CPU",
)  # fmt: skip

# 110 epochs of 300 steps of 256 images there are 33 of the about 257,000 that the training part has here.
_RESTRICTED = "epochs=33, batch=256, nesterov=True, decay=1e-4, drops=(10, 19, 26, 29, 32), augment='crop-flip'"
RESTRICTED_STUDY = Study(
    "restricted-imagenet", "restricted-imagenet(train=True)", "torchvision(name='resnet50')",
    eps=(("linf", ("0.0025", "0.005", "0.01")), ("l2", ("0.25", "0.5", "1.0"))),
    main=(("linf", "0.005"), ("l2", "1.0")),
    sizes=((0, f"standard({_RESTRICTED})", f"at({_RESTRICTED}, steps=8)"),),
    column="pgd-20", n=2_000,
    about="Restricted ImageNet as in MadryLab/robust-features-code, but for its crops and colours; weeks of one GPU",
)  # fmt: skip

# Plain gradient descent in large batches.  The best perturbation of a linear model is one step uphill.
_DESCENT = "epochs=100, batch=1000, lr=0.05, momentum=0.0, decay=0.0, drops=(), augment='none'"
LINEAR_STUDY = Study(
    "mnist-5-7", "mnist(digits=(5, 7))", "softmax-regression",
    eps=(("linf", ("0.05", "0.1", "0.2")), ("l2", ("0.5", "1.0", "2.0"))), main=(("linf", "0.2"), ("l2", "2.0")),
    sizes=((0, f"standard({_DESCENT})", f"at({_DESCENT}, steps=1, step=1.0, start='centre', ramp=0.0)"),),
    column="pgd(steps=10, step=0.25)", about="a linear model of fives and sevens: which features are worth their risk",
    linear=True,
)  # fmt: skip

QUARTERS = Regions(
    "quarters",
    (
        ("whole", "part(mask='none', low=1.0, warm_up=0, {settings})"),
        *(
            (name, f"part(mask={name!r}, low={{low}}, warm_up=0, {{settings}})")
            for name in ("upper-left", "upper-right", "lower-left", "lower-right")
        ),
    ),
    about="adversarial training with a smaller budget on one quarter of the image (Zhang et al., 2024)",
)
