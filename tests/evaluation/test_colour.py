"""Colours that come back, and the frame around pictures, on pictures with plain answers."""

import colorsys

import numpy as np
import pytest
import torch

from taming.evaluation import colour

RED, GREEN, GREY = (1.0, -0.8, -0.8), (-0.8, 0.6, -0.8), (0.1, 0.1, 0.1)


def plain(*colours, side: int = 8) -> torch.Tensor:
    """A picture of one colour for each."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, side, side).contiguous()


def figures(original, image) -> dict[str, float]:
    rows = {key: value.numpy() for key, value in colour.measured(original, image).items()}
    return {name: estimate.value for name, estimate in colour.figures(rows, seed=0).items()}


def test_equal_pictures_keep_everything():
    pictures = torch.rand(3, 3, 12, 10) * 2 - 1
    values = figures(pictures, pictures.clone())
    for channel in colour.CHANNELS:
        assert values[f"correlation_{channel}"] == pytest.approx(1)
        assert values[f"error_{channel}"] == 0
    assert values["hue"] == values["hue_red"] == values["hue_green"] == 1
    assert values["border_error"] == values["corner_error"] == values["inside_error"] == 0


def test_correlation_and_error_are_those_over_all_pixels_of_all_pictures():
    generator = torch.Generator().manual_seed(0)
    pictures = (torch.rand(4, 3, 9, 7, generator=generator) * 255).round() / 127.5 - 1
    again = (pictures + 0.2 * torch.randn(pictures.shape, generator=generator)).clamp(-1, 1)
    values = figures(pictures, again)
    x, y = (
        ((part + 1) * 127.5).round().permute(1, 0, 2, 3).flatten(1) for part in (pictures, again)
    )
    red_difference = torch.tensor([0.5, -0.418688, -0.081312])
    x, y = red_difference @ x, red_difference @ y
    assert values["correlation_cr"] == pytest.approx(
        float(np.corrcoef(x.numpy(), y.numpy())[0, 1]), abs=1e-5
    )
    assert values["error_cr"] == pytest.approx(float((x - y).abs().mean()), rel=1e-5)


def test_grey_pictures_lose_chroma_and_nothing_of_brightness():
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1
    weights = torch.tensor([0.299, 0.587, 0.114])
    grey = torch.einsum("c,bchw->bhw", weights, pictures)[:, None].expand(-1, 3, -1, -1)
    values = figures(pictures, grey)
    assert values["correlation_y"] > 0.9999 and values["hue"] == 0
    assert "correlation_cb" not in values, "what does not vary has no correlation"
    assert values["error_cb"] > 10


def test_a_green_meadow_that_turns_brown_is_named_and_a_red_roof_beside_it_too():
    original = plain(GREEN, GREEN, RED, GREY)
    values = figures(original, plain(GREEN, (0.2, 0.0, -0.8), RED, GREY))
    assert values["hue_green"] == pytest.approx(0.5)
    assert values["hue_red"] == 1
    assert values["hue"] == pytest.approx(2 / 3), "grey pixels have no hue to lose"
    faded = figures(original, plain((0.0, 0.02, 0.0), GREEN, RED, GREY))
    assert faded["hue"] == pytest.approx(2 / 3), "a trace of green is grey to the eye"
    assert faded["hue_green"] == 1, "but green is still the largest"
    assert "hue_green" not in figures(plain(RED, GREY), plain(RED, GREY))


def test_hues_are_those_of_hsv():
    colours = torch.rand(50, 3, generator=torch.Generator().manual_seed(2))
    hues, chroma = colour.hue_and_chroma(colours[:, :, None, None])
    for (red, green, blue), hue, depth in zip(colours.tolist(), hues.flatten(), chroma.flatten()):
        expected = colorsys.rgb_to_hsv(red, green, blue)
        assert float(hue) == pytest.approx(360 * expected[0], abs=1e-3)
        assert float(depth) == pytest.approx(expected[1] * expected[2], abs=1e-6)
    assert torch.isfinite(colour.hue_and_chroma(torch.zeros(1, 3, 2, 2))[0]).all()


def test_a_frame_of_one_pixel_is_seen_and_the_inside_is_not_blamed():
    original = plain(GREY, side=10)
    framed = original.clone()
    framed[..., 0, :] += 40 / 127.5
    values = figures(original, framed)
    assert values["inside_error"] == 0
    assert values["border_error"] == pytest.approx(40 * 10 / 36)
    assert values["corner_error"] == pytest.approx(20)


def test_a_grid_of_codes_that_shows_is_seen():
    generator = torch.Generator().manual_seed(1)
    original = torch.rand(6, 3, 65, 49, generator=generator) - 0.5
    lattice = torch.arange(49) % 4 == 0

    def error(image) -> float:
        rows = colour.measured(original, image, stride=4)
        rows = {key: value.numpy() for key, value in rows.items()}
        return colour.figures(rows, seed=0)["grid_error"].value

    assert error(original) == 0
    assert error(original + 0.1 * torch.randn(original.shape, generator=generator)) < 0.02
    assert error(original + 0.4 * lattice) > 0.1
    blocks = original[..., ::4, ::4].repeat_interleave(4, 2)[..., :65, :].repeat_interleave(4, 3)
    # within a code nothing differs, at its edge everything: (0, 0, 0, 4) against (1, 1, 1, 1)
    assert error(blocks[..., :49]) == pytest.approx(3**0.5, abs=0.02)
    assert "grid_error" not in figures(original, original), "no stride, no grid"


@pytest.mark.parametrize("size", [(1, 1), (2, 5)])
def test_pictures_that_are_all_border_have_figures(size):
    original = torch.zeros(2, 3, *size)
    values = figures(original, original + 0.2)
    assert values["border_error"] == values["inside_error"] > 0


def test_pictures_of_one_channel_have_no_colours():
    assert colour.measured(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)) == {}
    assert colour.figures({}, seed=0) == {}
