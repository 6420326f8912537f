"""Linear layers by oneDNN are torch's, but for rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from taming import products
from taming.products import linear

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


@pytest.fixture
def calls(monkeypatch):
    """As on a processor where it is faster."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    calls, apply = [], products._Linear.apply
    monkeypatch.setattr(products._Linear, "apply", lambda *a: calls.append(a) or apply(*a))
    return calls


def drawn(bias=True, tokens=12):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, tokens, 24), (40, 24), (40,)][: 2 + bias]
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_values_and_gradients_are_torchs(calls, bias, transposed):
    inputs = drawn(bias)
    if transposed:
        inputs[0] = inputs[0].detach().transpose(0, 1).requires_grad_()
    ours, plain = linear(*inputs), F.linear(*inputs)
    assert len(calls) == 1
    assert torch.allclose(ours, plain, atol=1e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
    gradients = torch.autograd.grad((ours * weight).sum(), inputs)
    for one, other in zip(gradients, torch.autograd.grad((plain * weight).sum(), inputs)):
        assert one.shape == other.shape and torch.allclose(one, other, atol=1e-4)


def test_only_what_is_asked_for_is_computed(calls):
    x, weight, bias = drawn()
    weight.requires_grad_(False), bias.requires_grad_(False)
    linear(x, weight, bias).sum().backward()
    assert calls and x.grad is not None
    assert torch.allclose(x.grad, weight.sum(dim=0).expand_as(x), atol=1e-4)


def test_gradients_of_gradients_are_torchs(calls):
    x, weight, bias = drawn()

    def penalty(product):
        (slope,) = torch.autograd.grad(
            product(x, weight, bias).square().sum(), x, create_graph=True
        )
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    ours, plain = penalty(linear), penalty(F.linear)
    assert calls and torch.allclose(ours, plain, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("learns", ["input", "weight"])
def test_only_what_the_gradient_needs_is_saved(calls, learns):
    x, weight, bias = drawn()
    (weight if learns == "input" else x).requires_grad_(False)
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(t.shape) or t, id):
        linear(x, weight, bias)
    assert calls and shapes == [weight.shape if learns == "input" else x.shape]


@pytest.mark.parametrize("bias", [(1,), (39,), None])
def test_what_does_not_fit_is_left_to_torch(calls, bias):
    x, weight, _ = (one.detach() for one in drawn())
    if bias is None:
        assert linear(x[..., :0], weight[:, :0]).shape == (2, 12, 40)
    elif bias == (1,):
        assert linear(x, weight, torch.ones(1)).shape == (2, 12, 40)
    else:
        with pytest.raises(RuntimeError, match="size"):
            linear(x, weight, torch.ones(bias))
    assert not calls


def test_operations_are_counted(calls):
    x, weight, bias = drawn()
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 24 * 24 * 40 and not calls


def test_transforms_are_torchs(calls):
    x, weight, bias = (one.detach() for one in drawn())
    slopes = torch.func.grad(lambda w: linear(x, w, bias).sum())(weight)
    assert slopes.shape == weight.shape and not calls


@pytest.mark.parametrize("case", ["few rows", "double", "autocast", "elsewhere", "recorded"])
def test_everything_else_is_torchs(calls, monkeypatch, case):
    x, weight, bias = (one.detach() for one in drawn())
    if case == "few rows":
        x = x[:, :7]
    elif case == "double":
        x, weight, bias = x.double(), weight.double(), bias.double()
    elif case == "elsewhere":
        x, weight, bias = x.to("meta"), weight.to("meta"), bias.to("meta")
    if case == "recorded":

        class Layer(torch.nn.Module):
            def forward(self, x):
                return linear(x, weight, bias)

        torch.export.export(Layer(), (x,))
    else:
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            assert linear(x, weight, bias).shape == (*x.shape[:-1], 40)
    assert not calls


def test_which_is_faster_is_a_matter_of_the_processor(monkeypatch):
    """Not of a timing, which would make numbers differ from run to run."""
    for maker, avx512, expected in (
        ("AuthenticAMD", True, True),
        ("AuthenticAMD", False, False),
        ("GenuineIntel", True, False),
    ):
        products.onednn_is_faster.cache_clear()
        monkeypatch.setattr(products.Path, "is_file", lambda path: False)
        monkeypatch.setattr(products.platform, "processor", lambda maker=maker: f"x86 {maker}")
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=avx512: {"avx512_f": f})
        assert products.onednn_is_faster() is expected
    products.onednn_is_faster.cache_clear()
