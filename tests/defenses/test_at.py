"""Adversarial training, its inner attack, and the methods that are it with another attack."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench import Batch, Course, ThreatModel, UsageError
from bench.average import Average
from defenses.at import at
from defenses.fgsm_rs import fgsm_rs
from defenses.inner import Inner, ascend, craft, divergence, kl
from defenses.standard import standard
from tests.defenses.scene import EPS, SHORT, THREAT, alike, attack, catch, ce, feed, graded, job, net, passes, small
from tests.defenses.scene import divergence as naive_divergence


def test_standard_is_the_cross_entropy_of_clean_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient."""
    caught, batch = catch(monkeypatch, standard, job(tmp_path)), feed()
    model = copy.deepcopy(caught.model)
    alike(caught.gradients(batch), graded(ce(model(batch.x), batch.y).mean(), model))


@pytest.mark.parametrize("start", ["clipped", "uniform", "gauss"])
def test_at_is_the_cross_entropy_of_pgds_last_iterate(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From each start, against a naive attack in eval mode and a naive loss in training mode."""
    caught, batch = catch(monkeypatch, at, job(tmp_path), {"start": start}), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start=start)
    alike(caught.gradients(batch), graded(ce(model(x_adv), batch.y).mean(), model))


def test_at_mixes_in_clean_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mix of the loss is on x, the rest on x'."""
    caught, batch = catch(monkeypatch, at, job(tmp_path), {"mix": 0.3}), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch)
    robust, clean = ce(model(x_adv), batch.y).mean(), ce(model(batch.x), batch.y).mean()
    alike(caught.gradients(batch), graded(0.3 * clean + 0.7 * robust, model))
    with pytest.raises(UsageError, match="from 0 to 1"):
        at(job(tmp_path), mix=1.5)


@pytest.mark.parametrize("bn", ["train", "frozen"])
def test_an_attack_may_be_on_the_model_in_training_mode(
    bn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """train and frozen attack the same function, that of the batch's own statistics, and eval another."""
    caught, batch = catch(monkeypatch, at, job(tmp_path), {"bn": bn}), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, mode="train")
    assert not torch.equal(x_adv, attack(model, batch))
    alike(caught.gradients(batch), graded(ce(model(x_adv), batch.y).mean(), model))


def test_fgsm_rs_is_one_step_of_five_quarters_from_a_clipped_start_in_training_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10/255 at 8/255."""
    caught, batch = catch(monkeypatch, fgsm_rs, job(tmp_path)), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, steps=1, step=10 / 255, mode="train")
    alike(caught.gradients(batch), graded(ce(model(x_adv), batch.y).mean(), model))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "a"),
        ({"mix": 0.5}, "ax"),
        ({"bn": "frozen"}, "a"),
        ({"bn": "train"}, "a" * 11),
        ({"bn": "train", "last_pass": True, "clean_pass": True}, "a" * 12 + "x"),
        ({"last_pass": True}, "a"),
    ],
)
def test_passes_of_at_that_move_batch_statistics(
    settings: dict[str, object], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Rice's settings: ten steps, the attack's own last look, the loss, and after the step the clean batch."""
    caught, batch = catch(monkeypatch, at, job(tmp_path), settings), feed()
    seen = passes(caught.model, batch)
    caught.step(batch)
    assert "".join(seen) == expected


def test_rices_last_pass_is_of_the_images_that_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So in his recipe the batch's statistics under attack count twice: by hand, on a net that begins with them."""

    def build() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 4)).double()

    settings = {"bn": "train", "last_pass": True, "clean_pass": True, "steps": 1}
    caught, batch = catch(monkeypatch, at, job(tmp_path, build), settings), feed()
    x_adv = attack(caught.model, batch, steps=1, mode="train")
    start = (batch.x + (2 * batch.draws.at("start").uniform(1, 8, 8).double() - 1) * EPS).clamp(0, 1)
    caught.step(batch)
    expected = torch.zeros(1).double()
    for images in (start, x_adv, x_adv, batch.x):
        expected = 0.9 * expected + 0.1 * images.mean()
    torch.testing.assert_close(caught.model[0].running_mean, expected, rtol=1e-9, atol=0)  # type: ignore[index]


@pytest.mark.parametrize("text", ["linf:8/255", "l2:0.5"])
@pytest.mark.parametrize("start", ["clipped", "uniform", "gauss", "centre"])
@pytest.mark.parametrize("inner", ["ce", "kl"])
def test_attacks_stay_inside_climb_and_leave_the_model_alone(text: str, start: str, inner: str) -> None:
    """In the ball and the box; the loss rises; no weight has a gradient; statistics and mode stay."""
    if (start, inner) == ("centre", "kl"):
        with pytest.raises(UsageError, match="gradient is zero"):
            Inner(start=start, inner=inner)
        return
    threat, model, batch = ThreatModel.parse(text), net(), feed()
    before = copy.deepcopy(model.state_dict())
    x_adv = craft(model, batch, threat, Inner(start=start, inner=inner))
    assert (threat.size(x_adv - batch.x) <= float(threat.eps) + 1e-6).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert not x_adv.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    model.eval()
    z, z_adv = model(batch.x), model(x_adv)
    climbed = ce(z_adv, batch.y) - ce(z, batch.y) if inner == "ce" else naive_divergence(z, z_adv) - 1e-3
    assert climbed.mean() > 0


def test_ascend_is_the_textbook_loop() -> None:
    """Signed steps on a linear loss, by hand: three steps of 0.01 uphill, within 0.02."""
    x = torch.full((1, 1, 2, 2), 0.5)
    w = torch.tensor([[1.0, -2.0, 3.0, 0.0]]).view(1, 1, 2, 2)
    found = ascend(
        nn.Identity(), x, lambda z: (z * w).sum(),
        uphill=torch.sign, project=lambda a: a.clamp(x - 0.02, x + 0.02), step=0.01, steps=3,
    )  # fmt: skip
    torch.testing.assert_close(found, x + 0.02 * w.sign())


def test_trades_in_l2_clips_before_it_shortens_and_goes_somewhere_from_flat_places() -> None:
    """By a naive loop; and on a model that is flat everywhere the images still move."""
    threat, model, batch = ThreatModel.parse("l2:0.7"), net().eval(), feed()
    inner = Inner(start="gauss", inner="kl", step=0.2)
    x, delta = batch.x, 0.001 * batch.draws.at("start").normal(1, 8, 8).double()
    for _ in range(10):
        delta = delta.detach().requires_grad_()
        (grad,) = torch.autograd.grad(naive_divergence(model(x).detach(), model(x + delta)).sum(), delta)
        moved = (x + delta.detach() + 0.7 * 2 / 10 * grad / grad.flatten(1).norm(dim=1)[:, None, None, None]).clamp(
            0, 1
        )
        delta = moved - x
        delta = delta * (0.7 / delta.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None, None]
    torch.testing.assert_close(craft(model, batch, threat, inner), x + delta, rtol=0, atol=1e-7)

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1)[:, :4]

    moved = craft(Flat(), batch, threat, inner) - x
    assert (threat.size(moved) > 0.3).all()


def test_without_noise_the_divergence_is_flat_at_x_itself() -> None:
    """The attack of TRADES from x: a gradient of nothing but rounding, and from the noisy start one that counts."""
    model, batch = net().eval(), feed()
    p = model(batch.x).softmax(1).detach()

    def steepness(x_adv: Tensor) -> float:
        x_adv = x_adv.requires_grad_()
        return float(torch.autograd.grad(kl(model(x_adv), p).mean(), x_adv)[0].abs().max())

    noise = 0.001 * batch.draws.at("start").normal(1, 8, 8)
    assert steepness(batch.x.clone()) < 1e-9 * steepness(batch.x + noise)


def test_the_divergence_is_its_sum_and_survives_probabilities_of_nothing() -> None:
    """By hand for (1/2, 1/2) and (1/4, 3/4): log(2/sqrt(3)); where p is 0 in single precision: value and gradient."""
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    assert float(divergence(p, q.log())) == pytest.approx(0.143841, abs=1e-6)
    z = torch.tensor([[0.0, -200.0, 3.0]], requires_grad=True)
    value = kl(torch.tensor([[0.0, -1.0, 3.0]]), z.softmax(1))
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


def test_eps_grows_over_the_ramp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of eps, and half the step, after half of the ramp; all of it after; no ramp is no change."""
    batch = feed()
    for progress, ramp, share in ((0.0, 0.0, 1.0), (1.0, 2.0, 0.5), (2.0, 2.0, 1.0), (5.0, 2.0, 1.0)):
        moved = replace(batch, progress=progress)
        assert float(Inner(ramp=ramp).threat(THREAT, moved).eps) == pytest.approx(share * EPS)
    caught = catch(monkeypatch, at, job(tmp_path), {"ramp": 2.0})
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, eps=EPS / 2, step=EPS / 8)
    alike(caught.gradients(replace(batch, progress=1.0)), graded(ce(model(x_adv), batch.y).mean(), model))


@pytest.mark.parametrize("collapse", ["note", "stop"])
def test_a_collapse_is_noted_or_stops(collapse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGD-10 accuracy falls from 80 % to 10 % in epoch 3 of 4: a note; or the end, with the weights of epoch 2."""
    here, scores, kept = job(tmp_path, small), iter([0.7, 0.8, 0.1, 0.2]), []

    def validate(model: nn.Module) -> tuple[float, float]:
        here.predicted = 4
        kept.append(copy.deepcopy(model.state_dict()))
        return next(scores), 0.9

    monkeypatch.setattr(here, "validate", validate)
    model = fgsm_rs(here, **{**SHORT, "epochs": 4, "collapse": collapse})
    assert [("note" in h) for h in here.history] == (
        [False, False, True, False] if collapse == "note" else [False, False, True]
    )
    assert "80.0% to 10.0%" in here.history[2]["note"]
    wanted = kept[3 if collapse == "note" else 1]
    assert all(torch.equal(v, wanted[k]) for k, v in model.state_dict().items())


def test_an_exponential_average_is_a_copy_during_its_warm_up() -> None:
    """A fortieth of 120 steps: three. After them it lags behind."""
    follower, live = Average(net(), Course(ema=0.9), 120), net()
    for step in range(5):
        with torch.no_grad():
            for p in live.parameters():
                p.add_(0.1)
        follower.after_step(live)
        same = all(torch.equal(a, b) for a, b in zip(follower.module.parameters(), live.parameters(), strict=True))
        assert same == (step < 3)


def test_a_batch_is_any_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack on each image alone finds what it finds among others, in eval mode."""
    batch = feed()
    together = craft(net_once := net(), batch, THREAT, Inner())
    for i in (0, 5):
        alone = craft(net_once, batch[i : i + 1], THREAT, Inner())
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-9)


def test_settings_that_mean_nothing_are_refused() -> None:
    """By what was expected."""
    with pytest.raises(UsageError, match="share of eps above 0"):
        Inner(step=0.0)
    with pytest.raises(UsageError, match="epochs, 0 or more"):
        Inner(ramp=-1.0)
    with pytest.raises(UsageError, match="written norm:eps"):
        Inner(eps="a lot")


def test_draws_name_the_start(tmp_path: Path) -> None:
    """Another epoch, another start; the same epoch, the same images."""
    batch: Batch = feed()
    model = net()
    one = craft(model, batch, THREAT, Inner(steps=1))
    other = replace(batch, draws=replace(batch.draws, restart=2))
    assert torch.equal(one, craft(model, batch, THREAT, Inner(steps=1)))
    assert not torch.equal(one, craft(model, other, THREAT, Inner(steps=1)))
