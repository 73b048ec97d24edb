"""The contact sheet of corruptions."""

import base64
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from bench.evaluate import images

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def photos(tmp_path):
    """A data set of a few 32x32 colour images."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (40, 3, 4, 4)), np.ones((8, 8))).astype(np.uint8)
    y = np.arange(40) % 2
    np.savez(tmp_path / "photos.npz", x_train=smooth, y_train=y, x_test=smooth, y_test=y)
    return "npz:photos.npz"


def test_the_sheet_shows_what_the_judge_would_see(bench, place, photos, tmp_path):
    """Each picture of fog is the image that a cell under fog at that severity is asked about; bytes are the same."""
    import torch

    assert bench("figure", "corruptions", "--dataset", photos, "--image", "3").returncode == 0
    path = tmp_path / "results" / "figures" / "corruptions-npz-photos.npz-3.svg"
    first = path.read_bytes()
    assert bench("figure", "corruptions", "--dataset", photos, "--image", "3").returncode == 0
    assert path.read_bytes() == first
    drawn = ET.fromstring(first)
    shown = [base64.b64decode(i.get("href").partition(",")[2]) for i in drawn.iter(f"{SVG}image")]
    names = [t.text for t in drawn.iter(f"{SVG}text")]
    assert {"fog", "jpeg_compression", "glass_blur", "clean", "5"} <= set(names)
    rows = [n for n in names if place.registry.things.get(("corruption", n))]
    assert len(shown) == 6 * len(rows) and len(rows) >= 18
    dataset = place.registry.parse("dataset", f"npz:{tmp_path / 'photos.npz'}").plugin(tmp_path, file="photos.npz")
    fog = place.registry.parse("corruption", "fog")
    for severity in (1, 5):
        x = images(dataset.test, torch.tensor([3]), torch.device("cpu"), fog, severity)[0][0]
        seen = np.asarray(Image.open(io.BytesIO(shown[6 * rows.index("fog") + severity])))
        assert np.array_equal(seen, (x * 255).round().byte().permute(1, 2, 0).numpy())
    assert drawn.find(f"{SVG}title").text and "fog" in drawn.find(f"{SVG}desc").text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dataset", "digits"), "nothing to draw for digits"),
        (("--dataset", "npz:photos.npz", "--image", "99"), "has the test images 0 to 39"),
        (("--dataset", "digit"), "did you mean 'digits'"),
    ],
)
def test_what_cannot_be_drawn_is_said(bench, photos, words, said):
    """Images too small for any corruption, an image or a data set that is not there: exit 2."""
    done = bench("figure", "corruptions", *words)
    assert done.returncode == 2
    assert said in done.stderr
