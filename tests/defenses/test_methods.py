"""Each defense against its formula: naive float64 losses, stop-gradients, budgets and batch statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Draws, Part, Shape, ThreatModel, TrainJob, UsageError
from defenses.at import at
from defenses.cam import heat
from defenses.inner import SIGMA, Inner, ascend, craft, kl
from defenses.part import outlying, part, part_trades, within
from defenses.standard import standard
from defenses.trades import INNER, trades, trades_loss

THREAT = ThreatModel.parse("linf:8/255")
SHORT = {"epochs": 2, "lr": 0.05, "batch": 16, "drops": ()}


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4)
    )  # fmt: skip


def feed(n: int = 8) -> Batch:
    torch.manual_seed(1)
    return Batch(torch.rand(n, 1, 8, 8), torch.arange(n) % 4, Draws(0, torch.arange(n), "train", restart=1), 1, 0.0)


def seeded() -> nn.Module:
    torch.manual_seed(0)
    return net()


def job(tmp_path: Path, build: Callable[[], nn.Module] = net, threat: ThreatModel = THREAT) -> TrainJob:
    rng = np.random.default_rng(0)
    y = np.arange(48) % 4
    x = rng.integers(0, 60, (48, 1, 8, 8)) + (y * 60)[:, None, None, None]
    images = Part(x.astype(np.uint8), y.astype(np.int64))
    return TrainJob(
        train=images, val=images, shape=Shape(4, 1, 8), build=build, threat=threat, seed=0,
        device=torch.device("cpu"), scratch=tmp_path, report=lambda _line: None,
    )  # fmt: skip


def test_trades_loss_is_its_formula_and_both_arguments_carry_gradient() -> None:
    """CE(f(x), y) + beta sum p (log p - log q) / B in naive float64, values and weight gradients to 1e-6."""
    model, batch = seeded().double().eval(), feed()
    x, x_adv = batch.x.double(), (batch.x.double() + 0.02).clamp(0, 1)
    value = trades_loss(model, Batch(x, batch.y, batch.draws, 1, 0.0), x_adv, 6.0)
    found = torch.autograd.grad(value, list(model.parameters()))
    p, q = model(x).softmax(1), model(x_adv).softmax(1)
    naive = -p[range(8), batch.y].log().mean() + 6 * (p * (p.log() - q.log())).sum() / 8
    expected = torch.autograd.grad(naive, list(model.parameters()))
    torch.testing.assert_close(value, naive, rtol=1e-9, atol=1e-9)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    logits = model(x).detach().requires_grad_()
    constant = (logits.softmax(1) * (logits.softmax(1).log() - q.detach().log())).sum()
    assert torch.autograd.grad(constant, logits)[0].abs().sum() > 1e-6


def test_trades_without_its_penalty_is_standard_training() -> None:
    """beta = 0: the gradient of the cross-entropy alone."""
    model, batch = seeded().eval(), feed()
    one = torch.autograd.grad(trades_loss(model, batch, batch.x, 0.0), list(model.parameters()))
    two = torch.autograd.grad(F.cross_entropy(model(batch.x), batch.y), list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(one, two, strict=True))


def test_trades_passes_the_clean_batch_twice_in_training_mode_and_the_attack_not_at_all() -> None:
    """Batch statistics move three times a step as in the authors' code, twice with forwards=1."""
    for forwards, moved in ((2, 3), (1, 2)):
        model, batch = seeded(), feed()
        x_adv = craft(model, batch, THREAT, INNER)
        assert model[1].num_batches_tracked == 0  # type: ignore[index]
        trades_loss(model, batch, x_adv, 6.0, forwards)
        assert model[1].num_batches_tracked == moved  # type: ignore[index]
        assert model.training


def test_the_divergence_of_trades_is_flat_at_x_itself() -> None:
    """Without the start's noise the gradient is nothing but rounding: under a thousandth of the one with it."""
    model, batch = seeded().eval(), feed()
    p = model(batch.x).softmax(1).detach()

    def steepness(x_adv: Tensor) -> float:
        x_adv = x_adv.requires_grad_()
        return float(torch.autograd.grad(kl(model(x_adv), p).mean(), x_adv)[0].abs().max())

    noise = batch.draws.at("start").normal(1, 8, 8)
    assert steepness(batch.x.clone()) < 1e-3 * steepness(batch.x + SIGMA * noise)


@pytest.mark.parametrize("text", ["linf:8/255", "l2:0.5"])
def test_inner_attacks_stay_inside(text: str) -> None:
    """In the ball and the box, for both inner losses."""
    threat, model, batch = ThreatModel.parse(text), seeded(), feed()
    for x_adv in (
        craft(model, batch, threat, Inner(steps=5)),
        craft(model, batch, threat, INNER),
    ):
        assert (threat.size(x_adv - batch.x) <= float(threat.eps) + 1e-6).all()
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


def test_the_inner_attack_climbs_and_leaves_no_weight_gradient() -> None:
    """The loss after is above the loss before, weights have no gradient, batch statistics stay."""
    model, batch = seeded(), feed()
    before = copy.deepcopy(model.state_dict())
    x_adv = craft(model, batch, THREAT, Inner())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    assert F.cross_entropy(model(x_adv), batch.y) > F.cross_entropy(model(batch.x), batch.y)


def test_ascend_is_the_textbook_loop() -> None:
    """Signed steps on a linear loss, by hand: three steps of 0.01 uphill, within 0.02."""
    x = torch.full((1, 1, 2, 2), 0.5)
    w = torch.tensor([[1.0, -2.0, 3.0, 0.0]]).view(1, 1, 2, 2)
    found = ascend(
        nn.Identity(), x, lambda z: (z * w).sum(),
        uphill=torch.sign, project=lambda a: a.clamp(x - 0.02, x + 0.02), step=0.01, steps=3,
    )  # fmt: skip
    torch.testing.assert_close(found, x + 0.02 * w.sign())


def test_eps_grows_over_the_ramp() -> None:
    """Half of eps after half of the ramp, all of it after; no ramp is no change."""
    batch = feed()
    for progress, ramp, share in ((0.0, 0.0, 1.0), (1.0, 2.0, 0.5), (2.0, 2.0, 1.0), (5.0, 2.0, 1.0)):
        moved = Batch(batch.x, batch.y, batch.draws, 1, progress)
        assert float(Inner(ramp=ramp).threat(THREAT, moved).eps) == pytest.approx(share * 8 / 255)


class Blob(nn.Module):
    """One feature map, x itself, read by a linear layer: its Grad-CAM is known in closed form."""

    cam_layer = "map"

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Identity()
        self.weight = torch.stack([torch.full((64,), 0.1), torch.full((64,), -0.1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x).flatten(1) @ self.weight.t()


def test_gradcam_of_a_one_map_model_is_the_map() -> None:
    """For the predicted class the weight is positive, so the heat is the image stretched to [0, 1]."""
    x = torch.rand(3, 1, 8, 8)
    low, high = x.amin((2, 3)), x.amax((2, 3))
    expected = (x[:, 0] - low[:, :, None]) / (high - low)[:, :, None]
    torch.testing.assert_close(heat(Blob(), x), expected, rtol=1e-5, atol=1e-6)


def test_gradcam_does_not_depend_on_the_batch_and_leaves_the_model_alone() -> None:
    """Alone or among others: the same heat; mode and statistics stay; frozen weights are fine."""
    model = seeded().requires_grad_(False)
    x = torch.rand(5, 1, 8, 8)
    before = copy.deepcopy(model.state_dict())
    together = heat(model, x)
    torch.testing.assert_close(together[2:3], heat(model, x[2:3]))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert together.min() >= 0
    assert together.max() <= 1


def test_a_net_without_a_convolution_is_refused_by_name() -> None:
    """There is no class activation map to be had."""
    with pytest.raises(UsageError, match="Sequential has no convolution"):
        heat(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.rand(1, 1, 8, 8))


def test_the_budget_is_eps_on_the_hot_spot_alone() -> None:
    """One hot pixel of 64: its squared heat is 7.9 deviations above the mean; the others are below."""
    warm = torch.zeros(1, 1, 8, 8)
    warm[0, 0, 2, 3] = 1
    keep = outlying(warm)
    assert keep[0, 0, 2, 3]
    assert keep.sum() == 1


def test_part_never_exceeds_any_pixels_budget() -> None:
    """Whatever comes in."""
    x, wild = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8) * 5 - 2
    size = torch.where(torch.rand(4, 1, 8, 8) > 0.5, 0.1, 0.05)
    inside = within(wild, x, size)
    assert ((inside - x).abs() <= size + 1e-7).all()
    assert inside.min() >= 0
    assert inside.max() <= 1


def test_part_with_equal_budgets_is_adversarial_training_bit_for_bit(tmp_path: Path) -> None:
    """low = 1 and a clipped start: the weights of `at`; likewise PART-T and TRADES."""
    one = part(job(tmp_path / "a"), low=1.0, warm_up=1, start="clipped", **SHORT)
    two = at(job(tmp_path / "b"), **{**SHORT, "decay": 2e-4})
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    one = part_trades(job(tmp_path / "c"), low=1.0, warm_up=1, **SHORT)
    two = trades(job(tmp_path / "d"), **{**SHORT, "decay": 2e-4})
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def test_the_first_weighted_epoch_does_not_depend_on_s(tmp_path: Path) -> None:
    """s = 1 and s = 10 refresh alike at its start, and differ from the second weighted epoch on."""
    weights = [
        part(job(tmp_path / f"{s}-{epochs}"), s=s, warm_up=1, low=0.2, **{**SHORT, "epochs": epochs}).state_dict()
        for epochs in (2, 3)
        for s in (1, 10)
    ]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    assert not all(torch.equal(v, weights[3][k]) for k, v in weights[2].items())


def test_part_continues_with_the_snapshot_it_had(tmp_path: Path) -> None:
    """Stopped within an interval of s = 10 and continued: the same weights."""
    settings = {**SHORT, "s": 10, "warm_up": 1, "low": 0.2, "epochs": 4}
    whole = part(job(tmp_path / "whole"), **settings).state_dict()

    def stop(history: list[dict[str, object]]) -> None:
        if len(history) == 3:
            raise KeyboardInterrupt

    first = job(tmp_path / "parts")
    first.log = stop
    with pytest.raises(KeyboardInterrupt):
        part(first, **settings)
    found = part(job(tmp_path / "parts"), **settings).state_dict()
    assert all(torch.equal(v, found[k]) for k, v in whole.items())


def test_part_is_for_linf_and_says_so(tmp_path: Path) -> None:
    """Other norms have no per-pixel budget."""
    with pytest.raises(UsageError, match=r"Linf; the threat is l2:0\.5"):
        part(job(tmp_path, threat=ThreatModel.parse("l2:0.5")), **SHORT)


@pytest.mark.parametrize("method", [standard, at, trades, part, part_trades])
def test_every_method_learns(method: Callable[..., nn.Module], tmp_path: Path) -> None:
    """Four brightness classes: at some epoch at least 90 % are right on the validation images."""
    here = job(tmp_path)
    warm_up = {"warm_up": 3} if "part" in method.name else {}  # type: ignore[attr-defined]
    method(here, **{**SHORT, "epochs": 30, **warm_up})
    assert max(h["val_clean"] for h in here.history) >= 0.9
    assert len(here.history) == 30
