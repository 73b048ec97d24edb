"""An audit: survivors that nobody could foresee are attacked again, harder, and what was missed is bounded.

A robust accuracy is an upper bound: a stronger attack may take more.  An audit draws k of a column's survivors by a
hash of a beacon (a text that nobody knew when the records were made: a lottery's numbers, a block of a public chain)
and of the keys of the cells behind the column, so anyone with the same beacon draws the same images.  From how many of
them fall it follows, by the exact binomial interval (Clopper and Pearson, 1934, one-sided), which share of all
survivors these attacks would take at most; drawing without replacement only makes the bound safer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.answer import Question
from bench.errors import UsageError, nearest
from bench.exam import CLEAN, Cell
from bench.outcomes import Outcome
from bench.recipe import Attack, Recipe
from bench.records import Record
from bench.standing import Standing, Standings
from bench.stats import clopper_pearson
from bench.surrogates import pinned
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from bench.ledger import Ledger
    from bench.place import Place
    from bench.verify import Datasets


@dataclass(frozen=True)
class Audit:
    """What an audit of one column of one model found."""

    standing: Standing
    survivors: int
    chosen: tuple[int, ...]  # images, in the order of their hashes
    fell: tuple[int, ...]
    attacks: tuple[str, ...]  # keys
    seed: int
    alpha: float
    records: tuple[str, ...]  # keys of the cells that hold it

    @property
    def most(self) -> float:
        """The share of the survivors that these attacks would take at most, with confidence 1 - alpha."""
        if len(self.chosen) == self.survivors:  # nobody was left out
            return len(self.fell) / max(1, self.survivors)
        return clopper_pearson(len(self.fell), len(self.chosen), 1 - 2 * self.alpha)[1]

    @property
    def claimed(self) -> float:
        """The column's accuracy, as a share of 1."""
        return self.survivors / self.standing.n

    @property
    def least(self) -> float:
        """What is left of it at least."""
        return self.claimed * (1 - self.most)


def audited(ledger: Ledger, column: str, model: str) -> list[Standing]:
    """The standings of that column, of the model or defense of that name, or else of those that hold these words.

    Weights may be named by the beginning of their hash.
    """
    every = [s for s in Standings.of(ledger).every if s.question.threat]
    names = {name for s in every for name in s.column.split(" = ")}
    if not names:
        raise UsageError(f"no column with a threat is decided in {ledger.root}; bench run adds some")
    if not column and len(names) > 1:
        raise UsageError(f"--column says which is audited; there are {', '.join(sorted(names))}")
    if column and column not in names:
        raise UsageError(f"--column {column}: no such column is decided{nearest(column, names)}")
    found = [s for s in every if not column or column in s.column.split(" = ")]
    called = [s for s in found if model in (str(s.model), s.model.defense)]  # `at` alone, and not mail-at too
    kept = called or [s for s in found if model in str(s.model) or s.weights.startswith(model)]
    if not kept:
        models = sorted({str(s.model) for s in found})
        raise UsageError(f"--model {model}: no model with that column is called so{nearest(model, models)}")
    return list({(s.weights, s.question): s for s in reversed(kept)}.values())[::-1]  # best and last may be one


def behind(ledger: Ledger, standing: Standing) -> list[Record]:
    """The records that a standing is made of."""
    q = standing.question
    threats = (q.threat, q.threat.partition(":")[0] if q.threat else None)
    near = [
        r for r in ledger.all()
        if isinstance(r, Record) and (r.weights, r.test, r.condition) == (standing.weights, q.test, q.condition)
        and ((r.attack in q.attacks and r.threat in threats) or (q.strict and r.attack.startswith(f"{CLEAN}@")))
    ]  # fmt: skip
    first = {
        attack: min((r.precision, r.seed) for r in near if r.attack == attack) for attack in {r.attack for r in near}
    }
    return [r for r in near if (r.precision, r.seed) == first[r.attack]]


def choose(beacon: str, keys: Sequence[str], survivors: Sequence[int], count: int) -> list[int]:
    """So many survivors, in the order of their hashes with the beacon and the cells' keys."""
    said = "\0".join((beacon, *sorted(set(keys))))

    def rank(image: int) -> str:
        return hashlib.sha256(f"{said}\0{image}".encode()).hexdigest()

    return sorted(survivors, key=rank)[:count]


def seed_of(beacon: str) -> int:
    """The attack seed that a beacon gives: so the draws of an audit could not be foreseen either."""
    return int.from_bytes(hashlib.sha256(f"{beacon}\0seed".encode()).digest()[:4], "big") >> 1


def audit(
    standing: Standing, place: Place, datasets: Datasets, attacks: Sequence[Recipe], *,
    count: int, beacon: str, alpha: float, report: Callable[[str], None],
) -> Audit:  # fmt: skip
    """Attack the chosen survivors, each attack those that its forerunners left; the records go to the ledger."""
    records, q = behind(place.ledger, standing), standing.question
    assert q.threat is not None
    threat, survivors = ThreatModel.parse(q.threat), sorted(set(range(standing.n)) - standing.fell)
    chosen = choose(beacon, [r.key for r in records], survivors, count)
    dataset = datasets.of(q.test, standing.dataset)
    written = datasets.recipe(q.test, standing.dataset).written
    seed, fell = seed_of(beacon), set[int]()
    cells = []
    for recipe in (pinned(r, place, dataset.shape) for r in attacks):
        assert isinstance(recipe.plugin, Attack)
        bound = threat if recipe.plugin.goal == "in-ball" else threat.without_bound
        cell = Cell(records[0].net, standing.weights, q.test, q.condition, str(bound), recipe.key, seed)
        cells.append(cell)
        asked = tuple(sorted(set(chosen) - fell))
        report(f"{recipe} on {len(asked)} of {len(survivors)} survivors of {standing}")
        if asked:
            Question(cell, asked, written, dataset.shape, patient=True).do(place)
        outcome = Outcome.of(place.ledger, cell, standing.n, threat)
        fell |= {i for i in chosen if outcome.fell[i]}
    return Audit(
        standing, len(survivors), tuple(chosen), tuple(i for i in chosen if i in fell), tuple(c.attack for c in cells),
        seed, alpha, tuple(c.key for c in cells),
    )  # fmt: skip


def parsed(place: Place, texts: Sequence[str], threat: str) -> list[Recipe]:
    """The attacks by name; UsageError for one that does not search the threat's norm."""
    recipes = [place.registry.parse("attack", text) for text in texts]
    norm = ThreatModel.parse(threat).norm
    for recipe in recipes:
        assert isinstance(recipe.plugin, Attack)
        if norm not in recipe.plugin.norms:
            norms = ", ".join(recipe.plugin.norms) or "nothing"
            raise UsageError(f"--attack {recipe}: it searches {norms}; the column's threat is {threat}")
    return recipes
