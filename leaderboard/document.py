"""The board as plain values: what board.json holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from leaderboard.history import plain
from leaderboard.seeds import Group, Spread

if TYPE_CHECKING:
    from bench import TrainingRecord
    from leaderboard.arithmetic import Number, Spent
    from leaderboard.curves import Curve
    from leaderboard.rows import Board, Row, Section

RULES = {
    "accuracy": "standing / (n * conditions): the share of the first n test images that no attack of the column felled",
    "interval": "the Wilson score interval at 95 %; of a bound only the upper end says something",
    "bound": "true: images that are not decided yet are counted as standing; the accuracy is this or less",
    "partial": "true: on fewer images than clean was asked",
    "strict": "an image that the clean model gets wrong counts as fallen; columns that are not strict ignore clean",
    "worst": "the union of all strict columns but clean; it is decided by those that at least half of a board's rows "
    "were asked, and what the others felled counts too",
    "first": "the column is about so many of the first test images; 0 is all",
    "curves": "the share of the n first images whose distance, as a minimum-norm attack found it, is larger than eps; "
    "0 where clean lost the image; found: the share with a distance; median: the least distance that more than half "
    "do not exceed, null where no more than half were found",
    "seeds": "the rows that differ in their training seed alone: the mean of their accuracies, and sd, the sample "
    "standard deviation (n - 1) over the n seeds; null while a seed is undecided, and then mean is a bound; images: "
    "the fewest and the most behind a seed's number",
    "history": "an entry an epoch; val_clean and val_pgd10 are shares of the validation images; null where a value is "
    "no finite number",
    "attack_seeds": "where an attack was run with several seeds, the smallest one is shown",
}


def document(board: Board) -> dict[str, Any]:
    """The board as plain values, for json.dumps."""
    return {
        "schema": "rampart/board-1",
        "rules": RULES,
        "sections": [_section(s, net) for s in board.sections for net in _nets(s)],
        "records": board.records,
        "trainings": [_training(t) for t in board.made_by],
        "made": list(board.made) if board.made else None,
        "commits": list(board.commits),
        "versions": {package: list(versions) for package, versions in board.versions},
        "machines": list(board.machines),
    }


def _nets(section: Section) -> list[tuple[str, str]]:
    """The nets of a section, name and key: board.json has a section for each."""
    return sorted({(row.net, row.net_key) for row in section.rows})


def _section(section: Section, net: tuple[str, str]) -> dict[str, Any]:
    return {
        "dataset": section.dataset,
        "test": section.test,
        "net": net[0],
        "net_key": net[1],
        "threat": section.threat,
        "condition": section.condition,
        "n": section.n,
        "test_images": section.available,
        "columns": [{"name": h.name, "of": list(h.of), "strict": h.strict, "first": h.first} for h in section.heads],
        "summary": section.summary or None,
        "rows": [_row(r) for r in section.rows if r.net_key == net[1]],
        "seeds": [_group(x) for x in section.lines if isinstance(x, Group) and x.rows[0].net_key == net[1]],
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "defense": group.maker.defense,
        "which": group.which,
        "seeds": list(group.seeds),
        "weights": [row.weights for row in group.rows],
        "numbers": {name: _spread(spread) for name, spread in group.numbers.items()},
        "summary": _spread(group.summary) if group.summary else None,
        "trusted": group.trusted,
        "before_probes": _spread(group.before) if group.before else None,
    }


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "mean": round(spread.accuracy, 6),
        "sd": None if spread.sd is None else round(spread.sd, 6),
        "n": spread.seeds,
        "decided": spread.decided,
        "bound": spread.bound,
        "images": [spread.n, spread.most],
    }


def _training(training: TrainingRecord) -> dict[str, Any]:
    return {
        "key": training.key,
        "defense": training.label,
        "recipe": training.defense,
        "net": training.net_label,
        "dataset": training.dataset,
        "threat": training.threat,
        "seed": training.seed,
        "weights": dict(sorted(training.weights.items())),
        "seconds": training.cost.seconds,
        "history": plain(training.history),
    }


def _row(row: Row) -> dict[str, Any]:
    training = row.maker.training
    return {
        "defense": row.maker.defense,
        "seed": row.maker.seed,
        "which": row.maker.which or None,
        "weights": row.weights,
        "training": training.key if training else None,
        "trained_for": (training.threat or None) if training else None,
        "trained_on": training.dataset if training else None,
        "parameters": training.parameters if training else None,
        "multiply_adds": training.macs if training else None,
        "training_seconds": training.cost.seconds if training else None,
        "numbers": {name: _number(number) for name, number in row.numbers.items()},
        "summary": _number(row.summary) if row.summary else None,
        "cost": _spent(row.spent),
        "doubts": [{"text": d.text, "attacks": list(d.attacks)} for d in row.doubts],
        "notes": list(row.notes),
        "trusted": row.trusted,
        "distrust": list(row.trust.reasons),
        "before_probes": _number(row.trust.before) if row.trust.before else None,
        "gradient_honesty": row.trust.honesty,
        "curves": {name: _curve(curve) for name, curve in row.curves.items()},
    }


def _curve(curve: Curve) -> dict[str, Any]:
    points = curve.points()
    return {
        "n": curve.n,
        "found": round(curve.found, 6),
        "median": round(curve.median, 9) if math.isfinite(curve.median) else None,
        "eps": [round(eps, 9) for eps, _ in points],
        "accuracy": [round(accuracy, 6) for _, accuracy in points],
    }


def _number(number: Number) -> dict[str, Any]:
    return {
        "accuracy": round(number.accuracy, 6),
        "interval": [round(end, 6) for end in number.interval],
        "standing": number.standing,
        "n": number.n,
        "conditions": number.conditions,
        "bound": number.bound,
        "partial": number.partial,
        "certified": number.certified,
        "cost": _spent(number.spent),
        "attack_seeds": dict(number.seeds),
    }


def _spent(spent: Spent) -> dict[str, Any]:
    return {"forwards": spent.forwards, "backwards": spent.backwards, "seconds": spent.seconds}
