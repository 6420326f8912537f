"""Another picture of the same scene, as the codes of a first stage (Esser et al. 2021, arXiv
2012.09841, section 3.2).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from taming.config.ranges import Size
from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.images import colour_labels
from taming.second_stage.conditioners.entries import entry_of
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape, describe


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
        self.size = None if size is None else sides_of(size)
        self.trained_size = self.size if trained_size is None else sides_of(trained_size)
        self.resizes = size is not None

    @property
    def tokenizer(self) -> FirstStage:
        return self.first_stage

    @property
    def groups(self) -> tuple[int, ...]:
        return (0,) * len(self.first_stage.num_codes)

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


def sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _nearest(before: int, after: int) -> Tensor:
    return torch.arange(after) * before // after
