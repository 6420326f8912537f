"""The layout of a photograph, as a segmenter sees it."""

from dataclasses import dataclass

import numpy as np

from taming.data.legend import Legend
from taming.errors import UserError
from taming.inference.models import labels_of
from taming.inference.segment import SHIPPED, load_segmenter, segment_image
from taming.segmenter import Segmenter
from taming.studio.model import StudioModel
from taming.studio.protocol import Frame
from taming.studio.requests import Fields, size_of
from taming.studio.uploads import cover, png_of, read_picture
from taming.studio.worker import Task


@dataclass(frozen=True)
class Eye:
    """A segmenter, and what its labels are among the model's."""

    segmenter: Segmenter
    legend: Legend


def eye_for(model: StudioModel, checkpoint: str | None = None) -> Eye | None:
    """The segmenter that a user named, or the shipped one where it knows the model's labels.

    Raises:
        UserError: the named one is none, or has labels that the model does not have.
    """
    if checkpoint is not None:
        return _eye(model, checkpoint)
    try:
        return _eye(model, SHIPPED)
    except UserError:  # there is no button for photographs
        return None


def _eye(model: StudioModel, checkpoint: str) -> Eye:
    segmenter = load_segmenter(checkpoint)
    if model.legend is None:
        raise UserError(f"'{model.name}' paints no layouts; leave --segmenter {checkpoint} out")
    legend = labels_of(segmenter)
    if legend is not None:
        legend = legend.in_terms_of(model.legend.names, f"the segmenter for '{model.name}'")
    elif segmenter.labels == len(model.legend.names):
        legend = model.legend
    else:
        raise UserError(
            f"segmenter '{checkpoint}' knows {segmenter.labels} labels, but '{model.name}' has"
            f" {len(model.legend.names)}; take one that was trained on the same labels"
        )
    return Eye(segmenter, legend)


class Photographs:
    """Reads layouts off photographs for one model. Its methods run in the worker.

    Args:
        model: whose labels are wanted.
        eye: what finds them; None where there is none.
    """

    def __init__(self, model: StudioModel, eye: Eye | None):
        self.model, self.eye = model, eye

    def layout(self, task: Task, frame: Frame) -> None:
        """The labels of a photograph that is cropped to the canvas, and the crop."""
        if self.eye is None:
            raise UserError(
                "no segmenter knows this model's labels; start with --segmenter CKPT, or upload a"
                " layout"
            )
        fields = Fields(frame)
        height, width = size_of(fields, self.model)
        picture = cover(read_picture(fields.blob("file"), "the photograph"), height, width)
        fields.finish()
        layout = segment_image(self.eye.segmenter, picture, self.eye.legend)
        labels = np.asarray(layout.mask)
        task.answer(
            "layout",
            {"layout": labels.tobytes(), "png": png_of(picture)},
            height=height,
            width=width,
            remarks=layout.describe("photograph"),
        )
