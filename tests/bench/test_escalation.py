"""Escalation: a doubt calls for its attacks, and the row then says less than before."""

from __future__ import annotations

import json

import pytest

from bench.doubts import REASONS
from bench.registry import plugins

NETS = '''"""A linear model, whose distances are known, and three ways to hide them."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import net


class Model(nn.Module):
    def __init__(self, inside: int, classes: int, how: str) -> None:
        super().__init__()
        self.linear, self.how = nn.Linear(inside, classes), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "levels":
            x = (x * 64).floor() / 64
        z = self.linear(x.flatten(1))
        return z * 1e5 if self.how == "scaled" else z


def _net(how: str):
    @net(name=how)
    def made(*, classes: int, channels: int, size: int) -> nn.Module:
        """A linear model, honest or not."""
        return Model(channels * size * size, classes, how)

    return made


honest, scaled, levels = (_net(how) for how in ("honest", "scaled", "levels"))
'''


@pytest.fixture
def board(bench, tmp_path):
    """Run one net's model, trained the same way, and give its row and what was said."""
    (tmp_path / "nets.py").write_text(NETS)

    def run(net, *words):
        done = bench(
            "run", "--defense", "standard(epochs=12)", "--net", net, "--columns", "clean, pgd(steps=20)", "-n", "20",
            "--plugin", "nets.py", "--ledger", f"ledger-{net}", "--executor", "inline", "--json", *words,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (section,) = json.loads(done.stdout)["board"]["sections"]
        (row,) = section["rows"]
        return {name: number["accuracy"] for name, number in row["numbers"].items()}, row, done.stderr

    return run


def test_a_hidden_slope_is_found_by_the_probe_that_its_doubt_calls_for(board):
    """Scaled logits stand under PGD on the cross-entropy and fall as the honest model does under the margin."""
    plain, honest, said = board("honest", "--escalate")
    assert set(plain) == {"clean", "pgd(steps=20)"}
    assert honest["doubts"] == []
    assert "asked more" not in said
    lies, _, _ = board("scaled")
    assert lies["pgd(steps=20)"] > plain["pgd(steps=20)"] + 0.3
    tells, row, said = board("scaled", "--escalate")
    assert "doubt: 1 model is asked more: probe-margin" in said
    assert tells["pgd(steps=20)"] == lies["pgd(steps=20)"]
    assert tells["probe-margin"] <= plain["pgd(steps=20)"] + 0.02
    assert row["summary"]["accuracy"] <= tells["probe-margin"]
    assert any(d["text"] == REASONS["underflow"].text for d in row["doubts"])


def test_zero_gradients_call_for_attacks_without_them(board):
    """A quantiser stands under PGD; without gradients most of it falls."""
    tells, _, said = board("levels", "--escalate", "-n", "8")
    assert "is asked more: probe-blind" in said
    assert tells["pgd(steps=20)"] > 0.8
    assert tells["probe-blind"] < tells["pgd(steps=20)"] - 0.3


def test_every_probe_is_a_column():
    """What a reason names is there."""
    names = set(plugins().names("column"))
    assert {r.probe for r in REASONS.values() if r.probe} <= names
