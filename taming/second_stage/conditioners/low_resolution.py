"""A small version of the picture, for stochastic super-resolution (Esser et al. 2021, arXiv
2012.09841, section 4.2).
"""

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from taming.config.ranges import Range
from taming.errors import UserError
from taming.first_stage.interface import FirstStage, pad_to_multiple
from taming.second_stage.conditioners.encoded_image import EncodedImage
from taming.second_stage.interface import Condition, Part, PartShape


class LowResolution(EncodedImage):
    """batch["low_resolution"] float (B, 3, H / factor, W / factor), as the codes of a first stage;
    the means over patches of batch["image"] where there is none.

    Args:
        first_stage: a tokenizer of pictures, that of the codes to draw as well.
        factor: how many times smaller each side is.
        enlarge: bring the small picture to the full size (bicubic) before it is encoded, as the
            published model does; else it is encoded small, and the prior reads factor^2 times fewer
            tokens.
    """

    def __init__(
        self,
        first_stage: FirstStage,
        factor: Annotated[int, Range(2, 64)] = 4,
        enlarge: bool = False,
    ):
        super().__init__(first_stage)
        self.key, self.factor, self.enlarge = "low_resolution", factor, enlarge
        self.resizes = True

    @property
    def multiple(self) -> int:
        return self.first_stage.multiple * (1 if self.enlarge else self.factor)

    def complete(self, batch: dict) -> dict:
        image = batch.get("image")
        if self.key in batch or not isinstance(image, Tensor):
            return batch
        if image.ndim != 4 or any(side % self.factor for side in image.shape[-2:]):
            raise UserError(
                f"pictures should be (B, 3, H, W) with sides divisible by {self.factor}, not"
                f" {tuple(image.shape)}"
            )
        return {**batch, self.key: F.avg_pool2d(image, self.factor)}

    def size_of(self, batch: dict) -> tuple[int, int] | None:
        size = super().size_of(batch)
        return size and (size[0] * self.factor, size[1] * self.factor)

    def parts(self, size: tuple[int, int]) -> tuple[PartShape, ...]:
        divisor = 1 if self.enlarge else self.factor
        return super().parts((size[0] // divisor, size[1] // divisor))

    def forward(self, batch: dict) -> Condition:
        image = self._read(self.complete(batch))
        if self.enlarge:
            image = F.interpolate(image, scale_factor=self.factor, mode="bicubic").clamp(-1, 1)
        codes = self.first_stage.encode(pad_to_multiple(image, self.first_stage.multiple))
        return tuple(
            Part(level.flatten(1), vocabulary, (level.shape[1], level.shape[2]))
            for level, vocabulary in zip(codes, self.first_stage.num_codes)
        )

    def picture(self, batch: dict) -> Tensor:
        image = self._read(self.complete(batch))
        return image.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
