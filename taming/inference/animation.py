"""A picture growing, as a GIF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from taming import images
from taming.first_stage.interface import Codes
from taming.second_stage.model import SecondStage

FRAMES = 32  # of an animation, at most


class Frames:
    """Every few rows of codes are decoded, and what is still to come shows the condition, or
    grey. Handed to the sampler as `on_row`.
    """

    def __init__(self, model: SecondStage, batch: dict[str, Any]):
        self.model, self.frames = model, []
        condition = model.conditioner.picture(batch)
        self.background = None if condition is None else condition.cpu()

    def __call__(self, codes: Codes, rows: int) -> None:
        every = -(-codes[-1].shape[1] // FRAMES)
        if rows % every and rows != codes[-1].shape[1]:
            return
        done = rows * self.model.first_stage.stride
        picture = self.model.decode(codes).cpu()
        if self.background is None:
            background = torch.zeros_like(picture)
        else:
            background = torch.nn.functional.interpolate(self.background, picture.shape[-2:])
        self.frames.append(torch.cat([picture[..., :done, :], background[..., done:, :]], dim=-2))

    def write(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        """A GIF for each picture of the batch, cropped to (height, width)."""
        height, width = size
        # Levels of a cascade come smaller
        largest = max(tuple(frame.shape[-2:]) for frame in self.frames)
        frames = [torch.nn.functional.interpolate(frame, largest) for frame in self.frames]
        for row, path in enumerate(paths):
            images.save_film(
                [images.to_pil(frame[row, :, :height, :width]) for frame in frames], path
            )
