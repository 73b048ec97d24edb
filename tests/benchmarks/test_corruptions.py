"""What the corruptions cost beside a per-image version with NumPy and SciPy; the ratios are in extra_info."""

import time

import pytest
import torch

from bench.victim import be_exact
from data import corruptions
from data.corruptions_tables import EXTRA, MAIN
from tests.data.corruptions_oracle import spoilt
from tests.data.corruptions_scene import draws, images, levels, use_frost

COUNT = 128
FAST = {"zoom_blur": 20, "glass_blur": 20, "elastic_transform": 8}  # the others are no slower


class Kept:
    """Draws that are drawn once and then remembered, so that both sides are timed without them."""

    def __init__(self, drawn, memory):
        self.drawn, self.memory = drawn, memory

    def __getitem__(self, keep):
        return Kept(self.drawn[keep], self.memory)

    def at(self, purpose):
        return Kept(self.drawn.at(purpose), self.memory)

    def __getattr__(self, method):
        def ask(*shape):
            key = (method, self.drawn.purpose, int(self.drawn.ids[0]), len(self.drawn), repr(shape))
            if key not in self.memory:
                self.memory[key] = getattr(self.drawn, method)(*shape)
            return self.memory[key]

        return ask


def least(work, rounds):
    """The least of some process times."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


@pytest.mark.parametrize("name", MAIN + EXTRA)
def test_time_beside_an_image_at_a_time(benchmark, name, tmp_path, monkeypatch):
    """All five severities of 32 x 32 colour images, given the same draws."""
    use_frost(tmp_path / "frost", monkeypatch)
    be_exact(1)  # as every worker does; memory is kept then
    function, x = getattr(corruptions, name), images(COUNT, 3, 32)
    plain = levels(x).permute(0, 2, 3, 1).numpy()
    given = [Kept(draws(torch.arange(COUNT), name, severity), {}) for severity in range(1, 6)]

    def ours(given=given):
        for severity, kept in enumerate(given, 1):
            function(x, severity, kept)

    def theirs(count=3):
        for severity, kept in enumerate(given, 1):
            for i in range(count):
                spoilt(name, plain[i], severity, kept[i : i + 1])

    theirs(), ours()
    image = least(theirs, 3) / 3
    benchmark.pedantic(ours, rounds=1)
    ratio = image / (least(ours, 3) / COUNT)
    fresh = [draws(torch.arange(COUNT), name, severity) for severity in range(1, 6)]
    benchmark.extra_info["times_faster"] = round(ratio, 1)
    benchmark.extra_info["seconds_per_1000_with_draws"] = round(least(lambda: ours(fresh), 2) / COUNT / 5 * 1000, 3)
    assert ratio > FAST.get(name, 1)
