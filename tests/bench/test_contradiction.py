"""Doubts from attacks set side by side: each from the images that one felled and the others left."""

from __future__ import annotations

from bench.contradiction import NAMED, Asked, contradictions
from bench.doubts import REASONS, code_of, distrusts

FGSM, APGD_CE, APGD_T = "fgsm@1()", "apgd-ce@1(eot=1, restarts=1, steps=100)", "apgd-t@1(steps=100, targets=9)"
PGD = "pgd@1(eot=1, keep='{}', restarts=1, start='uniform', step=0.125, steps=100)"
LAST, ANY = PGD.format("last"), PGD.format("any")
ALL = frozenset(range(200))


def cell(attack, fell, asked=ALL, gradients=100.0, access="gradients"):
    return Asked(attack, access, gradients, asked, frozenset(fell))


def codes(*cells):
    return {found.code: found.images for found in contradictions(cells)}


def test_attacks_that_agree_raise_nothing():
    """The strong fell all that the weak did, and a little more."""
    weak, strong = range(50), range(58)
    assert codes(cell(FGSM, weak, gradients=1), cell(LAST, range(55)), cell(ANY, range(56)), cell(APGD_T, strong)) == {}
    assert codes() == {}


def test_what_fell_to_one_step_and_to_no_climb_is_named():
    """Two of 200 are more than half a percent; one is not; and a climb of 20 steps proves nothing."""
    assert codes(cell(FGSM, {3, 9}, gradients=1), cell(LAST, {4})) == {"single-step": (3, 9)}
    assert codes(cell(FGSM, {3}, gradients=1), cell(LAST, {4})) == {}
    assert codes(cell(FGSM, {3, 9}, gradients=1), cell(LAST, {4}, gradients=20)) == {}
    assert codes(cell(FGSM, {3, 9}, gradients=1), cell(LAST, {4}), cell(APGD_CE, {3, 9})) == {}
    (found,) = contradictions([cell(FGSM, {3, 9}, gradients=1), cell(LAST, {4})])
    assert found.attacks == ("fgsm",)
    assert found.text.startswith("2 images fell to FGSM's single step and to no climb of 50 steps or more (3, 9)")


def test_margins_that_fell_more_than_a_twentieth_are_imbalance():
    """Eleven of 200 are more than 5 %, ten are not; images that PGD was not asked about do not count."""
    assert codes(cell(LAST, ()), cell(APGD_T, range(11)))["imbalanced"] == tuple(range(11))
    assert codes(cell(LAST, ()), cell(APGD_T, range(10))) == {}
    assert codes(cell(LAST, (), frozenset(range(5))), cell(APGD_T, range(11))) == {}
    assert codes(cell(LAST, range(6)), cell(APGD_T, range(15))) == {}


def test_the_share_is_of_the_images_that_the_attack_went_through():
    """On the first 100 images six are more than a twentieth, though PGD was asked about 200."""
    first = frozenset(range(100))
    assert codes(cell(LAST, ()), cell(APGD_T, range(6), first)) == {"imbalanced": tuple(range(6))}


def test_a_last_image_that_gives_back_what_fell_is_told():
    """Of the same attack with the same settings alone."""
    assert codes(cell(LAST, {1}), cell(ANY, {1, 2, 3})) == {"silent": (2, 3)}
    assert codes(cell(LAST.replace("steps=100", "steps=20"), {1}), cell(ANY, {1, 2, 3})) == {}


def test_what_all_of_autoattack_missed_is_told():
    """Only where all four were asked, in a cascade or not."""
    md = cell("mdmt@1(change=20)", {5, 6, 7})
    rest = frozenset(ALL - {0})
    four = [
        cell(APGD_CE, {0}), cell(APGD_T, (), rest), cell("fab-t@1()", (), rest),
        cell("square@1(queries=5000)", {7}, rest, 0, "scores"),
    ]  # fmt: skip
    assert codes(*four, md) == {"missed": (5, 6)}
    assert codes(*four[:3], md) == {}


def test_many_images_are_counted_and_some_named():
    """The sentence stays readable; the images are all there."""
    (found,) = contradictions([cell(LAST, ()), cell(APGD_T, range(60))])
    assert len(found.images) == 60
    assert f"and {60 - NAMED} more" in found.text


def test_what_fell_without_gradients_alone_is_masked():
    """One of 200 is more than 0.2 %; what FGSM alone withstood proves nothing."""
    square = cell("square@1(queries=5000)", {5}, access="scores", gradients=0)
    assert codes(cell(ANY, {1}), square) == {"masked": (5,)}
    assert codes(cell(ANY, {1, 5}), square) == {}
    assert codes(cell(FGSM, {1}, gradients=1), square) == {}


def test_targets_that_find_much_more_than_the_nearest_class_are_told():
    """Five of 200 are more than 2 %, four are not."""
    dlr = cell("apgd-dlr@1(eot=1, restarts=1, steps=100)", {0})
    assert codes(dlr, cell(APGD_T, range(6))) == {"targets": (1, 2, 3, 4, 5)}
    assert codes(dlr, cell(APGD_T, range(5))) == {}


def test_what_no_attack_mends_is_not_to_be_trusted():
    """By code or by sentence; a doubt that calls for a probe alone is not of that kind, nor is an unknown sentence."""
    assert distrusts("state")
    assert distrusts(REASONS["holds-images"].text)
    assert code_of(REASONS["flat"].text) == "flat"
    assert not any(distrusts(said) for said in ("flat", REASONS["flat"].text, "silent", "", "who knows"))
    assert {code for code, reason in REASONS.items() if reason.fatal and reason.probe} == {"dynamic"}
