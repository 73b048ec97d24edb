"""Settings of each defense on each data set and net, and where they come from."""

from __future__ import annotations

from bench import Preset, Value

_DIGITS: dict[str, Value] = {"epochs": 30, "lr": 0.1, "decay": 5e-4, "batch": 64, "drops": (20, 26), "augment": "none"}
_MNIST: dict[str, Value] = {"epochs": 5, "lr": 0.1, "decay": 0.0, "batch": 128, "drops": (4, 5), "augment": "none"}
_OURS = "ours: short, for a CPU"
_BETA = "ours: short, for a CPU; beta as in the MNIST script of github.com/yaodongyu/TRADES"

DIGITS = (
    Preset("standard", "digits", _DIGITS, _OURS),
    Preset("at", "digits", {**_DIGITS, "ramp": 3.0}, _OURS),
    Preset("trades", "digits", {**_DIGITS, "ramp": 3.0, "forwards": 1}, _OURS),
    Preset("part", "digits", {**_DIGITS, "ramp": 3.0, "warm_up": 8}, _OURS),
    Preset("part-trades", "digits", {**_DIGITS, "ramp": 3.0, "warm_up": 8, "forwards": 1}, _OURS),
)

MNIST = (
    Preset("standard", "mnist", _MNIST, _OURS),
    Preset("at", "mnist", {**_MNIST, "ramp": 1.0}, _OURS),
    Preset("trades", "mnist", {**_MNIST, "ramp": 1.0, "forwards": 1, "beta": 1.0}, _BETA),
    Preset("part", "mnist", {**_MNIST, "ramp": 1.0, "warm_up": 2}, _OURS),
    Preset("part-trades", "mnist", {**_MNIST, "ramp": 1.0, "warm_up": 2, "forwards": 1, "beta": 1.0}, _BETA),
)

CIFAR10 = tuple(
    Preset(name, "cifar10", {"augment": "crop-flip"}, "the crop and flip of every repository on CIFAR-10")
    for name in ("standard", "at", "trades", "part", "part-trades")
)
