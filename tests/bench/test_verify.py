"""Verification: true records hold, and whatever is changed in one is found and named."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from bench.answer import Question
from bench.errors import IncompleteError, UsageError
from bench.executors import Inline
from bench.records import Record, VerificationRecord
from bench.request import resolve
from bench.run import run
from bench.verify import Datasets, attest, verify
from leaderboard.documents import Documents
from leaderboard.table import table
from tests.bench.conftest import ASK
from tests.bench.test_ledger import keyed
from tests.conftest import TINY

ATTACKS = ("clean", "slow", "walks")


def record(place, attack):
    """One record of an attack; the same one each time."""
    found = [d for d in place.ledger.all() if isinstance(d, Record) and d.attack.startswith(attack)]
    return min(found, key=lambda r: r.key)


def path(place, of):
    """The file of a record."""
    return next(f for f, read in place.ledger.files() if read() == of)


def forge(place, of, *, tensors=None, sidecar=None, **changes):
    """Put a changed record in place of one, with a key, names and hashes as they should be; give the new one."""
    path(place, of).unlink()
    if tensors is not None:
        changes["bundle"] = place.store.put({**place.store.get(of.bundle), **tensors})
    if sidecar is not None:
        beside = {**place.ledger.images(of), **sidecar}
        changes["images"] = place.ledger.put_images(of.key, beside)
    new = Record.model_validate(keyed({**json.loads(of.model_dump_json(by_alias=True)), **changes}))
    if new.key != of.key:
        place.ledger.put_images(new.key, place.ledger.images(of))
    place.ledger.add(new)
    return new


def faults(place, of):
    """What is found of a record, as sentences."""
    (checked,) = [c for c in verify(place, Datasets(place)) if c.record == of]
    assert not checked.missing
    return "; ".join(map(str, checked.faults))


def flip(file):
    """Change one byte of a file, in its middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_true_records_hold(here):
    """All of them: of clean every image is asked, else the fallen ones, once each; then all cells are verified."""
    answers = verify(here, Datasets(here))
    assert {c.record.attack.partition("@")[0] for c in answers} == set(ATTACKS) and all(c.holds for c in answers)
    for c in answers:
        assert c.images == c.forwards == len(c.record.asked if c.record.threat is None else c.record.fell) > 0
    assert any(c.rounded for c in answers)
    assert not Documents.of(here.ledger).verified
    first = answers[0]
    assert attest(here, first, "me") and not attest(here, first, "me")
    (said,) = here.ledger.of(first.record.key, VerificationRecord)
    assert (said.record, said.images, said.by) == (path(here, first.record).stem, first.images, "me")
    assert Documents.of(here.ledger).verified == {first.record.key}
    (section,) = table(here.ledger).sections
    assert {row.tier for row in section.rows} == {"measured"}  # not all of its records are


def test_the_command(bench, here):
    """Exit code 0, a document, an attestation for each record; a prefix chooses; other words are refused."""
    done = bench("verify", "--plugin", str(TINY), "--json", "--by", "a reader")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["records"], found["hold"], found["attested"], found["faults"]) == (6, 6, 6, [])
    again = json.loads(bench("verify", "ledger", "--plugin", str(TINY), "--json").stdout)
    assert (again["hold"], again["attested"]) == (6, 6)  # by nobody in particular, this time
    assert Documents.of(here.ledger).verified == {path.parent.name for path in here.ledger.root.glob("*/*.safetensors")}
    assert {row.tier for section in table(here.ledger).sections for row in section.rows} == {"verified"}
    one = json.loads(bench("verify", record(here, "slow").key[:10], "--plugin", str(TINY), "--json").stdout)
    assert (one["records"], one["hold"]) == (1, 1)
    assert bench("verify", "nowhere").returncode == bench("verify", "0123456789").returncode == 2


@pytest.mark.parametrize("what", ["record", "sidecar", "bundle", "weights"])
def test_one_byte(bench, here, what):
    """One byte of any file: exit code 5, and its name."""
    one = record(here, "slow")
    file = {
        "record": path(here, one), "sidecar": here.ledger_root / one.key / f"{one.images}.safetensors",
        "bundle": here.store.path(one.bundle), "weights": here.store.path(one.weights),
    }[what]  # fmt: skip
    flip(file)
    done = bench("verify", "--plugin", str(TINY))
    assert (done.returncode, file.name in done.stderr) == (5, True), done.stderr


@pytest.mark.parametrize("what", ["bundle", "weights", "plugin", "data"])
def test_missing(bench, here, what):
    """What is not there cannot be told: exit code 4, and its name; what it has nothing to do with holds."""
    one = record(here, "slow")
    words, name = ("--plugin", str(TINY)), {"bundle": one.bundle, "weights": one.weights, "plugin": "tiny"}.get(what)
    if what == "plugin":
        words = ()
    elif what == "data":
        forge(here, one, test="0" * 64, dataset="npz:gone.npz")
        name = "npz:gone.npz"
    else:
        here.store.path(name).unlink()
    done = bench("verify", *words, "--json")
    assert (done.returncode, name in done.stderr) == (4, True), done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == [] and found["hold"] == {"bundle": 5, "weights": 3, "plugin": 0, "data": 5}[what]


@pytest.mark.parametrize("attack", ["clean", "slow"])
def test_a_lower_accuracy_than_is_proved(here, attack):
    """An image is added to those that fell, with figures to match: it is named."""
    one = record(here, attack)
    image = next(i for i in one.asked if i not in one.fell)
    row, beside = one.asked.index(image), here.ledger.images(one)
    beside = {name: column.copy() for name, column in beside.items()}
    beside["predicted"][row], beside["margin"][row] = (beside["predicted"][row] + 1) % 10, -1
    beside["distance"][row] = 0 if attack == "clean" else 0.1
    new = forge(here, one, fell=[*one.fell, image], sidecar=beside)
    assert f"image {image}" in faults(here, new)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_higher_accuracy_than_is_proved(here, attack):
    """An image that fell is left out: it is named, with the old figures and with false ones."""
    one = record(here, attack)
    new = forge(here, one, fell=one.fell[1:])
    assert f"image {one.fell[0]}" in faults(here, new)
    row, beside = one.asked.index(one.fell[0]), here.ledger.images(one)
    beside = {name: column.copy() for name, column in beside.items()}
    dataset = Datasets(here).of(one.test, one.dataset)
    beside["predicted"][row], beside["margin"][row] = dataset.test.y[one.fell[0]], 1
    beside["distance"][row] = 0.1 if attack == "slow" else 0 if attack == "clean" else float("inf")
    again = forge(here, new, sidecar=beside)
    assert f"image {one.fell[0]}" in faults(here, again)


def test_other_weights(here):
    """A record that claims other weights of the same net: images are named that those read aright."""
    one = record(here, "slow")
    others = {d.weights for d in here.ledger.all() if isinstance(d, Record)} - {one.weights}
    assert "the model reads them aright" in faults(here, forge(here, one, weights=others.pop()))


def test_another_net(here):
    """Weights that are not of the net that a record names."""
    new = forge(here, record(here, "slow"), net="cnn@1()")
    assert "are not those of a cnn@1()" in faults(here, new)


def test_outside_ball_or_box(here):
    """Images that leave the ball or the box, or are no numbers, in bundles whose hashes are right."""
    one = record(here, "slow")
    dataset = Datasets(here).of(one.test, one.dataset)
    plain = torch.from_numpy(dataset.test.x[one.fell]).float() / 255
    ids = torch.tensor(one.fell)
    for spoilt, words in (
        (1 - plain, "outside the ball linf:0.2"), (plain - 0.15, "outside [0, 1]"), (plain + torch.nan, "not numbers"),
        (plain, "the model reads them aright"),
    ):  # fmt: skip
        name = here.store.put({"ids": ids, "images": spoilt})
        one = forge(here, one, bundle=name)
        said = faults(here, one)
        assert words in said and str(one.fell[0]) in said


def test_bundles_of_other_images(here):
    """A bundle that has an image too few, too many or twice, or none at all, is not that of the record."""
    one = record(here, "slow")
    new = forge(here, one, bundle=None)
    assert "names no bundle" in faults(here, new)
    other = next(r for r in here.ledger.all() if isinstance(r, Record) and r.attack == one.attack and r.key != one.key)
    new = forge(here, new, bundle=other.bundle)
    assert "did not fall by the record" in faults(here, new) or "no image of what fell" in faults(here, new)
    x = torch.zeros(len(one.fell), 1, 8, 8)
    twice = torch.tensor([one.fell[0], *one.fell[:-1]])
    assert f"twice: image {one.fell[0]}" in faults(
        here, forge(here, new, bundle=here.store.put({"ids": twice, "images": x}))
    )


@pytest.mark.parametrize(
    ("attack", "name", "value", "words"),
    [
        ("walks", "margin", -9.0, "the margin is not"),
        ("clean", "margin", -9.0, "the margin is not"),
        ("slow", "distance", 0.5, "outside linf:0.2"),
        ("slow", "distance", 0.01, "farther than the record says"),
        ("walks", "distance", 0.01, "farther than the record says"),
        ("walks", "distance", float("inf"), "no distance"),
        ("clean", "distance", 0.1, "they were moved"),
    ],
)
def test_figures_beside_a_record(here, attack, name, value, words):
    """A margin or distance that is not that of the images; of a rounded image a distance may be too large alone."""
    one = record(here, attack)
    column = here.ledger.images(one)[name].copy()
    column[[one.asked.index(i) for i in one.fell]] = value
    said = faults(here, forge(here, one, sidecar={name: column}))
    assert words in said and str(one.fell[0]) in said


def test_figures_that_are_not_whole(here):
    """A column too short, of another type or missing."""
    one = record(here, "slow")
    margin = here.ledger.images(one)["margin"]
    counted = forge(here, one, sidecar={"margin": margin.astype("int32")})
    assert "beside it, margin is int32" in faults(here, counted)
    new = forge(here, counted, sidecar={"margin": margin[1:]})
    assert f"margin has the shape ({len(margin) - 1},)" in faults(here, new)
    cheap = {**one.cost.model_dump(), "forwards": 1}
    assert "it says 1 forwards" in faults(here, forge(here, new, images=one.images, cost=cheap))


def test_a_random_model_holds(place):
    """Fallen images of a model that draws random numbers: asked as the judge asks, over and over."""
    request = replace(ASK, net="noisy(sd=0.05)", columns=("clean", "slow"), seeds=(0,), n=60)
    run(resolve(request, place), place, Inline(), report=lambda _line: None)
    answers = verify(place, Datasets(place))
    assert len(answers) == 2 and all(c.holds for c in answers) and answers[0].forwards == 100 * answers[0].images


def test_a_data_set_by_another_name(bench, here):
    """A record whose data set has another name here is checked on the images of the same hash."""
    one = record(here, "slow")
    words = ("verify", forge(here, one, dataset="npz:theirs.npz").key[:12], "--plugin", str(TINY))
    assert bench(*words).returncode == 4
    assert bench(*words, "--dataset", "digits").returncode == 0
    with pytest.raises(UsageError, match="digits"):
        verify(here, Datasets(here, ("digitz",)))


def test_every_other_file_still_counts(bench, here):
    """After damage the rest is recounted all the same, and nothing of a bad record is attested."""
    one = record(here, "walks")
    flip(here.store.path(one.bundle))
    found = json.loads(bench("verify", "--plugin", str(TINY), "--json").stdout)
    assert (found["hold"], found["attested"], [f["record"] for f in found["faults"]]) == (5, 5, [path(here, one).stem])
    assert one.key not in Documents.of(here.ledger).verified


def test_a_ledger_that_cannot_be_written(bench, here, monkeypatch):
    """What was found is said all the same, and then why nothing was attested: exit code 4."""

    def full(_path, *_content):
        raise IncompleteError("cannot write: the disk is full")

    monkeypatch.setattr("bench.ledger.write_once", full)
    done = bench("verify", "--plugin", str(TINY), "--json")
    assert (done.returncode, json.loads(done.stdout)["hold"], json.loads(done.stdout)["attested"]) == (4, 6, 0)
    assert "the disk is full" in done.stderr
    assert bench("verify", "--plugin", str(TINY), "--no-attest").returncode == 0


def test_safetensors_that_are_none(bench, here):
    """A bundle of the right hash that is no safetensors file at all."""
    one = record(here, "slow")
    junk = b"junk" * 10
    name = hashlib.sha256(junk).hexdigest()
    here.store.path(name).parent.mkdir(exist_ok=True)
    here.store.path(name).write_bytes(junk)
    new = forge(here, one, bundle=name)
    assert name in faults(here, new)


def test_the_edge(here):
    """Two classes a hair apart: on the record's machine that decides, on another it may, of one image in a hundred."""
    old = record(here, "clean")
    high = {k: v + 1e5 if k.endswith("bias") else v for k, v in here.store.get(old.weights).items()}
    dataset = Datasets(here).of(old.test, old.dataset)
    cell = replace(old.cell, weights=here.store.put(high))
    (one,) = Question(cell, tuple(range(120)), "digits", dataset.shape).do(here)
    assert faults(here, one) == ""
    machine = one.machine.model_dump()
    for extra, name, holds in ((1, machine["name"], False), (1, "another", True), (5, "another", False)):
        more = [i for i in one.asked if i not in one.fell][:extra]
        beside = {name: column.copy() for name, column in here.ledger.images(one).items()}
        beside["predicted"][more] = (beside["predicted"][more] + 1) % 10
        beside["margin"][more] = 0
        changed = {"fell": sorted([*one.fell, *more]), "machine": {**machine, "name": name}}
        said = faults(here, forge(here, one, sidecar=beside, **changed))
        assert (said == "") is holds, said
        here.ledger.add(one)
        for path_, read in here.ledger.files():
            if read().key == one.key and read() != one:
                path_.unlink()
