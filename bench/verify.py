"""Verification: a record's claim is recounted from its bundle, with one forward pass an image.

A record holds if its sidecar says what it says, if its bundle has exactly the images that fell, if each of them is in
ball and box, and if the bare model misreads each.  Of clean, and of whatever has no threat, all images that were asked
are recounted.  What cannot be recounted is that the other images stand: nothing but a better attack shows that.

Ball and box are measured in float64, with the judge's own allowance for rounding (`ThreatModel.limit`); the box has
none.  Logits may differ in their last digits between machines: on another one than the record's, an image whose first
two classes are apart by less than 1e-4 of the largest logit is taken as claimed, unless there are more than one, and
more than one in a hundred, whom that helps; they are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench import bundles
from bench.errors import IncompleteError, IntegrityError, RampartError, UsageError
from bench.evaluate import VOTES, Subject, images, margin, misread
from bench.exam import Condition, Dataset
from bench.official import corruption
from bench.origin import about
from bench.place import THREADS
from bench.records import Record, VerificationRecord
from bench.threat import ThreatModel
from bench.victim import be_exact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.ledger import Ledger
    from bench.place import Place
    from bench.recipe import Recipe

Figures = dict[str, Any]  # the sidecar's arrays, by name
HAIR = 1e-4  # of the largest logit: by so much two machines may differ
RARE = 100  # one in so many images may be on the edge
NEAR = 1e-2  # of the largest logit: so far a figure beside a record may be off; new filters of spoilt images did less
ROUNDS = 5  # of twenty forwards: a random model misreads a fallen image if the majority of one of them does
NAMED = 20  # images that a sentence names; of the others it gives the number


@dataclass(frozen=True)
class Fault:
    """One thing that does not hold: what, and of which images; or of what is missing."""

    what: str
    images: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.images:
            return self.what
        more = f" and {len(self.images) - NAMED:,} more" if len(self.images) > NAMED else ""
        noun = "image" if len(self.images) == 1 else "images"
        return f"{self.what}: {noun} {', '.join(map(str, self.images[:NAMED]))}{more}"


@dataclass(frozen=True)
class Checked:
    """What became of one record, or of a file that could not be read as one."""

    file: str  # the hash that names it
    record: Record | None
    images: int = 0  # recounted
    forwards: int = 0
    rounded: int = 0  # images that are kept as uint8
    hair: int = 0  # images that another machine might see on the other side
    faults: tuple[Fault, ...] = ()  # it does not hold
    missing: str = ""  # it cannot be told

    @property
    def holds(self) -> bool:
        """Whether all was recounted, and as claimed."""
        return not self.faults and not self.missing

    def __str__(self) -> str:
        r = self.record
        if r is None:
            return f"file {self.file[:12]}"
        where = "" if r.condition == "clean" else f" under {r.condition}"
        return f"record {self.file[:12]} ({r.attack}{where} on {r.dataset}, weights {r.weights[:8]}, cell {r.key[:12]})"


@dataclass
class Datasets:
    """Data sets by the hash of their test part: those that were named, and else those that records name."""

    place: Place
    named: Sequence[str] = ()
    _found: dict[str, Dataset] = field(default_factory=dict)
    _tried: dict[str, str] = field(default_factory=dict)  # why one does not do, by recipe

    def __post_init__(self) -> None:
        for text in self.named:
            self._parse(text)  # a misspelt name is an error at once

    def of(self, test: str, name: str) -> Dataset:
        """The data set of that test part; IncompleteError says what was looked at."""
        for text in (*self.named, name):
            if test not in self._found and text not in self._tried:
                self._load(text)
        if test in self._found:
            return self._found[test]
        looked = "; ".join(self._tried[text] for text in dict.fromkeys((name, *self.named)))
        raise IncompleteError(
            f"the data set {name} with test part {test[:12]} is not here ({looked}); name it with --dataset"
        )

    def recipe(self, test: str, name: str) -> Recipe:
        """The recipe of the data set of that test part."""
        self.of(test, name)
        return next(r for r in map(self._parse, (*self.named, name)) if self.place.dataset(r).test.hash == test)

    def _load(self, text: str) -> None:
        try:
            dataset = self.place.dataset(self._parse(text))
        except RampartError as error:
            self._tried[text] = str(error)
        else:
            self._tried[text] = f"{text} here has the test part {dataset.test.hash[:12]}"
            self._found[dataset.test.hash] = dataset

    def _parse(self, text: str) -> Recipe:
        return self.place.registry.parse("dataset", text)


def verify(
    place: Place, datasets: Datasets, *, prefix: str = "", tell: Callable[[int, int, Checked], None] | None = None
) -> list[Checked]:
    """Recount every record, or those whose cell or file begins so; damaged files are among the answers."""
    found = list(_records(place.ledger, prefix))
    if prefix and not found:
        raise UsageError(f"{prefix}: no record in {place.ledger_root} has a key or a file that begins so")
    # One data set and one model at a time, since few are held at once.
    found.sort(key=lambda c: (c.record.test, c.record.net, c.record.weights, c.record.condition) if c.record else ())
    answers = []
    for checked in found:
        answer = check(place, datasets, checked.file, checked.record) if checked.record else checked
        answers.append(answer)
        if tell:
            tell(len(answers), len(found), answer)
    return answers


def _records(ledger: Ledger, prefix: str) -> Iterator[Checked]:
    """The records, not yet checked, and the files that cannot be read."""
    for path, read in ledger.files():
        if not path.stem.startswith(prefix) and not path.parent.name.startswith(prefix):
            continue
        try:
            document = read()
        except IntegrityError as error:
            yield Checked(path.stem, None, faults=(Fault(str(error)),))
        except IncompleteError as error:
            yield Checked(path.stem, None, missing=str(error))
        else:
            if isinstance(document, Record):
                yield Checked(path.stem, document)


def check(place: Place, datasets: Datasets, file: str, record: Record) -> Checked:
    """Recount one record."""
    be_exact(THREADS)
    try:
        sidecar = place.ledger.images(record)
        dataset = datasets.of(record.test, record.dataset)
        if max(record.asked) >= len(dataset.test):
            raise IntegrityError(f"it asks image {max(record.asked)}; the test part has {len(dataset.test):,} images")
        subject = _subject(place, record, dataset)
        faults = list(_of_sidecar(record, sidecar, dataset, random=subject.random))
        if faults:
            return Checked(file, record, faults=tuple(faults))
        return _recount(place, file, record, sidecar, dataset, subject)
    except IntegrityError as error:
        return Checked(file, record, faults=(Fault(str(error)),))
    except RampartError as error:
        return Checked(file, record, missing=str(error))


def _subject(place: Place, record: Record, dataset: Dataset) -> Subject:
    """The model that a record names; weights that are not of its net are a fault of the record."""
    try:
        return place.subject(record.net, record.weights, dataset.shape)
    except RuntimeError as error:  # torch's, where they do not fit
        raise IntegrityError(f"the weights {record.weights} are not those of a {record.net}") from error


def _of_sidecar(record: Record, sidecar: Figures, dataset: Dataset, *, random: bool) -> Iterator[Fault]:
    """What in the figures beside a record is not what the record says; nothing is asked of the model."""
    kinds = {"predicted": "i", "margin": "f", "distance": "f", "forwards": "i", "backwards": "i"}
    for name, kind in kinds.items():
        column = sidecar.get(name)
        if column is None or column.dtype.kind != kind:
            got = "missing" if column is None else column.dtype.name
            yield Fault(f"beside it, {name} is {got}; expected one figure for each of the {len(record.asked):,} images")
            return
    for name, claimed in (("forwards", record.cost.forwards), ("backwards", record.cost.backwards)):
        if int(sidecar[name].sum()) != claimed:
            yield Fault(f"it says {claimed:,} {name}, and beside it they are {int(sidecar[name].sum()):,}")
    asked, fell = np.array(record.asked), np.isin(record.asked, record.fell)
    labels, distance = dataset.test.y[asked], sidecar["distance"]

    def fault(what: str, rows: NDArray[np.bool_]) -> Iterator[Fault]:
        if rows.any():
            yield Fault(what, tuple(asked[rows].tolist()))

    if not random:  # of a random model these are means
        right = sidecar["predicted"] == labels
        wrong = ~right | (sidecar["margin"] < 0)
        yield from fault("they stand, and beside the record they are misread", ~fell & wrong)
        # Logits that are not numbers are misread whatever is predicted.
        yield from fault(
            "they fell, and beside the record they are read aright", fell & right & (sidecar["margin"] > 0)
        )
    if record.threat is None:
        yield from fault("they were moved, and without a threat no image is", distance != 0)
        return
    threat = ThreatModel.of_cell(record.threat)
    if threat == threat.without_bound:
        yield from fault("they stand, and beside the record they have a distance", ~fell & np.isfinite(distance))
        yield from fault("they fell, and beside the record they have no distance", fell & ~np.isfinite(distance))
    else:
        yield from fault(f"beside the record they are outside {threat}", ~(distance <= threat.limit))


@dataclass(frozen=True, eq=False)
class _Seen:
    """What recounting saw of some images; a value each."""

    size: Tensor  # float64, in the threat's norm
    outside: Tensor  # of the box, or not numbers: bool
    once: Tensor  # misread by some majority: bool
    always: Tensor  # misread by each majority: bool; the same but of random models
    logits: Tensor  # (n, K)
    label: Tensor
    tied: Tensor  # whether another machine may see it on the other side: bool


def _recount(place: Place, file: str, record: Record, sidecar: Figures, dataset: Dataset, subject: Subject) -> Checked:
    """Ask the model, and set what it says against the record."""
    threat = ThreatModel.of_cell(record.threat) if record.threat else None
    bundle = _bundle(place, record, dataset)
    if threat and (bundle is None or not len(bundle.ids)):
        return Checked(file, record)  # nothing fell, and nothing is to be proved
    seen = _see(place, record, dataset, subject, threat, bundle)
    ids = bundle.ids if threat and bundle else torch.tensor(record.asked)
    rounded = bundle.rounded if threat and bundle else torch.zeros(len(ids), dtype=torch.bool)
    fell = torch.from_numpy(np.isin(ids.numpy(), record.fell))
    rows = np.searchsorted(record.asked, ids.numpy(), sorter=(order := np.argsort(record.asked)))
    beside = {name: torch.from_numpy(sidecar[name][order[rows]]) for name in ("predicted", "margin", "distance")}
    loose = seen.tied & (fell != seen.once)
    if not _elsewhere(place, record, subject) or int(loose.sum()) > max(1, len(ids) // RARE):
        loose = torch.zeros_like(loose)
    faults = []

    def hold(what: str, bad: Tensor) -> None:
        if bad.any():
            faults.append(Fault(what, tuple(ids[bad].tolist())))

    hold("they fell by the record, and the model reads them aright", fell & ~seen.once & ~loose)
    hold("they stand by the record, and the model misreads them", ~fell & seen.always & ~loose)
    if threat:
        hold("they are outside [0, 1], or not numbers", seen.outside)
        # An image that was rounded may be nearer than the attack's own, about which the record speaks, but no farther.
        most = beside["distance"].double() * (1 + 1e-6) + 1e-7
        least = beside["distance"].double() * (1 - HAIR) - 1e-5
        hold(f"they are outside the ball {threat}", ~threat.holds(seen.size))
        hold("they are farther than the record says", ~(seen.size <= most))
        hold("they are nearer than the record says", ~rounded & ~(seen.size >= least))
    if not subject.random:
        own = seen.logits.gather(1, beside["predicted"].long()[:, None].clamp(0, seen.logits.shape[1] - 1))[:, 0]
        scale = seen.logits.abs().amax(1).clamp_min(1)
        there = seen.logits.isfinite().all(1) & ~rounded
        hold("another class is predicted than the record says", there & (seen.logits.amax(1) - own > NEAR * scale))
        off = (margin(seen.logits, seen.label) - beside["margin"]).abs()
        hold("the margin is not what the record says", there & ~(off <= NEAR * scale))
    forwards = len(ids) * (VOTES * ROUNDS if subject.random else 1)
    return Checked(file, record, len(ids), forwards, int(rounded.sum()), int(loose.sum()), tuple(faults))


def _bundle(place: Place, record: Record, dataset: Dataset) -> bundles.Bundle | None:
    """The images that prove a record, which must be of exactly those that fell; None where there need be none."""
    if record.bundle is None:
        if record.fell and record.threat:
            raise IntegrityError(f"{len(record.fell):,} images fell by it, and it names no bundle that would prove it")
        return None
    bundle = bundles.read(place.store, record.bundle, dataset.test)
    there, fell = bundle.ids.tolist(), set(record.fell)
    faults = [
        Fault("the bundle has no image of what fell by the record", tuple(sorted(fell - set(there)))),
        Fault("the bundle has images that did not fall by the record", tuple(sorted(set(there) - fell))),
        Fault("the bundle has an image twice", tuple(sorted(i for i, times in Counter(there).items() if times > 1))),
    ] if len(there) != len(fell) or set(there) != fell else []  # fmt: skip
    if faults:
        raise IntegrityError("; ".join(str(f) for f in faults if f.images))
    return bundle


def _see(
    place: Place, record: Record, dataset: Dataset, subject: Subject, threat: ThreatModel | None,
    bundle: bundles.Bundle | None,
) -> _Seen:  # fmt: skip
    """One forward pass an image, in tiles: of the bundle's, or without a threat of the test images as they are."""
    condition = Condition.parse(record.condition)
    recipe = corruption(condition.corruption, place.registry, dataset) if condition.corruption else None
    if recipe and recipe.key != condition.corruption:
        raise IncompleteError(f"its condition is {record.condition}; this version has {recipe.key}")
    ids = bundle.ids if threat and bundle else torch.tensor(record.asked)
    seen = []
    for rows in torch.arange(len(ids)).split(4 * subject.tile):
        x, y = images(dataset.test, ids[rows], place.device, recipe, condition.severity)
        x_adv = bundle.images[rows].to(place.device) if threat and bundle else x
        asked = x_adv.nan_to_num(0.5).clamp(0, 1)
        logits, votes = _votes(subject, asked, y)
        lead = margin(logits, y).abs()
        seen.append(
            _Seen(
                bundles.distances(x_adv.cpu(), x.cpu(), threat), ~((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1).cpu(),
                votes.any(0).cpu(), votes.all(0).cpu(), logits.cpu(), y.cpu(),
                (lead <= HAIR * logits.abs().amax(1)).cpu(),
            )
        )  # fmt: skip
    return _Seen(*(torch.cat([getattr(s, name) for s in seen]) for name in _Seen.__dataclass_fields__))


def _votes(subject: Subject, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (n, K), and what each majority says: (1, n), of random models (5, n)."""
    if not subject.random:
        logits, wrong = misread(subject, x, y)
        return logits, wrong[None]
    torch.manual_seed(0)
    rounds = [misread(subject, x, y) for _ in range(ROUNDS)]
    return torch.stack([z for z, _ in rounds]).mean(0), torch.stack([wrong for _, wrong in rounds])


def _elsewhere(place: Place, record: Record, subject: Subject) -> bool:
    """Whether the record was made where arithmetic may differ from here."""
    here = about(place.device, subject.tile)
    then, now = record.machine, here["machine"]
    same = (then.device, then.name, then.tile) == (now.device, now.name, now.tile)
    return not same or record.versions.get("torch") != here["versions"]["torch"]


def attest(place: Place, checked: Checked, by: str = "") -> bool:
    """Write into the ledger that a record was recounted and holds; whether that is new."""
    assert checked.record is not None and checked.holds
    facts = about(place.device, 0)
    before = [v for v in place.ledger.of(checked.record.key, VerificationRecord) if v.record == checked.file]
    if any((v.by, v.machine, v.versions, v.commit) == (by, *(facts[k] for k in _ORIGIN)) for v in before):
        return False
    place.ledger.add(
        VerificationRecord(
            key=checked.record.key,
            record=checked.file,
            images=checked.images,
            forwards=checked.forwards,
            by=by,
            **facts,
        )
    )
    return True


_ORIGIN = ("machine", "versions", "commit")
