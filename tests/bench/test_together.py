"""Processes that train one model together: what they share, and what happens when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import fitting, together
from bench.course import Course
from bench.errors import UsageError
from bench.exam import Part
from bench.feed import Feed
from bench.ledger import Ledger
from bench.records import TrainingRecord
from tests.bench.jobs import StoppedError, job

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_a_killed_process_is_started_again_and_all_of_them_finish(tmp_path):
    """Killed is one that follows, then the one that leads: the weights are the undisturbed ones, bit for bit."""
    words = [sys.executable, "-m", "tests.bench.killed_rank", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["calm"] == [0, 0]
    assert found["codes"] == [[4, -9], [-9, 4], [130, 130]], "one dies: the other says so; one is asked: both stop"
    assert (found["records"], found["ends"]) == ([0, 0, 0], [[0, 0], [0]]), "nothing was published before"
    assert found["equal"] and found["trainings"] == [1, 1, 1]
    assert found["epochs"] == [4, 4, 4] and found["ranks"] == [2, 2, 1], "the last was finished by one process alone"
    assert len(set(found["passes"])) == 1, "passes of all processes count, once"
    assert "another of the 2 processes that train together has ended" in found["said"]["killed/said-1.txt"]


@pytest.mark.slow
def test_torchrun_restarts_a_killed_process(tmp_path):
    """By its own --max-restarts: kill -9 of a worker in mid-training, and the command ends well."""
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "2",
        "-m",
        "bench",
    ]
    words += ["run", "--defense", "at(epochs=8, batch=256)", "--columns", "clean", "-n", "20", "--executor", "inline"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("results/store/scratch/*/checkpoint.pt")):
            time.sleep(0.02)
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        os.kill(int(children[-1]), signal.SIGKILL)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "continuing after" in said
    (record,) = (d for d in Ledger(tmp_path / "results/ledger").all() if isinstance(d, TrainingRecord))
    assert [entry["epoch"] for entry in record.history] == [*range(1, 9)]
    assert record.history[-1]["ranks"] == 2


def test_parts_of_a_batch_are_all_of_it(monkeypatch):
    """For 1 to 9 processes: one after the other, without gap, and of nearly equal size; fewer images are refused."""
    for size in range(1, 10):
        monkeypatch.setattr(together, "ranks", lambda size=size: size)
        for images in (size, 13, 128):
            parts = []
            for rank in range(size):
                monkeypatch.setattr(together, "rank", lambda rank=rank: rank)
                parts.append(range(images)[together.share(images)] if images >= size else [])
            if images >= size:
                assert [i for part in parts for i in part] == [*range(images)]
                assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(UsageError, match="a batch of 8 images for 9 processes: each needs one"):
        together.share(8)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, affine=False)])
def test_batch_statistics_are_those_of_the_module(norm, monkeypatch):
    """Of one process, where nothing is summed: values, gradients and running statistics are torch's own."""
    mine = type(norm)(3, momentum=norm.momentum, affine=norm.affine).double()
    mine.load_state_dict(norm.double().state_dict())
    x = torch.rand(5, 3, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        here, there = x.clone().requires_grad_(), x.clone().requires_grad_()
        got, wanted = together._normed(mine, here), norm(there)
        (got.square() * x).sum().backward(), (wanted.square() * x).sum().backward()
        assert torch.allclose(got, wanted, atol=1e-12) and torch.allclose(here.grad, there.grad, atol=1e-12)
    for name, value in norm.state_dict().items():
        assert torch.allclose(mine.state_dict()[name], value, atol=1e-12), name
    mine.eval(), norm.eval()
    assert torch.allclose(together._normed(mine, x), norm(x), atol=1e-12)


def test_the_dead_are_not_taken_for_the_living():
    """The store still has what three processes said in an earlier life, and the first one comes last."""
    store = torch.distributed.HashStore()
    names = [met(store, [2, 1, 0]) for _ in range(3)]
    assert all(len(set(found)) == 1 for found in names), "all of a life agree"
    assert len({found[0] for found in names}) == 3, "and no two lives do"


def met(store, ranks):
    """The names on which threads agree that come in this order."""
    found = []
    threads = [
        threading.Thread(target=lambda rank=rank: found.append(together._met(store, rank, len(ranks))))
        for rank in ranks
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(timeout=30)
    assert len(found) == len(ranks)
    return found


def test_more_processes_than_gpus_is_a_clear_error(monkeypatch):
    """Before anything is joined; the number that there is is named."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="process 2 of this machine has no GPU: there are 2"):
        together.leads("cuda")


@pytest.mark.parametrize("images", [40, 43])
def test_parts_of_batches_are_the_batches_of_one_process(images, monkeypatch, tmp_path):
    """With extra images, crops and mirrors, in memory and mapped: pixels, labels and draws, one after the other."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (images, 1, 8, 8)).astype(np.uint8), np.arange(images) % 3
    np.save(tmp_path / "x.npy", x)
    extra = Part(rng.integers(0, 256, (9, 1, 8, 8)).astype(np.uint8), np.arange(9))
    for part in (Part(x, y), Part(np.load(tmp_path / "x.npy", mmap_mode="r"), y)):
        for size in (1, 2, 3):
            monkeypatch.setattr(together, "ranks", lambda: 1)
            whole = Feed(part, 3, CPU, extra, 0.3)
            assert whole.least(13) == min(len(whole.batch(13, 2, place)) for place in range(whole.steps(13)))
            batches = [whole.batch(13, 2, place, "crop-flip") for place in range(whole.steps(13))]
            monkeypatch.setattr(together, "ranks", lambda size=size: size)
            for place, batch in enumerate(batches):
                found = []
                for rank in range(size):
                    monkeypatch.setattr(together, "rank", lambda rank=rank: rank)
                    found.append(Feed(part, 3, CPU, extra, 0.3).batch(13, 2, place, "crop-flip"))
                assert torch.equal(torch.cat([b.x for b in found]), batch.x)
                assert torch.equal(torch.cat([b.y for b in found]), batch.y)
                assert torch.equal(torch.cat([b.draws.ids for b in found]), batch.draws.ids)
                assert {b.progress for b in found} == {batch.progress}


def test_each_process_reads_its_own_images_of_a_mapped_file(monkeypatch, tmp_path):
    """Of a set that stays in its file no other image is read."""
    read = []

    class Counted(np.memmap):
        def __getitem__(self, ids):
            read.extend(np.atleast_1d(ids).tolist())
            return np.asarray(super().__getitem__(ids))

    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (24, 1, 4, 4))
    monkeypatch.setattr(together, "ranks", lambda: 2)
    every = []
    for rank in (0, 1):
        monkeypatch.setattr(together, "rank", lambda rank=rank: rank)
        read.clear()
        feed = Feed(Part(x.view(Counted), np.zeros(24, np.int64)), 0, CPU)
        read.clear()
        ids = [feed.batch(8, 1, place).draws.ids.tolist() for place in range(3)]
        assert sorted(read) == sorted(i for of in ids for i in of)
        assert len(read) == 12
        every += read
    assert sorted(every) == list(range(24))


def test_a_last_batch_that_is_too_small_is_known_before_the_first_step(monkeypatch, tmp_path):
    """41 images in batches of 20 leave one for two processes; with 42 there is no complaint."""
    steps = []

    def loss(model, feed):
        steps.append(feed.place)
        raise StoppedError

    for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", 0)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    monkeypatch.setattr(fitting, "of_the_first", lambda _path: None)
    here = job(tmp_path, 41)
    with pytest.raises(UsageError, match="a batch of 1 images for 2 processes"):
        fitting.fit(here, here.build(), loss, Course(epochs=1, batch=20, drops=()))
    here = job(tmp_path, 42)
    with pytest.raises(StoppedError):
        fitting.fit(here, here.build(), loss, Course(epochs=1, batch=20, drops=()))
    assert steps == [0]
