"""Small pictures while a layout is painted: a first one in under a second, then one of the size
that the prior was trained on. Where little has changed since the last one, only that is drawn.
"""

import math
import time
from dataclasses import dataclass, replace

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
from taming.studio.requests import Drawing
from taming.studio.uploads import base64_png, png_of_tensor
from taming.studio.worker import Task

FEWEST_CODES = 4  # to a side of a first preview


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
        self.painter = painter

    def preview(self, task: Task, drawing: Drawing, last: Preview | None) -> Preview:
        """Sends one or two previews, and returns the better one."""
        start = time.monotonic()
        model = self.painter.model
        size = preview_size(model, drawing.size)
        sampling = replace(drawing.sampling, size=size)
        labels = _smaller(drawing.labels, size)
        budget = PREVIEW_SECONDS / self.painter.seconds_per_code
        region = _changed(last, labels, sampling, model.second.multiple)
        if region is not None and region.any():
            if region.sum() / model.first.stride**2 <= budget:
                return self._changed_part(task, last, labels, sampling, region, start)
        elif region is not None and last is not None:
            self._send(task, last.picture, "fine", start)
            return last
        if labels.size / model.first.stride**2 > budget:
            small = first_size(model, size, budget)
            self._draw(task, _smaller(drawing.labels, small), sampling, small, "quick", start)
        picture = self._draw(task, labels, sampling, size, "fine", start)
        return Preview(labels, picture, sampling)

    def _draw(
        self,
        task: Task,
        labels: np.ndarray,
        sampling: Sampling,
        size: tuple[int, int],
        stage: str,
        start: float,
        edit: Edit | None = None,
    ) -> Tensor:
        condition = {"segmentation": base64_png(Image.fromarray(labels))}
        sampling = replace(sampling, size=size)
        drawn = self.painter.codes_drawn(
            [0], condition, sampling, edit, on_step=lambda *_: task.checkpoint()
        )
        picture = (drawn if edit is None else edit.paste(drawn))[0]
        self._send(task, picture, stage, start)
        return picture

    def _changed_part(
        self,
        task: Task,
        last: Preview | None,
        labels: np.ndarray,
        sampling: Sampling,
        region: np.ndarray,
        start: float,
    ) -> Preview:
        assert last is not None and sampling.size is not None
        marked = Image.fromarray(region.astype(np.uint8) * 255)
        edit = Edit(to_pil(last.picture), marked, seam=2)
        picture = self._draw(task, labels, sampling, sampling.size, "fine", start, edit)
        return Preview(labels, picture, sampling)

    def _send(self, task: Task, picture: Tensor, stage: str, start: float) -> None:
        task.answer(
            "preview",
            {"png": png_of_tensor(picture)},
            stage=stage,
            seconds=round(time.monotonic() - start, 3),
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
    smallest = max(multiple, FEWEST_CODES * stride)
    height, width = (
        min(side, max(smallest, int(side * scale / multiple) * multiple)) for side in size
    )
    return height, width


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
