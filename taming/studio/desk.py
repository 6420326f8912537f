"""What is done beside the drawing, without the model: sketches, layouts in and out."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from taming.data.legend import Legend
from taming.errors import UserError
from taming.images import IGNORE
from taming.studio.model import StudioModel
from taming.studio.protocol import Frame
from taming.studio.requests import Fields, read_label_bytes, size_of
from taming.studio.sketches import draw_sketch, sketches_for
from taming.studio.uploads import cover, layout_png, read_upload
from taming.studio.worker import Task

Answer = Callable[[Task, Frame], None]


class Desk:
    """Answers of one model's desk.

    Args:
        model: whose labels count.
    """

    def __init__(self, model: StudioModel):
        self.model = model

    def sketch(self, task: Task, frame: Frame) -> None:
        """One of the shipped layouts at the canvas's size."""
        fields, names = Fields(frame), self._legend().names
        name = fields.choice("name", sketches_for(names))
        height, width = size_of(fields, self.model)
        fields.finish()
        self._answer(task, draw_sketch(name, height, width, names))

    def layout(self, task: Task, frame: Frame) -> None:
        """An uploaded layout, brought to the canvas's size."""
        fields, legend = Fields(frame), self._legend()
        height, width = size_of(fields, self.model)
        layout = read_upload(fields.blob("file"), legend).filled()
        fields.finish()
        labels = np.asarray(cover(layout.mask, height, width, nearest=True)).copy()
        strange = labels == IGNORE
        if len(legend.names) <= IGNORE and strange.any():
            labels[strange] = 0
        self._answer(task, labels, "; ".join(layout.remarks))

    def mask(self, task: Task, frame: Frame) -> None:
        """The canvas's layout as a PNG that `taming sample --masks` reads."""
        fields = Fields(frame)
        labels = read_label_bytes(fields, self.model)
        fields.finish()
        task.answer("mask", {"png": layout_png(labels, self._legend())})

    def _legend(self) -> Legend:
        if self.model.legend is None:
            raise UserError("this model has no labels, so there is no layout")
        return self.model.legend

    def _answer(self, task: Task, labels: np.ndarray, remarks: str = "") -> None:
        blobs = {"layout": np.ascontiguousarray(labels, dtype=np.uint8).tobytes()}
        height, width = labels.shape
        task.answer("layout", blobs, height=height, width=width, remarks=remarks)


def resized_labels(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """By nearest neighbour, cropped around the middle."""
    return np.asarray(cover(Image.fromarray(labels), height, width, nearest=True))
