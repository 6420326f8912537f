import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from taming.errors import UserError
from taming.first_stage import VQGANLoss
from taming.first_stage.perceptual import UnitDistance, perceptual_distance
from tests.conftest import write_vgg


@pytest.fixture
def vgg_file(tmp_path):
    return str(write_vgg(tmp_path / "vgg.safetensors", blocks=2))


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


def test_without_a_perceptual_network_the_loss_is_l1_and_has_no_such_term():
    loss = VQGANLoss("none", perceptual_weight=5.0, adversarial=0)
    x, y = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    value, terms = loss.distance(x, y)
    assert torch.equal(value, (x - y).abs().mean()) and list(terms) == ["l1"]


@pytest.mark.parametrize("kind", ["stlpips", "file"])
def test_pictures_too_small_for_the_network_are_refused(kind, vgg_file):
    distance = perceptual_distance(vgg_file if kind == "file" else kind, blocks=2)
    with pytest.raises(UserError, match="1x1 are too small"):
        distance(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("block2_conv1.bias"), "no block2_conv1.bias of shape"),
        (lambda state: state["block1_conv1.weight"].fill_(torch.nan), "not finite"),
        (lambda state: state.update({"block1_conv2.weight": torch.zeros(3)}), "block1_conv2"),
        (lambda state: state.clear(), "other.*weight"),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_file_that_is_no_vgg16_is_refused_in_one_line(change, words, ending, vgg_file, tmp_path):
    state = load_file(vgg_file)
    change(state)
    path = str(tmp_path / f"other.{ending}")
    (save_file if ending == "safetensors" else torch.save)(state, path)
    with pytest.raises(UserError, match=words) as error:
        perceptual_distance(path, blocks=2)
    assert "\n" not in str(error.value)


def test_a_weights_file_runs_nothing(tmp_path):
    class Harmful:
        def __reduce__(self):
            return open, (str(tmp_path / "written"), "w")

    torch.save({"block1_conv1.weight": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(UserError, match="harmful.pt"):
        perceptual_distance(str(tmp_path / "harmful.pt"))
    assert not (tmp_path / "written").exists()


def test_shared_weights_see_edges_before_noise(shared):
    """A shifted edge is nearer than another picture."""
    distance = perceptual_distance(
        str(shared / "weights" / "vgg16_imagenet_features_fp16.safetensors")
    )
    edge = torch.full((1, 3, 64, 64), -0.8)
    edge[..., 30:] = 0.8
    assert distance(edge, edge.roll(1, -1)) < 0.5 * distance(edge, torch.rand_like(edge) * 2 - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_distance_of_two_maps_is_that_of_their_directions(dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 6, 5, 4, generator=generator).to(dtype) for _ in range(2))
    a[:, :, 0, 0] = 0  # nothing fired: a direction of no length
    b[0, :, 1, 1] = a[0, :, 1, 1]
    b.requires_grad_()
    ours = UnitDistance.apply(a, b)
    plain = (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(dim=1)
    assert ours.dtype == torch.float32 and torch.allclose(ours, plain, atol=1e-6)
    assert (ours[:, 0, 0] - 1).abs().max() < 1e-6 and ours[0, 1, 1] < 1e-10
    weight = torch.rand(ours.shape, generator=generator)
    one, other = (torch.autograd.grad((x * weight).sum(), b)[0] for x in (ours, plain))
    assert one.dtype == dtype
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(UnitDistance.apply(a, b).sum(), b, create_graph=True)
    assert torch.allclose(one, other, atol=1e-6 if dtype == torch.float32 else 1e-2)
