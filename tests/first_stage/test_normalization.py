import pytest
import torch
import torch.nn.functional as F

from taming.first_stage.normalization import GroupNorm


@pytest.mark.parametrize("channels", [8, 32, 96])
def test_channels_last_gives_the_value_and_gradients_of_torch(channels):
    norm = GroupNorm(channels)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = (3 + 2 * torch.randn(2, channels, 5, 6)).requires_grad_()
    g = torch.randn_like(x)
    expected = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    targets = torch.autograd.grad(expected, [x, norm.weight, norm.bias], g)
    y = norm(x.contiguous(memory_format=torch.channels_last))
    assert "_ChannelsLast" in type(y.grad_fn).__name__
    assert torch.allclose(y, expected, atol=1e-5)
    gradients = torch.autograd.grad(y, [x, norm.weight, norm.bias], g)
    for ours, reference in zip(gradients, targets):
        assert (ours - reference).abs().max() < 1e-5 * reference.abs().max()


def test_bfloat16_gives_the_gradients_of_float32_to_its_precision():
    norm = GroupNorm(64)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = (1 + 2 * torch.randn(2, 64, 16, 16)).bfloat16().float()
    g = torch.randn_like(x).bfloat16().float()

    def gradients(dtype):
        leaf = x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        y = norm(leaf)
        assert y.dtype == dtype
        return torch.autograd.grad(y, [leaf, norm.weight, norm.bias], g.to(dtype))

    for half, full in zip(gradients(torch.bfloat16), gradients(torch.float32)):
        error = (half.float() - full).norm() / full.norm()
        assert error < 0.01
    # Sums over thousands of positions keep float32's precision: bfloat16 loses 5 % of them
    assert (gradients(torch.bfloat16)[2] - g.sum(dim=(0, 2, 3))).abs().max() < 1e-2


@pytest.mark.parametrize("channels", [32, 128, 512])
@pytest.mark.parametrize("side", [4, 40])
def test_small_maps_in_bfloat16_take_the_way_through_float32_and_say_the_same(channels, side):
    norm = GroupNorm(channels)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = (3 + 2 * torch.randn(2, channels, side, side)).bfloat16()
    expected = F.group_norm(x.double(), norm.num_groups, norm.weight.double(), norm.bias.double())
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        drawn = norm(last)
    learned = norm(last.requires_grad_())
    assert torch.equal(drawn, learned) and drawn.dtype == torch.bfloat16
    seen = []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad():
        norm(last)
    assert seen == [torch.bfloat16]
    assert drawn.is_contiguous(memory_format=torch.channels_last)
    assert (drawn.double() - expected).abs().max() < 2**-7 * expected.abs().max()
