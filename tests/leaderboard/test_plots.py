"""The drawings: well-formed, told in words, with the numbers beside them, and labels that keep clear."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from leaderboard.classes import Confusion, Share
from leaderboard.drawing import LETTER, LINE, Axis, Box, cut, labelled, percents
from leaderboard.grids import by_class, confusions, corruptions
from leaderboard.plots import Curve, Point, clean_and_robust, cost_and_robust, front, over_eps, over_passes

HOSTILE = "<script>alert('x')</script>\u202e\"&' " + "x" * 10_000


def points(n=30, seed=0):
    rng = random.Random(seed)
    found = []
    for k in range(n):
        x, y = rng.uniform(0.5, 1), rng.uniform(0.3, 0.6)
        found.append(Point(f"defense-{k}(beta={k})", x, y, (x - 0.01, x + 0.01), (y - 0.02, y + 0.02), k % 7 == 6))
    return found


def every():
    """One of each kind."""
    shares = [Share(f"class {k}", k + 1, 20) for k in range(10)]
    counts = tuple(tuple((i * j) % 5 for j in range(10)) for i in range(10))
    cells = {c: {str(s): (90 - 10 * s, 100) for s in range(1, 6)} for c in ("fog", "snow", "gaussian_noise")}
    steps = tuple((float(k), 1 - k / 50) for k in range(1, 50))
    return [
        clean_and_robust("a", points(), "worst"), cost_and_robust("b", points(), "worst"),
        over_eps("c", [Curve("fmn", steps)], 8, 20, "linf:8"),
        over_passes("d", [Curve("aa", steps), Curve("b", steps)]),
        by_class("e", shares, shares[::-1], "worst"), corruptions("f", cells),
        confusions("g", Confusion(tuple(f"class {k}" for k in range(10)), counts, 3, 100), "worst"),
    ]  # fmt: skip


@pytest.mark.parametrize("plot", every(), ids=lambda p: p.caption)
def test_a_drawing_is_told_in_words(plot):
    """It is an image with a title and a description that it names, and the table has a cell for each head."""
    root = ET.fromstring(plot.svg)  # raises where it is not well-formed
    parts = {e.get("id"): e for e in root if e.get("id")}
    assert root.get("role") == "img"
    title, said = parts[root.get("aria-labelledby")], parts[root.get("aria-describedby")]
    assert title.tag == "title" and title.text and said.tag == "desc" and len(said.text) > 20
    assert plot.rows and all(len(row) == len(plot.heads) for row in plot.rows)


@pytest.mark.parametrize("plot", every(), ids=lambda p: p.caption)
def test_a_drawing_has_no_style_of_its_own(plot):
    """The policy of the site forbids it: colours and dashes are classes."""
    for element in ET.fromstring(plot.svg).iter():
        assert not {"style", "fill", "stroke", "onclick"} & set(element.attrib)


@pytest.mark.parametrize("plot", every(), ids=lambda p: p.caption)
def test_what_is_drawn_lies_inside(plot):
    """Every absolute place in it is within its box."""
    root = ET.fromstring(plot.svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    for element in root.iter():
        for name, end in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            if element.get(name) is not None:
                assert -1 <= float(element.get(name)) <= end + 1, ET.tostring(element)


def boxes(svg):
    """The rectangles of the names beside points, by the width that a letter is taken to have."""
    for e in ET.fromstring(svg).iter("text"):
        if e.get("class") == "name":
            x, y = float(e.get("x")), float(e.get("y")) - LINE + 3.5
            yield Box(x, y, x + LETTER * len(e.text), y + LINE)


@pytest.mark.parametrize("seed", range(5))
def test_names_do_not_overlap(seed):
    """Neither each other nor a point; where there is no room a name is left out, and those of the front come first."""
    plot = clean_and_robust("a", points(80, seed), "worst")
    found = list(boxes(plot.svg))
    assert len(found) > 5
    assert not any(a.meets(b) for i, a in enumerate(found) for b in found[:i])
    spots = [(float(e.get("cx")), float(e.get("cy"))) for e in ET.fromstring(plot.svg).iter("circle")]
    assert spots and not any(box.meets(Box(x - 3, y - 3, x + 3, y + 3)) for box in found for x, y in spots)


def test_a_lone_name_is_always_there():
    """Beside its point, wherever that lies in the frame."""
    frame = Box(0, 0, 400, 300)
    for x in (5, 200, 395):
        for y in (8, 150, 292):
            assert len(labelled([(x, y, "a name")], frame)) == 1


@pytest.mark.parametrize("less", [False, True])
def test_the_front_is_what_nothing_beats(less):
    """As found by comparing every pair; an upper bound is on no front, and beats nothing."""
    several = points(60, 3)
    sign = -1 if less else 1

    def beaten(p):
        better = [q for q in several if not q.bound and sign * q.x >= sign * p.x and q.y >= p.y and q is not p]
        return any(sign * q.x > sign * p.x or q.y > p.y for q in better)

    expected = [p for p in several if not p.bound and not beaten(p)]
    found = front(several, less=less)
    assert sorted(found, key=id) == sorted(expected, key=id)
    assert [p.x for p in found] == sorted(p.x for p in expected)


def test_numbers_of_curves_are_the_curves():
    """The table beneath says at each place what stands there."""
    plot = over_eps("c", [Curve("fmn", ((0.0, 0.9), (0.1, 0.5), (0.25, 0.0)))], 0.2, 0.4, "linf:0.2")
    told = {float(eps): share for eps, share in plot.rows}
    assert told[0.0] == "90.0" and told[0.1] == "50.0" and told[0.2] == "50.0" and told[0.3] == "0.0"


def test_a_curve_falls_by_steps_to_its_end():
    """No line slants: between two distances nothing is known to fall."""
    plot = over_passes("d", [Curve("aa", ((1.0, 0.9), (10.0, 0.5), (100.0, 0.2)))])
    (d,) = (e.get("d") for e in ET.fromstring(plot.svg).iter("path") if "line" in (e.get("class") or ""))
    assert re.fullmatch(r"M[\d.]+,[\d.]+(H[\d.]+V[\d.]+)*H[\d.]+", d)


def test_the_heat_map_has_every_condition():
    """A number a cell and the mean of each row; a row with a gap has no mean."""
    plot = corruptions("f", {"fog": {"1": (9, 10), "2": (5, 10)}, "snow": {"1": (3, 10)}})
    assert plot.rows == (("fog", "90.0", "50.0", "70.0"), ("snow", "30.0", "–", "–"))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.03, 0.031), (17, 93), (0, 12345)])
def test_ticks_are_round_and_in_order(low, high):
    """Two or more, within the axis, in even steps."""
    ticks = Axis(low, high, 0, 400).ticks
    assert len(ticks) >= 2 and low - 1e-9 <= ticks[0] and ticks[-1] <= high + 1e-9
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1.0}


def test_a_share_keeps_its_axis_wide():
    """Twenty points at least, in tens, and never beyond 100."""
    assert (percents([95.0, 96.0], 0, 1).low, percents([95.0, 96.0], 0, 1).high) == (80, 100)
    assert (percents([], 0, 1).low, percents([], 0, 1).high) == (0, 100)


def test_hostile_names_are_text():
    """Whatever a name holds, a drawing is well-formed and has no element that it should not have."""
    p = [Point(HOSTILE, 0.9, 0.5, (0.8, 0.95), (0.4, 0.6)), Point("b", 0.8, 0.4, (0.7, 0.9), (0.3, 0.5))]
    shares = [Share(HOSTILE, 1, 2), Share("b", 1, 2)]
    drawings = [
        clean_and_robust("a", p, HOSTILE), by_class("b", shares, shares, HOSTILE),
        corruptions("c", {HOSTILE: {"1": (1, 2)}}),
        confusions("d", Confusion((HOSTILE, "b"), ((1, 1), (0, 2)), 0, 4), HOSTILE),
        over_passes("e", [Curve(HOSTILE, ((1.0, 0.9), (5.0, 0.1)))]),
    ]  # fmt: skip
    for plot in drawings:
        root = ET.fromstring(plot.svg)
        assert {e.tag for e in root.iter()} <= {"svg", "title", "desc", "path", "circle", "rect", "text"}
        assert "\u202e" not in plot.svg and len(plot.svg) < 120_000
    assert len(cut(HOSTILE)) == 28
