"""The command on a model's page, read back by a shell and by the command line's own resolution."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from bench import TrainingRecord
from bench.cli import run
from bench.cli_exam import resolved
from bench.registry import plugins
from bench.request import Request, resolve
from leaderboard.arithmetic import Number, Spent
from leaderboard.evidence import Evidence
from leaderboard.reproduce import command, has_fewer, quoted
from leaderboard.rows import Head, Maker, Row, Section

from .conftest import Writer, sha

TRAINS = [d.name for d in plugins().all("defense") if getattr(d, "trains", False)]


def words_of(line):
    """What a shell makes of a command: its words, without `bench run`."""
    spelt = line.replace("bench run", "printf '%s\\n'", 1)
    said = subprocess.run(["sh", "-c", spelt], capture_output=True, text=True, check=True).stdout
    return said.splitlines()


def placed(training, *, columns=("clean", "pgd-20", "aa"), threat=None, n=100, condition="clean", **evidence):
    """A row of a board that this training's best weights have."""
    number = Number(n // 2, n, False, Spent(), (("pgd", 0),))
    heads = tuple(Head(name, (f"{name}@1()",)) for name in columns)
    row = Row(
        Maker(training.label, training.seed, "best", training), training.net_label, training.net, sha("w"), (),
        dict.fromkeys(columns, number), number, Spent(), (), {}, evidence=Evidence(**evidence),
    )  # fmt: skip
    threat = training.threat if threat is None else threat
    return Section(training.dataset, sha("t"), threat or None, condition, heads, "worst", (row,), (row,), 500), row


def recorded(place, defense, *, seed=1, **request):
    """The record that a training of this defense would leave, but for what it learnt."""
    exam = resolve(Request((defense,), seeds=(seed,), **request), place)
    (lesson,) = exam.lessons
    t = lesson.training
    return TrainingRecord.model_construct(
        key=t.key, defense=t.defense, net=t.net, label=lesson.label, net_label="", dataset=exam.dataset.name,
        train=t.train, val=t.val, threat=t.threat, seed=t.seed, weights={"best": sha("w")},
    )  # fmt: skip


def read_back(line, tmp_path):
    """The exam that the command line makes of it."""
    words = words_of(line)
    options = run.make_context("run", words).params
    return resolved({**options, "ledger": str(tmp_path), "store": str(tmp_path), "data": str(tmp_path)})[0]


@pytest.mark.parametrize("defense", TRAINS)
def test_the_command_is_the_training_again(place, tmp_path, defense):
    """For every built-in defense it resolves to a training of the same key, on the same images and columns."""
    training = recorded(place, defense)
    section, row = placed(training, threat=training.threat or "linf:0.2")
    line, why = command(section, row)
    assert not why
    exam = read_back(line, tmp_path)
    (lesson,) = exam.lessons
    assert lesson.training.key == training.key
    assert (exam.n, exam.weights, list(exam.columns)) == (100, ("best",), ["clean", "pgd-20", "aa"])


@pytest.mark.parametrize("defense", ["trades(beta=3.5, epochs=2, drops=(1,))", "part(mask='none')", "at(eps='3/255')"])
def test_settings_are_in_the_command(place, tmp_path, defense):
    """What differs from the defaults, whatever said so."""
    training = recorded(place, defense)
    section, row = placed(training, threat="linf:0.2" if "eps" in defense else None)
    exam = read_back(command(section, row)[0], tmp_path)
    assert exam.lessons[0].training.key == training.key


def test_where_a_file_lies_comes_from_the_label():
    """The key has the hash alone; the command names the file too."""
    writer = Writer(None)
    made = writer.made("checkpoint(path='w.pth')", "w", defense=f"checkpoint@1(sha256='{sha('file')}')")
    line, _ = command(*placed(made))
    (defense,) = (w for w in words_of(line) if w.startswith("checkpoint"))
    assert defense == f"checkpoint@1(sha256='{sha('file')}', path='w.pth')"


def test_a_training_on_fewer_images_has_a_command_on_the_board_of_the_whole(place, tmp_path):
    """The test part is the same; the command names the data set with the setting, and its training is that one."""
    made = recorded(place, "at(epochs=3)", dataset="digits(train_images=100)")
    section, row = placed(made.model_copy(update={"dataset": "digits(train_images=100)"}))
    line, why = command(replace(section, dataset="digits"), row)
    assert not why and read_back(line, tmp_path).lessons[0].training.key == made.key
    assert not command(replace(section, dataset="mnist"), row)[0]


@pytest.mark.parametrize(
    ("trained", "plain", "expected"),
    [
        ("mnist(train_images=9)", "mnist", True), ("mnist", "mnist", False), ("mnist(train_images=9)", "digits", False),
        ("mnist(digits=(5, 7), train_images=9)", "mnist(digits=(5, 7))", True),
        ("mnist(digits=(5, 7), train_images=9)", "mnist", False),
        ("npz(file='a b.npz', train_images=9)", "npz:a b.npz", True), ("(", "mnist", False),
    ],
)  # fmt: skip
def test_which_data_sets_are_others_with_fewer_images(trained, plain, expected):
    """The name and all other settings are the same."""
    assert has_fewer(trained, plain) is expected


def test_a_training_for_another_threat_is_not_claimed():
    """No command trains for one threat and examines under another; the page says so instead."""
    made = Writer(None).made("at", "w", threat="linf:0.3")
    line, why = command(*placed(made, threat="linf:0.2"))
    assert not line and "linf:0.3" in why
    line, why = command(*placed(Writer(None).made("at", "w", on="mnist"), threat="linf:0.2"))
    assert "linf:0.1" in why


def test_weights_without_a_training_have_no_command():
    """There is nothing that made them."""
    section, row = placed(Writer(None).made("at", "w"))
    bare = Row(Maker("0123"), *(getattr(row, f) for f in list(Row.__dataclass_fields__)[1:]))
    assert command(section, bare) == ("", "No training of these weights is recorded.")


def test_columns_of_one_name_are_told_by_their_attack():
    """Two columns called pgd-20 are two recipes; the command has the one that is meant."""
    made = Writer(None).made("at", "w")
    section, row = placed(made, columns=("clean", "pgd-20 #0123abc", "a = b", "aa #0123abc"))
    heads = (*section.heads[:1], Head("pgd-20 #0123abc", ("pgd@1(steps=20)",)), *section.heads[2:3],
             Head("aa #0123abc", ("x@1()", "y@1()")))  # fmt: skip
    section = Section(*(heads if f == "heads" else getattr(section, f) for f in Section.__dataclass_fields__))
    assert "clean, pgd@1(steps=20), a, aa" in words_of(command(section, row)[0])


def test_conditions_are_those_that_were_asked():
    """All five severities of a corruption are its name; published images are named without their hash."""
    made = Writer(None).made("at", "w")
    asked = [*(f"fog@1():{s}" for s in range(1, 6)), "snow@1():3", f"official/frost@1(images='{sha('i')}'):2"]
    section, row = placed(made, columns=("fog",), conditions=dict.fromkeys(asked, (1, 2)))
    section = Section(*("mean" if f == "summary" else getattr(section, f) for f in Section.__dataclass_fields__))
    said = words_of(command(section, row)[0])
    assert "fog, snow:3, official/frost:2" in said and "clean" in said


@pytest.mark.parametrize(
    "hostile",
    [
        "$(touch owned)",
        "`touch owned`",
        '"; touch owned; "',
        "'; touch owned; '",
        "a\\",
        "!x",
        "a b",
        "${HOME}",
        "*",
        "~",
    ],
)
def test_a_hostile_name_is_one_word(tmp_path, hostile):
    """Whatever it holds, a shell reads it back as it is and runs nothing."""
    said = subprocess.run(
        ["bash", "-c", f"printf '%s' {quoted(hostile)}"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert said.stdout == hostile and not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["--plugin=evil.py", "a\nb", "a\u202eb"])
def test_names_that_steer_have_no_command(label):
    """A name that would be taken for an option, or that a terminal would obey, is not put on a line to copy."""
    made = Writer(None).made("at", "w", on=label)
    line, why = command(*placed(made))
    assert not line and "characters" in why
