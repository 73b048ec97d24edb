"""Strict little readers of Markdown and LaTeX tables and of JSON Schema, written from their rules, not from ours."""

from __future__ import annotations

import html
import re

# LaTeX: every command that a table may hold, and the text that it sets.
SETS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textquotedbl": '"', "textquotesingle": "'", "textasciigrave": "`", "ldots": "…",
    "textperiodcentered": "·",
}  # fmt: skip
MATHS = {r"$\pm$": "±", r"$\le$": "≤", r"$\times$": "×"}
RULES = ("toprule", "midrule", "bottomrule")


def latex_text(source):
    """What LaTeX sets of a piece of text; an error for a character or command that means something else."""
    text, depth, at = [], 0, 0
    while at < len(source):
        c = source[at]
        if c == "\\":
            if found := re.match(r"\\([A-Za-z]+)\{\}", source[at:]):
                text.append(SETS[found[1]])
            elif found := re.match(r"\\([{}$&#%_])", source[at:]):
                text.append(found[1])
            else:
                raise ValueError(f"a command that is not text: {source[at : at + 20]!r}")
            at += found.end()
        elif c == "$":
            known = next((m for m in MATHS if source.startswith(m, at)), None)
            if known is None:
                raise ValueError(f"maths: {source[at : at + 20]!r}")
            text.append(MATHS[known])
            at += len(known)
        elif c in "{}":
            depth += 1 if c == "{" else -1
            if depth < 0:
                raise ValueError("a brace closes what was not opened")
            at += 1
        elif c in "&#%_^~" or not (c.isascii() or "À" <= c <= "ÿ"):
            raise ValueError(f"{c!r} is not text")
        elif source.startswith("--", at):
            text.append("–")
            at += 2
        else:
            text.append(c)
            at += 1
    if depth:
        raise ValueError("a brace stays open")
    return "".join(text)


def latex_table(source):
    """The cells of a table with booktabs, as text, and its caption; an error where it is no such table."""
    lines = [line for line in source.splitlines() if line and not line.startswith("%")]
    assert lines[:2] == [r"\begin{table}", r"\centering"] and lines[-2:] == [r"\end{tabular}", r"\end{table}"]
    caption = re.fullmatch(r"\\caption\{(.*)\}", lines[2])[1]
    spec = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[3])[1]
    assert [line[1:] for line in (lines[4], lines[6], lines[-3])] == list(RULES)
    found = []
    for line in [lines[5], *lines[7:-3]]:
        assert line.endswith(r" \\")
        assert not re.match(r"[\[*]", line), "the line before would read this as its option"
        cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        assert len(cells) == len(spec)
        found.append([latex_text(cell.strip()) for cell in cells])
    return latex_text(caption), found


def markdown_table(source):
    """The cells of a GitHub table, as text; every row has as many as the head."""
    lines = [line for line in source.splitlines() if line.startswith("|")]
    found = []
    for line in lines:
        assert line.endswith(" |")
        cells = re.split(r"(?<!\\)(?:\\\\)*\|", line[1:-1])
        found.append([html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", c.strip())) for c in cells])
    head, rule, *rows = found
    assert all(re.fullmatch(r"---:?", c) for c in rule)
    assert {len(row) for row in found} == {len(head)}
    return head, rows


def valid(value, schema, root=None, where="$"):
    """Check a value by a JSON Schema (the words that ours use; another word is an error)."""
    root = root or schema
    known = {
        "$schema", "$id", "$defs", "title", "description", "type", "properties", "required", "additionalProperties",
        "items", "anyOf", "$ref", "minimum", "maximum", "pattern", "const",
    }  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        valid(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "anyOf" in schema:
        assert any(_fits(value, option, root) for option in schema["anyOf"]), f"{where}: {value!r}"
    kinds = {
        "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
        "number": (int, float),
    }  # fmt: skip
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), f"{where}: {value!r} is no {schema['type']}"
        assert not (isinstance(value, bool) and schema["type"] in {"integer", "number"}), where
    assert "minimum" not in schema or value >= schema["minimum"], where
    assert "maximum" not in schema or value <= schema["maximum"], where
    assert "pattern" not in schema or re.search(schema["pattern"], value), where
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        assert set(schema.get("required", ())) <= set(value), where
        more = schema.get("additionalProperties", True)
        for name, item in value.items():
            assert name in fields or more is not False, f"{where}.{name} is not in the schema"
            if name in fields or isinstance(more, dict):
                valid(item, fields.get(name, more), root, f"{where}.{name}")
    if isinstance(value, list):
        for place, item in enumerate(value):
            valid(item, schema.get("items", {}), root, f"{where}[{place}]")


def _fits(value, schema, root):
    try:
        valid(value, schema, root)
    except AssertionError:
        return False
    return True
