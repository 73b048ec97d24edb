"""Extra images in the batches of a training."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.course import Course
from bench.exam import Part, Shape
from bench.extra import extra_images
from bench.feed import Feed
from bench.fitting import fit
from bench.place import Place
from bench.request import Request, resolve
from tests.bench.jobs import job, plain

SHAPE = Shape(2, 1, 4)
CPU = torch.device("cpu")


def generated(path: Path, count: int = 9, **changed: object) -> Path:
    """A file of generated images as Wang et al. publish theirs: white ones, all of class 1."""
    content = {"image": np.full((count, 4, 4, 1), 255, np.uint8), "label": np.ones(count, np.int64), **changed}
    np.savez(path, **content)
    return path


def own(count: int) -> Part:
    """Images that show their place, all of class 0."""
    x = np.arange(count, dtype=np.uint8).repeat(16).reshape(count, 1, 4, 4)
    return Part(x, np.zeros(count, np.int64))


@pytest.mark.parametrize("size", [10, 20, 64, 512])
@pytest.mark.parametrize("extra", [1, 9, 1000])
def test_seven_tenths_of_each_batch_are_generated(tmp_path: Path, size: int, extra: int) -> None:
    """int(0.7 B) of them, exactly, and ceil(N / B) batches an epoch, whatever the size of the extra file."""
    count = 200
    feed = Feed(own(count), 0, CPU, extra_images(generated(tmp_path / "e.npz", extra), SHAPE), 0.7)
    assert feed.steps(size) == math.ceil(count / size)
    places = []
    for place in range(feed.steps(size)):
        batch = feed.batch(size, 1, place)
        assert int((batch.y == 1).sum()) == int(0.7 * size)
        assert torch.equal(batch.y == 1, (batch.x == 1).all((1, 2, 3)))
        places += batch.draws.ids[batch.y == 0].tolist()
    assert max(Counter(places).values()) == 1
    assert len(places) == min(count, feed.steps(size) * (size - int(0.7 * size)))


def test_of_50000_images_an_epoch_is_98_batches_of_154_and_358(tmp_path: Path) -> None:
    """The counts of Wang et al. at a batch of 512."""
    train = Part(np.zeros((50_000, 1, 4, 4), np.uint8), np.zeros(50_000, np.int64))
    feed = Feed(train, 0, CPU, extra_images(generated(tmp_path / "e.npz"), SHAPE), 0.7)
    assert feed.steps(512) == 98
    for place in (0, 50, 97):
        assert feed.batch(512, 3, place).y.bincount().tolist() == [154, 358]


def test_extra_images_are_drawn_evenly_and_the_same_when_asked_again(tmp_path: Path) -> None:
    """Over 40 epochs each of 9 is drawn within five deviations of its share; batches repeat by epoch and place."""
    extra = extra_images(generated(tmp_path / "e.npz"), SHAPE)
    feed, again = (Feed(own(50), 3, CPU, extra, 0.5) for _ in range(2))
    ids = torch.cat([feed.batch(10, e, p).draws.ids for e in range(1, 41) for p in range(5)])
    drawn = (ids[ids >= 50] - 50).bincount(minlength=9)
    assert drawn.sum() == 40 * 5 * 5
    assert ((drawn - 1000 / 9).abs() < 5 * math.sqrt(1000 / 9)).all()
    for epoch, place in ((2, 3), (40, 0), (2, 3)):
        one, other = feed.batch(10, epoch, place), again.batch(10, epoch, place)
        assert torch.equal(one.draws.ids, other.draws.ids)
    assert not torch.equal(feed.batch(10, 1, 0).draws.ids, Feed(own(50), 4, CPU, extra, 0.5).batch(10, 1, 0).draws.ids)


def test_the_loss_of_an_epoch_is_the_mean_over_the_images_that_were_seen(tmp_path: Path) -> None:
    """40 images in batches of 16 with a tenth extra: 15, 15 and 10 of ours and one more each."""
    here = job(tmp_path)
    course = Course(epochs=1, lr=1e-9, batch=16, drops=(), extra=str(generated(tmp_path / "e.npz")), extra_share=0.1)
    sizes = []

    def loss(model: nn.Module, feed: object) -> torch.Tensor:
        sizes.append(len(feed))  # type: ignore[arg-type]
        return 0 * plain(model, feed) + sizes[-1]  # type: ignore[arg-type]

    fit(here, here.net(), loss, course)
    assert sizes == [16, 16, 11]
    assert here.history[0]["loss"] == pytest.approx(sum(s * s for s in sizes) / sum(sizes))


def test_the_content_of_the_file_is_in_the_key_and_its_path_is_not(place: Place, tmp_path: Path) -> None:
    """Moved, it is the same training; changed, another."""
    image = {"image": np.zeros((3, 8, 8, 1), np.uint8), "label": np.arange(3)}
    (tmp_path / "b").mkdir()
    one, moved = generated(tmp_path / "a.npz", **image), generated(tmp_path / "b" / "c.npz", **image)
    other = generated(tmp_path / "d.npz", **{**image, "label": np.arange(3) + 1})
    plugin = tmp_path / "mixed.py"
    plugin.write_text(
        "from bench import Course, defense, fit\n"
        "@defense()\ndef mixed(job, *, course=Course()):\n    'Mixed.'\n    return job.net()\n"
    )
    place = Place(place.ledger_root, place.store_root, place.data_root, (str(plugin),))

    def key(path: Path) -> str:
        (lesson,) = resolve(Request(defenses=(f"mixed(extra={str(path)!r})",), columns=("clean",)), place).lessons
        assert hashlib.sha256(path.read_bytes()).hexdigest() in lesson.training.defense
        assert str(tmp_path) not in lesson.training.defense
        return lesson.training.key

    assert key(one) == key(moved) != key(other)


@pytest.mark.parametrize("augment", ["none", "crop-flip", "reflect"])
def test_generated_images_are_augmented_and_trained_on(tmp_path: Path, augment: str) -> None:
    """In float32 and in bfloat16: the net learns from either, and its weights stay float32."""
    path = generated(tmp_path / "e.npz", image=np.full((9, 8, 8, 1), 255, np.uint8))
    for precision in ("float32", "bf16"):
        here = job(tmp_path / precision / augment)
        rng = np.random.default_rng(0)
        dark = rng.integers(0, 99, (40, 1, 8, 8)).astype(np.uint8)
        here.train = here.val = Part(dark, np.zeros(40, np.int64))
        here.shape = Shape(2, 1, 8)
        here.build = lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
        course = Course(
            epochs=12, lr=0.01, batch=10, momentum=0.5, drops=(), extra=str(path), augment=augment, precision=precision  # type: ignore[arg-type]
        )  # fmt: skip
        model = fit(here, here.net(), plain, course)
        assert here.history[-1]["loss"] < here.history[0]["loss"]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        logits = model(torch.ones(2, 1, 8, 8))
        assert logits.dtype == torch.float32
        assert logits.argmax(1).tolist() == [1, 1]


def test_images_in_a_mapped_file_are_fed_as_those_in_memory(tmp_path: Path) -> None:
    """The same batches, and nothing of the file is copied at the start."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (50, 3, 8, 8)).astype(np.uint8), np.arange(50) % 5
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    device = torch.device("cpu")
    one, two = (Feed(Part(images, y), 3, device, Part(images, y), 0.5) for images in (x, mapped))
    assert two._own._x is None
    assert one._own._x is not None
    for place in range(one.steps(16)):
        a, b = (feed.batch(16, 2, place, "crop-flip") for feed in (one, two))
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert torch.equal(a.draws.ids, b.draws.ids)
