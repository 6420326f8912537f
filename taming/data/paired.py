"""Pictures with another picture of the same scene: drawn keypoints, edges, a sketch, a style."""

import os
from pathlib import Path
from typing import Literal

from PIL import Image

from taming.data.folder import ImageFolder, Split, ViewParameters, path_inside
from taming.data.reading import EXTENSIONS, image_size, read_image, to_tensor
from taming.data.records import Seed
from taming.data.segmentation import IMAGES, refuse_other_size
from taming.errors import UserError


class PairedImages(ImageFolder):
    """Item (index, view) -> {"image", `key`: both float (3, H, W) in [-1, 1], "name": str}; crops
    and flips are the same for both.

    Args:
        root: the folder with images/ and a folder named like `key` with pictures of the same names.
        key: the entry of the second picture, such as keypoints.
        view, list, split, seed: as of ImageFolder.
    """

    KEYS = ("keypoints", "edges", "sketch", "condition")

    def __init__(
        self,
        root: str,
        key: Literal["keypoints", "edges", "sketch", "condition"],
        view: ViewParameters = 256,
        list: str | None = None,
        split: Split | None = None,
        seed: Seed = 0,
    ):
        super().__init__(root, view, list, split, seed)
        self.key = key
        if not (self.root / key).is_dir():
            raise UserError(
                f"'{root}' has no folder '{key}' with the pictures that belong to others"
            )
        for path in self.paths:
            self.other(path)

    def picture_folder(self) -> Path:
        if not (self.root / IMAGES).is_dir():
            raise UserError(f"'{self.root}' has no folder '{IMAGES}'; the pictures go there")
        return self.root / IMAGES

    def other(self, picture: Path) -> Path:
        """The second picture's file."""
        inside = path_inside(picture, self.picture_folder())
        if inside is not None:
            for ending in (picture.suffix, *EXTENSIONS):
                path = (self.root / self.key / inside).with_suffix(ending)
                if os.path.isfile(path):
                    return path
        raise UserError(
            f"picture '{picture}' has no picture of the same name in '{self.root / self.key}'; add"
            " it, or leave the picture out with a list"
        )

    def files(self, index: int) -> tuple[Path, Path]:
        return self.paths[index], self.other(self.paths[index])

    def check(self, index: int) -> str | None:
        path, other = self.files(index)
        refuse_other_size(self._checked_size(index), image_size(other), other, path)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        path, other = self.files(index)
        image, second = read_image(path), read_image(other)
        refuse_other_size(image.size, second.size, other, path)
        box, flipped = self.view.box(*image.size, index, view, str(path))

        def cut(picture: Image.Image):
            return to_tensor(self.view.image(picture, box, flipped))

        return {"image": cut(image), self.key: cut(second), "name": self.name(index)}
