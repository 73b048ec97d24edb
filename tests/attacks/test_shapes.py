"""Every attack there is, on the smallest images, on many classes and where nothing stands: it works or says why not."""

import pytest
import torch

from bench.errors import AttackError
from bench.recipe import Attack
from bench.registry import plugins

# Whatever of these settings an attack has; enough to reach every branch that a shape could break.
SMALL = {"steps": 3, "queries": 12, "restarts": 2, "rounds": 2, "targets": 3, "change": 1, "pairs": 4, "tries": 4}
ATTACKS = [
    a
    for a in plugins().all("attack")
    # No attack; one that needs another model; the reference's, which say themselves what they cannot do.
    if isinstance(a, Attack) and a.name not in ("clean", "transfer") and not a.name.startswith("reference-")
]
CASES = [(a, n) for a in ATTACKS for n in a.norms]
cases = pytest.mark.parametrize(("method", "norm"), CASES, ids=[f"{a.name}-{n}" for a, n in CASES])
EPS = {"linf": "0.1", "l2": "0.2", "l1": "0.5", "l0": "1"}
SHAPES = {
    "a gray pixel": (1, 1, 1, 1, 2),
    "gray pixels": (5, 1, 1, 1, 3),
    "a coloured pixel": (1, 3, 1, 1, 10),
    "a row": (3, 1, 1, 5, 4),
    "a column": (3, 3, 5, 1, 4),
    "gray": (4, 1, 6, 6, 10),
    "one of 200 classes": (1, 3, 4, 4, 200),
    "200 classes": (6, 3, 4, 4, 200),
}
TWO = r"apgd-dlr.* image 0: .* there are 2 classes"  # the one thing an attack cannot do, and how it says so


def scene(lab, images, channels, height, width, classes):
    """A linear model, uint8 images with black and white among them, and its classes of them."""
    torch.manual_seed(classes)
    size = channels * height * width
    net = lab.Linear(torch.randn(classes, size) / size**0.5, 0.1 * torch.randn(classes))
    x = (torch.randn(images, channels, height, width) * 160 + 128).clamp(0, 255).byte()
    return net, x, net(x.float() / 255).argmax(1)


def settings(method):
    return {k: v for k, v in SMALL.items() if k in method.defaults}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@cases
def test_any_shape_and_number_of_classes(lab, method, norm, shape):
    """The judge has nothing to object to, and nothing falls nearer than can be; or the error says why not."""
    net, x, y = scene(lab, *shape)
    if method.name == "apgd-dlr" and shape[-1] == 2:
        with pytest.raises(AttackError, match=TWO):
            lab.asked(method, net, x, y, f"{norm}:{EPS[norm]}", tile=4, **settings(method))
        return
    verdict = lab.asked(method, net, x, y, f"{norm}:{EPS[norm]}", tile=4, **settings(method))
    assert len(verdict.fell) == len(x)
    assert verdict.margin.isfinite().all()
    least = lab.distance(net.weight, net.bias, x.float() / 255, y, norm)
    assert (verdict.distance >= least * (1 - 1e-4) - 1e-6)[verdict.fell].all()


@cases
def test_no_image_left_standing(lab, method, norm):
    """Images that are misread before the attack begins: it ends, and none is read right after it."""
    net, x, y = scene(lab, *SHAPES["gray"])
    verdict = lab.asked(method, net, x, (y + 1) % 10, f"{norm}:{EPS[norm]}", **settings(method))
    assert verdict.fell.all()
