"""Small pictures while a layout is painted: a first one in under a second, then one of the size
that the prior was trained on. Where little has changed since the last one, only that is drawn.
"""

import math
import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.images import to_pil
from taming.inference.edit import Edit
from taming.second_stage.sampling import Sampling
from taming.studio.drawing import Painter
from taming.studio.limits import PREVIEW_SECONDS
from taming.studio.model import StudioModel
from taming.studio.progress import Rows
from taming.studio.requests import Drawing
from taming.studio.uploads import base64_png, png_of_tensor
from taming.studio.worker import Task

FEWEST_CODES = 8  # to a side of a first preview that is worth looking at
ROWS_SECONDS = 0.1  # between two strips of a preview
SEAM = 2  # pixels


@dataclass(frozen=True)
class Preview:
    """The last one of a tab, of which the next one keeps what has not changed.

    Args:
        labels: (h, w) of what was drawn.
        picture: (3, h, w).
        sampling: how.
    """

    labels: np.ndarray
    picture: Tensor
    sampling: Sampling


class Previewer:
    """Previews for one model.

    Args:
        painter: what draws.
    """

    def __init__(self, painter: Painter):
        self.painter, self.start = painter, 0.0

    def preview(self, task: Task, drawing: Drawing, last: Preview | None) -> Preview:
        """Sends previews, rows first, and returns the last one.

        What has changed since the last preview is drawn into it. Where there is none to draw into,
        a smaller one comes before, if it has enough codes to be worth looking at.
        """
        self.start = time.monotonic()
        model = self.painter.model
        size = preview_size(model, drawing.size)
        sampling = replace(drawing.sampling, size=size)
        labels = _smaller(drawing.labels, size)
        region = _changed(last, labels, sampling, model.second.multiple)
        if last is not None and region is not None:
            if not region.any():
                self._send(task, last.picture[None], 0, size, stage="done")
                return last
            marked = Image.fromarray(region.astype(np.uint8) * 255)
            edit = Edit(to_pil(last.picture), marked, SEAM)
            return Preview(labels, self._draw(task, labels, sampling, edit), sampling)
        first = first_size(model, size, PREVIEW_SECONDS / self.painter.seconds_per_code)
        if first != size and min(first) >= FEWEST_CODES * model.first.stride:
            self._draw(task, _smaller(drawing.labels, first), replace(sampling, size=first))
        return Preview(labels, self._draw(task, labels, sampling), sampling)

    def _draw(
        self, task: Task, labels: np.ndarray, sampling: Sampling, edit: Edit | None = None
    ) -> Tensor:
        """A picture (3, H, W), whose rows are sent as they come, and then all of it."""
        assert sampling.size is not None
        condition = {"segmentation": base64_png(Image.fromarray(labels))}
        show = partial(self._send, task)
        rows = Rows(self.painter.model.second, sampling.size, edit, show, ROWS_SECONDS)
        pictures = self.painter.codes_drawn(
            [0], condition, sampling, edit, rows, lambda *_: task.checkpoint()
        )
        pictures = pictures if edit is None else edit.paste(pictures)
        self._send(task, pictures, 0, sampling.size, stage="done")
        return pictures[0]

    def _send(
        self, task: Task, strip: Tensor, top: int, size: tuple[int, int], stage: str = "rows"
    ) -> None:
        """Rows of a preview of this size, from `top` on."""
        task.answer(
            "preview",
            {"png": png_of_tensor(strip[0])},
            stage=stage,
            top=top,
            height=size[0],
            width=size[1],
            seconds=round(time.monotonic() - self.start, 3),
        )


def preview_size(model: StudioModel, size: tuple[int, int]) -> tuple[int, int]:
    """Of the canvas's shape, at most what the prior was trained on."""
    trained, multiple = model.trained_size, model.second.multiple
    scale = min(1.0, trained[0] / size[0], trained[1] / size[1])
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return min(height, trained[0]), min(width, trained[1])


def first_size(model: StudioModel, size: tuple[int, int], budget: float) -> tuple[int, int]:
    """Of the same shape, with so few codes that they are drawn in time."""
    multiple, stride = model.second.multiple, model.first.stride
    scale = math.sqrt(min(1.0, budget / (size[0] * size[1] / stride**2)))
    height, width = (max(multiple, int(side * scale / multiple) * multiple) for side in size)
    return min(height, size[0]), min(width, size[1])


def _smaller(labels: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """By nearest neighbour, at the middle of each pixel."""
    assert labels is not None
    rows = ((np.arange(size[0]) + 0.5) * labels.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * labels.shape[1] / size[1]).astype(int)
    return np.ascontiguousarray(labels[rows][:, columns])


def _changed(
    last: Preview | None, labels: np.ndarray, sampling: Sampling, multiple: int
) -> np.ndarray | None:
    """Where labels differ from those of the last preview, in whole patches with one more around;
    None where it was drawn otherwise.
    """
    if last is None or last.labels.shape != labels.shape or last.sampling != sampling:
        return None
    differs = torch.from_numpy(last.labels != labels)[None, None].float()
    patches = torch.nn.functional.max_pool2d(differs, multiple, ceil_mode=True)
    patches = torch.nn.functional.max_pool2d(patches, 3, stride=1, padding=1)
    grown = patches.repeat_interleave(multiple, -2).repeat_interleave(multiple, -1)
    return grown[0, 0, : labels.shape[0], : labels.shape[1]].numpy() > 0
