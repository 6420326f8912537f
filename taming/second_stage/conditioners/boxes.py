"""Objects in boxes (Jahn et al. 2021, arXiv 2105.06458)."""

import math
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from taming.config.ranges import Count, Range
from taming.errors import UserError
from taming.second_stage.conditioners.entries import check_class, check_relative, entry_of
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape, Window, describe


class Boxes(Conditioner):
    """Objects in places: batch["boxes"] float (B, N, 5), rows (class, left, top, right, bottom)
    with places relative to the picture, in [0, 1]; rows of class -1 are none. A sixth column may
    hold an object's modifiers, as bits (1 group, 2 occluded, 4 depiction, 8 inside).

    Each slot takes three tokens, class + classes * modifiers, upper left and lower right corner;
    with points, two: class and centre. A place is the number of a cell of the largest square grid
    with at most `vocabulary` cells. Empty slots hold the token vocabulary - 1. With crop, two
    tokens more say which part of the picture is seen: batch["crop"] float (B, 4), by default all of
    it; without, boxes are those of the part that is seen, where batch["crop"] says which. Sequences
    and numbers are those of the published scene models, whose YAML does not say
    `classes`.

    Args:
        objects: slots, the most objects in a picture.
        vocabulary: number of tokens.
        classes: of objects; without it, as many as tokens, and no modifiers.
        points: centres instead of corners.
        crop: whether the two tokens of the crop are there.
    """

    key = "boxes"

    def __init__(
        self,
        objects: Annotated[int, Range(1, 4096)],
        vocabulary: Annotated[int, Range(1, 2**24)],
        classes: Count | None = None,
        points: bool = False,
        crop: bool = True,
    ):
        super().__init__()
        self.classes, self.objects, self.vocabulary = classes, objects, vocabulary
        self.points, self.crop_tokens = points, crop
        self.side = math.isqrt(vocabulary)

    def forward(self, batch: dict) -> Condition:
        boxes = entry_of(batch, self.key)
        self._check(boxes)
        if "crop" in batch and not self.crop_tokens:
            boxes = seen_in(boxes, batch["crop"])
        # 1. each object's tokens
        kind = boxes[..., 0].long()
        if boxes.shape[-1] > 5 and self.classes:
            kind = kind + self.classes * boxes[..., 5].long()
        left, top, right, bottom = boxes[..., 1:5].unbind(-1)
        if self.points:
            places = [self._place((left + right) / 2, (top + bottom) / 2)]
        else:
            places = [self._place(left, top), self._place(right, bottom)]
        objects = torch.stack([kind, *places], dim=-1)
        # 2. the slots: objects first, the rest is empty
        shape = (len(boxes), self.objects, objects.shape[-1])
        slots = torch.full(shape, self.vocabulary - 1, dtype=torch.int64, device=boxes.device)
        for slot, row, real in zip(slots, objects, boxes[..., 0] >= 0):
            slot[: int(real.sum())] = row[real]
        tokens = [slots.flatten(1)]
        # 3. which part of the picture is seen
        if self.crop_tokens:
            whole_picture = torch.tensor([0.0, 0.0, 1.0, 1.0], device=boxes.device)
            crop = batch.get("crop", whole_picture.expand(len(boxes), 4))
            check_relative(crop, "crop")
            corners = [self._place(crop[:, 0], crop[:, 1]), self._place(crop[:, 2], crop[:, 3])]
            tokens += [corner[:, None] for corner in corners]
        return (Part(torch.cat(tokens, dim=1), self.vocabulary),)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        tokens = self.objects * (2 if self.points else 3) + (2 if self.crop_tokens else 0)
        return (PartShape(self.vocabulary, tokens),)

    def crop(self, condition: Condition, window: Window, grid: tuple[int, int]) -> Condition:
        """The objects stay where they are in the picture; the crop's two tokens say what is seen of
        it.
        """
        if not self.crop_tokens:
            return condition
        top, left, height, width = window
        corners = torch.tensor(
            [[left / grid[1], top / grid[0]], [(left + width) / grid[1], (top + height) / grid[0]]]
        )
        tokens = condition[0].tokens.clone()
        place = self._place(corners[:, 0], corners[:, 1]).to(tokens)
        # The null condition stays what it is
        is_null = tokens[:, -2:] == condition[0].vocabulary
        tokens[:, -2:] = torch.where(is_null, tokens[:, -2:], place)
        return (replace(condition[0], tokens=tokens),)

    def _place(self, x: Tensor, y: Tensor) -> Tensor:
        column, row = ((v.clamp(0, 1) * (self.side - 1)).round().long() for v in (x, y))
        return row * self.side + column

    def _check(self, boxes: Tensor) -> None:
        if boxes.ndim != 3 or boxes.shape[-1] not in (5, 6):
            raise UserError(
                "'boxes' should be (B, N, 5), rows (class, left, top, right, bottom), not"
                f" {describe(boxes)}"
            )
        if boxes.shape[-1] == 6 and not self.classes:
            raise UserError(
                "modifiers of objects are given, but this prior does not know how many classes"
                " there are; add them to the class yourself"
            )
        present = boxes[..., 0] >= 0
        highest = int(present.sum(1).max()) if present.numel() else 0
        if highest > self.objects:
            raise UserError(
                f"{highest} objects are in a picture, but this prior was trained on at most"
                f" {self.objects}"
            )
        objects = boxes[present]
        check_relative(objects[:, 1:5], "boxes")
        if bool((objects[:, 1] > objects[:, 3]).any() | (objects[:, 2] > objects[:, 4]).any()):
            raise UserError(
                "'boxes' has one whose right or bottom lies before its left or top; rows are"
                " (class, left, top, right, bottom)"
            )
        check_class(objects[:, 0], self.classes or self.vocabulary, "object class")


def seen_in(boxes: Tensor, crop: Tensor) -> Tensor:
    """Boxes (B, N, 5 or more) relative to the part of each picture that is seen; what lies outside
    becomes class -1.

    Args:
        crop: (B, 4): left, top, right, bottom.
    """
    start, extent = crop[:, None, :2], crop[:, None, 2:] - crop[:, None, :2]
    corners = boxes[..., 1:5].unflatten(-1, (2, 2))
    corners = ((corners - start[..., None, :]) / extent[..., None, :]).clamp(0, 1)
    seen = (corners[..., 1, :] > corners[..., 0, :]).all(dim=-1) & (boxes[..., 0] >= 0)
    kinds = torch.where(seen, boxes[..., 0], -1.0)
    return torch.cat([kinds[..., None], corners.flatten(-2), boxes[..., 5:]], dim=-1)
