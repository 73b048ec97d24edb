"""The training loop and what it gives to a defense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.course import Course
from bench.draws import Draws
from bench.errors import IntegrityError
from bench.exam import Part, Shape
from bench.feed import Batch, augmented
from bench.fitting import fit
from bench.threat import ThreatModel
from bench.training import TrainJob


def job(tmp_path: Path, images: int = 40) -> TrainJob:
    rng = np.random.default_rng(0)
    y = np.arange(images) % 2
    x = (y[:, None, None, None] * 120 + rng.integers(0, 100, (images, 1, 4, 4))).astype(np.uint8)
    part = Part(x, y.astype(np.int64))
    return TrainJob(
        train=part, val=part, shape=Shape(2, 1, 4),
        build=lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 2)),
        threat=ThreatModel.parse("linf:0.05"), seed=5, device=torch.device("cpu"), scratch=tmp_path,
        report=lambda _line: None,
    )  # fmt: skip


def plain(model: nn.Module, feed: Batch) -> Tensor:
    return F.cross_entropy(model(feed.x), feed.y)


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    """Batches of 16 of 40 images: 16, 16, 8; shuffled by seed and epoch; the same when asked again."""
    here = job(tmp_path)
    orders = [[i for b in here.batches(16, epoch) for i in b.draws.ids.tolist()] for epoch in (1, 2, 1)]
    assert [len(b.y) for b in here.batches(16, 1)] == [16, 16, 8]
    assert sorted(orders[0]) == list(range(40))
    assert orders[0] == orders[2] != orders[1]
    assert [b.progress for b in here.batches(20, 3)] == [2.0, 2.5]


def test_batches_are_the_images_themselves(tmp_path: Path) -> None:
    """Without augmentation x is pixels / 255 of the images that the draws name."""
    here = job(tmp_path)
    for feed in here.batches(16, 1):
        ids = feed.draws.ids.numpy()
        assert torch.equal(feed.x, torch.from_numpy(here.train.x[ids]).float() / 255)
        assert torch.equal(feed.y, torch.from_numpy(here.train.y[ids]))


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    """Each augmented image equals one of the 81 windows of the image padded by 4, mirrored or not; both occur."""
    x = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).view(2, 3, 6, 6)
    seen = set()
    for step in range(60):
        for i, image in enumerate(augmented(x, Draws(0, torch.arange(2), step=step), "crop-flip")):
            padded = F.pad(x[i], (4, 4, 4, 4))
            windows = {
                (r, c, m): torch.equal(image, w.flip(2) if m else w)
                for r in range(9) for c in range(9) for m in (False, True)
                if (w := padded[:, r : r + 6, c : c + 6]) is not None
            }  # fmt: skip
            found = [k for k, equal in windows.items() if equal]
            assert found
            seen.add(found[0])
    assert len({m for *_, m in seen}) == 2
    assert len(seen) > 50


def test_reflection_pads_with_the_image(tmp_path: Path) -> None:
    """A flat image stays flat under reflect padding, and darkens at the border under zero padding."""
    x = torch.full((8, 1, 6, 6), 200, dtype=torch.uint8)
    draws = Draws(0, torch.arange(8))
    assert (augmented(x, draws, "reflect-flip") == 200).all()
    assert (augmented(x, draws, "crop") == 0).any()


def test_one_step_is_sgd_with_momentum_and_decay(tmp_path: Path) -> None:
    """After one full-batch epoch the weights are w - lr (g + decay w), computed by hand."""
    here = job(tmp_path)
    here.build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    start = here.net()
    (feed,) = here.batches(40, 1)
    loss = F.cross_entropy(start(feed.x), feed.y)
    grads = torch.autograd.grad(loss, list(start.parameters()))
    end = fit(here, here.net(), plain, Course(epochs=1, lr=0.02, decay=0.01, batch=40, drops=()))
    for w0, g, w1 in zip(start.parameters(), grads, end.parameters(), strict=True):
        torch.testing.assert_close(w1, w0 - 0.02 * (g + 0.01 * w0))


def test_the_rate_falls_to_a_tenth_at_each_drop(tmp_path: Path) -> None:
    """Drops at epochs 3 and 5, counted from 1."""
    here = job(tmp_path)
    fit(here, here.net(), plain, Course(epochs=5, lr=1.0, drops=(3, 5), decay=0.0))
    assert [h["lr"] for h in here.history] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_a_training_stopped_after_any_epoch_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Stopped at epoch 2 of 4 with dropout and momentum, continued by a new job: bit-identical."""
    whole = job(tmp_path / "whole")
    expected = fit(whole, whole.net(), plain, Course(epochs=4, lr=0.3, batch=16, decay=0.0, drops=())).state_dict()

    class KilledError(Exception):
        pass

    def stop(_model: nn.Module, epoch: int) -> None:
        if epoch == 3:
            raise KilledError

    first = job(tmp_path / "parts")
    with pytest.raises(KilledError):
        fit(first, first.net(), plain, Course(epochs=4, lr=0.3, batch=16, decay=0.0, drops=()), before_epoch=stop)
    second = job(tmp_path / "parts")
    found = fit(second, second.net(), plain, Course(epochs=4, lr=0.3, batch=16, decay=0.0, drops=())).state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert second.best is not None
    assert whole.best is not None
    assert all(torch.equal(whole.best[k], second.best[k]) for k in expected)
    assert [h["loss"] for h in whole.history] == [h["loss"] for h in second.history]
    assert whole.passes == second.passes


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """It is never silently ignored, and the message says what to delete."""
    (tmp_path / "checkpoint.pt").write_bytes(b"PK half a checkpoint")
    here = job(tmp_path)
    with pytest.raises(IntegrityError, match=r"checkpoint\.pt is damaged"):
        fit(here, here.net(), plain, Course(epochs=1, lr=0.1, decay=0.0, drops=()))


def test_best_is_the_first_epoch_with_the_highest_score(tmp_path: Path) -> None:
    """Ties keep the earlier weights."""
    here = job(tmp_path)
    for value, score in ((1.0, (0.5, 0.9)), (2.0, (0.6, 0.1)), (3.0, (0.6, 0.1)), (4.0, (0.2, 1.0))):
        module = nn.Linear(1, 1)
        nn.init.constant_(module.weight, value)
        here.keep_if_best(module, score)
    assert here.best is not None
    assert here.best["weight"].item() == 2.0


def test_validation_is_pgd_on_the_validation_images(tmp_path: Path) -> None:
    """A threshold on the mean brightness loses exactly the images within eps of it."""

    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1)
            return 30 * torch.stack([0.5 - mean, mean - 0.5], 1)

    here = job(tmp_path)
    mean = here.val.x.reshape(40, -1).mean(1) / 255
    here.threat = ThreatModel.parse("linf:1/6")
    robust = float((((mean > 0.5) == here.val.y) & (abs(mean - 0.5) > 1 / 6)).mean())
    assert here.validate(Bright()) == (robust, float(((mean > 0.5) == here.val.y).mean()))
    assert 0 < robust < 1


def test_passes_are_counted(tmp_path: Path) -> None:
    """One epoch: 40 images forward and backward in training, and 11 + 1 forwards, 10 backwards in validation."""
    here = job(tmp_path)
    fit(here, here.net(), plain, Course(epochs=1, lr=0.1, decay=0.0, drops=()))
    assert here.passes == [40 + 12 * 40, 40 + 10 * 40]
