"""Pictures with label maps: `root/images`, `root/segmentations` with matching names,
`root/classes.txt`; optionally `root/scenes.txt` for a class per picture.
"""

from pathlib import Path

from PIL import Image

from taming.data.folder import ImageFolder
from taming.data.transforms import mask_to_tensor, read_image, read_mask, to_tensor
from taming.errors import UserError


class SegmentedImages(ImageFolder):
    """Item (index, view) -> {"image": float (3, H, W) in [-1, 1], "segmentation": int64 (H, W),
    "name": str}; with scenes.txt also "class": int.

    classes.txt: one class per line, the label's number first or implied by the line. scenes.txt:
    class names, of which the part of a file's name before the first `_` is one. images,
    segmentations: the folders' names. Crops and flips are the same for both; masks are resized by
    nearest neighbour only.
    """

    def __init__(
        self,
        root: str,
        size: int | list[int],
        list: str | None = None,
        split: list | None = None,
        scale: float = 1.5,
        flip: bool = True,
        upscale: bool = False,
        seed: int = 0,
        images: str = "images",
        segmentations: str = "segmentations",
    ):
        self.images_folder = images
        self.masks_folder = Path(root) / segmentations
        super().__init__(root, size, list, split, scale, flip, upscale, seed)
        self.classes = read_classes(self.root / "classes.txt")
        scenes = self.root / "scenes.txt"
        self.scenes = scenes.read_text().split() if scenes.is_file() else []
        for path in self.paths:
            if not self.mask_path(path).is_file():
                raise UserError(
                    f"picture '{path}' has no mask '{self.mask_path(path)}'; add it, or leave the"
                    " picture out with a list"
                )

    def picture_folder(self) -> Path:
        folder = self.root / self.images_folder
        if not folder.is_dir():
            raise UserError(
                f"'{self.root}' has no folder '{self.images_folder}'; pictures go there, masks of"
                f" the same names into '{self.masks_folder.name}'"
            )
        return folder

    def mask_path(self, picture: Path) -> Path:
        try:
            inside = picture.resolve().relative_to(self.picture_folder().resolve())
        except ValueError:
            raise UserError(
                f"picture '{picture}' is not in '{self.picture_folder()}', so its mask can't be"
                " told; list pictures of that folder"
            ) from None
        return self.masks_folder / inside.with_suffix(".png")

    def files(self, index: int):
        return [self.paths[index], self.mask_path(self.paths[index])]

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        path = self.paths[index]
        image, mask = read_image(path), read_mask(self.mask_path(path), len(self.classes))
        refuse_other_size(image, mask, self.mask_path(path), path)
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


def refuse_other_size(image: Image.Image, mask: Image.Image, mask_path: Path, path: Path) -> None:
    if image.size != mask.size:
        raise UserError(
            f"mask '{mask_path}' is {mask.width}x{mask.height}, but its picture '{path}' is"
            f" {image.width}x{image.height}; make them equal"
        )


def read_classes(path: Path) -> list[str]:
    """Class names by label, from lines `0 sky` or `sky`."""
    if not path.is_file():
        raise UserError(
            f"class list '{path}' does not exist; write one class per line, in the order of the"
            " labels"
        )
    names = []
    for line in path.read_text().splitlines():
        if line.strip():
            number, _, name = line.strip().partition(" ")
            if number.isdigit() and int(number) != len(names):
                raise UserError(
                    f"class list '{path}': line '{line.strip()}' should have number {len(names)}"
                )
            names.append(name if number.isdigit() and name else line.strip())
    return names
