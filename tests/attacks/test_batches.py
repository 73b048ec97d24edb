"""The verdict on an image depends on nothing around it: bit by bit."""

import pytest
import torch

from attacks.apgd import apgd_ce, apgd_dlr, apgd_t
from attacks.boundary import boundary
from attacks.cw_l2 import cw_l2
from attacks.ddn import ddn
from attacks.deepfool import deepfool
from attacks.fab import fab, fab_min, fab_t
from attacks.fgsm import fgsm
from attacks.fmn import fmn
from attacks.hopskipjump import hopskipjump
from attacks.md import md, mdmt
from attacks.mim import mim
from attacks.mm import mm3, mma
from attacks.nes import nes
from attacks.noise import noise
from attacks.pgd import cw, pgd
from attacks.pgd_t import pgd_t
from attacks.rays import rays
from attacks.signhunter import signhunter
from attacks.simba import simba
from attacks.sparse_rs import sparse_rs
from attacks.spsa import spsa
from attacks.square import square
from bench import AttackError

RUNS = [
    (fgsm, {}),
    (pgd, {"steps": 6}),
    (pgd, {"steps": 4, "keep": "any", "restarts": 2}),
    (cw, {"steps": 4, "restarts": 2}),
    (apgd_ce, {"steps": 10, "restarts": 2}),
    (apgd_dlr, {"steps": 6, "restarts": 2}),
    (apgd_t, {"steps": 6, "targets": 3}),
    (fab, {"steps": 6, "restarts": 2}),
    (fab_t, {"steps": 6, "restarts": 2, "targets": 2}),
    (square, {"queries": 70}),
    (md, {"steps": 4, "change": 2}),
    (mdmt, {"steps": 2, "change": 1}),
    (mm3, {"steps": 3}),
    (mma, {"steps": 2}),
    (mim, {"steps": 4}),
    (mim, {"steps": 4, "keep": "any"}),
    (spsa, {"steps": 3, "pairs": 7}),
    (spsa, {"steps": 3, "pairs": 7, "keep": "any"}),
    (nes, {"queries": 40, "pairs": 6}),
    (signhunter, {"queries": 20}),
    (noise, {"tries": 9}),
    (noise, {"tries": 9, "kind": "corners"}),
    (fmn, {"steps": 8}),
    (deepfool, {"steps": 2}),
    (deepfool, {"steps": 1, "classes": 3}),
    (ddn, {"steps": 8, "start": 0.15}),
    (ddn, {"steps": 4, "start": 0.15, "levels": 256}),
    (cw_l2, {"rounds": 3, "steps": 12, "weight": 0.3}),
    (fab_min, {"steps": 4}),
    (fab_min, {"steps": 3, "targets": 2}),
    (pgd_t, {"steps": 3, "targets": 3}),
    (pgd_t, {"steps": 3, "targets": 3, "keep": "any"}),
    (sparse_rs, {"queries": 70}),
    (simba, {"queries": 40}),
    (simba, {"queries": 40, "basis": "dct"}),
    (rays, {"queries": 80}),
    (hopskipjump, {"queries": 150}),
    (boundary, {"queries": 60}),
]
CASES = [(a, s, n) for a, s in RUNS for n in a.norms]
NAMES = [f"{a.name}-{s.get('keep') or s.get('kind') or s.get('basis', '')}-{n}" for a, s, n in CASES]
EPS = {"linf": 0.02, "l2": 0.2, "l1": 0.6, "l0": 1}
FARTHER = {rays: 4, hopskipjump: 4, boundary: 8}  # times as far: so few queries do not bring them nearer
IMAGES = 33


@pytest.fixture(scope="module")
def scene(lab):
    """A net with odd sizes, images and its classes of them; image i sits at place 7 i of its data set."""
    net = lab.small_net(channels=1, size=7)
    torch.manual_seed(4)
    x = torch.rand(IMAGES, 1, 7, 7)
    net[-1].bias -= net(x).mean(0)  # so that no class wins everywhere
    return net, x, net(x).argmax(1), 7 * torch.arange(IMAGES)


def parts():
    """Ways to cut and order the images: batches of 1 and 7, shuffled, a subset, halves."""
    shuffled = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    every = torch.arange(IMAGES)
    return {
        "one": [every[i : i + 1] for i in range(0, IMAGES, 6)],
        "seven": list(every.split(7)),
        "shuffled": [shuffled],
        "shuffled in sevens": list(shuffled.split(7)),
        "subset": [every[::3]],
        "halves": list(every.split(17)),
    }


def threat_of(method, norm):
    """A ball that some images fall in and some do not; of a minimum-norm attack all that it gives."""
    return f"{norm}:{EPS[norm]}" if method.goal == "in-ball" else norm


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("method", "settings", "norm"), CASES, ids=NAMES)
def test_images_and_passes_are_the_same_in_any_batch(lab, scene, method, settings, norm, threads):
    """Some fall early, some late and some never, so that every batch is thinned in its own way."""
    net, x, y, ids = scene
    torch.set_num_threads(threads)

    def run(rows):
        return lab.call(method, net, x[rows], y[rows], threat_of(method, norm), ids=ids[rows], **settings)

    whole, spent = run(torch.arange(IMAGES))
    fell = net(whole).argmax(1) != y
    assert fell.any()
    assert method.goal == "minimum-norm" or not fell.all()
    for name, batches in parts().items():
        for rows in batches:
            found, passes = run(rows)
            assert torch.equal(found, whole[rows]), name
            assert torch.equal(passes[0], spent[0][rows]), name
            assert torch.equal(passes[1], spent[1][rows]), name


@pytest.mark.parametrize(("method", "settings", "norm"), CASES, ids=NAMES)
def test_one_and_two_threads_agree(lab, scene, method, settings, norm):
    """On tiles of one shape the arithmetic of an image is not split over threads."""
    net, x, y, ids = scene
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(lab.call(method, net, x, y, threat_of(method, norm), ids=ids, **settings)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize(("method", "settings", "norm"), CASES, ids=NAMES)
def test_the_judge_says_the_same_in_any_batch(lab, method, settings, norm):
    """Colour images: verdict, margin, distance and passes for batches of 1, 7 and 64, and in another order."""
    net = lab.small_net()
    torch.manual_seed(6)
    x = (torch.rand(20, 3, 8, 8) * 255).byte()
    y = net(x.float() / 255).argmax(1)
    eps = {"linf": 0.01, "l2": 0.15, "l1": 2, "l0": 2}[norm] * {**FARTHER, noise: 10, simba: 4}.get(method, 1)

    def ask(batch, order):
        return lab.asked(method, net, x, y, f"{norm}:{eps}", batch=batch, order=order, **settings)

    whole = ask(64, torch.arange(20))
    assert 0 < whole.fell.sum() < 20
    for batch, order in ((1, torch.arange(20)), (7, torch.arange(20)), (64, torch.arange(20).flip(0))):
        other = ask(batch, order)
        for field in ("fell", "predicted", "margin", "distance", "forwards", "backwards"):
            assert torch.equal(getattr(other, field), getattr(whole, field)[order]), (field, batch)
        if batch < 64:
            assert torch.equal(other.adversarial, whole.adversarial)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("method", "settings", "norm"), CASES, ids=NAMES)
def test_few_classes_and_one_image(lab, method, settings, norm, classes):
    """Two or three classes, gray, one image: the judge finds nothing to object to, or the attack says why not."""
    net = lab.small_net(channels=1, classes=classes)
    x = torch.full((1, 1, 8, 8), 60, dtype=torch.uint8)
    y = net(x.float() / 255).argmax(1)
    if method is apgd_dlr and classes == 2:
        with pytest.raises(AttackError, match=r"apgd-dlr.* image 0: .* there are 2 classes"):
            lab.asked(method, net, x, y, f"{norm}:{10 * EPS[norm]}", **settings)
        return
    verdict = lab.asked(method, net, x, y, f"{norm}:{10 * EPS[norm]}", **settings)
    assert verdict.margin.isfinite().all()
    # FAB gives the image itself where it finds nothing in the ball.
    assert verdict.distance > 0 or (method in {fab, fab_t} and not verdict.fell)
