"""The commit or the settings that lowered robustness: searches with planted culprits, and real ones."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from bench.bisection import Step, ends, first_bad, judge, smallest_sets
from bench.gate import Rules
from bench.standing import Standings
from tests.bench.test_gate import NOBODY, standing
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
WORDS = ("bisect", "--net", "tiny", "--plugin", "plugin.py", "--columns", "clean, slow", "--executor", "inline")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_the_first_bad_one_is_found_in_log_steps(count):
    """Wherever it is: that one alone, after at most log2(count) looks, the end not counted."""
    for bad in range(0, count, max(1, count // 50)):
        asked = []
        found = first_bad(
            count, lambda i, bad=bad, asked=asked: asked.append(i) or ("regressed" if i >= bad else "held")
        )
        assert list(found) == [bad] and len(asked) <= (count - 1).bit_length()
        assert len(set(asked)) == len(asked) and count - 1 not in asked


@pytest.mark.parametrize("bad", range(7))
def test_broken_ones_are_walked_around(bad):
    """Whatever one, two or three of seven are broken: the suspects are the bad one and broken ones before it."""
    for size in (1, 2, 3):
        for broken in combinations(range(6), size):
            verdicts = ["regressed" if i >= bad else "held" for i in range(7)]
            for i in broken:
                verdicts[i] = "broken"
            found = list(first_bad(7, verdicts.__getitem__))
            assert bad in found and all(i in broken for i in found[:-1]) and verdicts[found[-1]] != "held"
            assert found[0] == 0 or verdicts[found[0] - 1] == "held"


@pytest.mark.parametrize("culprit", [("c",), ("a", "f"), ("b", "c", "g"), tuple("abcdefgh")])
def test_the_smallest_set_is_found(culprit):
    """Of eight settings the one, two, three or all that are bad together, and no set is tried twice in vain."""
    asked = []
    found = smallest_sets("abcdefgh", lambda s: asked.append(s) or s >= set(culprit))
    assert found == (culprit,) and len(asked) < 100


def test_several_that_are_enough_alone_are_all_named():
    """Two culprits, each bad alone: both are the answer, not their union."""
    assert smallest_sets("abcd", lambda s: bool(s & {"b", "d"})) == (("b",), ("d",))


def test_sets_that_cannot_be_examined_are_not_bad():
    """One setting only trains beside another: the two that are bad together are found all the same."""
    assert smallest_sets("abcd", lambda s: {"a", "c"} <= s and ("b" not in s or "d" in s)) == (("a", "c"),)


def test_a_step_is_judged_as_the_gate_judges():
    """Five of 100 images lost are a regression, four are not; other columns than those that were lost do not count."""
    cw = replace(standing(10), question=standing(10).question._replace(attacks=("cw@1()",)), column="cw")
    good = Standings((standing(10), cw))
    five, four = (Standings((standing(10 + lost, weights="b"), cw)) for lost in (6, 4))
    assert judge("x", good, five, Rules(), set()).verdict == "regressed"
    assert judge("x", good, four, Rules(), set()).verdict == "inconclusive"
    assert judge("x", good, five, Rules(max_drop=10), set()).verdict == "held"
    only = {(NOBODY._replace(seed=None), cw.question)}
    assert judge("x", good, five, Rules(), only).verdict == "held"
    assert judge("x", good, Standings(()), Rules(), set()).verdict == "broken"
    assert ends(Step("x", "regressed"), []) is None
    assert [ends(Step("x", v), []).exit_code for v in ("held", "inconclusive", "broken")] == [0, 4, 4]


GOOD = TINY.read_text()
SPOILT = GOOD.replace("F.cross_entropy(model(feed.x), feed.y)", "F.cross_entropy(model(feed.x), feed.y % 5)")


@pytest.fixture
def repository(tmp_path):
    """A git repository; commits are made of a title and the text of a plugin."""
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")

    def say(*words):
        done = subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(title, text):
        (tmp_path / "plugin.py").write_text(text)
        (tmp_path / "notes.txt").write_text(title)
        say("add", "-A")
        say("commit", "-qm", title)

    say("init", "-qb", "main")
    (tmp_path / ".gitignore").write_text("results\n")
    commit("good", GOOD)
    say.commit = commit
    return say


def test_a_commit_with_a_planted_regression_is_found(bench, repository, tmp_path):
    """In a dirty tree that stays as it is, in log2(3) exams and one of each end; asked again, no command is run."""
    assert SPOILT != GOOD
    for title, text in (("a word", GOOD + "\n# a word\n"), ("regression", SPOILT), ("a file", SPOILT)):
        repository.commit(title, text)
    (tmp_path / "plugin.py").write_text("dirty")
    (tmp_path / "new.txt").write_text("mine")
    before = repository("status", "--porcelain"), repository("rev-parse", "HEAD")
    command = "bench run --defense quick --net tiny --plugin plugin.py --columns 'clean, slow' -n 200 --device cpu"
    words = ("bisect", "--good", "HEAD~3", "--bad", "main", "--command", command, "--json")
    done = bench(*words)
    found = json.loads(done.stdout)
    assert (done.returncode, len(found["culprits"])) == (0, 1), done.stderr
    assert found["culprits"][0][0].endswith(" regression")
    steps = [(s["what"].partition(" ")[2], s["verdict"], s["said"]) for s in found["steps"]]
    assert steps == [("a file", "regressed", ""), ("a word", "held", ""), ("regression", "regressed", "")]
    # Each commit trained for itself.  Known cells were not made again: all of them where plugin.py is the same, and
    # where it is another but gives the same weights those of `clean`, which is not written there.
    logs = {p: p.stat().st_mtime_ns for p in tmp_path.glob("results/bisect/*/log.txt")}
    said = [re.search(r"1 of 1 trainings run, .* in (\d+) new records", p.read_text()) for p in logs]
    assert sorted(int(line[1]) for line in said) == [0, 1, 2, 2]
    assert (repository("status", "--porcelain"), repository("rev-parse", "HEAD")) == before
    assert repository("worktree", "list").count("\n") == 0
    assert (tmp_path / "plugin.py").read_text() == "dirty"
    again = json.loads(bench(*words).stdout)
    assert again["culprits"] == found["culprits"]
    assert {s["said"] for s in again["steps"]} == {"it was examined before"}
    assert all(p.stat().st_mtime_ns == t for p, t in logs.items())


EXAMINE = """
import re, sys
from pathlib import Path
from bench import baseline
from bench.standing import Model, Question, Standing, Standings
text = Path("plugin.py").read_text()
if code := re.search("exit ([0-9]+)", text):
    sys.exit(int(code[1]))
model, question = Model("at", "cnn", "digits", "", 0, "best"), Question("c" * 64, "clean", "linf:0.2", ("a",), True, 0)
fell = frozenset(range(int(text)))
every = (Standing(model, question, "digits", "a", "b" * 64, 100, fell, (), "2025"),)
baseline.record(Standings(every), Path("out.json"))
"""


def quickly(repository, bench, *texts, words=()):
    """A search over commits whose plugin says how many images fall, or how the command ends; what was found."""
    (repository.folder / ".gitignore").write_text("results\nout.json\n__pycache__\n")
    (repository.folder / "examine.py").write_text(EXAMINE)
    for title, text in enumerate(texts):
        repository.commit(f"number {title}", text)
    last = len(texts) - 1
    done = bench(
        "bisect", "--good", f"main~{last}", "--bad", "main", "--command", "python examine.py", "--result", "out.json",
        "--json", *words,
    )  # fmt: skip
    return done, json.loads(done.stdout) if done.stdout else {}


def test_commits_that_cannot_be_judged_are_passed_over(bench, repository, tmp_path):
    """Exit codes 1 and 125: the first bad commit is found beyond them, or is said to be one of them (4)."""
    repository.folder = tmp_path
    done, found = quickly(repository, bench, "10", "10", "exit 1", "11", "exit 125", "40", "41")
    assert (done.returncode, [c[0][-8:] for c in found["culprits"]]) == (4, ["number 4", "number 5"]), done.stderr
    said = {s["what"][-8:]: s["said"] for s in found["steps"]}
    assert "asked to be skipped" in said["number 4"] and "one of 2 commits" in found["sentence"]
    assert "exit code 1" in said.get("number 2", "exit code 1")


def test_a_drop_in_small_parts_is_judged_beside_the_good_end(bench, repository, tmp_path):
    """10, 12, 14, 16, 30 fall of 100: six more than at the good end are the first that chance does not explain."""
    repository.folder = tmp_path
    done, found = quickly(repository, bench, "10", "12", "14", "16", "30")
    assert (done.returncode, found["culprits"][0][0][-8:]) == (0, "number 3"), done.stderr
    verdicts = {s["what"][-8:]: s["verdict"] for s in found["steps"]}
    assert verdicts == {"number 4": "regressed", "number 2": "inconclusive", "number 3": "regressed"}


def test_ends_that_do_not_differ_or_do_not_run(bench, repository, tmp_path):
    """No drop: 0; one that chance explains: 4; within --max-drop: 0; a good end that fails: 4, and the log is named."""
    repository.folder = tmp_path
    for texts, words, code in (
        (("10", "9"), (), 0), (("10", "11", "13"), (), 4), (("9", "19"), ("--max-drop", "15"), 0),
        (("exit 3", "10"), (), 4), (("10", "exit 2"), (), 4),
    ):  # fmt: skip
        done, found = quickly(repository, bench, *texts, words=words)
        assert (done.returncode, found.get("culprits", [])) == (code, []), (texts, done.stderr)
    assert "log.txt" in done.stderr and repository("worktree", "list").count("\n") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_search_that_is_ended(bench, repository, tmp_path, number):
    """Its command ends with it and no checkout stays; after kill -9 the next search removes what was left."""
    (tmp_path / "waits.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(30)\n")
    repository.commit("waits", "15")
    command = [sys.executable, "-m", "bench", "bisect", "--good", "main~1", "--bad", "main", "--command", "python {}"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    slow = [word.format(tmp_path / "waits.py") for word in command]
    with subprocess.Popen(slow, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL) as search:
        while not (said := "".join(p.read_text() for p in tmp_path.glob("results/bisect/*/log.txt"))).strip():
            time.sleep(0.02)
        search.send_signal(number)
        code = search.wait(20)
    if number == signal.SIGKILL:
        assert repository("worktree", "list").count("\n") == 1
        os.kill(int(said), signal.SIGKILL)
        ended = subprocess.run([*command[:-1], "false"], cwd=tmp_path, env=env, capture_output=True, check=False)
        assert ended.returncode == 4
    else:
        assert code == 130
        with pytest.raises(ProcessLookupError):
            os.kill(int(said), 0)
    assert repository("worktree", "list").count("\n") == 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_mistakes_at_the_search(bench, repository):
    """Ends that are the same, swapped, unknown or alike, an empty command: usage errors with the reason."""
    for title in ("a word", "more words"):
        repository.commit(title, GOOD + f"# {title}")
    repository("commit", "--allow-empty", "-qm", "nothing")
    for good, bad, reason in (
        ("main", "main", "the same commit"), ("main", "HEAD~2", "the other way round"),
        ("nowhere", "main", "no such commit"), ("--help", "main", "no such commit"),
        ("HEAD~1", "main", "the same files"),
    ):  # fmt: skip
        done = bench("bisect", f"--good={good}", "--bad", bad, "--command", "true")
        assert (done.returncode, reason in done.stderr) == (2, True), done.stderr
    assert bench("bisect", "--good", "HEAD~2", "--bad", "main", "--command", "'").returncode == 2
    ends = ("bisect", "--good", "HEAD~2", "--bad", "main")
    for words in (("--command", "true", "--columns", "clean"), ("--work", "w")):
        done = bench(*ends, *words)
        assert (done.returncode, words[-2] in done.stderr) == (2, True)
    done = bench("bisect", "--good", "HEAD~2", "--bad", "main", "--command", "no-such-program-here")
    assert (done.returncode, "cannot be started" in done.stderr) == (4, True)
    assert repository("worktree", "list").count("\n") == 0


def test_no_repository(bench, tmp_path, monkeypatch):
    """Outside of one it says so, and that settings need none (2)."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    done = bench("bisect", "--good", "a", "--bad", "b", "--command", "true")
    assert (done.returncode, "in no git repository" in done.stderr) == (2, True)


@pytest.fixture
def settings(tmp_path):
    """A defense with four settings: one that spoils it, two that do so only together, and one that is harmless."""
    text = TINY.read_text().replace(
        "def quick(job: TrainJob, *, epochs: int = 2, pause: float = 0.0)",
        "def quick(job: TrainJob, *, epochs: int = 2, classes: int = 10, half: int = 0, other: int = 0, odd: int = 0)",
    ).replace(
        "time.sleep(pause)\n        return F.cross_entropy(model(feed.x), feed.y)",
        "y = feed.y % 5 if half and other else feed.y % classes\n"
        "        if odd and other and not half: raise ValueError('odd')\n"
        "        return F.cross_entropy(model(feed.x), y)",
    )  # fmt: skip
    assert "y % classes" in text and "odd: int" in text
    (tmp_path / "plugin.py").write_text(text)
    return (*WORDS, "-n", "200", "--json")


def test_the_setting_that_lowered_it_is_found(bench, settings):
    """One of two, with one training a step; asked again, nothing is trained; a harmless change is said to be so."""
    words = (*settings, "--good", "quick(epochs=2)", "--bad", "quick(other=1, classes=4)")
    done = bench(*words)
    found = json.loads(done.stdout)
    assert (done.returncode, found["culprits"]) == (0, [["classes"]]), done.stderr
    assert [(s["what"], s["verdict"]) for s in found["steps"]] == [
        ("classes=4, other=1", "regressed"), ("classes=4", "regressed"), ("other=1", "held"),
    ]  # fmt: skip
    assert found["sentence"] == "It is classes=4. Harmless alone: other=1."
    again = json.loads(bench(*words).stdout)
    assert {s["said"] for s in again["steps"]} == {"it was in the ledger already"}
    assert json.loads(bench("ledger", "ls", "--json").stdout)["documents"]["training"] == 4
    done = bench(*settings, "--good", "quick", "--bad", "quick(other=1)")
    assert (done.returncode, "Nothing to find" in done.stderr) == (0, True)


def test_settings_that_lower_it_together_are_found(bench, settings):
    """Two of three, of which one combination does not train: that one is passed over, and the two are named."""
    done = bench(*settings, "--good", "quick", "--bad", "quick(half=1, other=1, odd=1)")
    found = json.loads(done.stdout)
    assert (done.returncode, found["culprits"]) == (0, [["half", "other"]]), done.stderr
    assert found["sentence"] == "Only together do they lower it: half=1, other=1. Harmless alone: odd=1."
    verdicts = {s["what"]: s["verdict"] for s in found["steps"]}
    assert len(verdicts) == len(found["steps"]) and verdicts["half=1, other=1"] == "regressed"


def test_mistakes_in_settings(bench, settings):
    """Two defenses, two at once, the same settings written otherwise, no such setting: usage errors."""
    for good, bad, reason in (
        ("quick", "untrained", "two defenses"), ("quick, untrained", "quick", "names 2 defenses"),
        ("quick", "quick(epochs=2)", "nothing differs"), ("quick", "quick(epoch=3)", "epochs"),
    ):  # fmt: skip
        done = bench(*settings, "--good", good, "--bad", bad)
        assert (done.returncode, reason in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
