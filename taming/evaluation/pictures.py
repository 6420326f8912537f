"""The pictures that figures are over: the data sets of a checkpoint's own configuration, a folder
with masks and lists, or any folder of pictures.
"""

import base64
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from taming import config, images
from taming.data.folder import ClassFolders, ImageFolder, found
from taming.data.segmentation import SegmentedImages
from taming.data.transforms import View, mask_to_tensor, read_image, to_tensor
from taming.errors import UserError
from taming.formats.ours import Content

Size = tuple[int, int]


class Pictures(Dataset):
    """Every picture under a folder, as it is, or resized and cropped to `size`."""

    def __init__(self, folder: str | Path, size: Size | None = None):
        if not Path(folder).is_dir():
            raise UserError(f"picture folder '{folder}' does not exist")
        self.folder, self.view = Path(folder), size and View(size, flip=False, upscale=True)
        self.paths = found(self.folder, folder)

    def __len__(self) -> int:
        return len(self.paths)

    def files(self, index: int) -> list[Path]:
        return [self.paths[index]]

    def __getitem__(self, index: int) -> dict:
        picture = read_image(self.paths[index])
        if self.view:
            picture = self.view.image(
                picture, *self.view.box(*picture.size, index, None, str(self.paths[index]))
            )
        return {
            "image": to_tensor(picture),
            "name": self.paths[index].relative_to(self.folder).as_posix(),
        }


class Samples(Pictures):
    """Pictures that taming sample drew, or others; items have "segmentation" where the PNG keeps
    the layout that it was drawn from. Contact sheets are left out.
    """

    def __init__(self, folder: str | Path, size: Size | None = None):
        super().__init__(folder, size)
        self.told = [images.read_about(path) for path in self.paths]
        if any(self.told):
            kept = [
                i for i, path in enumerate(self.paths) if self.told[i] or path.name != "sheet.png"
            ]
            self.paths, self.told = [self.paths[i] for i in kept], [self.told[i] for i in kept]
        self.layouts = all(about and "segmentation" in about for about in self.told)
        order = np.random.default_rng(0).permutation(len(self.paths))
        # Whose layout each is also compared with: never its own
        self.others = {int(one): int(other) for one, other in zip(order, np.roll(order, 1))}

    def protocol(self) -> dict:
        """How they were drawn. Raises UserError where they were drawn in different ways."""
        names = (
            "sha256",
            "config",
            "size",
            "seed",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "guidance",
            "hop",
            "accept",
            "classifier",
            "device",
            "torch",
        )
        ways = [{name: about.get(name) for name in names} if about else None for about in self.told]
        differing = [i for i, way in enumerate(ways) if way != ways[0]]
        if differing:
            raise UserError(
                f"'{self.paths[0]}' and '{self.paths[differing[0]]}' were drawn with different"
                " settings; measure each by itself"
            )
        return ways[0] or {"drawn by": "unknown"}

    def layout(self, index: int) -> torch.Tensor:
        return mask_to_tensor(
            Image.open(io.BytesIO(base64.b64decode(self.told[index]["segmentation"])))
        )

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        return (
            {**item, "segmentation": self.layout(index), "other": self.layout(self.others[index])}
            if self.layouts
            else item
        )


class Subset(Dataset):
    """`count` items spread evenly over a data set, in their fixed view; all of them where there are
    no more.
    """

    def __init__(self, dataset: Dataset, count: int | None = None):
        count = min(count or len(dataset), len(dataset))
        self.dataset, self.indices = dataset, [i * len(dataset) // count for i in range(count)]
        if hasattr(dataset, "files"):
            self.files = lambda index: dataset.files(self.indices[index])

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"{len(self)} of {self.dataset!r}"

    def __getitem__(self, index: int) -> dict:
        item = self.dataset[self.indices[index]]
        return {k: v for k, v in item.items() if not isinstance(v, list | tuple)} | {"index": index}


def data_sets(
    content: Content | None,
    data: str | None,
    train: str | None,
    size: Size | None,
    classes: bool = False,
) -> tuple[Dataset | None, Dataset]:
    """(training pictures or None, pictures to measure on).

    data: a folder with images/ and segmentations/, or of pictures; where it has validation.txt and
    train.txt, these are the two parts. train: another folder for the training pictures. classes:
    the folders right under it are classes. Without `data`, the two sets of the checkpoint's
    configuration.
    """
    if data is None:
        if content is None:
            raise UserError("--data DIR: give the pictures to compare with")
        own = config.from_plain(content.config)
        if not own.data.validation:
            raise UserError(
                "the checkpoint's configuration names no validation pictures; give --data DIR"
            )
        sets = [
            config.build(node, own.allow, "data") if node else None
            for node in (own.data.train, own.data.validation)
        ]
        return sets[0], sets[1]
    root = Path(data)
    if not root.is_dir():
        raise UserError(f"--data '{data}' does not exist; give a folder of pictures")
    lists = {
        part: f"{part}.txt" if (root / f"{part}.txt").is_file() else None
        for part in ("train", "validation")
    }
    if not (lists["train"] and lists["validation"]):
        lists = dict.fromkeys(lists)
    training = (
        _folder(Path(train), None, size, classes)
        if train
        else _folder(root, lists["train"], size, classes)
        if lists["train"]
        else None
    )
    return training, _folder(root, lists["validation"], size, classes)


def _folder(root: Path, names: str | None, size: Size | None, classes: bool) -> Dataset:
    if not root.is_dir():
        raise UserError(f"picture folder '{root}' does not exist")
    if classes and size and not (root / "scenes.txt").is_file():
        return ClassFolders(str(root), list(size), names, flip=False, upscale=True)
    if (root / "segmentations").is_dir() and (root / "images").is_dir() and size:
        return SegmentedImages(str(root), list(size), names, flip=False, upscale=True)
    if names:
        if size is None:
            raise UserError(f"'{root}' has lists of pictures of many sizes; give --size HxW")
        return ImageFolder(str(root), list(size), names, flip=False, upscale=True)
    return Pictures(root / "images" if (root / "images").is_dir() else root, size)
