"""The training loop and what it gives to a defense."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.course import Course
from bench.draws import Draws
from bench.errors import TrainingError
from bench.feed import Batch, augmented
from bench.fitting import fit
from bench.threat import ThreatModel
from bench.training import TrainJob
from tests.bench.jobs import Interrupted, job, normed, plain, unwatched


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


def test_normalisation_decays_only_where_the_course_says_so(tmp_path: Path) -> None:
    """With a gradient of zero a weight shrinks by lr times decay; decay_norms off spares normalisation layers alone."""
    for spared in (False, True):
        here = unwatched(normed(tmp_path / str(spared)))
        model = here.net()
        before = {k: v.detach().clone() for k, v in model.named_parameters()}
        for value in before.values():
            value.fill_(1.0)
        model.load_state_dict(before, strict=False)
        course = Course(epochs=1, lr=0.1, batch=40, drops=(), decay=0.5, decay_norms=not spared)
        fit(here, model, lambda m, feed: 0 * plain(m, feed), course)
        for name, value in model.named_parameters():
            expected = 1.0 if spared and name.startswith("2.") else 0.95
            torch.testing.assert_close(value, torch.full_like(value, expected), msg=name)


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ({"nesterov": True}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)),
        ({"momentum": 0.5}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, weight_decay=0.01)),
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.01)),
    ],
    ids=["nesterov", "momentum", "adam"],
)
def test_the_optimiser_is_torchs(
    tmp_path: Path, settings: dict[str, Any], other: Callable[[Any], torch.optim.Optimizer]
) -> None:
    """Three epochs by hand with torch's own: the same weights."""
    here = unwatched(job(tmp_path))
    here.build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    course = Course(epochs=3, lr=0.05, batch=16, drops=(), decay=0.01, **settings)
    found = fit(here, here.net(), plain, course)
    expected = here.net()
    optimizer = other(expected.parameters())
    for feed in (feed for epoch in (1, 2, 3) for feed in here.batches(16, epoch)):
        optimizer.zero_grad()
        plain(expected, feed).backward()
        optimizer.step()
    for one, two in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tr"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
@pytest.mark.parametrize(
    ("room", "said"),
    [
        (25, "batch of 40 images does not fit in memory; batch=20"),
        (4, "batch=2 does"),
        (0, "not even a batch of one"),
    ],
)
def test_out_of_memory_says_which_batch_fits(tmp_path: Path, error: Exception, room: int, said: str) -> None:
    """A loss that has room for so many images: the largest half of a half that it takes is named."""
    here = job(tmp_path)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        if len(feed) > room:
            raise error
        return plain(model, feed)

    with pytest.raises(TrainingError, match=said):
        fit(here, here.net(), loss, Course(epochs=1, batch=40, drops=()))


def test_what_a_failed_step_held_is_free_before_a_smaller_one_is_tried(tmp_path: Path) -> None:
    """No activation of the step that ran out of memory is alive in the next attempt."""
    here, held = job(tmp_path), []

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        assert all(ref() is None for ref in held)
        activation = feed.x.exp()
        held.append(weakref.ref(activation))
        if len(feed) > 5:
            raise torch.OutOfMemoryError
        return plain(model, feed)

    with pytest.raises(TrainingError, match="batch=5 does"):
        fit(here, here.net(), loss, Course(epochs=1, batch=40, drops=()))
    assert len(held) == 4


def test_another_error_is_not_taken_for_memory(tmp_path: Path) -> None:
    """It is raised as it is; and where a part of a batch cannot be tried, no number is claimed."""
    here = job(tmp_path)

    def breaks(model: nn.Module, feed: Batch) -> Tensor:
        raise RuntimeError("shapes" if len(feed) < 40 or here.history else "mat1 and mat2")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(here, here.net(), breaks, Course(epochs=1, batch=40, drops=()))

    def rigid(model: nn.Module, feed: Batch) -> Tensor:
        raise torch.OutOfMemoryError if len(feed) == 40 else RuntimeError("shapes")

    with pytest.raises(TrainingError, match="does not fit in memory; a smaller batch=… may"):
        fit(here, here.net(), rigid, Course(epochs=1, batch=40, drops=()))


def scored(here: TrainJob, robust: list[float], predicted: list[int] | None = None) -> None:
    """Let validation find these accuracies, and so many classes, epoch by epoch."""

    def validate(model: nn.Module) -> tuple[float, float]:
        epoch = len(here.history)
        here.predicted = predicted[epoch] if predicted else 2
        return robust[epoch], 0.9

    here.validate = validate  # type: ignore[method-assign]


def test_a_collapse_is_noted(tmp_path: Path) -> None:
    """A fall by more than 20 points in one epoch; one of exactly 20, and a slow one, are none."""
    here, said = job(tmp_path), []
    here.report = said.append
    scored(here, [0.3, 0.5, 0.3, 0.5, 0.25, 0.1])
    fit(here, here.net(), plain, Course(epochs=6, drops=()))
    assert [h["epoch"] for h in here.history if "note" in h] == [5]
    assert here.history[4]["note"] == "collapse: PGD-10 accuracy fell from 50.0% to 25.0% in one epoch"
    assert any("epoch 5: collapse" in line for line in said)


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"swa": 2}], ids=str)
@pytest.mark.parametrize("interrupted", [None, 4, 8])
def test_a_collapse_stops_and_keeps_the_weights_before(
    tmp_path: Path, settings: dict[str, Any], interrupted: int | None
) -> None:
    """collapse='stop': the last weights are those that were judged in the epoch before, also after an interruption."""
    robust = [0.2, 0.5, 0.6, 0.1, 0.9]
    course = Course(epochs=5, lr=0.3, batch=16, drops=(), collapse="stop", snapshots=1, **settings)
    calm = job(tmp_path / "calm")
    scored(calm, robust)
    fit(calm, calm.net(), plain, replace(course, collapse="note"))
    before = torch.load(tmp_path / "calm" / "snapshots" / "3.pt", weights_only=True)
    after = torch.load(tmp_path / "calm" / "snapshots" / "4.pt", weights_only=True)
    if interrupted:
        first = job(tmp_path / "here")
        scored(first, robust)
        with pytest.raises(KeyboardInterrupt):
            fit(first, first.net(), Interrupted(interrupted), course)
    for _ in range(2):  # the second continues after the stop
        here = job(tmp_path / "here")
        scored(here, robust)
        found = fit(here, here.net(), plain, course).state_dict()
        assert all(torch.equal(before[k], found[k]) for k in before)
        assert [h["epoch"] for h in here.history] == [1, 2, 3, 4]
        assert here.history[-1]["note"].endswith("; stopped, and the weights before were kept")
    kept = torch.load(tmp_path / "here" / "snapshots" / "4.pt", weights_only=True)
    assert all(torch.equal(after[k], kept[k]) for k in after)


def test_a_model_that_gives_one_class_is_never_the_best(tmp_path: Path) -> None:
    """It may look robust: epochs 1 and 3 do; the best is the better of the others."""
    here = job(tmp_path)
    scored(here, [0.9, 0.3, 0.8, 0.2], [1, 2, 1, 2])
    fit(here, here.net(), plain, Course(epochs=4, drops=(), fall=1.0))
    assert here.best_score == (0.3, 0.9)


def test_a_blind_model_is_an_error_also_when_continued(tmp_path: Path) -> None:
    """One class for every validation image after the last epoch."""
    for _ in range(2):
        here = job(tmp_path)
        scored(here, [0.5, 0.5], [2, 1])
        with pytest.raises(TrainingError, match="collapsed: the model gives every validation image the same class"):
            fit(here, here.net(), plain, Course(epochs=2, drops=()))


def test_a_loss_that_is_no_number_is_named_with_its_epoch(tmp_path: Path) -> None:
    """Infinite in the second epoch; the checkpoint is that of the first."""
    here = job(tmp_path)

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        return plain(model, feed) * (math.inf if feed.epoch == 2 else 1)

    with pytest.raises(TrainingError, match="the loss is inf in epoch 2; nothing was published"):
        fit(here, here.net(), loss, Course(epochs=3, batch=40, drops=()))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 2


def test_snapshots_change_nothing_else(tmp_path: Path) -> None:
    """Weights of epochs 2 and 4 are kept; the last ones are those of a training without snapshots."""
    ends = []
    for every in (0, 2):
        here = normed(tmp_path / str(every))
        course = Course(epochs=5, lr=0.3, batch=16, drops=(), snapshots=every)
        ends.append(fit(here, here.net(), plain, course).state_dict())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
    assert sorted(p.name for p in (tmp_path / "2" / "snapshots").iterdir()) == ["2.pt", "4.pt"]
    assert not (tmp_path / "0" / "snapshots").exists()


def test_a_long_epoch_says_how_far_it_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock of a test, 10 s a batch: of 2 epochs of 3 batches, 50 s are left after the first batch."""
    here, said, now = unwatched(job(tmp_path)), [], [0.0]
    here.report = said.append
    monkeypatch.setattr("bench.fitting.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def loss(model: nn.Module, feed: Batch) -> Tensor:
        now[0] += 10
        return plain(model, feed)

    fit(here, here.net(), loss, Course(epochs=2, batch=16, drops=()))
    told = [line for line in said if "batch" in line]
    assert told == [f"epoch {e}/2, batch {b}/3: {60 - 30 * (e - 1) - 10 * b} s left" for e in (1, 2) for b in (1, 2)]


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
