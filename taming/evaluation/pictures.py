"""The pictures that figures are over: the data sets of a checkpoint's own configuration, a folder
with masks and lists, or any folder of pictures.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from taming import config
from taming.data.folder import ClassFolders, ImageFolder, find_pictures
from taming.data.interface import PictureSet
from taming.data.layouts import mask_to_tensor
from taming.data.ordinary import ordinary
from taming.data.reading import read_image, to_tensor
from taming.data.segmentation import SegmentedImages
from taming.data.stored import Stored, stored_pictures
from taming.data.views import View
from taming.errors import UserError
from taming.files import size_and_date
from taming.formats.content import Content
from taming.inference.conditions import unpacked_mask
from taming.inference.record import Record, read_record, record_in

Size = tuple[int, int]


class Pictures(PictureSet):
    """Every picture under a folder.

    Args:
        folder: with pictures, in subfolders too.
        size: (H, W) that they are resized and cropped to; None takes them as they are.
    """

    def __init__(self, folder: str | Path, size: Size | None = None):
        if not Path(folder).is_dir():
            raise UserError(f"picture folder '{folder}' does not exist")
        self.folder = Path(folder)
        self.view = View(size, flip=False, upscale=True) if size else None
        self.paths: list[Any] = stored_pictures(self.folder) or find_pictures(self.folder, folder)

    def __len__(self) -> int:
        return len(self.paths)

    def files(self, index: int) -> list[Path]:
        return [self.paths[index]]

    def __getitem__(self, index: int) -> dict:
        path = self.paths[index]
        picture = read_image(path.open() if isinstance(path, Stored) else path)
        if self.view:
            box, flipped = self.view.box(*picture.size, index, None, str(path))
            picture = self.view.image(picture, box, flipped)
        return {"image": to_tensor(picture), "name": path.relative_to(self.folder).as_posix()}


class Samples(Pictures):
    """Pictures that taming sample drew, or others. Where a folder holds some that taming sample
    drew, all others (contact sheets, somebody's notes) are left out.

    Items have "segmentation" where all PNGs hold the layout that they were drawn from, and "other",
    the layout of another sample.
    """

    def __init__(self, folder: str | Path, size: Size | None = None):
        super().__init__(folder, size)
        records = [(path, _record(path)) for path in self.paths]
        drawn = [(path, record) for path, record in records if record is not None]
        self.records: list[Record] = [record for _, record in drawn]
        self.foreign: list[Path] = []
        if drawn:
            self.paths = [path for path, _ in drawn]
            self.foreign = [
                path for path, record in records if record is None and path.name != "sheet.png"
            ]
        self.layouts = bool(drawn) and all(
            "segmentation" in (r.condition or {}) for r in self.records
        )
        order = np.random.default_rng(0).permutation(len(self.paths))
        # Whose layout each is also compared with: never its own
        self.others = {int(one): int(other) for one, other in zip(order, np.roll(order, 1))}

    def protocol(self) -> dict[str, Any]:
        """How they were drawn. Raises UserError where they were drawn in different ways."""
        protocols = [
            {
                "sha256": record.sha256,
                "config": record.config,
                **asdict(record.sampling),
                "device": record.device,
                "torch": record.torch,
            }
            for record in self.records
        ]
        for path, protocol in zip(self.paths, protocols):
            if protocol != protocols[0]:
                raise UserError(
                    f"'{self.paths[0]}' and '{path}' were drawn with different settings; measure"
                    " each by itself"
                )
        return protocols[0] if protocols else {"drawn by": "unknown"}

    def layout(self, index: int) -> Tensor:
        """The labels (H, W) that a sample was drawn from."""
        try:
            return mask_to_tensor(
                unpacked_mask((self.records[index].condition or {})["segmentation"])
            )
        except UserError as error:
            raise UserError(f"'{self.paths[index]}': {error}") from None

    def __getitem__(self, index: int) -> dict:
        item = super().__getitem__(index)
        if self.layouts:
            item["segmentation"] = self.layout(index)
            item["other"] = self.layout(self.others[index])
        return item


def _record(path: Path | Stored) -> Record | None:
    if isinstance(path, Stored):
        return record_in(path.metadata(), str(path))
    return read_record(path)


class Subset(PictureSet):
    """Items spread evenly over a data set, in their fixed view.

    Args:
        dataset: of dictionaries.
        count: how many; all of them where there are no more.
    """

    def __init__(self, dataset: PictureSet, count: int | None = None):
        count = min(count or len(dataset), len(dataset))
        self.dataset, self.indices = dataset, [i * len(dataset) // count for i in range(count)]
        if hasattr(dataset, "files"):
            self.files = lambda index: dataset.files(self.indices[index])

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"{len(self)} of {description(self.dataset)}"

    def __getitem__(self, index: int) -> dict:
        item = self.dataset[self.indices[index]]
        return {k: v for k, v in item.items() if not isinstance(v, list | tuple)} | {"index": index}


def description(dataset: PictureSet) -> str:
    """The data set in words that are the same in every process."""
    has_words = type(dataset).__repr__ is not object.__repr__
    return repr(dataset) if has_words else type(dataset).__name__


def list_hash(dataset: PictureSet) -> str:
    """Of the names and sizes of the files that a data set is made of; of its description where it
    has no files.
    """
    entries: list = [description(dataset), len(dataset)]
    if hasattr(dataset, "files"):
        paths = [path for index in range(len(dataset)) for path in dataset.files(index)]
        entries = [[path.name, size_and_date(path)[0]] for path in paths]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]


def data_sets(
    content: Content | None,
    data: str | None,
    train: str | None,
    size: Size | None,
    classes: bool = False,
) -> tuple[PictureSet | None, PictureSet]:
    """(training pictures or None, pictures to measure on).

    Args:
        content: of the checkpoint, whose configuration names the data sets where `data` is None.
        data: a folder with images/ and segmentations/, or of pictures; where it has validation.txt
            and train.txt, these are the two parts.
        train: another folder for the training pictures.
        size: (H, W) that pictures are brought to; None takes them as they are.
        classes: the folders right under `data` are classes.
    """
    if data is None:
        if content is None:
            raise UserError("--data DIR: give the pictures to compare with")
        training, validation = _configured(content)
        return _folder(Path(train), None, size, classes) if train else training, validation
    root = Path(data)
    if not root.is_dir():
        raise UserError(f"--data '{data}' does not exist; give a folder of pictures")
    has_lists = all((root / f"{part}.txt").is_file() for part in ("train", "validation"))
    training = None
    if train:
        training = _folder(Path(train), None, size, classes)
    elif has_lists:
        training = _folder(root, "train.txt", size, classes)
    return training, _folder(root, "validation.txt" if has_lists else None, size, classes)


def _configured(content: Content) -> tuple[PictureSet | None, PictureSet]:
    """The data sets that the checkpoint's configuration names."""
    data = content.experiment().data
    if not data.validation:
        raise UserError(
            "the checkpoint's configuration names no validation pictures, or some of a package that"
            " is not allowed (--allow PACKAGE); give --data DIR"
        )
    training = None
    if data.train:
        training = ordinary(config.build(data.train, content.allow, "data", trusted=False))
    validation = config.build(data.validation, content.allow, "data", trusted=False)
    return training, ordinary(validation)


def _folder(root: Path, names: str | None, size: Size | None, classes: bool) -> PictureSet:
    if not root.is_dir():
        raise UserError(f"picture folder '{root}' does not exist")
    if size:
        view = View(size, flip=False, upscale=True)
        if classes and not (root / "scenes.txt").is_file():
            return ClassFolders(str(root), view, names)
        if (root / "segmentations").is_dir() and (root / "images").is_dir():
            return SegmentedImages(str(root), view, names)
        if names:
            return ImageFolder(str(root), view, names)
    if names:
        raise UserError(f"'{root}' has lists of pictures of many sizes; give --size HxW")
    return Pictures(root / "images" if (root / "images").is_dir() else root, size)
