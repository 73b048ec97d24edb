"""Presets against the published recipes, which are written down here a second time."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest

from bench import Course, Defense
from bench.registry import plugins

REGISTRY = plugins()
OLD = {"eps": "0.031", "alpha": 0.007, "steps": 10, "batch": 128, "momentum": 0.9, "nesterov": False}
NEW = {"eps": "8/255", "alpha": 2 / 255, "steps": 10, "batch": 128, "momentum": 0.9, "nesterov": False}
SVHN = {**NEW, "alpha": 1 / 255, "augment": "none"}
CROP, REFLECT = {"augment": "crop-flip"}, {"augment": "reflect-flip"}
VIR = {**OLD, "lr": 0.01, "decay": 3.5e-3, "epochs": 115, "falls_at": {75: 0.1, 90: 0.01}}
VIR_WRN = {**VIR, "lr": 0.1, "decay": 7e-4}
MART = {**OLD, "lr": 0.01, "decay": 3.5e-3, "epochs": 120}
MAIL = {**MART, "falls_at": {76: 0.1, 91: 0.01, 101: 0.001}, "first": 77, "norm": "three"}
PART = {**NEW, "lr": 0.01, "decay": 2e-4, "epochs": 80, "falls_at": {60: 0.1}}
MASKED = {"warm_up": 20, "low": 7 / 8, "s": 1, "cam": "gradcam", "mask": "cam", "align": "own", "mask_op": "clamp"}
RELEASED = {**MASKED, "mask": "jet", "align": "shuffled", "falls_at": {80: 0.1}}
RICE = {
    **NEW, "lr": 0.1, "decay": 5e-4, "epochs": 200, "bn": "train", "start": "clipped", "last_pass": True,
    "clean_pass": True, "rate_by": "step", "drops": (100, 150),
}  # fmt: skip
EDM = {
    **NEW, "epochs": 400, "batch": 512, "lr": 0.2, "nesterov": True, "decay": 5e-4, "decay_norms": False, "ema": 0.995,
    "schedule": "one-cycle", "rate_by": "epoch", "peak": 0.025, "cycle_momentum": True, "extra_share": 0.7,
    "bn": "frozen", "start": "clipped", **CROP,
}  # fmt: skip

RECIPES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("trades", "cifar10", "wrn", {**OLD, **CROP, "beta": 6.0, "lr": 0.1, "decay": 2e-4, "epochs": 76, "forwards": 2,
     "start": "gauss", "inner": "kl", "bn": "eval", "falls_at": {75: 0.1, 90: 0.01, 100: 0.001}}),
    ("trades(preset='trades')", "mnist", "small-cnn", {"beta": 1.0, "eps": "0.3", "alpha": 0.01, "steps": 40,
     "lr": 0.01, "decay": 0.0, "epochs": 100, "falls_at": {55: 0.1, 75: 0.01, 90: 0.001}, "augment": "none",
     "start": "gauss", "inner": "kl"}),
    ("trades(preset='vir')", "cifar10", "resnet18", {**VIR, **CROP, "beta": 4.0}),
    ("trades(preset='vir')", "cifar10", "wrn", {**VIR_WRN, **CROP, "beta": 6.0}),
    ("trades(preset='vir')", "svhn", "resnet18", {**VIR, "augment": "none", "beta": 4.0}),
    ("trades(preset='part')", "cifar10", "resnet18", {**PART, **CROP, "beta": 6.0, "start": "gauss", "inner": "kl"}),
    ("trades(preset='part')", "svhn", "resnet18", {**PART, **SVHN, "decay": 3.5e-3, "beta": 6.0}),
    ("trades(preset='edm')", "cifar10", "wrn", {**EDM, "beta": 5.0, "forwards": 1, "smoothing": 0.1, "inner": "kl"}),
    ("at(preset='edm')", "cifar10", "wrn", {**EDM, "inner": "ce"}),
    ("at", "cifar10", "resnet18", {"lr": 0.1, "decay": 5e-4, "epochs": 110, "falls_at": {100: 0.1, 105: 0.01}, **CROP,
     "bn": "eval", "batch": 128}),
    ("at(preset='madry')", "mnist", "mnist-cnn", {"optimizer": "adam", "lr": 1e-4, "batch": 50, "eps": "0.3",
     "steps": 40, "alpha": 0.01, "start": "clipped", "falls_at": {}}),
    ("at(preset='madry')", "cifar10", "wrn", {**NEW, "lr": 0.1, "decay": 2e-4, "bn": "train", "start": "clipped"}),
    ("at(preset='rice')", "cifar10", "preactresnet18", {**RICE, **REFLECT}),
    ("at(preset='rice')", "svhn", "preactresnet18", {**RICE, **SVHN, "lr": 0.01}),
    ("at(preset='mart-lineage')", "cifar10", "resnet18", {**MART, **CROP, "start": "gauss", "bn": "eval"}),
    ("at(preset='part')", "cifar10", "resnet18", {**PART, **CROP, "bn": "eval", "inner": "ce"}),
    ("at(preset='part')", "svhn", "resnet18", {**PART, **SVHN, "decay": 3.5e-3}),
    ("at(preset='vir')", "cifar10", "resnet18", {**VIR, **CROP, "start": "gauss"}),
    ("at(preset='vir')", "cifar100", "wrn", {**VIR_WRN, **CROP, "start": "gauss"}),
    ("mart", "cifar10", "resnet18", {**MART, **CROP, "beta": 5.0, "start": "gauss", "inner": "ce",
     "falls_at": {75: 0.1, 90: 0.01, 100: 0.001}}),
    ("mart", "cifar10", "wrn", {**MART, **CROP, "beta": 6.0, "lr": 0.1, "decay": 7e-4, "epochs": 90,
     "falls_at": {75: 0.1, 90: 0.01}}),
    ("mart(preset='vir')", "cifar10", "resnet18", {**VIR, **CROP, "beta": 5.0}),
    ("mart(preset='vir')", "svhn", "resnet18", {**VIR, "augment": "none", "beta": 5.0}),
    ("mart(preset='part')", "cifar10", "resnet18", {**PART, **CROP, "beta": 6.0}),
    ("mart(preset='part')", "svhn", "resnet18", {**PART, **SVHN, "decay": 3.5e-3, "beta": 6.0}),
    ("gairat", "cifar10", "wrn", {**OLD, **CROP, "lr": 0.1, "decay": 2e-4, "epochs": 120, "first": 60, "shift": -1.0,
     "start": "clipped", "falls_at": {60: 0.1, 90: 0.01, 110: 0.005}}),
    ("gairat", "cifar10", "resnet18", {**NEW, **CROP, "lr": 0.1, "decay": 2e-4, "epochs": 100, "first": 31,
     "falls_at": {30: 0.1, 60: 0.01}}),
    ("gairat(preset='vir')", "cifar10", "resnet18", {**VIR, **CROP, "first": 76, "shift": -1.0}),
    ("gairat(preset='vir')", "cifar10", "wrn", {**VIR_WRN, **CROP, "first": 76}),
    ("mail-at", "cifar10", "resnet18", {**MAIL, **CROP, "slope": 10.0, "bias": -0.5, "start": "gauss", "inner": "ce"}),
    ("mail-at", "cifar10", "wrn", {**MAIL, **CROP, "lr": 0.1, "decay": 7e-4}),
    ("mail-at(preset='vir')", "svhn", "resnet18", {**VIR, "slope": 10.0, "bias": -0.5, "augment": "none"}),
    ("mail-trades", "cifar10", "resnet18", {**MAIL, **CROP, "slope": 2.0, "bias": 0.0, "beta": 5.0, "inner": "kl",
     "late_inner": "kl", "start": "gauss"}),
    ("mail-mart", "cifar10", "resnet18", {**MAIL, **CROP, "beta": 5.0}),
    ("part", "cifar10", "resnet18", {**PART, **CROP, **MASKED, "start": "uniform", "inner": "ce", "bn": "eval"}),
    ("part-trades", "cifar10", "resnet18", {**PART, **CROP, **MASKED, "beta": 6.0, "start": "gauss", "inner": "kl"}),
    ("part-mart", "cifar10", "resnet18", {**PART, **CROP, **MASKED, "beta": 6.0, "start": "gauss", "inner": "ce"}),
    *((m, "svhn", "resnet18", {**PART, **SVHN, **MASKED, "decay": 3.5e-3})
      for m in ("part", "part-trades", "part-mart")),
    *((f"{m}(preset='official')", "cifar10", "resnet18", {**PART, **CROP, **RELEASED})
      for m in ("part", "part-trades", "part-mart")),
    ("part-trades(preset='official')", "svhn", "resnet18", {**PART, **SVHN, **RELEASED, "decay": 3.5e-3}),
    ("part", "tiny-imagenet-200", "wrn", {**NEW, **CROP, "lr": 0.02, "batch": 512, "decay": 5e-4, "epochs": 100,
     "falls_at": {50: 0.1, 75: 0.01}}),
    ("vir-at", "cifar10", "resnet18", {**VIR, **CROP, "alpha_": 7.0, "gamma": 10.0, "beta": 0.007, "first": 76,
     "start": "gauss", "inner": "ce", "parts": "both", "norm": "none", "natural": "train"}),
    ("vir-at", "cifar10", "wrn", {**VIR_WRN, **CROP, "gamma": 10.0}),
    ("vir-at", "svhn", "resnet18", {**VIR, "augment": "none"}),
    ("vir-at", "tiny-imagenet-200", "resnet18", {**VIR, **NEW, **CROP, "gamma": 3.0}),
    ("vir-trades", "cifar10", "resnet18", {**VIR, **CROP, "alpha_": 8.0, "gamma": 3.0, "beta": 1.6, "strength": 5.0,
     "first": 76, "start": "gauss", "inner": "kl"}),
    ("vir-trades", "cifar100", "wrn", {**VIR_WRN, **CROP}),
    ("vir-trades", "tiny-imagenet-200", "resnet18", {**VIR, **NEW, **CROP, "gamma": 3.0}),
    ("vir-at(preset='sv')", "cifar10", "resnet18", {**VIR, **CROP, "parts": "vulnerability"}),
    ("vir-trades(preset='sd')", "cifar10", "resnet18", {**VIR, **CROP, "parts": "discrepancy"}),
    ("at-awp", "cifar10", "preactresnet18", {**RICE, **REFLECT, "gamma": 0.01, "awp_from": 1}),
    ("at-awp", "svhn", "preactresnet18", {**RICE, **SVHN, "lr": 0.01, "gamma": 0.01, "awp_from": 6}),
    ("trades-awp", "cifar10", "wrn", {**NEW, **CROP, "beta": 6.0, "gamma": 0.005, "awp_from": 10, "lr": 0.1,
     "decay": 5e-4, "epochs": 200, "falls_at": {100: 0.1, 150: 0.01}, "start": "gauss", "inner": "kl"}),
    ("fgsm-rs", "cifar10", "preactresnet18", {**NEW, **CROP, "steps": 1, "alpha": 10 / 255, "bn": "train", "lr": 0.2,
     "epochs": 15, "schedule": "triangle", "rate_by": "step", "peak": 0.5, "decay": 5e-4, "start": "clipped"}),
    ("fgsm-rs(preset='fast')", "mnist", "cnn", {"eps": "0.3", "alpha": 0.375, "steps": 1, "optimizer": "adam",
     "lr": 5e-3, "epochs": 10, "peak": 0.4, "schedule": "triangle"}),
    ("free", "cifar10", "preactresnet18", {"eps": "8/255", "replays": 8, "epochs": 10, "lr": 0.04, "peak": 0.5,
     "schedule": "triangle", "rate_by": "step", "batch": 128, **CROP}),
    ("he", "cifar10", "he", {"margin": 0.2, "base": "at", "decay": 5e-4, "epochs": 77, "lr": 0.1, "start": "gauss",
     "falls_at": {75: 0.1, 90: 0.01, 100: 0.001}, **CROP}),
    ("he(preset='trades')", "cifar10", "he", {"margin": 0.2, "base": "trades", "inner": "kl", "beta": 6.0,
     "decay": 2e-4, "epochs": 77}),
    ("lbgat", "cifar10", "wrn", {**OLD, **CROP, "beta": 0.0, "teacher": "resnet18", "decay": 2e-4, "epochs": 100,
     "lr": 0.1, "falls_at": {1: 0.2, 2: 1.0, 76: 0.1, 91: 0.01}, "start": "gauss", "inner": "kl"}),
    ("lbgat(preset='lbgat6')", "cifar100", "wrn", {**OLD, **CROP, "beta": 6.0}),
    ("hat", "cifar10", "resnet18", {**NEW, **CROP, "nesterov": True, "beta": 2.5, "gamma": 0.5, "reach": 2.0,
     "epochs": 50, "lr": 0.21, "peak": 0.25, "schedule": "one-cycle", "rate_by": "step", "decay": 5e-4}),
]  # fmt: skip


def settings_of(text: str, dataset: str, net: str) -> tuple[Defense, dict[str, Any]]:
    recipe, _ = REGISTRY.parse_defense(text, dataset, net)
    assert isinstance(recipe.plugin, Defense)
    return recipe.plugin, dict(recipe.settings)


@pytest.mark.parametrize(("text", "dataset", "net", "expected"), RECIPES)
def test_a_preset_is_the_published_recipe(text: str, dataset: str, net: str, expected: dict[str, Any]) -> None:
    """Each setting that the publication fixes; steps in pixels; the rate by the epoch, counted from 1."""
    plugin, found = settings_of(text, dataset, net)
    expected = dict(expected)
    if "alpha_" in expected:
        assert found["alpha"] == expected.pop("alpha_")
    if "alpha" in expected:
        assert found["step"] * float(Fraction(found["eps"])) == pytest.approx(expected.pop("alpha"), rel=1e-9)
    if "falls_at" in expected:
        course: Course = plugin.arguments(found)["course"]
        share, at = 1.0, expected.pop("falls_at")
        for epoch in range(1, course.epochs + 1):
            share = at.get(epoch, share)
            assert course.rate(epoch, 0, 391)[0] == pytest.approx(course.lr * share), epoch
    assert {name: found[name] for name in expected} == expected


def test_every_preset_is_for_a_defense_and_parses() -> None:
    """On its data set, with its net; no two for the same place; each says where it comes from."""
    for preset in REGISTRY.presets:
        text = preset.defense + (f"(preset={preset.name!r})" if preset.name else "")
        plugin, found = settings_of(text, preset.dataset, "cnn" if preset.net == "*" else preset.net)
        plugin.arguments(found)  # what they say together
        for name, value in preset.settings.items():
            assert found[name] == value
        assert len(preset.source) > 10
    places = Counter((p.defense, p.dataset, p.net, p.name) for p in REGISTRY.presets)
    assert set(places.values()) == {1}


def test_every_method_has_a_preset_where_it_is_published_and_a_short_course() -> None:
    """CIFAR-10 and CIFAR-100 for all, digits and MNIST for all; those of PART and VIR on SVHN and TinyImageNet."""
    have = {(p.defense, p.dataset) for p in REGISTRY.presets}
    every = {d.name for d in REGISTRY.all("defense") if isinstance(d, Defense) and d.trains}
    for dataset in ("cifar10", "cifar100", "digits", "mnist"):
        assert {name for name in every if (name, dataset) not in have} == set()
    table = {"standard", "at", "trades", "mart", "gairat", "mail-at", "vir-at", "vir-trades"}
    parts = {"part", "part-trades", "part-mart"}
    for dataset in ("svhn", "tiny-imagenet-200"):
        assert {name for name in table | parts if (name, dataset) not in have} == set()


TRACE = (1, 59, 60, 74, 75, 76, 89, 90, 100)
RATES = {
    ("trades", "wrn"): (0.1, 0.1, 0.1, 0.1, 0.01, 0.01),
    ("mart", "resnet18"): (0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001, 1e-4, 1e-5),
    ("mart", "wrn"): (0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001),
    ("mail-at", "resnet18"): (0.01, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001, 1e-4),
    ("gairat", "wrn"): (0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001),
    ("gairat", "resnet18"): (0.1, 0.01, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001),
    ("vir-at", "resnet18"): (0.01, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001, 1e-4, 1e-4),
    ("vir-trades", "wrn"): (0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001),
    ("part", "resnet18"): (0.01, 0.01, 0.001, 0.001, 0.001, 0.001),
    ("at(preset='rice')", "resnet18"): (0.1,) * 9,
    ("trades-awp", "wrn"): (0.1,) * 8 + (0.01,),
    ("at", "resnet18"): (0.1,) * 8 + (0.01,),
}


@pytest.mark.parametrize(("text", "net"), RATES)
def test_the_trace_of_the_rate(text: str, net: str) -> None:
    """At the first step of epochs 1, 59, 60, 74, 75, 76, 89, 90, 100, as far as the recipe runs."""
    plugin, found = settings_of(text, "cifar10", net)
    course: Course = plugin.arguments(found)["course"]
    for epoch, rate in zip(TRACE, RATES[text, net], strict=False):
        if epoch <= course.epochs:
            assert course.rate(epoch, 0, 391)[0] == pytest.approx(rate), epoch


def test_rices_rate_falls_in_the_last_step_of_an_epoch() -> None:
    """t = e + (i + 1) / N reaches 100 in the last step of epoch 100."""
    plugin, found = settings_of("at(preset='rice')", "cifar10", "preactresnet18")
    course: Course = plugin.arguments(found)["course"]
    assert [course.rate(e, i, 391)[0] for e, i in ((100, 389), (100, 390), (101, 0))] == pytest.approx(
        [0.1, 0.01, 0.01]
    )
    assert [course.rate(e, i, 391)[0] for e, i in ((150, 389), (150, 390))] == pytest.approx([0.01, 0.001])


def test_warm_up_and_weights_begin_where_the_rate_has_not_fallen_long() -> None:
    """The first weighted epoch of each published recipe, beside the epoch in which its rate first falls."""
    known = {("gairat", "wrn"): (60, 60), ("gairat", "resnet18"): (31, 30), ("mail-at", "resnet18"): (77, 76),
             ("vir-at", "resnet18"): (76, 75), ("gairat(preset='vir')", "resnet18"): (76, 75)}  # fmt: skip
    for (text, net), expected in known.items():
        _, found = settings_of(text, "cifar10", net)
        assert (found["first"], found["drops"][0]) == expected
