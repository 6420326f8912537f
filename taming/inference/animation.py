"""A picture growing, as a GIF."""

import torch
from torch import Tensor

from taming import images
from taming.first_stage.interface import Codes
from taming.inference.job import Job
from taming.second_stage.model import SecondStage

FRAMES = 32  # of an animation, at most


class Frames:
    """The picture growing: every few rows of codes are decoded, and what is still to come shows the
    condition, or grey.
    """

    def __init__(self, model: SecondStage, part: list[Job], batch: dict):
        self.model, self.part, self.frames = model, part, []
        shown = model.conditioner.picture(batch)
        self.behind = None if shown is None else shown.cpu()

    def __call__(self, codes: Codes, rows: int) -> None:
        every = -(-codes[-1].shape[1] // FRAMES)
        if rows % every and rows != codes[-1].shape[1]:
            return
        done = rows * self.model.first_stage.stride
        picture = self.model.decode(codes).cpu()
        ground = (
            torch.zeros_like(picture)
            if self.behind is None
            else torch.nn.functional.interpolate(self.behind, picture.shape[-2:])
        )
        self.frames.append(torch.cat([picture[..., :done, :], ground[..., done:, :]], dim=-2))

    def write(self, drawn: Tensor) -> None:
        height, width = drawn.shape[-2:]
        for row, job in enumerate(self.part):
            images.save_film(
                [images.to_pil(frame[row, :, :height, :width]) for frame in self.frames],
                job.path.with_suffix(".gif"),
            )
