"""Bundles: what comes back is what the judge found fallen, in a fraction of the room."""

import lzma

import numpy as np
import pytest
import torch
from torch import nn

from bench.bundles import distances, make, read
from bench.errors import IntegrityError
from bench.evaluate import Subject, Verdict, misread
from bench.exam import Part
from bench.store import Store
from bench.threat import ThreatModel

PART = Part(np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), np.uint8), np.zeros(40, np.int64))
IDS = torch.tensor([7, 3, 30])


class Bright(nn.Module):
    """Class 1 where the mean value is above a limit, else class 0; all labels are 0."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x):
        mean = x.double().flatten(1).mean(1)
        return torch.stack([torch.full_like(mean, self.limit), mean], 1)


def look(asked):
    """Clean images and labels."""
    return torch.from_numpy(PART.x[asked.numpy()]).float() / 255, torch.from_numpy(PART.y[asked.numpy()])


def verdict(images, threat, ids=IDS):
    """A verdict in which every image fell."""
    size = distances(images, look(ids)[0], threat).float()
    nothing = torch.zeros(len(ids))
    fell = torch.ones(len(ids), dtype=torch.bool)
    return Verdict(ids, fell, nothing.long(), nothing, size, nothing.long(), nothing.long(), images)


def kept(tmp_path, images, threat, limit=0.0, ids=IDS):
    """The bundle of these images, made and read again."""
    store = Store(tmp_path)
    tensors = make(verdict(images, threat, ids), Subject(Bright(limit), 2), threat, PART, look)
    return read(store, store.put(tensors), PART), tensors


@pytest.mark.parametrize("threat", ["linf:0.3", "linf:8/255", "l2:0.5", "l1:2", "l0:4"])
def test_rounding_stays_in_ball_and_box(tmp_path, threat):
    """Images at the edge of every ball become whole levels, in the box, and no farther from the original."""
    threat = ThreatModel.parse(threat)
    x, y = look(IDS)
    edge = threat.project(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), x)
    bundle, _ = kept(tmp_path, edge, threat)
    assert bundle.rounded.all() and torch.equal(bundle.ids, IDS)
    levels = bundle.images.double() * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4) and 0 <= bundle.images.min() <= bundle.images.max() <= 1
    size = distances(bundle.images, x, threat)
    assert threat.holds(size).all() and (size <= distances(edge, x, threat) + 1e-5).all()
    assert misread(Subject(Bright(0.0), 2), bundle.images, y)[1].all()


def test_images_that_rounding_saves_are_kept_bit_for_bit(tmp_path):
    """An image that is misread by less than a level stays float32; its neighbours are rounded."""
    x, _ = look(IDS)
    near = x.clone()
    near[1] += 0.6 - x[1].mean()  # off the grid, and its mean is 0.6 but for rounding
    near[0], near[2] = 200 / 255, 200 / 255
    limit = float(near[1].double().mean()) - 1e-7
    bundle, _ = kept(tmp_path, near, ThreatModel.parse("linf:1"), limit)
    assert bundle.rounded.tolist() == [True, False, True]
    assert torch.equal(bundle.images[1], near[1])


def test_a_minimum_norm_attack_keeps_its_distance(tmp_path):
    """Where the ball has no bound, no kept image is farther than the record says."""
    threat = ThreatModel.of_cell("linf")
    x, _ = look(IDS)
    found = (x + 0.1).clamp(0, 1)
    bundle, _ = kept(tmp_path, found, threat)
    assert (distances(bundle.images, x, threat).float() <= distances(found, x, threat).float()).all()


def test_bundles_are_small(tmp_path):
    """Levels take less than a quarter of float32, and the same images are the same file."""
    ids = torch.arange(40)
    x, _ = look(ids)
    threat = ThreatModel.parse("linf:8/255")
    found = threat.project(x + threat.uphill(x - 0.5), x)
    bundle, tensors = kept(tmp_path, found, threat, ids=ids)
    assert torch.equal(bundle.images, (found * 255).round() / 255)
    assert len(tensors["levels"]) < 40 * 16
    store = Store(tmp_path / "other")
    assert store.put(tensors) == store.put(kept(tmp_path, found, threat, ids=ids)[1])


def test_plain_bundles_are_read(tmp_path):
    """Float32 images and their places, as bundles were at first."""
    store = Store(tmp_path)
    images = torch.rand(3, 1, 4, 4)
    bundle = read(store, store.put({"ids": IDS, "images": images}), PART)
    assert torch.equal(bundle.images, images) and not bundle.rounded.any()


def test_odd_bundles_are_named(tmp_path):
    """Whatever a file of the right hash may hold: exit code 5 and the bundle's name, never more memory than images."""
    store, x = Store(tmp_path), look(IDS)[0]
    whole = make(verdict(x, None), Subject(Bright(-1.0), 2), None, PART, look)
    assert read(store, store.put(whole), PART).rounded.all()

    def packed(count):
        return torch.frombuffer(bytearray(lzma.compress(bytes(count))), dtype=torch.uint8)

    odd = [
        {"ids": IDS}, {"images": x}, {**whole, "more": IDS}, {**whole, "ids": IDS + 40}, {**whole, "ids": -IDS},
        {**whole, "ids": IDS.float()}, {**whole, "rounded": IDS}, {**whole, "rounded": torch.ones(2, dtype=torch.bool)},
        {**whole, "levels": packed(47)}, {**whole, "levels": packed(49)}, {**whole, "levels": packed(200_000_000)},
        {**whole, "levels": packed(48)[:-4]}, {**whole, "levels": torch.zeros(3, dtype=torch.uint8)},
        {**whole, "levels": x}, {**whole, "rounded": torch.zeros(3, dtype=torch.bool)},
        {"ids": IDS, "images": x[:2]}, {"ids": IDS, "images": x.double()}, {"ids": IDS[None], "images": x},
    ]  # fmt: skip
    for tensors in odd:
        name = store.put(tensors)
        with pytest.raises(IntegrityError, match=name):
            read(store, name, PART)
