"""bench figure masks: maps against closed forms, masks against those that PART trains with, budgets kept."""

from __future__ import annotations

from collections import OrderedDict
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn

from bench import Draws, Picture, ThreatModel, UsageError
from bench.cam import heat
from bench.executors import Inline
from bench.pictures_masks import CAMS, HEADS, Masked, attack, mask_of, masks
from bench.place import Place
from bench.portraits import scene
from bench.records import picture_key
from bench.request import Request, resolve
from bench.run import run
from defenses.part import Masks, important
from leaderboard.picture_masks import drawings, heated, shaded, shown
from tests.defenses.scene import feed

SVG = "{http://www.w3.org/2000/svg}"
COURSE = "epochs=2, snapshots=1, steps=1, drops=(), ramp=4.0"
RECIPES = (f"at({COURSE})", f"part({COURSE}, warm_up=0)", "standard(epochs=1, drops=())")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place with three nets that were trained for a moment, two of them with snapshots."""
    root = tmp_path_factory.mktemp("masks")
    place = Place(root / "ledger", root / "store", root / "datasets")
    asked = Request(RECIPES, dataset="digits", columns=("clean",), n=20)
    assert not run(resolve(asked, place), place, Inline(), report=lambda _line: None).failures
    linear = Request((RECIPES[2],), "softmax-regression", "digits", columns=("clean",), n=20)
    run(resolve(linear, place), place, Inline(), report=lambda _line: None)
    return place


def seen(place, *recipes, images=(0, 3), net=""):
    """A scene of these recipes."""
    return scene(place, {
        "models": (), "defenses": recipes or RECIPES, "net": net, "dataset": "digits",
        "trained_for": (), "seeds": (0,), "weights": (), "images": images,
    })  # fmt: skip


class One(nn.Sequential):
    """A 1x1 convolution to x and -x, and the mean of each as a logit: the first is read wherever x is not dark."""

    def __init__(self) -> None:
        convolution = nn.Conv2d(1, 2, 1, bias=False)
        convolution.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        super().__init__(OrderedDict(conv=convolution, mean=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))


@pytest.mark.parametrize("cam", CAMS)
def test_the_map_of_one_convolution_is_the_image_itself(cam):
    """Every one of the three weighs the map x alone, by 1 / (H W): stretched from 0 to 1 that is x stretched."""
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = (x - x.min()) / (x.max() - x.min())
    assert torch.allclose(heat(One().eval(), x, cam), expected[:, 0], atol=1e-5)


def test_masks_are_those_that_part_trains_with():
    """Bit by bit, for every map."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)).eval()
    batch = feed(6)
    batch = type(batch)(batch.x.float(), batch.y, batch.draws, 1, 0.0)
    for cam in CAMS:
        expected = important(model, batch, Masks(cam=cam))[:, 0]
        assert torch.equal(mask_of(heat(model, batch.x, cam)), expected)
        assert 0 < expected.float().mean() < 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_keeps_each_pixels_budget(norm):
    """Under Linf no pixel moves by more than its own budget, with low=0 none outside the mask; images stay images."""
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    threat, draws = ThreatModel.parse(f"{norm}:0.2"), Draws(0, torch.arange(2), "masks")
    for low in (0.0, 0.5, 1.0):
        moved = attack(One().eval(), x, torch.zeros(2).long(), threat, mask, draws, Masked(low, 5, 0.25))
        assert moved.min() >= 0 and moved.max() <= 1
        delta = (moved - x).abs()
        if norm == "linf":
            assert delta[mask].max() <= 0.2 + 1e-6 and delta[~mask].max() <= 0.2 * low + 1e-6
            assert delta[mask].max() > 0.19  # and is used
        else:
            assert (threat.size(moved - x) <= 0.2 + 1e-5).all() and delta[~mask].max() > 0


def test_the_picture_keeps_what_the_models_give(place):
    """Maps, masks, readings and snapshots are those of the models, computed anew; the table says the same."""
    view = seen(place)
    picture = masks(view, 0.875, 3, 0.25)
    arrays = place.ledger.arrays(picture)
    x, _ = view.look(view.images)
    for m, model in enumerate(view.models):
        module = model.subject.module
        for k, cam in enumerate(CAMS):
            for i in range(len(x)):
                expected = heat(module, x[i : i + 1], cam)[0]
                assert np.array_equal(arrays["heat"][m, k, i], expected.numpy())
        with torch.no_grad():
            assert arrays["predicted"][m].tolist() == [int(module(one[None]).argmax()) for one in x]
            moved = x + torch.from_numpy(arrays["perturbations"][m])
            assert arrays["attacked"][m].tolist() == [int(module(one[None]).argmax()) for one in moved]
        size = np.where(arrays["masks"][m, 0], 0.2, 0.875 * 0.2)[:, None]
        assert (np.abs(arrays["perturbations"][m]) <= size + 1e-6).all()
    assert list(zip(arrays["snapshot_model"].tolist(), arrays["snapshot_epoch"].tolist(), strict=True)) == [
        (0, 1), (0, 2), (1, 1), (1, 2)
    ]  # fmt: skip
    first = view.models[0]
    early = heat(first.with_weights(first.snapshots[1]).module, x[:1], "gradcam")[0]
    assert np.array_equal(arrays["snapshot_heat"][0][0, 0], early.numpy())
    rows = [dict(zip(HEADS, row, strict=True)) for row in picture.rows]
    assert len(rows) == (3 + 4) * 2 * 3
    for row in rows:
        if row["epoch"] is None:
            m = [v.about.short for v in view.models].index(row["model"])
            mask = arrays["masks"][m, CAMS.index(row["map"]), view.images.index(row["image"])]
            assert row["mask"] == pytest.approx(mask.mean(), abs=1e-6)
    assert all(row["agreement"] in (1.0, None) for row in rows if row["model"] == rows[0]["model"] and not row["epoch"])


def test_the_drawings_show_each_map_and_each_epoch(place):
    """Eight pictures a row and one more for each overlay; of epochs a picture a snapshot; both twice the same bytes."""
    picture = masks(seen(place), 0.875, 3, 0.25)
    arrays = place.ledger.arrays(picture)
    digits = tuple("0123456789")
    maps, epochs = drawings(picture, arrays, digits)
    shown_ = [e.findtext(f"{SVG}title") for e in ET.fromstring(maps.svg).iter(f"{SVG}image")]
    assert len(shown_) == 3 * 2 * (1 + 2 * 3 + 2 * 3 + 1)
    assert sum(bool(t and "mask of" in t) for t in shown_) == 3 * 2 * 3
    assert len(list(ET.fromstring(epochs.svg).iter(f"{SVG}image"))) == 2 * 2 * (2 + 2 + 3)
    assert "epochs 1 and 2" in epochs.said
    assert [d.svg for d in drawings(picture, arrays, digits)] == [maps.svg, epochs.svg]


def test_without_snapshots_there_is_no_drawing_of_epochs(place):
    """The standard training kept none."""
    picture = masks(seen(place, RECIPES[2]), 0.875, 1, 0.25)
    assert len(drawings(picture, place.ledger.arrays(picture), tuple("0123456789"))) == 1


def test_a_net_without_a_convolution_is_refused_by_name(place):
    """The error names the net and what it lacks, and nothing is kept."""
    before = sorted(place.ledger_root.rglob("*"))
    with pytest.raises(UsageError, match=r"softmax-regression.*no convolution"):
        masks(seen(place, RECIPES[2], net="softmax-regression"), 0.875, 3, 0.25)
    assert sorted(place.ledger_root.rglob("*")) == before


@pytest.mark.parametrize(("channels", "side", "classes"), [(1, 8, 2), (3, 32, 10), (3, 64, 200), (3, 224, 9)])
def test_gray_and_colour_small_and_large_many_classes(channels, side, classes):
    """Every picture fits its paper, and what is misread is marked."""
    rng = np.random.default_rng(0)
    model = {"label": "part", "threat": "linf:0.3", "seed": 0, "which": "best", "net": "n", "weights": "a" * 64}
    picture = Picture.model_validate({
        "key": picture_key("masks", 1, [("n", "a" * 64)], "b" * 64, [5], {}), "kind": "masks", "version": 1,
        "models": [model], "dataset": "some", "test": "b" * 64, "images": [5], "settings": {}, "heads": [], "rows": [],
        "arrays": "c" * 64, "versions": {}, "commit": "", "made": "",
        "machine": {"device": "cpu", "name": "", "threads": 1, "tile": 0},
    })  # fmt: skip
    arrays = {
        "images": rng.integers(0, 256, (1, channels, side, side), np.uint8), "labels": np.array([classes - 1]),
        "heat": rng.random((1, 3, 1, side, side)), "masks": rng.integers(0, 2, (1, 3, 1, side, side)),
        "predicted": np.array([[0]]), "attacked": np.array([[classes - 1]]), "eps": np.array([0.3]),
        "perturbations": rng.normal(0, 0.1, (1, 1, channels, side, side)), "snapshot_model": np.array([0]),
        "snapshot_epoch": np.array([3]), "snapshot_heat": rng.random((1, 3, 1, side, side)),
        "snapshot_predicted": np.array([[0]]),
    }  # fmt: skip
    made = drawings(picture, arrays, tuple(f"a class of number {k}" for k in range(classes)))
    assert [d.name for d in made] == ["", "epochs"]
    for drawing in made:
        root = ET.fromstring(drawing.svg)
        for e in root.iter(f"{SVG}image"):
            assert float(e.get("x")) + float(e.get("width")) <= drawing.size[0] + 0.5
            assert float(e.get("y")) + float(e.get("height")) <= drawing.size[1] + 0.5
        assert any("wrong" in (e.get("class") or "") for e in root.iter(f"{SVG}text"))
        assert root.findtext(f"{SVG}title") and root.findtext(f"{SVG}desc")


def test_pixels_of_maps_masks_and_perturbations():
    """Heat is as opaque as it is warm; outside a mask it is dim; gray and colour perturbations span their scale."""
    assert heated(np.array([[0.0, 0.5, 1.0, np.nan]]))[0, :, 3].tolist() == [0, 108, 215, 0]
    assert shaded(np.array([[True, False]]))[0, :, 3].tolist() == [150, 190]
    gray = shown(np.array([[[0.1, -0.1, 0.0]]]), 0.1)
    assert gray.shape == (1, 3, 4) and gray[0, :, 3].tolist() == [255, 255, 0]
    assert shown(np.zeros((3, 2, 2)), 0.1).tolist() == np.full((2, 2, 3), 128).tolist()
