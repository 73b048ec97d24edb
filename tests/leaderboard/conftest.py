"""Ledgers made by hand: valid records whose outcomes are chosen, with the keys that the bench would give them."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import pytest

from bench import REASONS, Cell, CheckRecord, ColumnCard, DatasetCard, Ledger, Record, Training, TrainingRecord
from bench.exam import digest
from bench.records import check_key
from leaderboard.site import publish

NET, THREAT = "cnn@1(width=16)", "linf:0.1"


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Writer:
    """Writes documents; weights and parts of data sets are named by words, whose sha256 stands for their content."""

    ledger: Ledger
    dataset: str = "digits"
    net: str = NET
    threat: str = THREAT
    machine: str = "a processor"

    def origin(self):
        return {
            "source": sha("source"), "commit": "0123456789abcdef0123456789abcdef01234567",
            "made": "2026-01-02T03:04:05Z",
            "versions": {"python": "3.11.7", "torch": "2.11.0"},
            "machine": {"device": "cpu", "name": self.machine, "threads": 1, "tile": 32},
        }  # fmt: skip

    def card(self, images):
        self.ledger.add(
            DatasetCard(
                key=sha(self.dataset), name=self.dataset, classes=["zero", "one"], channels=1, size=8,
                labels=[i % 2 for i in range(images)],
            )
        )  # fmt: skip

    def column(self, name, *attacks, strict=True, first=0):
        facts = {"name": name, "attacks": list(attacks), "strict": strict, **({"first": first} if first else {})}
        self.ledger.add(ColumnCard.model_validate({"key": digest(facts), **facts}))

    def training(self, label, best, last=None, **facts):
        self.ledger.add(self.made(label, best, last, **facts))

    def made(
        self, label, best, last=None, *, seed=0, threat=None, on=None, seconds=61.0, net_label="cnn", history=(),
        **changes,
    ):  # fmt: skip
        facts = {
            "defense": f"{label}@1()", "net": self.net, "train": sha("train"), "val": sha("val"),
            "threat": threat or self.threat, "seed": seed,
        }  # fmt: skip
        facts |= {name: value for name, value in changes.items() if name in facts}
        return TrainingRecord.model_validate({
            **facts, **self.origin(), "key": Training(**facts).key, "label": label, "net_label": net_label,
            "dataset": on or self.dataset, "parameters": 123_456,
            "weights": {"best": sha(best), "last": sha(best if last is None else last)},
            "history": list(history), "cost": {"forwards": 5, "backwards": 5, "seconds": seconds}, **changes,
        })  # fmt: skip

    def cell(
        self, weights, attack, asked, fell=(), *, seed=0, condition="clean", seconds=1.0, doubts=(), access=None,
        backwards=9, **changes,
    ):  # fmt: skip
        threat = None if attack.startswith("clean") else self.threat
        facts = {
            "net": self.net, "weights": sha(weights), "test": sha(self.dataset), "condition": condition,
            "threat": threat, "attack": attack, "seed": seed, "precision": "exact",
        }  # fmt: skip
        facts |= {name: changes.pop(name) for name in list(changes) if name in facts}
        asked, fell = list(asked), list(fell)
        record = Record.model_validate({
            **facts, **self.origin(), "key": Cell(**facts).key, "dataset": self.dataset, "asked": asked, "fell": fell,
            "images": sha("images"), "bundle": sha("bundle") if fell else None, "doubts": list(doubts),
            "access": access,
            "cost": {"forwards": 10 * len(asked), "backwards": backwards * len(asked), "seconds": seconds}, **changes,
        })  # fmt: skip
        return self.ledger.add(record)

    def check(self, weights, *codes, figures=None, images=(3, 5), version=1, what="", **changes):
        """What the checks before any attack said: these doubts, or none."""
        facts = {"net": self.net, "weights": sha(weights), "test": sha(self.dataset), "version": version}
        facts |= {name: changes.pop(name) for name in list(changes) if name in {*facts, "threat"}}
        measured = {"gradient_honesty": 1.0, "gradient_error": 1e-9, "float64": 1.0} if figures is None else figures
        origin = {name: value for name, value in self.origin().items() if name != "source"}
        self.ledger.add(CheckRecord.model_validate({
            **facts, **origin, "key": check_key(**facts), "dataset": self.dataset, "n": 64,
            "doubts": [
                {
                    "code": code, "text": REASONS[code].text, "images": list(images), "figures": {"share": 0.5},
                    "what": what,
                }
                for code in codes
            ],
            "figures": measured, "cost": {"forwards": 5, "backwards": 5, "seconds": 0.1}, **changes,
        }))  # fmt: skip


def published(ledger, folder, first=0):
    """The first page of the site that is made of a ledger."""
    publish(ledger, folder, first)
    return folder / "index.html"


@pytest.fixture
def writer(tmp_path):
    return Writer(Ledger(tmp_path / "ledger"))


def epochs(n=30, *, drops=(20, 26), classes=0, density=None, note=None):
    """A history such as a training writes, with a rate that falls to a tenth, and what reweighting methods add."""
    found = []
    for e in range(1, n + 1):
        learnt = 1 - 0.93**e
        entry = {
            "epoch": e, "loss": round(2.3 - 1.8 * learnt, 6), "val_clean": 0.1 + 0.88 * learnt,
            "val_pgd10": 0.1 + 0.65 * learnt - 0.03 * max(0, e - 22) ** 0.5,
            "lr": 0.1 * 0.1 ** sum(e >= d for d in drops), "seconds": 1.25,
        }  # fmt: skip
        if classes:
            entry["weight_by_class"] = [100 + 4 * e * (k - (classes - 1) / 2) / classes for k in range(classes)]
            entry["weight_mean"] = 0.4
        if density is not None:
            entry["mask_density"] = density
        if note and e == 7:
            entry["note"] = note
        found.append(entry)
    return found


PGD = "pgd@1(keep='last', step=0.25, steps={})"
SINGLE = {
    "fgsm": ("fgsm@1()",), "pgd-20": (PGD.format(20),), "pgd-100": (PGD.format(100),), "cw": ("cw@1(steps=100)",),
    "square-5000": ("square@1(queries=5000)",),
}  # fmt: skip
COLUMNS = SINGLE | {"aa": ("apgd-ce@1()", "apgd-t@1()", "fab-t@1()", "square@1(queries=5000)")}
SEVERITIES = [f"{c}@1():{s}" for c in ("fog", "gaussian_noise", "jpeg_compression") for s in range(1, 6)]


def cascade(writer, weights, rng, clean, robust, n=1000, columns=tuple(COLUMNS), **more):
    """What a run leaves: clean on n images, then each attack on those that its column has not decided."""
    wrong = {i for i in range(n) if rng.random() > clean}
    writer.cell(weights, "clean@1()", range(n), wrong)
    weak = {i: rng.random() for i in range(n)}  # how much an image withstands
    for name in columns:
        standing, attacks = set(range(n)) - wrong, COLUMNS[name]
        reach = {"fgsm": 0.85, "pgd-20": 0.93, "square-5000": 0.8, "pgd-100": 0.95, "cw": 0.97}.get(name, 1.0)
        for attack in attacks:
            fell = {i for i in standing if weak[i] * reach > robust / clean}
            if standing:
                writer.cell(weights, attack, sorted(standing), sorted(fell), seconds=3.5 * len(standing) / 100, **more)
            standing -= fell


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A ledger such as a week of work leaves: two nets, several defenses and seeds, corruptions, gaps, doubts."""
    rng = random.Random(0)
    writer = Writer(Ledger(tmp_path_factory.mktemp("demo") / "ledger"))
    writer.card(10_000)
    for name, attacks in COLUMNS.items():
        writer.column(name, *attacks)
    writer.column("mma", "mma@1(classes=9)", strict=False)
    defenses = [
        ("standard", 0.995, 0.0), ("at", 0.955, 0.49), ("trades(beta=6.0)", 0.94, 0.52),
        ("trades(beta=1.0)", 0.965, 0.455), ("part-trades", 0.957, 0.545), ("mart", 0.93, 0.51),
        ("fgsm-rs", 0.97, 0.41),
    ]  # fmt: skip
    for label, clean, robust in defenses:
        for seed in (0, 1, 2) if label == "part-trades" else (0,):
            best, last = f"{label}/{seed}/best", f"{label}/{seed}/last"
            same = label in {"standard", "fgsm-rs"}
            history = {
                "at": epochs(), "mart": epochs(classes=10), "standard": epochs(1), "trades(beta=1.0)": epochs(300),
                "part-trades": epochs(density=0.7 + seed / 50), "fgsm-rs": epochs(note="PGD-10 fell from 41 % to 0 %"),
            }.get(label, [])  # fmt: skip
            seconds = rng.uniform(100, 9000)
            writer.training(label, best, best if same else last, seed=seed, seconds=seconds, history=history)
            doubts = ["the loss was still rising at the last step on 31 % of the images"] if label == "fgsm-rs" else []
            cascade(writer, best, rng, clean, robust, doubts=doubts)
            writer.check(best)
            if label == "at":
                cascade(writer, last, rng, clean + 0.01, robust - 0.05)
            if label in {"at", "trades(beta=6.0)"}:
                writer.cell(best, "mma@1(classes=9)", range(1000), [i for i in range(1000) if rng.random() < 0.4])
            for condition in SEVERITIES:
                severity = int(condition[-1])
                wrong = [i for i in range(1000) if rng.random() > clean - 0.04 * severity]
                writer.cell(best, "clean@1()", range(1000), wrong, condition=condition)
    cascade(writer, "of unknown origin", rng, 0.9, 0.4, columns=("fgsm", "pgd-20"))
    writer.training("at(steps=7)", "short", seed=3, threat="linf:0.2", on="mnist")
    cascade(writer, "short", rng, 0.92, 0.5, n=500)
    other = Writer(writer.ledger, net="wrn@1(depth=34, width=10)", threat="l2:0.5", machine="an accelerator")
    for label, clean, robust in defenses[:4]:
        other.training(label, f"wide {label}", f"wide {label} last", net_label="wrn-34-10", seconds=90_000)
        cascade(other, f"wide {label}", rng, clean + 0.003, robust + 0.05, columns=("fgsm", "pgd-20", "aa"))
    return writer.ledger
