"""What training costs beyond its passes, in CPU seconds of one run; the ratios are in each benchmark's extra_info."""

import time
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench import Course, ThreatModel, TrainJob
from bench.exam import Part, Shape
from bench.feed import Feed
from bench.passes import lean
from bench.victim import be_exact
from defenses.at import at
from defenses.inner import Inner, craft
from defenses.nets import cnn, resnet18
from defenses.part import Masks, important, within

BATCH, STEPS = 128, 10


@pytest.fixture(autouse=True)
def one_thread():
    """On one thread, as small nets are trained."""
    threads = torch.get_num_threads()
    be_exact(1)
    yield
    torch.set_num_threads(threads)


def least(*works, rounds):
    """The least CPU time of each work, in turns: what it costs when nothing disturbs it."""
    spent = [[] for _ in works]
    for _ in range(rounds):
        for work, times in zip(works, spent, strict=True):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    return [min(times) for times in spent]


def images(count, shape, seed=0):
    """Noise around one picture a class, so that there is something to learn."""
    each = (shape.channels, shape.size, shape.size)
    y, pictures = np.arange(count) % shape.classes, np.random.default_rng(9).integers(0, 200, (shape.classes, *each))
    return Part((pictures[y] + np.random.default_rng(seed).integers(0, 56, (count, *each))).astype(np.uint8), y)


def raw(net, x, y):
    """A step of the attack, a step of the training and a forward: nothing but what torch must do."""
    attacked, trained = lean(net()), net()
    attacked.eval().requires_grad_(False)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)

    def attack():
        z = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(attacked(z), y), z)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(trained(x), y).backward()
        optimizer.step()

    def forward():
        with torch.no_grad():
            attacked(x)

    return attack, step, forward


def test_an_epoch_of_adversarial_training_over_its_passes(benchmark, tmp_path):
    """MNIST's net: all of an epoch, its validation and checkpoint too, at most 1.25 times its bare passes."""
    shape = Shape(10, 1, 28)
    net = partial(cnn, classes=10, channels=1, size=28)
    train, val = images(BATCH * 6, shape), images(BATCH, shape, seed=1)
    ended = []
    job = TrainJob(
        train=train, val=val, shape=shape, build=net, threat=ThreatModel.parse("linf:1/255"), seed=0,
        device=torch.device("cpu"), scratch=tmp_path, report=lambda _line: ended.append(time.process_time()),
    )  # fmt: skip
    x, y = torch.rand(BATCH, 1, 28, 28), torch.arange(BATCH) % 10
    torch.manual_seed(0)
    before = least(*raw(net, x, y), rounds=10)
    course = Course(epochs=5, lr=0.01, batch=BATCH, drops=())
    benchmark.pedantic(at, (job,), {"inner": Inner(steps=STEPS), "course": course}, rounds=1)
    attack, step, forward = map(min, before, least(*raw(net, x, y), rounds=10))
    passes = 6 * (STEPS * attack + step) + STEPS * attack + 2 * forward
    epoch = min(np.diff(ended))
    assert job.passes == [5 * BATCH * (6 * (STEPS + 1) + STEPS + 2), 5 * BATCH * (6 * (STEPS + 1) + STEPS)]
    benchmark.extra_info["epoch_over_passes"] = round(epoch / passes, 3)
    benchmark.extra_info["milliseconds"] = {
        "attack": round(1e3 * attack, 2), "step": round(1e3 * step, 2), "epoch": round(1e3 * epoch, 1)
    }  # fmt: skip
    assert epoch <= 1.25 * passes


@pytest.mark.slow
def test_a_step_of_part_over_one_of_adversarial_training(benchmark):
    """ResNet-18 at 32 px, 32 images, ten steps of attack: masks cost a forward of the snapshot, at most 6 %."""
    torch.manual_seed(0)
    net = partial(resnet18, classes=10, channels=3, size=32)
    model, snapshot = lean(net()), net().requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batch = Feed(images(32, Shape(10, 3, 32)), 0, torch.device("cpu")).batch(32, 1, 0)
    threat, inner = ThreatModel.parse("linf:8/255"), Inner(start="uniform")

    def step(project):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(craft(model, batch, threat, inner, project=project)), batch.y).backward()
        optimizer.step()

    def masked():
        size = torch.where(important(snapshot, batch, Masks()), 8 / 255, 7 / 255)
        step(lambda x: within(x, batch.x, size))

    plain, part = least(lambda: step(None), masked, rounds=2)
    benchmark.pedantic(important, (snapshot, batch, Masks()), rounds=2)
    benchmark.extra_info["part_over_at"] = round(part / plain, 3)
    benchmark.extra_info["seconds"] = {"at": round(plain, 2), "part": round(part, 2)}
    assert part <= 1.06 * plain
