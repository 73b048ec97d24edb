"""From a request to records: what is asked, what is not asked again, and what survives a crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.doubts import FICKLE, MIXES
from bench.errors import IntegrityError, TrainingError, UsageError
from bench.exam import CLEAN
from bench.executors import Executor, Inline
from bench.executors_process import Process
from bench.place import Place
from bench.plan import plan
from bench.recipe import Attack
from bench.records import Record, TrainingRecord
from bench.registry import split_list
from bench.request import Request, resolve
from bench.run import Summary, run
from leaderboard.site import publish
from leaderboard.table import table
from tests.conftest import TINY

ASK = Request(defenses=("quick",), net="tiny", columns=("clean", "slow"), n=100)


def go(place: Place, request: Request = ASK, executor: Executor | None = None) -> Summary:
    return run(resolve(request, place), place, executor or Inline(), report=lambda _line: None)


def verdicts(place: Place) -> dict[str, dict[int, bool]]:
    """Every cell's images and whether they fell, and each image asked once."""
    found: dict[str, dict[int, bool]] = {}
    for record in place.ledger.all():
        if isinstance(record, Record):
            cell = found.setdefault(record.key, {})
            assert not cell.keys() & set(record.asked), "an image was asked twice"
            cell |= {i: i in record.fell for i in record.asked}
    return found


def elsewhere(place: Place, name: str) -> Place:
    """The same place with folders of another name."""
    root = place.ledger_root.parent / name
    return replace(place, ledger_root=root / "ledger", store_root=root / "store")


def test_a_second_run_does_nothing(place: Place) -> None:
    """Everything is in the ledger: no training, no image, no new file."""
    first = go(place)
    files = sorted(place.ledger_root.rglob("*"))
    second = go(place)
    assert (first.trained, second.trained, second.asked, second.records) == (1, 0, 0, [])
    assert files == sorted(place.ledger_root.rglob("*"))


def test_a_larger_n_asks_only_the_new_images(place: Place) -> None:
    """-n 200 after -n 100 asks exactly the second hundred."""
    go(place)
    second = go(place, replace(ASK, n=200))
    assert {i for r in second.records if r.attack.startswith("clean") for i in r.asked} == set(range(100, 200))
    assert all(i >= 100 for r in second.records for i in r.asked)


def test_only_images_that_stand_are_attacked(place: Place) -> None:
    """What `clean` lost is not asked again in a strict column."""
    go(place)
    records = {r.attack.partition("@")[0]: r for r in place.ledger.all() if isinstance(r, Record)}
    assert set(records["slow"].asked) == set(records["clean"].asked) - set(records["clean"].fell)


def test_workers_change_no_verdict(place: Place) -> None:
    """One process, two processes and another batch size: the same verdict on every image, each asked once."""
    request = replace(ASK, n=300)
    go(place, request)
    two = elsewhere(place, "two")
    go(replace(two, batch=7), request, Process(2))
    assert verdicts(place) == verdicts(two)
    assert sum(len(r.asked) for r in two.ledger.all() if isinstance(r, Record)) > 300


def test_models_in_waves_change_no_verdict(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where models are looked at one after another, since all together are too many, the same is asked, once."""
    request = replace(ASK, columns=("clean", "slow", "walks", "slow(pause=0.001)"), seeds=(0, 1, 2), n=60)
    first = go(place, request)
    monkeypatch.setattr("bench.run.WAVE", 1)
    waves = elsewhere(place, "waves")
    assert go(waves, request).asked == first.asked
    assert verdicts(place) == verdicts(waves) and len(verdicts(waves)) == 12


def test_every_attack_says_the_same_in_any_workers_and_batches(place: Place) -> None:
    """All built-in attacks, shortened, on digits: here; and in parts of another size, here and in two others."""
    small = {"steps": 3, "queries": 40, "restarts": 2, "rounds": 2, "targets": 3, "change": 1, "pairs": 4, "tries": 30}
    found: dict[str, list[str]] = {}
    for attack in place.registry.all("attack"):
        if isinstance(attack, Attack) and attack.function.__module__.startswith("attacks."):
            settings = ", ".join(f"{k}={v}" for k, v in small.items() if k in attack.defaults)
            # The reference's verdicts depend on the batch; transfer needs weights that are in the ledger.
            if not attack.name.startswith("reference-") and attack.name not in ("clean", "transfer"):
                found.setdefault("linf" if "linf" in attack.norms else attack.norms[0], []).append(
                    f"{attack.name}({settings})"
                )
    assert sum(map(len, found.values())) >= 31
    apart = elsewhere(place, "apart")
    for norm, eps in (("linf", "0.1"), ("l2", "0.5"), ("l0", "3")):
        request = replace(ASK, columns=tuple(found[norm]), n=70, threat=f"{norm}:{eps}")
        assert go(place, request).failures == []
        half = replace(request, columns=request.columns[::2], n=33)
        go(replace(apart, batch=7), half)
        assert go(replace(apart, batch=64), request, Process(2)).failures == []
    assert verdicts(apart) == verdicts(place)


def test_a_failing_attack_leaves_no_record_and_stops_nobody(place: Place) -> None:
    """The error is in the summary; the other columns are answered."""
    summary = go(place, replace(ASK, columns=("raises", "slow")))
    assert [str(f) for f in summary.failures] == [
        "attack raises failed on image 9: ZeroDivisionError('nine'); no record was written"
    ]
    assert {r.attack.partition("@")[0] for r in summary.records} == {"clean", "slow"}


@pytest.mark.parametrize(
    ("defense", "said"),
    [
        ("explodes", "defense explodes: the loss is nan in epoch 1; nothing was published"),
        ("stranger", "stranger gave a module that is not the net tiny"),
        ("quits", "defense quits failed: SystemExit(0)"),
        ("poisons", "read-only"),
    ],
)
def test_a_failing_training_is_named_and_stops_nobody(place: Place, defense: str, said: str) -> None:
    """NaN and foreign modules publish nothing; the other defense is trained and examined."""
    summary = go(place, replace(ASK, defenses=(defense, "quick")))
    (failure,) = summary.failures
    assert isinstance(failure, TrainingError)
    assert said in str(failure)
    assert summary.trained == 1
    assert [d.label for d in place.ledger.all() if isinstance(d, TrainingRecord)] == ["quick"]


def test_a_net_that_gives_no_logits_is_named(place: Place) -> None:
    """A tuple is not a matrix of logits."""
    (failure,) = go(place, replace(ASK, net="pair", defenses=("untrained",))).failures
    assert str(failure) == "the model gave tuple for 2 images; expected logits of shape (2, classes)"


def test_fickle_models_and_models_that_mix_images_are_doubted(place: Place) -> None:
    """A net that is random or looks at neighbours without saying so gets the doubt; an honest one has none."""
    mixing = [("moody", [MIXES]), ("forgetful", [MIXES])]
    for net, doubt in (("tiny", []), *mixing, ("moody(sd=0.1)", [FICKLE]), ("noisy", [])):
        records = go(place, replace(ASK, net=net, defenses=("untrained",))).records
        assert records
        assert all(r.doubts == doubt for r in records)


def test_a_request_for_nothing_is_an_error(place: Place) -> None:
    """No defense is a mistake, not a success."""
    with pytest.raises(UsageError, match="no --defense is named"):
        resolve(replace(ASK, defenses=()), place)
    with pytest.raises(UsageError, match="not negative"):
        resolve(replace(ASK, columns=("pgd(steps=-1)",)), place)
    with pytest.raises(UsageError, match="net broken cannot be built"):
        go(place, replace(ASK, net="broken"))


def test_the_same_defense_twice_is_one(place: Place) -> None:
    """Trained once, counted once."""
    assert go(place, replace(ASK, defenses=("quick", "quick"), n=10)).trained == 1


def test_best_and_last_are_both_kept_and_examined(place: Place) -> None:
    """--weights best,last examines two sets of weights; equal files would be one."""
    go(place, replace(ASK, defenses=("quick(epochs=4)",), weights=("best", "last")))
    (training,) = (d for d in place.ledger.all() if isinstance(d, TrainingRecord))
    examined = {r.weights for r in place.ledger.all() if isinstance(r, Record)}
    assert examined == set(training.weights.values())
    scores = [h["val_clean"] for h in training.history]
    assert len(scores) == 4
    assert len(examined) == (1 if scores.index(max(scores)) == 3 else 2)


def test_a_suite_that_fixes_threat_and_weights_takes_no_others(place: Place) -> None:
    """PART's protocol is at 8/255 and on the last weights; saying the same again is no contradiction."""
    part = replace(ASK, columns=(), suite="part", threat="", weights=())
    for request in (part, replace(part, threat="linf:8/255", weights=("last",))):
        exam = resolve(request, place)
        assert (str(exam.threat), exam.weights) == ("linf:8/255", ("last",))
    with pytest.raises(UsageError, match=r"fixes the threat linf:8/255; --threat linf:0\.1 contradicts it"):
        resolve(replace(part, threat="linf:0.1"), place)
    with pytest.raises(UsageError, match="fixes the weights last; --weights best,last contradicts it"):
        resolve(replace(part, weights=("best", "last")), place)


def test_names_are_found_before_any_work(place: Place) -> None:
    """Misspelt names and impossible requests are errors that name the nearest; nothing is written."""
    for request, said in (
        (replace(ASK, defenses=("quik",)), "did you mean 'quick'"),
        (replace(ASK, defenses=("quick(epoch=1)",)), "did you mean 'epochs'"),
        (replace(ASK, net="tinny"), "did you mean 'tiny'"),
        (replace(ASK, columns=("slw",)), "did you mean 'slow'"),
        (replace(ASK, columns=(), suite="quik"), "did you mean 'quick'"),
        (replace(ASK, dataset="digit"), "did you mean 'digits'"),
        (replace(ASK, threat="linf=8"), "norm:eps"),
        (replace(ASK, threat="l2:0.5"), "slow searches linf; the threat is l2:0.5"),
        (replace(ASK, n=501), "500 test images"),
    ):
        with pytest.raises(UsageError, match=said):
            resolve(request, place)
    assert not place.ledger_root.exists()


def test_a_named_suite_leaves_out_what_does_not_search_the_norm(place: Place) -> None:
    """`full` under L2 has no MMA, MDE and SPSA, which are Linf attacks; in a list of columns they are an error."""
    exam = resolve(replace(ASK, columns=(), suite="full", threat="l2:0.5"), place)
    assert exam.left_out == ("mma", "mde", "spsa")
    assert {"clean", "aa", "pgd-100"} <= exam.columns.keys()
    assert not {"mma", "mde", "spsa"} & exam.columns.keys()


def test_a_plan_counts_what_a_run_then_does(place: Place) -> None:
    """100 clean images and at most 100 attacked ones before; nothing after; the plan writes nothing."""
    exam = resolve(ASK, place)
    before = {line.what.rpartition(" ")[2]: line for line in plan(exam, place)[1:]}
    assert not place.ledger_root.exists()
    assert (before["clean"].missing, before["clean"].forwards) == (100, 100)
    assert (before["slow"].missing, before["slow"].forwards, before["slow"].backwards) == (100, 200, 100)
    go(place)
    assert [line.missing for line in plan(exam, place)] == [0, 0, 0]


def test_one_run_of_a_minimum_norm_attack_answers_for_every_eps(place: Place) -> None:
    """What fell at an eps is what lies within it; another threat asks nothing new, and the board agrees."""
    request = replace(ASK, columns=("walks",), weights=("last",), threat="linf:0.1")
    first = go(place, request)
    assert first.asked > 100
    assert go(place, replace(request, threat="linf:0.2")).asked == 0
    (record,) = (r for r in first.records if r.threat)
    assert record.threat == "linf"
    distance = place.ledger.images(record)["distance"]
    asked = np.array(record.asked)
    assert sorted(asked[np.isfinite(distance)].tolist()) == sorted(record.fell)
    exam = resolve(replace(request, threat="linf:0.2"), place)
    (cell,) = exam.cells(record.net, record.weights, "walks", CLEAN)
    fell = exam.outcome(place, cell).fell
    assert np.flatnonzero(fell).tolist() == sorted(asked[distance <= 0.2000001].tolist())
    assert 0 < fell.sum() < len(record.fell)
    clean = exam.clean(place, record.net, record.weights, CLEAN)
    for section in table(place.ledger).sections:
        for row in section.rows:
            if row.weights == record.weights and section.threat in ("linf:0.1", "linf:0.2"):
                eps = float(section.threat[5:])
                standing = 100 - int((clean.fell[:100]).sum()) - int((distance <= eps + 1e-7).sum())
                assert row.numbers["walks"].standing == standing
                assert row.curves["walks"].accuracy(eps + 1e-7) == standing / 100
    publish(place.ledger, place.store_root)
    document = json.loads((place.store_root / "board.json").read_text())
    assert any("walks" in row["curves"] for s in document["sections"] for row in s["rows"])


def test_a_fast_search_is_a_cell_of_its_own_and_shown_as_such(place: Place) -> None:
    """Clean and distances have nothing to gain by it and are shared; the rest is asked again, and the row says so."""
    columns = ("slow", "walks")
    exact = go(place, replace(ASK, columns=columns))
    fast = go(place, replace(ASK, columns=columns, precision="fast"))
    assert {r.precision for r in exact.records} == {"exact"}
    assert {(r.attack.partition("@")[0], r.precision) for r in fast.records} == {("slow", "fast")}
    assert {r.key for r in fast.records}.isdisjoint(r.key for r in exact.records)
    there = elsewhere(place, "fast")
    go(there, replace(ASK, columns=columns, precision="fast"))
    (here,), (alone,) = table(place.ledger).sections, table(there.ledger).sections
    assert (here.rows[0].notes, alone.rows[0].notes) == ((), ("fast search: slow",))
    assert here.rows[0].numbers["walks"] is not None


def test_a_column_may_be_about_the_first_images_alone(place: Place) -> None:
    """`first` images are asked; its number is on those, and worst does not wait for the others."""
    go(place, replace(ASK, columns=("slow", "early")))
    (section,) = table(place.ledger).sections
    (row,) = section.rows
    assert (row.numbers["slow"].n, row.numbers["early"].n, row.numbers["early"].partial) == (100, 30, True)
    assert row.summary is not None and (row.summary.n, row.summary.bound) == (100, False)
    early = next(r for r in place.ledger.all() if isinstance(r, Record) and "pause=0.01" in r.attack)
    assert max(early.asked) < 30
    assert plan(resolve(replace(ASK, columns=("early",)), place), place)[-1].missing == 0


def test_a_column_may_have_other_attacks_under_another_norm(place: Place) -> None:
    """The record and the card are those of the norm."""
    exam = resolve(replace(ASK, columns=("changes",)), place)
    assert [str(a) for a in exam.attacks.values()] == ["clean", "slow"]
    exam = resolve(replace(ASK, columns=("changes",), threat="l2:0.5"), place)
    assert [str(a) for a in exam.attacks.values()] == ["clean", "quiet"]


def test_a_plan_knows_who_stands_and_counts_what_columns_share_once(place: Place) -> None:
    """After one column, another with the same attack has to ask only about its survivors; here nobody else falls."""
    request = replace(ASK, columns=("union", "more"))
    first = plan(resolve(request, place), place)
    assert [line.missing for line in first[1:]] == [100, 100, 0, 100]
    go(place, replace(ASK, columns=("union",)))
    lines = plan(resolve(request, place), place)
    summary = go(place, request)
    spent = sum(r.cost.forwards for r in summary.records)
    assert sum(line.forwards for line in lines) == spent > 0


def test_one_run_answers_shorter_runs_too(place: Place) -> None:
    """20 steps come with 50 where all else agrees: the same verdicts as apart, for the judge's pass alone."""
    columns = ("pgd(steps=50, step=0.1)", "pgd(steps=20, step=0.1)", "pgd(steps=20, step=0.2)")
    exam = resolve(replace(ASK, columns=columns), place)
    predicted = {line.what.partition(": ")[2]: line for line in plan(exam, place)[2:]}
    summary = go(place, replace(ASK, columns=columns))
    apart = elsewhere(place, "apart")
    for column in columns:
        go(apart, replace(ASK, columns=(column,)))
    assert verdicts(place) == verdicts(apart)
    spent = {r.attack: (r, r.cost.backwards / len(r.asked)) for r in summary.records if r.threat}
    ((long, cost),) = ((r, c) for a, (r, c) in spent.items() if "steps=50" in a)
    ((short, nothing),) = ((r, c) for a, (r, c) in spent.items() if "step=0.1, steps=20" in a)
    assert (cost, nothing, short.run, long.run) == (50, 0, long.key, None)
    assert [predicted[c].backwards // 100 for c in columns] == [50, 0, 20]
    # What one of them was asked before is not asked again.
    more = go(place, replace(ASK, columns=columns[:2], n=150))
    assert {r.run for r in more.records if r.threat} == {None, long.key}
    assert go(place, replace(ASK, columns=("pgd(steps=30, step=0.1)", columns[0]))).records[0].run is None


def test_damaged_weights_are_refused(place: Place) -> None:
    """A flipped byte in the store is found by the hash, with the file's name."""
    go(place, replace(ASK, columns=("clean",)))
    (training,) = (d for d in place.ledger.all() if isinstance(d, TrainingRecord))
    path = place.store.path(training.weights["best"])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    moved = replace(place, batch=place.batch + 1)  # another place, so that nothing is cached
    summary = go(moved, replace(ASK, n=150))
    assert isinstance(summary.failures[0], IntegrityError)
    assert path.name in str(summary.failures[0])
    shutil.rmtree(place.ledger_root)
    healed = go(replace(place, batch=place.batch + 2), ASK)
    assert (healed.trained, healed.failures) == (1, [])


def command(place: Place, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "bench", "run", "--net", "tiny", "--plugin", str(TINY),
        "--ledger", str(place.ledger_root), "--store", str(place.store_root),
        "--site", str(place.store_root.parent / "site"), "--executor", "inline", *words,
    ]  # fmt: skip


def killed(words: list[str], cwd: Path, until: Path, pattern: str) -> None:
    """Start a command and kill -9 it as soon as a file appears."""
    started = subprocess.Popen(words, cwd=cwd, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(until.rglob(pattern)) and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.02)
    assert started.poll() is None, "it ended before it could be killed"
    os.kill(started.pid, signal.SIGKILL)
    started.wait()


def test_a_run_killed_while_attacking_ends_as_an_undisturbed_one(place: Place, tmp_path: Path) -> None:
    """kill -9 after the first answers, then the same command: the same verdicts, each image asked once."""
    words = ("--defense", "quick", "-n", "300", "--columns", "slow(pause=0.4)", "--batch", "64")
    killed(command(place, *words), tmp_path, place.ledger_root, "*.safetensors")
    assert subprocess.run(command(place, *words), cwd=tmp_path, check=False, capture_output=True).returncode == 0
    calm = elsewhere(place, "calm")
    go(calm, replace(ASK, n=300, columns=("slow(pause=0.4)",)))
    assert verdicts(place) == verdicts(calm)
    assert not list(tmp_path.rglob("scratch/*"))


def test_a_training_killed_continues_to_the_same_weights(place: Place, tmp_path: Path) -> None:
    """kill -9 after the first epoch, then the same command: bit-identical best and last weights."""
    words = ("--defense", "quick(epochs=6, pause=0.02)", "--columns", "clean")
    killed(command(place, *words), tmp_path, place.store_root, "checkpoint.pt")
    done = subprocess.run(command(place, *words), cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "continuing after epoch" in done.stderr
    calm = elsewhere(place, "calm")
    go(calm, replace(ASK, defenses=("quick(epochs=6, pause=0.02)",), columns=("clean",)))
    (here,) = (d for d in place.ledger.all() if isinstance(d, TrainingRecord))
    (there,) = (d for d in calm.ledger.all() if isinstance(d, TrainingRecord))
    assert here.weights == there.weights
    assert [h["loss"] for h in here.history] == [h["loss"] for h in there.history]


def test_two_processes_on_one_ledger_share_the_work(place: Place, tmp_path: Path) -> None:
    """Started together, one with workers, both end well: one training, and each image asked once, as by one run."""
    columns = "slow(pause=0.4), walks, pgd(steps=30), pgd(steps=20)"
    words = command(place, "--defense", "quick(pause=0.01)", "-n", "300", "--columns", columns, "--batch", "64")
    more = ["process" if w == "inline" else w for w in words] + ["--workers", "2"]
    both = [subprocess.Popen(w, cwd=tmp_path, stderr=subprocess.DEVNULL) for w in (words, more)]
    assert [p.wait(timeout=240) for p in both] == [0, 0]
    assert sum(isinstance(d, TrainingRecord) for d in place.ledger.all()) == 1
    request = replace(ASK, defenses=("quick(pause=0.01)",), n=300, columns=tuple(split_list(columns)))
    assert go(place, request).asked == 0
    alone = elsewhere(place, "alone")
    summary = go(alone, request)
    assert verdicts(place) == verdicts(alone)
    assert sum(len(r.asked) for r in place.ledger.all() if isinstance(r, Record)) == summary.asked


HOLDS = """
import sys, time
from pathlib import Path
from bench.files import range_locked
with range_locked(Path(sys.argv[1]), 40, 40, wait=False) as held:
    print(held, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_held_is_done_by_the_one_that_waited(place: Place) -> None:
    """One image of a cell is taken: the others wait with it, and are asked when its holder dies by kill -9."""
    training = go(place, replace(ASK, columns=("clean",))).records[0]
    exam = resolve(ASK, place)
    (cell,) = exam.cells(training.net, training.weights, "slow", CLEAN)
    path = place.store_root / "locks" / cell.key
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    said: list[str] = []

    def report(line: str) -> None:
        said.append(line)
        if "waiting for it" in line:
            holder.kill()

    summary = run(exam, place, Inline(), report=report)
    holder.stdout.close()
    assert holder.wait() == -signal.SIGKILL
    assert said[0] == "another process answers what is left; waiting for it"
    assert summary.asked == 100 - len(training.fell)


def test_workers_end_with_their_parent(place: Place, tmp_path: Path) -> None:
    """SIGKILL to the parent alone: no worker is left after a few seconds."""
    words = command(place, "--defense", "quick", "-n", "200", "--columns", "slow(pause=0.5)", "--batch", "64")
    words[words.index("inline")] = "process"
    words += ["--workers", "2"]
    killed(words, tmp_path, place.ledger_root, "*.safetensors")
    deadline = time.monotonic() + 60
    while (left := _processes(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def _processes(folder: Path) -> list[str]:
    """The command line of every process that runs in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder.resolve():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_training_is_the_same_in_every_run(place: Place) -> None:
    """Equal seeds give bit-identical weights; another seed gives others."""
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        there = elsewhere(place, name)
        go(there, replace(ASK, columns=("clean",), seeds=(seed,), n=10))
        (training,) = (d for d in there.ledger.all() if isinstance(d, TrainingRecord))
        weights.append(there.store.get(training.weights["last"]))
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(torch.equal(weights[0][k], weights[2][k]) for k in weights[0])
