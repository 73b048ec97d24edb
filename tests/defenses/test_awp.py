"""AWP: where the weights are moved to, what the step is taken by, and what is left of the move."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench import Defense, UsageError
from defenses.at import at
from defenses.awp import at_awp, trades_awp
from tests.defenses.scene import SHORT, alike, attack, catch, ce, divergence, feed, graded, job, passes, small

CASES = [(at_awp, {"gamma": 0.02}, False), (trades_awp, {"gamma": 0.02, "awp_from": 1}, True)]


def moved(model: nn.Module, batch: Any, x_adv: torch.Tensor, gamma: float, *, trades: bool) -> nn.Module:
    """A copy whose matrices and kernels went gamma of their norm along their gradient."""
    proxy = copy.deepcopy(model).train()
    value = ce(proxy(x_adv), batch.y).mean()
    if trades:
        z, z_adv = proxy(batch.x), proxy(x_adv)
        value = ce(z, batch.y).mean() + 6 * divergence(z, z_adv).mean()
    value.backward()
    there = copy.deepcopy(model)
    for name, p in proxy.named_parameters():
        if name in {"0.weight", "4.weight"}:
            with torch.no_grad():
                there.get_parameter(name).add_(gamma * p.norm() * p.grad / p.grad.norm())  # type: ignore[union-attr]
    return there


@pytest.mark.parametrize(("method", "settings", "trades"), CASES)
def test_the_loss_is_that_of_the_moved_weights(
    method: Defense, settings: dict[str, Any], trades: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x' is made before the move; the gradients are those there; a move is 2 % of each kernel's norm."""
    caught, batch = catch(monkeypatch, method, job(tmp_path), settings), feed()
    start = copy.deepcopy(caught.model)
    x_adv = attack(start, batch, start="gauss" if trades else "clipped", inner="kl" if trades else "ce")
    there = moved(start, batch, x_adv, 0.02, trades=trades)
    there.train()
    z_adv = there(x_adv)
    value = ce(z_adv, batch.y).mean()
    if trades:
        z = there(batch.x)
        value = ce(z, batch.y).mean() + 6 * divergence(z, z_adv).mean()
    expected = graded(value, there)
    alike(caught.gradients(batch), expected)
    for name, p in caught.model.named_parameters():
        was = start.get_parameter(name).detach()
        gone = (p.detach() - was).norm()
        share = 0.02 if name in {"0.weight", "4.weight"} else 0.0
        assert float(gone) == pytest.approx(share * float(was.norm()), rel=1e-6)


@pytest.mark.parametrize(("method", "settings", "trades"), CASES)
def test_the_move_is_taken_back_and_the_step_stays(
    method: Defense, settings: dict[str, Any], trades: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step of 0.1 the weights are the start minus 0.1 of the gradient at the moved ones."""
    caught, batch = catch(monkeypatch, method, job(tmp_path), settings), feed()
    start = copy.deepcopy(caught.model.state_dict())
    caught.step(batch, lr=0.1)
    for name, p in caught.model.named_parameters():
        torch.testing.assert_close(p.detach(), start[name] - 0.1 * p.grad, rtol=0, atol=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("method", "settings", "epoch", "expected"),
    [
        (at_awp, {}, 1, "a"),
        (at_awp, {"bn": "train", "last_pass": True, "clean_pass": True}, 1, "a" * 12 + "x"),
        (at_awp, {"bn": "train", "last_pass": True, "clean_pass": True}, 2, "ax"),
        (trades_awp, {}, 10, "axx"),
        (trades_awp, {"forwards": 1}, 10, "ax"),
    ],
)
def test_the_copy_has_batch_statistics_of_its_own(
    method: Defense, settings: dict[str, Any], epoch: int, expected: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The pass that finds the direction leaves no trace; the first batch after validation is attacked in eval mode."""
    caught, batch = catch(monkeypatch, method, job(tmp_path), settings), feed(epoch=epoch)
    seen = passes(caught.model, batch)
    caught.step(batch)
    assert "".join(seen) == expected
    assert caught.model[1].num_batches_tracked == len(expected)  # type: ignore[index]


def test_weights_stay_where_they_are_at_a_rate_of_zero(tmp_path: Path) -> None:
    """Two whole epochs with next to no rate: the start, within 1e-6; the statistics of at, which has no proxy."""
    still = {**SHORT, "lr": 1e-12, "decay": 0.0}
    here = job(tmp_path / "awp", small)
    start = here.net().state_dict()
    found = at_awp(here, gamma=0.02, **still).state_dict()
    other = at(job(tmp_path / "at", small), **still).state_dict()
    for name, value in found.items():
        if "running" in name:
            torch.testing.assert_close(value, other[name], rtol=0.05, atol=0.02)
        elif "num_batches" in name:
            assert value == other[name] == 6
        else:
            torch.testing.assert_close(value, start[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "first"), [(at_awp, 1), (trades_awp, 10)])
def test_weights_move_from_the_epoch_of_the_authors(
    method: Defense, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start for AT, from epoch 10 for TRADES."""
    caught = catch(monkeypatch, method, job(tmp_path))
    start = copy.deepcopy(caught.model.state_dict())
    for epoch in range(1, first):
        caught.gradients(feed(epoch=epoch))
    assert torch.equal(caught.model.state_dict()["0.weight"], start["0.weight"])
    caught.gradients(feed(epoch=first))
    assert not torch.equal(caught.model.state_dict()["0.weight"], start["0.weight"])


def test_gamma_is_a_share(tmp_path: Path) -> None:
    """Above 0."""
    with pytest.raises(UsageError, match="above 0"):
        at_awp(job(tmp_path), gamma=0.0)
