"""Hypersphere embedding: logits are cosines, and gradients those of the authors' code."""

import ast
import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import UsageError
from bench.fast import hasten
from bench.passes import lean
from defenses import nets_he
from defenses.nets_he import BASES, Cosine, embedded
from tests.defenses.making import gradient, last_map, lively, made, parameters, zoo


def test_every_net_that_it_offers_can_be_had_and_loses_its_biases():
    """The setting's values are the table's; each has the parameters of the plain net less one bias a class."""
    annotation = inspect.signature(nets_he.he.function).parameters["net"].annotation
    assert set(ast.literal_eval(f"({annotation[len('Literal[') : -1]})")) == set(BASES)
    for name in BASES:
        wide = "wrn(depth=34, width=20)" if name == "wrn-34-20" else name
        plain, ours = made(wide, device="meta"), made(f"he(net={name!r})", device="meta")
        assert parameters(ours) == parameters(plain) - 10
        lost = plain.state_dict().keys() - ours.state_dict().keys()
        assert len(lost) == 1 and lost.pop().endswith(".bias")
        logits, found = last_map(ours, torch.empty(2, 3, 32, 32, device="meta"))
        assert logits.shape == (2, 10) and found.ndim == 4


@pytest.mark.parametrize("s", [10.0, 15.0])
def test_logits_are_s_times_cosines(s):
    """They lie within -s and s, are the cosines computed one by one, and the module says its scale."""
    torch.manual_seed(0)
    net = lively(made(f"he(net='resnet20', s={s})"))
    seen = []
    net.linear.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    logits = net(torch.rand(3, 3, 32, 32))
    (features,) = seen
    assert net.scale == s and logits.abs().max() <= s
    for i in range(3):
        for k in range(10):
            a, b = features[i].double(), net.linear.weight[k].double()
            cosine = (a @ b / (a.norm() * b.norm())).item()
            assert (logits[i, k] / net.scale).item() == pytest.approx(cosine, abs=1e-5)


def test_logits_do_not_depend_on_the_lengths_of_features_and_weights():
    """Five times the features and other lengths of the class vectors leave them; features of zero give zero."""
    torch.manual_seed(0)
    head = Cosine(16, 4, 10.0).eval()
    features = torch.randn(6, 16)
    wanted = head(features)
    assert torch.allclose(head(5 * features), wanted, atol=1e-5)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[0.1], [2.0], [30.0], [1.0]]))
    assert torch.allclose(head(features), wanted, atol=1e-5)
    assert not head(torch.zeros(1, 16)).any()


def test_asking_in_eval_mode_changes_no_weight():
    """In training mode the class vectors are brought to length 1, as in the authors' code; in eval mode they stay."""
    torch.manual_seed(0)
    head = Cosine(16, 4, 10.0)
    before, features = head.weight.detach().clone(), torch.randn(2, 16)
    asked = head.eval()(features)
    assert torch.equal(head.weight, before)
    trained = head.train()(features)
    assert torch.allclose(head.weight.norm(dim=1), torch.ones(4))
    assert torch.allclose(trained, asked, atol=1e-5)


def test_gradients_in_training_are_those_of_the_authors_code():
    """They divide the weights by their norms in place and differentiate a plain linear layer of unit features."""
    torch.manual_seed(0)
    head = Cosine(16, 4, 10.0)
    theirs = nn.Linear(16, 4, bias=False)
    theirs.load_state_dict(head.state_dict())
    y = torch.tensor([0, 1, 2, 3, 0])
    ours_x = torch.randn(5, 16, requires_grad=True)
    theirs_x = ours_x.detach().clone().requires_grad_()
    # Two forwards before the backward, as in TRADES.
    F.cross_entropy(head(ours_x) + 0.5 * head(2 * ours_x + 1), y).backward()
    theirs.weight.data = F.normalize(theirs.weight.data)
    F.cross_entropy(10 * theirs(F.normalize(theirs_x)) + 5 * theirs(F.normalize(2 * theirs_x + 1)), y).backward()
    assert torch.allclose(head.weight.grad, theirs.weight.grad, atol=1e-6)
    assert torch.allclose(ours_x.grad, theirs_x.grad, atol=1e-6)


def test_the_zoos_hypersphere_net_has_these_weights_and_cosines():
    """A wide ResNet without the last bias: its features and weights, normalised by hand."""
    torch.manual_seed(0)
    theirs = lively(zoo("wide_resnet", "WideResNet")(depth=10, widen_factor=1, bias_last=False))
    ours = embedded(made("wrn(depth=10, width=1)"), 10.0).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(3, 3, 32, 32)
    seen = []
    theirs.fc.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    theirs(x)
    wanted = 10 * F.normalize(seen[0]) @ F.normalize(theirs.fc.weight).T
    assert torch.allclose(ours(x), wanted, atol=1e-4)


def test_faster_passes_leave_its_answers():
    """lean: equal logits to the bit and gradients to rounding; hasten: a copy that is used, so that it agrees."""
    torch.manual_seed(0)
    net = lively(made("he(net='resnet20')")).requires_grad_(False)
    quick = lean(copy.deepcopy(net))
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    assert torch.equal(quick(x), net(x))
    wanted = gradient(net, x, y)
    assert wanted.isfinite().all() and wanted.any()
    assert torch.allclose(gradient(quick, x, y), wanted, atol=1e-4 * wanted.abs().max().item())
    assert hasten(net, x) is not net


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("he(net='resnet19')", "did you mean 'resnet18'"),
        ("he(net='he')", "expected one of 'cnn', 'resnet18'"),
        ("he(s=0)", "expected a scale above 0"),
        ("he(s=-1.0)", "expected a scale above 0"),
        ("he(net='wrn-28-10-silu')", "a multiple of 4 pixels"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    """With what can."""
    with pytest.raises(UsageError, match=message):
        made(text, size=30)
