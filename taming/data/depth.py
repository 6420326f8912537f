"""Pictures with depth maps: `root/images` and `root/depth` with matching names."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.data.folder import ImageFolder
from taming.data.transforms import read_image, to_tensor
from taming.errors import UserError


class DepthImages(ImageFolder):
    """Item (index, view) -> {"image": float (3, H, W), "depth": float (1, H, W), "name": str}, both
    in [-1, 1]; each picture's depth spans all of it.

    Depth maps are greyscale PNGs of 8 or 16 bits, larger values further or nearer as you like, or
    .npy arrays (H, W). Crops and flips are those of the picture.
    """

    def picture_folder(self) -> Path:
        return self.root / "images"

    def depth_path(self, picture: Path) -> Path:
        stem = self.root / "depth" / picture.resolve().relative_to(self.picture_folder().resolve())
        for ending in (".png", ".npy"):
            if stem.with_suffix(ending).is_file():
                return stem.with_suffix(ending)
        raise UserError(
            f"picture '{picture}' has no depth map '{stem.with_suffix('.png')}' or .npy; add it, or"
            " leave the picture out with a list"
        )

    def files(self, index: int):
        return [self.paths[index], self.depth_path(self.paths[index])]

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        path = self.paths[index]
        image, depth = read_image(path), read_depth(self.depth_path(path))
        if image.size != depth.size:
            raise UserError(
                f"depth map of '{path}' is {depth.width}x{depth.height}, but the picture is"
                f" {image.width}x{image.height}; make them equal"
            )
        box, flipped = self.view.box(*image.size, index, view, str(path))
        return {
            "image": to_tensor(self.view.image(image, box, flipped)),
            "depth": spread(torch.from_numpy(np.array(self.view.image(depth, box, flipped)))[None]),
            "name": self.name(index),
        }


def read_depth(path: Path) -> Image.Image:
    """A depth map as a PIL picture of mode F."""
    try:
        values = np.load(path) if path.suffix == ".npy" else np.array(Image.open(path))
    except (OSError, ValueError) as error:
        raise UserError(f"depth map '{path}' can't be read: {error}") from None
    if values.ndim != 2:
        raise UserError(f"depth map '{path}' has shape {values.shape}; one channel is wanted")
    return Image.fromarray(values.astype(np.float32), mode="F")


def spread(depth: Tensor) -> Tensor:
    """Least to -1, greatest to 1; a flat map to -1."""
    depth = depth - depth.min()
    return 2 * depth / depth.max().clamp(min=1e-12) - 1
