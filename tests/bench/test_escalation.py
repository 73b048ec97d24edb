"""Escalation: a doubt calls for its attacks, and the row then says less than before."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest

from bench.checked import Thorough, checked, known_thorough, thorough
from bench.doubts import REASONS
from bench.escalation import probes
from bench.executors import Inline
from bench.place import Place
from bench.records import CheckRecord, TrainingRecord
from bench.registry import plugins
from bench.request import Request, resolve
from bench.run import run
from bench.thorough import check_thoroughly

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
def quick(monkeypatch):
    """Thorough checks on few images, with little luck."""
    few = partial(check_thoroughly, most=16, lucky=2, only=("scale", "budgets", "active", "steps", "rounded"))
    monkeypatch.setattr("bench.checked.check_thoroughly", few)


@pytest.fixture
def board(bench, tmp_path, quick):
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
    assert REASONS["scale"].text in said
    assert tells["pgd(steps=20)"] == lies["pgd(steps=20)"]
    assert tells["probe-margin"] <= plain["pgd(steps=20)"] + 0.02
    assert row["summary"]["accuracy"] <= tells["probe-margin"]
    assert {REASONS[code].text for code in ("underflow", "scale")} <= {d["text"] for d in row["doubts"]}


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


@pytest.fixture
def ledger(tmp_path):
    """A place with the nets above, and a run of some columns on a model of one of them: its exam."""
    (tmp_path / "nets.py").write_text(NETS)
    place = Place(tmp_path / "ledger", tmp_path / "store", tmp_path / "data", (str(tmp_path / "nets.py"),))

    def examined(net, *columns):
        exam = resolve(Request(("standard(epochs=12)",), net=net, columns=columns, n=8), place)
        run(exam, place, Inline(), report=lambda _line: None)
        return place, exam

    return examined


def test_what_shows_between_attacks_starts_a_probe_too(ledger):
    """Square fells what PGD leaves standing: more steps, targets and queries; without Square nobody knows."""
    place, exam = ledger("levels", "clean", "pgd(steps=20)")
    (lesson,) = exam.lessons
    assert probes(place, exam, lesson) == ("probe-blind",)
    place, exam = ledger("levels", "clean", "pgd(steps=20)", "square(queries=500)")
    assert probes(place, exam, lesson) == ("probe-blind", "probe-more")


def test_images_of_another_model_are_tried_where_gradients_say_nothing(ledger):
    """Of one that raised no doubt itself, by its whole hash; never of the model's own."""
    place, honest = ledger("honest", "clean")
    (record,) = (d for d in place.ledger.all() if isinstance(d, TrainingRecord))
    place, exam = ledger("levels", "clean", "pgd(steps=20)")
    found = probes(place, exam, exam.lessons[0])
    assert found == ("probe-blind", f"transfer(surrogate='{record.weights['best'][:12]}', steps=100, step=0.05)")
    assert probes(place, honest, honest.lessons[0]) == ()


def test_thorough_checks_are_recorded_once_under_their_threat(ledger, quick):
    """And named by it; a second look asks nothing, and one under another threat is another record."""
    place, exam = ledger("honest", "clean")
    (record,) = (d for d in place.ledger.all() if isinstance(d, TrainingRecord))
    task = Thorough(record.net, record.weights["best"], "digits", "linf:0.2")
    first = task.do(place)[1]
    assert isinstance(first, CheckRecord)
    assert (first.threat, first.doubts, first.n) == ("linf:0.2", [], 16)
    assert task.do(place)[1] == first
    assert known_thorough(place, first.net, first.weights, first.test, "linf:0.2") == first
    assert known_thorough(place, first.net, first.weights, first.test, "linf:0.1") is None
    other = replace(task, threat="linf:0.1").do(place)[1]
    assert isinstance(other, CheckRecord)
    assert other.key != first.key
    with pytest.raises(ValueError, match="a field was changed"):
        CheckRecord.model_validate(first.model_dump(by_alias=True) | {"threat": "linf:0.1"})
    assert thorough(place, first.net, first.weights, exam.dataset, exam.threat, first) == first


def test_what_cannot_be_trusted_anyway_is_not_looked_at_thoroughly(place):
    """No number is about one model, and hours would be spent on it."""
    exam = resolve(Request(("untrained",), net="moody", columns=("clean",), n=8), place)
    run(exam, place, Inline(), report=lambda _line: None)
    (record,) = (d for d in place.ledger.all() if isinstance(d, TrainingRecord))
    found = Thorough(record.net, record.weights["best"], "digits", "linf:0.2").do(place)
    assert found == [checked(place, record.net, record.weights["best"], exam.dataset)]
    assert [d.code for d in found[0].doubts] == ["mixes"]


def test_an_author_asks_for_the_thorough_checks_of_weights(board, bench, tmp_path):
    """By hash; a plugin has none, and a bad threat is named."""
    board("scaled")
    (record,) = (
        d
        for d in Place(*(tmp_path / n for n in ("ledger-scaled", "s", "d"))).ledger.all()
        if isinstance(d, TrainingRecord)
    )
    words = ("--thorough", "--plugin", "nets.py", "--ledger", "ledger-scaled")
    done = bench("check", record.weights["best"][:8], *words)
    assert done.returncode == 1
    assert f"wrong[scale]: {REASONS['scale'].text}" in done.stderr
    assert "digits, linf:0.2; images" in done.stderr
    done = bench("check", "fgsm", *words)
    assert (done.returncode, "fgsm is a attack" in done.stderr) == (2, False)
    assert "--thorough is about weights" in done.stderr
    assert bench("check", record.weights["best"][:8], *words, "--threat", "linf").returncode == 2
