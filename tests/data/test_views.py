"""A view is a function of its key; picture and mask see the same part; nothing is enlarged unless
it must be.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from taming.config.build import check
from taming.config.older import nest_view
from taming.data import ImageFolder
from taming.data.layouts import mask_to_tensor
from taming.data.reading import CorruptImage, to_tensor
from taming.data.views import View, as_pair
from taming.errors import UserError


def test_image_and_mask_see_the_same_crop_and_flip():
    """A picture whose colour is its label stays so under every view, but where resizing blends two
    labels.
    """
    labels = np.repeat(np.repeat(np.arange(12).reshape(3, 4), 40, 0), 40, 1).astype(np.uint8)
    image, mask = Image.fromarray(np.stack([labels * 20] * 3, -1)), Image.fromarray(labels)
    view = View([32, 48])
    flips = set()
    for v in range(30):
        box, flipped = view.box(*image.size, 0, v, "x")
        flips.add(flipped)
        actual = (to_tensor(view.image(image, box, flipped))[0] + 1) * 127.5 / 20
        expected = mask_to_tensor(view.mask(mask, box, flipped))
        assert actual.shape == expected.shape == (32, 48)
        assert set(expected.unique().tolist()) <= set(range(12))
        windows = expected.float().unfold(0, 5, 1).unfold(1, 5, 1).flatten(2)
        inside = windows.amin(-1) == windows.amax(-1)
        assert inside.float().mean() > 0.2
        assert ((actual - expected)[2:-2, 2:-2][inside].abs() < 0.1).all()
    assert flips == {True, False}


def test_a_view_is_a_function_of_its_key():
    view = View(16, seed=3)
    assert view.box(40, 30, 5, 2, "x") == view.box(40, 30, 5, 2, "x")
    boxes = {view.box(40, 30, i, v, "x")[0] for i in range(4) for v in range(4)}
    assert len(boxes) == 16
    assert view.box(40, 30, 5, 2, "x") != View(16, seed=4).box(40, 30, 5, 2, "x")


def test_the_fixed_view_is_the_centre_of_the_whole_short_side():
    assert View(16).box(40, 30, 0, None, "x") == ((5.0, 0.0, 35.0, 30.0), False)


@pytest.mark.parametrize(
    "crop, width, height",
    [(20, 30, 22), (224, 225, 225), (150, 155, 400), (112, 116, 116), (100, 109, 109)],
)
def test_boxes_stay_inside_to_the_last_digit_and_pixels_are_not_enlarged(crop, width, height):
    view = View(crop)
    for v in [None, *range(30)]:
        box, _ = view.box(width, height, 0, v, "x")
        # PIL refuses a box that reaches outside
        view.image(Image.new("RGB", (width, height)), box, False)
        assert box[3] - box[1] >= crop - 1e-9


def test_a_picture_smaller_than_the_crop_counts_as_broken_unless_it_may_be_enlarged():
    with pytest.raises(CorruptImage, match="20x30, smaller than the crop 24x24.*upscale"):
        View(24).box(20, 30, 0, None, "x")
    assert View(24, upscale=True).box(20, 30, 0, None, "x")[0] == (0, 5, 20, 25)


@pytest.mark.parametrize(
    "size, pair",
    [
        (64, (64, 64)),
        ([64, 96], (64, 96)),
        ((64, 96), (64, 96)),
        ("64x96", (64, 96)),
        ("64", (64, 64)),
        (np.int64(5), (5, 5)),
        (torch.Size([3, 4]), (3, 4)),
    ],
)
def test_sizes(size, pair):
    assert as_pair(size) == pair and View(size).size == pair


@pytest.mark.parametrize(
    "size",
    [
        0,
        -1,
        [16],
        [16, 0],
        [1, 2, 3],
        [],
        "x",
        "16x",
        "axb",
        "",
        1.5,
        [1.5, 2],
        True,
        None,
        10**9,
        [16, 10**6],
        "16x16x16",
        float("nan"),
        {},
    ],
)
def test_what_is_no_size_is_one_line(size):
    with pytest.raises(UserError, match="should be one number from 1"):
        as_pair(size)


@pytest.mark.parametrize("scale", [0.5, -1, float("nan"), "2"])
def test_a_scale_below_one_is_refused(scale):
    with pytest.raises(UserError, match=f"scale {scale} should be at least 1"):
        View(16, scale)


# As a parameter of a data set


def node(**params):
    return {"target": "taming.data.ImageFolder", "params": {"root": "pictures", **params}}


@pytest.mark.parametrize(
    "view",
    [
        16,
        [16, 20],
        "16x20",
        {"size": 16},
        {"size": "16x20"},
        {"size": [16, 20], "scale": 2, "flip": False, "upscale": True},
    ],
)
def test_views_that_a_configuration_may_say(view):
    check(node(view=view), "data.train")


@pytest.mark.parametrize(
    "view, message",
    [
        ({"size": 16, "sclae": 2}, "view.sclae: unknown key; did you mean 'scale'"),
        ({"flip": True}, "view.size: missing"),
        ({"size": 16, "scale": 0.5}, "view.scale: 0.5"),
        ({"size": 16, "scale": float("nan")}, "view.scale: nan"),
        ({"size": 16, "flip": "no"}, "view.flip: 'no'"),
        ({"size": 0}, "view.size: 0"),
        ({"size": [16]}, "view.size: "),
        (0, "view: 0"),
        (None, "view: None"),
    ],
)
def test_views_that_are_refused_before_anything_is_built(view, message):
    with pytest.raises(UserError, match=r"data\.train\.params\." + message):
        check(node(view=view), "data.train")


def test_a_mapping_in_python_is_the_view_of_its_parameters(tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    by_mapping = ImageFolder(str(tmp_path), {"size": [16, 20], "flip": False}, seed=3).view
    assert repr(by_mapping) == repr(View([16, 20], flip=False, seed=3))
    view = View(16)
    assert ImageFolder(str(tmp_path), view).view is view
    for wrong in ({"size": 16, "filp": False}, {"flip": False}):
        with pytest.raises(UserError, match="view.(filp: unknown key; did you mean 'flip'|size)"):
            ImageFolder(str(tmp_path), wrong)


@pytest.mark.parametrize(
    "params, view",
    [
        ({"size": 16}, {"size": 16}),
        (
            {"size": 16, "flip": False, "upscale": True, "scale": 2.0},
            {"size": 16, "flip": False, "upscale": True, "scale": 2.0},
        ),
        ({"view": {"size": 64, "flip": False}, "size": 16}, {"size": 16, "flip": False}),
        ({"view": 64, "flip": False}, {"size": 64, "flip": False}),
        ({"view": {"size": 64}}, {"size": 64}),
    ],
)
def test_flat_keys_of_earlier_versions_win(params, view):
    plain = {"data": {"train": node(list="l.txt", **params)}}
    before = repr(plain)
    upgraded = nest_view(plain)["data"]["train"]["params"]
    assert upgraded == {"root": "pictures", "list": "l.txt", "view": view}
    assert repr(plain) == before


def test_other_data_sets_keep_their_size():
    plain = {
        "data": {
            "train": {"target": "taming.data.DrawnLandscapes", "params": {"size": 16}},
            "validation": {"target": "mine.ImageFolder", "params": {"size": 16}},
        }
    }
    assert nest_view(plain) == plain
