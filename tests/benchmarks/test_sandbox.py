"""What a sandbox costs an honest model: CPU seconds of both processes beside those without it, in turns in one run."""

import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bench.exam import Shape
from bench.fence import Fence, _unable
from bench.foreign import foreign
from bench.place import build
from bench.registry import Registry, plugins
from bench.victim import Victim, be_exact, freeze

SOURCE = '''
from __future__ import annotations

from torch import nn

from bench import net
from defenses.nets import resnet18


@net()
def mine(*, classes: int, channels: int, size: int) -> nn.Module:
    """ResNet-18."""
    return resnet18(classes=classes, channels=channels, size=size)
'''
MOST = 1.1  # of the plain model's time


def family(pid):
    """A process and all that come from it."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            about = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        found += family(int(path.parent.name)) if int(about[1]) == pid else []
    return found


def spent(pids):
    """CPU seconds of this process and of those, so far."""
    others = sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)
    return time.process_time() + others / 1e9


@pytest.mark.skipif(bool(_unable()), reason=f"no sandbox here: {_unable()}")
def test_an_honest_resnet_loses_little(benchmark, tmp_path):
    """A gradient of ResNet-18 at batch 64 costs at most a tenth more in the sandbox, and is the same to the bit."""
    (tmp_path / "mine.py").write_text(SOURCE)
    file, shape = str(tmp_path / "mine.py"), Shape(10, 3, 32)
    threads = torch.get_num_threads()
    be_exact(1)
    try:
        own = build(plugins([file]).parse("net", "mine"), shape)
        boxed = build(foreign(Registry(), (file,), Fence()).parse("net", "mine"), shape)
        for module in (own, boxed):
            module.load_state_dict(own.state_dict())
            freeze(module, torch.device("cpu"))
        x, y = torch.rand(64, 3, 32, 32), torch.arange(64) % 10

        def ask(module):
            victim = Victim(module, tile=64, access="gradients", images=64)
            return victim.gradient(x, y, lambda z, y: F.cross_entropy(z, y, reduction="none"))

        assert all(torch.equal(a, b) for a, b in zip(ask(own), ask(boxed), strict=True))
        pids, times = family(boxed.cage.running()._process.pid), ([], [])
        for turn in range(6):
            for k in (0, 1) if turn % 2 else (1, 0):
                start = spent(pids)
                ask((own, boxed)[k])
                times[k].append(spent(pids) - start)
        ratio = min(times[1]) / min(times[0])
        benchmark.extra_info["ratio"] = ratio
        benchmark.pedantic(ask, args=(boxed,), rounds=1)
        assert ratio < MOST
    finally:
        torch.set_num_threads(threads)
