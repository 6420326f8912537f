"""Torch's ordinary data sets are read as they are: every shape of item, names that mean something
else elsewhere, sets that are read in order.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from taming.data import DrawnLandscapes, OrdinaryDataset
from taming.data.batches import collate
from taming.data.card import card_of
from taming.data.ordinary import ordinary
from taming.errors import UserError
from taming.training.checks import contents

RGB = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(RGB).permute(2, 0, 1).float() / 127.5 - 1
LABELS = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16) % 3


class Items(Dataset):
    """With names of attributes that mean other things in sets of ours."""

    name, root, view, files, source, sets, paths, legend = "cats", 3, None, [], 1, 2, "x", {}
    classes = ["cat", "dog", "cow", "pig"]

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        assert isinstance(index, int)  # no pairs
        return self.items[index]


PICTURES = {
    "PIL": Image.fromarray(RGB),
    "array": RGB,
    "array, channels first": RGB.transpose(2, 0, 1),
    "8-bit tensor": torch.from_numpy(RGB).permute(2, 0, 1),
    "floats from 0 to 1": (EXPECTED + 1) / 2,
    "floats from -1 to 1": EXPECTED,
    "floats, channels last": EXPECTED.permute(1, 2, 0).numpy(),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_picture(kind):
    for item in (PICTURES[kind], (PICTURES[kind],), {"pixel_values": PICTURES[kind]}):
        image = ordinary(Items(item))[0, 7]["image"]
        assert image.shape == (3, 12, 16) and torch.allclose(image, EXPECTED, atol=1e-5)


@pytest.mark.parametrize(
    "item, entry, value",
    [
        ((RGB, 3), "class", 3),
        ((RGB, torch.tensor(3)), "class", 3),
        ({"img": RGB, "label": np.int64(3)}, "class", 3),
        ((RGB, "a cat"), "caption", "a cat"),
        ({"image": RGB, "text": "a cat"}, "caption", "a cat"),
        ((RGB, Image.fromarray(LABELS)), "segmentation", LABELS),
        ((RGB, torch.from_numpy(LABELS).long()), "segmentation", LABELS),
        ({"image": RGB, "mask": LABELS, "boxes": [1]}, "segmentation", LABELS),
        ({"image": RGB, "label": LABELS}, "segmentation", LABELS),
    ],
)
def test_what_stands_beside_a_picture(item, entry, value):
    data = ordinary(Items(item, item))
    if isinstance(value, str):
        assert data[1][entry] == value
    else:
        assert torch.equal(torch.as_tensor(data[1][entry]), torch.as_tensor(value).long())
    assert set(data[1]) == {"image", "name", entry}
    assert len(collate([data[0], data[1]])[entry]) == 2


def test_names_of_attributes_do_not_collide():
    data = ordinary(Items((RGB, 0), (RGB, 1)))
    assert contents(data)["count"] == 2
    assert card_of(data).classes == ("cat", "dog", "cow", "pig") and card_of(data, 3).labels[0]
    assert not hasattr(data, "root") and not hasattr(data, "classes")


def test_a_view_crops_picture_and_mask_alike():
    data = OrdinaryDataset(Items((LABELS[..., None].repeat(3, -1) * 50, LABELS)), view=8)
    for view in range(4):
        item = data[0, view]
        assert item["image"].shape == (3, 8, 8) and item["segmentation"].shape == (8, 8)
    assert not torch.equal(data[0, 0]["image"], data[0, 1]["image"])


def test_sets_that_are_read_in_order_are_held(capsys):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(RGB, label) for label in range(5)])

    data = ordinary(Stream())
    assert len(data) == 5 and data[4]["class"] == 4
    assert "5 items are held" in capsys.readouterr().err


def test_torchs_and_torchvisions_own_sets():
    from torchvision.datasets import FakeData

    assert ordinary(FakeData(4, (3, 8, 8), 3))[2]["image"].shape == (3, 8, 8)
    pairs = TensorDataset(EXPECTED[None].repeat(3, 1, 1, 1), torch.arange(3))
    assert ordinary(pairs)[2]["class"] == 2
    assert ordinary(None) is None and isinstance(
        ordinary(drawn := DrawnLandscapes(16, 2)), type(drawn)
    )


@pytest.mark.parametrize(
    "item, message",
    [
        (3, "has no picture"),
        ({"caption": "a"}, "has no picture"),
        (torch.zeros(2, 3, 4, 4), "shape"),
        (torch.full((3, 4, 4), 200.0), "hold 200 to 200; floats in"),
    ],
)
def test_items_without_a_picture_are_one_line(item, message):
    with pytest.raises(UserError, match=message):
        ordinary(Items(item))[0]
