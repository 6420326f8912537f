"""Objects in boxes from label maps: around each connected piece of a label."""

from typing import Annotated, Any

import numpy as np
from torch import Tensor

from taming.config.ranges import Range, Share
from taming.data.around import Around
from taming.data.interface import PictureSet
from taming.data.records import Object, box_rows
from taming.errors import UserError


class LabelBoxes(Around):
    """The items of another data set with "boxes" float (objects, 6), see RecordSet: one around
    each connected piece of a label in "segmentation".

    Args:
        source: the data set, whose items have "segmentation".
        objects: rows of boxes, the most of a picture; the largest count.
        smallest: pieces whose box has a smaller share of the picture are left out.
    """

    def __init__(
        self,
        source: PictureSet,
        objects: Annotated[int, Range(1, 4096)] = 30,
        smallest: Share = 0.01,
    ):
        super().__init__(source, objects, smallest)
        self.objects, self.smallest = objects, smallest
        self.object_names = getattr(source, "classes", ())

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        item = self.item(key)
        if "segmentation" not in item:
            raise UserError(
                f"{type(self.pictures).__name__} has no label maps to draw boxes around; give a"
                " data set whose items have 'segmentation'"
            )
        pieces = [one for one in pieces_of(item["segmentation"]) if one.area >= self.smallest]
        return {**item, "boxes": box_rows(pieces, self.objects, False)}


def pieces_of(mask: Tensor) -> list[Object]:
    """The connected pieces of a label map int64 (H, W), by label, then from above."""
    from scipy import ndimage

    labels, (height, width) = mask.numpy(), mask.shape
    objects = []
    for label in np.unique(labels).tolist():
        numbered: Any = ndimage.label(labels == label)
        places: list = ndimage.find_objects(numbered[0])
        for rows, columns in places:
            sides = (columns.start / width, rows.start / height)
            ends = (columns.stop / width, rows.stop / height)
            objects.append(Object(label, *sides, *ends))
    return objects
