"""Odd but valid files load with the right colours and the right way up; views are functions of
their key; masks keep their labels.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from taming.data.reading import CorruptImage, mask_to_tensor, read_image, read_mask, to_tensor
from taming.data.views import View
from taming.errors import UserError

RED = (200, 30, 60)


def save(image, path, **how):
    image.save(path, **how)
    return path


def oriented(tmp_path):
    """Left half red, stored on its side, with an EXIF flag that puts it right."""
    upright = Image.new("RGB", (8, 4), "blue")
    upright.paste(RED, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(upright.transpose(Image.Transpose.ROTATE_90), tmp_path / "o.png", exif=exif)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: save(Image.new("RGB", (8, 4), RED), d / "a.png"),
        lambda d: save(
            Image.new("RGB", (8, 4), RED).convert("P", palette=Image.Palette.ADAPTIVE), d / "a.png"
        ),
        lambda d: save(Image.new("RGBA", (8, 4), (*RED, 255)), d / "a.png"),
        lambda d: save(Image.new("CMYK", (8, 4), (55, 225, 195, 0)), d / "a.tif"),
    ],
    ids=["rgb", "palette", "rgba", "cmyk"],
)
def test_colours(make, tmp_path):
    assert np.abs(np.asarray(read_image(make(tmp_path))).astype(int) - RED).max() <= 2


def test_grey_16_bit_and_transparent(tmp_path):
    assert (
        np.asarray(read_image(save(Image.new("L", (4, 4), 77), tmp_path / "l.png"))).tolist()
        == [[[77] * 3] * 4] * 4
    )
    deep = Image.fromarray(np.full((4, 4), 77 * 257, np.uint16))
    assert np.asarray(read_image(save(deep, tmp_path / "d.png")))[0, 0].tolist() == [77] * 3
    assert (
        np.asarray(read_image(save(Image.new("LA", (4, 4), (0, 0)), tmp_path / "t.png")))[
            0, 0
        ].tolist()
        == [255] * 3
    )


def test_exif_orientation(tmp_path):
    image = np.asarray(read_image(oriented(tmp_path)))
    assert (
        image.shape == (4, 8, 3)
        and image[0, 0].tolist() == list(RED)
        and image[0, 7].tolist() == [0, 0, 255]
    )


def test_what_is_no_picture_is_named(tmp_path):
    save(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)),
        tmp_path / "cut.jpg",
    )
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("cut.jpg", "text.png"):
        with pytest.raises(CorruptImage, match=name):
            read_image(tmp_path / name)


def test_masks_are_indices_palette_or_not(tmp_path):
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4) % 5
    plain = Image.fromarray(labels)
    coloured = plain.copy().convert("P")
    coloured.putdata(labels.flatten().tolist())
    coloured.putpalette([7, 7, 7] * 256)
    for name, mask in (("l.png", plain), ("p.png", coloured)):
        assert torch.equal(
            mask_to_tensor(read_mask(save(mask, tmp_path / name), 5)),
            torch.from_numpy(labels).long(),
        )
    with pytest.raises(UserError, match="label 4.*ends at 3"):
        read_mask(tmp_path / "l.png", 4)
    with pytest.raises(UserError, match="mode RGB"):
        read_mask(save(Image.new("RGB", (4, 4)), tmp_path / "c.png"))


def test_image_and_mask_see_the_same_crop_and_flip():
    """A picture whose colour is its label stays so under every view, but where resizing blends two
    labels.
    """
    labels = np.repeat(np.repeat(np.arange(12).reshape(3, 4), 40, 0), 40, 1).astype(np.uint8)
    image, mask = Image.fromarray(np.stack([labels * 20] * 3, -1)), Image.fromarray(labels)
    view = View((32, 48), 1.5)
    flips = set()
    for v in range(30):
        box, flipped = view.box(*image.size, 0, v, "x")
        flips.add(flipped)
        seen = (to_tensor(view.image(image, box, flipped))[0] + 1) * 127.5 / 20
        wanted = mask_to_tensor(view.mask(mask, box, flipped))
        assert seen.shape == wanted.shape == (32, 48) and set(wanted.unique().tolist()) <= set(
            range(12)
        )
        windows = wanted.float().unfold(0, 5, 1).unfold(1, 5, 1).flatten(2)
        inside = windows.amin(-1) == windows.amax(-1)
        assert inside.float().mean() > 0.2
        assert ((seen - wanted)[2:-2, 2:-2][inside].abs() < 0.1).all()
    assert flips == {True, False}


def test_a_view_is_a_function_of_its_key():
    view = View((16, 16), 1.5, seed=3)
    assert view.box(40, 30, 5, 2, "x") == view.box(40, 30, 5, 2, "x")
    assert len({view.box(40, 30, i, v, "x")[0] for i in range(4) for v in range(4)}) == 16


def test_the_fixed_view_is_the_centre_of_the_whole_short_side():
    assert View((16, 16)).box(40, 30, 0, None, "x") == ((5.0, 0.0, 35.0, 30.0), False)


def test_boxes_stay_inside_to_the_last_digit_and_pixels_are_not_enlarged():
    for crop, width, height in (
        (20, 30, 22),
        (224, 225, 225),
        (150, 155, 400),
        (112, 116, 116),
        (100, 109, 109),
    ):
        view = View((crop, crop), 1.5)
        for v in [None, *range(30)]:
            box, _ = view.box(width, height, 0, v, "x")
            # PIL refuses a box that reaches outside
            view.image(Image.new("RGB", (width, height)), box, False)
            assert box[3] - box[1] >= crop - 1e-9


def test_a_scale_below_one_is_refused():
    with pytest.raises(UserError, match="scale 0.5"):
        View((16, 16), 0.5)
