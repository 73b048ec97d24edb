import math

import pytest
import torch

from attacks.losses import cross_entropy, dlr, margin, misread, rivals, targeted_dlr, targeted_margin
from bench import UsageError

Z = torch.tensor([[2.0, -1.0, 0.5, 0.0], [-3.0, -1.0, -2.0, -5.0]])
Y = torch.tensor([0, 2])


def test_margin_is_the_best_other_logit_less_the_true_one():
    """Also where every logit is negative, and with two classes."""
    assert margin(Z, Y).tolist() == [-1.5, 1.0]
    assert margin(torch.tensor([[1.0, 4.0]]), torch.tensor([0])).tolist() == [3.0]


def test_cross_entropy_of_equal_logits_is_the_log_of_the_number_of_classes():
    """-log(1/K)."""
    assert cross_entropy(torch.zeros(3, 7), torch.arange(3)).tolist() == pytest.approx([math.log(7)] * 3)


def test_dlr_is_the_margin_over_the_gap_between_first_and_third():
    """By hand: (0.5 - 2) / (2 - 0), and (-1 + 2) / (-1 + 3)."""
    assert dlr(Z, Y).tolist() == pytest.approx([-0.75, 0.5])


def test_dlr_does_not_see_shift_and_scale():
    """The ratio cancels both."""
    assert torch.allclose(dlr(7 * Z + 3, Y), dlr(Z, Y))


def test_dlr_needs_a_third_class():
    """With two there is nothing to divide by."""
    with pytest.raises(UsageError, match="third logit, and there are 2 classes"):
        dlr(Z[:, :2], torch.tensor([0, 1]))


PAIRS = torch.tensor([[0, 2], [2, 0]])  # the true class, then the target


def test_targeted_dlr_is_the_margin_to_the_target_over_the_gap_to_the_third_and_fourth():
    """By hand: (0.5 - 2) / (2 - (0 - 1) / 2), and (-3 + 2) / (-1 - (-3 - 5) / 2); with three classes no divisor."""
    assert targeted_dlr(Z, PAIRS).tolist() == pytest.approx([-1.5 / 2.5, -1 / 3])
    assert torch.allclose(targeted_dlr(7 * Z + 3, PAIRS), targeted_dlr(Z, PAIRS))
    assert targeted_margin(Z, PAIRS).tolist() == [-1.5, -1.0]
    assert torch.equal(targeted_margin(1000 * Z, PAIRS), 1000 * targeted_margin(Z, PAIRS))
    assert torch.equal(targeted_dlr(Z[:, :3], PAIRS), targeted_margin(Z, PAIRS))


def test_rivals_are_the_other_classes_best_first():
    """Never the true one, also where it is not the best; a tie goes to the lower class; at most K - 1."""
    assert rivals(Z, Y, 2).tolist() == [[2, 3], [1, 0]]
    assert rivals(Z, Y, 9).tolist() == [[2, 3, 1], [1, 0, 3]]
    assert rivals(torch.zeros(1, 4), torch.tensor([1]), 9).tolist() == [[0, 2, 3]]
    assert rivals(Z, Y, 0).shape == (2, 0)


def test_the_true_class_is_no_rival_beside_a_logit_of_minus_infinity():
    """Its own mask is -inf too; also where it is not the best, and where logits tie."""
    z = torch.tensor([[3.0, 1, 2, 0], [1.0, 1, 1, 1], [5.0, -torch.inf, -torch.inf, 2]])
    assert rivals(z, torch.tensor([2, 1, 1]), 2).tolist() == [[0, 1], [0, 2], [0, 3]]
    assert rivals(z, torch.tensor([2, 1, 1]), 9).tolist() == [[0, 1, 3], [0, 2, 3], [0, 3, 2]]


@pytest.mark.parametrize("loss", [cross_entropy, margin, dlr])
def test_a_gradient_does_not_depend_on_the_neighbours(loss):
    """Each image's row is what it would be alone, also beside an image that is already misread."""

    def gradient(z, y):
        z = z.clone().requires_grad_()
        return torch.autograd.grad(loss(z, y).sum(), z)[0]

    together = gradient(Z, Y)
    assert torch.allclose(together, torch.cat([gradient(Z[i : i + 1], Y[i : i + 1]) for i in range(2)]))
    assert together.abs().sum(1).gt(0).all()


def test_dlr_differentiates_its_divisor():
    """Against finite differences in float64."""
    z = Z.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dlr(z, Y), (z,))
    assert torch.autograd.gradcheck(lambda z: targeted_dlr(z, PAIRS), (z,))


def test_misread_follows_argmax_and_counts_what_is_not_a_number():
    """A tie goes to the lowest index, as the judge decides it."""
    z = torch.tensor([[1.0, 1.0], [1.0, 1.0], [torch.nan, 1.0], [5.0, -torch.inf], [5.0, 1.0]])
    assert misread(z, torch.tensor([0, 1, 1, 0, 0])).tolist() == [False, True, True, True, False]
