"""The fixture robustness, in test runs of their own."""

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  runs in this process drop what they import, and this cannot be imported twice

from tests.conftest import TINY

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[2]
INSTALLED = "rampart" in {e.name for e in entry_points(group="pytest11")}

MODEL = '''
import torch
from torch import nn

torch.manual_seed(0)


class Small(nn.Module):
    """Reads digits by the distance to one image of each class."""

    def __init__(self, spoil=False):
        super().__init__()
        x, y = data()
        protos = torch.stack([x[y == k].mean(0) for k in range(10)])
        self.weight = nn.Parameter(protos.flatten(1))
        self.spoil = spoil

    def forward(self, x):
        away = -torch.cdist(x.flatten(1), self.weight)
        return away.roll(1, 1) if self.spoil else away


def data():
    from pathlib import Path
    from bench.registry import plugins
    found = plugins().parse("dataset", "digits").plugin(Path("datasets"))
    return torch.from_numpy(found.train.x.copy()).float() / 255, torch.from_numpy(found.train.y.copy())
'''

TEST = """
from model import Small

def test_robust(robustness):
    found = robustness(Small(), dataset="digits", columns="clean, fgsm", n=200, threat="linf:0.1")
    assert found.accuracies["clean"] > 0.8 > found.accuracies["fgsm"]
    found.no_worse_than("kept/baseline.json")
"""


@pytest.fixture
def project(pytester):
    """A folder with a model and a test; runs pytest there, and gives what it says."""
    pytester.makepyfile(model=MODEL, test_model=TEST)
    pytester.syspathinsert()
    plugin = () if INSTALLED else ("-p", "bench.pytest_plugin")
    return lambda *words: pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", *plugin, *words)


def test_a_model_is_held_to_its_baseline(project, pytester):
    """No baseline fails and says how to record one; recorded, it passes; a spoilt model fails like an assertion."""
    none = project()
    assert none.ret == 1 and "pytest --rampart-update records it" in none.stdout.str()
    recorded = project("--rampart-update")
    assert recorded.ret == 0, recorded.stdout
    assert "recorded test_model.test_robust on Small" in recorded.stdout.str()
    kept = pytester.path / "kept" / "baseline.json"
    assert {e["column"] for e in json.loads(kept.read_text())["entries"]} == {"clean", "fgsm"}
    assert project().ret == 0
    spoilt = TEST.replace("Small()", "Small(spoil=True)").replace("assert", "#")
    pytester.makepyfile(test_model=spoilt)
    worse = project()
    said = worse.stdout.str()
    assert worse.ret == 1
    for part in ("2 of 2 comparisons regressed", "% before, 0.0 % now", "lost: test images", "--rampart-update"):
        assert part in said, said
    assert "robustness.py" not in said  # the traceback ends in the test
    assert project("--rampart-update").ret == 0 and project().ret == 0
    pytester.makepyfile(test_model=TEST.replace("n=200", "n=100").replace("assert", "#"))
    assert project().ret == 0  # a gain, on fewer images


def test_one_file_serves_several_tests_and_each_its_own_rules(project, pytester):
    """Names are those of tests, so updates keep the others; rules are the gate's; a module is left as it was."""
    pytester.makepyfile(
        test_model="""
import pytest, torch
from torch import nn
from model import Small

WORDS = {"columns": "clean", "n": 200}

def test_one(robustness):
    model = Small().train()
    before = torch.get_num_threads(), torch.initial_seed()
    robustness(model, **WORDS).no_worse_than("b.json")
    assert model.training and (torch.get_num_threads(), torch.initial_seed()) == before

@pytest.mark.parametrize("spoil", [0, 1])
def test_two(robustness, spoil):
    robustness(Small(spoil=spoil), **WORDS).no_worse_than("b.json", max_drop=100, sequential=True)

def test_three(robustness):
    found = robustness(Mixing(), name="mixing", **WORDS)
    found.no_worse_than("b.json", forbidden=("images beside it",))

def test_four(robustness):
    robustness("untrained", plugin=[TINY], net="tiny", **WORDS).no_worse_than("b.json")

class Mixing(Small):
    def forward(self, x):
        return super().forward(x - x.mean(0))
""".replace("TINY", repr(str(TINY)))
    )
    first = project("--rampart-update")
    first.assert_outcomes(passed=4, failed=1)
    assert "forbidden doubt: " in first.stdout.str() and "depends on the images beside it" in first.stdout.str()
    names = {e["defense"] for e in json.loads((pytester.path / "b.json").read_text())["entries"]}
    assert names == {
        "test_model.test_one", "test_model.test_two-0", "test_model.test_two-1", "mixing", "untrained"
    }  # fmt: skip
    project("--rampart-update", "-k", "test_one").assert_outcomes(passed=1, deselected=4)
    project("-k", "not three").assert_outcomes(passed=4, deselected=1)


def test_the_page_shows_a_test_that_works(project, pytester):
    """The block of docs/ci.md, with a model to load."""
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    pytester.makepyfile(test_model=f"from model import Small as load_my_model\n\n{shown}")
    assert project("--rampart-update").ret == project().ret == 0
    kept = json.loads((pytester.path / "baseline.json").read_text())
    assert {e["column"] for e in kept["entries"]} == {"clean", "fgsm", "pgd-20"}


def test_a_column_that_is_gone_fails(project, pytester):
    """It would be gated no more; the model here has no weights at all."""
    bare = """
from torch import nn

class Bare(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]

def test_bare(robustness):
    robustness(Bare(), columns="clean, fgsm", n=20).no_worse_than("b.json")
"""
    pytester.makepyfile(test_model=bare)
    assert project("--rampart-update").ret == project().ret == 0
    pytester.makepyfile(test_model=bare.replace("clean, fgsm", "clean"))
    said = project().stdout.str()
    assert "The baseline has columns that were not asked now." in said
    assert "missing, and in the baseline: digits: fgsm" in said


def test_mistakes_are_named(project, pytester):
    """A data set, a rule, a thing that is no model, a net that the weights do not fit, a module that is broken."""
    pytester.makepyfile(
        test_model="""
from torch import nn
from model import Small

def test_dataset(robustness):
    robustness(Small(), dataset="digitz")

def test_rule(robustness):
    robustness(Small(), columns="clean", n=9).no_worse_than("b.json", maxdrop=1)

def test_thing(robustness):
    robustness(3)

def test_net(robustness):
    robustness(Small(), net="cnn")

def test_shape(robustness):
    robustness(nn.Sequential(nn.Flatten(), nn.Linear(5, 10)))
"""
    )
    pytester.path.joinpath("b.json").write_text('{"schema":"rampart/baseline-1"}')
    said = project().stdout.str()
    for part in (
        "did you mean 'digits'", "no_worse_than has no rule", "expected a torch module, or a defense as text",
        "a module that is not the net cnn", "mat1 and mat2 shapes cannot be multiplied",
    ):  # fmt: skip
        assert part in said, part


def test_the_plugin_costs_no_import():
    """Neither torch nor numpy nor pydantic comes with it."""
    code = "import sys, bench.pytest_plugin; print(sorted({'torch', 'numpy', 'pydantic', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
