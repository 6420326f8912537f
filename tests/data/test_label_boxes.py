"""Boxes around the connected pieces of labels."""

import pytest
import torch

from taming.data import DrawnLandscapes, LabelBoxes
from taming.data.interface import PictureSet
from taming.data.label_boxes import pieces_of
from taming.errors import UserError
from taming.second_stage.conditioners.boxes import Boxes, seen_in


def test_each_piece_has_a_box():
    mask = torch.zeros(4, 8).long()
    mask[1:3, 1:3] = mask[0, 6] = 1
    assert [tuple(one) for one in pieces_of(mask)] == [
        (0, 0.0, 0.0, 1.0, 1.0, 0),
        (1, 6 / 8, 0.0, 7 / 8, 1 / 4, 0),
        (1, 1 / 8, 1 / 4, 3 / 8, 3 / 4, 0),
    ]


def test_small_pieces_and_missing_masks():
    scenes = DrawnLandscapes(32, 4)
    few = LabelBoxes(scenes, objects=3, smallest=0.2)[0]["boxes"]
    assert few.shape == (3, 6)
    present = few[few[:, 0] >= 0]
    areas = (present[:, 3] - present[:, 1]) * (present[:, 4] - present[:, 2])
    assert len(present) and bool((areas >= 0.2 - 1e-6).all())

    class Plain(PictureSet):
        def __len__(self):
            return 1

        def __getitem__(self, key):
            return {"image": torch.zeros(3, 4, 4)}

    with pytest.raises(UserError, match="no label maps to draw boxes around"):
        LabelBoxes(Plain())[0]


def test_boxes_of_the_part_that_is_seen():
    boxes = torch.tensor([[[2, 0.5, 0.0, 1.0, 0.5, 1], [3, 0.0, 0.0, 0.2, 1.0, 0]]])
    seen = seen_in(boxes, torch.tensor([[0.25, 0.0, 0.75, 1.0]]))
    assert seen[0, 0].tolist() == [2, 0.5, 0.0, 1.0, 0.5, 1]
    assert seen[0, 1, 0] == -1  # outside
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert torch.equal(seen_in(boxes, whole), boxes)
    conditioner = Boxes(2, 64, classes=4, crop=False)
    tokens = conditioner({"boxes": boxes, "crop": torch.tensor([[0.25, 0.0, 0.75, 1.0]])})
    assert torch.equal(tokens[0].tokens, conditioner({"boxes": seen})[0].tokens)
