import pytest
import torch

from taming.errors import UserError
from taming.inference.style import ColourStyle, nearest


def picture(seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.rand(3, 3, generator=generator) * 0.2
    noise = torch.randn(3, 20, 30, generator=generator)
    return (torch.einsum("ij,jhw->ihw", mix, noise) + shift).clamp(-1, 1)


def test_the_map_gives_the_colours_of_the_style():
    style = ColourStyle.of(picture(1, 0.2))
    before = picture(2, -0.3)
    after = style.apply(before[None])[0]
    assert style.distance(before) > 40  # of 255
    assert style.distance(after) < 3  # but for what is clamped
    assert style.distance(picture(1, 0.2)) < 1e-3


def test_the_strength_is_how_far_the_colours_move():
    before = picture(2, -0.3)
    distances = []
    for strength in (0.0, 0.5, 1.0):
        style = ColourStyle.of(picture(1, 0.2), strength)
        distances.append(style.distance(style.apply(before[None])[0]))
    assert distances == sorted(distances, reverse=True)
    assert torch.equal(ColourStyle.of(picture(1), 0.0).apply(before[None])[0], before)


def test_a_flat_picture_has_a_map():
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert torch.isfinite(ColourStyle.of(picture(1)).apply(flat)).all()


def test_nearest_is_the_picture_itself():
    pictures = [picture(seed, 0.1 * seed) for seed in range(4)]
    assert nearest(ColourStyle.of(pictures[2]), pictures) == 2


def test_plain_values_and_back():
    style = ColourStyle.of(picture(1), 0.7)
    assert ColourStyle.from_plain(style.plain()) == style
    for plain in (None, {}, [], {"mean": [0], "covariance": [], "strength": 1}, {"mean": "abc"}):
        with pytest.raises(UserError, match="a style is a mean"):
            ColourStyle.from_plain(plain)
    with pytest.raises(UserError, match="strength"):
        ColourStyle.of(picture(1), 1.5)
