"""The rules of the closed division, each checked from the records: passed, failed or not checked, and the evidence.

No rule is promised: what nobody looked at is `not checked`, and a model with such a rule does not stand in the closed
division.  docs/divisions.md is the page for people.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from leaderboard.trust import HONESTY
from leaderboard.words import name_of, printable

if TYPE_CHECKING:
    from bench import Record, TrainingRecord
    from leaderboard.trust import Finding, Trust

Verdict = Literal["passed", "failed", "not checked"]

# Defenses whose weights were trained elsewhere: on which images nobody recorded.
ELSEWHERE = {"checkpoint", "hf", "robustbench", "url"}
DIVISIONS = {
    "closed": "trained here, on the data set’s own images; each of its rules was checked, and holds",
    "extra data": "trained here, on further images too",
    "random": "a random model, attacked over its randomness (EOT)",
    "unknown training": "trained elsewhere: on which images is not recorded",
    "unchecked": "trained here, and no rule is broken, but not all were checked",
    "open": "a rule of the closed division is broken",
}

_EOT = re.compile(r"[(,\s]eot=([0-9]{1,9})")
_EXTRA = re.compile(r"extra_sha256='([0-9a-f]{64})'")


@dataclass(frozen=True)
class Rule:
    """A rule of the closed division, and what the records say of it for one model."""

    name: str
    demand: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Facts:
    """What is recorded of one training's weights."""

    net: str  # recipe key
    weights: str
    training: TrainingRecord | None
    records: Sequence[Record]
    trust: Trust

    @cached_property
    def random(self) -> bool:
        """Whether it says that it draws random numbers: by its check, or by how it was attacked where that is silent.

        Slopes are only measured of a model that does not say so.
        """
        check = self.trust.check
        if check is not None and ("random" in check.figures or HONESTY in check.figures):
            return bool(check.figures.get("random"))
        return any(int(times) > 1 for record in self.records for times in _EOT.findall(record.attack))

    @cached_property
    def function(self) -> bool:
        """Whether it is one function of the image, of which alone gradients can be checked."""
        return not self.random and not self.raised("fickle", "mixes", "dynamic")

    def raised(self, *codes: str) -> list[Finding]:
        """The doubts of these kinds."""
        return [finding for finding in self.trust.findings if finding.code in codes]


# What the checks before any attack look for: by rule, the doubts that break it.
BROKEN_BY = {
    "deterministic": ("fickle", "state", "drifts"),
    "one image at a time": ("mixes", "training", "writes"),
    "gradients": ("undifferentiable", "flat", "underflow", "distribution", "not-a-number"),
    "honest gradients": ("dishonest", "rough", "jumps", "coarse"),
    "no loop": ("dynamic",),
    "no test data": ("holds-images", "recognises"),
}
DEMANDS = {
    "deterministic": "the forward gives one answer to an image, whenever it is asked, and asking changes nothing",
    "one image at a time": "the answer to an image depends on no other image, and the model writes into none",
    "gradients": "its answers are logits, and their margin has gradients that are numbers and not zero",
    "honest gradients": "the gradients are the slopes of the answers, by central differences",
    "no loop": "no optimisation in the forward: it differentiates nothing, and answers alike whatever the grad mode",
    "no test data": "the weights hold no test image, none is recognised, and it was not trained on the test part",
    "rebuilt": "the model is a registered net and its weights, from which it is made again",
    "own training": "trained here, on the data set’s own images and no others",
    "nothing else": "no other doubt says that its numbers lie",
}


def rules(facts: Facts) -> tuple[Rule, ...]:
    """Every rule, and what the records say of it."""
    return tuple(Rule(name, demand, *_JUDGES[name](facts)) for name, demand in DEMANDS.items())


def division(facts: Facts, judged: Sequence[Rule]) -> str:
    """Which rows it competes with, as far as its records tell."""
    verdicts = {rule.name: rule.verdict for rule in judged}
    random = facts.random and not facts.raised(*BROKEN_BY["deterministic"])
    forgiven = {"own training", "deterministic"} if random else {"own training"}
    if any(verdict == "failed" for name, verdict in verdicts.items() if name not in forgiven):
        return "open"
    if random:
        return "random"
    if verdicts["own training"] == "not checked":
        return "unknown training"
    if verdicts["own training"] == "failed":
        return "extra data"
    return "closed" if set(verdicts.values()) == {"passed"} else "unchecked"


Judged = tuple[Verdict, str]


def _looked(facts: Facts, name: str, holds: str) -> Judged:
    """A rule that the checks before any attack look at; holds: what they saw where it is kept."""
    if found := facts.raised(*BROKEN_BY[name]):
        return "failed", "; ".join(f.text + (f" ({f.evidence})" if f.evidence else "") for f in found)
    check = facts.trust.check
    if check is None:
        return "not checked", "no record of the checks before any attack; bench run makes one"
    return "passed", f"{holds}, on the first {check.n:,} test images"


def _deterministic(facts: Facts) -> Judged:
    if facts.random and not facts.raised(*BROKEN_BY["deterministic"]):
        return "failed", "it draws random numbers, and is attacked over them"
    return _looked(facts, "deterministic", "asked again and afterwards, it answered alike")


def _alone(facts: Facts) -> Judged:
    if facts.random:
        return "not checked", "of a random model this is not told apart from its draws"
    return _looked(facts, "one image at a time", "in reversed order, in batches of seven and alone, it answered alike")


def _gradients(facts: Facts) -> Judged:
    said = _looked(facts, "gradients", "no more than a few of them are zero")
    return _if_function(facts, said)


def _honest(facts: Facts) -> Judged:
    check = facts.trust.check
    if check is not None and check.figures.get("stand_in"):
        return "failed", "its gradients are a stand-in’s (BPDA), as it says itself"
    said = _if_function(facts, _looked(facts, "honest gradients", ""))
    if said[0] != "passed":
        return said
    if check is None or facts.trust.honesty is None:
        return "not checked", "its slopes were not measured"
    where = "float64" if check.figures.get("float64") else "float32, with a wider tolerance"
    error = check.figures.get("gradient_error", 0.0)
    return "passed", f"right at {100 * facts.trust.honesty:.1f} % of the images, in {where}; median error {error:.1g}"


def _no_loop(facts: Facts) -> Judged:
    return _looked(facts, "no loop", "nothing was differentiated in its forward")


def _no_test_data(facts: Facts) -> Judged:
    training, test = facts.training, facts.records[0].test if facts.records else ""
    holds = "no tensor holds a test image"
    if training is not None:
        if test in {training.train, training.val}:
            part = "trained" if test == training.train else "validated"
            return "failed", f"it was {part} on the images that it is examined on"
        holds += f", and the parts that it was trained and validated on are others ({training.train[:12]}, "
        holds += f"{training.val[:12]})"
    return _looked(facts, "no test data", holds)


def _rebuilt(facts: Facts) -> Judged:
    if not facts.records:
        return "not checked", "no record"
    many = len(facts.records)
    return "passed", (
        f"made of {printable(facts.net)} and the weights {facts.weights[:12]}, found by their hash, for "
        f"{many:,} record{'s' if many != 1 else ''}"
    )


def _own_training(facts: Facts) -> Judged:
    training = facts.training
    if training is None:
        return "not checked", "no training record"
    if name_of(training.defense) in ELSEWHERE:
        return "not checked", "the weights were there already: on which images they were trained nobody recorded"
    if further := _EXTRA.search(training.defense):
        return "failed", f"trained on further images too (sha256 {further[1][:12]})"
    return "passed", f"training {training.key[:12]}, seed {training.seed}, on {printable(training.dataset)}"


def _nothing_else(facts: Facts) -> Judged:
    known = {code for codes in BROKEN_BY.values() for code in codes}
    other = [f for f in facts.trust.findings if f.code not in known and f.lies]
    if other:
        return "failed", "; ".join(f.text for f in other)
    return ("passed", "none") if facts.trust.check else ("not checked", "no record of the checks before any attack")


def _if_function(facts: Facts, said: Judged) -> Judged:
    """The same, but for a model whose gradients the checks left out."""
    if said[0] == "passed" and not facts.function:
        return "not checked", "it is no one function of the image, so its gradients were not looked at"
    return said


_JUDGES: dict[str, Callable[[Facts], Judged]] = {
    "deterministic": _deterministic,
    "one image at a time": _alone,
    "gradients": _gradients,
    "honest gradients": _honest,
    "no loop": _no_loop,
    "no test data": _no_test_data,
    "rebuilt": _rebuilt,
    "own training": _own_training,
    "nothing else": _nothing_else,
}
