"""A large ledger, made fast: valid records of defenses that were never trained, on images that never were.

python tests/leaderboard/synthetic.py FOLDER --rows 1250 --boards 4 --attacks 19 --images 1000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path

from bench import Cell, ColumnCard, DatasetCard, Training
from bench.exam import digest
from bench.records import write_document

NETS = {"resnet18": 11_173_962, "wrn-34-10": 46_160_474, "preactresnet18": 11_171_146, "wrn-28-10": 36_479_194}
DEFENSES = ("standard", "at", "trades", "mart", "part-trades", "mail-trades", "gairat", "vir-at", "at-awp", "fgsm-rs")
ATTACKS = (
    "fgsm", "pgd-20", "pgd-100", "cw", "apgd-ce", "apgd-t", "fab-t", "square", "mim", "deepfool", "nes", "spsa", "rays",
    "simba", "boundary", "signhunter", "transfer", "noise", "mma",
)  # fmt: skip
MACHINE = {"device": "cuda", "name": "an accelerator", "threads": 1, "tile": 128}


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def origin():
    return {
        "source": sha("source"), "machine": MACHINE, "versions": {"python": "3.11.7", "torch": "2.11.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567", "made": "2026-01-02T03:04:05Z",
    }  # fmt: skip


def write(root, document):
    """Write a document as the ledger does, but for the flush to the disk."""
    content = (document if isinstance(document, str) else write_document(document)).encode()
    key = content.partition(b'"key":')[2].partition(b'"')[2][:64].decode()
    folder = root / key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{hashlib.sha256(content).hexdigest()}.json").write_bytes(content)


def ledger(root, *, rows=100, boards=1, attacks=6, images=200, seeds=1):
    """Fill a folder: `rows` weights on each of `boards` boards, each attacked by `attacks` single attacks and clean."""
    rng = random.Random(0)
    root = Path(root)
    for name in ATTACKS[:attacks]:
        facts = {"name": name, "attacks": [f"{name}@1()"], "strict": True}
        write(root, ColumnCard.model_validate({"key": digest(facts), **facts}))
    for board in range(boards):
        dataset, threat = ("cifar10", "cifar100", "svhn", "mnist")[board % 4], f"linf:{8 + board // 4}/255"
        test = sha(f"{dataset} test")
        write(root, DatasetCard(
            key=test, name=dataset, classes=list("abcdefghij"), channels=3, size=32,
            labels=[i % 10 for i in range(10_000)],
        ))  # fmt: skip
        for row in range(rows):
            model(root, rng, board, row, dataset, test, threat, attacks, images, seeds)
    return root


def model(root, rng, board, row, dataset, test, threat, attacks, images, seeds):
    """A training and the records of its weights."""
    net = list(NETS)[row % len(NETS)]
    label = f"{DEFENSES[row // seeds % len(DEFENSES)]}(steps={1 + row // seeds // len(DEFENSES)})"
    weights = sha(f"{board} {row}")
    facts = {
        "defense": f"{label}@1", "net": f"{net}@1()", "train": sha("train"), "val": sha("val"), "threat": threat,
        "seed": row % seeds,
    }  # fmt: skip
    cost = {"forwards": 10**9, "backwards": 10**9, "seconds": rng.uniform(1e3, 1e5)}
    write(root, json.dumps({
        "schema": "rampart/training-1", "key": Training(**facts).key, **facts, "label": label, "net_label": net,
        "dataset": dataset, "parameters": NETS[net], "weights": {"best": weights, "last": weights}, "history": [],
        "cost": cost, **origin(),
    }))  # fmt: skip
    clean, robust = rng.uniform(0.75, 0.95), rng.uniform(0.2, 0.7)
    strength = [rng.random() for _ in range(images)]
    wrong = [i for i in range(images) if strength[i] > clean]
    record(root, rng, weights, net, dataset, test, None, "clean@1()", list(range(images)), wrong)
    standing = [i for i in range(images) if strength[i] <= clean]
    for attack in ATTACKS[:attacks]:
        bar = robust * rng.uniform(1.0, 1.3)
        record(
            root, rng, weights, net, dataset, test, threat, f"{attack}@1()", standing,
            [i for i in standing if strength[i] > bar],
        )  # fmt: skip


def record(root, rng, weights, net, dataset, test, threat, attack, asked, fell):
    """A record of a cell."""
    facts = {
        "net": f"{net}@1()", "weights": weights, "test": test, "condition": "clean", "threat": threat,
        "attack": attack, "seed": 0, "precision": "exact",
    }  # fmt: skip
    n = len(asked)
    write(root, json.dumps({
        "schema": "rampart/record-1", "key": Cell(**facts).key, **facts, "dataset": dataset, "asked": asked,
        "fell": fell, "images": sha("images"), "bundle": sha("bundle"), "access": "gradients",
        "cost": {"forwards": 20 * n, "backwards": 20 * n, "seconds": round(rng.uniform(1, 100), 3)},
        "doubts": ["the loss was still rising"] if rng.random() < 0.01 else [], **origin(),
    }, separators=(",", ":")))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    for name, value in {"rows": 1250, "boards": 4, "attacks": 19, "images": 1000, "seeds": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = vars(parser.parse_args())
    ledger(options.pop("folder"), **options)
