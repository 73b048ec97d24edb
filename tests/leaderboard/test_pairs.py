"""Pairs of models, against scipy and counts image by image."""

from __future__ import annotations

import base64
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderboard.evidence import Fallen
from leaderboard.images import Images
from leaderboard.pairs import Pair, matrix, packed


def fallen(images, n, *, bound=False):
    return Fallen(Images(images).bits, n, bound)


@given(st.sets(st.integers(0, 79)), st.sets(st.integers(0, 79)), st.integers(1, 80), st.integers(1, 80))
def test_disagreement_is_a_count(one, other, n1, n2):
    """On the images that both were asked: those that fell in the other alone, and in the one alone."""
    a, b = {i for i in one if i < n1}, {i for i in other if i < n2}
    pair = Pair.of(fallen(a, n1), fallen(b, n2))
    both = range(min(n1, n2))
    assert pair == Pair(len(both), sum(i in b and i not in a for i in both), sum(i in a and i not in b for i in both))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 71), (900, 1000), (0, 300)])
def test_p_value_is_scipys(first, second):
    """McNemar's exact test is a two-sided sign test of the images on which two models disagree."""
    from scipy.stats import binomtest

    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert Pair(2000, first, second).p_value == pytest.approx(expected, rel=1e-9)


def test_matrix_is_every_pair_adjusted():
    """What the row leads the column by, and p-values of Holm; who is not decided is compared with none."""
    rng = random.Random(0)
    models = [fallen({i for i in range(200) if rng.random() < p}, 200) for p in (0.1, 0.12, 0.4)]
    models += [None, fallen({1}, 200, bound=True)]
    found = matrix(models)
    for i in range(5):
        for j in range(5):
            pair = found.pairs[i][j]
            assert (pair is None) == (i == j or max(i, j) > 2)
            if pair is not None:
                back = found.pairs[j][i]
                assert (pair.first, pair.second, pair.p_value) == (back.second, back.first, back.p_value)
                assert pair.difference == (models[i].standing - models[j].standing) / 200
                assert found.adjusted[i][j] == found.adjusted[j][i] >= pair.p_value
    ps = sorted(found.pairs[i][j].p_value for i, j in ((0, 1), (0, 2), (1, 2)))
    assert min(found.adjusted[0][1:3] + found.adjusted[1][2:3]) == pytest.approx(min(1, 3 * ps[0]))


@given(st.sets(st.integers(0, 99)))
def test_packed_bits_are_numpys(images):
    """Image i is bit i of the bytes, the lowest bit first."""
    mask = np.zeros(100, bool)
    mask[list(images)] = True
    unpacked = np.unpackbits(np.frombuffer(base64.b64decode(packed(fallen(images, 100))), np.uint8), bitorder="little")
    assert (unpacked[:100].astype(bool) == mask).all()
