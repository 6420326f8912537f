"""What a page hears while a picture is drawn: how far it is, and the rows that are there."""

import time

from torch import Tensor

from taming.first_stage.interface import Codes
from taming.inference.edit import Edit
from taming.second_stage.model import SecondStage
from taming.studio.uploads import png_of_tensor
from taming.studio.worker import Task

INTERVAL = 0.25  # seconds between two words on how far it is
ROWS_SHARE = 0.15  # of the time, at most, for rows
ROWS_MARGIN = 2  # rows of codes above a strip, which its decoder sees


class Progress:
    """Tells the page how far a drawing is. Handed to the sampler as `on_step`.

    Args:
        task: whose answers these are.
        parts: how many drawings of equal length there are, one after the other.
    """

    def __init__(self, task: Task, parts: int = 1):
        self.task, self.parts, self.part = task, parts, 0
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        self.task.checkpoint()
        now = time.monotonic()
        if now - self.last < INTERVAL:
            return
        self.last = now
        share = (self.part + done / max(1, total)) / self.parts
        seconds = (now - self.start) * (1 - share) / share if share else None
        self.task.answer("progress", share=share, seconds_left=seconds)


class Rows:
    """Sends rows of a picture as they are drawn. Handed to the sampler as `on_row`.

    Args:
        task: whose answers these are.
        model: what decodes.
        size: of the picture, (H, W).
        first: the number of the batch's first picture among the variations.
        edit: what stays.
    """

    def __init__(
        self, task: Task, model: SecondStage, size: tuple[int, int], first: int, edit: Edit | None
    ):
        self.task, self.model, self.size, self.first, self.edit = task, model, size, first, edit
        self.shown, self.last, self.cost = 0, time.monotonic(), 0.0

    def __call__(self, codes: Codes, rows: int) -> None:
        self.task.checkpoint()
        start = time.monotonic()
        if start - self.last < max(INTERVAL, self.cost / ROWS_SHARE):
            return
        stride = self.model.first_stage.stride
        top, end = self.shown * stride, min(rows * stride, self.size[0])
        if end <= top:
            return
        strip = self._decoded(codes, rows)[..., : end - top, : self.size[1]].cpu()
        if self.edit is not None:
            strip = self.edit.strip(top, end).paste(strip)
        for index, picture in enumerate(strip):
            self.task.answer(
                "rows", {"png": png_of_tensor(picture)}, index=self.first + index, top=top
            )
        self.shown, self.last = rows, time.monotonic()
        self.cost = self.last - start

    def _decoded(self, codes: Codes, rows: int) -> Tensor:
        """The pixels of the rows of the grid that were not shown yet."""
        stride = self.model.first_stage.stride
        if len(codes) > 1:  # grids of several sizes: all of it
            return self.model.decode(codes)[..., self.shown * stride : rows * stride, :]
        above = max(0, self.shown - ROWS_MARGIN)
        strip = self.model.decode((codes[0][:, above:rows].contiguous(),))
        return strip[..., (self.shown - above) * stride :, :]
