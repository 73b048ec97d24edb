"""Free AT, hypersphere embedding, LBGAT and HAT; and what every method must bear."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Defense, UsageError
from bench.registry import plugins
from defenses.free import free
from defenses.hat import hat
from defenses.he import he
from defenses.lbgat import lbgat
from tests.defenses.scene import (
    CLASSES,
    EPS,
    alike,
    attack,
    catch,
    ce,
    divergence,
    feed,
    graded,
    job,
    net,
    passes,
    small,
    stopping,
)


class Cosines(nn.Module):
    """5 times the cosines of features and class vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.weight = nn.Parameter(torch.randn(CLASSES, 4 * 64))
        self.scale = 5.0

    def forward(self, x: Tensor) -> Tensor:
        features = F.normalize(self.norm(self.conv(x)).relu().flatten(1))
        return self.scale * features @ F.normalize(self.weight).t()


def test_free_keeps_one_perturbation_through_replays_and_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 8, 5 (the last of an epoch) and 8 images, three replays each, by a naive loop: loss and gradients."""
    here = job(tmp_path)
    caught = catch(monkeypatch, free, here, {"batch": 8, "replays": 3})
    assert caught.hooks["replays"] == 3
    model, delta = copy.deepcopy(caught.model), torch.zeros(8, 1, 8, 8).double()
    for n, seed in ((8, 1), (5, 2), (8, 3)):
        batch = feed(n, seed=seed)
        for _ in range(3):
            own = delta[:n].clone().requires_grad_()
            value = ce(model((batch.x + own).clamp(0, 1)), batch.y).mean()
            grads = torch.autograd.grad(value, [own, *model.parameters()])
            before = copy.deepcopy(caught.model.state_dict())
            alike(caught.gradients(batch), (value.detach(), list(grads[1:])))
            caught.model.load_state_dict(before)  # that pass was for comparison
            for p in caught.model.parameters():
                p.grad = None
            caught.step(batch, lr=0.05)
            with torch.no_grad():
                for p, g in zip(model.parameters(), grads[1:], strict=True):
                    p.sub_(0.05 * g)
                moved = (delta[:n] + EPS * grads[0].sign()).clamp(-EPS, EPS)
                delta[:n] = (batch.x + moved).clamp(0, 1) - batch.x
            found = caught.hooks["also"]["free"].delta
            torch.testing.assert_close(found.double(), delta, rtol=0, atol=1e-7)
    assert (delta[5:] != 0).any()
    assert delta.abs().max() <= EPS + 1e-9


def test_free_survives_a_resume_with_its_perturbation(tmp_path: Path) -> None:
    """Stopped after the first of two epochs and continued: the same weights."""
    settings: dict[str, Any] = {"batch": 20, "replays": 2, "schedule": "drops", "drops": (), "lr": 0.05}
    whole = free(job(tmp_path / "whole", small), epochs=2, **settings).state_dict()
    with pytest.raises(KeyboardInterrupt):
        free(stopping(job(tmp_path / "parts", small), 1), epochs=2, **settings)
    found = free(job(tmp_path / "parts", small), epochs=2, **settings).state_dict()
    assert all(torch.equal(v, found[k]) for k, v in whole.items())


@pytest.mark.parametrize("base", ["at", "trades"])
def test_he_trains_with_a_margin_that_the_attack_does_not_see(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross-entropy of 5 (cos - 0.2 onehot): on x', or on x with TRADES' divergence without margin."""
    inner = "kl" if base == "trades" else "ce"
    settings = {"base": base, "inner": inner}
    caught, batch = catch(monkeypatch, he, job(tmp_path, lambda: Cosines().double()), settings), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss", inner=inner)
    margin = torch.zeros(8, CLASSES).double()
    for i, label in enumerate(batch.y.tolist()):
        margin[i, label] = 0.2 * 5
    if base == "at":
        value, order = ce(model(x_adv) - margin, batch.y).mean(), ["a"]
    else:
        z, z_adv = model(batch.x), model(x_adv)
        value, order = ce(z - margin, batch.y).mean() + 6 * divergence(z, z_adv).mean(), ["x", "a"]
    seen = passes(caught.model, batch)
    alike(caught.gradients(batch), graded(value, model))
    assert seen == order


def test_he_needs_cosines(tmp_path: Path) -> None:
    """Another net is refused, with the one that would do."""
    with pytest.raises(UsageError, match="Sequential gives other logits"):
        he(job(tmp_path))


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_lbgat_is_its_formula_and_teaches_its_teacher(
    beta: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MSE of f(x') and g(x) over all logits + CE of g(x) + beta KL; the teacher learns from both its terms."""
    caught, batch = catch(monkeypatch, lbgat, job(tmp_path), {"beta": beta}), feed()
    guide = caught.hooks["also"]["teacher"]
    with torch.no_grad():
        guide[0].weight.mul_(1.3)
    both = nn.ModuleList([caught.model, guide])
    student, teacher = own = nn.ModuleList([copy.deepcopy(caught.model), copy.deepcopy(guide)])
    x_adv = attack(student, batch, start="gauss", inner="kl")
    z_adv, z, guided = student(x_adv), student(batch.x), teacher(batch.x)
    value = ((z_adv - guided) ** 2).sum() / (8 * CLASSES) + ce(guided, batch.y).mean()
    value = value + beta * divergence(z, z_adv).mean()
    seen, taught = passes(caught.model, batch), passes(guide, batch)
    guide.eval()  # as a validation may leave it
    caught.model.train()
    found = graded(caught.loss(caught.model, batch), both)
    alike(found, graded(value, own))
    assert (seen, taught) == (["a", "x"], ["x"])


def test_hat_asks_its_helper_about_the_adversarial_image_and_goes_twice_as_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CE + 2.5 KL + 0.5 CE(f(x + 2 (x' - x)), argmax g(x')): the helper is frozen, the far image is not clipped."""
    caught, batch = catch(monkeypatch, hat, job(tmp_path)), feed()
    cells = caught.loss.__closure__  # type: ignore[attr-defined]
    (helper,) = [c.cell_contents for c in cells if isinstance(c.cell_contents, nn.Module)]
    with torch.no_grad():
        helper[4].weight.copy_(helper[4].weight[[1, 2, 3, 0]].clone())  # another opinion than the model's,
        helper[4].bias.sub_(helper(batch.x).mean(0))  # and not the same for all images
    assert helper is not caught.model
    assert not any(p.requires_grad for p in helper.parameters())
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="gauss", inner="kl")
    far = batch.x + 2 * (x_adv - batch.x)
    assert far.min() < 0
    assert far.max() > 1
    answer, on_x = (copy.deepcopy(helper).eval()(images).argmax(1) for images in (x_adv, batch.x))
    assert not torch.equal(answer, on_x)
    z, z_adv, z_far = model(batch.x), model(x_adv), model(far)
    value = ce(z, batch.y).mean() + 2.5 * divergence(z, z_adv).mean() + 0.5 * ce(z_far, answer).mean()
    seen, asked = passes(caught.model, batch), passes(helper, batch)
    alike(caught.gradients(batch), graded(value, model))
    assert (seen, asked) == (["x", "a", "a"], [])


def test_hats_helper_is_a_standard_model_of_its_own_history(tmp_path: Path) -> None:
    """Its epochs, its best clean accuracy and its weights are not the job's; the history is the second training's."""
    said: list[str] = []
    here = job(tmp_path, small)
    here.report = said.append
    hat(here, epochs=2, helper_epochs=3, batch=16, lr=0.05, schedule="drops", drops=())
    assert [h["epoch"] for h in here.history] == [1, 2]
    assert sum(line.startswith("helper: epoch") for line in said) == 3


EVERY = [
    "standard", "at", "at(mix=0.5)", "trades", "mart", "gairat(first=1)", "mail-at(first=1)", "mail-trades(first=1)",
    "mail-mart(first=1)", "part(warm_up=0)", "part-trades(warm_up=0)", "part-mart(warm_up=0, align='shuffled')",
    "part(warm_up=0, mask='jet')", "part(warm_up=0, mask='random')", "vir-at(first=1)", "vir-trades(first=1)", "at-awp",
    "trades-awp(awp_from=1)", "fgsm-rs", "free(replays=2)", "he", "lbgat", "hat(helper_epochs=1)",
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("text", EVERY)
def test_every_method_takes_one_image_and_a_last_partial_batch(text: str, batch: int, tmp_path: Path) -> None:
    """Four images by one, and by three and one: an epoch ends with weights that are numbers and have moved."""
    here = job(tmp_path, small if "he" not in text[:2] else Cosines, images=4)
    recipe = plugins().parse("defense", text)
    assert isinstance(recipe.plugin, Defense)
    start = here.net().state_dict()
    settings = {"epochs": 1, "batch": batch, "lr": 0.01, "schedule": "drops", "drops": (), "falls": ()}
    model = recipe.plugin(here, **{**recipe.settings, **settings})
    assert all(v.isfinite().all() for v in model.state_dict().values())
    assert any(not torch.equal(p, start[k]) for k, p in model.named_parameters())
    assert math.isfinite(here.history[0]["loss"])


def test_the_list_above_is_all_there_is() -> None:
    """Every defense that trains is in it."""
    known = {d.name for d in plugins().all("defense") if isinstance(d, Defense) and d.trains}
    assert known == {text.partition("(")[0] for text in EVERY}


def test_the_net_of_these_tests_has_the_precision_of_the_formulas() -> None:
    """float64, and another prediction in eval mode than in training mode."""
    model, batch = net(), feed()
    assert model(batch.x).dtype == torch.float64
    assert not torch.allclose(model(batch.x), model.eval()(batch.x), atol=0.1)
