"""What a prior can be told: nothing, a class, an encoded image such as a mask, the coarser levels,
where in a larger picture it is, objects in boxes.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.images import colour_labels
from taming.second_stage.interface import Condition, Conditioner, Part, Window


class Unconditional(Conditioner):
    """One start token. The number of pictures is batch["count"] where that is a number, else the
    length of any tensor in the batch.
    """

    def __init__(self, token: int = 0):
        super().__init__()
        self.token = token

    def forward(self, batch: dict) -> Condition:
        tensors = [v for v in batch.values() if isinstance(v, Tensor)]
        count = batch["count"] if isinstance(batch.get("count"), int) else len(tensors[0])
        device = tensors[0].device if tensors else None
        return (
            Part(
                torch.full((count, 1), self.token, dtype=torch.int64, device=device), self.token + 1
            ),
        )


class ClassLabel(Conditioner):
    """batch[key]: int64 (B,) in [0, classes)."""

    def __init__(self, classes: int, key: str = "class"):
        super().__init__()
        self.classes, self.key = classes, key

    def forward(self, batch: dict) -> Condition:
        labels = _entry(batch, self.key)
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise UserError(
                f"class {int(labels.max())} is asked for, but this prior knows 0 to"
                f" {self.classes - 1}"
            )
        return (Part(labels.view(-1, 1).long(), self.classes),)


class EncodedImage(Conditioner):
    """The codes of another picture of the same scene: its mask, depth, edges, or a coarse version,
    by a first stage that read such pictures.

    first_stage: the tokenizer; its `key` says which entry of the batch it reads. size: pictures are
    brought to (height, width) by nearest neighbour first; trained_size says from which size, so
    that larger ones are brought to proportionally more.
    """

    def __init__(
        self,
        first_stage: FirstStage,
        size: list[int] | None = None,
        trained_size: list[int] | None = None,
    ):
        super().__init__()
        self.first_stage = first_stage.requires_grad_(False)
        self.size, self.trained_size = size, trained_size or size

    @property
    def key(self) -> str:
        return self.first_stage.key

    def forward(self, batch: dict) -> Condition:
        shown = _entry(batch, self.key)
        if self.size:
            stride = self.first_stage.stride
            rows, columns = (
                max(stride, n * wanted // trained // stride * stride)
                for n, wanted, trained in zip(shown.shape[-2:], self.size, self.trained_size)
            )
            shown = shown[..., _nearest(shown.shape[-2], rows), :][
                ..., _nearest(shown.shape[-1], columns)
            ]
        return tuple(
            Part(codes.flatten(1), vocabulary, tuple(codes.shape[1:]))
            for codes, vocabulary in zip(self.first_stage.encode(shown), self.first_stage.num_codes)
        )

    def picture(self, batch: dict) -> Tensor:
        shown = _entry(batch, self.key)
        if not shown.is_floating_point():
            return colour_labels(shown, self.first_stage.labels)
        return (
            shown if shown.shape[1] == 3 else shown.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        )


class CoarserCodes(Conditioner):
    """What a level of a hierarchy is told beside its condition: the codes of the levels above, in
    batch["codes"] (Razavi et al. 2019, arXiv 1906.00446, section 3.2). num_codes: of each level,
    coarse to fine. Guidance and condition dropout leave them alone.
    """

    def __init__(self, num_codes: tuple[int, ...]):
        super().__init__()
        self.num_codes = num_codes

    def forward(self, batch: dict) -> Condition:
        return tuple(
            Part(codes.flatten(1), known, tuple(codes.shape[1:]), always=True)
            for codes, known in zip(batch["codes"], self.num_codes)
        )


class Coordinates(Conditioner):
    """Where in a whole picture a crop is: batch["coordinates"] float (B, 1, H, W), the raster index
    of each pixel over the number of pixels, in [0, 1); averaged over patches of `factor` pixels and
    rounded to one of `steps` tokens (1.0 itself would be the token `steps`).
    """

    key = "coordinates"

    def __init__(self, steps: int, factor: int):
        super().__init__()
        self.steps, self.factor = steps, factor

    def forward(self, batch: dict) -> Condition:
        patches = F.interpolate(
            _entry(batch, self.key), scale_factor=1 / self.factor, mode="area"
        ).clamp(0, 1)
        tokens = (self.steps * patches).round().long()[:, 0]
        return (Part(tokens.flatten(1), self.steps, tuple(tokens.shape[1:])),)

    def picture(self, batch: dict) -> Tensor:
        return _entry(batch, self.key).expand(-1, 3, -1, -1) * 2 - 1


class Boxes(Conditioner):
    """Objects in places: batch["boxes"] float (B, N, 5), rows (class, left, top, right, bottom)
    with places relative to the picture, in [0, 1]; rows of class -1 are none. A sixth column may
    hold an object's modifiers, as bits (1 group, 2 occluded, 4 depiction, 8 inside).

    Each of `objects` slots takes three tokens, class + classes * modifiers, upper left and lower
    right corner; with points, two: class and centre. A place is the number of a cell of the largest
    square grid with at most `vocabulary` cells. Empty slots hold the token vocabulary - 1. With
    crop, two tokens more tell which part of the picture is seen: batch["crop"] float (B, 4), by
    default all of it. Sequences and numbers are those of the published scene models, whose YAML
    does not tell `classes`.
    """

    key = "boxes"

    def __init__(
        self,
        objects: int,
        vocabulary: int,
        classes: int | None = None,
        points: bool = False,
        crop: bool = True,
    ):
        super().__init__()
        self.classes, self.objects, self.vocabulary, self.points, self.crop_tokens = (
            classes,
            objects,
            vocabulary,
            points,
            crop,
        )
        self.side = math.isqrt(vocabulary)

    def forward(self, batch: dict) -> Condition:
        boxes = _entry(batch, self.key)
        present = boxes[..., 0] >= 0
        if bool((present.sum(1) > self.objects).any()):
            raise UserError(
                f"{int(present.sum(1).max())} objects are asked for, but this prior was trained on"
                f" at most {self.objects} in a picture"
            )
        known = self.classes or self.vocabulary
        if present.any() and int(boxes[..., 0].max()) >= known:
            raise UserError(
                f"object class {int(boxes[..., 0].max())} is asked for, but this prior knows 0 to"
                f" {known - 1}"
            )
        if boxes.shape[-1] > 5 and not self.classes:
            raise UserError(
                "modifiers of objects are given, but this prior does not know how many classes"
                " there are; add them to the class yourself"
            )
        kind = boxes[..., 0].long() + (
            self.classes * boxes[..., 5].long() if boxes.shape[-1] > 5 else 0
        )
        corners = boxes[..., 1:5]
        if self.points:
            places = [
                self._place(
                    (corners[..., 0] + corners[..., 2]) / 2, (corners[..., 1] + corners[..., 3]) / 2
                )
            ]
        else:
            places = [
                self._place(corners[..., 0], corners[..., 1]),
                self._place(corners[..., 2], corners[..., 3]),
            ]
        slots = torch.stack([kind, *places], dim=-1)
        tokens = torch.full(
            (len(boxes), self.objects, slots.shape[-1]),
            self.vocabulary - 1,
            dtype=torch.int64,
            device=boxes.device,
        )
        for row, (slot, real) in enumerate(zip(slots, present)):
            tokens[row, : int(real.sum())] = slot[real]
        tokens = tokens.flatten(1)
        if self.crop_tokens:
            crop = batch.get(
                "crop",
                torch.tensor([0.0, 0.0, 1.0, 1.0], device=boxes.device).expand(len(boxes), 4),
            )
            tokens = torch.cat(
                [
                    tokens,
                    self._place(crop[:, 0], crop[:, 1])[:, None],
                    self._place(crop[:, 2], crop[:, 3])[:, None],
                ],
                dim=1,
            )
        return (Part(tokens, self.vocabulary),)

    def crop(self, condition: Condition, window: Window, grid: tuple[int, int]) -> Condition:
        """The objects stay where they are in the picture; the crop's two tokens tell what is seen of it."""
        if not self.crop_tokens:
            return condition
        top, left, height, width = window
        corners = torch.tensor(
            [[left / grid[1], top / grid[0]], [(left + width) / grid[1], (top + height) / grid[0]]]
        )
        tokens = condition[0].tokens.clone()
        place = self._place(corners[:, 0], corners[:, 1]).to(tokens)
        # Silence stays null_condition
        tokens[:, -2:] = torch.where(
            tokens[:, -2:] == condition[0].vocabulary, tokens[:, -2:], place
        )
        return (replace(condition[0], tokens=tokens),)

    def _place(self, x: Tensor, y: Tensor) -> Tensor:
        column, row = ((v.clamp(0, 1) * (self.side - 1)).round().long() for v in (x, y))
        return row * self.side + column


def _nearest(before: int, after: int) -> Tensor:
    return torch.arange(after) * before // after


def _entry(batch: dict, key: str):
    if key not in batch:
        raise UserError(
            f"the prior is conditioned on '{key}', but the batch has"
            f" {', '.join(batch) or 'nothing'}"
        )
    return batch[key]
