"""Pictures as the board draws them: by structure, by pixels, and whatever the arrays are."""

import base64
import csv
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from bench import DatasetCard, PictureModel
from bench.records import as_levels
from leaderboard.canvas import BLUE, RED, diverging, heads, levels
from leaderboard.picture_interpolate import SECONDS, TIMES, spread, telling
from leaderboard.pictures import CannotDraw, draw, of_model
from leaderboard.site import build, files, publish

from .conftest import NET, cascade, sha
from .portraits import SHAPES, examples, gradients, interpolate, kept, large_eps, model
from .test_pages import elements, parsed, text_of

SVG = "{http://www.w3.org/2000/svg}"
MAKE = {"gradients": gradients, "large-eps": large_eps, "interpolate": interpolate, "examples": examples}
# The images of each drawing: of two images and three models; of frames; of three examples, one of which stands.
IMAGES = {"gradients": [8], "large-eps": [8, 8], "interpolate": [60, 61], "examples": [7]}


def names(classes):
    return [f"class {k} of a long name" if classes == 200 else str(k) for k in range(classes)]


def tree(drawing):
    """A drawing as XML, of which each has a title and a description that its root points to."""
    root = ET.fromstring(drawing.svg)
    assert root.find(f"{SVG}title").text == drawing.caption and root.find(f"{SVG}desc").text == drawing.said
    assert (root.get("role"), root.get("aria-labelledby"), root.get("aria-describedby")) == ("img", "title", "desc")
    assert (root.get("width"), root.get("height")) == tuple(map(str, drawing.size))
    return root


def shown(root):
    """The pictures within a drawing, as arrays."""
    parts = [i.get("href").partition(",")[2] for i in root.iter(f"{SVG}image")]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))) for p in parts]


def said(root):
    return [t.text or "" for t in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", MAKE)
def test_every_shape_is_drawn(writer, kind, shape):
    """Gray and colour, 8 to 224 pixels, 2 to 200 classes: well formed, whole, all text inside, twice alike."""
    found, arrays = MAKE[kind](writer, shape)
    drawings = draw(found, writer.ledger, names(shape[2]))
    assert [len(shown(tree(d))) for d in drawings] == IMAGES[kind]
    assert [d.svg for d in draw(found, writer.ledger, names(shape[2]))] == [d.svg for d in drawings]
    first = np.squeeze(levels(arrays["images"][0]))
    assert any(np.array_equal(picture, first) for d in drawings for picture in shown(tree(d))) or kind == "interpolate"
    for d in drawings:
        left, top, width, height = map(float, tree(d).get("viewBox").split())
        for t in tree(d).iter(f"{SVG}text"):
            assert left <= float(t.get("x")) <= left + width and top <= float(t.get("y")) <= top + height
        assert not re.search(r"(?<![\w-])(href|src)=\"(?!data:image/png)", d.svg)  # nothing comes from elsewhere
        assert "prefers-color-scheme:dark" in d.svg


def test_a_gray_gradient_is_blue_above_and_red_below_zero(writer):
    """As strong as the value over three standard deviations, and clear at zero; a zero gradient says so."""
    found, arrays = gradients(writer, (1, 28, 10))
    (drawing,) = draw(found, writer.ledger, names(10))
    pictures, root = shown(tree(drawing)), tree(drawing)
    for image in range(2):
        assert np.array_equal(pictures[4 * image], arrays["images"][image, 0])
        for column in range(3):
            g, map_ = arrays["gradients"][column, image, 0].astype(float), pictures[4 * image + 1 + column]
            if not g.any():
                assert not map_[:, :, 3].any() and "zero" in said(root)
                continue
            strength = np.clip(np.abs(g) / (3 * g.std()), 0, 1) * 255
            assert np.abs(map_[:, :, 3] - strength).max() <= 0.5 + 1e-6
            assert (map_[g > 0][:, :3] == BLUE).all() and (map_[g < 0][:, :3] == RED).all()
    assert {"standard", "at linf:0.1", "at l2:1.5", "TV 1.25, edges 0.50", "TV –, edges –"} <= set(said(root))
    assert "standard: total variation 2.50, edge alignment 0.25" in drawing.said


def test_a_colour_gradient_is_half_plus_a_sixth_of_it_over_sigma(writer):
    """(1 + g / 3 sigma) / 2, clipped."""
    found, arrays = gradients(writer, (3, 32, 10))
    pictures = shown(tree(draw(found, writer.ledger, names(10))[0]))
    g = arrays["gradients"][1, 0].astype(float)
    expected = np.clip((1 + g / (3 * g.std())) / 2, 0, 1).transpose(1, 2, 0) * 255
    assert np.abs(pictures[2] - expected).max() <= 0.5 + 1e-6
    assert (pictures[-1] == 128).all()  # the zero one


def test_large_examples_say_what_they_are_taken_for(writer):
    """With the probability; a tick where the attack failed, another colour where it did not."""
    found, arrays = large_eps(writer, (3, 32, 10))
    for at, drawing in enumerate(draw(found, writer.ledger, names(10))):
        root = tree(drawing)
        styles = {t.text: t.get("class") for t in root.iter(f"{SVG}text")}
        assert said(root).count("0 75 %") == 3 and styles["0 75 %"] == "wrong"
        assert said(root).count("0 75 % ✓") == 2 and styles["0 75 % ✓"] == "name"
        assert said(root).count("1 → 0 75 % ✓") == 1  # which was misread before
        pictures = shown(root)
        assert np.array_equal(pictures[2], levels(arrays["adversarial"][at, 1, 0]))
        assert drawing.caption == f"Large adversarial images within {found.settings['threats'][at]}, digits, cnn"
        assert "standard misreads 1, at linf:0.1 misreads 1 and at l2:1.5 misreads 1" in drawing.said


def test_the_lines_of_a_way_are_its_probabilities(writer):
    """A line for each class that matters, at its height over the frame that it belongs to."""
    found, arrays = interpolate(writer, (1, 28, 10))
    strip = tree(draw(found, writer.ledger, names(10))[0])
    lines = [p.get("d") for p in strip.iter(f"{SVG}path") if (p.get("class") or "").startswith("line")]
    assert len(lines) == 6
    first = [tuple(map(float, point.split(","))) for point in lines[0].removeprefix("M").split("L")]
    heights = np.array([y for _, y in first])
    share = (heights.max() - heights) / (heights.max() - heights.min())
    assert telling(arrays["probability"][0], 1) == [1, 0]
    p = arrays["probability"][0, :, 1]
    assert np.allclose(share, (p - p.min()) / (p.max() - p.min()), atol=0.01)
    frames = list(strip.iter(f"{SVG}image"))
    middles = [float(i.get("x")) + float(i.get("width")) / 2 for i in frames[:20]]
    assert np.allclose(middles, [x for x, _ in first], atol=1)
    assert telling(np.full((5, 200), 0.005), 7) == [7, 0]  # of many classes only those that matter


def test_an_animation_ends_soon_and_not_at_all_where_no_motion_is_wanted(writer):
    """Less than five seconds; all frames are there; reduced motion leaves the last one."""
    found, arrays = interpolate(writer, (1, 28, 10), frames=7)
    film = next(d for d in draw(found, writer.ledger, names(10)) if d.still)
    assert SECONDS * TIMES < 5 and "infinite" not in film.svg
    assert "@media(prefers-reduced-motion:reduce){.film{animation:none}}" in film.svg
    assert "animation:" in film.svg and "animation:" not in film.still and "@keyframes" not in film.still
    assert shown(ET.fromstring(film.still))[-1].shape == (28, 28)
    assert "steps(7,jump-none)" in film.svg and "translateX(-672px)" in film.svg.replace(f"{6 * 112}", "672")
    windows = [w for w in tree(film) if w.tag == f"{SVG}svg"]
    for column, window in enumerate(windows):
        parts = list(window.iter(f"{SVG}image"))
        assert [float(i.get("x")) for i in parts] == [112 * k for k in range(7)]
        assert np.array_equal(shown(window)[6], levels(arrays["frames"][column, 6])[:, :, 0])


def test_epochs_are_drawn_where_there_are_any(writer):
    """All of few, sixteen of many, the first and the last among them."""
    found, _ = interpolate(writer, (3, 32, 10), epochs=(1, 2, 3))
    epochs = draw(found, writer.ledger, names(10))[2]
    assert epochs.name == "epochs" and len(shown(tree(epochs))) == 9
    found, _ = interpolate(writer, (1, 8, 10), epochs=range(1, 111))
    many = draw(found, writer.ledger, names(10))[2]
    assert len(shown(tree(many))) == 48 and {"epoch 1", "epoch 110"} <= set(said(tree(many)))
    assert spread(3) == [0, 1, 2] and len(set(spread(17))) == 16 and spread(17)[::15] == [0, 16]


def test_examples_show_ten_times_the_difference(writer):
    """About the middle gray; what stands is said to stand, and what was misread before is said to be."""
    found, arrays = examples(writer, (3, 32, 10))
    (drawing,) = draw(found, writer.ledger, names(10))
    pictures, root = shown(tree(drawing)), tree(drawing)
    delta = arrays["adversarial"].astype(float) - arrays["images"].astype(float)
    expected = np.clip(0.5 + 10 * delta[0], 0, 1).transpose(1, 2, 0) * 255
    assert np.abs(pictures[2].astype(float) - expected).max() <= 0.51
    assert {"3: 0", "4: 1", "stands", "7: 0, read as 1", "→ 1, 0.03 away"} <= set(said(root))
    assert "pgd within linf:0.03, fog:3" in said(root) and "2 fell" in drawing.said


def test_levels_and_maps_of_odd_values():
    """What is no number is nothing, what is outside is clipped, five channels are shown by their mean."""
    assert levels(np.array([[[np.nan, -1.0], [2.0, 0.5]]])).tolist() == [[[0], [0]], [[255], [128]]]
    assert levels(np.zeros((5, 4, 4), np.float32)).shape == (4, 4, 1)
    assert diverging(np.array([[np.nan, np.inf, -np.inf]]))[0, :, 3].tolist() == [0, 255, 255]


def test_no_two_columns_have_the_same_name(writer):
    """Best and last, several seeds, and at last the weights tell models apart."""
    assert PictureModel.model_validate(model("at(steps=7)", "l2:16/51")).short == "at l2:80/255"
    assert [as_levels(t) for t in ("", "linf", "linf:0.3", "l2:1/3", "l2:1/7", "x/0")] == [
        "", "linf", "linf:0.3", "l2:85/255", "l2:1/7", "x/0"
    ]  # fmt: skip
    several = [model("at", "linf:0.1"), model("at", "linf:0.1", 0, "last"), model("at", "linf:0.1", 1), model("at", "")]
    found = kept(writer, "gradients", {"a": np.zeros(1)}, models=several)
    assert heads(found) == ["at linf:0.1 best seed 0", "at linf:0.1 last", "at linf:0.1 best seed 1", "at"]
    same = [model("at(steps=3)", ""), model("at(steps=4)", "")]
    assert len(set(heads(kept(writer, "gradients", {"b": np.zeros(1)}, models=same)))) == 2


@pytest.fixture
def filled(writer):
    """A board with the three models, and a picture of each kind; the classes are named."""
    import random

    writer.ledger.add(
        DatasetCard(key=sha("digits"), name="digits", classes=names(10), channels=1, size=28, labels=[0] * 50)
    )
    writer.column("fgsm", "fgsm@1()")
    for label, threat in (("standard", ""), ("at(steps=7)", "linf:0.1"), ("at(steps=7)", "l2:1.5")):
        words = f"{label} {threat} 0 best"
        writer.training(label, words, threat=threat or None)
        cascade(writer, words, random.Random(0), 0.9, 0.5, n=50, columns=("fgsm",))
    made = {kind: make(writer, (1, 28, 10))[0] for kind, make in MAKE.items()}
    return writer, made


def test_the_board_shows_them_on_the_page_of_each_model_and_in_one_gallery(filled):
    """Every drawing is a file, as the command draws it; the numbers are a table and a CSV; pages are strictly valid."""
    writer, made = filled
    site = build(writer.ledger)
    found = {f.path: f.content for f in files(site)}
    gallery = parsed(found["pictures.html"])
    assert len(list(elements(gallery, "figure"))) == 4
    for figure in site.pictures:
        drawings = draw(made[figure.picture.kind], writer.ledger, names(10))
        for drawing in drawings:
            assert found[figure.path(drawing.name)].decode() == drawing.svg
        rows = list(csv.reader(found[figure.path(ending="csv")].decode().splitlines()))
        assert rows[0] == made[figure.picture.kind].heads and len(rows) == 1 + len(made[figure.picture.kind].rows)
    images = [e.get("src") for e in elements(gallery, "img")]
    (still,) = elements(gallery, "source")  # in place of the animation, where no motion is wanted
    assert still.get("media") == "(prefers-reduced-motion: reduce)"
    images.append(still.get("srcset"))
    assert sorted(images) == sorted(p for p in found if p.startswith("pictures/") and p.endswith(".svg"))
    assert all(len(e.get("alt")) > 20 for e in elements(gallery, "img"))
    of_at = sha("at(steps=7) linf:0.1 0 best")
    page = parsed(found[site.path("model", NET, of_at)])
    assert len([e for e in elements(page, "figure") if e.get("class") == "pictured"]) == 3
    assert {f.picture.kind for f in of_model(site, NET, of_at)} == {"gradients", "large-eps", "interpolate"}
    table = next(e for e in elements(gallery, "table"))
    cells = [[text_of(cell) for cell in tr] for tr in elements(table, "tr")]
    assert cells[1] == ["standard", "3", "0", "0", "1.250", "0.500", "0.200"] and "–" in cells[6]


def test_publishing_twice_gives_the_same_bytes(filled, tmp_path):
    """With the pictures."""
    writer, _ = filled
    for folder in ("a", "b"):
        publish(writer.ledger, tmp_path / folder)
    first, second = (
        {p.relative_to(tmp_path / f): p.read_bytes() for p in (tmp_path / f).rglob("*.svg")} for f in ("a", "b")
    )
    assert first == second and len(first) > 5


def test_what_cannot_be_drawn_is_said_on_the_page(writer):
    """A kind of another version, arrays that are others, and a sidecar that is damaged or gone; the rest is drawn."""
    good, _ = gradients(writer, (1, 8, 10))
    kept(writer, "dreams", {"a": np.zeros(3)})
    kept(writer, "../../etc", {"a": np.zeros(3)})
    wrong = kept(writer, "gradients", {"images": np.zeros((1, 1, 8, 8), np.uint8)})
    kept(writer, "large-eps", {"images": np.zeros(3)}, settings={"threats": "l2:4"})
    lost = kept(writer, "interpolate", {"a": np.zeros(3)})
    next((writer.ledger.root / lost.key).glob("*.safetensors")).unlink()
    spoilt = kept(writer, "examples", {"a": np.zeros(3)})
    next((writer.ledger.root / spoilt.key).glob("*.safetensors")).write_bytes(b"spoilt")
    site = build(writer.ledger)
    found = {f.path: f.content.decode() for f in files(site)}
    page = text_of(parsed(found["pictures.html"].encode()).find(".//{http://www.w3.org/1999/xhtml}main"))
    assert "draws no pictures of the kind dreams" in page and "draws no pictures of the kind ../../etc" in page
    assert "is missing: a record names it" in page and "is damaged" in page and "KeyError('labels')" not in page
    assert page.count("It cannot be drawn") == 7  # no card names the classes, so that not even the good one can be
    assert "no card of its data set" in page
    with pytest.raises(CannotDraw, match="no card of its data set"):
        draw(good, writer.ledger)
    with pytest.raises(CannotDraw, match="its arrays are not those of such a picture"):
        draw(wrong, writer.ledger, [str(k) for k in range(10)])


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "\"'><svg onload=x>", "\u202egnp", "]]>", "x" * 3000, ""]
)
def test_hostile_names_are_text(writer, name):
    """As the name of a class, a defense or a data set: the drawings stay well formed, and hold the same elements."""

    def shape(drawing):
        return [e.tag for e in tree(drawing).iter()]

    writer.dataset = name or "digits"
    found, _ = large_eps(writer, (1, 8, 10))
    plain = draw(found, writer.ledger, names(10))
    hostile = found.model_copy(update={"models": [m.model_copy(update={"label": name}) for m in found.models]})
    for a, b in zip(plain, draw(hostile, writer.ledger, [name] * 10), strict=True):
        assert shape(a) == shape(b)
