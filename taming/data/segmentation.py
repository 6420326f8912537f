"""Pictures with label maps: `root/images`, `root/segmentations` with matching names,
`root/classes.txt`; optionally `root/scenes.txt` for a class per picture.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from taming.config.ranges import Index
from taming.data.folder import ImageFolder, Split, ViewParameters, path_inside
from taming.data.reading import (
    CorruptImage,
    mask_header,
    mask_to_tensor,
    read_image,
    read_mask,
    to_tensor,
)
from taming.errors import UserError
from taming.files import read_text

IMAGES, MASKS = "images", "segmentations"


class SegmentedImages(ImageFolder):
    """Item (index, view) -> {"image": float (3, H, W) in [-1, 1], "segmentation": int64 (H, W),
    "name": str}; with scenes.txt also "class": int.

    classes.txt: one class per line, the label's number first or implied by the line. scenes.txt:
    class names, of which the part of a file's name before the first `_` is one. Crops and flips are
    the same for picture and mask; masks are resized by nearest neighbour only.

    Args:
        root: the folder with images/, segmentations/ and classes.txt.
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
        self.classes = read_classes(self.root / "classes.txt")
        scenes = self.root / "scenes.txt"
        self.scenes = read_text(scenes).split() if scenes.is_file() else []
        for path in self.paths:
            mask = self.mask_path(path)
            if not os.path.isfile(mask) and not os.path.islink(mask):
                raise UserError(
                    f"picture '{path}' has no mask '{mask}'; {_jpeg_beside(mask)}add it, or leave"
                    " the picture out with a list"
                )

    def picture_folder(self) -> Path:
        folder = self.root / IMAGES
        if not folder.is_dir():
            raise UserError(
                f"'{self.root}' has no folder '{IMAGES}'; pictures go there, masks of the same"
                f" names into '{MASKS}'"
            )
        return folder

    def mask_path(self, picture: Path) -> Path:
        inside = path_inside(picture, self.picture_folder())
        if inside is None:
            raise UserError(
                f"picture '{picture}' is not in '{self.picture_folder()}', so it has no mask; list"
                " pictures of that folder"
            )
        return self.root / MASKS / inside.with_suffix(".png")

    def files(self, index: int) -> Sequence[Path]:
        return [self.paths[index], self.mask_path(self.paths[index])]

    def check(self, index: int) -> str | None:
        path = self.paths[index]
        mask = self.mask_path(path)
        header = mask_header(mask, len(self.classes))
        refuse_other_size(self._checked_size(index), header.size, mask, path)
        if self.scenes:
            self._scene(path)
        if header.foreign_palette:
            return "with a mask that has a palette of its own: indices count, not colours"

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        path = self.paths[index]
        image, mask = read_image(path), read_mask(self.mask_path(path), len(self.classes))
        refuse_other_size(image.size, mask.size, self.mask_path(path), path)
        box, flipped = self.view.box(*image.size, index, view, str(path))
        item = {
            "image": to_tensor(self.view.image(image, box, flipped)),
            "segmentation": mask_to_tensor(self.view.mask(mask, box, flipped)),
            "name": self.name(index),
        }
        if self.scenes:
            item["class"] = self._scene(path)
        return item

    def _scene(self, path: Path) -> int:
        name = path.stem.split("_")[0]
        if name not in self.scenes:
            raise UserError(
                f"'{path}' begins with '{name}', which is no line of '{self.root / 'scenes.txt'}'"
            )
        return self.scenes.index(name)


def refuse_other_size(
    size: tuple[int, int], other: tuple[int, int], other_path: Path, path: Path
) -> None:
    """Raises CorruptImage where a picture and its mask (or depth map) differ in size (width,
    height).
    """
    if size != other:
        raise CorruptImage(
            f"'{other_path}' is {other[0]}x{other[1]}, but its picture '{path}' is"
            f" {size[0]}x{size[1]}; make them equal"
        )


def _jpeg_beside(mask: Path) -> str:
    for ending in (".jpg", ".jpeg"):
        if mask.with_suffix(ending).is_file():
            return f"'{mask.with_suffix(ending)}' is no mask, because JPEG changes labels; "
    return ""


def read_classes(path: Path) -> list[str]:
    """Class names by label, from lines `0 sky` or `sky`."""
    if not path.is_file():
        raise UserError(
            f"class list '{path}' does not exist; write one class per line, in the order of the"
            " labels"
        )
    names = []
    for line in read_text(path).splitlines():
        if line.strip():
            number, _, name = line.strip().partition(" ")
            if number.isdigit() and int(number) != len(names):
                raise UserError(
                    f"class list '{path}': line '{line.strip()}' should have number {len(names)}"
                )
            names.append(name if number.isdigit() and name else line.strip())
    if not names:
        raise UserError(f"class list '{path}' is empty; write one class per line")
    return names
