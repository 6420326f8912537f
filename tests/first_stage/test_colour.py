import pytest
import torch

from taming import config
from taming.errors import UserError
from taming.first_stage import VQGAN, VectorQuantizer, VQGANLoss, YCbCr


def landscape_colours(count: int = 8) -> torch.Tensor:
    """Pictures in which red against green varies far less than brightness."""
    generator = torch.Generator().manual_seed(3)
    brightness = torch.randn(count, 1, 12, 10, generator=generator) * 0.3
    tint = torch.randn(count, 3, 12, 10, generator=generator) * 0.02
    return (brightness + tint - 0.1).clamp(-1, 1)


def model_with(colour: YCbCr | None, **options) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(8, [1, 2], VectorQuantizer(16, 4), 1, latent_channels=8, colour=colour, **options)


def test_every_channel_has_mean_0_and_deviation_1_and_the_inverse_gives_the_image_back():
    colour, images = YCbCr(), landscape_colours()
    colour.fit(images)
    assert colour.deviation.max() > 5 * colour.deviation.min()
    channels = colour(images).transpose(0, 1).flatten(1)
    assert torch.allclose(channels.mean(dim=1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(channels.std(dim=1, correction=0), torch.ones(3), atol=1e-4)
    assert torch.allclose(colour.inverse(colour(images)), images, atol=1e-6)


def test_grey_has_no_colour_and_red_is_a_positive_red_difference():
    plain = YCbCr([0, 0, 0], [1, 1, 1])
    grey = torch.full((1, 3, 1, 1), 0.4)
    assert torch.allclose(plain(grey).flatten(), torch.tensor([0.4, 0, 0]), atol=1e-6)
    red = torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1)
    assert plain(red)[0, 2] == pytest.approx(1, abs=1e-5)
    assert plain(red)[0, 1] < 0


def test_grey_pictures_give_no_division_by_zero():
    colour = YCbCr()
    colour.fit(torch.rand(4, 1, 6, 6).expand(-1, 3, -1, -1))
    assert colour(torch.rand(1, 3, 4, 4)).isfinite().all()


def test_autocast_leaves_colours_in_full_precision():
    colour, images = YCbCr([0, 0, 0], [0.5, 0.1, 0.1]), landscape_colours()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(colour(images), colour(images.clone()))
        back = colour.inverse(colour(images))
    assert torch.allclose(back, images, atol=1e-6)


def test_statistics_travel_with_the_weights():
    first, second = model_with(YCbCr()), model_with(YCbCr())
    first.colour.fit(landscape_colours())
    second.load_state_dict(first.state_dict())
    image = landscape_colours(2)
    assert second.colour.fitted
    assert torch.equal(first.reconstruct(image), second.reconstruct(image))


def test_the_loss_weighs_each_channel_by_its_deviation():
    """The same error costs as many times more in red-green as that varies less."""
    colour = YCbCr([0, 0, 0], [0.5, 0.1, 0.05])
    loss = VQGANLoss("none", adversarial=0, colour_weight=1.0)
    loss.set_colour(colour)
    image = landscape_colours()
    costs = []
    for channel in range(3):
        shift = torch.zeros(3)
        shift[channel] = 0.01
        output = colour.inverse(colour(image) + (shift / colour.deviation).view(1, 3, 1, 1))
        costs.append(float(loss.distance(image, output)[1]["colour"]))
    assert costs[1] == pytest.approx(5 * costs[0], rel=1e-3)
    assert costs[2] == pytest.approx(10 * costs[0], rel=1e-3)


def test_the_loss_without_colours_and_colours_of_other_than_three_channels_are_refused():
    with pytest.raises(UserError, match=r"colour_weight: the model has no colours .* add"):
        VQGANLoss("none", adversarial=0, colour_weight=1.0).set_colour(None)
    node = {
        "target": "taming.first_stage.VQGAN",
        "params": {
            "channels": 8,
            "multipliers": [1, 2],
            "in_channels": 1,
            "colour": {"target": "taming.first_stage.YCbCr"},
            "quantizer": {
                "target": "taming.first_stage.VectorQuantizer",
                "params": {"num_codes": 4, "dim": 2},
            },
        },
    }
    with pytest.raises(UserError, match="3 channels, not 1"):
        config.build(node)
    node["params"]["colour"]["params"] = {"mean": [0, 0, 0]}
    with pytest.raises(UserError, match="mean and deviation belong together"):
        config.build(node)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_only_replicate_padding_keeps_a_plain_picture_plain(padding):
    """A frame around the picture comes from zeros outside of it."""
    model = model_with(None, padding=padding)
    output = model.reconstruct(torch.full((1, 3, 24, 24), 0.7))
    spread = (output - output[..., 12:13, 12:13]).abs().amax()
    assert (spread < 1e-4) == (padding == "replicate")
