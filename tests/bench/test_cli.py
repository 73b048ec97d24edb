"""The command line, as a user meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.options import _spread
from tests.conftest import TINY

Bench = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "-n", "50")


def test_help_answers_without_torch() -> None:
    """`bench --help` imports neither torch, pandas, scipy, pydantic nor rich."""
    code = (
        "import sys; sys.argv = ['bench', '--help']\n"
        "from bench.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'scipy', 'pydantic', 'rich', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "presetz"), "'presetz' is not known; did you mean 'presets'?"),
        (("run", "--defense", "at", "--executor", "proces"), "'proces' is not known; did you mean 'process'?"),
        (("run", "--defense", "at", "--precision", "qq"), "'qq' is not known; there are exact, fast"),
    ],
)
def test_a_misspelt_word_of_a_few_names_the_nearest(bench: Bench, words: tuple[str, ...], said: str) -> None:
    """Or all of them, where none is near."""
    done = bench(*words)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_several_values_after_one_option() -> None:
    """`--defense at trades --dataset mnist` gives two defenses."""
    assert _spread(["--defense", "at", "trades", "--dataset", "mnist"]) == [
        "--defense", "at", "--defense", "trades", "--dataset", "mnist"
    ]  # fmt: skip
    assert _spread(["--defense=at", "b", "--plugin", "c.py", "d.py"]) == [
        "--defense", "at", "--defense", "b", "--plugin", "c.py", "--plugin", "d.py"
    ]  # fmt: skip


def test_a_run_writes_json_on_stdout_and_prose_on_stderr(bench: Bench, tmp_path: Path) -> None:
    """One document with a schema on stdout; the board and the page's address on stderr; the page is there."""
    done = bench("run", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "rampart/run-1"
    assert (document["trained"], len(document["records"]), document["failures"]) == (1, 3, [])
    assert (tmp_path / "results/site/index.html").exists()
    assert "The board: file://" in done.stderr
    again = bench("run", *QUICK)
    assert again.stdout == ""
    assert "Nothing to do" in again.stderr
    published = bench("publish", "--json", "--site", "other")
    assert Path(json.loads(published.stdout)["page"]) == Path("other/index.html")
    assert (tmp_path / "other/index.html").read_bytes() == (tmp_path / "results/site/index.html").read_bytes()


def test_mistakes_exit_with_2_and_name_the_nearest(bench: Bench, tmp_path: Path) -> None:
    """Names, settings, options, configuration and plugins."""
    for words, said in (
        (("run", "--defense", "part-trade"), "did you mean 'part-trades'"),
        (("run", "--defense", "trades(betta=3)"), "did you mean 'beta'"),
        (("run", "--defense", "trades(beta='x')"), "expected float"),
        (("run", "--defense", "at", "--suit", "quick"), "--suite"),
        (("run", "--defense", "at", "--plugin", "nowhere.py"), "no such file"),
        (("run",), "--defense"),
        (("list", "defences"), "defenses"),
        (("run", "--defense", "at", "--threat", "linf:8/0"), "norm:eps"),
        (("run", "--defense", "at", "--device", "cuda:7"), "--device cuda:7"),
    ):
        done = bench(*words)
        assert (done.returncode, said in done.stderr) == (2, True), (words, done.stderr)
        assert "Traceback" not in done.stderr
    (tmp_path / "bench.toml").write_text('datset = "mnist"')
    done = bench("plan", "--defense", "at")
    assert (done.returncode, "did you mean 'dataset'" in done.stderr) == (2, True)


def test_a_missing_data_set_exits_with_4_and_says_how_to_get_it(bench: Bench) -> None:
    """mnist is not there."""
    done = bench("run", "--defense", "at", "--dataset", "mnist")
    assert done.returncode == 4
    assert "bench fetch mnist --data datasets" in done.stderr


def test_defaults_come_from_the_file_then_the_environment_then_the_line(bench: Bench, tmp_path: Path) -> None:
    """-n is 10 in bench.toml, 20 in BENCH_N and 30 on the line."""
    (tmp_path / "bench.toml").write_text(f'n = 10\nnet = "tiny"\nplugin = ["{TINY}"]\n')

    def images(*words: str, env: dict[str, str] | None = None) -> int:
        done = bench("plan", "--defense", "quick", "--columns", "clean", "--json", *words, env=env)
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["lines"][1]["missing"])

    assert images() == 10
    assert images(env={"BENCH_N": "20"}) == 20
    assert images("-n", "30", env={"BENCH_N": "20"}) == 30


def test_a_configuration_file_takes_what_the_line_takes(bench: Bench, tmp_path: Path) -> None:
    """Options by their names on the line, one value or a list; wrong kinds are named."""
    plugin = f'plugin = "{TINY}"\nnet = "tiny"\nn = 10\n'
    (tmp_path / "bench.toml").write_text(f'{plugin}defense = "quick(epochs=1)"\njson = true\n')
    assert json.loads(bench("run").stdout)["trained"] == 1
    for wrong in ("n = true", "n = 1.5", "ledger = {a = 1}", "json = 3"):
        (tmp_path / "bench.toml").write_text(wrong)
        done = bench("plan", "--defense", "at")
        assert (done.returncode, "bench.toml" in done.stderr) == (2, True), wrong


def test_variables_may_hold_commas_and_spaces(bench: Bench, tmp_path: Path) -> None:
    """BENCH_DEFENSE is a list of recipes, BENCH_PLUGIN a list of files."""
    odd = tmp_path / "my plug.py"
    odd.write_text(TINY.read_text())
    env = {"BENCH_DEFENSE": "quick(epochs=1, pause=0.0), untrained", "BENCH_PLUGIN": str(odd)}
    done = bench("plan", "--net", "tiny", "-n", "5", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert [x["what"] for x in json.loads(done.stdout)["lines"] if x["what"].startswith("train ")] == [
        "train quick(epochs=1) on tiny, seed 0", "train untrained on tiny, seed 0"
    ]  # fmt: skip


def test_publishing_from_nowhere_is_an_error(bench: Bench, tmp_path: Path) -> None:
    """A misspelt ledger does not overwrite a board with an empty one."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    done = bench("publish", "--ledger", "ledgr", "--site", "site")
    assert (done.returncode, (tmp_path / "site" / "index.html").read_text()) == (2, "mine")


def test_lists_show_what_plugins_bring(bench: Bench) -> None:
    """Built-ins and the test's own, with settings."""
    done = bench("list", "defenses", "--plugin", str(TINY), "--json")
    names = {d["name"]: d for d in json.loads(done.stdout)["defenses"]}
    assert {"standard", "at", "trades", "part", "part-trades", "checkpoint", "quick"} <= names.keys()
    assert names["trades"]["settings"]["beta"] == 6.0
    for kind in ("attacks", "nets", "datasets", "corruptions", "suites", "columns"):
        assert bench("list", kind).returncode == 0


def test_a_failing_attack_exits_with_its_code_after_publishing(bench: Bench, tmp_path: Path) -> None:
    """The others are on the board; the exit code and the message tell."""
    done = bench("run", *QUICK, "--columns", "gives-nan, slow")
    assert done.returncode == 1
    assert "attack gives-nan failed on image 3" in done.stderr
    assert "slow" in (tmp_path / "results/site/index.html").read_text()


def test_hours_are_announced_before_they_start(bench: Bench) -> None:
    """A column of a billion passes an image, from an attack that then does none of them."""
    words = ("--plugin", str(TINY), "--net", "tiny", "--defense", "untrained", "--columns", "boasts", "-n", "64")
    done = bench("run", *words)
    assert done.returncode == 0
    assert re.search(r"best: boasts: up to .* h on one worker \(.*, 1,000,000,001 forwards an image", done.stderr)
    assert "one worker" not in bench("run", *words).stderr


def test_a_plugin_that_prints_does_not_spoil_the_document(bench: Bench) -> None:
    """Standard output holds one JSON document, whatever a plugin says."""
    done = bench("run", *QUICK, "--columns", "clean, leaves(), slow", "-n", "3", "--json")
    assert json.loads(done.stdout)["failures"] == [], done.stderr
    assert "here I am" in done.stderr


def test_publishing_names_a_damaged_record_leaves_it_out_and_exits_with_4(bench: Bench, tmp_path: Path) -> None:
    """One changed byte in the ledger."""
    assert bench("run", *QUICK, "--columns", "clean").returncode == 0
    victim = next((tmp_path / "results/ledger").rglob("*.json"))
    victim.write_text(victim.read_text().replace("1", "2", 1))
    done = bench("publish")
    assert done.returncode == 4
    assert victim.name in done.stderr
    assert victim.name[:20] in (tmp_path / "results/site/index.html").read_text()


def test_an_interrupt_exits_with_130_and_loses_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle; the same command goes on."""
    words = [sys.executable, "-m", "bench", "run", *QUICK, "--columns", "slow(pause=3.0)", "--executor", "inline"]
    started = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("ledger/*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(2)
    assert "the same command continues" in started.communicate(timeout=60)[1]
    assert started.returncode == 130


@pytest.mark.parametrize("name", ["bench", "rampart"])
def test_both_names_are_installed(name: str) -> None:
    """`bench` and `rampart` are one program."""
    done = subprocess.run([Path(sys.executable).parent / name, "--version"], capture_output=True, text=True, check=True)
    assert "version" in done.stdout
