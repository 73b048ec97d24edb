"""Settings of each defense on each data set and net, and where they come from.

A preset without a name is what a defense means on that data set; one with a name is asked for, `at(preset='rice')`.
An `eps` in a preset is the radius that the recipe trains for, whatever the exam's; an explicit --threat beats it.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench import Preset, Value

Settings = Mapping[str, Value]

# The smallest steps and radii are written as the papers write them: 0.007 at 0.031 is 7/31 of it, not a quarter.
_MART: Settings = {"eps": "0.031", "step": 7 / 31}
_PART: Settings = {"eps": "8/255", "step": 0.25}

# Short courses of ours, for a CPU: digits in seconds, MNIST in minutes.
_DIGITS: Settings = {
    "epochs": 30,
    "lr": 0.1,
    "decay": 5e-4,
    "batch": 64,
    "drops": (20, 26),
    "falls": (),
    "augment": "none",
}
_MNIST: Settings = {"epochs": 4, "lr": 0.1, "decay": 0.0, "batch": 128, "drops": (3, 4), "falls": (), "augment": "none"}
_OURS = "ours: short, for a CPU"

_SHORT: dict[str, tuple[Settings, Settings]] = {  # of digits, of MNIST
    "standard": ({}, {}),
    "at": ({}, {}),
    "trades": ({"forwards": 1}, {"forwards": 1, "beta": 1.0}),
    "mart": ({"beta": 1.0}, {"beta": 1.0}),
    "gairat": ({"first": 20}, {"first": 3}),
    "mail-at": ({"first": 20}, {"first": 3}),
    "mail-trades": ({"first": 20}, {"first": 3, "beta": 1.0}),
    "mail-mart": ({"first": 20, "beta": 1.0}, {"first": 3, "beta": 1.0}),
    "part": ({"warm_up": 8}, {"warm_up": 2}),
    "part-trades": ({"warm_up": 8, "forwards": 1}, {"warm_up": 2, "forwards": 1, "beta": 1.0}),
    "part-mart": ({"warm_up": 8, "beta": 1.0}, {"warm_up": 2, "beta": 1.0}),
    "vir-at": ({"first": 20}, {"first": 3}),
    "vir-trades": ({"first": 20}, {"first": 3, "strength": 1.0}),
    "at-awp": ({"gamma": 0.005}, {"gamma": 0.005, "awp_from": 2}),
    "trades-awp": ({"forwards": 1}, {"forwards": 1, "beta": 1.0, "awp_from": 2}),
    "fgsm-rs": ({"bn": "eval"}, {"bn": "eval"}),
    "free": ({"replays": 4, "epochs": 10}, {"replays": 8, "epochs": 4}),
    "he": ({"lr": 0.02}, {"lr": 0.2}),
    "lbgat": ({"teacher": "cnn"}, {"teacher": "cnn"}),
    "hat": ({"helper_epochs": 10}, {"helper_epochs": 2, "beta": 1.0}),
}
_RAMPED = _SHORT.keys() - {"standard"}  # eps grows over the first epochs
_TRIANGLE: Settings = {"schedule": "triangle", "peak": 0.4, "rate_by": "step", "drops": ()}


def _short(method: str, usual: Settings, own: Settings, ramp: float) -> Settings:
    cyclic = _TRIANGLE if method in {"fgsm-rs", "free"} else {"schedule": "drops", "rate_by": "epoch"}
    return {**usual, **cyclic, **({"ramp": ramp} if method in _RAMPED else {}), **own}


DIGITS = tuple(Preset(m, "digits", _short(m, _DIGITS, own, 3.0), _OURS) for m, (own, _) in _SHORT.items())
MNIST_SHORT = tuple(
    Preset(m, "mnist", _short(m, _MNIST, own, 1.0), _OURS, name=name)
    for m, (_, own) in _SHORT.items()
    for name in ("", "mnist-short")
)

MNIST = (
    Preset(
        "at", "mnist",
        {"optimizer": "adam", "lr": 1e-4, "decay": 0.0, "batch": 50, "epochs": 85, "drops": (), "eps": "0.3",
         "steps": 40, "step": 1 / 30},
        "github.com/MadryLab/mnist_challenge: 100,000 steps of 50 images, as 85 epochs of 59,000; net mnist-cnn",
        name="madry",
    ),
    Preset(
        "trades", "mnist",
        {"beta": 1.0, "lr": 0.01, "decay": 0.0, "epochs": 100, "drops": (55, 75, 90), "eps": "0.3", "steps": 40,
         "step": 1 / 30},
        "github.com/yaodongyu/TRADES: train_trades_mnist.py; net small-cnn", name="trades",
    ),
    Preset(
        "fgsm-rs", "mnist",
        {"optimizer": "adam", "lr": 5e-3, "decay": 0.0, "epochs": 10, "batch": 100, "peak": 0.4, "eps": "0.3",
         "step": 1.25, "bn": "eval"},
        "github.com/locuslab/fast_adversarial: MNIST; net cnn", name="fast",
    ),
)  # fmt: skip

_CIFARS = ("cifar10", "cifar100")


def _cifar(method: str, settings: Settings, source: str, net: str = "*", name: str = "") -> tuple[Preset, ...]:
    """A recipe of CIFAR-10, with the crop and flip of every repository, also used on CIFAR-100."""
    return tuple(
        Preset(method, data, {"augment": "crop-flip", **settings}, source, net=net, name=name) for data in _CIFARS
    )


_RICE: Settings = {
    "epochs": 200, "drops": (100, 150), "rate_by": "step", "eps": "8/255", "bn": "train", "last_pass": True,
    "clean_pass": True, "augment": "reflect-flip",
}  # fmt: skip
_VIR: Settings = {"epochs": 115, "lr": 0.01, "decay": 3.5e-3, "drops": (75, 90), **_MART}
_VIR_WRN: Settings = {**_VIR, "lr": 0.1, "decay": 7e-4}
_VIR_SOURCE = "Fakorede et al. (2023), section 5.1; no code is public"
_VIR_BASELINE = f"{_VIR_SOURCE}, and its baselines' recipes are not stated"
_VIR_BASELINES: dict[str, Settings] = {  # beta of its TRADES is 4 with ResNet-18
    "at": {"start": "gauss"}, "trades": {"beta": 6.0}, "mart": {}, "gairat": {"first": 76, "falls": ()}, "mail-at": {},
}  # fmt: skip
_PART_BASELINES: dict[str, Settings] = {"at": {}, "trades": {"beta": 6.0}, "mart": {"beta": 6.0}}
_PART_COURSE: Settings = {"epochs": 80, "lr": 0.01, "decay": 2e-4, "drops": (60,)}
_PART_SOURCE = "github.com/JiachengZ01/PART"
_PART_BASELINE = f"{_PART_SOURCE}: its warm-up, for the whole course; it has no script of its baselines"
_PART_OFFICIAL: Settings = {"mask": "jet", "align": "shuffled", "drops": (80,)}
_PARTS = ("part", "part-trades", "part-mart")
_EDM: Settings = {
    "epochs": 400, "batch": 512, "lr": 0.2, "nesterov": True, "decay": 5e-4, "decay_norms": False,
    "schedule": "one-cycle", "rate_by": "epoch", "peak": 0.025, "drops": (), "ema": 0.995, "extra_share": 0.7,
    "eps": "8/255", "step": 0.25, "start": "clipped", "bn": "frozen",
}  # fmt: skip

CIFAR = (
    *_cifar("standard", {}, "the crop and flip of every repository; course as Pang et al. (2021)"),
    *_cifar("at", {}, "Pang et al. (2021), Bag of tricks"),
    *_cifar(
        "at",
        {"epochs": 209, "batch": 128, "decay": 2e-4, "decay_norms": False, "drops": (105, 157), "eps": "8/255",
         "bn": "train"},
        "github.com/MadryLab/cifar10_challenge: 80,000 steps, drops at 40,000 and 60,000, as epochs of 49,000 images; "
        "it crops from a padding of 2", name="madry",
    ),
    *_cifar("at", _RICE, "github.com/locuslab/robust_overfitting; normalise in the net", name="rice"),
    *_cifar(
        "at", {"epochs": 120, "lr": 0.01, "decay": 3.5e-3, "drops": (76, 91, 101), "start": "gauss", **_MART},
        "github.com/QizhouWang/MAIL: the plain branch of at_loss.py", name="mart-lineage",
    ),
    *(p for m, own in _PART_BASELINES.items()
      for p in _cifar(m, {**_PART_COURSE, **_PART, **own}, _PART_BASELINE, name="part")),
    *(p for m, own in _VIR_BASELINES.items() for net, usual in (("resnet18", _VIR), ("wrn", _VIR_WRN))
      for p in _cifar(m, {**usual, **own, **({"beta": 4.0} if (m, net) == ("trades", "resnet18") else {})},
                      _VIR_BASELINE, net=net, name="vir")),
    *_cifar("trades", _MART, "github.com/yaodongyu/TRADES: train_trades_cifar10.py"),
    *_cifar("at", _EDM, "github.com/wzekai99/DM-Improves-AT; needs extra='generated.npz'", name="edm"),
    *_cifar(
        "trades", {**_EDM, "beta": 5.0, "forwards": 1, "smoothing": 0.1},
        "github.com/wzekai99/DM-Improves-AT; needs extra='generated.npz'", name="edm",
    ),
    *_cifar("mart", _MART, "github.com/YisenWang/MART: ResNet-18"),
    *_cifar(
        "mart", {**_MART, "beta": 6.0, "epochs": 90, "lr": 0.1, "decay": 7e-4, "drops": (75, 90, 100)},
        "github.com/YisenWang/MART: WRN-34-10", net="wrn",
    ),
    *_cifar("gairat", _MART, "GAIRAT's repository: WRN-32-10, which is WRN-34-10 elsewhere"),
    *_cifar(
        "gairat",
        {"eps": "8/255", "step": 0.25, "epochs": 100, "first": 31, "drops": (30, 60), "falls": (0.1, 0.01)},
        "Zhang et al. (2021), section 4.1", net="resnet18",
    ),
    *(p for m in ("mail-at", "mail-trades", "mail-mart")
      for p in _cifar(m, {**_MART, "snapshots": 100},
                      "github.com/QizhouWang/MAIL: ResNet-18; it first reported epoch 100, which is kept, too")),
    *(p for m in ("mail-at", "mail-trades", "mail-mart")
      for p in _cifar(m, {**_MART, "lr": 0.1, "decay": 7e-4}, "Liu et al. (2021), not verified", net="wrn")),
    *(p for m in _PARTS
      for p in _cifar(m, _PART, f"{_PART_SOURCE}; the drop is where the paper means it, at epoch 60")),
    *(p for m in _PARTS
      for p in _cifar(m, {**_PART, **_PART_OFFICIAL}, f"{_PART_SOURCE}: as released", name="official")),
    *_cifar("vir-at", _VIR, _VIR_SOURCE),
    *_cifar("vir-at", _VIR_WRN, _VIR_SOURCE, net="wrn"),
    *_cifar("vir-trades", _VIR, _VIR_SOURCE),
    *_cifar("vir-trades", _VIR_WRN, _VIR_SOURCE, net="wrn"),
    *(p for m in ("vir-at", "vir-trades") for name, parts in (("sv", "vulnerability"), ("sd", "discrepancy"))
      for p in _cifar(m, {**_VIR, "parts": parts}, f"{_VIR_SOURCE}; its ablation", net="resnet18", name=name)),
    *_cifar("at-awp", _RICE, "github.com/csdongxian/AWP: AT_AWP"),
    *_cifar("trades-awp", {"eps": "8/255", "step": 0.25}, "github.com/csdongxian/AWP: TRADES_AWP"),
    *_cifar("fgsm-rs", {"eps": "8/255"}, "github.com/locuslab/fast_adversarial; net preactresnet18(variant='fast')"),
    *_cifar("free", {"eps": "8/255"}, "github.com/locuslab/fast_adversarial: train_free.py"),
    *_cifar("he", _MART, "github.com/ShawnXYang/AT_HE; net he(net='wrn-34-10'); eps is not verified"),
    *_cifar(
        "he", {**_MART, "base": "trades", "inner": "kl", "decay": 2e-4},
        "github.com/ShawnXYang/AT_HE; net he(net='wrn-34-10', s=15.0); eps is not verified", name="trades",
    ),
    *_cifar("lbgat", _MART, "github.com/dvlab-research/LBGAT: LBGAT0"),
    *_cifar("lbgat", {**_MART, "beta": 6.0}, "github.com/dvlab-research/LBGAT: LBGAT6", name="lbgat6"),
    *_cifar("hat", {"eps": "8/255", "step": 0.25}, "github.com/imrahulr/hat"),
)  # fmt: skip

_SVHN_PART: Settings = {**_PART, "step": 0.125, "decay": 3.5e-3, "augment": "none"}
_SVHN_RICE: Settings = {**_RICE, "augment": "none", "lr": 0.01, "step": 0.125}
_SVHN_VIR = f"{_VIR_BASELINE}, nor is the augmentation"
SVHN = (
    Preset("standard", "svhn", {**_PART_COURSE, "decay": 3.5e-3}, "the course of the adversarial trainings beside it"),
    *(Preset(m, "svhn", _SVHN_PART, f"{_PART_SOURCE}: SVHN") for m in _PARTS),
    *(Preset(m, "svhn", {**_SVHN_PART, **_PART_OFFICIAL}, f"{_PART_SOURCE}: as released", name="official")
      for m in _PARTS),
    *(Preset(m, "svhn", {**_PART_COURSE, **_SVHN_PART, **own}, _PART_BASELINE, name=name)
      for m, own in _PART_BASELINES.items() for name in ("", "part")),
    Preset("at", "svhn", _SVHN_RICE, "github.com/locuslab/robust_overfitting: SVHN", name="rice"),
    Preset("at-awp", "svhn", {**_SVHN_RICE, "awp_from": 6}, "github.com/csdongxian/AWP: SVHN"),
    *(Preset(m, "svhn", {**_VIR, "augment": "none"}, f"{_VIR_SOURCE}; augmentation is not stated")
      for m in ("vir-at", "vir-trades")),
    *(Preset(m, "svhn", {**_VIR, "augment": "none", **own, **({"beta": 4.0} if m == "trades" else {})}, _SVHN_VIR,
             name=name)
      for m, own in _VIR_BASELINES.items() for name in ("", "vir") if name or m not in _PART_BASELINES),
)  # fmt: skip

_TINY_VIR: Settings = {**_VIR, "eps": "8/255", "step": 0.25, "augment": "crop-flip"}
TINY_IMAGENET = (
    Preset("standard", "tiny-imagenet-200",
           {"epochs": 115, "lr": 0.01, "decay": 3.5e-3, "drops": (75, 90), "augment": "crop-flip"},
           "the course of the adversarial trainings beside it"),
    Preset("vir-at", "tiny-imagenet-200", {**_TINY_VIR, "gamma": 3.0}, _VIR_SOURCE),
    Preset("vir-trades", "tiny-imagenet-200", _TINY_VIR, _VIR_SOURCE),
    *(Preset(m, "tiny-imagenet-200", {**_TINY_VIR, **own, **({"beta": 4.0} if m == "trades" else {})}, _VIR_BASELINE,
             name=name)
      for m, own in _VIR_BASELINES.items() for name in ("", "vir")),
    *(
        Preset(m, "tiny-imagenet-200",
               {**_PART, "epochs": 100, "lr": 0.02, "batch": 512, "decay": 5e-4, "drops": (50, 75),
                "augment": "crop-flip"},
               "experimental: the PART paper's settings were not verified", net="wrn")
        for m in _PARTS
    ),
)  # fmt: skip
