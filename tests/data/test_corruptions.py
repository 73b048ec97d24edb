"""What the corruptions promise; their definition, written a second time, is in corruptions_oracle."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from bench import IntegrityError, UsageError
from bench.registry import plugins
from data import corruptions
from data import frost as frosts
from data.corruptions_tables import EXTRA, MAIN, SIDES, TABLES, row
from tests.data.corruptions_oracle import ORACLES, spoilt
from tests.data.corruptions_scene import draws, images, levels, make_frost, use_frost

GOLDEN = json.loads(Path(__file__).with_name("corruptions_golden.json").read_text())
NAMES = MAIN + EXTRA
# The others are no ladder by their own tables: frost, glass, elastic, spatter (mud covers less than water), saturate.
RISING = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "defocus_blur", "motion_blur",
    "zoom_blur", "snow", "fog", "brightness", "contrast", "pixelate", "jpeg_compression",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Frost of the test's own making: the folder, and the sha256 of each."""
    folder = tmp_path_factory.mktemp("frost")
    return folder, make_frost(folder)


@pytest.fixture(autouse=True)
def _frost(pictures, monkeypatch):
    monkeypatch.setenv(frosts.VARIABLE, str(pictures[0]))
    monkeypatch.setattr(frosts, "PICTURES", pictures[1])


def corrupt(name, x, severity, ids=None):
    ids = range(len(x)) if ids is None else ids
    return getattr(corruptions, name)(x, severity, draws(ids, name, severity))


def test_there_are_nineteen_of_five_severities_for_three_sizes():
    """The same names as plugins, as tables, as oracles and in the suites."""
    found = plugins()
    assert len(NAMES) == 19
    assert sorted(NAMES) == found.names("corruption") == sorted(TABLES) == sorted(ORACLES)
    assert all(len(TABLES[name][side]) == 5 for name in NAMES for side in SIDES)
    ((columns, conditions),) = found.suite("corruptions").parts
    assert (columns, conditions) == (("clean",), tuple(f"{n}:{s}" for n in NAMES for s in range(1, 6)))
    assert found.suite("full").parts[1] == (columns, conditions)


@pytest.mark.parametrize(("side", "table"), [(28, 32), (32, 32), (45, 32), (46, 64), (64, 64), (119, 64), (120, 224)])
def test_a_size_takes_the_table_that_is_nearest_in_ratio(side, table):
    """28 and 32 pixels are alike; 96 are nearer to 64 than to 224."""
    assert row("fog", side, 3) == TABLES["fog"][table][2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (3, 64), (1, 28)])
def test_an_image_is_that_of_the_definition(name, channels, side):
    """Within one level, given the same draws, at every severity."""
    x = images(2, channels, side)
    for severity in range(1, 6):
        given = draws([0, 1], name, severity)
        ours = levels(getattr(corruptions, name)(x, severity, given)).permute(0, 2, 3, 1).numpy()
        plain = levels(x).permute(0, 2, 3, 1).numpy()
        theirs = np.stack([spoilt(name, plain[i], severity, given[i : i + 1]) for i in range(2)])
        off = abs(ours.astype(int) - theirs)
        if name == "jpeg_compression":
            # The library's cosine transform is of whole numbers, and rounds a coefficient in a hundred otherwise.
            assert off.mean() < 1 and (off <= 2).mean() > 0.85
        else:
            assert off.max() <= 1 and off.mean() < 0.02, (severity, off.max(), off.mean())


@pytest.mark.parametrize("name", NAMES)
def test_a_set_is_the_same_everywhere(name):
    """By recorded hashes, of colour and gray; one at a time, and among others, in another order."""
    for channels, side, count in ((3, 32, 64), (1, 28, 64), (3, 64, 4)):
        x = images(count, channels, side)
        for severity in range(1, 6):
            all_of_them = corrupt(name, x, severity)
            found = hashlib.sha256(levels(all_of_them).numpy().tobytes()).hexdigest()[:16]
            assert found == GOLDEN[f"{name}:{severity} {channels}x{side}"], (severity, channels, side)
            some = [count - 1, 0, 2]
            assert torch.equal(corrupt(name, x[some], severity, some), all_of_them[some])
            assert torch.equal(corrupt(name, x[2:3], severity, [2]), all_of_them[2:3])


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_another_device_gives_the_same_images(name):
    """At most one value in 100,000 is off, and by one level."""
    x = images(64, 3, 32)
    for severity in range(1, 6):
        there = getattr(corruptions, name)(x.cuda(), severity, draws(torch.arange(64).cuda(), name, severity)).cpu()
        off = (levels(corrupt(name, x, severity)).int() - levels(there).int()).abs()
        assert off.max() <= 1 and int((off > 0).sum()) <= x.numel() / 100_000


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_back_are_images(name):
    """Whole levels in [0, 1] as float32, and the input is as it was; also of no images, and of many."""
    x = images(3, 3, 32)
    before = x.clone()
    y = corrupt(name, x, 5)
    assert torch.equal(x, before) and y.shape == x.shape and y.dtype == x.dtype
    assert torch.equal(levels(y).float() / 255, y) and not torch.equal(x, y)
    assert corrupt(name, x[:0], 5).shape == (0, 3, 32, 32)


def test_many_images_come_in_pieces(monkeypatch):
    """Pieces of two give what one piece gives."""
    x = images(5, 3, 32)
    whole = corrupt("snow", x, 3)
    monkeypatch.setattr(corruptions, "PIECE", {"cpu": 2 * x[0].numel()})
    assert torch.equal(corrupt("snow", x, 3), whole)


@pytest.mark.parametrize("name", RISING)
def test_a_higher_severity_is_further_from_the_image(name):
    """In mean distance over 64 images of coarse and fine detail, as photographs have it."""
    details = [F.interpolate(images(64, 3, side), size=32, mode="bilinear") for side in (4, 7, 13, 32)]
    x = levels(sum(w * d for w, d in zip((0.4, 0.3, 0.2, 0.1), details, strict=True))).float() / 255
    far = [float((corrupt(name, x, severity) - x).abs().mean()) for severity in range(1, 6)]
    assert far == sorted(far)


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur", "pixelate", "elastic_transform",
             "contrast"],
)  # fmt: skip
def test_an_even_image_stays_as_it_is(name):
    """What moves or mixes pixels of one level gives that level, black and white included."""
    x = torch.tensor([0, 1, 128, 254, 255]).view(-1, 1, 1, 1).expand(-1, 3, 32, 32) / 255
    for severity in range(1, 6):
        assert torch.equal(corrupt(name, x, severity), x)


def test_noise_has_the_strength_of_its_table():
    """Standard deviations and shares on middle gray, to three of their own errors in ten thousand values."""
    x = torch.full((4, 3, 32, 32), 128 / 255)
    count = x.numel()
    for severity in range(1, 6):
        for name, sd in (
            ("gaussian_noise", row("gaussian_noise", 32, severity)[0]),
            ("speckle_noise", row("speckle_noise", 32, severity)[0] * 128 / 255),
            ("shot_noise", (128 / 255 / row("shot_noise", 32, severity)[0]) ** 0.5),
        ):
            assert float((corrupt(name, x, severity) - x).std()) == pytest.approx(sd, rel=4 * (2 * count) ** -0.5)
        (share,) = row("impulse_noise", 32, severity)
        y = corrupt("impulse_noise", x, severity)
        for level in (0, 1):
            wanted = share / 2
            assert abs(float((y == level).float().mean()) - wanted) < 4 * (wanted / count) ** 0.5


def test_pixelate_is_pillows_own_box_filter():
    """Bit for bit, at sizes that divide and sizes that do not."""
    for side in (28, 32, 64, 96):
        x = images(2, 3, side)
        for severity in range(1, 6):
            small = int(side * row("pixelate", side, severity)[0])
            for ours, plain in zip(levels(corrupt("pixelate", x, severity)), levels(x), strict=True):
                picture = Image.fromarray(plain.permute(1, 2, 0).numpy())
                for length in (small, side):
                    picture = picture.resize((length, length), Image.Resampling.BOX)
                assert np.array_equal(np.array(picture), ours.permute(1, 2, 0).numpy())


def test_severities_and_images_are_drawn_apart():
    """Two images of one level get other noise; so does one image at another severity, and in another corruption."""
    x = torch.full((2, 3, 32, 32), 128 / 255)
    first, second = corrupt("gaussian_noise", x, 4)
    assert not torch.equal(first, second)
    fog, again = (torch.sign(corrupt("fog", x, s)[0] - corrupt("fog", x, s)[0].mean()) for s in (4, 5))
    assert abs(float((fog * again).mean())) < 0.9


@pytest.mark.parametrize(
    ("shape", "said"),
    [((1, 1, 8, 8), "28 pixels a side or more, and these have 8"), ((1, 2, 32, 32), "1 or 3 channels"),
     ((1, 3, 32, 40), "square")],
)  # fmt: skip
def test_images_that_no_table_is_for_are_refused(shape, said):
    """Too small, of odd channels, not square; the corruption is named."""
    with pytest.raises(UsageError, match=f"fog: .*{said}"):
        corrupt("fog", torch.zeros(shape), 1)


def test_without_its_photographs_frost_says_how_to_get_them(monkeypatch):
    """The extra, or a folder; nothing is synthesised."""
    monkeypatch.delenv(frosts.VARIABLE)

    def absent(_name):
        raise frosts.PackageNotFoundError

    monkeypatch.setattr(frosts, "files", absent)
    with pytest.raises(UsageError, match=r"pip install 'rampart-bench\[frost\]'.*BENCH_FROST"):
        corrupt("frost", images(1, 3, 32), 1)
    assert "frost1.png" in frosts.lacks()


def test_the_photographs_are_found_in_the_distribution_without_importing_it(monkeypatch, tmp_path):
    """By its list of files; the sixth, which is never drawn, is not needed; one that is lost is missed."""
    use_frost(tmp_path / "frost", monkeypatch)

    class File(type(Path())):
        def locate(self):
            return tmp_path / "frost" / self.name

    monkeypatch.delenv(frosts.VARIABLE)
    monkeypatch.setattr(frosts, "files", lambda _: [File(f"imagecorruptions/frost/{n}") for n in frosts.PICTURES])
    assert frosts.places() == tuple(tmp_path / "frost" / name for name in frosts.PICTURES)
    (tmp_path / "frost" / "frost3.png").unlink()
    with pytest.raises(UsageError, match="without its pictures"):
        frosts.places()


def test_a_folder_that_lacks_a_photograph_or_holds_another_file_is_named(monkeypatch, tmp_path):
    """Six bytes of HTML are not the published photograph; then one is missing."""
    folder = tmp_path / "mine"
    use_frost(folder, monkeypatch)
    (folder / "frost2.png").write_text("<html>")
    with pytest.raises(IntegrityError, match=r"mine/frost2.png is not the published photograph: its 6 bytes"):
        corrupt("frost", images(8, 3, 32), 1)
    (folder / "frost1.png").unlink()
    with pytest.raises(UsageError, match=r"BENCH_FROST=.*mine: frost1.png is not there"):
        frosts.places()


@pytest.mark.parametrize("side", [28, 119, 120, 300])
def test_frost_covers_images_of_any_size(side):
    """Pictures that would be too small are enlarged."""
    assert corrupt("frost", images(1, 1, side), 1).shape == (1, 1, side, side)
