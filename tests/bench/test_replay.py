"""Replay: a planted weakness is seen by one pass an image, and a bound alone never says that a model held."""

import json
from dataclasses import replace

import pytest
import torch

from bench import baseline
from bench.evaluate import images, misread
from bench.ledger import Ledger
from bench.records import DatasetCard, ExamCard, Record, TrainingRecord
from bench.replay import replay
from bench.standing import Standings
from bench.verify import Datasets
from tests.bench.test_verify import flip
from tests.conftest import TINY

WORDS = ("gate", "--baseline", "ledger", "--ledger", "new", "--replay", "--json", "--plugin", str(TINY))


def new_weights(here, change):
    """A ledger in which seed 0 of the baseline's model was trained again, to other weights; no attack was made yet."""
    old = next(d for d in here.ledger.all() if isinstance(d, TrainingRecord) and d.seed == 0)
    tensors = {name: change(value) for name, value in here.store.get(old.weights["best"]).items()}
    ledger = Ledger(here.ledger_root.parent / "new")
    ledger.add(old.model_copy(update={"weights": {"best": here.store.put(tensors)}, "made": "2099-01-01"}))
    for card in here.ledger.all():
        if isinstance(card, DatasetCard | ExamCard) or card.schema_ == "rampart/column-1":
            ledger.add(card)
    return replace(here, ledger_root=ledger.root)


def noise(size):
    """Weights that differ a little."""
    return lambda value: value + size * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))


def bounds(here, new):
    """What a replay says, by column."""
    before, now = (Standings.of(p.ledger) for p in (here, new))
    return {b.now.column: b for b in replay(before, now, [here.ledger], new, Datasets(new))}


def test_a_planted_weakness(bench, here):
    """Weights with much noise: exit 3 from the replay alone, and nothing is written."""
    new = new_weights(here, noise(2.0))
    files = sorted(new.ledger_root.rglob("*"))
    done = bench(*WORDS)
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert {b["name"].rpartition(": ")[2] for b in found["replay"]} == {"slow linf:0.2", "walks linf:0.2"}
    assert "it is a regression" in done.stderr and sorted(new.ledger_root.rglob("*")) == files


def test_the_bound_is_one(here):
    """Each image that fell was misread as it is, or at an image of the baseline in ball and box; others were not."""
    new = new_weights(here, noise(0.05))
    found = bounds(here, new)
    subject = new.subject(
        found["slow"].net, found["slow"].now.weights, Datasets(new).of(found["slow"].now.question.test, "digits").shape
    )
    dataset = Datasets(new).of(found["slow"].now.question.test, "digits")
    x, y = images(dataset.test, torch.arange(120), torch.device("cpu"))
    clean = set(misread(subject, x, y)[1].nonzero()[:, 0].tolist())
    assert clean <= found["slow"].now.fell and found["slow"].most <= 1 - len(clean) / 120
    assert found["slow"].fair and found["slow"].before.fell >= found["slow"].recorded.fell
    # At weights that are nearly the old ones nearly all fall that fell: each image is kept in the bundles.
    assert len(found["slow"].recorded.fell - found["slow"].now.fell) <= 0.1 * len(found["slow"].recorded.fell)


def test_a_harmless_change(bench, here):
    """A bound proves nothing then: 4, since nothing was compared; attacked on what stands, it held: 0."""
    new = new_weights(here, noise(1e-4))
    done = bench(*WORDS)
    assert done.returncode == 4 and "no proof of one" in done.stderr and "left to attack" in done.stderr, done.stderr
    left = {b["name"].rpartition(": ")[2]: set(b["survivors"]) for b in json.loads(done.stdout)["replay"]}
    done = bench(*WORDS, "--then-attack")
    assert done.returncode == 0, done.stderr
    verdicts = {c["column"]: c["verdict"] for c in json.loads(done.stdout)["comparisons"]}
    assert set(verdicts) == {"slow", "walks"} and "regressed" not in verdicts.values()
    for record in (d for d in new.ledger.all() if isinstance(d, Record)):
        column = "slow linf:0.2" if record.attack.startswith("slow") else "walks linf:0.2"
        assert set(record.asked) == left[column]


def test_an_attack_ends_where_it_is_enough(bench, here):
    """Weights that only an attack shows to be weak: the first column proves it, and the other is not asked."""
    for record in [d for d in here.ledger.all() if isinstance(d, Record) and d.bundle]:
        here.store.path(record.bundle).unlink()  # nothing to replay
    new = new_weights(here, noise(0.5))
    done = bench(*WORDS, "--then-attack")
    found = json.loads(done.stdout)["replay"]
    assert done.returncode == 3, done.stderr
    assert {b["lacking"] for b in found} == {4} and sum(b["by"] != "" for b in found) == 1
    assert len({d.attack for d in new.ledger.all() if isinstance(d, Record)}) == 1


def test_what_is_missing_and_what_is_damaged(bench, here):
    """Bundles that the store lacks are counted; a damaged one is exit code 5, and named."""
    new = new_weights(here, noise(1e-4))
    whole = bounds(here, new)["slow"]
    records = [d for d in here.ledger.all() if isinstance(d, Record) and d.bundle]
    here.store.path(records[0].bundle).unlink()
    assert whole.lacking == 0 and bounds(here, new)["slow"].lacking == 1
    flip(here.store.path(records[1].bundle))
    done = bench(*WORDS)
    assert (done.returncode, records[1].bundle in done.stderr) == (5, True)


def test_a_baseline_file(bench, here, tmp_path):
    """A file has no bundles: those of the ledger at hand count; old weights that are nowhere are said to be."""
    new = new_weights(here, noise(2.0))
    baseline.record(Standings.of(here.ledger), tmp_path / "b.json")
    done = bench("gate", "--baseline", "b.json", "--ledger", "new", "--replay", "--plugin", str(TINY))
    assert "are not in the store" in done.stderr and "images of 0" in done.stderr, done.stderr
    assert len(list(new.ledger.all())) == len(list(Ledger(new.ledger_root).all()))


@pytest.mark.parametrize(
    "words", [("--record", "x.json", "--replay"), ("--baseline", "ledger", "--then-attack")], ids=lambda w: w[-1]
)
def test_wrong_words(bench, here, words):
    """--replay goes with a baseline, --then-attack with --replay."""
    assert bench("gate", *words).returncode == 2


def test_nothing_new(bench, here):
    """The same weights, or columns that are decided already, are not replayed."""
    done = bench("gate", "--baseline", "ledger", "--replay", "--json", "--plugin", str(TINY))
    assert done.returncode == 0 and json.loads(done.stdout)["replay"] == []
