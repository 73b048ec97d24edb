"""Trainings as a user meets them: what is recorded, what is refused, and what survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.errors import IncompleteError
from bench.executors import Inline
from bench.place import Place
from bench.records import TrainingRecord
from bench.request import Request, resolve
from bench.run import Summary, run
from tests.conftest import TINY

PLUGIN = '''
"""Defenses that behave as a setting says."""

import math

import torch
from torch.nn import functional as F

from bench import Course, Preset, Suite, defense, fit

COURSE = Course(epochs=3, lr=0.1, batch=64, drops=(), decay=0.0)


def plain(model, feed):
    return F.cross_entropy(model(feed.x), feed.y)


@defense()
def odd(job, *, how: str = "plain", room: int = 1000, course: Course = COURSE):
    """Cross-entropy, or trouble."""

    def loss(model, feed):
        if len(feed) > room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")
        if how == "nan" and feed.epoch == 2:
            return plain(model, feed) * math.nan
        if how == "blind":
            return model(feed.x)[:, 1:].sum() - model(feed.x)[:, :1].sum()
        if how == "validation" and feed.epoch == 2:
            job.validate = lambda model: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
        return plain(model, feed)

    return fit(job, job.net(), loss, course)


@defense()
def sized(job, *, eps: str = "", course: Course = COURSE):
    """Cross-entropy, for a radius."""
    job.report(f"for {job.threat}")
    return fit(job, job.net(), plain, course)


@defense(adversarial=False)
def calm(job, *, course: Course = COURSE):
    """Cross-entropy, for no threat."""
    return fit(job, job.net(), plain, course)


PRESETS = (Preset("sized", "digits", {"eps": "0.1"}, "ours"),)
FIXED = Suite("fixed", ((("clean",), ("clean",)),), threat="linf:0.05")
'''


@pytest.fixture
def odd(place: Place, tmp_path: Path) -> Place:
    """A place with the defenses above."""
    plugin = tmp_path / "odd.py"
    plugin.write_text(PLUGIN)
    return Place(place.ledger_root, place.store_root, place.data_root, (str(TINY), str(plugin)))


def go(place: Place, *defenses: str, **asked: Any) -> Summary:
    request = Request(**{"defenses": defenses, "net": "tiny", "columns": ("clean",), "n": 20, **asked})
    return run(resolve(request, place), place, Inline(), report=lambda _line: None)


def trainings(place: Place) -> list[TrainingRecord]:
    return [d for d in place.ledger.all() if isinstance(d, TrainingRecord)]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("odd(how='nan')", "the loss is nan in epoch 2; nothing was published; a lower lr may help"),
        ("odd(how='blind')", "the training collapsed: the model gives every validation image the same class"),
        ("odd(room=40, batch=128)", "a batch of 128 images does not fit in memory; batch=32 does"),
        ("odd(how='validation')", "ran out of memory; a smaller batch=… may fit"),
    ],
)
def test_a_training_that_breaks_is_named_and_publishes_nothing(odd: Place, recipe: str, said: str) -> None:
    """No record and no weights of it; the training beside it is done; exit code 1."""
    summary = go(odd, recipe, "quick")
    (failure,) = summary.failures
    assert said in str(failure)
    assert failure.exit_code == 1
    (record,) = trainings(odd)
    assert record.label == "quick"
    weights = {p.stem for p in odd.store_root.glob("??/*.safetensors")}
    assert weights == set(record.weights.values())


def test_snapshots_are_in_the_record_and_the_store(odd: Place) -> None:
    """Epochs 2 and 4 of 5; best and last are as without; a checkpoint is loaded from its file."""
    go(odd, "calm(epochs=5)", "calm(epochs=5, snapshots=2)")
    with_them, without = sorted(trainings(odd), key=lambda r: -len(r.weights))
    assert with_them.weights.keys() == {"best", "last", "epoch-2", "epoch-4"}
    assert without.weights.keys() == {"best", "last"}
    assert {k: with_them.weights[k] for k in without.weights} == without.weights
    path = odd.store.path(with_them.weights["epoch-2"])
    summary = go(odd, f"checkpoint(path={str(path)!r})")
    assert not summary.failures
    (loaded,) = (r for r in trainings(odd) if r.defense.startswith("checkpoint"))
    assert loaded.weights["last"] == with_them.weights["epoch-2"]
    # A shorter training whose rate does not depend on its length was, at its end, where the snapshot was taken.
    go(odd, "calm(epochs=4)")
    (shorter,) = (r for r in trainings(odd) if len(r.history) == 4)
    assert shorter.weights["last"] == with_them.weights["epoch-4"]


def test_only_best_and_last_can_be_asked_for(bench: Callable[..., Any]) -> None:
    """A snapshot is no answer to --weights."""
    ended = bench("run", "--defense", "standard", "--weights", "epoch-2")
    assert ended.returncode == 2
    assert "'epoch-2': expected best, last or best,last" in ended.stderr


def test_a_training_without_adversary_is_made_once_for_all_threats(odd: Place) -> None:
    """Its record names no threat, and a second exam at another eps trains nothing."""
    assert go(odd, "calm", "sized", threat="linf:0.1").trained == 2
    assert go(odd, "calm", "sized", threat="linf:0.2").trained == 1
    assert sorted((r.label, r.threat) for r in trainings(odd)) == [
        ("calm", ""), ("sized", "linf:0.1"), ("sized", "linf:0.2")
    ]  # fmt: skip


def test_a_presets_radius_gives_way_to_an_explicit_threat_alone(odd: Place) -> None:
    """Trained for the preset's 0.1, also under a suite's 0.05; for 0.3 where --threat says so; the record tells."""
    for asked, expected in (
        ({}, "linf:0.1"),
        ({"columns": (), "suite": "fixed"}, "linf:0.1"),
        ({"columns": (), "suite": "fixed", "threat": "linf:0.05"}, "linf:0.1"),
        ({"threat": "linf:0.3"}, "linf:0.3"),
    ):
        (lesson,) = resolve(Request(defenses=("sized",), **{"columns": ("clean",), **asked}), odd).lessons  # type: ignore[arg-type]
        assert (lesson.training.threat, lesson.threat) == (expected, expected)
    (lesson,) = resolve(Request(defenses=("sized(eps='0.2')",), threat="linf:0.3", columns=("clean",)), odd).lessons
    assert lesson.training.threat == "linf:0.2"  # written by hand, it is meant


def test_several_seeds_are_one_command(odd: Place) -> None:
    """Three trainings with weights of their own."""
    assert go(odd, "calm", seeds=(0, 1, 2)).trained == 3
    assert sorted(r.seed for r in trainings(odd)) == [0, 1, 2]
    assert len({r.weights["last"] for r in trainings(odd)}) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--defense", "at(lrr=0.3)"], "at has no setting 'lrr'; did you mean 'lr'?"),
        (["--defense", "at(schedule='one_cycle')"], "did you mean 'one-cycle'?"),
        (["--defense", "at(preset='ricee')"], "at has no preset 'ricee'; did you mean 'rice'?"),
        (
            ["--defense", "at(preset='rice')"],
            "is for cifar10, cifar100, svhn; this is cnn on digits",
        ),
        (["--defense", "at", "--dataset", "digit"], "there is no dataset 'digit'; did you mean 'digits'?"),
        (["--defense", "at(drops=(9, 3))"], "drops=(9, 3): expected epochs that rise"),
        (["--defense", "at(lr=-1.0)"], "lr=-1.0: expected a rate above 0"),
    ],
)
def test_what_is_misspelt_or_does_not_fit_is_a_usage_error(
    bench: Callable[..., Any], words: list[str], said: str
) -> None:
    """Exit code 2, before any work, with what was expected or what is nearest."""
    ended = bench("run", *words)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_a_store_that_cannot_be_written_says_so(odd: Place, tmp_path: Path) -> None:
    """Before anything is trained: a file lies where its folder should be."""
    (tmp_path / "file").write_text("")
    place = Place(odd.ledger_root, tmp_path / "file", odd.data_root, odd.plugin_files)
    with pytest.raises(
        IncompleteError, match=r"cannot write into .*file/\.incoming: Not a directory; nothing was begun"
    ):
        go(place, "calm")


def weights_of(place: Place) -> list[tuple[str, dict[str, str], list[float]]]:
    """Each training's key, weights and losses; nothing is left of its work."""
    assert not [*place.store_root.glob("scratch/*")]
    return sorted((r.key, r.weights, [h["loss"] for h in r.history]) for r in trainings(place))


def start(place: Place, *words: str) -> subprocess.Popen[str]:
    """The command line in a process group of its own, as a terminal starts it."""
    heard = "import signal, sys; signal.signal(2, signal.default_int_handler); from bench.cli import main; main()"
    return subprocess.Popen(
        [
            sys.executable, "-c", heard, "run", "--columns", "clean", "-n", "20", "--net", "tiny", *words,
            "--plugin", str(TINY), "--ledger", str(place.ledger_root), "--store", str(place.store_root),
        ],
        cwd=place.store_root.parent, text=True, stderr=subprocess.PIPE, process_group=0,
    )  # fmt: skip


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_workers_save_and_end_with_their_parent(place: Place, tmp_path: Path, number: int) -> None:
    """Three trainings by two workers, ended: both save, the third is not begun, and the rest is bit-identical."""
    recipe, seeds = "quick(epochs=3, pause=0.05)", (0, 1, 2)
    started = start(place, "--defense", recipe, "--seeds", "0,1,2", "--workers", "2")
    until(lambda: len([*place.store_root.glob("histories/*")]) == 2)
    (os.killpg if number == signal.SIGINT else os.kill)(started.pid, number)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert said.endswith("bench: interrupted; the same command continues\n")
    assert len([*place.store_root.glob("scratch/*/checkpoint.pt")]) == 2
    calm = Place(tmp_path / "calm", tmp_path / "calm", place.data_root, place.plugin_files)
    for there in (place, calm):
        assert go(there, recipe, seeds=seeds).trained == 3
    assert weights_of(place) == weights_of(calm)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "part-trades(s=2, epochs=6, warm_up=2, drops=(4,))",
        "free(epochs=5, replays=4)",
        "lbgat(epochs=4, drops=(), falls=())",
        "hat(epochs=4, helper_epochs=3, drops=(3,))",
        "at-awp(epochs=4, drops=(3,))",
        "at(epochs=6, drops=(4,), ema=0.9)",
        "at(epochs=6, drops=(4,), swa=3)",
        "standard(epochs=9, drops=(), optimizer='adam', lr=0.003, augment='crop')",
    ],
)
def test_methods_killed_at_any_moment_end_in_the_same_weights(place: Place, tmp_path: Path, recipe: str) -> None:
    """kill -9, SIGTERM and Ctrl-C, each a while after the training began."""
    for number, wait in ((9, 0.5), (15, 1.5), (9, 2.5), (2, 1.0), (9, 4.0)):
        started = start(place, "--defense", recipe, "--net", "cnn", "--executor", "inline")
        time.sleep(4 + wait)
        os.kill(started.pid, number)
        started.communicate(timeout=120)
    calm = Place(tmp_path / "calm", tmp_path / "calm", place.data_root, place.plugin_files)
    for there in (place, calm):
        assert not go(there, recipe, net="cnn").failures
    assert weights_of(place) == weights_of(calm)
