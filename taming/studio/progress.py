"""What a page hears while a picture is drawn: how far it is, and the rows that are there."""

import time
from collections.abc import Callable

from torch import Tensor

from taming.first_stage.interface import Codes, FirstStage
from taming.inference.edit import Edit
from taming.second_stage.cascade import Cascade
from taming.second_stage.model import SecondStage
from taming.second_stage.window import decode_tiled
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


Strip = Callable[[Tensor, int, tuple[int, int]], None]
"""Takes rows (B, 3, h, W) of pictures, where they begin, and the size of the whole (H, W)."""


class Rows:
    """Decodes rows of pictures as they are drawn. Handed to the sampler as `on_row`.

    Of a cascade the scene and each level but the last are shown, too, smaller than the picture.

    Args:
        model: what draws.
        size: of the picture, (H, W).
        edit: what stays.
        show: takes the rows.
        interval: seconds between two strips, at least.
    """

    def __init__(
        self,
        model: SecondStage,
        size: tuple[int, int],
        edit: Edit | None,
        show: Strip,
        interval: float = INTERVAL,
    ):
        self.model, self.size, self.edit, self.show = model, size, edit, show
        self.interval, self.rows = interval, 0
        self.grid: tuple[int, int] | None = None  # of the scene or level that is being drawn
        box = None if edit is None else edit.region.getbbox()
        self.begin = 0 if box is None else box[1]  # pixels above stay
        self.tokenizer = model.first_stage
        self.last, self.cost = time.monotonic(), 0.0

    def __call__(self, codes: Codes, rows: int) -> None:
        start, grid = time.monotonic(), (codes[-1].shape[1], codes[-1].shape[2])
        if grid != self.grid:
            self.tokenizer = self._tokenizer()
            self.grid, self.rows = grid, 0
        stride = self.tokenizer.stride
        if rows * stride <= self.begin:
            self.rows = rows
        pause = max(self.interval, self.cost / ROWS_SHARE)
        if rows <= self.rows or (self.rows and start - self.last < pause):
            return
        whole = (grid[0] * stride, grid[1] * stride)
        is_last = whole[0] >= self.size[0] and whole[1] >= self.size[1]
        if (rows == grid[0] and is_last) or (self.edit is not None and not is_last):
            return
        top = self.rows * stride
        strip = self._decoded(codes, rows).cpu()
        if is_last:
            whole = self.size
            strip = strip[..., : self.size[0] - top, : self.size[1]]
        if self.edit is not None:
            strip = self.edit.strip(top, top + strip.shape[-2]).paste(strip)
        self.show(strip, top, whole)
        self.rows, self.last = rows, time.monotonic()
        self.cost = self.last - start

    def _tokenizer(self) -> FirstStage:
        """What decodes the codes that come now: of a cascade's levels another than of its scene."""
        if isinstance(self.model, Cascade) and self.grid is not None:
            return self.model.tokenizer
        return self.model.first_stage

    def _decoded(self, codes: Codes, rows: int) -> Tensor:
        """The pixels of the rows of the grid that were not shown yet."""
        stride, finest = self.tokenizer.stride, codes[-1]
        if len(codes) > 1:  # grids of several sizes: all of it
            whole = self.tokenizer.decode(codes)
            return whole[..., self.rows * stride : rows * stride, :].clamp(-1, 1)
        above = max(0, self.rows - ROWS_MARGIN)
        strip = decode_tiled(self.tokenizer, (finest[:, above:rows].contiguous(),))
        return strip[..., (self.rows - above) * stride :, :].clamp(-1, 1)
