"""Conditions beyond masks and classes, from files and the command line: text, boxes, depth, edges,
small pictures, a style; and two together.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taming.data.coordinates import coordinates
from taming.data.depth import normalise_depth, read_depth
from taming.data.edges import edges_of
from taming.data.reading import read_image, to_tensor
from taming.data.records import box_rows
from taming.data.views import View
from taming.errors import UserError, did_you_mean
from taming.files import file_hash
from taming.inference.boxes import objects_of, read_box_file
from taming.second_stage.conditioners import Boxes, Edges, LowResolution
from taming.second_stage.interface import Conditioner
from taming.second_stage.model import SecondStage

Condition = dict[str, Any]
Named = list[tuple[str, Condition]]


@dataclass(frozen=True)
class Entries:
    """What a command says about the picture beside masks, pictures and classes.

    Args:
        text: a prompt.
        boxes: a file of objects in boxes, see boxes.py.
        depth: a depth map, or a folder of them.
        edges_of: a picture, or a folder of them, whose edges are drawn.
        low_res: a small picture, or a folder of them, to be enlarged.
        style: a picture whose colours and textures are taken.
    """

    text: str | None = None
    boxes: str | None = None
    depth: str | None = None
    edges_of: str | None = None
    low_res: str | None = None
    style: str | None = None

    def values(self) -> dict[str, str]:
        """Entry of a batch -> what is said about it."""
        named = {KEYS[field.name]: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in named.items() if value is not None}

    def folders(self) -> list[str]:
        """The folders that are read."""
        return [value for key, value in self.values().items() if key not in ("caption", "boxes")]


KEYS = {
    "text": "caption",
    "boxes": "boxes",
    "depth": "depth",
    "edges_of": "edges",
    "low_res": "low_resolution",
    "style": "style",
}
FLAGS = {
    "segmentation": "--masks DIR",
    "image": "--images DIR",
    "class": "--classes A,B",
    "caption": "--text PROMPT",
    "boxes": "--boxes FILE",
    "depth": "--depth DIR",
    "edges": "--edges-of DIR",
    "low_resolution": "--low-res DIR",
    "style": "--style IMAGE",
}
DERIVED = ("coordinates",)
"""Entries that follow from the size of the picture."""
OTHERS = ("keypoints", "sketch", "condition", "depth", "image")
"""What --images is for."""


def key_of_images(conditioner: Conditioner) -> str:
    """Which entry --images is."""
    return next((key for key in conditioner.keys if key in OTHERS), "image")


def check_flags(conditioner: Conditioner, entries: Sequence[str]) -> None:
    """Raises UserError where flags are there for entries that the prior does not read, or none for
    those that it does. Of two conditions one is enough.
    """
    needed = [key for key in conditioner.keys if key not in DERIVED]
    if set(entries) <= set(needed) and (entries or not needed):
        return
    flags = [FLAGS.get(key, "--images DIR") for key in needed]
    what = f"is conditioned on {' and '.join(map(repr, conditioner.keys))}"
    if not conditioner.keys:
        what, flags = "has no condition", ["no --masks, --images or --classes"]
    raise UserError(
        f"this prior {what}, so it takes {' and '.join(flags)}; this command has"
        f" {' and '.join(FLAGS.get(key, key) for key in entries) or 'no condition'}"
    )


def entry_conditions(
    model: SecondStage, key: str, value: str, files: Sequence[tuple[str, Path]]
) -> Named:
    """(name, what a PNG holds of it) for one entry.

    Args:
        key: the entry.
        value: the prompt, or the file of boxes.
        files: the pictures with the names that their samples get.
    """
    if key == "caption":
        model.conditioner({"caption": [value], "size": model.trained_size})  # refuses what it can
        return [("text", {"caption": value})]
    if key == "boxes":
        names = model.card.objects
        return [
            (name, {"boxes": [list(one) for one in objects_of(rows, names, name)]})
            for name, rows in read_box_file(value).items()
        ]
    return [(name, {"pictures": {key: [str(path), file_hash(path)]}}) for name, path in files]


def combined(groups: Sequence[Named]) -> Named:
    """Every condition of one entry with every one of the other."""
    if not groups:
        return [("sample", {})]
    result = []
    for pairs in itertools.product(*groups):
        condition: Condition = {}
        for _, one in pairs:
            pictures = condition.get("pictures", {}) | one.get("pictures", {})
            condition |= one
            if pictures:
                condition["pictures"] = pictures
        result.append(("-".join(name for name, _ in pairs), condition))
    return result


def numbered(classes: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """Numbers of classes by number or by name. Raises UserError for a name that is none."""
    numbers = []
    for one in classes:
        if isinstance(one, int) or (isinstance(one, str) and one.isascii() and one.isdigit()):
            numbers.append(int(one))
        elif isinstance(one, str) and one in names:
            numbers.append(list(names).index(one))
        elif names:
            raise UserError(f"class '{one}' is unknown{did_you_mean(str(one), names)}")
        else:
            raise UserError(
                f"class '{one}': this checkpoint has no names of classes; give numbers such as 0,3"
            )
    return numbers


def record_keys(conditioner: Conditioner) -> set[str]:
    """Under which keys a PNG holds the condition."""
    keys = set()
    for key in conditioner.keys:
        if key in ("segmentation", "class", "caption", "boxes"):
            keys.add(key)
        elif key not in DERIVED:
            keys |= {"pictures", "image"} if key in OTHERS else {"pictures"}
    return keys


def entry_batch(
    model: SecondStage, condition: Condition, size: tuple[int, int] | None
) -> dict[str, Any]:
    """The entries of a batch of one for what a PNG holds of them.

    Args:
        size: (H, W) of the picture to draw; None: what the prior was trained on, but for a small
            picture, which says itself how large its enlargement is.
    """
    batch: dict[str, Any] = {}
    if "caption" in condition:
        batch["caption"] = [condition["caption"]]
    if "boxes" in condition:
        batch["boxes"] = _boxes(model.conditioner, condition["boxes"])
    for key, file in condition.get("pictures", {}).items():
        batch[key] = _picture(model, key, Path(file[0]), size)
    if "coordinates" in model.conditioner.keys:
        batch["coordinates"] = coordinates(size or model.trained_size)[None]
    return batch


def _boxes(conditioner: Conditioner, rows: Sequence[Sequence[float]]) -> Tensor:
    """(1, slots, 6), as many slots as the prior has."""
    boxes = next((one for one in conditioner.modules() if isinstance(one, Boxes)), None)
    slots = len(rows) if boxes is None else boxes.objects
    if len(rows) > slots:
        raise UserError(f"{len(rows)} boxes, but this prior knows at most {slots}; leave some out")
    return box_rows(objects_of(rows, (), "boxes"), slots, False)[None]


def _picture(model: SecondStage, key: str, path: Path, size: tuple[int, int] | None) -> Tensor:
    """(1, C, H, W) of the size that the samples get."""
    if key == "low_resolution":
        if size is None:
            return to_tensor(read_image(path))[None]
        factor = next(m.factor for m in model.conditioner.modules() if isinstance(m, LowResolution))
        size = (max(1, size[0] // factor), max(1, size[1] // factor))
    view = View(size or model.trained_size, flip=False, upscale=True)
    if key == "depth":
        depth = read_depth(path)
        box, flipped = view.box(*depth.size, 0, None, str(path))
        values = np.array(view.image(depth, box, flipped))
        return normalise_depth(torch.from_numpy(values)[None])[None]
    image = read_image(path)
    box, flipped = view.box(*image.size, 0, None, str(path))
    pixels = to_tensor(view.image(image, box, flipped))[None]
    if key != "edges":
        return pixels
    edges = next((one for one in model.conditioner.modules() if isinstance(one, Edges)), None)
    return edges_of(pixels, 0.1 if edges is None else edges.threshold)


def join(batches: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
    """Batches of one as one batch."""
    result: dict[str, Any] = {}
    for key, value in batches[0].items():
        if isinstance(value, Tensor):
            result[key] = torch.cat([one[key] for one in batches]).to(device)
        elif isinstance(value, list):
            result[key] = [entry for one in batches for entry in one[key]]
        else:
            result[key] = value
    return result
