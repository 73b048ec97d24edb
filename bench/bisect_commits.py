"""Which commit lowered robustness?  Each is checked out in a folder of its own, where the user's command examines it.

Trainings are keyed by recipe and version, not by code, so every commit has its own ledger and store, and trains anew.
Cells are keyed by weights, so those that are known are laid into a commit's ledger beforehand, where the attack's
source is the same.  What was found of a commit is kept, by the content of its tree and the command.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import baseline
from bench.bisection import Found, Report, Step, ends, first_bad, judge, lost_columns
from bench.errors import IncompleteError, RampartError, UsageError
from bench.exam import digest
from bench.files import locked, remove_lock, write_atomically
from bench.gate import Rules
from bench.ledger import Ledger
from bench.ledger_check import folders, read
from bench.records import Record, TrainingRecord
from bench.standing import Standings

ENDED_WELL = (0, 3)  # exit codes: 3 is a gate's, which the command may hold
DAMAGE = 5
CHECKOUT = "bench-bisect-"  # how the names of temporary folders begin
SKIP = 125  # as of git bisect run


@dataclass(frozen=True)
class Repository:
    """A git repository of the user's, whose files and index are never touched."""

    top: Path
    inside: str  # the folder of it where this runs

    @classmethod
    def here(cls, folder: Path) -> Repository:
        """The repository that a folder is in."""
        done = _git(folder, "rev-parse", "--show-toplevel", "--show-prefix")
        if done.returncode:
            raise UsageError(
                f"{folder.resolve()} is in no git repository ({done.stderr.strip()}); to compare settings, give "
                "recipes and no --command"
            )
        top, inside, *_ = [*done.stdout.split("\n"), ""]
        return cls(Path(top), inside)

    def commit(self, name: str, option: str) -> str:
        """The full hash of a commit."""
        done = _git(self.top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if done.returncode or name.startswith("-"):
            raise UsageError(f"{option} {name}: git knows no such commit here; a shallow checkout lacks older ones")
        return done.stdout.strip()

    def between(self, good: str, bad: str) -> list[str]:
        """The commits after the good one up to the bad one, on the line of first parents, the oldest first."""
        if good == bad:
            raise UsageError("--good and --bad are the same commit: there is nothing between them")
        if _git(self.top, "merge-base", "--is-ancestor", good, bad).returncode:
            swapped = not _git(self.top, "merge-base", "--is-ancestor", bad, good).returncode
            hint = "; it is the other way round" if swapped else ""
            raise UsageError(f"--good {good[:10]} is no ancestor of --bad {bad[:10]}{hint}")
        if self.tree(good) == self.tree(bad):
            raise UsageError("--good and --bad have the same files: nothing differs")
        return self._said("rev-list", "--first-parent", "--reverse", f"{good}..{bad}").split()

    def tree(self, commit: str) -> str:
        """The hash of a commit's files."""
        return self._said("rev-parse", f"{commit}^{{tree}}")

    def title(self, commit: str) -> str:
        """A commit for a person."""
        said = self._said("log", "-1", "--format=%h %s", commit)
        return "".join(c if c.isprintable() else "?" for c in said)

    @contextmanager
    def checked_out(self, commit: str) -> Iterator[Path]:
        """A commit's files, in a folder that is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix=CHECKOUT) as folder, locked(Path(folder) / "lock"):
            place = Path(folder).resolve() / self.top.name
            self._said("worktree", "add", "--quiet", "--detach", str(place), commit)
            try:
                yield place
            finally:
                _git(self.top, "worktree", "remove", "--force", str(place))
                shutil.rmtree(place, ignore_errors=True)
                _git(self.top, "worktree", "prune")

    def tidy(self) -> None:
        """Remove the checkouts that killed searches left."""
        for line in self._said("worktree", "list", "--porcelain").splitlines():
            folder = Path(line.removeprefix("worktree ")).parent
            if line.startswith("worktree ") and folder.name.startswith(CHECKOUT):
                remove_lock(folder / "lock", partial(shutil.rmtree, folder / self.top.name))
                with suppress(OSError):
                    folder.rmdir()  # which is empty where nobody held the lock
        _git(self.top, "worktree", "prune")

    def _said(self, *words: str) -> str:
        done = _git(self.top, *words)
        if done.returncode:
            raise IncompleteError(f"git {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # Inside a hook, git's own variables would point elsewhere.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *words], env=env, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise IncompleteError(f"git cannot be run: {error}") from error


class _Known(NamedTuple):
    """A record of a ledger, as far as it is needed here."""

    path: Path
    sidecar: Path
    weights: str
    source: str


class _Cells(NamedTuple):
    """The records of a ledger, and the weights of its trainings by their key."""

    records: list[_Known]
    trainings: dict[str, set[str]]

    @classmethod
    def of(cls, root: Path) -> _Cells:
        """Of all that can be read there."""
        found = cls([], {})
        for folder in folders(root) if root.is_dir() else ():
            for path in folder.documents:
                document = read(path)
                if isinstance(document, Record):
                    beside = path.with_name(f"{document.images}.safetensors")
                    found.records.append(_Known(path, beside, document.weights, document.source))
                elif isinstance(document, TrainingRecord):
                    found.trainings.setdefault(document.key, set()).update(document.weights.values())
        return found


@dataclass
class Search:
    """How commits are examined.  command: its words; result: the file that it writes, if it is not the ledger."""

    repository: Repository
    command: tuple[str, ...]
    result: str
    rules: Rules
    work: Path
    ledger: Path  # the user's own, whose cells are used too
    data: Path
    report: Report
    done: list[Path] = field(default_factory=list)  # ledgers of commits that were examined
    known: dict[Path, _Cells] = field(default_factory=dict)  # what was read of ledgers

    def run(self, good: str, bad: str) -> Found:
        """The commit that lowered a column."""
        repository = self.repository
        first, last = repository.commit(good, "--good"), repository.commit(bad, "--bad")
        commits = repository.between(first, last)
        repository.tidy()
        standings, said = self._standings(first)
        if standings is None:
            raise IncompleteError(f"the good commit {repository.title(first)} cannot be judged: {said}")
        only: set[object] = set()
        steps: list[Step] = []
        known: dict[int, Step] = {}

        def step(place: int) -> Step:
            if place not in known:
                what = repository.title(commits[place])
                now, said = self._standings(commits[place])
                made = Step(what, "broken", said=said) if now is None else judge(
                    what, standings, now, self.rules, only, said
                )  # fmt: skip
                known[place] = made
                steps.append(made)
                self.report(f"{what}: {made.verdict}{f' ({made.said})' if made.said else ''}")
            return known[place]

        end = step(len(commits) - 1)
        if (nothing := ends(end, steps)) is not None:
            return nothing
        only |= lost_columns(end)
        suspects = first_bad(len(commits), lambda place: step(place).verdict)
        titles = tuple((repository.title(commits[place]),) for place in suspects)
        if len(titles) == 1:
            return Found(titles, f"The first bad commit is {titles[0][0]}.", tuple(steps), 0)
        listed = "; ".join(title for (title,) in titles)
        sentence = f"It is one of {len(titles)} commits, of which all but the last cannot be judged: {listed}."
        return Found(titles, sentence, tuple(steps), 4)

    def _standings(self, commit: str) -> tuple[Standings | None, str]:
        """What stands at a commit, or none; and why, or what was not done again."""
        named = {"tree": self.repository.tree(commit), "inside": self.repository.inside,
                 "command": list(self.command), "result": self.result}  # fmt: skip
        folder = (self.work / digest(named)[:16]).resolve()
        kept = folder / "standings.json"
        with locked(folder / "lock"):
            if (found := baseline.read(str(kept))) is not None:
                self.done.append(folder / "ledger")
                return found, "it was examined before"
            try:
                found = self._examined(commit, folder)
            except RampartError as error:
                return None, f"{error}; see {folder / 'log.txt'}"
            baseline.record(found, kept)
        self.done.append(folder / "ledger")
        return found, ""

    def _examined(self, commit: str, folder: Path) -> Standings:
        """Run the command on a commit's files, and read what it recorded."""
        self.report(f"{self.repository.title(commit)}: {shlex.join(self.command)}")
        with self.repository.checked_out(commit) as place:
            here = place / self.repository.inside
            if not here.is_dir():
                raise IncompleteError(f"it has no folder {self.repository.inside}")
            laid = self._lay_cells(place, folder / "ledger")
            code = self._call(place, here, folder)
            if code == DAMAGE and laid:  # an older version may not read what this one wrote
                shutil.rmtree(folder / "ledger")
                code = self._call(place, here, folder)
            if code not in ENDED_WELL:
                meant = "asked to be skipped" if code == SKIP else f"ended with exit code {code}"
                raise IncompleteError(f"its command {meant}")
            found = self._result(here, folder)
        if not found.every:
            raise IncompleteError(
                "its command recorded nothing: it must leave --ledger and --store to their defaults, which "
                "$BENCH_LEDGER and $BENCH_STORE set, or write the file that --result names"
            )
        return found

    def _result(self, here: Path, folder: Path) -> Standings:
        if self.result:
            found = baseline.read(str(here / self.result))
            if found is None:
                raise IncompleteError(f"its command wrote no {self.result}")
            return found
        every = Standings.of(Ledger(folder / "ledger")).every
        return Standings(tuple(s for s in every if s.model.which))  # cells laid in for other weights have no training

    def _call(self, place: Path, here: Path, folder: Path) -> int:
        """The command's exit code; what it says goes to a log."""
        env = self._environment(place, folder)
        words = [self._moved(word, place) for word in self.command]
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            try:
                process = subprocess.Popen(
                    words, cwd=here, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            except OSError as error:
                raise IncompleteError(f"{words[0]} cannot be started: {error.strerror}") from error
            try:
                return process.wait()
            except BaseException:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                raise

    def _environment(self, place: Path, folder: Path) -> dict[str, str]:
        """The commit's own code comes first, and everything is recorded apart from the user's results."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        for name in ("PYTHONPATH", "BENCH_PLUGIN"):
            if name in env:
                env[name] = os.pathsep.join(self._moved(path, place) for path in env[name].split(os.pathsep))
        code = [str(path) for path in (place, place / "src") if path.is_dir()]
        env["PYTHONPATH"] = os.pathsep.join([*code, *filter(None, [env.get("PYTHONPATH", "")])])
        env["PYTHONDONTWRITEBYTECODE"] = "1"  # in folders that are gone soon
        # `python` and `bench` mean those that run this.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
        places = {"LEDGER": folder / "ledger", "STORE": folder / "store", "SITE": folder / "site"}
        return env | {f"BENCH_{k}": str(v) for k, v in places.items()} | {"BENCH_DATA": str(self.data.resolve())}

    def _moved(self, word: str, place: Path) -> str:
        """A path into the user's files as the path of the same file in the checkout, where it has one."""
        top = f"{self.repository.top}{os.sep}"
        moved = word.replace(top, f"{place}{os.sep}")
        return moved if moved != word and Path(moved.rpartition("=")[2]).exists() else word

    def _lay_cells(self, place: Path, into: Path) -> int:
        """Lay known cells into a commit's ledger: those of attacks whose source it has; how many files."""
        for root in [self.ledger, *self.done]:
            if root not in self.known:
                self.known[root] = _Cells.of(root)
        alike = {key for root in self.done for key in self.known[root].trainings}  # what other commits trained
        every = self.known.values()
        weights = {w for c in every for key, ws in c.trainings.items() if key in alike or not alike for w in ws}
        records = {r.path: r for c in every for r in c.records if r.weights in weights}
        sources = self._sources(place) if records else set()
        mine = [r for r in records.values() if r.source in sources and r.sidecar.is_file()]
        return sum(_link(r.sidecar, into) + _link(r.path, into) for r in mine)

    def _sources(self, place: Path) -> set[str]:
        """The hashes of a commit's own Python files, and of the attacks of this installation, where it is not that."""
        from bench.origin import source_hash
        from bench.recipe import Attack
        from bench.registry import plugins

        found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in place.rglob("*.py") if path.is_file()}
        if not (place / "bench" / "exam.py").exists():
            found |= {source_hash(a) for a in plugins().all("attack") if isinstance(a, Attack)}
        return found


def _link(path: Path, into: Path) -> int:
    """Lay a file under its key, by a link where that can be; whether it was not there."""
    place = into / path.parent.name / path.name
    if place.exists():
        return 0
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, place)
    except FileExistsError:
        return 0
    except OSError:  # on another file system
        write_atomically(place, path.read_bytes())
    return 1


def words_of(command: str) -> tuple[str, ...]:
    """A command's words; no shell reads it."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(f"--command {command!r}: {error}") from None
    if not words:
        raise UsageError("--command is empty; expected what examines a commit, as in 'bench run --defense at'")
    return words
