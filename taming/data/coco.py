"""COCO (Lin et al. 2014, arXiv 1405.0312) with its captions and boxes, and COCO-Stuff's label maps
(Caesar et al. 2018, arXiv 1612.03716). The layout is that of cocodataset.org's archives:

    ROOT/train2017/000000000009.jpg             ROOT/annotations/instances_train2017.json
    ROOT/stuffthingmaps/train2017/000000000009.png          .../captions_train2017.json

Label maps of stuffthingmaps_trainval2017 hold 0 to 181, and 255 where there is no label; here these
are 1 to 182 and 0, as in VQ-GAN. Boxes are [x, y, width, height] in pixels (cocodataset.org,
"Data format").
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from taming.config.ranges import Index, Length, Range, Share
from taming.data.coco_labels import STUFF
from taming.data.folder import ViewParameters, find_pictures
from taming.data.records import (
    GROUP,
    Object,
    Part,
    Record,
    RecordSet,
    Seed,
    check_masks,
    first_of,
    folder_of,
    matching,
    object_of,
    read_json,
    unknown_entry,
)
from taming.errors import UserError

LAYOUT = "COCO: train2017/, val2017/, annotations/"
PREFIXES = {"train": "train", "validation": "val"}
MASKS = ("stuffthingmaps", "cocostuffthings", "stuffthingmaps_trainval2017", "annotations")
Entries = Annotated[list[Literal["segmentation", "caption", "boxes"]], Length(0, 3)]
Slots = Annotated[int, Range(1, 4096)]


class COCO(RecordSet):
    """Scenes with what the folder has of "segmentation" (183 labels), "caption" and "boxes".

    Args:
        root: the folder that holds train2017/, val2017/ and annotations/.
        view: of each picture, see ImageFolder.
        split: train or validation.
        entries: what to read; default: all that there is.
        objects: rows of boxes, the most of a picture; the largest count.
        fewest: pictures with fewer objects are left out.
        smallest: objects with a smaller share of the picture are left out.
        seed: of the views.
    """

    classes = STUFF

    def __init__(
        self,
        root: str,
        view: ViewParameters = 256,
        split: Part = "train",
        entries: Entries | None = None,
        objects: Slots = 30,
        fewest: Index = 0,
        smallest: Share = 0.0,
        seed: Seed = 0,
    ):
        folder = pictures_folder(Path(root), split)
        there = available(Path(root), folder)
        missing = [name for name in entries or () if name not in there]
        if missing:
            raise UserError(
                f"'{root}' has nothing for '{missing[0]}' of {folder.name}; it has"
                f" {', '.join(there) or 'pictures only'}"
            )
        there = {name: there[name] for name in (there if entries is None else entries)}
        captions = read_captions(there["caption"][0]) if "caption" in there else {}
        boxes: dict[str, tuple[Object, ...]] = {}
        if "boxes" in there:
            boxes, self.object_names = read_boxes(there["boxes"], smallest)
        records = []
        for path in find_pictures(folder, folder):
            mask = None
            if "segmentation" in there:
                mask = matching(path, folder, there["segmentation"][0], ".png")
            if "boxes" in there and len(boxes.get(path.name, ())) < fewest:
                continue
            words, things = captions.get(path.name, ()), boxes.get(path.name, ())
            records.append(Record(path, mask, captions=words, objects=things))
        if "caption" in there:
            check_captions(records, there["caption"][0])
        check_masks(records)
        self.labels = stuff_labels()
        super().__init__(root, records, view, seed, objects if "boxes" in there else 0)


def recognises(root: Path) -> bool:
    return any(first_of(root, f"{prefix}20*") for prefix in PREFIXES.values())


def pictures_folder(root: Path, split: str) -> Path:
    prefix = PREFIXES[split]
    return folder_of(root, LAYOUT, f"{prefix}2017", f"{prefix}2014", f"images/{prefix}20*")


def available(root: Path, folder: Path) -> dict[str, list[Path]]:
    """Entry -> the files or the folder that it is read from."""
    there = {}
    masks = first_of(root, *(f"{name}/{folder.name}" for name in MASKS))
    if masks:
        there["segmentation"] = [masks]
    notes = root / "annotations"
    files = [notes / f"{kind}_{folder.name}.json" for kind in ("captions", "instances", "stuff")]
    if files[0].is_file():
        there["caption"] = files[:1]
    if files[1].is_file():
        there["boxes"] = [file for file in files[1:] if file.is_file()]
    return there


def stuff_labels() -> np.ndarray:
    """(256,): 0 to 181 -> 1 to 182, 255 -> 0; -1 for what is no label."""
    labels = np.full(256, -1, np.int64)
    labels[: len(STUFF) - 1] = np.arange(1, len(STUFF))
    labels[255] = 0
    return labels


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """File name -> its captions. Raises UserError."""
    content = read_json(path)
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        captions: dict[str, list[str]] = {}
        for note in content["annotations"]:
            captions.setdefault(names[note["image_id"]], []).append(str(note["caption"]).strip())
    except (LookupError, TypeError, AttributeError) as error:
        raise unknown_entry(path, error) from None
    return {name: tuple(filter(None, words)) for name, words in captions.items()}


def check_captions(records: Sequence[Record], source: Path) -> None:
    """Raises UserError where a picture has no caption."""
    without = [record.path for record in records if not record.captions]
    if without:
        raise UserError(
            f"{len(without)} of {len(records)} pictures have no caption in '{source}', the first is"
            f" '{without[0]}'; add captions, or take the pictures out"
        )


def read_boxes(
    paths: Sequence[Path], smallest: float = 0.0
) -> tuple[dict[str, tuple[Object, ...]], list[str]]:
    """File name -> its objects, and the names of their classes in the order of the categories'
    numbers. Raises UserError.
    """
    contents = [(path, read_json(path)) for path in paths]
    names: dict[int, str] = {}
    for path, content in contents:
        try:
            names |= {one["id"]: str(one["name"]) for one in content["categories"]}
        except (LookupError, TypeError) as error:
            raise unknown_entry(path, error) from None
    kinds = {number: kind for kind, number in enumerate(sorted(names))}
    boxes: dict[str, list[Object]] = {}
    for path, content in contents:
        try:
            images = {image["id"]: image for image in content["images"]}
            for note in content["annotations"]:
                image, (x, y, width, height) = images[note["image_id"]], note["bbox"]
                one = object_of(
                    kinds[note["category_id"]],
                    (x, y, x + width, y + height),
                    (image["width"], image["height"]),
                    f"'{path}', annotation {note.get('id')}",
                    GROUP if note.get("iscrowd") else 0,
                )
                if one.area >= smallest:
                    boxes.setdefault(image["file_name"], []).append(one)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise unknown_entry(path, error) from None
    ordered = [names[number] for number in sorted(names)]
    return {name: tuple(objects) for name, objects in boxes.items()}, ordered
