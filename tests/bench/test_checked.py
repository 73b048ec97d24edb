"""Records of checks."""

from __future__ import annotations

import math

from bench.checked import doubted, finite
from bench.doubts import Doubt
from bench.honesty import Checked


def test_figures_that_json_has_no_word_for_are_left_out():
    """A record that holds one could be written and never read again."""
    figures = {"nan": math.nan, "infinite": math.inf, "share": 0.5}
    assert finite(figures) == {"share": 0.5}
    (found,) = doubted(Checked((Doubt("flat", (1,), figures, "a layer"),), figures, 64, 0, 0))
    assert found.figures == {"share": 0.5} and found.images == [1]
