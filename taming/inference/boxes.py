"""Objects in boxes from a file: COCO's JSON, Open Images' CSV, or a short JSON of one's own.

    {"lake": [["tree", 0.1, 0.2, 0.4, 0.9], ["water", 0.0, 0.6, 1.0, 1.0]]}

is one picture with two objects: class (by name or number), left, top, right, bottom, relative to
the picture. A list of objects alone is one picture, too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taming.data.coco import read_boxes as read_coco
from taming.data.records import Object, object_of, read_json, read_rows
from taming.errors import UserError, did_you_mean

Row = Sequence[Any]
LARGEST = 2**31


def read_box_file(path: str | Path) -> dict[str, list[Row]]:
    """Picture -> rows (class name or number, left, top, right, bottom, and modifiers if there are
    some). Raises UserError for what is no file of boxes, boxes outside, and none at all.
    """
    file = Path(path)
    if file.suffix.lower() == ".csv":
        rows = _of_open_images(file)
    else:
        content = read_json(file)
        if isinstance(content, dict) and "annotations" in content:
            rows = _of_coco(file)
        elif isinstance(content, dict):
            rows = {str(name): _rows(value, file) for name, value in content.items()}
        else:
            rows = {file.stem: _rows(content, file)}
    if not any(rows.values()):
        raise UserError(f"'{file}' holds no boxes")
    return rows


def _rows(value: Any, file: Path) -> list[Row]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise UserError(
            f"'{file}' should hold rows [class, left, top, right, bottom], not {value!r:.40}"
        )
    return value


def _of_coco(file: Path) -> dict[str, list[Row]]:
    boxes, names = read_coco([file])
    return {
        Path(picture).stem: [(names[one.kind], *one[1:]) for one in objects]
        for picture, objects in boxes.items()
    }


def _of_open_images(file: Path) -> dict[str, list[Row]]:
    pictures: dict[str, list[Row]] = {}
    for number, row in enumerate(read_rows(file), start=2):
        try:
            sides = [float(row[side]) for side in ("XMin", "YMin", "XMax", "YMax")]
            pictures.setdefault(row["ImageID"], []).append((row["LabelName"], *sides))
        except (KeyError, ValueError) as error:
            raise UserError(f"'{file}':{number} is no row of boxes ({error})") from None
    return pictures


def objects_of(rows: Sequence[Row], names: Sequence[str], place: str) -> list[Object]:
    """The objects of rows, their classes by number or by name. Raises UserError."""
    objects = []
    for row in rows:
        if len(row) not in (5, 6):
            raise UserError(
                f"{place}: {list(row)!r:.60} should be [class, left, top, right, bottom]"
            )
        modifiers = row[5] if len(row) == 6 else 0
        if not isinstance(modifiers, int) or not 0 <= modifiers < 16:
            raise UserError(f"{place}: modifiers {modifiers!r:.20} should be a number from 0 to 15")
        kind = _kind(row[0], names, place)
        objects.append(object_of(kind, list(row[1:5]), (1.0, 1.0), place, modifiers))
    return objects


def _kind(value: Any, names: Sequence[str], place: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST:
        return value
    if isinstance(value, str) and value in names:
        return list(names).index(value)
    if isinstance(value, str) and names:
        raise UserError(f"{place}: object '{value}' is unknown{did_you_mean(value, names)}")
    raise UserError(
        f"{place}: object {value!r:.40} should be the number of a class; this checkpoint has no"
        " names of objects"
    )
