import pytest
import torch
from safetensors.torch import save_file

from taming.errors import UserError
from taming.first_stage.perceptual import VGG_BLOCKS, perceptual_distance


@pytest.fixture
def vgg_file(tmp_path):
    state, channels = {}, 3
    for b, widths in enumerate(VGG_BLOCKS[:2], start=1):
        for c, width in enumerate(widths, start=1):
            state |= {
                f"block{b}_conv{c}.weight": (
                    torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5
                ),
                f"block{b}_conv{c}.bias": torch.zeros(width),
            }
            channels = width
    save_file(state, tmp_path / "vgg.safetensors")
    return str(tmp_path / "vgg.safetensors")


@pytest.mark.parametrize("kind", ["stlpips", "file"])
def test_zero_for_equal_pictures_positive_for_others_and_differentiable(kind, vgg_file):
    distance = perceptual_distance(vgg_file if kind == "file" else kind, blocks=2)
    x, y = torch.rand(2, 3, 64, 64) * 2 - 1, (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    assert distance(x, x).abs().max() < 1e-6
    value = distance(x, y)
    assert value.shape == (2,) and (value > 0).all()
    value.sum().backward()
    assert y.grad.any()


def test_a_file_without_the_layer_is_named(vgg_file):
    with pytest.raises(UserError, match="block3_conv1"):
        perceptual_distance(vgg_file, blocks=3)


def test_none_is_none():
    assert perceptual_distance("none") is None


def test_shared_weights_see_edges_before_noise(shared):
    """A shifted edge is nearer than another picture."""
    distance = perceptual_distance(
        str(shared / "weights" / "vgg16_imagenet_features_fp16.safetensors")
    )
    edge = torch.full((1, 3, 64, 64), -0.8)
    edge[..., 30:] = 0.8
    assert distance(edge, edge.roll(1, -1)) < 0.5 * distance(edge, torch.rand_like(edge) * 2 - 1)
