"""Attention on a CPU is torch's, but for rounding: values, gradients, and who sees whom."""

import pytest
import torch
import torch.nn.functional as F

from taming import attention
from taming.attention import attend


def drawn(length, batch=2, heads=3, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shape = (batch, heads, length, width)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def seen_by(length, causal, together):
    visible = torch.ones(length, length, dtype=torch.bool)
    if causal:
        visible = visible.tril()
        visible[:together, :together] = True
    return visible


@pytest.fixture
def always(monkeypatch):
    """Ours also where it is no faster, in small blocks."""
    monkeypatch.setattr(attention, "FEWEST", 1)
    monkeypatch.setattr(attention, "_fast_bfloat16", lambda: True)
    monkeypatch.setattr(attention, "ROWS", dict.fromkeys(attention.ROWS, 16))
    calls = []
    apply = attention._Blocks.apply
    monkeypatch.setattr(attention._Blocks, "apply", lambda *a: calls.append(a) or apply(*a))
    return calls


@pytest.mark.parametrize("length", [1, 15, 16, 40])
@pytest.mark.parametrize("together", [0, 5, 23])
def test_values_and_gradients_are_those_of_the_matrix(always, length, together):
    inputs = drawn(length)
    ours = attend(*inputs, causal=True, together=together)
    assert len(always) == 1
    plain = F.scaled_dot_product_attention(*inputs, seen_by(length, True, together))
    assert torch.allclose(ours, plain, atol=1e-6)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((ours * weight).sum(), inputs)
    for one, other in zip(gradients, torch.autograd.grad((plain * weight).sum(), inputs)):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_the_slopes(causal):
    inputs = [x.double().detach().requires_grad_() for x in drawn(9, 1, 2, 3)]
    assert torch.autograd.gradcheck(
        lambda *qkv: attention._Blocks.apply(*qkv, causal, 4 if causal else 0, True), inputs
    )


@pytest.mark.parametrize("causal", [True, False])
def test_bfloat16_is_as_exact_as_bfloat16_can_be(always, causal):
    """Scores are rounded once, which torch's fused kernel does not do: 2^-9 of scores up to 5."""
    inputs = drawn(40, dtype=torch.bfloat16)
    ours = attend(*inputs, causal=causal)
    assert always and ours.dtype == torch.bfloat16
    exact = [x.detach().double().requires_grad_() for x in inputs]
    plain = F.scaled_dot_product_attention(*exact, seen_by(40, causal, 0))
    pairs = [(ours, plain)]
    pairs += zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(plain.square().sum(), exact),
    )
    for one, other in pairs:
        assert (one.double() - other).norm() < 0.02 * other.norm()


def test_other_keys_than_queries(always):
    query = drawn(20, dtype=torch.bfloat16)[0]
    _, key, value = drawn(33, dtype=torch.bfloat16)
    ours = attend(query, key, value)
    assert always and ours.shape == query.shape
    plain = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    assert (ours.double() - plain).norm() < 0.02 * plain.norm()


def test_autocast_computes_in_bfloat16_and_gradients_come_back_in_float32(always):
    inputs = drawn(40)
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend(*inputs, causal=True)
        plain = F.scaled_dot_product_attention(*inputs, is_causal=True)
    assert always and ours.dtype == plain.dtype == torch.bfloat16
    assert {x.dtype for x in torch.autograd.grad(ours.float().sum(), inputs)} == {torch.float32}


def test_a_batch_of_none_has_none(always):
    inputs = [x[:0] for x in drawn(40)]
    attended = attend(*inputs, causal=True)
    assert always and attended.shape == (0, 3, 40, 8)


def test_autocast_leaves_double_as_it_is(always):
    inputs = [x.double() for x in drawn(40)]
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(*inputs, causal=True).dtype == torch.float64
    assert not always


def test_nothing_is_saved_where_nothing_learns(always):
    inputs = drawn(40)
    blocks = []
    saved = torch.autograd.graph.saved_tensors_hooks(lambda x: blocks.append(x.shape) or x, id)
    with saved, torch.no_grad():
        attend(*inputs, causal=True)
    assert not always[-1][-1] and not blocks
    with saved:
        attend(*inputs, causal=True)
    assert always[-1][-1] and (6, 16, 16) in blocks  # of the first 16 rows


def test_what_would_be_too_large_or_is_no_faster_is_torchs(always, monkeypatch):
    inputs = drawn(40)
    attend(*inputs)  # float32, all see all
    attend(*inputs, visible=seen_by(40, True, 3))
    attend(*inputs, causal=True, dropout=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "LARGEST", 2 * 3 * 40 * 40)
        attend(*inputs, causal=True)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "FEWEST", 41)
        attend(*inputs, causal=True)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_fast_bfloat16", lambda: False)
        attend(*drawn(40, dtype=torch.bfloat16), causal=True)
    assert not always
    attend(*inputs, causal=True)
    assert always


def test_what_all_see_in_spite_of_order_counts_as_held(always, monkeypatch):
    inputs = drawn(40)
    monkeypatch.setattr(attention, "LARGEST", 4 * 6 * 40 * 30)
    attend(*inputs, causal=True)
    assert len(always) == 1
    attend(*inputs, causal=True, together=40)
    assert len(always) == 1


def test_transforms_and_keys_of_all_the_batch_are_torchs(always):
    query, key, value = (x.detach() for x in drawn(40))
    loss = lambda q: attend(q, key, value, causal=True).sum()  # noqa: E731
    assert torch.func.grad(loss)(query).shape == query.shape
    query = query.bfloat16()
    assert attend(query, key[:1].bfloat16(), value[:1].bfloat16()).shape == query.shape
    assert not always


def test_a_second_derivative_is_refused_rather_than_wrong(always):
    query, key, value = drawn(40)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(attend(query, key, value, causal=True).sum(), key, create_graph=True)


def test_a_recorded_program_has_torchs(always):
    class Network(torch.nn.Module):
        def forward(self, query, key, value):
            return attend(query, key, value, causal=True, together=3)

    inputs = tuple(x.detach() for x in drawn(40))
    program = torch.export.export(Network(), inputs)
    assert not always
    assert torch.allclose(program.module()(*inputs), Network()(*inputs), atol=1e-6)
    assert always
