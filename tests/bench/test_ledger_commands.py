"""bench ledger, as a user meets it: on a ledger of a real run, whole, damaged, doubled and short."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.files import INCOMING, locked
from bench.ledger import Ledger
from bench.ledger_check import FIGURES, fits
from bench.records import DatasetCard, Record
from tests.bench.ledgers import ROOT, WORDS, attack, documents, flipped, halves, here, ledger, made, rewritten
from tests.bench.test_ledger import record

__all__ = ["here", "made"]  # fixtures


def test_ls_has_a_row_a_cell(bench, here):
    """Two trainings by three attacks; words choose among them, and count what the records count."""
    done, found = ledger(bench, "ls", "--ledger", "ledger")
    assert found["documents"] == {
        "record": 6, "check": 2, "training": 2, "dataset": 1, "column": 3, "exam": 1,
    }  # fmt: skip
    by_hand = {
        (r.weights, r.attack): (len(r.asked), len(r.fell), r.threat, r.made)
        for r in Ledger(here / "ledger").all() if isinstance(r, Record)
    }  # fmt: skip
    cells = {(c["weights"], c["attack"]): (c["asked"], c["fell"], c["threat"], c["made"]) for c in found["cells"]}
    assert cells == by_hand and len(cells) == 6
    assert {c["defense"] for c in found["cells"]} == {"quick seed 0", "quick(epochs=1) seed 0"}
    assert "6 cells. In all: 2 checks, 3 columns, 1 data set, 1 exam, 6 records, 2 trainings." in done.stderr
    weights = found["cells"][0]["weights"]
    for words, count in (
        (("--dataset", "digits"), 6), (("--attack", "slow"), 2), (("--threat", "linf"), 4),
        (("--threat", "linf:0.20"), 2), (("--weights", weights[:7]), 3), (("--condition", "clean"), 6),
        (("--defense", "quick(epochs=1)"), 3), (("--attack", "walks", "--weights", weights), 1),
    ):  # fmt: skip
        assert len(ledger(bench, "ls", "--ledger", "ledger", *words)[1]["cells"]) == count, words


def test_ls_is_honest_about_mistakes(bench, here):
    """A word that fits nothing names the nearest (2); no folder is 2; a file that is no JSON is named."""
    done = bench("ledger", "ls", "--ledger", "ledger", "--attack", "slw")
    assert (done.returncode, "did you mean 'slow'" in done.stderr) == (2, True)
    assert bench("ledger", "ls", "--ledger", "nowhere").returncode == 2
    path = attack(here / "ledger", "slow")
    path.write_bytes(path.read_bytes()[:-20])
    done, found = ledger(bench, "ls", "--ledger", "ledger", "--limit", "2")
    assert (len(found["cells"]), found["unreadable"]) == (5, [str(Path("ledger") / path.relative_to(here / "ledger"))])
    assert "… and 3 more cells" in done.stderr and path.name in done.stderr
    (here / "bench.toml").write_text('dataset = "mnist"\nweights = "best,last"\nledger = "ledger"\n')
    assert len(ledger(bench, "ls")[1]["cells"]) == 5  # what a run asks does not choose here


def test_a_whole_ledger_verifies(bench, here):
    """Exit 0, with the store too; foreign files, unnamed sidecars and temporary files are named, and no fault."""
    done, found = ledger(bench, "verify", "--ledger", "ledger", "--tensors", "--store", "store")
    assert (done.returncode, found["findings"], found["sidecars"]) == (0, [], 6)
    folder = attack(here / "ledger", "slow").parent
    (folder / "notes.txt").write_text("mine")
    (here / "ledger" / "README").write_text("mine")
    (here / "ledger" / ".gitattributes").write_text("* -text\n")
    lone = folder / f"{hashlib.sha256(b'x').hexdigest()}.safetensors"
    lone.write_bytes(b"x")
    (here / "ledger" / INCOMING / f".{os.uname().nodename}.a.part").write_bytes(b"half")
    done, found = ledger(bench, "verify", "--ledger", "ledger")
    named = {(f["state"], Path(f["path"]).name) for f in found["findings"]}
    names = ("notes.txt", "README", lone.name, f".{os.uname().nodename}.a.part")
    assert (done.returncode, named) == (0, {("note", name) for name in names})


def emptied(path):
    """No content."""
    path.write_bytes(b"")
    return path


def doctored(root, change):
    """A record that claims something else, under the right name."""
    return rewritten(attack(root, "slow"), change)


def other_images(root):
    """A record whose sidecar is another record's."""
    one, two = attack(root, "slow"), attack(root, "walks")
    sidecar = next(two.parent.glob("*.safetensors"))
    shutil.copy(sidecar, one.parent)
    facts = json.loads(one.read_text())
    return rewritten(one, lambda text: text.replace(facts["images"], sidecar.stem))


def fewer_fell(text):
    """A record of a minimum-norm attack that claims that one image less fell."""
    facts = json.loads(text)
    facts["fell"] = facts["fell"][1:]
    return json.dumps(facts, separators=(",", ":")) + "\n"


DAMAGE = {
    "a bit of a record": lambda root: flipped(attack(root, "slow")),
    "a bit of a sidecar": lambda root: flipped(next(attack(root, "slow").parent.glob("*.safetensors"))),
    "an empty record": lambda root: emptied(attack(root, "clean")),
    "another cell": lambda root: attack(root, "slow").rename(attack(root, "walks").parent / attack(root, "slow").name),
    "other weights": lambda root: doctored(root, lambda t: t.replace('"weights":"', '"weights":"f', 1)),
    "a seed": lambda root: doctored(root, lambda t: t.replace('"seed":0', '"seed":1')),
    "more passes": lambda root: doctored(root, lambda t: t.replace('"forwards":', '"forwards":9')),
    "fewer fell": lambda root: rewritten(attack(root, "walks"), fewer_fell),
    "another's sidecar": other_images,
    "a column": lambda root: rewritten(
        next(p for p in root.glob("*/*.json") if '"name":"walks"' in p.read_text()),
        lambda t: t.replace('"strict":true', '"strict":false'),
    ),
    "line ends": lambda root: (p := attack(root, "slow")).write_bytes(p.read_bytes().replace(b"\n", b"\r\n")) and p,
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(bench, here, what):
    """Whatever was changed by accident or by hand: exit 5, and the file's name; the rest is looked at too."""
    path = DAMAGE[what](here / "ledger")
    (here / "ledger" / "README").write_text("after")
    done, found = ledger(bench, "verify", "--ledger", "ledger")
    bad = [f for f in found["findings"] if f["state"] == "damaged"]
    assert (done.returncode, [Path(f["path"]).name for f in bad]) == (5, [path.name]), found
    assert path.name in done.stderr and "Traceback" not in done.stderr
    assert ("its lines" in done.stderr) is (what == "line ends")


def gone(root, kind):
    """The file of one document of a kind, removed."""
    path = next(p for p in sorted(root.glob("*/*.json")) if f'"schema":"rampart/{kind}-1"' in p.read_text())
    path.unlink()
    return path


def test_odd_files_stop_nothing(bench, here):
    """Lists where a record is expected, endless nesting, folders and links in a file's place: named, and gone on."""
    folder = attack(here / "ledger", "slow").parent
    facts = json.loads(attack(here / "ledger", "slow").read_text())
    odd = [b"[]", b'{"schema":["x"]}', b'{"schema":"rampart/record-1"}', b"[" * 100_000, b"\xff\xfe", b"nan"]
    odd += [json.dumps(facts | {"asked": wrong}).encode() for wrong in (5, "abc", [10**30], [[]], None)]
    names = {hashlib.sha256(content).hexdigest(): content for content in odd}
    for name, content in names.items():
        (folder / f"{name}.json").write_bytes(content)
    (folder / f"{'0' * 64}.json").mkdir()
    (folder / f"{'1' * 64}.json").symlink_to("nowhere")
    (here / "ledger" / ("2" * 64)).write_text("a file named by a key")
    with open(os.fsencode(here / "ledger") + b"/\xff\xfe", "wb"):
        pass
    done, found = ledger(bench, "verify", "--ledger", "ledger")
    bad = {Path(f["path"]).stem for f in found["findings"] if f["state"] == "damaged"}
    assert (done.returncode, bad) == (5, set(names))
    states = {f["state"] for f in found["findings"] if Path(f["path"]).stem in {"0" * 64, "1" * 64}}
    assert states == {"missing"} and "Traceback" not in done.stderr
    listed = ledger(bench, "ls", "--ledger", "ledger")[1]
    assert len(listed["cells"]) == 6 and len(listed["unreadable"]) >= len(odd) - 1
    done, found = ledger(bench, "merge", "ledger", "--ledger", "other")
    assert (done.returncode, found["came"]["record"]) == (5, 6)
    assert bench("ledger", "verify", "--ledger", "other").returncode == 0


MISSING = {
    "sidecar": lambda root: next(attack(root, "slow").parent.glob("*.safetensors")).unlink(),
    "training": lambda root: gone(root, "training"),
    "dataset": lambda root: gone(root, "dataset"),
    "column": lambda root: gone(root, "column"),
    "exam": lambda root: gone(root, "exam"),
    "other version": lambda root: rewritten(attack(root, "slow"), lambda t: t.replace("record-1", "record-2")),
    "newer field": lambda root: rewritten(attack(root, "slow"), lambda t: t.replace("{", '{"mood":"fine",', 1)),
}


@pytest.mark.parametrize("what", MISSING)
def test_what_is_only_missing_is_exit_4(bench, here, what):
    """Sidecars, trainings, cards and documents of other versions: said, and not called damage."""
    MISSING[what](here / "ledger")
    done, found = ledger(bench, "verify", "--ledger", "ledger")
    states = {f["state"] for f in found["findings"]} - {"note"}
    assert (done.returncode, states) == (4, {"unknown" if what in {"other version", "newer field"} else "missing"})


def test_the_store_is_looked_at_too(bench, here):
    """A bundle with a flipped bit is 5, one that is gone is 4, and the file is named."""
    facts = json.loads(attack(here / "ledger", "slow").read_text())
    path = here / "store" / facts["bundle"][:2] / f"{facts['bundle']}.safetensors"
    words = ("verify", "--ledger", "ledger", "--tensors", "--store", "store")
    for spoil, code in ((flipped, 5), (Path.unlink, 4)):
        spoil(path)
        done, found = ledger(bench, *words)
        assert (done.returncode, [Path(f["path"]).name for f in found["findings"]]) == (code, [path.name])
    assert ledger(bench, "verify", "--ledger", "ledger")[0].returncode == 0


def aged(*paths):
    """Files of a month ago."""
    for path in paths:
        for one in (path, *path.rglob("*")) if path.is_dir() else (path,):
            os.utime(one, (time.time() - 30 * 86400,) * 2)


def planted(here):
    """Something of each kind that nobody refers to, by what it is."""
    nobody, store, folder = "ab" + "0" * 62, here / "store", attack(here / "ledger", "slow").parent
    found = {
        "weights": store / "ab" / f"{nobody}.safetensors", "sidecar": folder / f"{nobody}.safetensors",
        "scratch": store / "scratch" / nobody / "checkpoint.pt", "history": store / "histories" / f"{nobody}b.jsonl",
        "lock": store / "locks" / nobody, "temporary": store / INCOMING / f".{os.uname().nodename}.x.part",
        "foreign": store / "mine.txt",
    }  # fmt: skip
    found["history"] = found["history"].with_name("cd" + "0" * 62 + ".jsonl")
    for path in found.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if path == found["lock"] else b"x")
    found["folder"] = here / "ledger" / nobody
    found["folder"].mkdir()
    return found


def test_gc_lists_and_only_then_deletes(bench, here):
    """A dry run removes nothing; --delete removes what nobody names, and all that is named still verifies."""
    found = planted(here)
    before = {p for p in here.rglob("*") if p.is_file()}
    aged(here / "store", here / "ledger")
    words = ("gc", "--ledger", "ledger", "--store", "store")
    done, dry = ledger(bench, *words)
    assert {p for p in here.rglob("*") if p.is_file()} == before and "--delete does it" in done.stderr
    listed = {Path(w["path"]) for w in dry["waste"]}
    assert {Path(here, path) for path in listed} >= {
        p.parent if name == "scratch" else p for name, p in found.items() if name != "foreign"
    }
    ledger(bench, *words, "--delete")
    assert [name for name, path in found.items() if path.exists()] == ["foreign"]
    assert ledger(bench, *words)[1]["waste"] == []
    assert bench("ledger", "verify", "--ledger", "ledger", "--tensors", "--store", "store").returncode == 0
    done = bench(*WORDS, "--defense", "quick", "quick(epochs=1)", "-n", "40", "--ledger", "ledger", "--store", "store")
    assert "Nothing to do" in done.stderr


def test_gc_leaves_what_is_new_or_held(bench, here):
    """What is younger than --days stays, and so does the scratch folder of a training that is going on."""
    found = planted(here)
    words = ("gc", "--ledger", "ledger", "--store", "store", "--delete")
    ledger(bench, *words)
    assert [name for name, path in found.items() if not path.exists()] == ["temporary"]
    aged(here / "store")
    holder = (
        "import sys, time; from pathlib import Path; from bench.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", holder, str(found["lock"])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        ledger(bench, *words)
        assert found["scratch"].exists() and found["lock"].exists() and not found["weights"].exists()
        process.kill()
    aged(here / "store")
    ledger(bench, *words)
    assert not found["scratch"].exists()
    with locked(found["lock"]):
        pass


def test_gc_refuses_where_it_cannot_know(bench, here):
    """A damaged record may have named anything (5); a ledger without records or a wrong folder is a mistake (2)."""
    aged(here / "store")
    words = ("gc", "--store", "store", "--delete", "--days", "0")
    before = documents(here / "store")
    (here / "empty").mkdir()
    assert bench("ledger", *words, "--ledger", "empty").returncode == 2
    assert bench("ledger", *words, "--ledger", "nowhere").returncode == 2
    flipped(attack(here / "ledger", "slow"))
    assert bench("ledger", *words, "--ledger", "ledger").returncode == 5
    assert documents(here / "store") == before


def test_gc_keeps_what_another_ledger_or_a_newer_record_names(bench, here):
    """Two ledgers share a store: with both named nothing goes; hashes in fields of other versions count too."""
    (here / "one").mkdir()
    halves(here / "ledger", here / "one", here / "two")
    aged(here / "store")
    both = ("gc", "--ledger", "one", "--ledger", "two", "--store", "store")
    kinds = {w["kind"] for w in ledger(bench, *both)[1]["waste"]}
    assert kinds <= {"a lock"}
    for path in (here / "ledger").glob("*/*.json"):
        if '"attack"' in path.read_text():
            rewritten(path, lambda t: t.replace("record-1", "record-7"))
    alone = ledger(bench, "gc", "--ledger", "ledger", "--store", "store")[1]["waste"]
    assert {w["kind"] for w in alone} <= {"a lock"}


def test_export_reads_back(bench, here):
    """CSV through pandas and JSON: every record with its counts, every image with its figures, bit for bit."""
    records = {r.key: r for r in Ledger(here / "ledger").all() if isinstance(r, Record)}
    done, found = ledger(bench, "export", "r.csv", "--ledger", "ledger")
    assert (done.returncode, found["rows"]) == (0, 6)
    table = pd.read_csv(here / "r.csv", keep_default_na=False).set_index("key")
    assert {key: (row.asked, row.fell, row.forwards) for key, row in table.iterrows()} == {
        key: (len(r.asked), len(r.fell), r.cost.forwards) for key, r in records.items()
    }
    assert set(table.defense) == {"quick", "quick(epochs=1)"}
    ledger(bench, "export", "i.csv", "--images", "--ledger", "ledger")
    ledger(bench, "export", "i.json", "--images", "--ledger", "ledger")
    rows = pd.read_csv(here / "i.csv")
    (card,) = [d for d in Ledger(here / "ledger").all() if isinstance(d, DatasetCard)]
    of_json = json.loads((here / "i.json").read_text())["rows"]
    assert len(of_json) == len(rows) == sum(len(r.asked) for r in records.values())
    for key, r in records.items():
        mine, arrays = rows[rows.key == key], Ledger(here / "ledger").images(r)
        assert mine.image.tolist() == r.asked and mine.image[mine.fell].tolist() == r.fell
        assert mine.label.tolist() == [card.labels[i] for i in r.asked]
        for name in FIGURES:
            assert np.array_equal(mine[name].to_numpy().astype(arrays[name].dtype), arrays[name]), name
        there = [row["distance"] for row in of_json if row["key"] == key]
        assert there == [float(str(d)) if np.isfinite(d) else None for d in arrays["distance"]]


def test_export_refuses_by_name(bench, here):
    """Another ending is 2, a damaged sidecar is 5, and then no half of a file is left."""
    assert bench("ledger", "export", "r.xls", "--ledger", "ledger").returncode == 2
    flipped(next(attack(here / "ledger", "slow").parent.glob("*.safetensors")))
    done = bench("ledger", "export", "i.csv", "--images", "--ledger", "ledger")
    assert (done.returncode, list(here.glob("*i.csv*")), list(here.glob(".*.part"))) == (5, [], [])
    (here / "file").write_text("")
    assert bench("ledger", "export", "file/r.csv", "--ledger", "ledger").returncode == 4


def test_parquet_is_an_extra(bench, here, monkeypatch):
    """Without pyarrow the error says which extra brings it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = bench("ledger", "export", "r.parquet", "--ledger", "ledger")
    assert (done.returncode, "rampart-bench[parquet]" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [(), ("--images",)])
def test_parquet_reads_back(bench, here, words):
    """With pyarrow it is the table of the CSV."""
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    for ending in ("csv", "parquet"):
        assert bench("ledger", "export", f"r.{ending}", "--ledger", "ledger", *words).returncode == 0
    found, expected = pd.read_parquet(here / "r.parquet"), pd.read_csv(here / "r.csv")
    assert list(found.columns) == list(expected.columns) and len(found) == len(expected)
    for name in ("asked", "fell", "forwards") if not words else ("image", "fell", "forwards", "margin", "distance"):
        assert np.array_equal(found[name].to_numpy(), expected[name].to_numpy().astype(found[name].dtype)), name


def test_what_fits_a_record():
    """A sidecar that is no safetensors file, or lacks a figure, is said to be so."""
    from safetensors.numpy import save

    assert "no file of tensors" in fits(record(), b"junk")
    assert "lacks distance" in fits(record(), save({n: np.zeros(3) for n in FIGURES if n != "distance"}))
    assert "is (2,)" in fits(record(), save(dict.fromkeys(FIGURES, np.zeros(2))))


def test_the_commands_of_the_page_work(bench, here):
    """Those of docs/ledger.md's first block, as they stand there, on ledgers that lie where it says."""
    block = re.search(r"```\n(.*?)```", (ROOT / "docs" / "ledger.md").read_text(), re.DOTALL)[1]
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert [words[1] for words in commands] == ["ls", "verify", "merge", "gc", "export"]
    (here / "results").mkdir()
    (here / "other").mkdir()
    shutil.copytree(here / "ledger", here / "other" / "ledger")
    for name in ("ledger", "store"):
        (here / name).rename(here / "results" / name)
    for words in commands:
        done = bench(*({"fmn": "walks"}.get(word, word) for word in words))  # the attack that is there
        assert done.returncode == 0, (words, done.stderr)
    assert len(pd.read_csv(here / "records.csv")) == 6
