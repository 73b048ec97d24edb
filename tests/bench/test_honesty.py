"""The checks before any attack: what a broken model says, what an honest one does not, what they cost and leave."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench import place as places
from bench.answer import Question
from bench.checked import checked, known
from bench.doubts import DRIFTS, REASONS
from bench.errors import IntegrityError, ModelError
from bench.evaluate import Subject
from bench.exam import Cell, Part
from bench.executors import Inline
from bench.honesty import check_model
from bench.inside import counted_backwards, fingerprints, tensors
from bench.records import CheckRecord, Record, TrainingRecord, check_key
from bench.request import Request, resolve
from bench.run import run
from bench.victim import freeze
from tests.conformance.canaries import canaries, document, look, page, trained

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def part():
    """The test part of digits."""
    dataset = places.Place(*[places.Path()] * 3)
    return dataset.dataset(dataset.registry.parse("dataset", "digits")).test


class Smooth(nn.Module):
    """Logits that are smooth in the image, with known gradients."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1))))


def check(module, part, *, random=False):
    return check_model(Subject(freeze(module, CPU), 64, random), part, CPU)


def test_a_smooth_model_raises_nothing_and_has_a_full_score(part):
    """Its gradients are those of its answers on every image, in float64."""
    found = check(Smooth(), part)
    assert found.codes == ()
    assert found.figures["gradient_honesty"] == 1
    assert found.figures["float64"] == 1
    assert found.figures["gradient_error"] < 1e-6


def test_the_cost_is_that_of_a_few_dozen_passes_of_the_images(part):
    """Counted by the module itself: at most 2,400 passes, 2 % of AutoAttack on 18 images that stand."""

    class Counting(Smooth):
        seen = 0

        def forward(self, x):
            Counting.seen += len(x)
            return super().forward(x)

    found = check(Counting(), part)
    assert found.forwards + found.backwards <= 2400
    assert Counting.seen <= 2400  # with what tiles are padded by
    autoattack = 100 + 900 + 900 + 5000  # forwards an image, with FAB's extra ones left out
    assert found.forwards + found.backwards <= 0.02 * 18 * autoattack


@pytest.mark.parametrize("by", [1.0, 1e-3, 30.0])
def test_scale_and_shift_of_logits_alone_raise_nothing(part, by):
    """As long as float32 holds the cross-entropy's gradient."""

    class Times(Smooth):
        def forward(self, x):
            return by * super().forward(x) + 7

    assert check(Times(), part).codes == ()


def test_a_model_that_answers_a_constant_is_flat(part):
    """Nothing can be climbed."""

    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(10)[torch.zeros(len(x), dtype=torch.long)]

    found = check(Constant(), part)
    assert "flat" in found.codes
    (flat,) = (d for d in found.doubts if d.code == "flat")
    assert flat.images == tuple(range(64))
    assert flat.figures == {"share": 1.0}


def test_slopes_of_the_wrong_sign_or_size_are_dishonest(part):
    """The error of a gradient that is twice too long is a half, of one that is turned round two."""

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, by):
            ctx.by = by
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return ctx.by * grad, None

    for by, error in ((2.0, 0.5), (-1.0, 2.0)):

        class Wrong(Smooth):
            def forward(self, x, by=by):
                return super().forward(Backward.apply(x, by))

        found = check(Wrong(), part)
        assert found.codes == ("dishonest",)
        assert found.figures["gradient_error"] == pytest.approx(error, rel=1e-3)
        assert found.figures["gradient_honesty"] == 0


def test_a_model_that_computes_in_float32_alone_is_still_judged(part):
    """Its score is then from larger steps."""

    class Single(Smooth):
        def forward(self, x):
            return super().forward(x.float().to(self.first.weight.dtype)).float()

    found = check(Single(), part)
    assert found.codes == ()
    assert found.figures["float64"] == 0
    assert found.figures["gradient_honesty"] == 1


def test_a_model_that_raises_where_it_is_differentiated_says_so(part):
    """It is a doubt, not an end of the run."""

    class Raises(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ZeroDivisionError("no way back")

    class Broken(Smooth):
        def forward(self, x):
            return super().forward(Raises.apply(x))

    (doubt,) = check(Broken(), part).doubts
    assert doubt.code == "undifferentiable"
    assert "no way back" in doubt.what


def test_a_model_that_raises_on_one_image_alone_depends_on_company(part):
    """As batch normalisation in training mode does."""

    class Shy(Smooth):
        def forward(self, x):
            if len(x) < 2:
                raise ValueError("more than one image, please")
            return super().forward(x)

    assert check(Shy(), part).codes == ("mixes",)


def test_a_model_that_gives_no_logits_is_an_error(part):
    """A tuple is not a matrix of logits."""

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ModelError, match="the model gave tuple"):
        check(Pair(), part)


def test_one_pixel_one_class_few_images_and_two_classes_are_fine():
    """The smallest shapes there are: honest linear models on random images."""
    for n, channels, size, classes in ((1, 1, 1, 2), (3, 3, 1, 2), (2, 1, 5, 7)):
        rng = np.random.RandomState(0)
        part = Part(rng.randint(0, 256, (n, channels, size, size), np.uint8), np.zeros(n, np.int64))
        torch.manual_seed(1)
        found = check(nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes)), part)
        assert found.codes == ()


def test_weights_that_hold_test_images_are_named(part):
    """Also as bytes; other tensors of the same shape are not."""
    module = Smooth()
    module.register_buffer("kept", torch.from_numpy(part.x[3:9].copy()))
    module.register_buffer("other", torch.rand(6, 1, 8, 8))
    found = check(module, part)
    assert [(d.code, d.what) for d in found.doubts] == [("holds-images", "kept")]


def test_checks_leave_torch_as_it_was(part):
    """The generator of random numbers, the grad mode and torch's engine."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    module = Smooth()
    torch.manual_seed(5)
    check(module, part, random=True)
    assert torch.equal(torch.rand(1), expected)
    assert torch.is_grad_enabled()
    with counted_backwards() as backwards:
        assert backwards() == 0
        x = torch.ones(1, requires_grad=True)
        x.exp().backward()
        assert backwards() == 1
    x.exp().backward()
    assert backwards() == 1


def test_fingerprints_see_every_tensor_counter_and_list():
    """Weights, buffers that are not saved, plain tensors, numbers and lengths."""
    module = Smooth()
    module.register_buffer("hidden", torch.zeros(2), persistent=False)
    module.plain, module.calls, module.seen = torch.zeros(1), 0, []
    before = fingerprints(module)
    assert {"first.weight", "hidden"} <= {name for name, _ in tensors(module)}
    module.hidden += 1
    module.plain += 1
    module.calls += 1
    module.seen.append(1)
    now = fingerprints(module)
    assert {name for name in now if now[name] != before[name]} == {"hidden", "plain", "calls", "seen"}


def test_a_table_that_is_made_once_is_no_change(part):
    """As position encodings are; one that is made anew each time, with other values, is one."""

    class Table(Smooth):
        def __init__(self, *, again):
            super().__init__()
            self.table, self.again, self.made = None, again, 0.0

        def forward(self, x):
            if self.table is None or self.again:
                self.table = torch.zeros(3) + (self.table.sum() + 1 if self.again and self.table is not None else 0)
            return super().forward(x)

    assert check(Table(again=False), part).codes == ()
    (doubt,) = check(Table(again=True), part).doubts
    assert (doubt.code, doubt.what) == ("state", "table")


def test_odd_tensors_are_passed_over(part):
    """Sparse and complex ones: they are looked at by nobody, and break nothing."""
    module = Smooth()
    module.sparse, module.waves = torch.eye(64).to_sparse(), torch.ones(64, dtype=torch.complex64)
    assert check(module, part).codes == ()


def test_every_reason_says_what_why_and_how():
    """Sentences without a full stop, and none twice."""
    for reason in REASONS.values():
        assert all(len(text) > 20 and not text.endswith(".") for text in (reason.text, reason.why, reason.mend))
    assert len({reason.text for reason in REASONS.values()}) == len(REASONS)


ASK = Request(("untrained",), net="moody", columns=("clean", "slow"), n=20)


def test_a_run_records_the_checks_once_and_names_the_doubt_first(place):
    """One record for weights and test part; each cell's record has its sentences; a second run checks nothing."""
    said: list[str] = []
    exam = resolve(ASK, place)
    records = run(exam, place, Inline(), report=said.append).records
    (check,) = (d for d in place.ledger.all() if isinstance(d, CheckRecord))
    assert [d.code for d in check.doubts] == ["mixes"]
    assert [r.doubts for r in records] == [[check.doubts[0].text]] * len(records)
    assert said[0] == f"doubt: {check.weights[:8]}: {check.doubts[0].text}"
    again = resolve(replace(ASK, columns=("clean", "slow", "idle")), place)
    run(again, place, Inline(), report=said.append)
    assert sum(isinstance(d, CheckRecord) for d in place.ledger.all()) == 1
    assert known(place, check.net, check.weights, check.test) == check


def test_a_check_whose_fields_were_changed_is_refused(place):
    """The key is that of what was checked."""
    run(resolve(ASK, place), place, Inline(), report=lambda _line: None)
    (check,) = (d for d in place.ledger.all() if isinstance(d, CheckRecord))
    changed = json.loads(check.model_dump_json(by_alias=True)) | {"n": 3}
    assert CheckRecord.model_validate(changed).n == 3
    with pytest.raises(ValueError, match="the key is not that of its check"):
        CheckRecord.model_validate(changed | {"weights": "0" * 64})
    folder = place.ledger.root / check_key(check.net, check.weights, check.test, check.version)
    (file,) = folder.iterdir()
    file.write_text(file.read_text().replace('"n":64', '"n":63'))
    with pytest.raises(IntegrityError, match="damaged"):
        checked(place, check.net, check.weights, places._dataset(place, "digits@1()"))


def test_a_model_that_changes_during_an_attack_is_doubted(place, tmp_path):
    """It waits until the checks are over, in a counter that they cannot see."""
    plugin = tmp_path / "waits.py"
    plugin.write_text(
        "import torch\nfrom torch import nn\nfrom bench import net\n\n@net()\n"
        "def waits(*, classes: int, channels: int, size: int) -> nn.Module:\n"
        '    """Answers otherwise from its third call on, unless somebody looks first."""\n'
        "    calls = iter(range(2))\n"
        "    class Waits(nn.Module):\n"
        "        def __init__(self):\n"
        "            super().__init__()\n"
        "            self.linear = nn.Linear(channels * size * size, classes)\n"
        "        def forward(self, x):\n"
        "            z = self.linear(x.flatten(1))\n"
        "            return z if WATCHED or next(calls, None) is not None else z.roll(1, 1)\n"
        "    return Waits()\n\nWATCHED = True\n"
    )
    place = replace(place, plugin_files=(*place.plugin_files, str(plugin)))
    exam = resolve(replace(ASK, net="waits", columns=("clean",)), place)
    (honest,) = run(exam, place, Inline(), report=lambda _line: None).records
    assert honest.doubts == []
    module = next(t.function for t in place.registry.all("net") if t.name == "waits").__globals__
    module["WATCHED"] = False
    places._subject.cache_clear()
    (training,) = (d for d in place.ledger.all() if isinstance(d, TrainingRecord))
    cell = Cell(training.net, training.weights["best"], exam.dataset.test.hash, "clean", "linf:0.2", "idle@1()", 0)
    (record,) = Question(cell, tuple(range(20)), "digits@1()", exam.dataset.shape).do(place)
    assert isinstance(record, Record)
    assert record.doubts == [DRIFTS]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the bench says of every canary."""
    folder = tmp_path_factory.mktemp("canaries")
    place = places.Place(folder / "ledger", folder / "store", folder / "data")
    assert trained(place, "standard", "softmax-regression")  # and the store then has it
    return list(look(place, n=32))


def test_every_canary_is_caught_by_its_own_doubt_and_no_honest_model_is(seen):
    """All broken ones, and no control."""
    wrong = {s.name: s.found for s in seen if not s.right}
    assert wrong == {}
    assert sum(bool(s.expected) for s in seen) >= 19
    assert sum(not s.expected for s in seen) >= 7
    assert {s.expected for s in seen} >= {"underflow", "distribution", "flat", "rough", "fickle", "state", "drifts"}


def test_masked_canaries_look_more_robust_than_they_are(seen):
    """What makes them worth catching: the number overstates by more than ten points; a boxed one does not at all."""
    by_name = {s.name: s for s in seen}
    for name in ("scaled", "quantiser", "killer", "jpeg", "counter", "remembers"):
        assert by_name[name].said - by_name[name].most > 0.1, name
    assert (by_name["boxed"].said, by_name["boxed"].most) == (by_name["at"].said, by_name["at"].most)


def test_the_page_and_the_document_say_the_same(seen):
    """A row for each, and the rates above."""
    text = page(seen)
    assert all(f"| {s.name} | {s.summary} |" in text for s in seen)
    broken = sum(bool(s.expected) for s in seen)
    assert f"**{broken} of {broken} broken models are caught" in text
    assert [c["name"] for c in document(seen)["canaries"]] == [s.name for s in seen]


def test_canaries_are_no_defenses(place):
    """They have a kind of their own."""
    names = {c.name for c in canaries(place)}
    assert "quantiser" in names
    assert not names & set(place.registry.names("defense")) - {"standard", "at", "trades"}
