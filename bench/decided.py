"""How many of the first test images a column's number is about: one rule, for the board and for the gate."""

from __future__ import annotations


def reached(decided: int, known: int, reach: int, asked: int) -> int | None:
    """The first so many images that a number is about; None where there is no more than a bound.

    decided: the first so many images are all decided; known: of these, how many are whatever the attacks were asked,
    as those that fell are.  reach: how far the attack went that went least far.  asked: the first so many were asked
    about; 0 where nothing says so.

    While an image within reach is undecided there is only a bound, for the decided ones are no fair sample: where a
    cascade was cut short they are the fallen ones, and where an attack was asked for another column's sake they are
    those that withstood that column's other attacks.
    """
    if decided < reach or (decided < asked and decided == known):
        return None
    return roundest(reach, decided) if decided < asked else decided


def roundest(low: int, high: int) -> int:
    """The roundest number from low to high.

    People ask about round numbers of images, and of those that were lost to begin with no record of an attack says
    whether they were meant.
    """
    step = 1
    while -(-low // (10 * step)) * 10 * step <= high:
        step *= 10
    return -(-low // step) * step
