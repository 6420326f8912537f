"""Pictures with depth maps: `root/images` and `root/depth` with matching names."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.config.ranges import Index
from taming.data.folder import ImageFolder, Split, ViewParameters, path_inside
from taming.data.reading import CorruptImage, read_image, to_tensor
from taming.data.segmentation import IMAGES, refuse_other_size
from taming.errors import UserError, first_line

LARGEST = 1e30  # beyond, differences leave what 32 bits hold
MOST_HOLES = 0.5  # of a map
_PRINTED: set[Path] = set()  # maps with holes that this process has named


class DepthImages(ImageFolder):
    """Item (index, view) -> {"image": float (3, H, W), "depth": float (1, H, W), "name": str}, both
    in [-1, 1]; each picture's depth extends over all of it.

    Depth maps are greyscale PNGs of 8 or 16 bits, larger values further or nearer as you like, or
    .npy arrays (H, W), whose NaN and infinite values are filled from beside. Crops and flips are
    those of the picture.

    Args:
        root: the folder with images/ and depth/.
        view, list, split, seed: as of ImageFolder.
    """

    def __init__(
        self,
        root: str,
        view: ViewParameters,
        list: str | None = None,
        split: Split | None = None,
        seed: Index = 0,
    ):
        super().__init__(root, view, list, split, seed)
        for path in self.paths:
            self.depth_path(path)

    def picture_folder(self) -> Path:
        return self.root / IMAGES

    def depth_path(self, picture: Path) -> Path:
        inside = path_inside(picture, self.picture_folder())
        if inside is None:
            raise UserError(
                f"picture '{picture}' is not in '{self.picture_folder()}', so it has no depth map;"
                " list pictures of that folder"
            )
        expected = self.root / "depth" / inside
        for ending in (".png", ".npy"):
            path = expected.with_suffix(ending)
            if os.path.isfile(path) or os.path.islink(path):
                return path
        raise CorruptImage(
            f"picture '{picture}' has no depth map '{expected.with_suffix('.png')}' or .npy; add"
            " it, or leave the picture out with a list"
        )

    def files(self, index: int) -> Sequence[Path]:
        return [self.paths[index], self.depth_path(self.paths[index])]

    def check(self, index: int) -> str | None:
        path = self.paths[index]
        depth = self.depth_path(path)
        refuse_other_size(self._checked_size(index), depth_size(depth), depth, path)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        path = self.paths[index]
        image, depth = read_image(path), read_depth(self.depth_path(path))
        refuse_other_size(image.size, depth.size, self.depth_path(path), path)
        box, flipped = self.view.box(*image.size, index, view, str(path))
        cropped = np.array(self.view.image(depth, box, flipped))
        return {
            "image": to_tensor(self.view.image(image, box, flipped)),
            "depth": normalise_depth(torch.from_numpy(cropped)[None]),
            "name": self.name(index),
        }


def read_depth(path: Path) -> Image.Image:
    """A depth map as a PIL picture of mode F.

    Raises:
        CorruptImage: not readable, not one channel, no numbers, more holes than values.
    """
    values = np.asarray(_open_depth(path, header=False))
    if not values.size:
        raise CorruptImage(f"depth map '{path}' has shape {values.shape}; it is empty")
    finite = np.isfinite(values) & (np.abs(values.astype(np.float64)) < LARGEST)
    if not finite.all():
        values = filled(values, finite, path)
    return Image.fromarray(values.astype(np.float32))


def filled(values: np.ndarray, finite: np.ndarray, path: Path) -> np.ndarray:
    """Holes get the value of the nearest place that has one; how many there are is printed, once
    for each file.

    Args:
        values: (H, W).
        finite: bool (H, W), false in the holes.
        path: of the file, for messages.

    Raises:
        CorruptImage: most of the map is holes.
    """
    holes = np.count_nonzero(~finite)
    if holes > MOST_HOLES * finite.size:
        raise CorruptImage(
            f"depth map '{path}' holds {holes} values that are NaN or infinite, of {finite.size};"
            " fill them in (with the largest depth, say), or leave the picture out"
        )
    if path not in _PRINTED:
        _PRINTED.add(path)
        print(f"depth map '{path}': {holes} holes are filled from beside", file=sys.stderr)
    from scipy import ndimage

    nearest: Any = ndimage.distance_transform_edt(
        ~finite, return_distances=False, return_indices=True
    )
    return values[tuple(nearest)]


def depth_size(path: Path) -> tuple[int, int]:
    """(width, height) of a depth map, from its header. Raises CorruptImage."""
    depth = _open_depth(path, header=True)
    return depth.size if isinstance(depth, Image.Image) else (depth.shape[1], depth.shape[0])


def _open_depth(path: Path, header: bool) -> Image.Image | np.ndarray:
    """A picture with one channel, or an array (H, W); their values may still be on disk."""
    try:
        if path.suffix == ".npy":
            depth = np.load(path, mmap_mode="r" if header else None)
        else:
            with Image.open(path) as depth:
                if not header:
                    depth.load()
    except Exception as error:  # Pillow and NumPy raise many kinds
        raise CorruptImage(
            f"depth map '{path}' can't be read: {first_line(error) or type(error).__name__}"
        ) from None
    if isinstance(depth, Image.Image):
        if depth.mode == "L" or depth.mode[0] in "IF":
            return depth
        raise CorruptImage(
            f"depth map '{path}' has mode {depth.mode}; one grey channel is expected"
        )
    if not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.dtype.kind not in "uifb":
        kind = f"{depth.dtype} {depth.shape}" if isinstance(depth, np.ndarray) else "an archive"
        raise CorruptImage(f"depth map '{path}' is {kind}; an array (H, W) of numbers is expected")
    return depth


def normalise_depth(depth: Tensor) -> Tensor:
    """Least to -1, greatest to 1; a flat map to -1."""
    depth = depth - depth.min()
    return 2 * depth / depth.max().clamp(min=1e-12) - 1
