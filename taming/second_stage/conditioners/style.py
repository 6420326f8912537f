"""The style of another picture: which codes it is made of, not where they are."""

import torch.nn.functional as F
from torch import Tensor

from taming.config.ranges import Size
from taming.errors import UserError
from taming.first_stage.interface import FirstStage
from taming.second_stage.conditioners.encoded_image import EncodedImage, sides_of
from taming.second_stage.interface import Condition, Part, PartShape


class Style(EncodedImage):
    """batch["style"] float (B, 3, H, W) of any size, batch["image"] where there is none (as in
    training): brought to `size`, encoded, and its codes sorted, so that colours and textures are
    there and the layout is not.

    Args:
        first_stage: a tokenizer of pictures.
        size: (height, width) to encode at; a small one gives few tokens.
    """

    spatial = False

    def __init__(self, first_stage: FirstStage, size: Size):
        super().__init__(first_stage)
        self.key, self.encoded_size = "style", sides_of(size)
        first_stage.grids(*self.encoded_size)  # refuses sizes that it does not divide

    @property
    def multiple(self) -> int:
        return 1

    def complete(self, batch: dict) -> dict:
        if self.key in batch or "image" not in batch:
            return batch
        return {**batch, self.key: batch["image"]}

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        grids = self.first_stage.grids(*self.encoded_size)
        return tuple(
            PartShape(vocabulary, rows * columns)
            for vocabulary, (rows, columns) in zip(self.first_stage.num_codes, grids)
        )

    def forward(self, batch: dict) -> Condition:
        codes = self.first_stage.encode(self.picture(batch))
        return tuple(
            Part(level.flatten(1).sort(dim=1).values, vocabulary)
            for level, vocabulary in zip(codes, self.first_stage.num_codes)
        )

    def picture(self, batch: dict) -> Tensor:
        image = self._read(self.complete(batch))
        if image.ndim != 4:
            raise UserError(f"'style' should be a picture (B, 3, H, W), not {tuple(image.shape)}")
        return F.interpolate(image, self.encoded_size, mode="area")
