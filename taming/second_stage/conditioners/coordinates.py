"""Where in a larger picture a crop is."""

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from taming.config.ranges import Range
from taming.errors import UserError
from taming.second_stage.conditioners.entries import check_relative, entry_of
from taming.second_stage.interface import Condition, Conditioner, Part, PartShape, describe


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
        check_relative(places, "coordinates")
        return places
