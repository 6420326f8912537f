"""Open Images with boxes (Kuznetsova et al. 2020, arXiv 1811.00982), as storage.googleapis.com/
openimages documents its files:

    ROOT/train/000002b66c9c498e.jpg        ROOT/validation/...
    ROOT/oidv6-train-annotations-bbox.csv  ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,
                                           IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
    ROOT/class-descriptions-boxable.csv    /m/011k07,Tortoise (without a header)

Places are relative to the picture already.
"""

from pathlib import Path

from taming.config.ranges import Index, Share
from taming.data.coco import Slots
from taming.data.folder import ViewParameters, find_list, find_pictures
from taming.data.records import (
    DEPICTION,
    GROUP,
    INSIDE,
    OCCLUDED,
    Object,
    Part,
    Record,
    RecordSet,
    Seed,
    first_of,
    folder_of,
    lines_of,
    object_of,
    read_rows,
)
from taming.errors import UserError

LAYOUT = "Open Images: train/, validation/, *-annotations-bbox.csv, class-descriptions-*.csv"
FOLDERS = {"train": ("train", "images/train"), "validation": ("validation", "images/validation")}
MODIFIERS = {
    "IsGroupOf": GROUP,
    "IsOccluded": OCCLUDED,
    "IsDepiction": DEPICTION,
    "IsInside": INSIDE,
}


class OpenImages(RecordSet):
    """Scenes with "boxes".

    Args:
        root: the folder that holds train/, validation/ and the CSV files.
        view: of each picture, see ImageFolder.
        split: train or validation.
        classes: a text file with the classes to read, one a line, by name or as /m/011k07; its
            order numbers them. Default: all of class-descriptions-boxable.csv.
        objects: rows of boxes, the most of a picture; the largest count.
        fewest: pictures with fewer objects are left out.
        smallest: objects with a smaller share of the picture are left out.
        seed: of the views.
    """

    def __init__(
        self,
        root: str,
        view: ViewParameters = 256,
        split: Part = "train",
        classes: str | None = None,
        objects: Slots = 30,
        fewest: Index = 0,
        smallest: Share = 0.0,
        seed: Seed = 0,
    ):
        folder = folder_of(root, LAYOUT, *FOLDERS[split])
        boxes_file = first_of(
            Path(root), f"*{split}-annotations-bbox.csv", f"*/*{split}-annotations-bbox.csv"
        )
        if boxes_file is None:
            raise UserError(f"'{root}' has no file *{split}-annotations-bbox.csv; it has the boxes")
        kinds, self.object_names = class_list(Path(root), classes)
        paths = find_pictures(folder, folder)
        boxes = read_boxes(boxes_file, kinds, {path.stem for path in paths}, smallest)
        records = []
        for path in paths:
            things = tuple(boxes.get(path.stem, ()))
            if len(things) >= fewest:
                records.append(Record(path, objects=things))
        super().__init__(root, records, view, seed, objects)


def recognises(root: Path) -> bool:
    return first_of(root, "*-annotations-bbox.csv", "*/*-annotations-bbox.csv") is not None


def class_list(root: Path, classes: str | None) -> tuple[dict[str, int], list[str]]:
    """LabelName -> number, and the names in the order of the numbers."""
    file = first_of(root, "class-descriptions*.csv", "*/class-descriptions*.csv")
    if file is None:
        raise UserError(f"'{root}' has no file class-descriptions-boxable.csv; it has the names")
    pairs = [line.partition(",")[::2] for line in lines_of(file)]
    names = {label: name.strip('"') for label, name in pairs if label.startswith("/m/")}
    labels = list(names)
    if classes:
        path = find_list(root, classes)
        by_name = {name: label for label, name in names.items()}
        labels = [by_name.get(line, line) for line in lines_of(path)]
        for label in labels:
            if label not in names:
                raise UserError(f"'{path}' names '{label}', which is no class of '{file}'")
    return {label: i for i, label in enumerate(labels)}, [names[label] for label in labels]


def read_boxes(
    file: Path, kinds: dict[str, int], wanted: set[str], smallest: float = 0.0
) -> dict[str, list[Object]]:
    """ImageID -> its objects of these classes, of the pictures that are wanted. Raises
    UserError.
    """
    boxes: dict[str, list[Object]] = {}
    for number, row in enumerate(read_rows(file), start=2):
        try:
            if row["LabelName"] not in kinds or row["ImageID"] not in wanted:
                continue
            sides = [float(row[side]) for side in ("XMin", "YMin", "XMax", "YMax")]
            modifiers = sum(bit for name, bit in MODIFIERS.items() if row.get(name) == "1")
        except (KeyError, ValueError) as error:
            raise UserError(
                f"'{file}':{number} is no row of boxes ({type(error).__name__}: {error})"
            ) from None
        kind, place = kinds[row["LabelName"]], f"'{file}':{number}"
        one = object_of(kind, sides, (1.0, 1.0), place, modifiers)
        if one.area >= smallest:
            boxes.setdefault(row["ImageID"], []).append(one)
    return boxes
