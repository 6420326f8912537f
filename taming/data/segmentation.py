"""Pictures with label maps: `root/images`, `root/segmentations` with matching names,
`root/classes.txt`; optionally `root/scenes.txt` for a class per picture.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from taming.config.ranges import Index, Range
from taming.data.folder import ImageFolder, Split, ViewParameters, path_inside
from taming.data.layouts import Convention, Layout, mask_header, mask_to_tensor, read_layout
from taming.data.legend import read_legend
from taming.data.ratio import Ratio
from taming.data.reading import CorruptImage, read_image, to_tensor
from taming.errors import UserError
from taming.files import read_text
from taming.images import IGNORE

IMAGES, MASKS = "images", "segmentations"


class SegmentedImages(ImageFolder):
    """Item (index, view) -> {"image": float (3, H, W) in [-1, 1], "segmentation": int64 (H, W),
    "name": str}; with scenes.txt also "class": int.

    classes.txt: one class per line, the label's number first or implied by the line; a colour may
    follow (#87beeb), for masks in colours. scenes.txt: class names, of which the part of a file's
    name before the first `_` is one. Crops and flips are the same for picture and mask; masks are
    resized by nearest neighbour only.

    Args:
        root: the folder with images/, segmentations/ and classes.txt.
        view, list, split, seed: as of ImageFolder.
        convention: of a published set: ade20k (0 is no label), coco-stuff, cityscapes.
        ignore: the number in masks that means no label; such pixels are IGNORE (255) in items, and
            nothing is learned from them.
        labels: names of the labels in items, if not those of classes.txt: matched by name.
        same: names of classes.txt that mean a label of another name: {road: ground}.
    """

    def __init__(
        self,
        root: str,
        view: ViewParameters,
        list: str | None = None,
        split: Split | None = None,
        seed: Index = 0,
        convention: Convention | None = None,
        ignore: Annotated[int, Range(0, 65535)] = IGNORE,
        labels: Sequence[str] | None = None,
        same: dict[str, str] | None = None,
    ):
        super().__init__(root, view, list, split, seed)
        self.convention, self.ignore = convention, ignore
        self.legend = read_legend(self.root / "classes.txt").renamed(same or {})
        if labels is not None:
            self.legend = self.legend.in_terms_of(labels, f"'{self.root / 'classes.txt'}'")
        self.classes = [*self.legend.names]
        self.ratio = Ratio()
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
        path = self.root / MASKS / inside.with_suffix(".png")
        array = path.with_suffix(".npy")
        return array if not os.path.isfile(path) and os.path.isfile(array) else path

    def files(self, index: int) -> Sequence[Path]:
        return [self.paths[index], self.mask_path(self.paths[index])]

    def check(self, index: int) -> str | None:
        path = self.paths[index]
        mask = self.mask_path(path)
        header = mask_header(mask, self.legend)
        self.ratio.check(self._checked_size(index), header.size, mask, path)
        if self.scenes:
            self._scene(path)
        return header.remark

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        path = self.paths[index]
        image, mask = read_image(path), self.layout(index).mask
        mask = self.ratio.enlarged(mask, image.size, self.mask_path(path), path)
        box, flipped = self.view.box(*image.size, index, view, str(path))
        item = {
            "image": to_tensor(self.view.image(image, box, flipped)),
            "segmentation": mask_to_tensor(self.view.mask(mask, box, flipped)),
            "name": self.name(index),
        }
        if self.scenes:
            item["class"] = self._scene(path)
        return item

    def layout(self, index: int) -> Layout:
        """The whole mask of a picture, with what should be said about its reading."""
        path = self.mask_path(self.paths[index])
        return read_layout(path, self.legend, self.convention, self.ignore)

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
    """Class names by label, from lines `0 sky`, `sky` or `0 sky #87beeb`."""
    return [*read_legend(path).names]
