"""Two conditions together, each of which may be missing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape, Window


class Together(Conditioner):
    """The parts of the first condition, then those of the second. Where the batch has the entry of
    only one, the other is the null condition (so train with condition_dropout). batch["size"] =
    (H, W) says the size of the picture where a raster is missing.

    Args:
        first, second: the two conditioners, of different entries of a batch.
    """

    def __init__(self, first: Conditioner, second: Conditioner):
        super().__init__()
        if not first.keys or not second.keys or set(first.keys) & set(second.keys):
            raise UserError(
                f"two conditions read two entries of a batch, not {first.keys or 'none'} and"
                f" {second.keys or 'none'}"
            )
        self.first, self.second = first, second
        self.key = (*self.spatial_keys, *self.keys)[0]
        self.spatial = bool(self.spatial_keys)
        self.resizes = any(one.spatial and one.resizes for one in self.both)

    @property
    def both(self) -> tuple[Conditioner, Conditioner]:
        return self.first, self.second

    @property
    def tokenizer(self) -> FirstStage | None:
        return next((one.tokenizer for one in self.both if one.spatial), None)

    @property
    def labels(self) -> int | None:
        return next((one.labels for one in self.both if one.labels), None)

    @property
    def keys(self) -> tuple[str, ...]:
        return self.first.keys + self.second.keys

    @property
    def spatial_keys(self) -> tuple[str, ...]:
        return self.first.spatial_keys + self.second.spatial_keys

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(number for number, one in enumerate(self.both) for _ in one.groups)

    @property
    def multiple(self) -> int:
        return math.lcm(self.first.multiple, self.second.multiple)

    def prepare(self, captions: Callable[[], Sequence[str]]) -> None:
        for one in self.both:
            one.prepare(captions)

    def complete(self, batch: dict) -> dict:
        return self.second.complete(self.first.complete(batch))

    def size_of(self, batch: dict) -> tuple[int, int] | None:
        return self.first.size_of(batch) or self.second.size_of(batch)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        return self.first.parts(size) + self.second.parts(size)

    def forward(self, batch: dict) -> Condition:
        batch = self.complete(batch)
        there = [set(one.keys) <= batch.keys() for one in self.both]
        if not any(there):
            raise UserError(
                f"the prior is conditioned on {' and '.join(self.keys)}, but the batch has"
                f" {', '.join(map(str, batch)) or 'nothing'}"
            )
        conditions = [one(batch) if has else () for one, has in zip(self.both, there)]
        like = next(condition for condition in conditions if condition)[0].tokens
        for i, one in enumerate(self.both):
            conditions[i] = conditions[i] or self._null(one, batch, like)
        second = tuple(replace(part, group=1) for part in conditions[1])
        return conditions[0] + second

    def _null(self, missing: Conditioner, batch: dict, like: Tensor) -> Condition:
        size = batch.get("size") or self.size_of(batch)
        if size is None and missing.spatial:
            raise UserError(
                f"'{missing.key}' is missing, and so is the size of the picture; give one of them"
            )
        parts = []
        for shape in missing.parts(size or (missing.multiple, missing.multiple)):
            tokens = torch.full((len(like), shape.length), shape.vocabulary, device=like.device)
            parts.append(Part(tokens, shape.vocabulary, shape.grid))
        return tuple(parts)

    def crop(self, condition: Condition, window: Window, grid: tuple[int, int]) -> Condition:
        middle = len(self.first.groups)
        first = self.first.crop(condition[:middle], window, grid)
        return first + self.second.crop(condition[middle:], window, grid)

    def picture(self, batch: dict) -> Tensor | None:
        """Of the first that is there and can be drawn."""
        batch = self.complete(batch)
        for one in self.both:
            if set(one.keys) <= batch.keys() and (picture := one.picture(batch)) is not None:
                return picture
        return None
