"""PART: budgets by pixel, class activation maps, and the release's way of making masks."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from bench import Batch, Course, Defense, ThreatModel, UsageError, heat, outlying, within
from defenses.at import at
from defenses.mart import mart
from defenses.part import Masks, important, jet, part, part_mart, part_trades
from defenses.trades import trades
from tests.defenses.scene import (
    CLASSES,
    EPS,
    SHORT,
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
from tests.defenses.test_trades import naive_mart

NOW: dict[str, Any] = {"warm_up": 0, "low": 0.3}


class Twice(nn.Module):
    """Two convolutions with stride, so that the last feature map is 4x4 of images of 8x8: float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.one, self.two = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 7, 3, 2, 1)
        self.norm, self.last = nn.BatchNorm2d(7), nn.Linear(7, CLASSES)
        self.norm.running_mean += 0.1
        self.double()

    def features(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())  # type: ignore[no-any-return]

    def rest(self, maps: Tensor) -> Tensor:
        return self.last(self.norm(maps).relu().mean((2, 3)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.features(x))


def naive_heat(model: Twice, x: Tensor, cam: str) -> Tensor:
    """torchcam's formulas an image at a time, then Pillow's enlargement: (N, H, W), which may overshoot."""
    model = copy.deepcopy(model).eval()
    found = []
    for image in x:
        maps = model.features(image[None]).detach().requires_grad_()
        logits = model.rest(maps)[0]
        (grad,) = torch.autograd.grad(logits[int(logits.argmax())], maps)
        a, g = maps.detach()[0], grad[0]
        total = torch.zeros(a.shape[1:]).double()
        for k in range(len(a)):
            if cam == "gradcam":
                total += g[k].mean() * a[k]
            elif cam == "xgradcam":
                total += (g[k] * a[k]).sum() / (a[k].sum() + 1e-8) * a[k]
            else:
                total += g[k].clamp(min=0) * a[k]
        total = total.clamp(min=0)
        total = total - total.min()
        total = total / (total.max() + 1e-8)
        large = Image.fromarray(total.float().numpy()).resize(image.shape[:0:-1], Image.Resampling.BICUBIC)
        found.append(torch.from_numpy(np.array(large)))
    return torch.stack(found).double()


@pytest.mark.parametrize("cam", ["gradcam", "xgradcam", "layercam"])
def test_maps_are_torchcams_enlarged_as_by_pillow(cam: str) -> None:
    """For the predicted class, in eval mode whatever the model's own; clipped, as the enlargement overshoots."""
    model, x = Twice(), feed(6).x
    expected = naive_heat(model, x, cam)
    assert expected.min() < -1e-3
    torch.testing.assert_close(heat(model, x, cam, clip=False), expected, rtol=0, atol=1e-5)  # type: ignore[arg-type]
    torch.testing.assert_close(heat(model, x, cam), expected.clamp(0, 1), rtol=0, atol=1e-5)  # type: ignore[arg-type]
    assert not torch.allclose(naive_heat(model, x, "gradcam"), naive_heat(model, x, "xgradcam"), atol=0.01)
    assert model.training


def test_enlargement_is_pillows_bicubic() -> None:
    """4x4 to 8, 28, 32: within a thousandth."""
    small = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))

    class Given(nn.Module):
        cam_layer = "maps"

        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.maps(small.expand(len(x), 1, 4, 4)).flatten(1).sum(1, keepdim=True)  # type: ignore[no-any-return]

    low, high = small.min(), small.max()
    for side in (8, 28, 32):
        stretched = ((small - low) / (high - low)).numpy()
        expected = np.array(Image.fromarray(stretched).resize((side, side), Image.Resampling.BICUBIC))
        found = heat(Given(), torch.rand(2, 1, side, side), clip=False)[1]
        assert np.abs(found.numpy() - expected).max() < 1e-3


def test_maps_do_not_depend_on_the_batch_and_leave_the_model_alone() -> None:
    """Alone or among others: the same heat; mode and statistics stay; frozen weights are fine."""
    model = net().requires_grad_(False)
    x = feed(5).x
    before = copy.deepcopy(model.state_dict())
    together = heat(model, x)
    torch.testing.assert_close(together[2:3], heat(model, x[2:3]))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_net_without_a_convolution_is_refused_by_name() -> None:
    """There is no class activation map to be had."""
    with pytest.raises(UsageError, match="Sequential has no convolution"):
        heat(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.rand(1, 1, 8, 8))


JET = {  # level of 256 to red, green, blue, from matplotlib's own table
    0: (0, 0, 0.5), 32: (0, 0.00196, 1), 64: (0, 0.50392, 1), 96: (0.08539, 1, 0.88235), 128: (0.49020, 1, 0.47754),
    160: (0.89500, 1, 0.07274), 192: (1, 0.58170, 0), 224: (1, 0.11692, 0), 255: (0.5, 0, 0),
}  # fmt: skip


def test_jet_is_matplotlibs() -> None:
    """At nine of its 256 levels, by its published control points; above 1 it is the last colour."""

    def between(points: list[tuple[float, float]], at: float) -> float:
        return float(np.interp(at, *zip(*points, strict=True)))

    red = [(0, 0), (0.35, 0), (0.66, 1), (0.89, 1), (1, 0.5)]
    green = [(0, 0), (0.125, 0), (0.375, 1), (0.64, 1), (0.91, 0), (1, 0)]
    blue = [(0, 0.5), (0.11, 1), (0.34, 1), (0.65, 0), (1, 0)]
    for level, known in JET.items():
        expected = [between(points, level / 255) for points in (red, green, blue)]
        assert expected == pytest.approx(known, abs=2e-3)
        found = jet(torch.full((1, 1, 1), (level + 0.5) / 256))[0, :, 0, 0]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(jet(torch.full((1, 1, 1), 1.1))[0, :, 0, 0], torch.tensor([0.5, 0, 0]))


def test_the_budget_is_eps_on_the_hot_spot_alone() -> None:
    """One hot pixel of 64: it is 7.9 deviations above the mean; the others are below."""
    warm = torch.zeros(1, 1, 8, 8)
    warm[0, 0, 2, 3] = 1
    keep = outlying(warm)
    assert keep[0, 0, 2, 3]
    assert keep.sum() == 1
    assert not outlying(torch.full((1, 1, 8, 8), 0.3)).any()
    three = torch.tensor([0.0, 1.0, 2.0]).view(1, 1, 1, 3)  # 2 is 1.22 deviations of these three above 1
    assert outlying(three).flatten().tolist() == [False, False, True]


def test_the_release_squares_what_overshoots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heat of -0.5 is 0.25 squared, where the map of the paper is clipped to 0."""
    warm = torch.zeros(1, 8, 8)
    warm[0, :2], warm[0, 2] = -0.5, 1.0
    monkeypatch.setattr("defenses.part.heat", lambda _model, _x, _cam, *, clip=True: warm.clamp(0, 1) if clip else warm)
    found = important(nn.Identity(), feed(1), Masks(mask="jet"))
    assert torch.equal(found, outlying(jet(warm.square()))[:, :1])
    assert not torch.equal(found, outlying(jet(warm.clamp(0, 1).square()))[:, :1])
    assert torch.equal(important(nn.Identity(), feed(1), Masks())[0, 0], warm[0] == 1)


def naive_mask(model: Twice, x: Tensor, mask: str) -> Tensor:
    """Where the whole budget stays, an image at a time: (N, C or 1, H, W)."""
    warm = naive_heat(model, x, "gradcam")
    if mask == "none":
        return torch.zeros(len(x), 1, 8, 8, dtype=torch.bool)
    if mask == "cam":
        squares = [w.clamp(0, 1) ** 2 for w in warm]
        return torch.stack([((s - s.mean()) / s.std(correction=0) > 1)[None] for s in squares])
    found = []
    for w in warm:
        colours = jet((w**2)[None])[0]  # 3 x H x W, held by a test of its own
        found.append((colours - colours.mean()) / colours.std(correction=0) > 1)
    return torch.stack(found)[:, :1]


@pytest.mark.parametrize("mask", ["cam", "jet", "none"])
@pytest.mark.parametrize("mask_op", ["clamp", "scale"])
def test_part_is_its_formula(mask: str, mask_op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cross-entropy at the end of an attack within each pixel's budget, which the snapshot's map decides."""
    here = job(tmp_path, Twice)
    caught, batch = catch(monkeypatch, part, here, {**NOW, "mask": mask, "mask_op": mask_op}), feed(epoch=1)
    caught.hooks["before_epoch"](caught.model, 1)
    model = copy.deepcopy(caught.model)
    keep = naive_mask(model, batch.x, mask)
    budget = torch.where(keep, EPS, 0.3 * EPS).double()
    if mask_op == "clamp":
        x_adv = attack(model, batch, start="uniform", budget=budget)
        assert ((x_adv - batch.x).abs() <= budget + 1e-7).all()
    else:
        x_adv = batch.x + (attack(model, batch, start="uniform") - batch.x) * budget / EPS
    alike(caught.gradients(batch), graded(ce(model(x_adv), batch.y).mean(), model))
    density = here.seen()["mask_density"]
    assert density == pytest.approx(float(keep.double().mean()))
    assert (density == 0) == (mask == "none")


def test_no_mask_is_adversarial_training_with_a_smaller_eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: every pixel has 7/255, by the default of PART, but for the start and the step."""
    caught, batch = catch(monkeypatch, part, job(tmp_path, Twice), {"mask": "none", "warm_up": 0}), feed()
    model = copy.deepcopy(caught.model)
    x_adv = attack(model, batch, start="uniform", budget=7 / 255)
    alike(caught.gradients(batch), graded(ce(model(x_adv), batch.y).mean(), model))


def test_the_random_mask_is_as_dense_as_the_map_and_elsewhere() -> None:
    """Image by image the same number of pixels; other ones in another epoch."""
    model, batch = Twice(), feed()
    own = important(model, batch, Masks())
    other = important(model, batch, Masks(mask="random"))
    later = important(model, replace(batch, draws=replace(batch.draws, restart=2)), Masks(mask="random"))
    assert own.any()
    assert torch.equal(own.sum((1, 2, 3)), other.sum((1, 2, 3)))
    assert torch.equal(own.sum((1, 2, 3)), later.sum((1, 2, 3)))
    assert len({str(m.tolist()) for m in (own, other, later)}) == 3


def test_the_releases_colours_differ_by_channel() -> None:
    """On three channels the masks of red, green and blue are three masks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    batch = feed()
    masks = important(model, replace(batch, x=torch.rand(8, 3, 8, 8)), Masks(mask="jet"))
    assert masks.shape == (8, 3, 8, 8)
    assert len({str(masks[:, c].tolist()) for c in range(3)}) == 3


def test_the_releases_masks_are_those_of_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """align=shuffled: of the image in the same place of another order, the same all through an interval of s."""
    here = job(tmp_path, Twice)
    caught = catch(monkeypatch, part, here, {**NOW, "align": "shuffled", "s": 3, "batch": 16})
    shown: list[list[int]] = []
    monkeypatch.setattr("defenses.part.important", lambda _m, f, _s: shown.append(f.draws.ids.tolist()) or f.x > 0.5)
    for epoch in range(1, 7):
        real = here.feed(Course()).batch(16, epoch, 1)
        caught.loss(caught.model, replace(real, x=real.x.double()))
        assert shown[-1] != real.draws.ids.tolist()
        assert len(shown[-1]) == 16
    # The release counts from 1 and refreshes when s divides the count: 1, 3, 6.
    assert shown[0] == shown[1] != shown[2] == shown[3] == shown[4] != shown[5]


@pytest.mark.parametrize(("align", "expected"), [("own", [3, 6, 9]), ("shuffled", [3, 5, 8, 11])])
def test_snapshots_are_taken_every_s_epochs(
    align: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a warm-up of 2, s = 3: in epochs 3, 6, 9; the release counts after the warm-up 1, 3, 6, 9."""
    caught = catch(monkeypatch, part, job(tmp_path), {"warm_up": 2, "s": 3, "align": align})
    taken = []
    for epoch in range(1, 12):
        with torch.no_grad():
            caught.model[0].weight.fill_(epoch)  # type: ignore[index, operator, union-attr]
        caught.hooks["before_epoch"](caught.model, epoch)
        if float(caught.hooks["also"]["snapshot"][0].weight[0, 0, 0, 0]) == epoch:
            taken.append(epoch)
    assert taken == expected


@pytest.mark.parametrize(("method", "order"), [(part_trades, ["x", "a", "x"]), (part_mart, ["x", "a"])])
def test_part_t_and_m_are_their_formulas(
    method: Defense, order: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """beta 6; a Gaussian start; the divergence or the cross-entropy is climbed within the budgets."""
    caught, batch = catch(monkeypatch, method, job(tmp_path, Twice), NOW), feed()
    caught.hooks["before_epoch"](caught.model, 1)
    model = copy.deepcopy(caught.model)
    budget = torch.where(naive_mask(model, batch.x, "cam"), EPS, 0.3 * EPS).double()
    inner = "kl" if method is part_trades else "ce"
    x_adv = attack(model, batch, start="gauss", inner=inner, budget=budget)
    z, z_adv = model(batch.x), model(x_adv)
    value = ce(z, batch.y).mean() + 6 * divergence(z, z_adv).mean()
    value = value if method is part_trades else naive_mart(z, z_adv, batch.y, 6.0)
    seen = passes(caught.model, batch)
    alike(caught.gradients(batch), graded(value, model))
    assert seen == order


def test_the_warm_up_is_adversarial_training_from_a_clipped_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the release's; nothing is masked."""
    here, batch = job(tmp_path), feed(epoch=20)
    found = catch(monkeypatch, part, here, {"steps": 1}).gradients(batch)  # one step: where it starts is seen
    alike(found, catch(monkeypatch, at, job(tmp_path), {"steps": 1}).gradients(batch))
    assert not here.watched


SAME = [(part, at, {"start": "uniform"}), (part_trades, trades, {"beta": 6.0}), (part_mart, mart, {"beta": 6.0})]


@pytest.mark.parametrize(("method", "base", "settings"), SAME)
def test_with_equal_budgets_a_method_is_its_base(
    method: Defense, base: Defense, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """low = 1: the same loss and gradients, bit for bit."""
    batch = feed()
    one = catch(monkeypatch, method, job(tmp_path), {"warm_up": 0, "low": 1.0}).gradients(batch)
    two = catch(monkeypatch, base, job(tmp_path), settings).gradients(batch)
    assert torch.equal(one[0], two[0])
    assert all(torch.equal(a, b) for a, b in zip(one[1], two[1], strict=True))


def test_part_with_equal_budgets_trains_to_the_weights_of_at(tmp_path: Path) -> None:
    """Two epochs, one of them masked: bit for bit."""
    one = part(job(tmp_path / "a", small), low=1.0, warm_up=1, start="clipped", **SHORT)
    two = at(job(tmp_path / "b", small), **{**SHORT, "decay": 2e-4})
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


def test_part_never_exceeds_any_pixels_budget() -> None:
    """Whatever comes in."""
    x, wild = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8) * 5 - 2
    size = torch.where(torch.rand(4, 1, 8, 8) > 0.5, 0.1, 0.05)
    inside = within(wild, x, size)
    assert ((inside - x).abs() <= size + 1e-7).all()
    assert inside.min() >= 0
    assert inside.max() <= 1


def test_the_first_weighted_epoch_does_not_depend_on_s(tmp_path: Path) -> None:
    """s = 1 and s = 10 refresh alike at its start, and differ from the second weighted epoch on."""
    here = itertools.count()
    weights = [
        part(
            job(tmp_path / str(next(here)), small), s=s, warm_up=1, low=0.2, **{**SHORT, "epochs": epochs}
        ).state_dict()
        for epochs in (2, 3)
        for s in (1, 10)
    ]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    assert not all(torch.equal(v, weights[3][k]) for k, v in weights[2].items())


def test_part_continues_with_the_snapshot_it_had(tmp_path: Path) -> None:
    """Stopped within an interval of s = 10 and continued: the same weights."""
    settings = {**SHORT, "s": 10, "warm_up": 1, "low": 0.2, "epochs": 4}
    whole = part(job(tmp_path / "whole", small), **settings).state_dict()
    with pytest.raises(KeyboardInterrupt):
        part(stopping(job(tmp_path / "parts", small), 3), **settings)
    found = part(job(tmp_path / "parts", small), **settings).state_dict()
    assert all(torch.equal(v, found[k]) for k, v in whole.items())


def test_part_is_for_linf_and_says_so(tmp_path: Path) -> None:
    """Other norms have no per-pixel budget; and masks mean something."""
    with pytest.raises(UsageError, match=r"Linf; the threat is l2:0\.5"):
        part(job(tmp_path, threat=ThreatModel.parse("l2:0.5")), **SHORT)
    with pytest.raises(UsageError, match="1 or more"):
        Masks(s=0)
    with pytest.raises(UsageError, match="from 0 to 1"):
        Masks(low=1.5)


def test_a_batch_of_one_has_its_own_mask() -> None:
    """The first of eight images, alone and together."""
    model, batch = Twice(), feed()
    alone: Batch = batch[:1]
    for mask in ("cam", "jet", "random", "none"):
        masks = Masks(mask=mask)  # type: ignore[arg-type]
        assert torch.equal(important(model, alone, masks)[0], important(model, batch, masks)[0])
    assert F.relu(heat(model, alone.x)).shape == (1, 8, 8)
