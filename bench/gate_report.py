"""What the gate says: a table for a terminal, Markdown, JUnit XML, JSON, and annotations of GitHub's."""

from __future__ import annotations

import math
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as ET

from rich import box
from rich.table import Table
from rich.text import Text

from bench.errors import IncompleteError
from bench.files import write_atomically
from bench.gate import Comparison, Report

if TYPE_CHECKING:
    from bench.gate import Rise, Rules
    from bench.standing import Standing

ORDER = {"regressed": 0, "not trusted": 1, "inconclusive": 2, "go on": 2, "held": 3, "no worse": 3}
STYLES = {
    "regressed": "bold red", "not trusted": "bold red", "inconclusive": "yellow", "go on": "yellow", "held": "green",
    "no worse": "green",
}  # fmt: skip
MOST = 1_048_576  # bytes of a job's summary, of which GitHub shows no more
SHOWN = 10  # missing or new ones that are named for a person; the JSON names all
HEADS = ("verdict", "what", "before", "now", "drop", "p", "seen from", "n")


def table(report: Report) -> Table:
    """The comparisons for a terminal, the worst first."""
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    rows = [_row(c) for c in _worst_first(report)]
    for head, *cells in zip(HEADS, *rows, strict=True):
        if head == "what":
            drawn.add_column(head, overflow="fold", min_width=24)
        else:
            side: Literal["left", "right"] = "left" if head == "verdict" else "right"
            drawn.add_column(head, no_wrap=True, justify=side, min_width=max(map(len, cells)))
    for verdict, *rest in rows:
        drawn.add_row(Text(verdict, style=STYLES[verdict]), *(Text(printable(cell)) for cell in rest))
    return drawn


def sentences(report: Report) -> Iterator[str]:
    """What a person must know beside the table."""
    rules, made = report.rules, report.comparisons
    tested = len(made) + (len(report.missing) if rules.sequential else 0)
    seen = "settled by now" if rules.sequential else "seen with 80 % power"
    yield (
        f"Accuracies in %, drops in points. p: of a drop of no more than {_points(rules.margin)} points, adjusted for "
        f"{tested} comparisons (Holm); alpha {rules.alpha:g}. seen from: the smallest drop that would have been {seen}."
    )
    for question in dict.fromkeys(c.question for c in made):
        yield f"Answered for {sum(c.question == question for c in made)}: {question}."
    if rules.sequential and made:
        yield from _settled(report)
    elif fewer := [c for c in made if c.fewer]:
        yield f"On fewer images than the baseline has: {_some([f'{c.name} ({c.n:,})' for c in fewer])}."
    if report.missing:
        yield f"Not here, and in the baseline: {_some(report.missing)}."
    if hint := _hint(report):
        yield hint
    if report.new:
        yield f"Not in the baseline, so not gated: {_some(report.new)}."
    if report.older:
        yield f"Passed over, since a later training has the same name: {_some(report.older)}."
    for what, doubt in report.doubts:
        yield f"Forbidden doubt: {what}: {doubt}."
    for what, doubt in report.fresh:
        yield f"A doubt that the baseline does not have: {what}: {doubt}."
    if report.untrusted:
        yield (
            f"Not trusted, since a new doubt says that the number lies: {_some([c.name for c in report.untrusted])}. "
            "Mend the model; or, where the change is meant, record a new baseline."
        )
    if report.lying:
        doubts = "; ".join(dict.fromkeys(doubt for _, doubt in report.lying))
        what = _some(list(dict.fromkeys(what for what, _ in report.lying)))
        yield f"Not to be trusted, now as in the baseline: {what}: {doubts}."
    for rise in report.costs:
        if rise.too_much or rise.now != rise.before:
            yield f"Cost: {_dearer(rise, rules)}."
    yield verdict(report)


def _settled(report: Report) -> Iterator[str]:
    """How many images settled what, and how many were saved."""
    done = [c.settled_after for c in report.comparisons if c.settled_after is not None]
    if done and not max(done):
        yield f"Settled: {len(done)} of {len(report.comparisons)}, whose weights are the baseline's."
    elif done:
        planned = max(c.planned for c in report.comparisons)
        every = len(done) == len(report.comparisons)
        saved = f": {planned - max(done):,} of them need not be asked" if every and max(done) < planned else ""
        yield (
            f"Settled: {len(done)} of {len(report.comparisons)}, the last of them by the first {max(done):,} images "
            f"of the {planned:,} that the baseline has{saved}."
        )
    if waiting := [c for c in report.comparisons if c.verdict == "go on"]:
        most = max(c.n for c in waiting)
        more = any(c.n < c.planned for c in waiting)
        hint = f"ask more, as bench run -n {2 * most}" if more else "the baseline has no more"
        unbounded = "" if report.rules.max_drop else "; without --max-drop only a gain is settled as no worse"
        yield f"Not settled by {most:,} images: {_some([c.name for c in waiting])}: {hint}{unbounded}."


def _dearer(rise: Rise, rules: Rules) -> str:
    """A model's cost in a sentence."""
    percent = f"{rise.percent:+.1f} %" if math.isfinite(rise.percent) else "from nothing"
    allowed = f"more than the {rules.max_cost_rise:g} % that are tolerated" if rise.too_much else "tolerated"
    return f"{printable(rise.name)}: {rise.what}: {rise.before:,.0f} before, {rise.now:,.0f} now ({percent}, {allowed})"


def verdict(report: Report) -> str:
    """The outcome in one sentence."""
    made, regressed = report.comparisons, report.regressed
    if not made:
        return "Nothing could be compared: this ledger and the baseline have no column of a model in common."
    parts = [f"{len(regressed)} of {len(made)} comparisons regressed"] if regressed else []
    parts += [f"{len(report.untrusted)} of {len(made)} comparisons not to be trusted"] if report.untrusted else []
    parts += [f"{len(report.doubts)} forbidden doubts"] if report.doubts else []
    parts += [f"{len(report.dearer)} of {len(report.costs)} costs rose too much"] if report.dearer else []
    unsure = "not settled yet" if report.rules.sequential else "inconclusive"
    parts += [f"{len(report.inconclusive)} of {len(made)} {unsure}"] if report.inconclusive else []
    parts += [f"{len(report.missing)} missing"] if report.missing else []
    parts += [f"{len(report.fresh)} new doubts"] if report.fresh else []
    if not parts:
        return f"All {len(made)} comparisons {'are settled: no worse' if report.rules.sequential else 'held'}."
    joined = ", ".join(parts)
    passed = "" if report.exit_code else "; not a failure without --strict"
    return f"{joined[0].upper()}{joined[1:]}{passed}."


def _hint(report: Report) -> str:
    """Why nearly the same is not the same: another test part, other attacks of a column, or another training."""
    for old, other in product(report.missing, report.new):
        was, is_ = old.question, other.question
        if old.dataset == other.dataset and was.test != is_.test:
            return f"The test part of {old.dataset} is not the baseline's: nothing on it can be compared."
        if was.test != is_.test or was.condition != is_.condition:
            continue
        if old.model == other.model and old.column == other.column and was.threat == is_.threat:
            if was.attacks != is_.attacks:
                apart = ", ".join(sorted(set(was.attacks) ^ set(is_.attacks)))
                return f"The column {old.column} has other attacks than the baseline's: {apart}."
            return f"The column {old.column} is not the baseline's: it is strict, or about the first images, only once."
        differ = [
            f"{field} is {new!r} and was {before!r}"
            for field, before, new in zip(old.model._fields, old.model, other.model, strict=True)
            if before != new
        ]
        if was == is_ and len(differ) == 1 and old.model.which == other.model.which:
            return f"{old.model} is not the baseline's: {differ[0]}."
    return ""


def page(report: Report) -> str:
    """A short page for a job's summary; cut, and saying so, where it would be larger than GitHub shows."""
    lines = [*("\n" + _escaped(s) for s in sentences(report))]
    head = f"### Robustness: {_escaped(verdict(report))}\n\n| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}\n"
    tail = "\n".join(lines[:-1]) + "\n"
    rows = ["| " + " | ".join(map(_escaped, _row(c))) + " |\n" for c in _worst_first(report)]
    left = MOST - len((head + tail).encode()) - 100
    kept = 0
    for row in rows:
        left -= len(row.encode())
        if left < 0:
            break
        kept += 1
    cut = f"\n{len(rows) - kept:,} more rows are cut here.\n" if kept < len(rows) else ""
    return head + "".join(rows[:kept]) + cut + tail


def junit_xml(report: Report) -> bytes:
    """JUnit XML: a case a comparison, and one for each that is missing."""
    strict, unsure = report.rules.strict, set(map(id, report.inconclusive))
    suite = ET.Element("testsuite", name="bench gate", time="0")
    for c in report.comparisons:
        case = _case(suite, c.name)
        if c.verdict == "regressed":
            _outcome(case, "failure", c.verdict, said(c))
        elif c.verdict == "not trusted":
            _outcome(case, "failure", c.verdict, "; ".join(_new_doubts(c)))
        elif id(c) in unsure:
            kind = "go on" if c.verdict == "go on" else "inconclusive"
            _outcome(case, "failure" if strict else "skipped", kind, said(c))
        ET.SubElement(case, "system-out").text = printable(said(c))
    for s in report.missing:
        _outcome(_case(suite, str(s)), "failure" if strict else "skipped", "missing", "in the baseline, and not here")
    for rise in report.costs:
        case = _case(suite, f"{rise.name}: {rise.what}")
        if rise.too_much:
            _outcome(case, "failure", "cost", _dearer(rise, report.rules))
    for what, doubt in report.doubts:
        _outcome(_case(suite, f"{what}: no doubts"), "failure", "doubt", doubt)
    for name, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("skipped", "testcase/skipped")):
        suite.set(name, str(len(suite.findall(tag))))
    suite.set("errors", "0")
    root = ET.Element("testsuites", {k: v for k, v in suite.attrib.items() if k not in {"time", "skipped"}})
    root.append(suite)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _new_doubts(c: Comparison) -> list[str]:
    """The doubts of now that the baseline does not have."""
    known = {doubt for b in c.before for doubt in b.doubts}
    return list(dict.fromkeys(doubt for s in c.now for doubt in s.doubts if doubt not in known))


def _case(suite: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname="bench.gate", name=printable(name), time="0")


def _outcome(case: ET.Element, tag: str, kind: str, said: str) -> None:
    facts = {"message": f"{kind}: {printable(said)}"}
    ET.SubElement(case, tag, facts | ({"type": kind} if tag == "failure" else {}))


def document(report: Report) -> dict[str, Any]:
    """Everything, as plain values."""
    rules = report.rules
    return {
        "schema": "rampart/gate-1", "verdict": verdict(report), "exit_code": report.exit_code,
        "max_drop": rules.max_drop, "alpha": rules.alpha, "strict": rules.strict, "no_doubts": rules.no_doubts,
        "sequential": rules.sequential, "max_cost_rise": rules.max_cost_rise, "forbidden": list(rules.forbidden),
        "comparisons": [_facts(c) for c in report.comparisons],
        "missing": list(map(_named, report.missing)), "new": list(map(_named, report.new)),
        "older": list(map(_named, report.older)),
        "doubts": [{"what": what, "doubt": doubt} for what, doubt in report.doubts],
        "new_doubts": [{"what": what, "doubt": doubt} for what, doubt in report.fresh],
        "not_trusted": [c.name for c in report.untrusted],
        "not_trusted_before": [{"what": what, "doubt": doubt} for what, doubt in report.lying],
        "costs": [
            {"name": r.name, "what": r.what, "before": r.before, "now": r.now, "too_much": r.too_much}
            for r in report.costs
        ],
    }  # fmt: skip


def _facts(c: Comparison) -> dict[str, Any]:
    one = c.now[0]
    return {
        "name": c.name, "verdict": c.verdict, "question": c.question, "defense": one.model.defense,
        "net": one.model.net, "seeds": [s.model.seed for s in c.now], "which": one.model.which,
        "dataset": one.dataset, "test": one.question.test, "condition": one.question.condition,
        "threat": one.question.threat, "column": one.column, "n": c.n, "fewer_images": c.fewer,
        "weights_before": [s.weights for s in c.before], "weights_now": [s.weights for s in c.now],
        "accuracy_before": c.accuracy_before, "accuracy_now": c.accuracy_now, "drop": c.drop,
        "lost": c.lost, "gained": c.gained, "p_value": c.p_value, "p_value_holm": c.adjusted,
        "smallest_drop_seen": c.smallest, "settled_after": c.settled_after, "p_value_no_worse": c.p_no_worse,
    }  # fmt: skip


def _named(s: Standing) -> dict[str, Any]:
    return {"name": str(s), "weights": s.weights, "n": s.n}


def annotations_of(report: Report) -> Iterator[str]:
    """Lines that GitHub shows at the job: an error for each failure, a warning for what is not sure."""
    unsure = "error" if report.rules.strict else "warning"
    for c in report.regressed:
        yield _annotation("error", "Robustness regressed", f"{c.name}: {said(c)}")
    for c in report.untrusted:
        yield _annotation("error", "Robustness not to be trusted", f"{c.name}: {'; '.join(_new_doubts(c))}")
    for c in report.inconclusive:
        title = "not settled" if report.rules.sequential else "inconclusive"
        yield _annotation(unsure, f"Robustness {title}", f"{c.name}: {said(c)}")
    if report.missing:
        yield _annotation(unsure, "Robustness missing", f"in the baseline, not here: {_some(report.missing)}")
    for what, doubt in report.doubts:
        yield _annotation("error", "Forbidden doubt", f"{what}: {doubt}")
    told = {str(s) for c in report.untrusted for s in c.now}
    for what, doubt in report.fresh:
        if what not in told:
            yield _annotation(unsure, "New doubt", f"{what}: {doubt}")
    for rise in report.dearer:
        yield _annotation("error", "Cost rose", _dearer(rise, report.rules))
    if not report.comparisons:
        yield _annotation("error", "Nothing compared", verdict(report))


def _annotation(kind: str, title: str, text: str) -> str:
    return f"::{kind} title={title}::{printable(text).replace('%', '%25')}"


def write(report: Report, *, junit: str, markdown: str, github: bool) -> None:
    """Write the files that are asked for; to GitHub: annotations on standard output, and the job's summary."""
    if junit:
        write_atomically(Path(junit), junit_xml(report))
    if markdown:
        write_atomically(Path(markdown), page(report).encode())
    if github:
        sys.stdout.write("".join(f"{line}\n" for line in annotations_of(report)))
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            _append(Path(summary), page(report))


def _append(path: Path, text: str) -> None:
    """Write behind what other steps have said."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise IncompleteError(f"cannot write $GITHUB_STEP_SUMMARY, {path}: {error.strerror}") from error


def _worst_first(report: Report) -> list[Comparison]:
    return sorted(report.comparisons, key=lambda c: (ORDER[c.verdict], -c.drop))


def _row(c: Comparison) -> tuple[str, ...]:
    """The cells of the table."""
    changed = "" if c.lost is None else f" (-{c.lost} +{c.gained})"
    p = "<0.0001" if c.adjusted < 1e-4 else f"{c.adjusted:.4f}"
    seen = "none" if c.smallest is None else _points(c.smallest)
    before, now = (f"{100 * share:.1f}" for share in (c.accuracy_before, c.accuracy_now))
    return c.verdict, c.name, before, now, f"{_points(c.drop)}{changed}", p, seen, _images(c)


def _images(c: Comparison) -> str:
    """How many were compared: `200!` are fewer than the baseline has; `by 71 of 500` where the first 71 settled it."""
    if c.p_no_worse is None:
        return f"{c.n:,}{'!' if c.fewer else ''}"
    return f"{f'{c.n:,}' if c.settled_after is None else f'by {c.settled_after:,}'} of {c.planned:,}"


def said(c: Comparison) -> str:
    """A comparison in a sentence."""
    _, _, before, now, drop, p, seen, _ = _row(c)
    fewer = "; fewer images than the baseline has" if c.fewer and c.p_no_worse is None else ""
    settled = "" if c.settled_after is None else f"settled by the first {c.settled_after:,}; "
    return (
        f"{settled}{before} % before, {now} % now, {drop} points lower on {c.n:,} images (p {p}, {c.question}); "
        f"a drop would have been seen from {seen} points on{fewer}"
    )


def _points(share: float) -> str:
    return f"{100 * share:.2f}"


def _some(things: Sequence[object]) -> str:
    """The first few by name, and how many more there are."""
    more = f"; and {len(things) - SHOWN:,} more" if len(things) > SHOWN else ""
    return "; ".join(printable(str(t)) for t in things[:SHOWN]) + more


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    entities = {"<": "&lt;", "&": "&amp;"}
    return "".join(f"\\{c}" if c in "\\`*_[]|~#" else entities.get(c, c) for c in printable(text))


def printable(text: str) -> str:
    """The text on one line, with no character that steers a terminal or that XML forbids."""
    steers = ("Cc", "Cf", "Cs", "Cn", "Co")
    return "".join("\ufffd" if unicodedata.category(c) in steers else c for c in " ".join(text.split()))
