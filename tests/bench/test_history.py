"""The history of a training while it runs: a file of JSON lines, and TensorBoard."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from bench.course import Course
from bench.errors import UsageError
from bench.fitting import fit
from bench.history import Log, summary_writer
from tests.bench.jobs import Interrupted, StoppedError, job, plain

COURSE = Course(epochs=4, lr=0.1, batch=16, drops=())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A module in the place of TensorBoard's, and the writers that it gave."""
    made: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder, self.scalars, self.texts, self.closed = folder, [], [], False
            made.append(self)

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            self.scalars.append((name, value, epoch))

        def add_text(self, name: str, value: str, epoch: int) -> None:
            self.texts.append((name, value, epoch))

        def close(self) -> None:
            self.closed = True

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made


def test_the_file_is_whole_after_every_epoch(tmp_path: Path) -> None:
    """At the start of epoch e it holds e - 1 lines, each one epoch, and at the end all of the history."""
    here = job(tmp_path)
    here.log = Log(tmp_path / "h.jsonl", "", "tiny")
    seen = []

    def look(_model: nn.Module, epoch: int) -> None:
        if epoch > 1:
            seen.append([entry["epoch"] for entry in lines(tmp_path / "h.jsonl")])

    fit(here, here.net(), plain, COURSE, before_epoch=look)
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert lines(tmp_path / "h.jsonl") == here.history
    assert {"epoch", "loss", "val_clean", "val_pgd10", "lr", "seconds"} <= here.history[0].keys()


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_crash_between_the_checkpoint_and_the_file_loses_no_line(tmp_path: Path, epoch: int) -> None:
    """Continued, the file holds every epoch once; also where the last one had just been trained."""

    def crash(history: list[dict[str, Any]]) -> None:
        if len(history) == epoch:
            raise StoppedError

    first = job(tmp_path)
    first.log = crash
    with pytest.raises(StoppedError):
        fit(first, first.net(), plain, COURSE)
    second = job(tmp_path)
    second.log = Log(tmp_path / "h.jsonl", "", "tiny")
    fit(second, second.net(), plain, COURSE)
    assert [entry["epoch"] for entry in lines(tmp_path / "h.jsonl")] == [1, 2, 3, 4]
    assert lines(tmp_path / "h.jsonl") == second.history


def test_an_interrupted_epoch_is_written_once(tmp_path: Path) -> None:
    """Ended in the middle of epoch 2, and continued."""
    for loss in (Interrupted(5), plain):
        here = job(tmp_path)
        here.log = Log(tmp_path / "h.jsonl", "", "tiny")
        try:
            fit(here, here.net(), loss, COURSE)
        except KeyboardInterrupt:
            assert [entry["epoch"] for entry in lines(tmp_path / "h.jsonl")] == [1]
    assert [entry["epoch"] for entry in lines(tmp_path / "h.jsonl")] == [1, 2, 3, 4]


def test_tensorboard_is_sent_numbers_lists_and_notes(tmp_path: Path, writers: list[Any]) -> None:
    """A scalar each, a list place by place, words as text; a folder a training, in the one that was named."""
    log = Log(tmp_path / f"{'ab' * 32}.jsonl", str(tmp_path / "tb"), "at(eps='8/255', extra='../../x') (seed 0)")
    log([{"epoch": 1, "loss": 9.0}, {"epoch": 2, "loss": 0.5, "weight_by_class": [1.0, 3.0], "note": "collapse"}])
    (writer,) = writers
    assert writer.scalars == [("loss", 0.5, 2), ("weight_by_class/0", 1.0, 2), ("weight_by_class/1", 3.0, 2)]
    assert writer.texts == [("note", "collapse", 2)]
    assert writer.closed
    assert Path(writer.folder).parent == tmp_path / "tb"
    assert "seed 0" in writer.folder
    assert Log(tmp_path / "k.jsonl", "tb", "x" * 999)([{"epoch": 1}]) is None
    assert len(Path(writers[-1].folder).name) < 200


def test_a_run_follows_its_training_in_tensorboard(
    bench: Callable[..., Any], tmp_path: Path, writers: list[Any]
) -> None:
    """From the command line: every epoch, in a folder of the training's name; and the lines in the store."""
    words = ("--defense", "standard(epochs=2, drops=())", "--columns", "clean", "-n", "20", "--tensorboard", "tb")
    assert bench("run", *words, "--executor", "inline").returncode == 0
    assert [epoch for w in writers for name, _, epoch in w.scalars if name == "loss"] == [1, 2]
    assert {Path(w.folder).parent for w in writers} == {tmp_path / "tb"}
    (path,) = tmp_path.glob("results/store/histories/*.jsonl")
    assert [entry["epoch"] for entry in lines(path)] == [1, 2]


def test_without_tensorboard_the_option_says_how_to_get_it(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work, as a usage error."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="pip install"):
        summary_writer()
    ended = bench("run", "--defense", "standard", "--tensorboard", "tb")
    assert ended.returncode == 2
    assert "--tensorboard needs the package tensorboard: pip install 'rampart-bench[tensorboard]'" in ended.stderr
