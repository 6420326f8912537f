"""In a notebook: pictures and masks in, pictures out, without a dictionary or a conversion."""

import numpy as np
import pytest
import torch
from PIL import Image

import taming
from taming.data.card import Card
from taming.errors import UserError
from taming.formats.load import load
from tests.inference.test_known import carded  # noqa: F401
from tests.inference.test_sample import here  # noqa: F401


def test_a_picture_is_encoded_whatever_it_comes_as(here):  # noqa: F811
    first = load("masks.safetensors").first_stage
    expected = first.encode(taming.read_image("picture.png"))[0]
    picture = Image.open("picture.png")
    for source in ("picture.png", here / "picture.png", picture, np.array(picture)):
        assert torch.equal(first.encode(source)[0], expected)
    with pytest.raises(UserError, match="mode RGBA: read it with taming.read_image"):
        first.encode(picture.convert("RGBA"))
    with pytest.raises(UserError, match="no readable picture"):
        first.encode("nowhere.png")


def test_a_mask_is_drawn_from_whatever_it_comes_as(carded, capsys):  # noqa: F811
    model = load("carded.safetensors")
    labels = np.zeros((12, 8), np.uint8)
    labels[6:] = 1
    colours = Image.fromarray(np.array(model.card.colours, np.uint8)[labels])
    colours.save("lake.png")
    mask = taming.read_mask("lake.png", model)
    assert "lake.png 8x12: sky 50 %, tree 50 %" in capsys.readouterr().out
    assert mask.shape == (1, 12, 8)
    expected = model.sample({"segmentation": mask}, seed=3)
    assert expected.shape == (1, 3, 12, 8)
    for source in ("lake.png", colours, labels, Image.fromarray(labels), mask, mask[0]):
        assert torch.equal(model.sample(source, seed=3), expected)
    # Brought to a size, as the command line does
    Image.fromarray(labels).resize((32, 48), Image.Resampling.NEAREST).save("large.png")
    for source in ("large.png", np.array(Image.open("large.png"))):
        assert torch.equal(model.sample(source, size=(12, 8), seed=3), expected)
    tokenizer = model.conditioner.tokenizer
    codes = tokenizer.encode(mask)[0]
    for source in (labels, Image.fromarray(labels)):
        assert torch.equal(tokenizer.encode(source)[0], codes)
    with pytest.raises(UserError, match="taming.read_mask"):
        tokenizer.encode(colours)
    with pytest.raises(UserError, match="should be a dictionary"):
        model.sample(3)


def test_a_class_is_drawn_by_number_or_name(here):  # noqa: F811
    model = load("classes.safetensors")
    model.card = Card(classes=("sea", "wood", "hill"))
    expected = model.sample({"class": torch.tensor([1])}, seed=1)
    for source in (1, "wood"):
        assert torch.equal(model.sample(source, seed=1), expected)
    with pytest.raises(UserError, match="did you mean 'wood'"):
        model.sample("wod")


def test_pictures_are_shown_and_saved(here):  # noqa: F811
    images = torch.rand(3, 3, 8, 6) * 2 - 1
    sheet = taming.show(images, torch.zeros(1, 4, 4, dtype=torch.int64), Image.new("RGB", (5, 5)))
    assert sheet.size == (4 * (6 + 4), 2 * (8 + 4))
    for picture in (images, images[0], images[:1], sheet, torch.ones(4, 4, dtype=torch.int64)):
        assert Image.open(taming.save(picture, "a.png")).mode == "RGB"
    with pytest.raises(UserError, match="no pictures"):
        taming.show()
