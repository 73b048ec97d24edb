"""Trainings that are killed, interrupted or short of room, and continued."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.course import Course
from bench.errors import IncompleteError, IntegrityError
from bench.feed import Batch
from bench.fitting import fit
from bench.threat import ThreatModel
from tests.bench.jobs import Interrupted, StoppedError, job, normed, plain, unwatched


def test_a_training_stopped_after_any_epoch_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Stopped at epoch 2 of 4 with dropout and momentum, continued by a new job: bit-identical."""
    whole = job(tmp_path / "whole")
    expected = fit(whole, whole.net(), plain, Course(epochs=4, lr=0.3, batch=16, decay=0.0, drops=())).state_dict()

    def stop(_model: nn.Module, epoch: int) -> None:
        if epoch == 3:
            raise StoppedError

    first = job(tmp_path / "parts")
    with pytest.raises(StoppedError):
        fit(first, first.net(), plain, Course(epochs=4, lr=0.3, batch=16, decay=0.0, drops=()), before_epoch=stop)
    second = job(tmp_path / "parts")
    found = fit(second, second.net(), plain, Course(epochs=4, lr=0.3, batch=16, decay=0.0, drops=())).state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert second.best is not None
    assert whole.best is not None
    assert all(torch.equal(whole.best[k], second.best[k]) for k in expected)
    assert [h["loss"] for h in whole.history] == [h["loss"] for h in second.history]
    assert whole.passes == second.passes


def test_a_signal_in_mid_epoch_saves_and_ends(tmp_path: Path) -> None:
    """SIGTERM or Ctrl-C in any step: the checkpoint is after that step, and continued it ends in the same weights."""
    course = Course(epochs=3, lr=0.3, batch=16, drops=(2,), snapshots=2)
    whole = normed(tmp_path / "whole")
    expected = fit(whole, whole.net(), plain, course).state_dict()
    for step in (1, 2, 3, 5, 9):
        for number in (signal.SIGTERM, signal.SIGINT):
            here = tmp_path / f"{step}-{number}"
            with pytest.raises(KeyboardInterrupt):
                fit(normed(here), normed(here).net(), Interrupted(step, number), course)
            saved = torch.load(here / "checkpoint.pt", weights_only=True)
            assert (saved["epoch"] - 1) * 3 + saved["place"] == step
            second = normed(here)
            found = fit(second, second.net(), plain, course).state_dict()
            assert all(torch.equal(expected[k], found[k]) for k in expected)
            assert [h["loss"] for h in second.history] == [h["loss"] for h in whole.history]


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not(tmp_path: Path) -> None:
    """Two in one step: Ctrl-C leaves in the middle of it; a worker that its terminal and its parent end still saves."""

    def loss(*numbers: int) -> Callable[[nn.Module, Batch], Tensor]:
        def told(model: nn.Module, feed: Batch) -> Tensor:
            for number in numbers:
                os.kill(os.getpid(), number)
            return plain(model, feed)

        return told

    for place, numbers in enumerate([(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)]):
        here = job(tmp_path / str(place))
        with pytest.raises(KeyboardInterrupt):
            fit(here, here.net(), loss(*numbers), Course(epochs=2, drops=()))
        assert (tmp_path / str(place) / "checkpoint.pt").exists()
    here = job(tmp_path / "twice")
    with pytest.raises(KeyboardInterrupt):
        fit(here, here.net(), loss(signal.SIGINT, signal.SIGINT), Course(epochs=2, drops=()))
    assert not (tmp_path / "twice" / "checkpoint.pt").exists()


def test_a_signal_in_the_last_validation_is_not_lost(tmp_path: Path) -> None:
    """The run ends, and what was trained is there."""
    here = unwatched(job(tmp_path))
    validate = here.validate

    def told(model: nn.Module) -> tuple[float, float]:
        if here.history:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(model)

    here.validate = told  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fit(here, here.net(), plain, Course(epochs=2, drops=()))
    again = unwatched(job(tmp_path))
    fit(again, again.net(), Interrupted(1), Course(epochs=2, drops=()))  # no step is left to be interrupted in
    assert len(again.history) == 2
    assert again.passes == here.passes


def test_signals_are_whose_they_were_before(tmp_path: Path) -> None:
    """After a training; and one that was ignored stays ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        here = job(tmp_path)
        fit(unwatched(here), here.net(), Interrupted(2, signal.SIGINT), Course(epochs=2, drops=()))
        assert len(here.history) == 2
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    """The process may write no file over so many bytes from epoch 3 on: the error says so, and epoch 2 is continued."""
    course = Course(epochs=4, lr=0.3, batch=16, drops=())
    whole = job(tmp_path / "whole")
    expected = fit(whole, whole.net(), plain, course).state_dict()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_model: nn.Module, epoch: int) -> None:
        if epoch == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    here = job(tmp_path / "full")
    try:
        with pytest.raises(IncompleteError, match=r"cannot write .*checkpoint\.pt: .*; what was written"):
            fit(here, here.net(), plain, course, before_epoch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.load(tmp_path / "full" / "checkpoint.pt", weights_only=True)["epoch"] == 3
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["checkpoint.pt"]
    again = job(tmp_path / "full")
    found = fit(again, again.net(), plain, course).state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """It is never silently ignored, and the message says what to delete."""
    here = job(tmp_path)
    course = Course(epochs=1, lr=0.1, drops=())
    fit(here, here.net(), plain, course)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    for content in (b"PK half a checkpoint", b"", whole[: len(whole) // 2]):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(IntegrityError, match=r"checkpoint\.pt is damaged.*; delete it to train from the start"):
            fit(here, here.net(), plain, course)


def test_a_checkpoint_of_another_training_or_layout_is_refused(tmp_path: Path) -> None:
    """By seed, threat, course, name or net; one of an older layout is said to be that."""
    course = Course(epochs=1, lr=0.1, drops=())
    here = job(tmp_path)
    fit(here, here.net(), plain, course)
    others = [job(tmp_path) for _ in range(4)]
    others[0].seed, others[1].threat, others[2].key = 6, ThreatModel.parse("linf:0.1"), "another"
    for other in others[:3]:
        with pytest.raises(IntegrityError, match=r"of another training,  seed 5 for linf:0\.05 on 40 images"):
            fit(other, other.net(), plain, course)
    with pytest.raises(IntegrityError, match="is of another training"):
        fit(here, here.net(), plain, replace(course, epochs=2))
    others[3].build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(IntegrityError, match="does not fit this training"):
        fit(others[3], others[3].net(), plain, course)
    path = tmp_path / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    for old in ({k: v for k, v in saved.items() if k != "layout"}, {**saved, "layout": 0}, [1]):
        torch.save(old, path)
        with pytest.raises(IntegrityError, match="was written by another version"):
            fit(here, here.net(), plain, course)
