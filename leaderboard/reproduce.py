"""The command that makes a row again, from what its records say."""

from __future__ import annotations

import re
import shlex
from fractions import Fraction
from typing import TYPE_CHECKING

from bench import RampartError, split_recipe
from leaderboard.rows import CLEAN, OFFICIAL
from leaderboard.words import name_of, printable, short

if TYPE_CHECKING:
    from bench import TrainingRecord
    from leaderboard.rows import Head, Row, Section


def command(section: Section, row: Row) -> tuple[str, str]:
    """The command line, and where there is none the reason."""
    training = row.maker.training
    if training is None:
        return "", "No training of these weights is recorded."
    if training.dataset != _plain(section.dataset) and not has_fewer(training.dataset, _plain(section.dataset)):
        return "", f"They were trained on {training.dataset}; the command is with the boards of that data set."
    if training.threat and section.threat and _size(training.threat) != _size(_trained_for(training, section.threat)):
        return "", f"They were trained for {training.threat}; the command is with the boards of that threat."
    which = row.maker.which.partition(" ")[0]
    if which not in {"best", "last"}:
        return "", f"The weights are those of {which}, which no command examines by itself."
    options = {
        "defense": _defense(training),
        "net": training.net,
        "dataset": training.dataset,
        "threat": section.threat or training.threat,
        "seeds": str(training.seed),
        "weights": which,
        "columns": ", ".join(_columns(section, row)),
        "conditions": ", ".join(_conditions(section, row)),
        "n": str(row.n) if row.n != section.available else "",
        "attack-seed": _attack_seed(row),
        "precision": "fast" if any(note.startswith("fast search") for note in row.notes) else "",
    }
    said = {name: value for name, value in options.items() if value}
    if any(printable(value) != value or value.startswith("-") for value in said.values()):
        return "", "A name in the records holds characters that do not belong on a command line."
    return " \\\n  ".join(["bench run", *(f"--{name} {quoted(value)}" for name, value in said.items())]), ""


def has_fewer(trained: str, plain: str) -> bool:
    """Whether a data set is another one with fewer training images, so that a command that names it has both."""
    try:
        (name, _, settings), (other, _, usual) = split_recipe(trained), split_recipe(plain)
    except RampartError:
        return False
    return "train_images" in settings and (name, {k: v for k, v in settings.items() if k != "train_images"}) == (
        other, usual
    )  # fmt: skip


def quoted(value: str) -> str:
    """A word of a POSIX shell; in double quotes where those are enough, for recipes hold single ones."""
    plain = shlex.quote(value)
    return plain if plain == value or re.search(r'["$`\\\\!]', value) else f'"{value}"'


def _plain(name: str) -> str:
    """A name without the piece of a hash by which it is told from others."""
    return re.sub(r" #[0-9a-f]{7}$", "", name)


def _size(threat: str) -> tuple[str, Fraction | str]:
    """Norm and eps: 3/255 and 1/85 are one."""
    norm, _, eps = threat.partition(":")
    try:
        return norm, Fraction(eps)
    except (ValueError, ZeroDivisionError):
        return norm, eps


def _trained_for(training: TrainingRecord, threat: str) -> str:
    """The threat that the defense trains for under this one: the same norm, and its own eps where it has one."""
    try:
        eps = split_recipe(training.defense)[2].get("eps")
    except RampartError:
        eps = None
    return f"{threat.partition(':')[0]}:{eps}" if eps else threat


def _defense(training: TrainingRecord) -> str:
    """The recipe in full; settings that say where, not what, are in no key and come from the label."""
    try:
        name, version, settings = split_recipe(training.defense)
        _, _, labelled = split_recipe(training.label)
    except RampartError:
        return training.defense
    where = {k: v for k, v in labelled.items() if k not in settings and k != "preset"}
    inner = ", ".join(f"{k}={v!r}" for k, v in {**settings, **where}.items())
    return f"{name}@{version}({inner})"


def _columns(section: Section, row: Row) -> list[str]:
    """Its columns by name; where two share a name, one that is a single attack by its recipe."""
    if section.summary == "mean":
        return [CLEAN]
    return list(dict.fromkeys(_column(head) for head in section.heads if head.name in row.numbers))


def _column(head: Head) -> str:
    name = head.name.partition(" = ")[0]
    return head.of[0] if _plain(name) != name and len(head.of) == 1 else _plain(name)


def _conditions(section: Section, row: Row) -> list[str]:
    """The corruptions, those with all five severities by name."""
    if section.summary != "mean":
        return [] if section.condition == CLEAN else [re.sub(r"#[0-9a-f]{7}", "", section.condition)]
    severities: dict[str, list[str]] = {}
    for condition in row.evidence.conditions:
        key, _, severity = condition.rpartition(":")
        name = name_of(key) if key.startswith(OFFICIAL) else short(key)
        severities.setdefault(name, []).append(severity)
    found: list[str] = []
    for name, asked in severities.items():
        found += [name] if len(asked) == 5 else [f"{name}:{severity}" for severity in sorted(asked)]
    return found


def _attack_seed(row: Row) -> str:
    """The seed of its attacks, where they share one and it is not the usual 0."""
    seeds = {seed for number in row.numbers.values() for _, seed in number.seeds}
    return str(seeds.pop()) if len(seeds) == 1 and seeds != {0} else ""
