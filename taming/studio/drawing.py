"""Pictures: variations of a layout, regions drawn anew, other pictures' colours."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from taming import images
from taming.data.reading import to_tensor
from taming.inference.draw import draw_batch, joined
from taming.inference.edit import Edit, finish
from taming.inference.job import Job
from taming.inference.memory import check_memory
from taming.inference.style import ColourStyle, nearest
from taming.second_stage.sampling import Sampling
from taming.studio.model import StudioModel
from taming.studio.progress import Progress, Rows
from taming.studio.requests import Drawing
from taming.studio.uploads import base64_png, png_of_tensor
from taming.studio.worker import Task

NOWHERE = Path("studio.png")  # where a job's picture would be written; it is sent instead
CANDIDATES_APART = 1000  # numbers between two candidates of one variation


@dataclass(frozen=True)
class Drawn:
    """A picture, and its place in the batch that it was drawn in."""

    picture: Tensor
    number: int
    batch: int
    row: int


class Painter:
    """Draws with one model. Its methods run in the worker.

    Args:
        model: what draws.
    """

    def __init__(self, model: StudioModel):
        self.model = model
        self.seconds_per_code = 0.01  # of small pictures; measured with each that is drawn alone

    def warm_up(self) -> None:
        """Draws a small picture, so that a person's first one is not slower than the next."""
        if self.model.kind == "first":
            return
        height, width = self.model.trained_size
        layout = base64_png(Image.new("L", (width, height)))
        conditions: dict[str, dict] = {
            "layout": {"segmentation": layout},
            "class": {"class": 0},
            "caption": {"caption": ""},
        }
        condition = conditions.get(self.model.kind, {})
        self.codes_drawn([0], condition, Sampling.of(size=(height, width), guidance=1.0))

    def draw(self, task: Task, drawing: Drawing) -> None:
        """Sends rows while they are drawn, then each variation as a PNG that says how it was
        drawn.
        """
        style = _style_of(drawing)
        candidates = drawing.candidates if style is not None else 1
        numbers = [
            drawing.number + variation + CANDIDATES_APART * candidate
            for variation in range(drawing.count)
            for candidate in range(candidates)
        ]
        together = self._together(drawing, len(numbers))
        progress, waiting, variation = Progress(task, -(-len(numbers) // together)), [], 0
        for begin in range(0, len(numbers), together):
            part = numbers[begin : begin + together]
            show = partial(_show_rows, task, begin)
            rows = Rows(self.model.second, drawing.size, drawing.edit, show)
            pictures = self.codes_drawn(
                part,
                drawing.condition,
                drawing.sampling,
                drawing.edit,
                rows if candidates == 1 else None,
                progress,
            )
            progress.part += 1
            waiting += [
                Drawn(picture, number, len(part), row)
                for row, (picture, number) in enumerate(zip(pictures, part))
            ]
            while len(waiting) >= candidates:
                group, waiting = waiting[:candidates], waiting[candidates:]
                best = 0 if style is None else nearest(style, [one.picture for one in group])
                self._send(task, drawing, style, group[best], variation, progress.start)
                variation += 1

    def codes_drawn(
        self,
        numbers: Sequence[int],
        condition: dict,
        sampling: Sampling,
        edit: Edit | None = None,
        on_row: Callable | None = None,
        on_step: Callable | None = None,
    ) -> Tensor:
        """Pictures (B, 3, H, W) as the sampler gives them, before anything is pasted."""
        model, start = self.model.second, time.monotonic()
        jobs = [Job(number, NOWHERE, condition) for number in numbers]
        batch = joined(model, jobs, sampling)
        known = None if edit is None else edit.known
        pictures = draw_batch(model, jobs, batch, sampling, known, on_row, on_step).cpu()
        codes = pictures.shape[-2] * pictures.shape[-1] // model.first_stage.stride**2
        if len(jobs) == 1 and edit is None and codes <= self._trained_codes():
            self.seconds_per_code = (time.monotonic() - start) / max(1, codes)
        return pictures

    def _trained_codes(self) -> int:
        height, width = self.model.trained_size
        return height * width // self.model.first.stride**2

    def _together(self, drawing: Drawing, count: int) -> int:
        """How many pictures are drawn in a batch: of small ones all, of large ones one. Raises
        UserError where they would not fit into memory.
        """
        height, width = drawing.size
        stride = self.model.first.stride
        is_small = height * width // stride**2 <= self._trained_codes()
        together = count if is_small else 1
        check_memory(self.model.second, {}, drawing.sampling, together)
        return together

    def _send(
        self,
        task: Task,
        drawing: Drawing,
        style: ColourStyle | None,
        drawn: Drawn,
        variation: int,
        start: float,
    ) -> None:
        picture = finish(drawn.picture[None], drawing.edit, style)[0]
        record = replace(
            self.model.record,
            sampling=drawing.sampling,
            condition=drawing.condition,
            number=drawn.number,
            batch=drawn.batch,
            row=drawn.row,
            threads=torch.get_num_threads(),
            edit=None if drawing.edit is None else drawing.edit.plain(),
            style=None if style is None else style.plain(),
        )
        task.answer(
            "picture",
            {"png": _png_with(picture, record.metadata())},
            index=variation,
            number=drawn.number,
            seconds=round(time.monotonic() - start, 3),
        )


def _show_rows(task: Task, first: int, strip: Tensor, top: int, whole: tuple[int, int]) -> None:
    """Sends rows of the variations from `first` on."""
    height, width = whole
    for index, picture in enumerate(strip):
        blobs = {"png": png_of_tensor(picture)}
        task.answer("rows", blobs, index=first + index, top=top, height=height, width=width)


def _style_of(drawing: Drawing) -> ColourStyle | None:
    if drawing.style is None:
        return None
    return ColourStyle.of(to_tensor(drawing.style), drawing.strength)


def _png_with(picture: Tensor, metadata: dict) -> bytes:
    """The very file that `taming sample` would have written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        images.save(picture, path, metadata)
        return path.read_bytes()
