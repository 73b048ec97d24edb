"""Averages of weights: what they are, and that they are what is judged and kept."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.course import Course
from bench.fitting import fit
from bench.training import Score, TrainJob
from tests.bench.jobs import Interrupted, StoppedError, normed, plain

Weights = dict[str, Tensor]


def copied(model: nn.Module) -> Weights:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


class Witness:
    """A job that remembers every judged model, and a hook that remembers the live one after every step."""

    def __init__(self, here: TrainJob) -> None:
        self.job, self.judged, self.live = here, [], []
        self._validate = here.validate
        here.validate = self.validate  # type: ignore[method-assign]

    def validate(self, model: nn.Module) -> Score:
        self.judged.append(copied(model))
        return self._validate(model)

    def after_step(self, model: nn.Module, _feed: object) -> None:
        self.live.append(copied(model))


EMA = Course(epochs=7, lr=0.3, batch=16, drops=(), ema=0.9)  # 21 steps; the first 0.525 of one are the warm-up


def naive_ema(live: list[Weights], tau: float) -> list[Weights]:
    """The formula of Gowal et al., in float64: the average after every step."""
    average, found = {k: v.double() for k, v in live[0].items()}, []
    for step, weights in enumerate(live):
        since = step - 0.025 * len(live)
        decay = min(tau, (1 + since) / (10 + since)) if since >= 0 else 0.0
        average = {k: decay * v + (1 - decay) * weights[k].double() for k, v in average.items()}
        found.append(average)
    return found


def test_the_exponential_average_is_that_of_the_formula(tmp_path: Path) -> None:
    """Its weights at each epoch's end agree with a naive loop; its batch statistics are the live ones."""
    witness = Witness(normed(tmp_path))
    here = witness.job
    last = fit(here, here.net(), plain, EMA, after_step=witness.after_step)
    expected = naive_ema(witness.live, 0.9)[2::3]
    names = dict(here.net().named_parameters())
    for found, average, live in zip(witness.judged, expected, witness.live[2::3], strict=True):
        for name, value in found.items():
            if name in names:
                torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(value, live[name])
    assert not torch.equal(witness.judged[-1]["1.weight"], witness.live[-1]["1.weight"])
    # What was judged is what is kept: the last one is returned, the best by its score goes to the job.
    assert all(torch.equal(v, last.state_dict()[k]) for k, v in witness.judged[-1].items())
    scores = [(h["val_pgd10"], h["val_clean"]) for h in here.history]
    assert here.best is not None
    assert all(torch.equal(v, here.best[k]) for k, v in witness.judged[scores.index(max(scores))].items())


def test_the_exponential_average_is_a_copy_while_it_warms_up(tmp_path: Path) -> None:
    """120 steps warm up for 3: after the one epoch of those the judged weights are the live ones, to the bit."""
    witness = Witness(normed(tmp_path))
    here = witness.job

    def stop(_model: nn.Module, epoch: int) -> None:
        if epoch == 3:
            raise StoppedError

    course = Course(epochs=40, lr=0.3, batch=16, drops=(), ema=0.995)
    with pytest.raises(StoppedError):
        fit(here, here.net(), plain, course, after_step=witness.after_step, before_epoch=stop)
    assert all(torch.equal(v, witness.live[2][k]) for k, v in witness.judged[0].items())
    assert not torch.equal(witness.judged[1]["1.weight"], witness.live[5]["1.weight"])


def test_the_mean_over_epochs_has_batch_statistics_of_its_own(tmp_path: Path) -> None:
    """From epoch 3 on it is the mean of the weights at the epochs' ends, with statistics over one clean epoch."""
    witness = Witness(normed(tmp_path))
    here = witness.job
    course = Course(epochs=5, lr=0.3, batch=16, drops=(), swa=3)
    last = fit(here, here.net(), plain, course, after_step=witness.after_step)
    ends = witness.live[2::3]
    for epoch in (0, 1):  # not begun: the live weights are judged
        assert all(torch.equal(v, ends[epoch][k]) for k, v in witness.judged[epoch].items())
    for epoch in (2, 3, 4):
        mean = {k: torch.stack([e[k].double() for e in ends[2 : epoch + 1]]).mean(0) for k in ends[0]}
        model = here.build()
        model.load_state_dict({k: mean[k].to(v.dtype) for k, v in ends[0].items()})
        found = witness.judged[epoch]
        for name, _ in model.named_parameters():
            torch.testing.assert_close(found[name].double(), mean[name], rtol=1e-5, atol=1e-6)
        # Of each batch before the normalisation: the mean over batches of their means and unbiased variances.
        linear = copy.deepcopy(model[1])
        hidden = [linear(b.x.flatten(1)) for b in here.batches(16, epoch + 1)]
        for name, each in (("mean", [h.mean(0) for h in hidden]), ("var", [h.var(0) for h in hidden])):
            torch.testing.assert_close(found[f"2.running_{name}"], torch.stack(each).mean(0), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, last.state_dict()[k]) for k, v in witness.judged[-1].items())


@pytest.mark.parametrize("settings", [{"ema": 0.9}, {"swa": 2}, {"ema": 0.9, "optimizer": "adam"}], ids=str)
@pytest.mark.parametrize("stop_at", [1, 7, 10])
def test_an_average_survives_a_crash_to_the_bit(tmp_path: Path, settings: dict[str, float], stop_at: int) -> None:
    """Interrupted after any step, and continued by a new job: the same last and best weights."""
    course = Course(epochs=5, lr=0.1, batch=16, drops=(), **settings)  # type: ignore[arg-type]
    whole = normed(tmp_path / "whole")
    expected = fit(whole, whole.net(), plain, course).state_dict()
    first = normed(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        fit(first, first.net(), Interrupted(stop_at), course)
    second = normed(tmp_path / "parts")
    found = fit(second, second.net(), plain, course).state_dict()
    assert all(torch.equal(expected[k], found[k]) for k in expected)
    assert whole.best is not None
    assert second.best is not None
    assert all(torch.equal(whole.best[k], second.best[k]) for k in expected)
    assert whole.passes == second.passes
