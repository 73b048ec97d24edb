"""The exact distance of an image to another class of a small ReLU net, by mixed-integer programming.

A ReLU is one of two straight lines; a binary variable says which, and another which class is reached
(arXiv:1711.07356).  All in float64 by scipy's `milp`.  What it finds is solved again with its binaries fixed, as a
linear programme, so that the answer does not rest on how exactly the integers were met; that nothing is nearer rests
on its proof, to 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array, vstack

Array = NDArray[np.float64]
Layer = tuple[Array, Array]  # weight (out, in) and bias (out,); a ReLU lies between two layers
Norm = Literal["linf", "l1"]
RADII: dict[str, tuple[float, ...]] = {"linf": (0.0625, 0.125, 0.25, 1.0), "l1": (1e4,)}
PROOF = 1e-6  # the relative gap between what was found and what is proven


@dataclass(frozen=True)
class Nearest:
    """The nearest image of another class, and how far it is; infinitely far where there is none in [0, 1]."""

    distance: float
    image: Array


def nearest(layers: Sequence[Layer], x: Array, y: int, norm: Norm) -> Nearest:
    """The nearest image (d,) in [0, 1] that the net gives another class than y, at its boundary with y.

    It is looked for in small balls first, in which most ReLUs are straight.
    """
    for radius in RADII[norm]:
        found = _within(_Programme(layers, x, y, norm, radius))
        if found is not None:
            return found
    return Nearest(np.inf, x)


def _within(programme: _Programme) -> Nearest | None:
    """The nearest image in a programme's ball; None where there is none."""
    found = milp(
        programme.cost,
        integrality=programme.whole,
        bounds=Bounds(programme.low, programme.high),
        constraints=LinearConstraint(programme.rows, programme.least, np.inf),
        options={"mip_rel_gap": PROOF},
    )
    if found.status == 2:  # proven infeasible
        return None
    if found.x is None or found.mip_gap > 2 * PROOF:
        raise ArithmeticError(f"milp did not finish: {found.message}")
    exact = programme.fixed(np.rint(found.x))
    if exact is None or abs(exact.distance - found.fun) > 1e-4 * found.fun + 1e-7:
        raise ArithmeticError(f"milp says {found.fun}, and with its binaries fixed it is {exact}")
    return exact


def by_enumeration(layers: Sequence[Layer], x: Array, y: int, norm: Norm) -> Nearest:
    """The same by a linear programme for every pattern of the ReLUs and every class: for a few neurons."""
    programme = _Programme(layers, x, y, norm, RADII[norm][-1])
    binaries = np.flatnonzero(programme.whole)
    best = Nearest(np.inf, x)
    for chosen in product((0.0, 1.0), repeat=len(binaries)):
        values = np.zeros(len(programme.cost))
        values[binaries] = chosen
        found = programme.fixed(values)
        if found is not None and found.distance < best.distance:
            best = found
    return best


class _Programme:
    """Minimise cost @ v where rows @ v >= least and low <= v <= high, some of v whole.

    v holds the image, its distance from x (one value, or in L1 one a pixel), for each hidden layer what leaves its
    ReLUs and which of these are open, and last which class is reached.
    """

    def __init__(self, layers: Sequence[Layer], x: Array, y: int, norm: Norm, radius: float) -> None:
        size, classes = len(x), len(layers[-1][1])
        sizes = norm == "l1"
        hidden = [len(bias) for _, bias in layers[:-1]]
        self.x, self.size = x, size
        self.far = slice(size, 2 * size if sizes else size + 1)
        starts = np.cumsum([self.far.stop, *(2 * n for n in hidden)])
        self.count = int(starts[-1]) + classes
        self.cost = np.zeros(self.count)
        self.cost[self.far] = 1
        self.whole = np.zeros(self.count)
        self.low, self.high = np.zeros(self.count), np.ones(self.count)
        self.low[:size], self.high[:size] = np.maximum(x - radius, 0), np.minimum(x + radius, 1)
        self.high[self.far] = radius
        self.blocks: list[csr_array] = []
        self.bounds: list[Array] = []
        eye = np.eye(size)
        away = eye if sizes else np.ones((size, 1))
        for sign in (1.0, -1.0):  # the distance is at least x' - x, and x - x'
            self._add({0: -sign * eye, size: away}, -sign * x)
        before, low, high = 0, self.low[:size], self.high[:size]
        for (weight, bias), start, n in zip(layers, starts, hidden, strict=False):
            low, high = _interval(weight, bias, low, high)
            least, most = np.minimum(low, 0), np.maximum(high, 0)
            eye = np.eye(n)
            opened = int(start) + n
            self.whole[opened : opened + n] = 1
            self.high[start : start + n] = most
            self._add({before: -weight, int(start): eye}, bias)  # h >= z
            self._add({before: weight, int(start): -eye, opened: np.diag(least)}, least - bias)  # h <= z - l (1 - a)
            self._add({int(start): -eye, opened: np.diag(most)}, np.zeros(n))  # h <= u a
            before, low, high = int(start), np.maximum(low, 0), np.maximum(high, 0)
        weight, bias = layers[-1]
        reached = self.count - classes
        self.whole[reached:] = 1
        self.high[reached + y] = 0
        others = [j for j in range(classes) if j != y]
        margin, shift = weight[others] - weight[y], bias[others] - bias[y]
        least = np.minimum(_interval(margin, shift, low, high)[0], 0)
        chosen = np.zeros((len(others), classes))
        chosen[range(len(others)), others] = least
        self._add({before: margin, reached: chosen}, least - shift)  # z_j - z_y >= M (1 - s_j)
        self._add({reached: np.ones((1, classes))}, np.ones(1))  # some class is reached
        self.rows, self.least = vstack(self.blocks).tocsr(), np.concatenate(self.bounds)

    def _add(self, parts: dict[int, Array], least: Array) -> None:
        """Rows with these blocks of columns, by where they start."""
        row = np.zeros((len(least), self.count))
        for start, block in parts.items():
            row[:, start : start + block.shape[1]] = block
        self.blocks.append(csr_array(row))
        self.bounds.append(least)

    def fixed(self, values: Array) -> Nearest | None:
        """The answer where the whole variables have these values; None where there is none."""
        whole = self.whole == 1
        low, high = self.low.copy(), self.high.copy()
        low[whole] = high[whole] = np.clip(values[whole], self.low[whole], self.high[whole])
        found = linprog(self.cost, A_ub=-self.rows, b_ub=-self.least, bounds=np.stack([low, high], 1), method="highs")
        return Nearest(float(found.fun), found.x[: self.size]) if found.status == 0 else None


def _interval(weight: Array, bias: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """What a layer can give for inputs between low and high."""
    up, down = np.maximum(weight, 0), np.minimum(weight, 0)
    return up @ low + down @ high + bias, up @ high + down @ low + bias


def outputs(layers: Sequence[Layer], x: Array) -> Array:
    """The logits of images (n, d): (n, K)."""
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight.T + bias, 0)
    return x @ layers[-1][0].T + layers[-1][1]


def distances(layers: Sequence[Layer], x: Array, y: Sequence[int], norm: Norm) -> Iterator[Nearest]:
    """Of each image (n, d)."""
    for one, label in zip(x, y, strict=True):
        yield nearest(layers, one, int(label), norm)
