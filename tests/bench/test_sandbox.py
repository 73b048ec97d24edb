"""A plugin in the sandbox: the honest one is judged as ever; a hostile one gets a named error, or has no effect."""

from __future__ import annotations

import copy
import os
import platform
import socket
import time
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch

from bench import wire
from bench.confine import _filter
from bench.errors import ModelError, SandboxError, TrainingError, UsageError
from bench.exam import Shape
from bench.fence import Fence, _unable
from bench.foreign import foreign
from bench.obtain import obtain
from bench.place import Place, build
from bench.registry import Registry, plugins
from bench.request import Request, resolve
from bench.sandbox import Child, clean
from bench.schooling import _history
from bench.victim import Victim, freeze
from tests.conftest import TINY

HOSTILE = TINY.with_name("hostile.py")
SHAPE = Shape(10, 1, 8)
FENCE = Fence(memory=1 << 30, seconds=60.0)
X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))

needs_bubblewrap = pytest.mark.skipif(bool(_unable()), reason=f"no sandbox here: {_unable()}")


def make(what, fence=FENCE):
    """A hostile net in a child of its own."""
    return build(foreign(Registry(), (str(HOSTILE),), fence).parse("net", f"hostile(what={what!r})"), SHAPE)


@pytest.fixture(scope="module")
def child():
    """One for all plugins that it outlives."""
    return Child(FENCE, [str(HOSTILE)])


def ask(child, what):
    """The child's logits after it built the net that does this."""
    child.json(wire.BUILD, {"net": f"hostile(what={what!r})", "shape": list(astuple(SHAPE))})
    return child.forward(X, wants=False, seed=None)[0]


@needs_bubblewrap
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("labels", "Error"),
        ("neighbours", "found 0 files and 0 processes"),
        ("network", "PermissionError"),
        ("forks", "PermissionError"),
        ("program", "PermissionError"),
        ("kills", "PermissionError"),
        ("disk", "No space left"),
        ("quits", "SystemExit"),
        ("raises", "ValueError"),
        ("shape", r"gave shape \(5, 1, 8, 8\) for 5 images"),
    ],
)
def test_what_a_hostile_plugin_tries_fails_by_name(child, what, said):
    """It reads labels, opens the network, forks, fills the disk, …: an error of the model, which says what it was."""
    with pytest.raises(ModelError, match=said) as error:
        ask(child, what)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value) and len(str(error.value)) < 1200


@needs_bubblewrap
def test_patching_torch_changes_nothing_here(child):
    """A model that patches torch's comparisons patches its own process: the judge still counts its NaN as they are."""
    ask(child, "patches")
    assert torch.tensor([[0.0, 1.0]]).argmax(1).item() == 1
    assert not torch.tensor([torch.nan]).isfinite().any()
    assert not ask(child, "nan").isfinite().any()


@needs_bubblewrap
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("exits", "exited with code 0"),
        ("garbage", "does not keep to the protocol"),
        ("much", "does not keep to the protocol: an answer of 1099511627776 bytes"),
    ],
)
def test_a_plugin_that_breaks_off_or_lies_on_the_wire_is_ended(what, said):
    """Exit without a word, garbage, an endless answer: a named error, at once, and again each time it is asked."""
    model = make(what)
    for _ in range(2):
        with pytest.raises(SandboxError, match=said):
            model(X)


@needs_bubblewrap
def test_a_plugin_that_sleeps_is_ended_in_time():
    """After the seconds of a pass it is gone, and the error names the option."""
    model = make("sleeps")
    running = model.cage.running()
    running._with_room(X.nbytes, 5 * 1024 * 8)
    running.fence = replace(FENCE, seconds=0.3)
    started = time.monotonic()
    with pytest.raises(SandboxError, match=r"no answer for 0.3 seconds \(--sandbox-seconds\)"):
        model(X)
    assert time.monotonic() - started < 10 and running._process.poll() is not None


@needs_bubblewrap
def test_a_plugin_that_takes_all_memory_is_ended():
    """At the limit, which the error names; this process holds none of it."""
    with pytest.raises(SandboxError, match=r"more memory than 1 GiB \(--sandbox-memory\)"):
        make("memory")(X)


@needs_bubblewrap
def test_an_honest_model_answers_bit_by_bit_as_without_a_sandbox():
    """Logits, gradients, Jacobians and float64 are the very same numbers; a second way back is one, too."""
    model = make("nothing")
    own = plugins([HOSTILE]).parse("net", "hostile").plugin(classes=10, channels=1, size=8)
    for module in (own, model):
        module.load_state_dict(own.state_dict())
        freeze(module, torch.device("cpu"))
    y, found = torch.arange(5), []
    for module in (own, model):
        victim = Victim(module, tile=4, access="gradients", images=5)
        x = X.clone().requires_grad_()
        logits = victim(x)
        ways = [torch.autograd.grad(logits[:, k].sum(), x, retain_graph=k < 2)[0] for k in range(3)]
        found.append([
            victim(X), logits.detach(), *ways,
            *victim.gradient(X, y, lambda z, y: torch.nn.functional.cross_entropy(z, y, reduction="none")),
            *victim.jacobian(X, torch.tensor([[0, 3]] * 5)), *victim.passes(),
        ])  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert model.cage.running().freed, "graphs that nobody holds are released"
    with pytest.raises(ModelError, match="float32"):
        model(X.double())
    assert torch.equal(copy.deepcopy(model).double()(X.double()), copy.deepcopy(own).double()(X.double()))


@needs_bubblewrap
def test_training_and_verdicts_are_those_without_a_sandbox(bench, tmp_path):
    """A plugin's defense and net: the same weights, checks and fallen images; the records say how they were made."""
    from bench.ledger import Ledger
    from bench.records import CheckRecord, Record, TrainingRecord

    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from __future__ import annotations\n"
        "from torch import nn\nfrom torch.nn import functional as F\n"
        "from bench import Course, TrainJob, defense, fit, net\n\n\n"
        "@net()\ndef two(*, classes: int, channels: int, size: int) -> nn.Module:\n"
        "    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(4 * (size - 2) ** 2, classes))\n\n\n"
        "@defense()\ndef brief(job: TrainJob, *, course: Course = Course(epochs=2, snapshots=1)) -> nn.Module:\n"
        "    return fit(job, job.net(), lambda model, feed: F.cross_entropy(model(feed.x), feed.y), course)\n"
    )
    found = []
    for words in ([], ["--sandbox"]):
        root = tmp_path / f"of{len(words)}"
        done = bench(
            "run", "--defense", "brief", "--net", "two", "--plugin", str(plugin), "-n", "60", "--columns",
            "pgd(steps=3), fab(steps=3)", "--executor", "inline", "--ledger", str(root / "ledger"),
            "--store", str(root / "store"), *words,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        documents = [d for d in Ledger(root / "ledger").all() if isinstance(d, Record | CheckRecord | TrainingRecord)]
        assert {d.machine.sandbox for d in documents} == {"bubblewrap" if words else ""}
        apart = {"machine", "made", "cost", "history"}
        found.append(sorted(d.model_dump_json(exclude=apart) for d in documents))
    assert len(found[0]) == 5 and found[0] == found[1]


@needs_bubblewrap
def test_no_record_says_that_a_hostile_model_stood(bench, tmp_path):
    """A model that ends itself in the exam: exit code 1, a line that says so, and no verdict in the ledger."""
    from bench.ledger import Ledger
    from bench.records import Record

    weights = tmp_path / "w.safetensors"
    from safetensors.torch import save_file

    save_file({"linear.weight": torch.zeros(10, 64), "linear.bias": torch.zeros(10)}, str(weights))
    done = bench(
        "run", "--sandbox", "--defense", f"checkpoint(path={str(weights)!r})", "--net", "hostile(what='exits')",
        "--plugin", str(HOSTILE), "-n", "5", "--columns", "clean", "--executor", "inline",
    )  # fmt: skip
    assert done.returncode == 1 and "the sandbox was ended: it exited with code 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [d for d in Ledger(tmp_path / "results" / "ledger").all() if isinstance(d, Record)]


@needs_bubblewrap
def test_a_training_that_exits_leaves_no_record(tmp_path):
    """A hostile defense ends its child: a TrainingError that says how, and neither weights nor its images are left."""
    (tmp_path / "exits.py").write_text(
        "from __future__ import annotations\nimport os\nfrom torch import nn\nfrom bench import TrainJob, defense\n\n\n"
        "@defense()\ndef exits(job: TrainJob) -> nn.Module:\n    os._exit(3)\n"
    )
    roots = (tmp_path / "ledger", tmp_path / "store", tmp_path / "data")
    place = Place(*roots, (str(tmp_path / "exits.py"),), fence=FENCE)
    exam = resolve(Request(("exits",), net="softmax-regression", columns=("clean",), n=5), place)
    with pytest.raises(TrainingError, match="exited with code 3; no record was written"):
        obtain(place, exam.lessons[0], report=print)
    assert not list(place.ledger.all()) and not list(roots[1].rglob("*.npy"))


def test_limits_alone_still_stop_what_forks_connects_or_kills():
    """--sandbox=limits is one process without sockets, programs or signals."""
    child = Child(replace(FENCE, mode="limits"), [str(HOSTILE)])
    for what in ("forks", "network", "kills", "program"):
        with pytest.raises(ModelError, match="PermissionError"):
            ask(child, what)


def test_a_machine_without_bubblewrap_is_told_what_to_do(monkeypatch):
    """The error names the package, and the lesser sandbox with what it does not hold."""
    _unable.cache_clear()
    monkeypatch.setattr("bench.fence.shutil.which", lambda _name: None)
    with pytest.raises(UsageError, match=r"not installed; install bubblewrap .* --sandbox=limits: .* labels"):
        Fence().check()
    _unable.cache_clear()


def test_a_plugin_with_an_attack_is_refused_by_name():
    """An attack sees labels: it cannot be in a sandbox, and the error says where to put it."""
    with pytest.raises(UsageError, match="brings the attack 'slow'"):
        foreign(Registry(), (str(TINY),), replace(FENCE, mode="limits" if _unable() else "bubblewrap"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sandbox=none"], "--sandbox=none: there is no such sandbox; there are bubblewrap, limits"),
        (["--sandbox", "--sandbox-memory", "0"], "expected a number between 0"),
        (["--sandbox=limits", "--plugin", "absent.py"], "there is no such file"),
    ],
)
def test_the_options_are_checked(bench, words, said):
    """Exit code 2, and what was expected."""
    done = bench("plan", "--defense", "at", *words)
    assert done.returncode == 2 and said in done.stderr


@pytest.fixture
def wires():
    """Both ends of a connection, and the first one's socket."""
    first, second = socket.socketpair()
    with first, second:
        yield wire.Wire(first), wire.Wire(second), first


def test_a_message_arrives_whole(wires):
    """Kind, reason, number and content; then silence is a TimeoutError, and the end of the other side is named."""
    here, there, _ = wires
    here.send(wire.LINE, 7, b"a line", why=2)
    assert there.receive({wire.LINE: 6}) == wire.Message(wire.LINE, 2, 7, b"a line")
    with pytest.raises(TimeoutError):
        here.receive({}, until=time.monotonic() + 0.01)
    there.close()
    with pytest.raises(wire.ClosedError):
        here.receive({wire.LINE: 9})


@pytest.mark.parametrize("most", [{wire.DONE: 9}, {wire.LINE: 3}, {}])
def test_a_message_that_is_not_expected_is_an_error(wires, most):
    """A kind that was not asked for, or more bytes than it may have."""
    here, there, _ = wires
    here.send(wire.LINE, 1, b"four")
    with pytest.raises(wire.WireError):
        there.receive(most)


def test_what_is_no_message_is_an_error(wires):
    """Sixty-four bytes of anything."""
    _, there, end = wires
    end.sendall(b"x" * 64)
    with pytest.raises(wire.WireError, match="not the beginning of an answer"):
        there.receive({wire.LINE: 9})


def test_shared_memory_cannot_be_taken_away():
    """Nobody can shrink it, so that reading it never fails; views that do not fit are errors."""
    fd = wire.Room.file(64, 64)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)
    room = wire.Room(os.dup(fd), 64, 64)
    os.close(fd)
    with pytest.raises(wire.WireError):
        room.logits((5, 10), torch.float32)


def test_the_words_of_a_stranger_are_one_short_line():
    """No control characters, nothing beyond a thousand letters."""
    assert clean("a\x1b[31m\nb\u202e") == "a [31m b "
    assert len(clean("x" * 5000)) == 1000


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are this processor's")
def test_the_filter_lets_threads_be_made_and_no_processes():
    """An interpreter of the kernel's language runs the program: fork, execve and socket are refused, read is not."""

    def run(number, flags=0, arch=0xC000003E):
        import struct

        lines = list(struct.iter_unpack("<HBBI", _filter("x86_64")))
        given, value, at = {4: arch, 0: number, 16: flags}, 0, 0
        while True:
            code, yes, no, k = lines[at]
            at += 1
            if code == 0x20:
                value = given[k]
            elif code == 0x06:
                return k
            else:
                test = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
                at += yes if test else no

    refused, allowed = 0x00050001, 0x7FFF0000
    assert [run(n) for n in (57, 58, 59, 41, 62, 319)] == [refused] * 6
    assert [run(n) for n in (0, 1, 9, 202, 45)] == [allowed] * 5
    assert run(56, flags=0x00010000) == allowed and run(56) == refused
    assert run(435) == 0x00050026 and run(0x40000039) == refused and run(0, arch=3) == 0x80000000


def test_a_history_that_is_none_ends_the_child():
    """Entries are numbers, texts and lists of numbers; anything else that a child sends is named."""

    class EndedError(Exception):
        pass

    class Stub:
        def end(self, why):
            return EndedError(why)

    assert _history(Stub(), b'[{"epoch": 1, "seconds": 0.5, "a_by_class": [1, 2]}]')[0]["epoch"] == 1
    for bad in (b"[1]", b'{"a": 1}', b'[{"seconds": "x"}]', b'[{"a": {"b": 1}}]', b"[" * 100_000):
        with pytest.raises(EndedError):
            _history(Stub(), bad)


def test_a_random_net_draws_what_the_bench_says():
    """Its seed is drawn here, so that two runs of one seed agree; it declares that it is random."""
    fence = replace(FENCE, mode="limits" if _unable() else "bubblewrap")
    source = (
        "from __future__ import annotations\nimport torch\nfrom torch import nn\nfrom bench import net\n\n\n"
        "class Noise(nn.Module):\n    def forward(self, z):\n        return z + torch.randn_like(z)\n\n\n"
        "@net(random=True)\ndef noise(*, classes: int, channels: int, size: int) -> nn.Module:\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes), Noise())\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "noise.py").write_text(source)
        recipe = foreign(Registry(), (f"{folder}/noise.py",), fence).parse("net", "noise")
        model = build(recipe, SHAPE)
        answers = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            answers.append(model(X))
    assert recipe.plugin.random and torch.equal(*answers[:2]) and not torch.equal(*answers[1:])
