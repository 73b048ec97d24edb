"""What the fuzzing tests share: how often, the command line in this process, and ways to spoil what was whole."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bench.cli import main

TOTAL = int(os.environ.get("RAMPART_FUZZ", "0"))  # examples of all kinds together; else a few of each, always the same
LONG = 10_000  # those that the shares below are of
CODES = {0, 2, 4, 5}
SEEN: Counter[tuple[str, str]] = Counter()  # examples by kind and exit code


def often(share: int, few: int):
    """The settings of a test: `share` of ten thousand examples when asked for, else a few that never change."""
    return settings(
        max_examples=max(1, share * TOTAL // LONG) if TOTAL else few, derandomize=not TOTAL, deadline=None,
        database=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def call(folder, *words, env=None, codes=CODES, kind=""):
    """Run the command line; whatever it raises is the test's failure.  Gives the exit code and what it said."""
    said, out = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True) for _ in "12")
    with contextlib.ExitStack() as here:
        here.enter_context(contextlib.chdir(folder))
        here.enter_context(mock.patch.object(sys, "argv", ["bench", *words]))
        here.enter_context(mock.patch.dict(os.environ, env or {}))
        here.enter_context(contextlib.redirect_stdout(out))
        here.enter_context(contextlib.redirect_stderr(said))
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    text = said.buffer.getvalue().decode("utf-8", errors="replace")
    assert code in codes, f"exit code {code} for {words}: {text[-2000:]}"
    assert "Traceback" not in text, text
    assert not code or text.strip(), f"exit code {code} without a reason"
    SEEN[kind, f"exit {code}"] += 1
    return code, text


@pytest.fixture(autouse=True, scope="module")
def tally():
    """Say how many examples of each kind were run, and how they ended, where many were asked for."""
    yield
    if TOTAL:
        kinds = Counter(kind for kind, _ in SEEN.elements())
        for kind, count in kinds.items():
            ends = ", ".join(f"{n:,} {end}" for (of, end), n in sorted(SEEN.items()) if of == kind)
            sys.__stderr__.write(f"\n{kind}: {count:,} examples: {ends}")
        sys.__stderr__.write("\n")
        SEEN.clear()


@contextlib.contextmanager
def folder():
    """A fresh folder, of another name each time: what is cached by its path is not met again."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


LINE = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=30)  # as an argument may be
NUMBERS = st.one_of(
    st.integers(-3, 64), st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63), 10**30]), st.floats(), st.booleans(),
    st.none()
)  # fmt: skip
VALUES = st.recursive(
    NUMBERS | LINE, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(LINE, inner,
    max_size=2),
    max_leaves=4,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
    | st.sampled_from(["clean", "linf:8/255", "l2:1/2", "pgd@1(steps=3)", "0" * 64, -1, 0, 2**63, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2), max_leaves=5,
)  # fmt: skip


@st.composite
def spoilt_text(draw, texts):
    """One of these texts with a few letters taken out, put in or changed."""
    text = list(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 2)):
            case 0:
                del text[at : at + draw(st.integers(1, 3))]
            case 1:
                text[at:at] = draw(st.sampled_from("()[]{}'\",=:@.-_/\\ \n\té€0aZ"))
            case _:
                text[at : at + 1] = draw(st.sampled_from("()'\",=:@. 9x"))
    return "".join(text)


def spoilt_bytes(content, seed):
    """The bytes cut, flipped, doubled, overwritten or swapped in a few places; few enough that much stays whole."""
    rng, found = random.Random(seed), bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(found) + 1) if rng.random() < 0.5 else rng.randrange(min(len(found) + 1, 300))
        match rng.randrange(6):
            case 0:
                del found[at:]
            case 1 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 2:
                found[at:at] = rng.randbytes(rng.choice([1, 8, 600]))
            case 3:
                del found[at : at + rng.choice([1, 4, 512])]
            case 4:
                found[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, (2**40).to_bytes(8, "little"), b'"[{9e9,:'])
            case _:
                found[at : at + 64] = found[:64]
    return bytes(found)


def places(value, at=()):
    """The path of every value inside a JSON document."""
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


@st.composite
def alike(draw, value):
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return draw(st.sampled_from([0, 1, -1, value + 1, value - 1, 2**31, 2**63, 10**30]))
        case float():
            return draw(st.sampled_from([0.0, -1.0, value * 2, 1e308, 1e-320, 0.5]))
        case str():
            known = [
                "",
                "clean",
                "linf:8/255",
                "l2:1",
                "f" * 64,
                "0" * 64,
                "best",
                "é\u202e",
                "<b>",
                "../..",
                "digits",
                "a" * 3000,
            ]
            return draw(st.sampled_from(known) | spoilt_text([value or "x"]))
        case list():
            return draw(st.sampled_from([[], value[:1], value[::-1], value * 2, [*value, 10**6], value[1:]]))
        case _:
            return draw(JSON)


@st.composite
def spoilt_json(draw, documents):
    """One of these documents in which a few values were replaced, taken out, or joined by others."""
    found = json.loads(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 2))):
        every = [p for p in places(found) if p and len(p) < 5]
        if not every:
            break
        *path, last = draw(st.sampled_from(every[:400]))
        inner = found
        for key in path:
            inner = inner[key]
        match draw(st.integers(0, 7)):
            case 0:
                del inner[last]
            case 1 if isinstance(inner, dict):
                inner[draw(st.text(max_size=5))] = draw(JSON)
            case 2:
                inner[last] = draw(JSON)
            case _:
                inner[last] = draw(alike(inner[last]))
    return found
