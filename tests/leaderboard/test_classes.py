"""Accuracy by class, confusion and passes, against recounts image by image."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from bench import Cell, ColumnCard, DatasetCard, Ledger, Record
from bench.exam import digest
from leaderboard.classes import Labels, Share, confusion, ordered
from leaderboard.evidence import Fallen
from leaderboard.models import by_model
from leaderboard.models import pages as model_pages
from leaderboard.sidecars import MissingError, Sidecars, spent_until_fallen
from leaderboard.site import build

from .conftest import Writer, sha

CLASSES, N = 4, 60


class Evidenced(Writer):
    """A writer whose records have sidecars: what was read, and the passes, image by image."""

    def judged(self, attack, read, passes, *, threat="linf:0.1", distance=None, **changes):
        """A record of the images in `read`, which fell where another class than the image's own was read."""
        asked = sorted(read)
        fell = [i for i in asked if read[i] != i % CLASSES]
        facts = {
            "net": self.net, "weights": sha("w"), "test": sha(self.dataset), "condition": "clean", "threat": threat,
            "attack": attack, "seed": 0, "precision": "exact",
        }  # fmt: skip
        key = Cell(**facts).key
        arrays = {
            "predicted": np.array([read[i] for i in asked], np.int32),
            "forwards": np.array([passes[i] - passes[i] // 2 for i in asked], np.int32),
            "backwards": np.array([passes[i] // 2 for i in asked], np.int32),
            "distance": np.array([(distance or {}).get(i, 0.0) for i in asked], np.float32),
        }
        self.ledger.add(Record.model_validate({
            **facts, **self.origin(), "key": key, "dataset": self.dataset, "asked": asked, "fell": fell,
            "images": self.ledger.put_images(key, arrays), "bundle": sha("b") if fell else None, "doubts": [],
            "access": None if threat is None else "gradients",
            "cost": {"forwards": 1, "backwards": 1, "seconds": 1.0}, **changes,
        }))  # fmt: skip
        return fell


@pytest.fixture
def story(tmp_path):
    """A ledger with one model and a cascade of two attacks, and what was done to each image."""
    rng = random.Random(1)
    writer = Evidenced(Ledger(tmp_path / "ledger"))
    writer.ledger.add(
        DatasetCard(
            key=sha("digits"), name="digits", classes=["ant", "bee", "cat", "dog"], channels=1, size=8,
            labels=[i % CLASSES for i in range(N)],
        )
    )  # fmt: skip
    attacks = ["first@1()", "second@1()"]
    for name, members in (("both", attacks), ("one", attacks[:1])):
        facts = {"name": name, "attacks": members, "strict": True}
        writer.ledger.add(ColumnCard.model_validate({"key": digest(facts), **facts}))
    writer.training("at", "w", history=())

    def reading(image, share):
        return (image + rng.randrange(1, CLASSES)) % CLASSES if rng.random() < share else image % CLASSES

    told = {"clean": {i: reading(i, 0.15) for i in range(N)}}
    spent = {"clean": dict.fromkeys(range(N), 1)}
    standing = set(range(N)) - set(writer.judged("clean@1()", told["clean"], spent["clean"], threat=None))
    for attack, share in zip(attacks, (0.3, 0.4), strict=True):
        told[attack] = {i: reading(i, share) for i in sorted(standing)}
        spent[attack] = {i: rng.randrange(2, 40) for i in standing}
        standing -= set(writer.judged(attack, told[attack], spent[attack]))
    return writer.ledger, told, spent, standing


def of(ledger):
    site = build(ledger)
    (((section, row),),) = by_model(site).values()
    return site, section, row


def test_accuracy_by_class_is_a_recount(story):
    """Of each class as many stand as a loop over images and labels counts, in every column."""
    ledger, told, _, standing = story
    site, _, row = of(ledger)
    labels = Labels.on(site.documents.datasets[0])
    for column, alive in {
        "both": standing,
        "worst": standing,
        "one": {i for i, y in told["first@1()"].items() if y == i % CLASSES},
        "clean": {i for i, y in told["clean"].items() if y == i % CLASSES},
    }.items():
        expected = [(sum(i in alive for i in range(k, N, CLASSES)), N // CLASSES) for k in range(CLASSES)]
        assert [(s.standing, s.n) for s in labels.shares(row.evidence.columns[column])] == expected
        assert sum(s for s, _ in expected) == row.evidence.columns[column].standing


def test_confusion_is_a_recount(story):
    """Every image is in the matrix once, under its class and the class that was read when it fell."""
    ledger, told, _, _ = story
    site, _, row = of(ledger)
    labels = Labels.on(site.documents.datasets[0])
    found = confusion(row.evidence.exams["both"], row.evidence.clean, labels, N, Sidecars(ledger).predicted)
    expected = np.zeros((CLASSES, CLASSES), int)
    for image in range(N):
        readings = [told[a][image] for a in ("clean", "first@1()", "second@1()") if image in told[a]]
        expected[image % CLASSES, next((y for y in readings if y != image % CLASSES), image % CLASSES)] += 1
    assert (np.array(found.counts) == expected).all()
    assert found.untold == 0
    assert np.trace(expected) == row.evidence.columns["both"].standing
    assert [k for _, _, k in found.mistakes] == sorted(expected[~np.eye(CLASSES, dtype=bool)], reverse=True)[
        : len(found.mistakes)
    ]


def test_a_fallen_image_of_which_no_other_class_is_recorded_is_counted_apart(story):
    """As where a logit was no number: it fell, and the class in the sidecar is its own."""
    ledger, _, _, _ = story
    site, _, row = of(ledger)
    labels = Labels.on(site.documents.datasets[0])
    right = np.arange(N) % CLASSES
    found = confusion(row.evidence.exams["both"], row.evidence.clean, labels, N, lambda record, n: right)
    assert found.untold == N - row.evidence.columns["both"].standing
    assert sum(map(sum, found.counts)) == row.evidence.columns["both"].standing


def test_passes_are_a_recount(story):
    """After p passes those stand whose attacks had not felled them by then: clean's one, then each attack's whole."""
    ledger, told, spent, _ = story
    _, _, row = of(ledger)
    steps = spent_until_fallen(row.evidence.exams["both"], row.evidence.clean, N, Sidecars(ledger))
    ends = {}
    for image in range(N):
        total = 0
        for attack in ("clean", "first@1()", "second@1()"):
            if image in told[attack]:
                total += spent[attack][image]
                if told[attack][image] != image % CLASSES:
                    ends[image] = total
                    break
    for budget in (1, 2, 5, 10, 20, 40, 80):
        expected = (N - sum(end <= budget for end in ends.values())) / N
        assert [y for x, y in steps if x <= budget][-1] == pytest.approx(expected)


def test_passes_of_one_run_for_several_cells_are_not_told(story):
    """Nothing says which of the cells they belong to."""
    ledger, told, spent, _ = story
    writer = Evidenced(ledger)
    facts = {"name": "shared", "attacks": ["third@1()"], "strict": True}
    ledger.add(ColumnCard.model_validate({"key": digest(facts), **facts}))
    writer.judged("third@1()", told["first@1()"], spent["first@1()"], run=sha("another cell"))
    _, _, row = of(ledger)
    assert spent_until_fallen(row.evidence.exams["shared"], row.evidence.clean, N, Sidecars(ledger)) is None


def test_alone_is_a_recount(story):
    """What second felled of the images that first was asked too is all its own, for first failed on each."""
    ledger, told, _, _ = story
    _, _, row = of(ledger)
    fell = {a: {i for i, y in told[a].items() if y != i % CLASSES} for a in ("first@1()", "second@1()")}
    tallies = row.evidence.tallies
    assert tallies["second@1()"].fell == tallies["second@1()"].alone == len(fell["second@1()"]) > 0
    assert tallies["first@1()"].fell == len(fell["first@1()"]) > 0
    assert tallies["first@1()"].alone == 0  # nothing else was asked about what it felled


def test_columns_on_fewer_images_are_compared_on_those():
    """Clean accuracy on a thousand images says nothing beside an attack's on the first two hundred of them."""
    clean = Fallen(0b1000_0010, 8)
    assert clean.on(Fallen(0, 4)) == Fallen(0b0010, 4)
    assert clean.on(Fallen(0, 9)) == clean


def test_a_damaged_sidecar_is_left_out_and_not_fatal(story):
    """The page of the model is there, without what the sidecar would have told."""
    ledger, _, _, _ = story
    site = build(ledger)
    (whole,) = model_pages(site)
    for path in ledger.root.glob("*/*.safetensors"):
        path.write_bytes(b"damaged")
    with pytest.raises(MissingError, match="damaged"):
        Sidecars(ledger).predicted(site.documents.records[0], N)
    (page,) = model_pages(site)
    assert b"What images were taken for" in whole.content and b"Robust accuracy over passes" in whole.content
    assert b"What images were taken for" not in page.content and b"Robust accuracy over passes" not in page.content
    assert b"Accuracy by class" in page.content


def test_a_sidecar_that_is_no_sidecar_is_not_fatal_either(story):
    """A file that has the hash it is named by, and holds nothing that can be read; and one with too few images."""
    ledger, _, _, _ = story
    for content in (b"not a tensor in sight", None):
        writer = Evidenced(ledger, dataset=f"other {content}")
        key = writer.cell("w", "clean@1()", range(9), [1]).parent.name
        if content is None:
            few = {name: np.zeros(3, np.int32) for name in ("predicted", "forwards", "backwards", "distance")}
            images = ledger.put_images(key, few)
        else:
            images = hashlib.sha256(content).hexdigest()
            (ledger.root / key / f"{images}.safetensors").write_bytes(content)
        record = next(r for r in build(ledger).documents.records if r.key == key)
        with pytest.raises(MissingError):
            Sidecars(ledger).predicted(record.model_copy(update={"images": images}), N)


def test_labels_that_are_no_classes_are_passed_over():
    """A card may be damaged in ways that its schema does not see."""
    card = DatasetCard(key=sha("x"), name="x", classes=["a", "b"], channels=1, size=8, labels=[0, 7, 1, -1, 1])
    shares = Labels.on(card).shares(Fallen(0b100, 5))
    assert [(s.standing, s.n) for s in shares] == [(1, 1), (1, 2)]


def test_the_weakest_class_comes_first():
    """By what stands; classes without images are not ranked."""
    shares = [Share("a", 5, 10), Share("none", 0, 0), Share("b", 1, 10), Share("c", 9, 10)]
    assert [s.name for s in ordered(shares)] == ["b", "a", "c"]
