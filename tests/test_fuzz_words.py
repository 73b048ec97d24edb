"""Recipes, options, bench.toml and BENCH_ variables in any form: an answer or a clear error, never a traceback."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.registry import plugins
from tests.conftest import TINY
from tests.fuzzing import LINE, NUMBERS, VALUES, call, folder, often, spoilt_text, tally

DEFENSES = (
    "at",
    "trades",
    "mart",
    "part-trades",
    "standard",
    "checkpoint",
    "at-awp",
    "free",
    "quick",
    "vir-at",
    "he",
    "lbgat",
)
ATTACKS = (
    "pgd",
    "aa",
    "apgd-t",
    "fmn",
    "cw",
    "clean",
    "square",
    "mma",
    "transfer",
    "slow",
    "boasts",
    "sparse-rs",
    "noise",
)
NETS = ("cnn", "mnist-cnn", "small-cnn", "tiny", "softmax-regression", "noisy", "broken", "moody")
SETTINGS = ("beta", "steps", "step", "epochs", "lr", "path", "preset", "eps", "drops", "extra", "surrogate", "sd",
"batch",
            "schedule", "keep", "norm", "restarts", "share", "sha256", "entry", "averaged", "width",
            "loss")  # fmt: skip
WHOLE = (
    "trades(beta=3.0)", "at(preset='rice')", "checkpoint(path='w.pth', sha256='00')", "pgd(steps=50, step=0.1)",
    "npz:images.npz", "cnn", "linf:8/255", "l2:1/2", "aa, pgd(steps=2), clean", "clean, fog:3", "tiny@1()", "quick@2",
    "at(epochs=2, lr=0.1, drops=(1, 2), falls=(0.5,))", "trades(beta=3.0,, steps=5)", "apgd-t(targets=3)", "0,1,2",
    "best,last",
)  # fmt: skip
OPTIONS = ("--defense", "--net", "--dataset", "--threat", "--columns", "--conditions", "--suite", "--seeds",
"--weights",
           "-n", "--attack-seed", "--precision", "--executor", "--workers", "--batch", "--device", "--ledger",
           "--store",
           "--data", "--plugin", "--tensorboard", "--sandbox", "--sandbox-memory", "--sandbox-seconds")  # fmt: skip
KEYS = [opt.lstrip("-") for opt in OPTIONS if opt not in {"-n", "--plugin", "--tensorboard", "--sandbox"}]
KEYS += ["n", "json", "site", "max-drop", "alpha", "strict", "baseline"]
PLAN = ("plan", "--net", "tiny", "--plugin", str(TINY))

__all__ = ["tally"]


@cache
def usual(kind, name):
    """The settings of a plugin with their defaults, as they are written."""
    thing = plugins([TINY]).things.get((kind, name))
    return dict(getattr(thing, "defaults", {}))


@st.composite
def recipe(draw, kind, names):
    """A name with settings, some of which exist, and values, some of which fit."""
    name = draw(st.sampled_from(names))
    own = usual(kind, name)
    known = st.sampled_from(sorted(own)) if own else st.sampled_from(SETTINGS)
    said = {}
    for _ in range(draw(st.integers(0, 2))):
        setting = draw(known if draw(st.integers(0, 4)) else st.sampled_from(SETTINGS))
        default = own.get(setting)
        fits = isinstance(default, bool | int | float | str | tuple) and draw(st.integers(0, 3))
        near = [default, default * 2, default * 0] if isinstance(default, int | float) else [default]
        said[setting] = draw(st.sampled_from(near)) if fits else draw(VALUES)
    name += draw(st.sampled_from([""] * 8 + ["@1", "@9", " "]))
    wild = draw(
        st.sampled_from([""] * 20 + ["1", "**x", "*a", "f()", "x=y", "__import__('os')", "a=b'0'", "beta=1j", "a=-"])
    )
    inner = ", ".join(filter(None, [*(f"{k}={v!r}" for k, v in said.items()), wild]))
    return f"{name}({inner})" if inner or draw(st.booleans()) else name


@pytest.fixture(autouse=True, scope="module")
def loaded():
    """Plugins are imported before the first example: not while one is drawn."""
    for kind, names in (("defense", DEFENSES), ("attack", ATTACKS), ("net", NETS)):
        for name in names:
            usual(kind, name)


ANY = LINE | spoilt_text(WHOLE)


@given(recipe("defense", DEFENSES) | ANY, st.booleans())
@often(1200, 40)
def test_a_defense_of_any_words_is_planned_or_refused(text, as_json):
    """`--defense` with any name, settings and text."""
    with folder() as here:
        call(here, *PLAN, "--columns", "clean", "--defense", text, *(["--json"] if as_json else []), kind="defenses")


@given(recipe("attack", ATTACKS) | ANY, recipe("net", NETS) | ANY)
@often(1000, 40)
def test_attacks_and_nets_of_any_words_are_planned_or_refused(columns, net):
    """`--columns` and `--net` likewise."""
    with folder() as here:
        call(here, *PLAN, "--defense", "quick", "--columns", columns, kind="attacks")
        call(here, "plan", "--plugin", str(TINY), "--defense", "quick", "--net", net, "--columns", "clean", kind="nets")


@given(st.lists(st.tuples(st.sampled_from(OPTIONS), ANY | NUMBERS.map(str)), min_size=1, max_size=3))
@often(1200, 40)
def test_options_of_any_values_are_taken_or_refused(options):
    """Every option of plan with any text or number."""
    words = [word for pair in options for word in pair]
    with folder() as here:
        call(here, *PLAN, "--defense", "quick", "--columns", "clean", *words, kind="options")


@st.composite
def toml(draw):
    """A bench.toml, or what somebody took for one."""
    if draw(st.booleans()):
        return draw(
            st.binary(max_size=40)
            | spoilt_text(["net = 'tiny'\nn = 10\nseeds = [0, 1]\n", "json = true\nalpha=0.1\n"]).map(str.encode)
        )
    lines = []
    for key, value in draw(
        st.dictionaries(st.sampled_from(KEYS) | st.from_regex(r"[a-z_-]{1,8}", fullmatch=True), VALUES, max_size=3)
    ).items():
        written = (
            str(value).lower()
            if isinstance(value, bool | int | float)
            else repr(value)
            if isinstance(value, list)
            else None
        )
        if written is None:
            plain = str(value).replace("\\", "").replace("'", "").replace("\n", "").replace("\r", "")
            written = f"'{plain}'"
        lines.append(f"{key} = {written}")
    return "\n".join(lines).encode(errors="surrogatepass")


@given(toml())
@often(1000, 40)
def test_a_bench_toml_of_any_bytes_is_read_or_refused(content):
    """As defaults of plan."""
    with folder() as here:
        (here / "bench.toml").write_bytes(content)
        call(here, *PLAN, "--defense", "quick", "--columns", "clean", kind="bench.toml")


@given(st.dictionaries(st.sampled_from(KEYS), ANY | NUMBERS.map(str), min_size=1, max_size=3))
@often(600, 30)
def test_variables_of_any_values_are_taken_or_refused(variables):
    """BENCH_… likewise."""
    env = {f"BENCH_{key.replace('-', '_').upper()}": value for key, value in variables.items()}
    with folder() as here:
        call(here, "plan", "--plugin", str(TINY), "--defense", "quick", "--columns", "clean", env=env, kind="variables")
