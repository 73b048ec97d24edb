"""The gate where builds run: the action's steps in a shell, JUnit as its readers want it, the hook of pre-commit."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import baseline, gate_report
from tests.bench.test_gate import PGD, gate, standing
from tests.conftest import TINY

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())


@pytest.fixture
def checkout(tmp_path):
    """A clean folder with an empty ledger, beside one for the PATH that has `bench`."""
    program = tmp_path / "bin" / "bench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bench "$@"\n')
    program.chmod(0o755)
    work = tmp_path / "work space"
    work.mkdir()
    (work / "ledger").mkdir()
    return work


def steps(folder, home, **given):
    """Run the action's steps as GitHub does, with these inputs; stops where one fails, and gives all that was run."""
    inputs = {name: str(facts.get("default", "")) for name, facts in ACTION["inputs"].items()}
    assert set(given) <= {name.replace("-", "_") for name in inputs}
    inputs |= {name.replace("_", "-"): value for name, value in given.items()}
    here = {
        "PATH": f"{home / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CI": "true",
        "GITHUB_ACTIONS": "true", "GITHUB_ACTION_PATH": str(ROOT), "GITHUB_WORKSPACE": str(folder),
        "GITHUB_STEP_SUMMARY": str(home / "summary.md"), "HOME": str(home),
    }  # fmt: skip
    done = []
    for step in ACTION["runs"]["steps"]:
        assert step["shell"] == "bash" and "${{" not in step["run"]  # what users write is never read as code
        env = {
            k: re.sub(r"\$\{\{ inputs\.(\S+) \}\}", lambda m: inputs[m[1]], v) for k, v in step.get("env", {}).items()
        }
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done.append(subprocess.run(words, cwd=folder, env=here | env, capture_output=True, text=True, check=False))
        if done[-1].returncode:
            break
    return done


def test_every_input_reaches_the_gate(checkout, tmp_path):
    """Each as one word, whatever is in it; what is left at its default asks for nothing."""
    log = tmp_path / "words.json"
    (tmp_path / "bin" / "bench").write_text(
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open({str(log)!r}, 'w'))\n"
    )
    assert [s.returncode for s in steps(checkout, tmp_path, baseline="b.json")] == [0, 0]
    usual = ["--max-drop", "0", "--alpha", "0.05", "--junit", "rampart-gate.xml", "--github"]
    assert json.loads(log.read_text()) == [
        "gate", "--baseline", "b.json", "--ledger", "results/ledger", *usual
    ]  # fmt: skip
    odd = "$(touch pwned); 'x' \"y\" `z` *"
    given = {"strict": "true", "sequential": "true", "no_doubts": "true", "max_cost_rise": "5", "forbid_doubt": odd}
    steps(checkout, tmp_path, baseline=odd, **given)
    words = json.loads(log.read_text())
    assert words[:3] == ["gate", "--baseline", odd] and not (checkout / "pwned").exists()
    assert words[-7:] == ["--strict", "--sequential", "--max-cost-rise", "5", "--no-doubts", "--forbid-doubt", odd]


def test_rampart_is_installed_from_the_action_where_it_is_not(checkout, tmp_path):
    """Without `bench` on the PATH the first step asks pip for the action's own folder."""
    (tmp_path / "bin" / "bench").unlink()
    for tool in ("bash", "env"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    first, _ = steps(checkout, tmp_path, baseline="b.json")
    assert first.stdout == f"-m pip install {ROOT}\n"


def test_the_steps_fail_on_a_regression_and_say_so(bench, checkout, tmp_path):
    """From a folder that holds a ledger and a baseline: 0 on equal ones, 3 on a worse one, as the job shows it."""
    words = ("--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "--columns", "clean, slow")
    assert bench("run", *words, "-n", "200", "--executor", "inline", "--ledger", "made", "--json").returncode == 0
    shutil.copytree(tmp_path / "made", checkout / "ledger", dirs_exist_ok=True)
    assert bench("gate", "--record", "work space/b.json", "--ledger", "made").returncode == 0
    done = steps(checkout, tmp_path, baseline="b.json", ledger="ledger", strict="true", max_cost_rise="0")
    assert [(s.returncode, s.stdout) for s in done] == [(0, ""), (0, "")], done[-1].stderr
    assert not faults(ET.parse(checkout / "rampart-gate.xml").getroot())
    known = baseline.read(str(checkout / "b.json"))
    better = tuple(replace(s, fell=frozenset(), weights="c" * 64) for s in known.every)
    baseline.record(replace(known, every=better), checkout / "b.json")
    done = steps(checkout, tmp_path, baseline="b.json", ledger="ledger")
    assert [s.returncode for s in done] == [0, 3]
    lines = done[-1].stdout.splitlines()
    assert [line.partition(" on ")[0] for line in lines] == ["::error title=Robustness regressed::quick"] * 2
    summary = (tmp_path / "summary.md").read_text()
    assert "### Robustness: All 2 comparisons held." in summary and "2 of 2 comparisons regressed" in summary
    assert not faults(ET.parse(checkout / "rampart-gate.xml").getroot())


COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def faults(root):
    """What readers of JUnit XML (Jenkins, GitLab, GitHub's) would stumble over."""
    found = [] if root.tag == "testsuites" else [f"the root is {root.tag}"]
    for suite in root:
        cases = suite.findall("testcase")
        if suite.tag != "testsuite" or not suite.get("name"):
            found.append(f"{suite.tag} {suite.attrib}")
        if suite.get("tests") != str(len(cases)):
            found.append(f"{suite.get('tests')} tests are {len(cases)}")
        for count, tag in COUNTED.items():
            if int(suite.get(count, "0")) != len(suite.findall(f"testcase/{tag}")):
                found.append(f"{count} are not {suite.get(count)}")
        for case in cases:
            tags = [child.tag for child in case]
            outcomes = [tag for tag in tags if tag in COUNTED.values()]
            if not case.get("name") or not case.get("classname") or float(case.get("time", "x")) < 0:
                found.append(f"a case: {case.attrib}")
            if len(outcomes) > 1 or set(tags) - {*outcomes, "system-out", "system-err", "properties"}:
                found.append(f"{case.get('name')} holds {tags}")
            if outcomes and tags[: len(outcomes)] != outcomes:
                found.append(f"{case.get('name')}: the outcome comes after the output")
            found += [f"no message in {c.tag}" for c in case if c.tag in COUNTED.values() and not c.get("message")]
    return found


@pytest.mark.parametrize("rules", [{}, {"strict": True}, {"sequential": True}, {"no_doubts": True}])
def test_junit_is_as_its_readers_want_it(rules):
    """With every verdict, missing columns and doubts: counts are those of the cases, each with one outcome at most."""
    names = ("held", "unsure", "worse", "missing")
    before = [standing(10, question=PGD._replace(attacks=(name,))) for name in names]
    doubted = {"doubts": ("it is random",)}
    now = [
        standing(fell, question=PGD._replace(attacks=(name,)), weights="b", **doubted)
        for fell, name in zip((10, 12, 60), names, strict=False)
    ]
    report = gate(before, now, **rules)
    root = ET.fromstring(gate_report.junit_xml(report))
    assert faults(root) == []
    assert len(root.findall(".//testcase")) >= 4 and root.find(".//failure") is not None
    root[0].set("failures", "9")
    root[0][0].set("name", "")
    assert len(faults(root)) == 2


def test_the_hook_of_pre_commit_is_the_gate(checkout, tmp_path):
    """Its entry, with the arguments of the page, runs from the repository's root: 0 where no baseline is broken."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {"id", "name", "entry", "language"} <= set(hook) and hook["pass_filenames"] is False
    (page,) = re.findall(r"```yaml\n(repos:.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    (used,) = yaml.safe_load(page)["repos"][0]["hooks"]
    assert used["id"] == hook["id"]
    env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [*hook["entry"].split(), *used["args"], "--ledger", "ledger"]
    done = subprocess.run(words, cwd=checkout, env=os.environ | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "no baseline at baseline.json yet" in done.stderr, done.stderr
