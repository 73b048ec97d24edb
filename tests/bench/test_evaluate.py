"""The judge."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.errors import AttackError
from bench.evaluate import Subject, Verdict, judge
from bench.exam import Part
from bench.place import Place
from bench.threat import ThreatModel
from bench.victim import freeze

CPU = torch.device("cpu")
THREAT = ThreatModel.parse("linf:0.1")


class Bright(nn.Module):
    """Class 1 where the mean pixel is over a half, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


@pytest.fixture
def part() -> Part:
    """Twelve flat images, the i-th of brightness 20 * i, labelled by whether they are bright."""
    x = (np.arange(12, dtype=np.uint8) * 20)[:, None, None, None] * np.ones((12, 1, 2, 2), np.uint8)
    return Part(x, (np.arange(12) * 20 > 127).astype(np.int64))


def verdict(place: Place, attack: str, part: Part, module: nn.Module | None = None, **more: object) -> Verdict:
    subject = Subject(freeze(module or Bright(), CPU), 4)
    recipe = place.registry.parse("attack", attack)
    clean = attack == "clean"
    settings = {"seed": 0, "batch": 5, "device": CPU, **more}
    return judge(subject, recipe, None if clean else THREAT, part, torch.arange(len(part)), **settings)  # type: ignore[arg-type]


def test_clean_finds_what_the_model_gets_wrong(place: Place, part: Part) -> None:
    """One flipped label is one fallen image, at one forward an image."""
    part = Part(part.x, np.where(np.arange(12) == 3, 1, part.y))
    found = verdict(place, "clean", part)
    assert found.asked[found.fell].tolist() == [3]
    assert found.forwards.tolist() == [1] * 12
    assert not found.distance.any()


def test_fgsm_takes_exactly_the_images_within_reach(place: Place, part: Part) -> None:
    """Moving every pixel by 0.1 crosses the threshold for 0.4 < brightness < 0.6 alone: images 6 and 7."""
    brightness = np.arange(12) * 20 / 255
    found = verdict(place, "fgsm", part)
    assert found.asked[found.fell].tolist() == np.flatnonzero(np.abs(brightness - 0.5) < 0.1).tolist() == [6, 7]
    assert found.adversarial.shape == (2, 1, 2, 2)
    assert torch.allclose(found.distance, torch.tensor(0.1))
    assert torch.allclose(found.margin[6], torch.tensor(2 * (0.5 - 120 / 255 - 0.1), dtype=torch.float32), atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("leaves-ball", r"leaves-ball failed on image 7: it leaves the ball linf:0.1 by 0.1 \(size 0.2\)"),
        ("leaves-box", "leaves-box failed on image 5: it leaves .0, 1. by 0.05"),
        ("gives-nan", "gives-nan failed on image 3: it has pixels that are not numbers"),
        ("raises", r"raises failed on image 9: ZeroDivisionError\('nine'\)"),
        ("leaves", r"leaves failed on image 4: SystemExit\(0\)"),
        ("peeks", "peeks failed on image 0: it declares access='scores'"),
    ],
)
def test_a_broken_attack_is_named_with_the_image_and_the_excess(
    place: Place, part: Part, attack: str, said: str
) -> None:
    """Leaving the ball or the box, not-a-number, an exception and forbidden access are errors, whatever the batch."""
    x = part.x.copy()
    x[5] = 0
    part = Part(x, part.y)
    for batch in (1, 5, 12):
        with pytest.raises(AttackError, match=said):
            verdict(place, attack, part, batch=batch)


def test_a_logit_that_is_not_a_number_is_a_misreading(place: Place, part: Part) -> None:
    """A model that answers with NaN is not robust."""

    class Nan(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), torch.nan)

    assert verdict(place, "clean", part, Nan()).fell.all()


def test_a_random_model_is_judged_by_the_majority_of_twenty(place: Place, part: Part) -> None:
    """A model wrong in one ask of four stands on every image; its passes are twenty an image."""

    class Lottery(nn.Module):
        asks = 0

        def forward(self, x: Tensor) -> Tensor:
            Lottery.asks += 1
            logits = Bright()(x)
            return -logits if Lottery.asks % 4 == 0 else logits

    subject = Subject(freeze(Lottery(), CPU), 16, random=True)
    found = judge(
        subject, place.registry.parse("attack", "clean"), None, part, torch.arange(12), seed=0, batch=12, device=CPU
    )
    assert not found.fell.any()
    assert found.forwards.tolist() == [20] * 12


def test_the_verdict_is_the_same_in_any_batch_order_and_company(place: Place) -> None:
    """Images, margins and passes of `slow` (random start) are bit-equal for every layout."""
    digits = place.dataset(place.registry.parse("dataset", "digits"))
    torch.manual_seed(0)
    net = place.registry.parse("net", "cnn").plugin.function(classes=10, channels=1, size=8)
    subject = Subject(freeze(net, CPU), 64)
    ask = partial(
        judge, subject, place.registry.parse("attack", "slow"), ThreatModel.parse("linf:0.2"), digits.test,
        seed=3, device=CPU,
    )  # fmt: skip
    whole = ask(asked=torch.arange(100), batch=512)
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    others = [ask(asked=torch.arange(100), batch=b) for b in (1, 7, 64)]
    others += [_reordered(ask(asked=shuffled, batch=33), shuffled.argsort())]
    halves = [ask(asked=torch.arange(100)[part], batch=64) for part in (slice(0, 50), slice(50, 100))]
    others += [Verdict(*(torch.cat([getattr(h, f) for h in halves]) for f in Verdict.__dataclass_fields__))]
    for other in others:
        for name in ("asked", "fell", "predicted", "margin", "distance", "forwards", "backwards"):
            assert torch.equal(getattr(whole, name), getattr(other, name)), name


def _reordered(verdict: Verdict, order: Tensor) -> Verdict:
    fields = {f: getattr(verdict, f) for f in Verdict.__dataclass_fields__}
    return Verdict(**{f: v if f == "adversarial" else v[order] for f, v in fields.items()})
