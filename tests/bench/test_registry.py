"""Finding things: one door, clashes named, texts read and never evaluated."""

import sys
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.exam import Column, Suite
from bench.recipe import Alias, Preset
from bench.registry import Registry, load_file, plugins, split_list, split_recipe

PLUGIN = '''"""A plugin."""

from __future__ import annotations

from typing import Literal

from bench.exam import Column, Suite
from bench.recipe import Alias, Preset, attack, defense, net

@attack(norms=("linf",), access="labels", version=2)
def my_noise(model, x, y, threat, draws, *, tries: int = 10, keep: Literal["last", "any"] = "last"):
    """Tries noise."""
    return x

@defense()
def trades(job, *, beta: float = 6.0, steps: int = 10):
    """Trades."""

@net()
def wrn(*, classes: int, channels: int, size: int, depth: int = 28, width: int = 10):
    """A wide net."""

WRN_34_10 = Alias("net", "wrn-34-10", "wrn(depth=34)")
ONE = Alias("defense", "trades-one", "trades(beta=1.0)")
NOISE_100 = Column("noise-100", ("my-noise(tries=100)",))
TINY = Suite("tiny", ((("noise-100",), ("clean",)),))
PRESETS = (
    Preset("trades", "cifar10", {"beta": 5.0, "steps": 7}, "a paper"),
    Preset("trades", "cifar10", {"beta": 3.0}, "a paper", net="wrn"),
)
'''


@pytest.fixture
def registry(tmp_path):
    """What the plugin above holds."""
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    found = Registry()
    found.collect(load_file(path))
    return found


def refuses(words, do, *arguments):
    """Doing it is a usage error (exit 2) that says these words."""
    with pytest.raises(UsageError) as caught:
        do(*arguments)
    assert words in str(caught.value) and caught.value.exit_code == 2


# ---- finding


def test_a_lone_file(tmp_path):
    """A lone file adds its plugins to the others; two files of one name do not meet."""
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plugin.py").write_text(PLUGIN.replace("my_noise", name).partition("@defense")[0])
    found = Registry()
    for folder in "ab":
        found.collect(load_file(tmp_path / folder / "plugin.py"))
    assert found.names("attack") == ["first", "second"]
    assert load_file(tmp_path / "a" / "plugin.py") is load_file(tmp_path / "a" / ".." / "a" / "plugin.py")


def test_a_file_that_does_not_load(tmp_path):
    """A missing file, one that is not Python, or one that raises is an error with its path."""
    (tmp_path / "bad.py").write_text("1 / 0")
    (tmp_path / "worse.py").write_text("def (")
    (tmp_path / "words.txt").write_text("words")
    for name, words in (
        ("none.py", "no such"),
        ("bad.py", "ZeroDivision"),
        ("worse.py", "SyntaxError"),
        ("words.txt", ""),
    ):
        refuses(words, load_file, tmp_path / name)
        refuses(name, load_file, tmp_path / name)


def test_an_installed_package(tmp_path, monkeypatch):
    """A package that names the entry point `bench.plugins` is found, with every module in it but the private ones."""
    package = tmp_path / "tiny_rampart_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text(
        PLUGIN.partition("@net")[0].replace("my_noise", "tiny_noise").replace("trades", "tiny")
    )
    (package / "_private.py").write_text("1 / 0")
    facts = tmp_path / "tiny_rampart_plugin-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-rampart-plugin\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[bench.plugins]\ntiny = tiny_rampart_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = plugins()
    assert "tiny-noise" in found.names("attack") and "tiny" in found.names("defense")
    assert found.origins["attack", "tiny-noise"] == "tiny_rampart_plugin.one.tiny_noise"
    (facts / "entry_points.txt").write_text("[bench.plugins]\ntiny = no_such_rampart_plugin\n")
    refuses("no_such_rampart_plugin", plugins)


def test_clashes(tmp_path, registry):
    """A second thing of a taken name is an error that names both; the same thing met again is not."""
    other = tmp_path / "other.py"
    other.write_text(PLUGIN.partition("@defense")[0].replace('"""Tries noise."""', '"""Other noise."""'))
    first = registry.origins["attack", "my-noise"]
    with pytest.raises(UsageError, match="two attacks are called 'my-noise'") as caught:
        registry.collect(load_file(other))
    assert first in str(caught.value) and load_file(other).my_noise.where in str(caught.value)
    registry.collect(load_file(tmp_path / "plugin.py"))
    module = ModuleType("elsewhere")
    module.column = Column("noise-100", ("my-noise",))
    with pytest.raises(UsageError, match=r"two columns are called 'noise-100'.*elsewhere"):
        registry.collect(module)
    module.column = Column("noise-100", ("my-noise(tries=100)",))
    registry.collect(module)


def test_imports_are_not_claims(registry):
    """A plugin that a module merely imports is not its own."""
    module = ModuleType("borrower")
    module.my_noise = registry.things["attack", "my-noise"]
    empty = Registry()
    empty.collect(module)
    assert empty.things == {}


# ---- reading


def test_parse(registry):
    """A recipe's text gives all settings, and its key reads back to the same recipe."""
    recipe = registry.parse("attack", " my-noise ( tries = 3, ) ")
    assert recipe.settings == {"tries": 3, "keep": "last"}
    assert registry.parse("attack", recipe.key) == recipe == registry.parse("attack", "my_noise(tries=3)")
    assert registry.parse("defense", "trades(beta=3)").settings["beta"] == 3.0
    assert registry.parse("net", "wrn-34-10") == registry.parse("net", "wrn(depth=34, width=10)")
    assert registry.parse("net", "wrn-34-10(width=5)").settings == {"depth": 34, "width": 5}


def test_mistakes_name_the_nearest(registry):
    """What is misspelt is named with its nearest neighbour."""
    refuses("there is no defense 'tradse'; did you mean 'trades'?", registry.parse, "defense", "tradse")
    refuses("no setting 'bata'; did you mean 'beta'?", registry.parse, "defense", "trades(bata=3)")
    refuses("version 2", registry.parse, "attack", "my-noise@1")
    refuses("did you mean 'noise-100'?", registry.column, "noise-10")
    refuses("did you mean 'tiny'?", registry.suite, "tyny")
    refuses("is fixed", registry.column, "noise-100(tries=3)")


def test_columns_and_suites(registry):
    """A column is found by name; an attack with settings is a column of its own, whose attack is written in full."""
    assert registry.column("noise-100").attacks == ("my-noise(tries=100)",)
    assert registry.column("my-noise(tries=5)") == Column("my-noise(tries=5)", ("my-noise@2(keep='last', tries=5)",))
    assert isinstance(registry.suite("tiny"), Suite) and isinstance(registry.things["net", "wrn-34-10"], Alias)


def test_presets(registry):
    """What is written wins over an alias, then the net's preset, then the data set's, then the defaults."""

    def read(*arguments):
        recipe, label = registry.parse_defense(*arguments)
        return dict(recipe.settings), label

    assert read("trades", "mnist", "cnn") == ({"beta": 6.0, "steps": 10}, "trades")
    assert read("trades", "cifar10", "cnn") == ({"beta": 5.0, "steps": 7}, "trades")
    assert read("trades", "cifar10", "wrn") == ({"beta": 3.0, "steps": 7}, "trades")
    assert read("trades(steps=1)", "cifar10", "wrn") == ({"beta": 3.0, "steps": 1}, "trades(steps=1)")
    assert read("trades(beta=6.0)", "cifar10", "wrn") == ({"beta": 6.0, "steps": 7}, "trades(beta=6.0)")
    assert read("trades-one", "cifar10", "wrn")[0] == {"beta": 1.0, "steps": 7}
    assert all(isinstance(p, Preset) for p in registry.presets)


@pytest.mark.parametrize(
    "text",
    [
        "trades(beta=__import__('os').system('touch HACKED'))",
        "trades(beta=open('HACKED', 'w'))",
        "trades(beta=(lambda: 1)())",
        "trades(beta=1 if 1 else 2)",
        "trades(beta=[x for x in (1,)])",
        "trades(beta=f'{1}')",
        "trades(beta=steps)",
        "trades(beta=2**3)",
        "trades(beta={1: 2})",
        "trades(beta={1})",
        "trades(beta=b'1')",
        "trades(beta=1j)",
        "trades(beta=1e999)",
        "trades(beta=-1e999)",
        "trades(beta=1" + "0" * 400 + ")",
        "trades(steps=0x" + "f" * 5000 + ")",
        "trades(steps=" + "9" * 5000 + ")",
        "trades@" + "9" * 5000,
        "trades(beta=1)(steps=2)",
        "trades(beta=1).other(steps=2)",
        "trades(beta=1, beta=2)",
        "trades(3.0)",
        "trades(**{'beta': 1})",
        "trades(*(1,))",
        "trades(beta=" + "(" * 500 + ")" * 500 + ")",
        "trades(beta=" + "-" * 100_000 + "1)",
        "trades(beta='\0')) or (",
        "trades(beta=1",
        "trades)",
        "trades trades",
        "()",
        "",
        "trades; import os",
        "trades\0",
    ],
    ids=lambda text: text[:40].replace("\0", "0"),
)
def test_texts_are_never_evaluated(text, registry, tmp_path, monkeypatch):
    """A text that is not literal settings of a name, each once and finite, is refused, and nothing runs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        registry.parse("defense", text)
    assert not (tmp_path / "HACKED").exists()


PIECES = [*"a()=,1'\"@[]- \\\n#é", "trades", "beta", "1e9", "None"]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
LITERALS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(1 - 2**63, 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_odd_texts(text):
    """Whatever the text, reading it gives a name and settings, or a usage error."""
    for wrapped in (text, f"trades({text})", f"trades(beta={text})"):
        try:
            name, _, found = split_recipe(wrapped)
        except UsageError:
            continue
        assert isinstance(name, str) and all(k.isidentifier() for k in found)
    assert all(part.strip() == part != "" for part in split_list(text))


@settings(max_examples=200, deadline=None)
@given(LITERALS)
def test_every_literal_reads_back(value):
    """A plain value that is written with repr is read back as it was."""
    try:
        repr(value).encode()
    except UnicodeEncodeError:
        return
    assert split_recipe(f"trades(x={value!r})") == ("trades", None, {"x": value})


def test_data_files():
    """`npz:FILE` is short for the data set npz with that file, whatever its name holds."""
    assert split_recipe("npz:my (file), v=2.npz") == ("npz", None, {"file": "my (file), v=2.npz"})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("aa, pgd(steps=50, step=0.1)", ["aa", "pgd(steps=50, step=0.1)"]),
        ("a(x='1, 2)'), b([1, 2])", ["a(x='1, 2)')", "b([1, 2])"]),
        (" , a,, b ,", ["a", "b"]),
        ("", []),
    ],
)
def test_split_list(text, parts):
    """Commas in brackets or quotes do not split."""
    assert split_list(text) == parts


def test_nothing_is_filled_at_import():
    """Each registry stands alone: what one collects, another does not see."""
    assert Registry().things == {} and "bench.registry" in sys.modules
