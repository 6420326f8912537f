"""A mask as it is: at each code the label that covers most of it, without a tokenizer of masks."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.config.ranges import Range
from taming.errors import UserError
from taming.images import colour_labels
from taming.second_stage.conditioners.entries import entry_of
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape, describe


class LabelMap(Conditioner):
    """batch["segmentation"] int64 (B, H, W). Where most pixels have no label, the token is the null
    condition. For priors that add the condition at each position.

    Args:
        count: how many labels there are.
        factor: pixels along one side of a token; the stride of the pictures' first stage lays one
            token over each code.
    """

    key = "segmentation"
    spatial = True

    def __init__(
        self, count: Annotated[int, Range(1, 2**16)], factor: Annotated[int, Range(1, 256)] = 4
    ):
        super().__init__()
        self.count, self.factor = count, factor

    @property
    def labels(self) -> int:
        return self.count

    @property
    def multiple(self) -> int:
        return self.factor

    def forward(self, batch: dict) -> Condition:
        mask = entry_of(batch, self.key)
        if mask.ndim != 3 or mask.is_floating_point():
            raise UserError(f"'segmentation' should be labels (B, H, W), not {describe(mask)}")
        if mask.shape[1] % self.factor or mask.shape[2] % self.factor:
            raise UserError(
                f"'segmentation' is {mask.shape[1]}x{mask.shape[2]}; its sides should be multiples"
                f" of {self.factor}"
            )
        grid = (mask.shape[1] // self.factor, mask.shape[2] // self.factor)
        shares = label_shares(mask, self.count, grid)
        nothing = 1 - shares.sum(dim=1, keepdim=True)
        tokens = torch.cat([shares, nothing], dim=1).argmax(dim=1)
        return (Part(tokens.flatten(1), self.count, grid),)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        return (PartShape(self.count, (size[0] // self.factor, size[1] // self.factor)),)

    def picture(self, batch: dict) -> Tensor:
        return colour_labels(entry_of(batch, self.key).long(), self.count)


def label_shares(mask: Tensor, labels: int, grid: tuple[int, int]) -> Tensor:
    """float (B, labels, h, w): of each label its share of the pixels of a mask (B, H, W) over each
    place of the grid; pixels of no label count for none.
    """
    window = (mask.shape[1] // grid[0], mask.shape[2] // grid[1])
    shares = [F.avg_pool2d((mask == n)[:, None].float(), window) for n in range(labels)]
    return torch.cat(shares, dim=1)
