"""Transfer: another model's weights in the ledger are attacked in place of the model."""

import dataclasses

import pytest

from bench.errors import UsageError
from bench.executors import Inline
from bench.records import TrainingRecord
from bench.request import Request, resolve
from bench.run import run

ASK = Request(defenses=("quick",), net="tiny", columns=("clean",), n=60, threat="linf:0.1")


def go(place, request):
    return run(resolve(request, place), place, Inline(), report=lambda _line: None)


def test_images_made_on_a_surrogate_are_tried_on_the_model(place):
    """On itself it is the white box; on another model it fells less than that; all passes are the surrogate's."""
    go(place, ASK)
    go(place, dataclasses.replace(ASK, seeds=(1,)))
    mine, other = (d for s in (0, 1) for d in place.ledger.all() if isinstance(d, TrainingRecord) and d.seed == s)
    texts = [f"transfer(surrogate='{d.weights['best'][:9]}', steps=5, step=0.25)" for d in (mine, other)]
    request = dataclasses.replace(ASK, columns=("clean", "pgd(steps=5, keep='last')", *texts))
    summary = go(place, request)
    records = {r.attack: r for r in summary.records}
    white = next(r for a, r in records.items() if a.startswith("pgd"))
    on_itself, across = (next(r for a, r in records.items() if d.weights["best"] in a) for d in (mine, other))
    assert len(set(on_itself.fell) ^ set(white.fell)) <= 2  # the starts differ
    assert 0 < len(across.fell) < len(white.fell)
    asked = len(across.asked)
    assert (across.cost.forwards, across.cost.backwards) == (6 * asked, 5 * asked)
    assert go(place, request).asked == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("transfer(surrogate='0000000')", "the ledger has no such weights; give the beginning of a hash"),
        ("transfer(surrogate='')", "the ledger has no such weights"),
        ("transfer", "transfer needs a setting"),
    ],
)
def test_a_surrogate_that_is_not_there_is_named(place, text, said):
    """Before any work."""
    go(place, ASK)
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        resolve(dataclasses.replace(ASK, columns=("clean", text)), place)


def test_weights_of_another_shape_are_no_surrogate(place, tmp_path):
    """They are named before any work."""
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8), np.arange(40) % 3
    np.savez(tmp_path / "small.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    go(place, ASK)
    (training,) = (d for d in place.ledger.all() if isinstance(d, TrainingRecord))
    columns = ("clean", f"transfer(surrogate={training.weights['best']!r})")
    request = dataclasses.replace(ASK, dataset=f"npz:{tmp_path / 'small.npz'}", columns=columns, n=10)
    with pytest.raises(UsageError, match=r"weights of tiny@1.* for other images or classes than 1x6x6 and 3"):
        resolve(request, place)
