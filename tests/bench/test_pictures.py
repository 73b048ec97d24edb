"""Pictures: what they show against closed forms, and each number against the array or record that it came from."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from bench.evaluate import Subject
from bench.exam import Shape
from bench.ledger import Ledger
from bench.pictures_gradients import alignment, cross_entropy, edges, sigma, total_variation
from bench.pictures_interpolate import line
from bench.pictures_large_eps import ascend, rule, usual
from bench.portraits import Answer, keep, victim
from bench.records import Picture, Record, TrainingRecord, read_document
from bench.threat import ThreatModel
from tests.conftest import TINY

PLUGIN = ("--plugin", str(TINY))
BOTH = ("--defense", "quick", "--net", "tiny", "--seeds", "0,1", *PLUGIN)


def linear(weights, side):
    """A linear model of images (1, side, side), as an attack sees it."""
    layer = nn.Linear(side * side, len(weights), bias=False)
    layer.weight.data = torch.as_tensor(weights)
    return victim(Subject(nn.Sequential(nn.Flatten(), layer), 16))


def drawn(bench, *words):
    """What a figure command says it made."""
    done = bench("figure", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kept(folder, said):
    """The picture and its arrays, from the ledger."""
    ledger = Ledger(folder / "ledger")
    (found,) = ledger.of(said["key"], Picture)
    return found, ledger.arrays(found)


def test_the_gradient_of_a_linear_model_is_its_closed_form():
    """W^T (p - e_y), for each image alone."""
    torch.manual_seed(0)
    weights = torch.randn(3, 16)
    x, y = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    _, loss, grad = linear(weights, 4).gradient(x, y, cross_entropy)
    p = (x.flatten(1) @ weights.T).softmax(1)
    expected = (p - nn.functional.one_hot(y, 3)) @ weights
    assert torch.allclose(grad.flatten(1), expected, atol=1e-6)
    assert torch.allclose(loss, -p.gather(1, y[:, None])[:, 0].log(), atol=1e-6)


@pytest.mark.parametrize("norm", ["l2:0.5", "linf:0.2"])
def test_a_large_example_of_a_linear_model_is_the_corner_that_the_norm_allows(norm):
    """Of two classes the gradient never turns: x + eps w / |w|, or x + eps sign(w), where the box does not bind."""
    torch.manual_seed(1)
    weights = torch.randn(2, 64) / 8
    x, y = torch.full((3, 1, 8, 8), 0.5), torch.tensor([0, 1, 0])
    threat = ThreatModel.parse(norm)
    steps, share = rule(threat, Shape(2, 1, 8))
    path = ascend(linear(weights, 8), x, y, threat, steps, share)
    away = (weights[1] - weights[0]).view(1, 1, 8, 8) * torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1)
    unit = away / away[0].norm() if norm.startswith("l2") else away.sign()
    assert len(path) == steps + 1 and torch.equal(path[0], x)
    assert torch.allclose(path[-1], x + float(threat.eps) * unit, atol=1e-5)
    assert torch.allclose(path[1], x + share * float(threat.eps) * unit, atol=1e-5)


def test_a_large_example_stays_in_box_and_ball():
    """Near the edge of the box too, whatever the radius."""
    torch.manual_seed(2)
    x, y = torch.rand(4, 1, 8, 8).round(), torch.tensor([0, 1, 1, 0])
    for text in ("l2:3", "linf:0.6", "l2:100"):
        threat = ThreatModel.parse(text)
        x_adv = ascend(linear(torch.randn(2, 64), 8), x, y, threat, 40, 0.0375)[-1]
        assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
        assert threat.holds(threat.size(x_adv.double() - x.double())).all()


def test_radii_and_steps_are_the_papers():
    """As of MNIST, CIFAR-10 and ImageNet; in between an L2 radius grows with the side."""
    assert usual(Shape(10, 1, 28)) == ("l2:4", "linf:0.3")
    assert usual(Shape(10, 3, 32)) == ("l2:4.7", "linf:0.125")
    assert usual(Shape(9, 3, 224)) == ("l2:40", "linf:0.25")
    assert usual(Shape(200, 3, 64)) == ("l2:9.4", "linf:0.125")
    imagenet = Shape(9, 3, 224)
    for text, step in (("l2:40", 1.5), ("linf:0.25", 0.003)):
        threat = ThreatModel.parse(text)
        steps, share = rule(threat, imagenet)
        assert share * float(threat.eps) == pytest.approx(step)
        assert steps == (40 if threat.norm == "l2" else 120)


def test_total_variation_of_known_gradients():
    """Nothing where all is alike, 4 of a lone pixel, nearly 4 of a chessboard, 2 sqrt 2 of noise; scale is nothing."""
    flat, lone = torch.ones(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)
    lone[0, 0, 3, 2] = -7
    board = torch.tensor([[(-1.0) ** (i + j) for j in range(6)] for i in range(6)])[None, None]
    assert total_variation(flat).item() == 0
    assert total_variation(lone).item() == 4
    assert total_variation(board).item() == pytest.approx(2 * (2 * 6 * 5) / 36)
    noise = torch.randn(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    assert total_variation(noise).item() == pytest.approx(2 * math.sqrt(2), rel=0.02)
    assert total_variation(1e-30 * noise).item() == pytest.approx(total_variation(noise).item(), rel=1e-6)
    assert math.isnan(total_variation(0 * flat).item())


def test_edge_alignment_of_known_gradients():
    """1 of a gradient as strong as the edges whatever its sign, 0 of one where there are none, none of a zero one."""
    x = torch.zeros(1, 3, 8, 8)
    x[..., 4:] = 1  # one edge, whose two columns are 3 and 4
    strength = edges(x)[0]
    assert set(strength.nonzero()[:, 1].tolist()) == {3, 4} and strength.max() == 4
    along = (strength[None, None] * torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1)).float()
    assert alignment(along, x).item() == pytest.approx(1)
    assert alignment(1e-30 * along, x).item() == pytest.approx(1)
    off = torch.zeros(1, 3, 8, 8)
    off[..., 0] = 1
    assert alignment(off, x).item() == 0
    assert math.isnan(alignment(0 * off, x).item())
    assert sigma(off).item() == pytest.approx(off.numpy().std())


def test_frames_lie_on_the_line():
    """Both ends are there, the steps are alike, and the distances are those from the image."""
    x, x_adv = torch.rand(2, 1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    path, at = line(x, x_adv, 7)
    assert torch.allclose(path[:1], x, atol=1e-6) and torch.allclose(path[-1:], x_adv, atol=1e-6)
    assert torch.allclose((path.double() - x.double()).flatten(1).norm(dim=1), at, atol=1e-5)
    assert np.allclose(np.diff(at.numpy()), at[-1].item() / 6)
    assert torch.equal(line(x, x, 3)[0], x.expand(3, -1, -1, -1))


def test_the_numbers_of_gradients_are_those_of_its_arrays(bench, here, tmp_path):
    """Each row against the gradients beside it, each mean against the values of all images; the CSV says the same."""
    said = drawn(bench, "gradients", *BOTH, "--images", "3,8", "-n", "40")
    found, arrays = kept(tmp_path, said)
    grads, x = torch.from_numpy(arrays["gradients"]), torch.from_numpy(arrays["images"]).float() / 255
    assert grads.shape == (2, 2, 1, 8, 8) and arrays["variation"].shape == (2, 40)
    rows = iter(found.rows)
    for model in range(2):
        of = total_variation(grads[model]), alignment(grads[model], x), sigma(grads[model])
        for i, place in enumerate((3, 8)):
            row = next(rows)
            assert row[:2] == ["quick linf:0.1", str(place)] or row[1] == str(place)
            assert row[2:4] == [str(arrays["labels"][i]), str(arrays["predicted"][model, i])]
            assert row[4:] == pytest.approx([v[i].item() for v in of])
        # The same image among others has the same gradient, and so the same numbers.
        assert arrays["variation"][model, 3] == pytest.approx(of[0][0].item(), abs=0)
    for model, row in enumerate(rows):
        assert row[4:6] == pytest.approx([arrays[name][model].mean() for name in ("variation", "alignment")])
    with open(tmp_path / said["files"][1], newline="") as file:
        table = list(csv.reader(file))
    assert table == [found.heads, *([str("" if v is None else v) for v in row] for row in found.rows)]
    with np.load(tmp_path / said["files"][2]) as plain:
        assert all(np.array_equal(plain[name], values) for name, values in arrays.items())


def test_the_gradients_are_those_of_the_models_in_the_store(bench, here, tmp_path):
    """W^T (p - e_y) with the weights that the training's record names."""
    _, arrays = kept(tmp_path, drawn(bench, "gradients", *BOTH, "--images", "0,5,9", "-n", "3"))
    found, _ = kept(tmp_path, drawn(bench, "gradients", *BOTH, "--images", "0,5,9", "-n", "3"))
    x, y = torch.from_numpy(arrays["images"]).flatten(1).float() / 255, torch.from_numpy(arrays["labels"])
    for model, about in enumerate(found.models):
        weights, bias = (here.store.get(about.weights)[name] for name in ("1.weight", "1.bias"))
        p = (x @ weights.T + bias).softmax(1)
        expected = (p - nn.functional.one_hot(y, 10)) @ weights
        assert np.allclose(arrays["gradients"][model].reshape(3, -1), expected, atol=1e-6)
        assert arrays["predicted"][model].tolist() == p.argmax(1).tolist()


def test_the_numbers_of_large_examples_are_those_of_its_arrays(bench, here, tmp_path):
    """Prediction, probability and distance, asked anew of the model about the images beside them."""
    said = drawn(bench, "large-eps", *BOTH, "--images", "1,4", "--eps", "l2:0.5,linf:0.05")
    found, arrays = kept(tmp_path, said)
    assert found.settings["threats"] == ["l2:0.5", "linf:0.05"]
    rows = {(row[2], row[0], str(m)): row for m in range(2) for row in found.rows[m::2]}
    for t, threat in enumerate(found.settings["threats"]):
        for m, about in enumerate(found.models):
            subject = here.subject(about.net, about.weights, Shape(10, 1, 8))
            x_adv = torch.from_numpy(arrays["adversarial"][t, m])
            p = subject.module(x_adv).double().softmax(1)
            before = subject.module(torch.from_numpy(arrays["images"]).float() / 255).softmax(1)
            size = ThreatModel.parse(threat).size(x_adv.double() - torch.from_numpy(arrays["images"]).double() / 255)
            for i, place in enumerate(found.images):
                row = rows[threat, str(place), str(m)]
                label = int(arrays["labels"][i])
                assert row[4:6] == [str(int(before[i].argmax())), str(int(p[i].argmax()))]
                assert row[6:] == pytest.approx([p[i].max().item(), before[i, label].item(), size[i].item()], rel=1e-4)
    assert found.rows[0][3] == "quick linf:0.1" or found.rows[0][3].startswith("quick")


def test_the_way_to_an_example_ends_there(bench, here, tmp_path):
    """The last frame is the last iterate of the ascent; probabilities are the model's, and sum to one."""
    words = ("interpolate", *BOTH, "--image", "2", "--eps", "l2:1", "--frames", "5")
    found, arrays = kept(tmp_path, drawn(bench, *words))
    assert arrays["frames"].shape == (2, 5, 1, 8, 8) and arrays["trajectory"].shape == (2, 41, 1, 8, 8)
    assert np.array_equal(arrays["frames"][:, -1], arrays["trajectory"][:, -1])
    x = torch.from_numpy(arrays["images"]).float() / 255
    assert np.allclose(arrays["probability"].sum(2), 1, atol=1e-6)
    for m, about in enumerate(found.models):
        subject = here.subject(about.net, about.weights, Shape(10, 1, 8))
        path, at = line(x, torch.from_numpy(arrays["adversarial"][m])[None], 5)
        assert np.abs(arrays["frames"][m] / 255 - path.numpy()).max() <= 0.5 / 255 + 1e-6
        assert np.allclose(arrays["distance"][m], at)
        p = subject.module(path).softmax(1).detach().numpy()
        assert np.allclose(arrays["probability"][m], p, atol=1e-5)
        for frame, row in enumerate(found.rows[5 * m : 5 * m + 5]):
            assert row[1] == f"frame {frame + 1}" and row[3] == str(p[frame].argmax())
            label = int(arrays["labels"][0])
            assert row[4:] == pytest.approx([p[frame].max(), p[frame, label]], abs=1e-5)
            assert row[2] == pytest.approx(arrays["distance"][m, frame])


def test_examples_over_epochs_need_snapshots(bench, here, tmp_path):
    """A training that kept none is named, with the mend; one that did is shown under each, the last as the model is."""
    done = bench("figure", "interpolate", *BOTH, "--epochs")
    assert done.returncode == 2 and "quick kept no snapshots; train it with snapshots=1" in done.stderr
    train = ("--defense", "standard(epochs=3, snapshots=1)", "--net", "tiny", *PLUGIN)
    assert bench("run", *train, "--columns", "clean", "-n", "20", "--executor", "inline").returncode == 0
    found, arrays = kept(
        tmp_path, drawn(bench, "interpolate", *train, "--epochs", "--eps", "l2:1", "--weights", "last")
    )
    assert arrays["epoch_0"].tolist() == [1, 2, 3]
    assert np.allclose(arrays["epoch_examples_0"][-1], arrays["adversarial"][0], atol=1e-6)
    assert [row[1] for row in found.rows[-3:]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert found.rows[-1][3:] == pytest.approx(found.rows[-4][3:], abs=1e-5)


def of(place, name):
    """The records of an attack, by model."""
    return [r for r in place.ledger.all() if isinstance(r, Record) and r.attack.startswith(name) and r.fell]


def test_examples_are_what_the_record_says(bench, here, tmp_path):
    """Both predictions and the distance as in the sidecar of the record; what stands has no example."""
    record = of(here, "slow")[0]
    beside = here.ledger.images(record)
    stood = next(i for i in record.asked if i not in record.fell)
    places = [*sorted(record.fell)[:3], stood]
    words = ("examples", "--record", record.key[:16], "--images", ",".join(map(str, places)), *PLUGIN)
    found, arrays = kept(tmp_path, drawn(bench, *words))
    for i, (place, row) in enumerate(zip(places, found.rows, strict=True)):
        at = record.asked.index(place)
        assert row[:3] == [str(place), str(arrays["labels"][i]), str(arrays["labels"][i])]  # clean lost none of these
        if place == stood:
            assert row[3:] == ["stands", None, None]
            continue
        assert row[3:5] == ["fell", str(beside["predicted"][at])]
        assert row[5] == pytest.approx(arrays["distance"][i]) and row[5] <= beside["distance"][at] * (1 + 1e-6) + 1e-7
    first, _ = kept(tmp_path, drawn(bench, "examples", "--record", record.key[:16], *PLUGIN))
    assert first.images == sorted(record.fell)[:6]


def test_of_a_minimum_norm_record_too(bench, here, tmp_path):
    """Its examples are as far as the sidecar says."""
    record = of(here, "walks")[0]
    found, arrays = kept(tmp_path, drawn(bench, "examples", "--record", record.key, *PLUGIN))
    beside = here.ledger.images(record)["distance"]
    expected = [beside[record.asked.index(i)] for i in found.images]
    assert (arrays["distance"] <= np.array(expected) * (1 + 1e-6) + 1e-7).all() and arrays["fell"].all()


def test_a_picture_is_made_once_and_is_the_same_every_time(bench, here, tmp_path):
    """A second command computes nothing and writes the same bytes; a ledger elsewhere gets the same arrays."""
    words = ("gradients", *BOTH, "--images", "1", "-n", "5")
    said = drawn(bench, *words)
    first = {name: (tmp_path / name).read_bytes() for name in said["files"]}
    there = sorted(p.name for p in (tmp_path / "ledger" / said["key"]).iterdir())
    assert drawn(bench, *words)["files"] == said["files"]
    assert {name: (tmp_path / name).read_bytes() for name in said["files"]} == first
    assert sorted(p.name for p in (tmp_path / "ledger" / said["key"]).iterdir()) == there and len(there) == 2
    for path in (tmp_path / "ledger" / said["key"]).iterdir():
        path.unlink()
    again = drawn(bench, *words)
    assert (tmp_path / again["files"][0]).read_bytes() == first[said["files"][0]]
    assert {p.name for p in (tmp_path / "ledger" / said["key"]).iterdir()} & set(there)  # the arrays are alike


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("gradient",), 2, "did you mean 'gradients'"),
        (("gradients",), 2, "which models? Name them by --defense RECIPE… or by --model HASH…"),
        (("gradients", *BOTH, "--images", "9999"), 2, "--images 9999: digits has the test images 0 to"),
        (("gradients", *BOTH, "-n", "9999"), 2, "-n 9999: digits has"),
        (("gradients", "--model", "xyz"), 2, "--model xyz: expected the first four or more digits"),
        (("gradients", "--model", "abcdef12"), 2, "made weights that begin so"),
        (("gradients", "--defense", "standard", "--net", "tiny", *PLUGIN), 4,
         "has no training of standard on digits; first: bench run --defense standard --dataset digits --net tiny"),
        (("gradients", "--defense", "quick(epochs=7)", "--threat", "l2:1", "--net", "tiny", *PLUGIN), 4,
         'first: bench run --defense "quick(epochs=7)" --dataset digits --net tiny --threat l2:1'),
        (("gradients", *BOTH, "--weights", "epoch-4"), 2, "its training kept best, last, and no epoch-4"),
        (("gradients", *BOTH, "--weights", "worst"), 2, "expected best, last, or epoch-N"),
        (("large-eps", *BOTH, "--eps", "l1:4"), 2, "expected an Linf or an L2 radius"),
        (("interpolate", *BOTH, "--eps", "l0:4"), 2, "expected an Linf or an L2 radius"),
        (("examples", "--record", "abcdef12"), 2, "has a key or a file that begins so"),
        (("examples", "--record", "a"), 2, "expected the first four or more digits"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_said(bench, here, words, code, said):
    """What was wrong, what was expected, and what to do."""
    done = bench("figure", *words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_a_record_that_moves_no_image_has_no_examples(bench, here):
    """Of clean there is nothing to show; of an image that was not asked neither."""
    clean = next(r for r in here.ledger.all() if isinstance(r, Record) and r.threat is None)
    done = bench("figure", "examples", "--record", clean.key, *PLUGIN)
    assert done.returncode == 2 and "clean moves no image" in done.stderr
    done = bench("figure", "examples", "--record", of(here, "slow")[0].key, "--images", "300", *PLUGIN)
    assert done.returncode == 2 and "slow was not asked about it" in done.stderr


def test_one_threat_of_two_that_is_there_is_shown_and_the_other_named(bench, here):
    """A defense counts under each threat for which it was trained."""
    done = bench("figure", "gradients", *BOTH, "--threat", "linf:0.1,l2:3", "-n", "2")
    both = bench("figure", "gradients", *BOTH, "--threat", "l2:3", "-n", "2")
    trained = {t.threat for t in here.ledger.all() if isinstance(t, TrainingRecord)}
    if trained == {"linf:0.1"}:
        assert done.returncode == 0 and "Left out: quick for l2:3, seed 0" in done.stderr
        assert both.returncode == 4 and "--threat l2:3" in both.stderr
    else:
        assert trained == {"linf:0.2"} and done.returncode == 4


def test_a_ledger_with_pictures_is_whole_and_merges(bench, here, tmp_path):
    """verify finds nothing, merge brings the arrays, gc keeps them, and a changed document is refused."""
    said = drawn(bench, "gradients", *BOTH, "-n", "2")
    checked = json.loads(bench("ledger", "verify", "--json").stdout)
    assert not [f for f in checked["findings"] if said["key"] in f["path"]], checked
    assert bench("ledger", "merge", "ledger", "--ledger", "other").returncode == 0
    theirs, ours = (sorted(p.name for p in (tmp_path / r / said["key"]).iterdir()) for r in ("other", "ledger"))
    assert theirs == ours
    (sidecar,) = (tmp_path / "ledger" / said["key"]).glob("*.safetensors")
    (document,) = (tmp_path / "ledger" / said["key"]).glob("*.json")
    changed = json.loads(document.read_text()) | {"images": [7]}
    with pytest.raises(ValueError, match="a field was changed"):
        read_document(json.dumps(changed))
    sidecar.write_bytes(sidecar.read_bytes()[:-1])
    done = bench("ledger", "verify")
    assert done.returncode == 5
    sidecar.unlink()
    assert bench("ledger", "verify").returncode == 4
    assert bench("ledger", "merge", "ledger", "--ledger", "third").returncode == 4


def test_colour_images_of_two_classes_are_shown_too(bench, tmp_path):
    """A linear net on small photographs; an image that is misread to begin with; weights that do not fit are named."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 3, 16, 16)).astype(np.uint8)
    y = rng.permutation(np.arange(60) % 2)  # which nothing tells
    np.savez(tmp_path / "noise.npz", x_train=x, y_train=y, x_test=x[::-1], y_test=y[::-1])
    common = ("--dataset", "npz:noise.npz", "--defense", "quick", "--net", "tiny", *PLUGIN)
    words = ("--columns", "slow", "--store", "results/store", "-n", "20", "--executor", "inline")
    assert bench("run", *common, *words).returncode == 0
    ledger = Ledger(tmp_path / "results" / "ledger")
    for kind in ("gradients", "large-eps"):
        said = drawn(
            bench, kind, *common, "--images", "0,1,2,3,4,5,6,7", *(("-n", "60") if kind == "gradients" else ())
        )
        (found,) = ledger.of(said["key"], Picture)
        arrays = ledger.arrays(found)
        assert (arrays["predicted"][0] != arrays["labels"]).any() and arrays["images"].shape == (8, 3, 16, 16)
    drawn(bench, "interpolate", *common)
    record = next(r for r in ledger.all() if isinstance(r, Record) and r.threat)
    drawn(bench, "examples", "--record", record.key, *PLUGIN)
    weights = next(t for t in ledger.all() if isinstance(t, TrainingRecord)).weights["best"]
    done = bench("figure", "gradients", "--model", weights, "--dataset", "digits", *PLUGIN)
    assert done.returncode == 2 and "its weights are not those of a net for images of digits" in done.stderr


def test_numbers_that_are_not_defined_are_left_open(here):
    """NaN and infinity become None, and the document can be read again."""
    dataset = here.dataset(here.registry.parse("dataset", "digits"))
    answer = Answer({"a": np.zeros(2)}, ["x", "y", "z"], [["one", float("nan"), float("inf")], ["two", 1, 0.5]])
    made = keep(here, dataset, answer, kind="gradients", version=1, models=[], images=[0], settings={})
    assert made.rows == [["one", None, None], ["two", 1, 0.5]]
    assert here.ledger.of(made.key, Picture) == [made]
