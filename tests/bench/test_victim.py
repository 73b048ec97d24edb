"""The model as an attack sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from bench.errors import AttackError
from bench.victim import Victim, freeze, tile_size

if TYPE_CHECKING:
    from bench.recipe import Access

CPU = torch.device("cpu")


def linear(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return freeze(nn.Sequential(nn.Flatten(), nn.Linear(4, classes)), CPU)


def victim(module: nn.Module, images: int, access: Access = "gradients", tile: int = 4) -> Victim:
    return Victim(module, tile=tile, access=access, images=images)


def first(logits: Tensor, _y: Tensor) -> Tensor:
    return logits[:, 0]


def test_gradient_of_a_linear_logit_is_its_row() -> None:
    """d z_0 / d x of a linear model is the first row of its weights, for every image."""
    module, x = linear(), torch.rand(6, 1, 2, 2)
    logits, values, grad = victim(module, 6).gradient(x, torch.zeros(6, dtype=torch.long), first)
    row = module[1].weight[0].view(1, 1, 2, 2)  # type: ignore[index, union-attr]
    assert torch.equal(grad, row.expand(6, 1, 2, 2))
    assert torch.allclose(logits, module(x))
    assert torch.equal(values, logits[:, 0])


def test_jacobian_of_a_linear_model_is_its_weights() -> None:
    """One gradient a class: the rows of the weights."""
    module, x = linear(), torch.rand(5, 1, 2, 2)
    model = victim(module, 5)
    _, jacobian = model.jacobian(x, torch.tensor([[2, 0]]).expand(5, 2))
    assert torch.equal(jacobian[3].flatten(1), module[1].weight[[2, 0]])  # type: ignore[index, union-attr]
    assert [int(c.sum()) for c in model.passes()] == [5, 10]


def test_no_weight_gets_a_gradient() -> None:
    """A gradient pass leaves the weights' gradients alone, and asks none of them."""
    module = linear()
    victim(module, 2).gradient(torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.long), first)
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_passes_are_booked_to_the_images_that_are_left() -> None:
    """Three images asked, two dropped, one asked again: 2, 1, 1 forwards; stacked candidates count each."""
    model = victim(linear(), 3)
    model(torch.rand(3, 1, 2, 2))
    left = model[torch.tensor([True, False, False])]
    left(torch.rand(1, 1, 2, 2))
    left(torch.rand(4, 1, 2, 2))
    assert model.passes()[0].tolist() == [6, 1, 1]


def test_passes_of_images_that_were_dropped_unsaid_are_still_counted() -> None:
    """An attack that slices x but not the model is booked in sum."""
    model = victim(linear(), 4)
    model(torch.rand(3, 1, 2, 2))
    assert int(model.passes()[0].sum()) == 3


def test_plain_autograd_works_and_is_counted() -> None:
    """An attack written with torch.autograd alone gets the same gradient, and pays for it."""
    module, x = linear(), torch.rand(6, 1, 2, 2, requires_grad=True)
    model = victim(module, 6)
    (grad,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert torch.equal(grad[0].flatten(), module[1].weight[0])  # type: ignore[index, union-attr]
    assert [int(c.sum()) for c in model.passes()] == [6, 6]


def test_scores_cannot_be_differentiated() -> None:
    """A scores attack gets numbers without a graph, and an error when it asks for a gradient."""
    model = victim(linear(), 2, "scores")
    assert not model(torch.rand(2, 1, 2, 2, requires_grad=True)).requires_grad
    with pytest.raises(AttackError, match="declares access='scores'"):
        model.gradient(torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.long), first)


def test_labels_are_all_that_a_labels_attack_sees() -> None:
    """Its logits are one-hot."""
    module, x = linear(), torch.rand(5, 1, 2, 2)
    seen = victim(module, 5, "labels")(x)
    assert torch.equal(seen.argmax(1), module(x).argmax(1))
    assert set(seen.unique().tolist()) == {0.0, 1.0}


def test_a_model_that_lets_no_gradient_through_gives_zero() -> None:
    """A detached forward has gradient zero, not an error."""

    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)

    _, _, grad = victim(Cut(), 2).gradient(torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.long), first)
    assert not grad.any()


def test_no_image_is_an_error() -> None:
    """Asking about nothing is a mistake of the attack, and is said."""
    with pytest.raises(AttackError, match="no image"):
        victim(linear(), 2)(torch.rand(0, 1, 2, 2))


def test_the_tile_depends_on_the_device_kind_and_net_size_alone() -> None:
    """128 for small nets on a CPU, 32 for large ones."""
    assert tile_size(CPU, nn.Linear(10, 10)) == 128
    assert tile_size(CPU, nn.Linear(2000, 1000)) == 32
