"""No condition."""

from typing import Annotated

import torch
from torch import Tensor

from taming.config.ranges import Range
from taming.errors import UserError
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape


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
