"""docs/optimality.md: how near every attack comes to the truth where it is known; `make optimality` writes it.

On edge images, all at exactly the same distance from what is misread, an attack finds each or does not; the ball
reaches a little further than that distance, or a little less far, where nothing can be found.  Beside the page it
writes the table of the site and, image by image, what the tests hold every attack to.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from bench import Attack, Draws, Recipe, ThreatModel
from bench.evaluate import Subject, check, misread
from bench.origin import about
from bench.registry import plugins
from bench.victim import Victim, be_exact
from leaderboard.optimality import FILE, Against, Distance, InBall, Optimality
from tests.conformance import mixture, truth
from tests.conformance.truth import Known

FLOORS = Path(__file__).parent / "optimality.json"
PAGE = Path(__file__).parents[2] / "docs" / "optimality.md"

# As their columns ask them; a minimum-norm attack under every norm that it searches.
ATTACKS = (
    "fgsm", "pgd(steps=20, step=0.25)", "pgd(steps=100, step=0.125)", "cw(steps=20, step=0.25)", "mim",
    "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "md", "mdmt", "mm3", "mm9", "mm-plus", "mma", "pgd-t",
    "square(queries=5000)", "spsa", "nes", "signhunter", "simba", "sparse-rs", "noise",
    "fmn", "deepfool", "ddn", "cw-l2", "fab-min", "rays", "hopskipjump", "boundary",
)  # fmt: skip
ELSEWHERE = {
    "clean": "no attack",
    "transfer": "its strength is its surrogate's",
    "bpda": "pgd by way of stand-ins for layers that hide their gradient, of which these models have none",
    "pgd-rescaled": "pgd on logits that are brought to one scale; for models whose scale hides gradients",
    "reference-apgd-ce": "compared in docs/conformance.md, as the next three",
    "reference-apgd-t": "",
    "reference-fab-t": "",
    "reference-square": "",
}
REACHES = (1.01, 1.05, 1.25)  # of the balls around edge images, over their distance
SHORT = 1.05  # the one that the tests ask
# What the tests ask of every attack: fewer images and questions, and the reach that is in SHORT.
QUICK = {
    "square(queries=5000)": "square(queries=500)", "spsa": "spsa(steps=20, pairs=64)", "nes": "nes(queries=1000)",
    "signhunter": "signhunter(queries=500)", "simba": "simba(queries=500)", "sparse-rs": "sparse-rs(queries=500)",
    "cw-l2": "cw-l2(rounds=4, steps=100, weight=0.1)", "rays": "rays(queries=1000)",
    "hopskipjump": "hopskipjump(queries=2000)", "boundary": "boundary(queries=2000)",
}  # fmt: skip
QUICK_MODELS = (
    ("linear-2", "linf"), ("linear-10", "linf"), ("linear-10", "l2"), ("linear-10", "l1"), ("linear-10", "l0"),
    ("sphere", "l2"), ("relu", "linf"),
)  # fmt: skip
QUICK_IMAGES = 16
SLACK = 1  # images that an attack may lose to another machine's rounding
WORSE, LEAST = 1.25, 1e-4  # how much larger the median gap of a minimum-norm attack may be: so many times, and so much
IMPOSSIBLE = 0.999  # a ball in which nothing is misread
IMAGES, EDGE = 48, 32
NEARER = 1e-4  # what a found distance may lie below the exact one: the rounding of float32, and milp's proof
ABOUT = {
    "linear-2": "softmax regression on two digits",
    "linear-10": "softmax regression on ten digits",
    "sphere": "inside a sphere or outside",
    "relu": "a net of eight ReLUs",
}

TOP = """# Optimality: how near do the attacks come to the truth?

Made by `make optimality`; do not edit. On these models the exact distance of every image from the nearest one that is
misread is known: in closed form for linear models (the box [0, 1] included) and for a sphere, and by mixed-integer
programming for a net of eight ReLUs. The images are digits of the test part that the model reads right.

*Edge images* were moved towards their nearest misread image until all are at one distance; the columns "1 %", "5 %" and
"25 %" say which share of them an attack finds when the ball reaches so much further than that. On plain images, in a
ball that about half of them withstand, "too high" says by how many points the robust accuracy that the attack leaves
is above the exact one. Of a minimum-norm attack the distances that it found, over the exact ones, less one: in the
median and at most. No attack finds anything in a ball that reaches 0.1 % less far than the nearest misread image, nor
finds one nearer than there is; the build fails if one does, and if an attack finds less than is written here.

What is seen: attacks on the cross-entropy are exact on two classes, and are not on ten: they climb a mixture of all
classes. Those on the margin of each class in turn (apgd-t, fab-t, mdmt, mm3, pgd-t) find every edge image of ten
classes in Linf and L2. Where the box binds, PGD in L2 falls short even on two classes: it scales into the ball and
then clips. FAB ends half a percent beyond the boundary. DeepFool steps along the gradient and misses the nearest point
of a sphere by an eighth. Attacks without gradients need many questions for the last percents, and Square searches
squares, which weights of single pixels do not reward.

"""


@dataclass(frozen=True)
class Found:
    """What an attack found: which images fell (N,), and how far each was moved (N,)."""

    fell: Tensor
    size: Tensor


def attacks(norm: str, texts: Iterable[str] = ATTACKS) -> Iterator[tuple[str, Recipe]]:
    """The attacks that search a norm, as they are written, and their recipes."""
    registry = plugins()
    for text in texts:
        recipe = registry.parse("attack", text)
        if norm in _plugin(recipe).norms:
            yield text, recipe


def _plugin(recipe: Recipe) -> Attack:
    assert isinstance(recipe.plugin, Attack)
    return recipe.plugin


def fits(recipe: Recipe, known: Known) -> bool:
    """Whether the model has as many classes as the attack needs."""
    return len(known.module(known.x[:1])[0]) >= _plugin(recipe).least_classes


def ask(recipe: Recipe, known: Known, eps: float = 0.0) -> Found:
    """Attack and judge, in a ball of this size or, of a minimum-norm attack, without bound."""
    plugin, x, y = _plugin(recipe), known.x, known.y
    places = torch.arange(len(x))
    bounded = plugin.goal == "in-ball"
    threat = ThreatModel.parse(f"{known.norm}:1").without_bound
    if bounded:
        threat = ThreatModel(threat.norm, Fraction(eps))
    victim = Victim(known.module, tile=len(x), access=plugin.access, images=len(x))
    with torch.enable_grad():
        images = plugin.function(victim, x.clone(), y.clone(), threat, Draws(0, places, recipe.name), **recipe.settings)
    size = check(str(recipe), images, x, threat, places)
    _, fell = misread(Subject(known.module, len(x)), images.detach().clamp(0, 1), y)
    return Found(fell, size.double())


def edge_of(known: Known) -> Known:
    """At most EDGE of a model's images at one distance: two thirds of the median one, which most images have."""
    return known.brought_to(float(known.distance.median()) * 2 / 3).first(EDGE)


def quick(known: Known, recipe: Recipe) -> list[float]:
    """Image by image: 1 or 0 for found or not, at the edge or, in L0, within the median distance; or the gaps."""
    if _plugin(recipe).goal == "minimum-norm":
        return [round(g, 6) for g in gap(ask(recipe, known), known)]
    if known.nearest is None:
        return ask(recipe, known, float(known.distance.median())).fell.double().tolist()
    edge = edge_of(known)
    return ask(recipe, edge, SHORT * float(edge.distance[0])).fell.double().tolist()


def quick_attacks(known: Known) -> Iterator[tuple[str, Recipe]]:
    """What the tests ask about a model."""
    for text, recipe in attacks(known.norm, [QUICK.get(text, text) for text in ATTACKS]):
        if fits(recipe, known):
            yield text, recipe


def weaker(before: Sequence[float], now: Sequence[float], recipe: Recipe) -> str:
    """How an attack does worse than it did; empty where it does not."""
    if _plugin(recipe).goal == "in-ball":
        found, least = int(sum(now)), int(sum(before)) - SLACK
        return "" if found >= least else f"found {found} of {len(now)} images, and must find {least}"
    seen, had = [g for g in now if g != NOT_FOUND], [g for g in before if g != NOT_FOUND]
    if len(seen) < len(had) - SLACK:
        return f"found {len(seen)} of {len(now)} images, and must find {len(had) - SLACK}"
    if not had:
        return ""
    most = WORSE * max(median(had), 0.0) + LEAST
    return "" if median(seen) <= most else f"images are {median(seen):.2%} too far, and may be {most:.2%}"


def against(known: Known) -> Against:
    """What every attack finds on one model."""
    edge = edge_of(known) if known.nearest is not None else None
    eps = float(known.distance.median())
    eps = eps if known.norm == "l0" else round(eps, 4)
    exact = known.accuracy(eps)
    in_ball, distances = [], []
    for text, recipe in attacks(known.norm):
        if not fits(recipe, known):
            continue
        started = time.process_time()
        version = recipe.plugin.version
        if _plugin(recipe).goal == "in-ball":
            reached, impossible = [], 0
            if edge is not None:
                for reach in REACHES:
                    found = ask(recipe, edge, reach * float(edge.distance[0]))
                    reached.append(int(found.fell.sum()))
                impossible += int(ask(recipe, edge, IMPOSSIBLE * float(edge.distance[0])).fell.sum())
            plain = ask(recipe, known, eps)
            impossible += int((plain.fell & (known.distance > eps * (1 + NEARER))).sum())
            says = float((~plain.fell).double().mean())
            in_ball.append(
                InBall(attack=text, version=version, edge=reached, says=round(says, 6), impossible=impossible)
            )
        else:
            found = ask(recipe, known)
            gaps = gap(found, known)
            seen = [g for g in gaps if g != NOT_FOUND]
            distances.append(
                Distance(
                    attack=text, version=version, found=len(seen),
                    median=round(median(seen), 6) if seen else None, largest=round(max(seen), 6) if seen else None,
                    impossible=sum(g < -NEARER for g in seen),
                )
            )  # fmt: skip
        sys.stderr.write(f"{known.name} {known.norm} {text}: {time.process_time() - started:.1f} s\n")
    return Against(
        model=known.name, norm=known.norm, about=ABOUT[known.name], images=len(known.x), eps=eps,
        exact=round(exact, 6), edge_images=len(edge.x) if edge else 0,
        edge=round(float(edge.distance[0]), 6) if edge else 0.0, in_ball=in_ball, distances=distances,
    )  # fmt: skip


NOT_FOUND = -2.0  # in place of a gap


def gap(found: Found, known: Known) -> list[float]:
    """Each distance over the exact one, less one; NOT_FOUND where the image did not fall."""
    over = found.size / known.distance - 1
    return over.where(found.fell, torch.full_like(over, NOT_FOUND)).tolist()


def page(table: Optimality) -> str:
    """The page."""
    text = TOP
    for one in table.tables:
        text += f"## {one.heading}\n\n{_facts(one)}\n\n"
        if one.in_ball:
            reaches = [f"{100 * (reach - 1):.0f} %" for reach in table.reaches] if one.edge_images else []
            text += _row("attack", *reaches, "says", "too high") + _row("---", *["---:"] * (len(reaches) + 2))
            for told in one.in_ball:
                shares = [f"{100 * n / one.edge_images:.0f}" for n in told.edge]
                text += _row(
                    f"`{told.attack}`", *shares, f"{100 * told.says:.1f}", f"{100 * (told.says - one.exact):.1f}"
                )
            text += "\n"
        if one.distances:
            text += _row("attack", "found", "further, median", "at most") + _row("---", "---:", "---:", "---:")
            for d in one.distances:
                text += _row(f"`{d.attack}`", f"{d.found} of {one.images}", _percent(d.median), _percent(d.largest))
            text += "\n"
    text += mixture.section(mixture.Mixture())
    return text + f"Measured on {table.machine}, with torch {table.versions['torch']}, on one thread.\n"


def _facts(one: Against) -> str:
    exact = f"{one.about[0].upper()}{one.about[1:]}. On {one.images} images the exact robust accuracy at "
    exact += f"{one.norm}:{one.eps:g} is {100 * one.exact:.1f} %."
    edge = f" {one.edge_images} edge images are all at {one.edge:.4f}." if one.edge_images else ""
    return exact + edge


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def main(words: Sequence[str]) -> int:
    """Write the page, the site's table and the floors (these alone: --floors); 1 where one found what cannot be."""
    be_exact(1)
    if "--floors" in words:
        write_floors()
        return 0
    tables = [against(known) for known in truth.known(IMAGES)]
    where = about(torch.device("cpu"), IMAGES)
    measured = Optimality.model_validate(
        {
            "schema": "rampart/optimality-1", "reaches": REACHES, "tables": tables, "machine": where["machine"].name,
            "versions": where["versions"], "commit": where["commit"],
        }
    )  # fmt: skip
    wrong = [
        f"{one.heading}: {told.attack} found {told.impossible} images that cannot be"
        for one in tables for told in (*one.in_ball, *one.distances) if told.impossible
    ]  # fmt: skip
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    if not wrong:
        mixture.write()
        PAGE.write_text(page(measured), encoding="utf-8")
        FILE.write_text(measured.model_dump_json(by_alias=True) + "\n", encoding="utf-8")
        write_floors()
    return bool(wrong)


def write_floors() -> None:
    """What the tests hold every attack to: what it finds now, image by image."""
    lines = []
    for name, norm in QUICK_MODELS:
        known = truth.named(name, norm, QUICK_IMAGES)
        each = {text: quick(known, recipe) for text, recipe in quick_attacks(known)}
        said = ",\n".join(f" {json.dumps(text)}: {json.dumps(found)}" for text, found in each.items())
        lines.append(f"{json.dumps(f'{name} {norm}')}: {{\n{said}\n}}")
    FLOORS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
