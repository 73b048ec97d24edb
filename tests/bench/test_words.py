"""The public words of the core."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bench

ROOT = Path(__file__).parents[2]


def test_import_is_light():
    """`import bench` loads neither torch nor pydantic, pandas, numpy or scipy."""
    code = "import bench, sys; print(*sorted({'torch', 'pydantic', 'pandas', 'numpy', 'scipy'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "\n"


def test_the_three_lists_agree():
    """`__all__` is sorted, constants first, and is what is imported for types and what is found at run time."""
    tree = ast.parse(Path(inspect.getfile(bench)).read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert {w: f"bench.{home}" for w, home in bench._HOMES.items()} == typed
    assert bench.__all__ == sorted(typed, key=lambda word: (not word.isupper(), word))


@pytest.mark.parametrize("word", bench.__all__)
def test_every_word_is_there(word):
    """Each word is what its module defines under that name."""
    import importlib

    assert getattr(bench, word) is vars(importlib.import_module(f"bench.{bench._HOMES[word]}"))[word]
    assert word in dir(bench)


def test_no_word_is_also_a_module():
    """A module of a word's name would hide the word once someone imports it."""
    modules = {path.stem for path in Path(inspect.getfile(bench)).parent.glob("*.py")}
    assert not modules & set(bench.__all__)


def test_unknown_words():
    """A word that is not there is an AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        bench.atack  # noqa: B018
