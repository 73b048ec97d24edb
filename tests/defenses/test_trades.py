"""TRADES and MART against their formulas."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import UsageError
from defenses.mart import mart
from defenses.trades import trades
from tests.defenses.scene import alike, attack, catch, ce, divergence, feed, graded, job, passes, softmax


@pytest.mark.parametrize("forwards", [1, 2])
def test_trades_is_its_formula(forwards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CE(f(x), y) + beta KL(p(x) || p(x')), with gradient through both arguments."""
    caught, batch = catch(monkeypatch, trades, job(tmp_path), {"forwards": forwards, "beta": 4.5}), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss", inner="kl")
    z, z_adv = model(batch.x), model(x_adv)
    expected = graded(ce(z, batch.y).mean() + 4.5 * divergence(z, z_adv).mean(), model)
    found = caught.gradients(batch)
    alike(found, expected)
    z, z_adv = model(batch.x), model(x_adv)
    cut = graded(ce(z, batch.y).mean() + 4.5 * divergence(z.detach(), z_adv).mean(), model)
    with pytest.raises(AssertionError):
        alike(found, cut, rtol=0.01)


def test_trades_smooths_the_labels_of_its_clean_term_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(1 - s) nll + s mean(-log p) over all classes."""
    caught, batch = catch(monkeypatch, trades, job(tmp_path), {"smoothing": 0.1}), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss", inner="kl")
    z, z_adv = model(batch.x), model(x_adv)
    clean = 0.9 * ce(z, batch.y) + 0.1 * (-softmax(z).log()).mean(1)
    alike(caught.gradients(batch), graded(clean.mean() + 6 * divergence(z, z_adv).mean(), model))


def test_trades_as_wang_et_al_train_it_attacks_in_training_mode_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bn=frozen, clipped start, inner kl: the clean prediction is in training mode, too; two passes count."""
    settings = {"bn": "frozen", "start": "clipped", "forwards": 1, "beta": 5.0}
    caught, batch = catch(monkeypatch, trades, job(tmp_path), settings), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, inner="kl", mode="train")
    z, z_adv = model(batch.x), model(x_adv)
    seen = passes(caught.model, batch)
    alike(caught.gradients(batch), graded(ce(z, batch.y).mean() + 5 * divergence(z, z_adv).mean(), model))
    assert seen == ["x", "a"]


def test_trades_without_its_penalty_is_standard_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """beta = 0: the gradient of the cross-entropy alone."""
    caught, batch = catch(monkeypatch, trades, job(tmp_path), {"beta": 0.0}), feed()
    model = copy.deepcopy(caught.model)
    alike(caught.gradients(batch), graded(F.cross_entropy(model(batch.x), batch.y), model))


@pytest.mark.parametrize(("forwards", "expected"), [(1, "xa"), (2, "xax")])
def test_batch_statistics_after_a_step_of_trades_by_hand(
    forwards: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clean batch enters twice in the authors' code, around the attacked one; the attack itself leaves no trace."""

    def build() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 4)).double()

    caught, batch = catch(monkeypatch, trades, job(tmp_path, build), {"forwards": forwards}), feed()
    x_adv = attack(caught.model, batch, start="gauss", inner="kl")
    seen = passes(caught.model, batch)
    caught.step(batch)
    mean, var = torch.zeros(1).double(), torch.ones(1).double()
    for images in {1: (batch.x, x_adv), 2: (batch.x, x_adv, batch.x)}[forwards]:
        mean, var = 0.9 * mean + 0.1 * images.mean(), 0.9 * var + 0.1 * images.var(correction=1)
    norm = caught.model[0]  # type: ignore[index]
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(norm.running_var, var, rtol=1e-9, atol=0)
    assert "".join(seen) == expected


def naive_mart(z: Tensor, z_adv: Tensor, y: Tensor, beta: float, *, detach: bool = False) -> Tensor:
    """An image at a time, with the authors' small numbers."""
    total = torch.zeros(()).double()
    for p, q, label in zip(softmax(z), softmax(z_adv), y.tolist(), strict=True):
        order = q.argsort(descending=True)
        runner_up = order[1] if int(order[0]) == label else order[0]
        boosted = -q[label].log() - (1.0001 - q[runner_up] + 1e-12).log()
        kl = (p * (p.log() - (q + 1e-12).log())).sum()
        weight = 1.0000001 - p[label]
        total = total + boosted + beta * kl * (weight.detach() if detach else weight)
    return total / len(y)


def test_mart_is_its_formula_and_its_weight_carries_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BCE(x') + beta KL (1 - p_y), from a Gaussian start with the cross-entropy; not what a constant weight gives."""
    caught, batch = catch(monkeypatch, mart, job(tmp_path)), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss")
    seen = passes(caught.model, batch)
    found = caught.gradients(batch)
    alike(found, graded(naive_mart(model(batch.x), model(x_adv), batch.y, 5.0), model))
    assert seen == ["x", "a"]
    with pytest.raises(AssertionError):
        alike(found, graded(naive_mart(model(batch.x), model(x_adv), batch.y, 5.0, detach=True), model), rtol=1e-4)


def test_forwards_are_one_or_two(tmp_path: Path) -> None:
    """And an error says so."""
    with pytest.raises(UsageError, match="expected 1 or 2"):
        trades(job(tmp_path), forwards=3)
