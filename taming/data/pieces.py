"""Pieces of scenes at many scales, and where in the scene each lies: what a level of a cascade
learns from.
"""

import torch

from taming.data.reading import image_size
from taming.data.segmentation import SegmentedImages


class ScenePieces(SegmentedImages):
    """As SegmentedImages; items also have "crop" float (4,): left, top, right and bottom of what
    is seen, relative to the whole picture (mirrored with it).

    Args:
        root, view, list, split, seed: as of ImageFolder; a view's `scale` is how many times larger
            than the piece the short side of the whole picture may be.
        convention, ignore, labels, same: as of SegmentedImages.
    """

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        width, height = image_size(self.paths[index])
        box, flipped = self.view.box(width, height, index, view, str(self.paths[index]))
        left, top, right, bottom = (side / whole for side, whole in zip(box, (width, height) * 2))
        if flipped:
            left, right = 1 - right, 1 - left
        return {**super().__getitem__(key), "crop": torch.tensor([left, top, right, bottom])}
