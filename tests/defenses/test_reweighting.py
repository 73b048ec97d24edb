"""GAIRAT, MAIL and VIR against their formulas and against what they are without weights."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import Defense
from bench.registry import plugins
from defenses.at import at
from defenses.gairat import gairat, geometry
from defenses.mail import _weigh as weigh_mail
from defenses.mail import mail_at, mail_mart, mail_trades
from defenses.trades import trades
from defenses.vir import _weigh as weigh_vir
from defenses.vir import vir_at, vir_trades
from tests.defenses.scene import alike, attack, catch, ce, divergence, feed, graded, job, passes, softmax
from tests.defenses.test_trades import naive_mart

NOW: dict[str, Any] = {"first": 1}  # weights from the first epoch
METHODS = (gairat, mail_at, mail_trades, mail_mart, vir_at, vir_trades)


def test_gairat_is_its_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kappa counts, image by image, the iterates before each update that are right; weights have mean 1."""
    here = job(tmp_path)
    caught, batch = catch(monkeypatch, gairat, here, {**NOW, "shift": 0.5}), feed()
    model = copy.deepcopy(caught.model)
    seen: list[Tensor] = []
    x_adv = attack(model, batch, seen=seen)
    kappa = [sum(int(z[i].argmax()) == int(batch.y[i]) for z in seen) for i in range(len(batch))]
    assert len(seen) == 10
    assert len(set(kappa)) > 1
    w = torch.tensor([(1 + torch.tensor(0.5 + 5 * (1 - 2 * k / 10)).double().tanh()) / 2 for k in kappa])
    w = w * len(batch) / w.sum()
    alike(caught.gradients(batch), graded((w * ce(model(x_adv), batch.y)).mean(), model))
    seen_by_class = here.seen()
    assert seen_by_class["weight_mean"] == pytest.approx(1)
    expected = [float(w[batch.y == k].sum()) for k in range(4)]
    assert seen_by_class["weight_by_class"] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(0.0, [1.0, 0.9975, 0.8808, 0.5, 0.1192, 0.0]), (-1.0, [0.9997, 0.982, 0.5, 0.1192, 0.018, 0.0])],
)
def test_gairats_weights_are_the_published_values(shift: float, expected: list[float]) -> None:
    """Of K = 10 at kappa = 0, 2, 4, 5, 6, 10."""
    found = geometry(torch.tensor([0, 2, 4, 5, 6, 10]), 10, shift)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-4)


MARGINS = {-1.0: 2.98, -0.5: 1.5, -0.2: 0.142, 0.0: 0.020, 0.2: 0.0027, 0.5: 0.0001}


def test_mails_weights_are_the_published_values(tmp_path: Path) -> None:
    """3 sigmoid(-10 (PM + 1/2)) at six margins of two classes, p_y = (1 + PM) / 2."""
    p = (1 + torch.tensor(list(MARGINS)).double()) / 2
    logits = torch.stack([p, 1 - p], 1).clamp_min(1e-30).log()
    batch = replace(feed(6), y=torch.zeros(6, dtype=torch.long))
    w = weigh_mail(job(tmp_path), 1, 10.0, -0.5, "three", batch, logits.requires_grad_())
    for found, expected in zip(w, MARGINS.values(), strict=True):
        assert float(found) == pytest.approx(expected, rel=0.05, abs=5e-5)
    none = weigh_mail(job(tmp_path), 1, 10.0, -0.5, "none", batch, logits)
    torch.testing.assert_close(3 * none, w)
    torch.testing.assert_close(weigh_mail(job(tmp_path), 1, 10.0, -0.5, "batch", batch, logits), w / w.mean())


def naive_mail(z_adv: Tensor, y: Tensor, slope: float, bias: float) -> Tensor:
    """3 sigmoid(-slope (PM - bias)) of each image."""
    found = []
    for q, label in zip(softmax(z_adv.detach()), y.tolist(), strict=True):
        margin = q[label] - max(q[j] for j in range(len(q)) if j != label)
        found.append(3 / (1 + (slope * (margin - bias)).exp()))
    return torch.stack(found)


def test_mail_at_is_its_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights by the margin at x', in training mode; none flows back."""
    caught, batch = catch(monkeypatch, mail_at, job(tmp_path), NOW), feed()
    model = copy.deepcopy(caught.model)
    z_adv = model(attack(model, batch, start="gauss"))
    value = (naive_mail(z_adv, batch.y, 10, -0.5) * ce(z_adv, batch.y)).mean()
    seen = passes(caught.model, batch)
    alike(caught.gradients(batch), graded(value, model))
    assert seen == ["a"]


@pytest.mark.parametrize("late", ["kl", "ce"])
def test_mail_trades_is_its_formula(late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights on the divergence alone; the attack climbs what late_inner says once there are weights."""
    caught, batch = catch(monkeypatch, mail_trades, job(tmp_path), {**NOW, "late_inner": late}), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss", inner=late)
    z, z_adv = model(batch.x), model(x_adv)
    value = ce(z, batch.y).mean() + 5 * (naive_mail(z_adv, batch.y, 2, 0) * divergence(z, z_adv)).mean()
    seen = passes(caught.model, batch)
    alike(caught.gradients(batch), graded(value, model))
    assert seen == ["x", "a"]


def test_mail_mart_is_its_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights on the boosted cross-entropy alone; the attack comes before the first pass that moves statistics."""
    caught, batch = catch(monkeypatch, mail_mart, job(tmp_path), NOW), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss")
    z, z_adv = model(batch.x), model(x_adv)
    w = naive_mail(z_adv, batch.y, 10, -0.5)
    first = torch.stack([naive_mart(z[i : i + 1], z_adv[i : i + 1], batch.y[i : i + 1], 0.0) for i in range(8)])
    value = (w * first).mean() + naive_mart(z, z_adv, batch.y, 5.0) - first.mean()
    seen = passes(caught.model, batch)
    alike(caught.gradients(batch), graded(value, model))
    assert seen == ["x", "a"]


def naive_vir(z: Tensor, z_adv: Tensor, y: Tensor, alpha: float, gamma: float, beta: float, parts: str) -> Tensor:
    """alpha exp(-gamma p_y(x)) KL(p(x) || p(x')) + beta, or a factor of it."""
    p_y = softmax(z.detach())[range(len(y)), y]
    vulnerability, discrepancy = alpha * (-gamma * p_y).exp(), divergence(z.detach(), z_adv.detach())
    return {
        "both": vulnerability * discrepancy + beta, "vulnerability": vulnerability, "discrepancy": discrepancy
    }[parts]  # fmt: skip


@pytest.mark.parametrize("natural", ["train", "eval"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("parts", ["both", "vulnerability", "discrepancy"])
def test_vir_at_is_its_formula(
    parts: str, norm: str, natural: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights from the clean pass in either mode; beta belongs to both factors together."""
    settings = {**NOW, "parts": parts, "norm": norm, "natural": natural}
    caught, batch = catch(monkeypatch, vir_at, job(tmp_path), settings), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss")
    model.train(natural == "train")
    z = model(batch.x)
    model.train()
    z_adv = model(x_adv)
    w = naive_vir(z, z_adv, batch.y, 7, 10, 0.007, parts)
    w = w / w.mean() if norm == "batch" else w
    seen = passes(caught.model, batch)
    alike(caught.gradients(batch), graded((w * ce(z_adv, batch.y)).mean(), model))
    assert "".join(seen) == ("xa" if natural == "train" else "a")


@pytest.mark.parametrize(("forwards", "expected"), [(1, "xa"), (2, "xax")])
@pytest.mark.parametrize("parts", ["both", "vulnerability", "discrepancy"])
def test_vir_trades_is_its_formula(
    parts: str, forwards: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights on the divergence, whose two arguments carry gradient; the clean term has none."""
    settings = {**NOW, "parts": parts, "forwards": forwards}
    caught, batch = catch(monkeypatch, vir_trades, job(tmp_path), settings), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss", inner="kl")
    z, z_adv = model(batch.x), model(x_adv)
    w = naive_vir(z, z_adv, batch.y, 8, 3, 1.6, parts)
    seen = passes(caught.model, batch)
    value = ce(z, batch.y).mean() + 5 * (w * divergence(z, z_adv)).mean()
    alike(caught.gradients(batch), graded(value, model))
    assert "".join(seen) == expected


def test_virs_vulnerability_has_the_published_values(tmp_path: Path) -> None:
    """7 exp(-10 p) at p = 0, 0.3, 0.5, 0.7, 1."""
    p = torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0]).double()
    logits = torch.stack([p, 1 - p], 1).clamp_min(1e-30).log()
    y = torch.zeros(5, dtype=torch.long)
    w = weigh_vir(job(tmp_path), 7.0, 10.0, 0.007, "vulnerability", "none", y, logits, logits)
    for found, expected in zip(w, (7, 0.35, 0.047, 0.0064, 0.0003), strict=True):
        assert float(found) == pytest.approx(expected, rel=0.02, abs=5e-5)


SAME = [
    (gairat, {"shift": float("inf")}, at, {}, 1.0),
    (mail_at, {"slope": 0.0}, at, {"start": "gauss"}, 1.5),
    (mail_at, {"slope": 0.0, "norm": "batch"}, at, {"start": "gauss"}, 1.0),
    (vir_at, {"alpha": 0.0, "beta": 1.0}, at, {"start": "gauss"}, 1.0),
    (vir_trades, {"alpha": 0.0, "beta": 1.0, "strength": 3.0}, trades, {"beta": 3.0, "forwards": 1}, 1.0),
    (mail_trades, {"slope": 0.0, "norm": "batch"}, trades, {"beta": 5.0, "forwards": 1}, 1.0),
]


@pytest.mark.parametrize(("method", "settings", "base", "of_base", "times"), SAME)
def test_with_equal_weights_a_method_is_its_base(
    method: Defense, settings: dict[str, Any], base: Defense, of_base: dict[str, Any], times: float,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Lambda = inf, slope 0, alpha 0: AT (1.5 times, where MAIL multiplies by three) or TRADES."""
    batch = feed()
    value, grads = catch(monkeypatch, base, job(tmp_path), of_base).gradients(batch)
    found = catch(monkeypatch, method, job(tmp_path), {**NOW, **settings}).gradients(batch)
    alike(found, (times * value, [times * g for g in grads]))


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_numbers(method: Defense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that go into the history carry no gradient, and are what went into the loss."""
    watched: list[Tensor] = []
    module = sys.modules[method.function.__module__]
    monkeypatch.setattr(module, "watch", lambda _job, w, _y: watched.append(w))
    catch(monkeypatch, method, job(tmp_path), NOW).gradients(feed())
    assert [w.requires_grad for w in watched] == [False]
    assert watched[0].shape == (8,)


FIRST = {"gairat": 60, "mail-at": 77, "mail-trades": 77, "mail-mart": 77, "vir-at": 76, "vir-trades": 76}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_weights_begin_in_the_epoch_of_the_papers(
    method: Defense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from 1: GAIRAT 60, MAIL 77, VIR 76. In the epoch before it is the base, and nothing is watched."""
    here, first = job(tmp_path), FIRST[method.name]
    caught = catch(monkeypatch, method, here)
    before = caught.gradients(feed(epoch=first - 1))
    assert not here.watched
    caught.gradients(feed(epoch=first))
    assert set(here.watched) == {"weight_mean", "weight_by_class"}
    base, settings = {
        "gairat": ("at", {}), "mail-at": ("at", {"start": "gauss"}), "vir-at": ("at", {"start": "gauss"}),
        "mail-trades": ("trades", {"beta": 5.0, "forwards": 1}), "mail-mart": ("mart", {}),
        "vir-trades": ("trades", {"beta": 5.0, "forwards": 1}),
    }[method.name]  # fmt: skip
    plugin = plugins().parse("defense", base).plugin
    assert isinstance(plugin, Defense)
    alike(before, catch(monkeypatch, plugin, job(tmp_path), settings).gradients(feed()))


def test_gairats_weights_sum_to_the_batch_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image, five, eight: mean 1."""
    here = job(tmp_path)
    caught = catch(monkeypatch, gairat, here, NOW)
    for n in (1, 5, 8):
        caught.gradients(feed(n))
        assert here.seen()["weight_mean"] == pytest.approx(1)
