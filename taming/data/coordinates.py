"""Where in a whole picture each pixel of a crop lies, for priors that draw pieces of one kind of
scene (Esser et al. 2021, arXiv 2012.09841, section 3.3).
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from taming.config.ranges import Count, Index, Size
from taming.data.around import Around
from taming.data.interface import PictureSet
from taming.data.views import as_pair
from taming.errors import UserError


def coordinates(size: tuple[int, int], crop: Sequence[float] = (0.0, 0.0, 1.0, 1.0)) -> Tensor:
    """Float (1, H, W) in [0, 1): of each pixel the raster index in the whole picture over the
    number of that picture's pixels.

    Args:
        size: height and width.
        crop: left, top, right, bottom of what is seen, relative to the whole picture.
    """
    left, top, right, bottom = crop
    rows = max(size[0], round(size[0] / max(bottom - top, 1e-6)))
    columns = max(size[1], round(size[1] / max(right - left, 1e-6)))
    y = (torch.arange(size[0]) + round(top * rows)).clamp(max=rows - 1)
    x = (torch.arange(size[1]) + round(left * columns)).clamp(max=columns - 1)
    return ((y[:, None].double() * columns + x) / (rows * columns)).float()[None]


class CoordinateCrops(Around):
    """Crops of the pictures of another data set, with "coordinates" float (1, H, W) and "crop"
    (4,). Each view has a place of its own, the fixed view one that depends on the picture alone: in
    the middle of all of them, coordinates would say nothing. "image", "segmentation" and "depth"
    are cropped alike.

    Args:
        source: the data set; its pictures are at least as large as the crop.
        size: of the crop: one side, [height, width], or "96x128".
        seed: of the places.
    """

    def __init__(self, source: PictureSet, size: Size | tuple[Count, Count] | str, seed: Index = 0):
        self.size, self.seed = as_pair(size), seed
        super().__init__(source, self.size, seed)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        item = self.item((index, view))
        height, width = item["image"].shape[-2:]
        rows, columns = self.size
        if rows > height or columns > width:
            raise UserError(
                f"a crop of {rows}x{columns} does not fit into pictures of {height}x{width}; take a"
                " smaller size"
            )
        draw = random.Random(f"{self.seed}/{index}/{view}/crop")
        y, x = draw.random(), draw.random()
        top, left = round((height - rows) * y), round((width - columns) * x)
        for name in ("image", "segmentation", "depth"):
            if name in item:
                item[name] = item[name][..., top : top + rows, left : left + columns]
        right, bottom = left + columns, top + rows
        crop = (left / width, top / height, right / width, bottom / height)
        item["crop"] = torch.tensor(crop)
        return {**item, "coordinates": coordinates(self.size, crop)}
