"""Who may import whom; import-linter holds the rest (pyproject.toml)."""

import ast
from pathlib import Path

import pytest

import bench

ROOT = Path(__file__).parents[1]
ROOMS = ["attacks", "defenses", "data", "leaderboard"]


def imported(path):
    """Every (module, name) that a file imports, wherever in the file; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_use_public_words_only(room):
    """A room imports `bench` by its public words, none of its modules, and no other room."""
    wrong = []
    for path in sorted((ROOT / room).rglob("*.py")):
        for module, name in imported(path):
            top = module.partition(".")[0]
            public = module == "bench" and (not name or name in bench.__all__)
            if (top == "bench" and not public) or (top in ROOMS and top != room):
                wrong.append(f"{path.relative_to(ROOT)}: {module} {name}")
    assert not wrong, "\n".join(wrong)


def test_the_core_knows_no_room():
    """Only bench.cli and cli_… may import the leaderboard; nothing in the core imports attacks, defenses or data."""
    wrong = [
        f"{path.name}: {module}"
        for path in sorted((ROOT / "bench").rglob("*.py"))
        for module, _ in imported(path)
        if (top := module.partition(".")[0]) in ROOMS and not (path.name.startswith("cli") and top == "leaderboard")
    ]
    assert not wrong, "\n".join(wrong)
