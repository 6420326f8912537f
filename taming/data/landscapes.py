"""Drawn landscapes with exact masks, scene classes and captions: data without a download, as many
as a run wants, each a function of (seed, index); painting.py has how they look.
"""

from typing import Annotated

import numpy as np
import torch

from taming.config.ranges import Index, Range, Size
from taming.data.depth import normalise_depth
from taming.data.interface import PictureSet
from taming.data.painting import CLASSES, SCENES, draw, draw_distance
from taming.data.views import as_pair
from taming.errors import UserError

SMALLEST_SIDE = 16
CACHE_BYTES = 256e6
_CACHE: dict[tuple, tuple] = {}  # what one process has drawn


class DrawnLandscapes(PictureSet):
    """Item (index, view) -> {"image": float (3, H, W) in [-1, 1], "segmentation": int64 (H, W),
    "class": int, "caption": str, "name": str}.

    Views above 0 are mirrored at random, nothing else: there is always another scene.

    Args:
        size: of the pictures, at least 16 on each side.
        count: how many pictures there are.
        seed: another seed, other pictures.
    """

    classes, scenes = list(CLASSES), list(SCENES)

    def __init__(
        self, size: Size | str, count: Annotated[int, Range(1, 10**7)] = 2000, seed: Index = 0
    ):
        self.size, self.count, self.seed = as_pair(size), count, seed
        if min(self.size) < SMALLEST_SIDE or count < 1:
            raise UserError(
                f"size {self.size} should be at least {SMALLEST_SIDE} on each side, and count"
                f" {count} at least 1"
            )

    def __repr__(self) -> str:
        return f"DrawnLandscapes({self.size}, {self.count}, {self.seed})"

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"drawn{index:05d}"

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        if not 0 <= index < self.count:
            raise IndexError(index)
        image, mask, scene, caption = _cached(self.seed, index, *self.size)
        if self.mirrors(index, view):
            image, mask = image[:, ::-1].copy(), mask[:, ::-1].copy()
        tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous().float() / 127.5 - 1
        return {
            "image": tensor,
            "segmentation": torch.from_numpy(mask).long(),
            "class": scene,
            "caption": caption,
            "name": self.name(index),
        }

    def mirrors(self, index: int, view: int | None) -> bool:
        """Whether this view is mirrored."""
        return bool(view) and np.random.default_rng([self.seed, index, view]).random() < 0.5


class DrawnDepth(DrawnLandscapes):
    """The same with "depth" float (1, H, W) in [-1, 1]: the ground in perspective, what stands on
    it as far as its foot, mountains behind, the sky at 1.

    Args:
        size, count, seed: as of DrawnLandscapes.
    """

    def __repr__(self) -> str:
        return f"DrawnDepth({self.size}, {self.count}, {self.seed})"

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        item = super().__getitem__(key)
        index, view = key if isinstance(key, tuple) else (key, None)
        distance = draw_distance(self.seed, index, *self.size)
        distance = distance[:, ::-1] if self.mirrors(index, view) else distance
        depth = torch.from_numpy(distance.astype(np.float32))
        return {**item, "depth": normalise_depth(depth[None])}


def _cached(*key: int) -> tuple[np.ndarray, np.ndarray, int, str]:
    """As `draw`; drawn once in a process, as far as the memory goes that scenes may take."""
    if key in _CACHE:
        return _CACHE[key]
    scene = draw(*key)
    if (len(_CACHE) + 1) * scene[1].size * 4 < CACHE_BYTES:
        _CACHE[key] = scene
    return scene
