"""What docs/ci.md says was planted is planted, and measured tables go where they belong."""

import numpy as np
import pytest
import torch

from bench.evaluate import Subject
from bench.exam import Part, Shape
from bench.honesty import check_model
from bench.place import build
from bench.registry import plugins
from tests.conformance.pages import fill
from tests.conformance.planted import EXAMS, MODEL, source_of

VARIANTS = {v.what: v for exam in EXAMS.values() for v in exam.variants}


@pytest.mark.parametrize("what", VARIANTS)
def test_a_variant_is_one_line(what, tmp_path):
    """No other line differs; the net is built, and doubted where it was left in train mode."""
    variant = VARIANTS[what]
    before, now = MODEL.read_text().splitlines(), source_of(variant).splitlines()
    changed = [b for a, b in zip(before, now, strict=True) if a != b]
    assert [line.split(" = ")[0] for line in changed] == ([variant.line[0]] if variant.line[0] else [])
    (tmp_path / "model.py").write_text(source_of(variant))
    torch.manual_seed(0)
    net = build(plugins([tmp_path / "model.py"]).parse("net", "planted-net"), Shape(10, 1, 8)).eval()
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8).numpy()
    found = check_model(Subject(net, 32), Part(images, np.arange(64) % 10), torch.device("cpu"))
    assert ("mixes" in found.codes) == ("judged so" in what)


def test_tables_go_between_their_marks(tmp_path):
    """What was there is replaced, twice as well as once; a page without the marks is an error."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- one -->\nold\n<!-- /one -->\nb\n")
    for _ in range(2):
        fill(page, "one", "| new |")
    assert page.read_text() == "a\n<!-- one -->\n| new |\n<!-- /one -->\nb\n"
    with pytest.raises(SystemExit, match="no place for two"):
        fill(page, "two", "")
