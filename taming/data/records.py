"""Data sets whose pictures come with masks, depth, classes, captions or boxes in files of their
own layout: a list of records, read alike.
"""

import csv
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.config.ranges import Index
from taming.data.coordinates import coordinates
from taming.data.depth import depth_size, normalise_depth, read_depth
from taming.data.folder import ImageFolder, ViewParameters
from taming.data.layouts import mask_header, mask_to_tensor, read_mask
from taming.data.ratio import Ratio
from taming.data.reading import CorruptImage, image_size, read_image, to_tensor
from taming.data.views import Box, View
from taming.errors import UserError, first_line
from taming.files import read_text

Part = Literal["train", "validation"]
SLIGHTLY = 0.01  # of a side: how far annotations reach beyond their pictures by rounding
GROUP, OCCLUDED, DEPICTION, INSIDE = 1, 2, 4, 8  # bits of an object's modifiers


class Object(NamedTuple):
    """A thing in a picture: its class, its place relative to the picture, its modifiers."""

    kind: int
    left: float
    top: float
    right: float
    bottom: float
    modifiers: int = 0

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Record:
    """A picture's file and what belongs to it."""

    path: Path
    mask: Path | None = None
    depth: Path | None = None
    label: int | None = None
    captions: tuple[str, ...] = ()
    objects: tuple[Object, ...] = ()


class RecordSet(ImageFolder):
    """Item (index, view) -> {"image": float (3, H, W) in [-1, 1], "name": str}, and of what the
    records have: "segmentation" int64 (H, W), "depth" float (1, H, W), "class" int, "caption" str
    (a random one of several, the first in the fixed view), "boxes" float (slots, 6) with rows
    (class, left, top, right, bottom, modifiers) relative to the whole picture, -1 where there is
    none, and "crop" float (4,): the part of the picture that is seen.

    Subclasses make the records. Masks and depth maps may be smaller than their pictures by one
    ratio, the same for all.

    Args:
        root: the folder.
        records: in their order.
        view: see ImageFolder.
        seed: of the views.
        slots: for boxes, the most in a picture; the largest count. 0: no boxes.
    """

    classes: Sequence[str] = ()
    """Of the labels of masks."""
    class_names: Sequence[str] = ()
    """Of "class"."""
    object_names: Sequence[str] = ()
    """Of the first column of boxes."""
    places: bool = False
    """Whether items have "coordinates", see coordinates.py."""
    labels: np.ndarray | None = None
    """What a mask's values 0 to 255 become; -1 for values that no mask should hold."""

    def __init__(
        self,
        root: str | Path,
        records: Sequence[Record],
        view: ViewParameters,
        seed: int = 0,
        slots: int = 0,
    ):
        if not records:
            raise UserError(f"'{root}' has no pictures for this part of {type(self).__name__}")
        self.root, self.records, self.slots = Path(root), records, slots
        self.view = View.of(view, seed)
        self.paths = [record.path for record in records]
        self.ratio = Ratio()

    def files(self, index: int) -> Sequence[Path]:
        record = self.records[index]
        return [path for path in (record.path, record.mask, record.depth) if path]

    def check(self, index: int) -> str | None:
        record = self.records[index]
        size = self.picture_size(record)
        self.view.check_size(*size, str(record.path))
        if record.mask:
            self.ratio.check(size, self.mask_size(record), record.mask, record.path)
        if record.depth:
            self.ratio.check(size, self.distance_size(record), record.depth, record.path)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        record = self.records[index]
        image = self.read_picture(record)
        box, flipped = self.view.box(*image.size, index, view, str(record.path))
        item: dict[str, Any] = {
            "image": to_tensor(self.view.image(image, box, flipped)),
            "name": self.name(index),
        }
        if record.mask:
            mask = self._fitted(self.read_labels(record), image, record.mask, record)
            item["segmentation"] = mask_to_tensor(self.view.mask(mask, box, flipped))
        if record.depth:
            depth = self._fitted(self.read_distance(record), image, record.depth, record)
            values = np.array(self.view.image(depth, box, flipped))
            item["depth"] = normalise_depth(torch.from_numpy(values)[None])
        if record.label is not None:
            item["class"] = record.label
        draw = random.Random(f"{self.view.seed}/{index}/{view}/words")
        if record.captions:
            item["caption"] = record.captions[0] if view is None else draw.choice(record.captions)
        if self.slots:
            objects = list(record.objects)
            if view is not None:
                draw.shuffle(objects)
            item["boxes"] = box_rows(objects, self.slots, flipped)
            item["crop"] = relative_crop(box, image.size, flipped)
        if self.places:
            crop = relative_crop(box, image.size, flipped)
            item["coordinates"] = coordinates(self.view.size, crop.tolist())
        return item

    def _fitted(
        self, map: Image.Image, image: Image.Image, path: Path, record: Record
    ) -> Image.Image:
        return self.ratio.enlarged(map, image.size, path, record.path)

    # What a set may read in its own way

    def read_picture(self, record: Record) -> Image.Image:
        return read_image(record.path)

    def picture_size(self, record: Record) -> tuple[int, int]:
        """(width, height), from the header."""
        return image_size(record.path)

    def mask_size(self, record: Record) -> tuple[int, int]:
        """(width, height), from the header."""
        assert record.mask is not None
        return mask_header(record.mask).size

    def distance_size(self, record: Record) -> tuple[int, int]:
        """(width, height) of the depth map, from its header."""
        assert record.depth is not None
        return depth_size(record.depth)

    def read_labels(self, record: Record) -> Image.Image:
        """Labels as a PIL picture of mode L."""
        assert record.mask is not None
        mask = read_mask(record.mask, None if self.labels is not None else len(self.classes))
        if self.labels is None:
            return mask
        values = self.labels[np.asarray(mask)]
        if values.min() < 0:
            strange = sorted(set(np.asarray(mask)[values < 0].tolist()))
            raise CorruptImage(
                f"mask '{record.mask}' holds {', '.join(map(str, strange[:8]))}, which are no"
                f" labels of {type(self).__name__}"
            )
        return Image.fromarray(values.astype(np.uint8))

    def read_distance(self, record: Record) -> Image.Image:
        """Depth as a PIL picture of mode F."""
        assert record.depth is not None
        return read_depth(record.depth)


class PublishedSet(RecordSet):
    """A data set whose documentation says where everything lies.

    Args:
        root: the folder.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    def __init__(
        self, root: str, view: ViewParameters = 256, split: Part = "train", seed: Index = 0
    ):
        super().__init__(root, self.read_records(Path(root), split), view, seed)

    def read_records(self, root: Path, split: Part) -> list[Record]:
        """What the folder has of a part. Raises UserError."""
        raise NotImplementedError(f"{type(self).__name__} reads nothing")


def box_rows(objects: Sequence[Object], slots: int, flipped: bool) -> Tensor:
    """(slots, 6) rows (class, left, top, right, bottom, modifiers); the largest objects, in their
    order; -1 where there is none.
    """
    largest = sorted(objects, key=lambda one: -one.area)[:slots]
    taken = {id(one) for one in largest}
    rows = torch.full((slots, 6), -1.0)
    for row, one in zip(rows, [one for one in objects if id(one) in taken]):
        sides = (1 - one.right, 1 - one.left) if flipped else (one.left, one.right)
        values = (one.kind, sides[0], one.top, sides[1], one.bottom, one.modifiers)
        row[:] = torch.tensor(values, dtype=torch.float32)
    return rows


def relative_crop(box: Box, size: tuple[int, int], flipped: bool) -> Tensor:
    """(4,): left, top, right, bottom of what is seen, relative to the (mirrored) picture."""
    left, right = box[0] / size[0], box[2] / size[0]
    left, right = (1 - right, 1 - left) if flipped else (left, right)
    return torch.tensor([left, box[1] / size[1], right, box[3] / size[1]]).clamp(0, 1)


def object_of(
    kind: int, sides: Sequence[float], size: tuple[float, float], place: str, modifiers: int = 0
) -> Object:
    """An object by its sides (left, top, right, bottom) in the units of `size` (width, height).

    Raises:
        UserError: a box without extent, or outside the picture by more than rounding.
    """
    if len(sides) != 4 or not all(isinstance(side, int | float) for side in sides):
        raise UserError(f"{place}: {sides!r:.60} should be the four sides of a box")
    relative = [side / extent for side, extent in zip(sides, (*size, *size))]
    if not all(-SLIGHTLY <= side <= 1 + SLIGHTLY for side in relative):  # also NaN
        raise UserError(
            f"{place}: the box {[round(side, 3) for side in sides]} lies outside its picture of"
            f" {size[0]:g}x{size[1]:g}; mend it, or leave it out"
        )
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in relative)
    if left > right or top > bottom:
        raise UserError(
            f"{place}: the box {[round(side, 3) for side in sides]} ends before it begins; its"
            " sides are left, top, right, bottom"
        )
    return Object(kind, left, top, right, bottom, modifiers)


def first_of(root: Path, *names: str) -> Path | None:
    """The first of these paths in `root` that exists; a name may hold wildcards."""
    for name in names:
        if "*" in name:
            places = sorted(root.glob(name)) if root.is_dir() else []
        else:
            places = [root / name] if (root / name).exists() else []
        if places:
            return places[0]
    return None


def folder_of(root: str | Path, expectation: str, *names: str) -> Path:
    """The first of these folders in `root`. Raises UserError with what a `root` should be."""
    if not Path(root).is_dir():
        raise UserError(f"data folder '{root}' does not exist; give the folder of {expectation}")
    for name in names:
        folder = first_of(Path(root), name)
        if folder and folder.is_dir():
            return folder
    raise UserError(f"'{root}' has no folder {' or '.join(names)}; it should be {expectation}")


def matching(path: Path, folder: Path, other: Path, ending: str) -> Path:
    """Where the file of `other` lies that belongs to a picture of `folder`."""
    return (other / path.relative_to(folder)).with_suffix(ending)


def check_masks(records: Sequence[Record]) -> None:
    """Raises UserError where a picture's mask or depth map is missing: all are looked for."""
    folders: dict[Path, set[str]] = {}
    for record in records:
        for path in (record.mask, record.depth):
            if path is None:
                continue
            if path.parent not in folders:  # one listing a folder, not one question a file
                there = path.parent.iterdir() if path.parent.is_dir() else ()
                folders[path.parent] = {one.name for one in there}
            if path.name not in folders[path.parent]:
                raise UserError(
                    f"picture '{record.path}' has no '{path}'; add it, or take the picture out"
                )


def read_json(path: Path) -> Any:
    """Raises UserError for a missing file and for what is no JSON, such as a truncated one."""
    if not path.is_file():
        raise UserError(f"'{path}' does not exist")
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"'{path}' is no complete JSON ({first_line(error)}); fetch it again"
        ) from None


def read_rows(path: Path, delimiter: str = ",") -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header. Raises UserError."""
    if not path.is_file():
        raise UserError(f"'{path}' does not exist")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            for number, row in enumerate(reader, start=2):
                if None in row or None in row.values():
                    raise UserError(f"'{path}':{number} has not as many columns as its header")
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' is no readable table ({first_line(error)})") from None


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def unknown_entry(path: Path, error: Exception) -> UserError:
    """For annotations that lack what their format says."""
    return UserError(
        f"'{path}' lacks what its format has: {type(error).__name__} {first_line(error)}"
    )


Seed = Index
