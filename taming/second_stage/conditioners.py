"""What a prior can be conditioned on: nothing, a class, an encoded image such as a mask, the
coarser levels, where in a larger picture it is, objects in boxes.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taming.config.ranges import Count, Range, Size
from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.images import colour_labels
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape, Window, describe

TOLERANCE = 1e-3
"""How far relative places may lie outside [0, 1]."""


class Unconditional(Conditioner):
    """No condition: one start token. The number of pictures is batch["count"] where that is a
    number, else the length of any tensor in the batch.

    Args:
        token: the start token's id.
    """

    def __init__(self, token: Annotated[int, Range(0, 2**24)] = 0):
        super().__init__()
        self.token = token

    def forward(self, batch: dict) -> Condition:
        tensors = [value for value in batch.values() if isinstance(value, Tensor)]
        count = batch.get("count", len(tensors[0]) if tensors and tensors[0].ndim else None)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(
                f'how many pictures? give the number as batch["count"], at least 1, not {count!r}'
            )
        device = tensors[0].device if tensors else None
        tokens = torch.full((count, 1), self.token, dtype=torch.int64, device=device)
        return (Part(tokens, self.token + 1),)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        return (PartShape(self.token + 1),)


class ClassLabel(Conditioner):
    """batch["class"]: whole numbers (B,) in [0, classes).

    Args:
        classes: how many there are.
    """

    key = "class"

    def __init__(self, classes: Annotated[int, Range(1, 2**24)]):
        super().__init__()
        self.classes = classes

    def forward(self, batch: dict) -> Condition:
        labels = entry_of(batch, self.key)
        if labels.is_floating_point() or labels.ndim > 2 or labels.shape[1:] not in ((), (1,)):
            raise UserError(f"'class' should be whole numbers (B,), not {describe(labels)}")
        labels = labels.reshape(-1, 1).long()
        _check_class(labels, self.classes, "class")
        return (Part(labels, self.classes),)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        return (PartShape(self.classes),)


class EncodedImage(Conditioner):
    """The codes of another picture of the same scene: its mask, depth, edges, or a coarse version,
    by a first stage that read such pictures.

    Args:
        first_stage: the tokenizer; its `key` says which entry of the batch is read.
        size: pictures are brought to (height, width) by nearest neighbour first.
        trained_size: from which size, so that larger ones are brought to proportionally more.
    """

    spatial = True

    def __init__(
        self, first_stage: FirstStage, size: Size | None = None, trained_size: Size | None = None
    ):
        super().__init__()
        self.first_stage = first_stage.requires_grad_(False)
        self.key = first_stage.key
        self.size = _sides(size)
        self.trained_size = _sides(trained_size) or self.size
        self.resizes = size is not None

    @property
    def tokenizer(self) -> FirstStage:
        return self.first_stage

    @property
    def multiple(self) -> int:
        return self.first_stage.multiple

    def forward(self, batch: dict) -> Condition:
        image = self._read(batch)
        if self.size:
            rows, columns = self._resized((image.shape[-2], image.shape[-1]))
            image = image[..., _nearest(image.shape[-2], rows), :]
            image = image[..., _nearest(image.shape[-1], columns)]
        codes = self.first_stage.encode(image)
        return tuple(
            Part(level.flatten(1), vocabulary, (level.shape[1], level.shape[2]))
            for level, vocabulary in zip(codes, self.first_stage.num_codes)
        )

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        grids = self.first_stage.grids(*self._resized(size))
        return tuple(map(PartShape, self.first_stage.num_codes, grids))

    def picture(self, batch: dict) -> Tensor:
        image = self._read(batch)
        if not image.is_floating_point():
            labels = self.first_stage.labels or int(image.max()) + 1
            return colour_labels(image, labels)
        if image.shape[1] == 3:
            return image
        return image.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)

    def _read(self, batch: dict) -> Tensor:
        image = entry_of(batch, self.key)
        if image.ndim not in (3, 4):
            shape = "an image (B, C, H, W) or labels (B, H, W)"
            raise UserError(f"'{self.key}' should be {shape}, not {describe(image)}")
        if image.is_floating_point() and not bool(torch.isfinite(image).all()):
            raise UserError(f"'{self.key}' holds NaN or infinity; give finite numbers")
        return image if image.is_floating_point() else image.long()

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size to which a picture of this size is brought."""
        if self.size is None or self.trained_size is None:
            return size
        stride, sides = self.first_stage.stride, []
        for side, target, trained in zip(size, self.size, self.trained_size):
            sides.append(max(stride, side * target // trained // stride * stride))
        return sides[0], sides[1]


class CoarserCodes(Conditioner):
    """What a level of a hierarchy is conditioned on beside its condition: the codes of the levels
    above, in batch["codes"] (Razavi et al. 2019, arXiv 1906.00446, section 3.2). Guidance and
    condition dropout leave them alone.

    Args:
        num_codes: of each level, coarse to fine.
    """

    def __init__(self, num_codes: tuple[Count, ...]):
        super().__init__()
        self.num_codes = num_codes

    def forward(self, batch: dict) -> Condition:
        return tuple(
            Part(codes.flatten(1), count, (codes.shape[1], codes.shape[2]), permanent=True)
            for codes, count in zip(batch["codes"], self.num_codes)
        )


class Coordinates(Conditioner):
    """Where in a whole picture a crop is: batch["coordinates"] float (B, 1, H, W), the raster index
    of each pixel over the number of pixels, in [0, 1); averaged over patches and rounded to a token
    (1.0 itself would be the token `steps`).

    Args:
        steps: how many tokens.
        factor: side of a patch in pixels.
    """

    key = "coordinates"
    spatial = True

    def __init__(
        self, steps: Annotated[int, Range(1, 2**24)], factor: Annotated[int, Range(1, 2**12)]
    ):
        super().__init__()
        self.steps, self.factor = steps, factor

    def forward(self, batch: dict) -> Condition:
        places = self._read(batch)
        patches = F.interpolate(places, scale_factor=1 / self.factor, mode="area").clamp(0, 1)
        tokens = (self.steps * patches).round().long()[:, 0]
        return (Part(tokens.flatten(1), self.steps, (tokens.shape[1], tokens.shape[2])),)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        return (PartShape(self.steps, (size[0] // self.factor, size[1] // self.factor)),)

    @property
    def multiple(self) -> int:
        return self.factor

    def picture(self, batch: dict) -> Tensor:
        return self._read(batch).expand(-1, 3, -1, -1) * 2 - 1

    def _read(self, batch: dict) -> Tensor:
        places = entry_of(batch, self.key)
        if not places.is_floating_point() or places.ndim != 4 or places.shape[1] != 1:
            raise UserError(f"'coordinates' should be float (B, 1, H, W), not {describe(places)}")
        _check_relative(places, "coordinates")
        return places


class Boxes(Conditioner):
    """Objects in places: batch["boxes"] float (B, N, 5), rows (class, left, top, right, bottom)
    with places relative to the picture, in [0, 1]; rows of class -1 are none. A sixth column may
    hold an object's modifiers, as bits (1 group, 2 occluded, 4 depiction, 8 inside).

    Each slot takes three tokens, class + classes * modifiers, upper left and lower right corner;
    with points, two: class and centre. A place is the number of a cell of the largest square grid
    with at most `vocabulary` cells. Empty slots hold the token vocabulary - 1. With crop, two
    tokens more say which part of the picture is seen: batch["crop"] float (B, 4), by default all of
    it. Sequences and numbers are those of the published scene models, whose YAML does not say
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
            _check_relative(crop, "crop")
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
        _check_relative(objects[:, 1:5], "boxes")
        if bool((objects[:, 1] > objects[:, 3]).any() | (objects[:, 2] > objects[:, 4]).any()):
            raise UserError(
                "'boxes' has one whose right or bottom lies before its left or top; rows are"
                " (class, left, top, right, bottom)"
            )
        _check_class(objects[:, 0], self.classes or self.vocabulary, "object class")


def _check_class(labels: Tensor, classes: int, name: str) -> None:
    if not labels.numel():
        return
    lowest, highest = float(labels.min()), float(labels.max())
    if not 0 <= lowest <= highest < classes:
        wrong = lowest if lowest < 0 else highest
        raise UserError(f"{name} {wrong:g} is unknown: this prior knows 0 to {classes - 1}")


def _check_relative(places: Any, name: str) -> None:
    """Raises UserError for places outside [0, 1], such as pixels, and for NaN."""
    if not isinstance(places, Tensor) or not bool(torch.isfinite(places).all()):
        raise UserError(f"'{name}' should hold finite numbers")
    wrong = places[(places < -TOLERANCE) | (places > 1 + TOLERANCE)]
    if wrong.numel():
        raise UserError(
            f"'{name}' has {float(wrong[0]):g}, but places are relative to the picture, from 0 to"
            " 1; divide pixels by its width and height"
        )


def _sides(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _nearest(before: int, after: int) -> Tensor:
    return torch.arange(after) * before // after


def entry_of(batch: dict, key: str | None) -> Tensor:
    """A tensor of the batch; arrays and lists of numbers become one."""
    if key not in batch:
        raise UserError(
            f"the prior is conditioned on '{key}', but the batch has"
            f" {', '.join(map(str, batch)) or 'nothing'}"
        )
    value = batch[key]
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | int | float | list | tuple):
        try:
            return torch.as_tensor(value)
        except (TypeError, ValueError):  # of objects, ragged
            pass
    raise UserError(f"'{key}' should be a tensor of numbers, not {describe(value)}")
