"""Does the gate catch what it should?  Trains models with and without a planted weakness: writes tables of docs/ci.md.

    make planted [CONFORMANCE_DATA=DIR]

On digits in minutes; where the folder of data holds MNIST, on that too (half an hour of one core).  Every variant is
the file planted_model.py with one line changed, trained and attacked by `bench run` into a ledger of its own under
results/planted, where an interrupted comparison goes on, and gated by `bench gate` against the unchanged one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.pages import fill

ROOT = Path(__file__).parents[2]
HERE = ROOT / "results" / "planted"
MODEL = Path(__file__).with_name("planted_model.py")
TOLERATED = "2"  # points, of the second gate and the sequential one


@dataclass(frozen=True)
class Variant:
    """The model's file with one line changed."""

    what: str
    harmless: bool
    line: tuple[str, str] = ("", "")  # a name, and what it is set to
    seeds: str = "0"


@dataclass(frozen=True)
class Exam:
    """A data set, and how the model is trained and asked on it."""

    title: str
    words: tuple[str, ...]
    variants: tuple[Variant, ...]
    good_seeds: str = "0"


WEAK = (
    Variant("eps halved in training", False, ("RADIUS", "0.5")),
    Variant("batch norm left in train mode: judged so", False, ("STATISTICS", '"batch"')),
    Variant("batch norm left in train mode: validated so, image by image", False, ("STATISTICS", '"moved"')),
    Variant("class 7 left out of training", False, ("LEFT_OUT", "7")),
)
SAME = (
    Variant("a layer renamed", True, ("STEM", '"front"')),
    Variant("weights rounded to half precision", True, ("HALF", "True")),
    Variant("trained on two threads", True, ("THREADS", "2")),
)
SEEDS = (
    Variant("eps halved, three seeds", False, ("RADIUS", "0.5"), "0,1,2"),
    Variant("three other seeds", True, seeds="3,4,5"),
)
COLUMNS = ("--columns", "clean, pgd-20", "--net", "planted-net")
EXAMS = {
    "digits": Exam("digits, 500 test images", ("--defense", "planted", *COLUMNS), (*WEAK, *SAME)),
    "seeds": Exam("digits over seeds", ("--defense", "planted", *COLUMNS), SEEDS, "0,1,2"),
    "mnist": Exam(
        "MNIST, the first 2,000 test images",
        ("--defense", "planted(epochs=2, batch=128, ramp=1.0)", "--dataset", "mnist", "-n", "2000", *COLUMNS),
        (*WEAK, *SAME),
    ),
}


def main() -> None:
    """Run what is missing, gate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("CONFORMANCE_DATA", ""), help="a folder with MNIST/raw")
    parser.add_argument("--exams", default="", help=f"of {', '.join(EXAMS)}; default: those whose data is there")
    given = parser.parse_args()
    names = given.exams.split(",") if given.exams else [n for n in EXAMS if n != "mnist" or given.data]
    for name in names:
        fill(ROOT / "docs" / "ci.md", f"planted-{name}", table(name, EXAMS[name], given.data))


def table(name: str, exam: Exam, data: str) -> str:
    """The outcomes of an exam, in Markdown."""
    good = folder(name, Variant("good", True, seeds=exam.good_seeds), exam, data)
    rows = [row for v in exam.variants for row in rows_of(v, good, folder(name, v, exam, data))]
    heads = ("planted", "column", "before", "now", "drop", "p", "seen from", "gate", f"`--max-drop {TOLERATED}`")
    if name != "seeds":
        heads = (*heads, f"`--sequential --max-drop {TOLERATED}`")
    lines = ["| " + " | ".join(cells[: len(heads)]) + " |" for cells in (heads, ("---",) * len(heads), *rows)]
    return f"{exam.title}:\n\n" + "\n".join(lines)


def folder(name: str, variant: Variant, exam: Exam, data: str) -> Path:
    """Where a variant is trained and attacked; `bench run` skips what is there."""
    where = HERE / name / re.sub(r"[^a-z0-9]+", "-", variant.what)
    where.mkdir(parents=True, exist_ok=True)
    (where / MODEL.name).write_text(source_of(variant))
    words = ["--plugin", MODEL.name, "--seeds", variant.seeds, "--executor", "inline"]
    words += ["--data", str(Path(data).resolve())] if data else []
    bench(where, "run", *exam.words, *words)
    return where


def source_of(variant: Variant) -> str:
    """The model's file with the variant's line."""
    source = MODEL.read_text()
    if variant.line[0]:
        key, value = variant.line
        source, count = re.subn(rf"^{key} = .*?(  #|$)", rf"{key} = {value}\1", source, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"{MODEL.name} has {count} lines that set {key}; expected one")
    return source


def rows_of(variant: Variant, good: Path, now: Path) -> list[tuple[str, ...]]:
    """What the gates say of a variant: a row a column."""
    ledgers = ("--baseline", str(good / "results/ledger"), "--ledger", str(now / "results/ledger"), "--json")
    plain = gate(good, *ledgers)
    tolerant = gate(good, *ledgers, "--max-drop", TOLERATED)
    looking = gate(good, *ledgers, "--max-drop", TOLERATED, "--sequential")
    rows = []
    for place, c in enumerate(plain["comparisons"]):
        changed = "" if c["lost"] is None else f" (-{c['lost']} +{c['gained']})"
        p, seen = c["p_value_holm"], c["smallest_drop_seen"]
        numbers = [f"{100 * c[key]:.1f}" for key in ("accuracy_before", "accuracy_now")]
        tolerated = tolerant["comparisons"][place]["verdict"]
        rows.append((
            variant.what, c["column"], *numbers, f"{100 * c['drop']:.1f}{changed}",
            "<0.0001" if p < 1e-4 else f"{p:.4f}", "none" if seen is None else f"{100 * seen:.1f}",
            bold(c["verdict"]), bold(tolerated), "" if c["lost"] is None else settled(looking, c["column"]),
        ))  # fmt: skip
    doubts = gate(good, *ledgers, "--no-doubts")["doubts"]
    return [(f"{row[0]} (doubted)" if doubts else row[0], *row[1:]) for row in rows]


def settled(report: dict[str, Any], column: str) -> str:
    """What the sequential gate says of a column, and after how many images."""
    c = next(c for c in report["comparisons"] if c["column"] == column)
    return bold(c["verdict"]) + ("" if c["settled_after"] is None else f" after {c['settled_after']:,}")


def bold(verdict: str) -> str:
    """A regression stands out."""
    return f"**{verdict}**" if verdict == "regressed" else verdict


def gate(folder: Path, *words: str) -> dict[str, Any]:
    """What `bench gate --json` says."""
    found: dict[str, Any] = json.loads(bench(folder, "gate", *words, fine=(0, 3, 4)))
    return found


def bench(folder: Path, *words: str, fine: tuple[int, ...] = (0,)) -> str:
    """Run the command line in a folder; its standard output."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=folder, env=env, text=True, capture_output=True, check=False
    )
    if done.returncode not in fine:
        raise SystemExit(f"bench {' '.join(words)} in {folder} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
