"""What the documents show is run as it stands there."""

import json
import re
from pathlib import Path

import pytest

from bench import place

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page):
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture(params=["--plugin", "package"])
def plug(request, tmp_path, monkeypatch):
    """Make code a plugin, and give the words that the command line then needs: as a lone file, or as a package."""

    def plug(name, code):
        if request.param == "--plugin":
            (tmp_path / f"{name}.py").write_text(code)
            return ("--plugin", str(tmp_path / f"{name}.py"))
        site = tmp_path / "installed"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bench.plugins]\n{name} = {name}\n")
        monkeypatch.syspath_prepend(site)
        place._registry.cache_clear()
        return ()

    yield plug
    place._registry.cache_clear()


def board(done):
    """The accuracies of a run's one board: by defense and column."""
    assert done.returncode == 0, done.stderr
    (section,) = json.loads(done.stdout)["board"]["sections"]
    return {row["defense"]: {k: v["accuracy"] for k, v in row["numbers"].items()} for row in section["rows"]}


def test_the_attack_of_the_page_works_by_both_doors(bench, plug):
    """At most 40 lines, as a lone file and as an installed package; it lowers accuracy below clean."""
    code = blocks("add-an-attack.md")[0]
    assert len(code.splitlines()) <= 40
    columns = ("--columns", "clean, momentum, momentum(steps=20)", "-n", "100")
    words = plug("momentum_page", code)
    (row,) = board(bench("run", "--defense", "standard(epochs=3)", *columns, *words, "--json")).values()
    assert row["momentum"] < row["clean"]
    assert row["momentum(steps=20)"] < row["clean"]


def test_the_defense_of_the_page_works_by_both_doors(bench, plug):
    """At most 40 lines; even a short training is more robust than none."""
    code = blocks("add-a-defense.md")[0]
    assert len(code.splitlines()) <= 40
    words = plug("mixed_page", code)
    defenses = ("mixed(epochs=8)", "standard(epochs=8)")
    rows = board(bench("run", "--defense", *defenses, "-n", "100", *words, "--json", "--executor", "inline"))
    assert rows["mixed(epochs=8)"]["pgd-20"] > rows["standard(epochs=8)"]["pgd-20"] + 0.1


def test_the_net_of_the_page_takes_a_checkpoint(bench, tmp_path):
    """A foreign net in a plugin file, and weights for it."""
    import torch

    plugin = tmp_path / "linear_page.py"
    plugin.write_text(blocks("add-a-defense.md")[1])
    torch.manual_seed(0)
    torch.save({"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}, tmp_path / "weights.pth")
    words = ("--net", "linear", "--plugin", str(plugin), "--columns", "clean", "-n", "50", "--json")
    rows = board(bench("run", "--defense", "checkpoint(path='weights.pth')", *words))
    assert set(rows) == {"checkpoint(path='weights.pth')"}


def test_the_page_of_defenses_is_what_the_code_says():
    """docs/defenses.md is as `make docs` writes it; every defense that trains has its row and a preset."""
    from bench.defenses_page import page
    from bench.registry import plugins

    registry = plugins()
    text = (DOCS / "defenses.md").read_text()
    assert text == page(registry)
    for plugin in registry.all("defense"):
        assert f"| `{plugin.name}` |" in text
        assert not plugin.trains or any(p.defense == plugin.name for p in registry.presets)


def test_the_data_set_of_the_page_is_fetched_and_run(bench, tmp_path):
    """As a lone file, with an archive of its own in place of the published one; before that, the page's own error."""
    import hashlib
    import zipfile

    import numpy as np

    rng = np.random.RandomState(0)
    np.save(tmp_path / "x.npy", rng.randint(0, 256, (200, 3, 16, 16), np.uint8))
    np.save(tmp_path / "y.npy", np.arange(200) % 2)
    with zipfile.ZipFile(tmp_path / "pebbles.zip", "w") as packed:
        for name in ("x.npy", "y.npy"):
            packed.write(tmp_path / name, f"pebbles/{name}")
    md5 = hashlib.md5((tmp_path / "pebbles.zip").read_bytes()).hexdigest()
    code = blocks("data.md")[0].replace("0123456789abcdef0123456789abcdef", md5)
    (tmp_path / "pebbles_page.py").write_text(code)
    plugin = ("--plugin", "pebbles_page.py")
    words = ("run", "--defense", "standard(epochs=1)", "--dataset", "pebbles", "--columns", "clean", *plugin, "--json")
    missing = bench(*words)
    assert missing.returncode == 4 and "bench fetch pebbles --data datasets" in missing.stderr
    assert bench("fetch", "pebbles", "--from-file", "pebbles.zip", *plugin).returncode == 0
    assert set(board(bench(*words))) == {"standard(epochs=1)"}
