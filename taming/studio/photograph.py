"""The layout of a photograph, found by a segmenter."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taming.data.reading import to_tensor
from taming.errors import UserError
from taming.segmenter import Segmenter
from taming.studio.model import StudioModel
from taming.studio.protocol import Frame
from taming.studio.requests import Fields, size_of
from taming.studio.uploads import cover, png_of, read_picture
from taming.studio.worker import Task

LOOKED_AT = 192  # pixels of the longer side, at most, that a small segmenter makes sense of


class Photographs:
    """Reads layouts off photographs for one model.

    Args:
        model: whose labels are wanted.
        segmenter: what finds them; None where there is none.
    """

    def __init__(self, model: StudioModel, segmenter: Segmenter | None):
        self.model, self.segmenter = model, segmenter

    def layout(self, task: Task, frame: Frame) -> None:
        """The labels of a photograph that is cropped to the canvas, and the crop."""
        if self.segmenter is None:
            raise UserError(
                "no segmenter knows this model's labels; start with --segmenter CKPT, or upload a"
                " layout"
            )
        fields = Fields(frame)
        height, width = size_of(fields, self.model)
        picture = cover(read_picture(fields.blob("file"), "the photograph"), height, width)
        fields.finish()
        labels = labels_in(self.segmenter, to_tensor(picture)[None])
        task.answer(
            "layout",
            {"layout": labels.tobytes(), "png": png_of(picture)},
            height=height,
            width=width,
            remarks="",
        )


@torch.no_grad()
def labels_in(segmenter: Segmenter, image: Tensor) -> np.ndarray:
    """Labels uint8 (H, W) of a photograph (1, 3, H, W) in [-1, 1]."""
    height, width = image.shape[-2:]
    scale = min(1.0, LOOKED_AT / max(height, width))
    small = F.interpolate(
        image,
        (max(1, round(height * scale)), max(1, round(width * scale))),
        mode="bilinear",
        antialias=True,
    )
    device = next(segmenter.parameters()).device
    logits = segmenter(small.to(device))
    logits = F.interpolate(logits, (height, width), mode="bilinear")
    return logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
