"""A sample of any data set -> the files that stand for it in a tar shard."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from taming.data.interface import PictureSet
from taming.data.reading import EXTENSIONS
from taming.data.views import Box, View
from taming.images import to_pil

PLAIN = ("boxes",)  # what goes into `.json` as lists of numbers


class Whole(View):
    """The picture as it is: neither resized nor cropped."""

    def __init__(self):
        super().__init__(1, scale=1.0, flip=False, upscale=True)

    def box(
        self, width: int, height: int, index: int, view: int | None, name: str
    ) -> tuple[Box, bool]:
        return (0.0, 0.0, float(width), float(height)), False

    def _cut(self, image: Image.Image, box: Box, flipped: bool, resample: int) -> Image.Image:
        return image


def members_of(dataset: PictureSet, index: int) -> dict[str, bytes]:
    """{ending: bytes} of a sample: its picture as it lies on the disk where the data set shows
    whole pictures, else as PNG; a mask as PNG of labels; class, caption and name as text.

    Raises:
        CorruptImage: it can't be used.
    """
    item = dataset[(index, None)]
    files = dataset.files(index) if hasattr(dataset, "files") else []
    is_whole = isinstance(getattr(dataset, "view", None), Whole)
    source = Path(files[0]) if files and is_whole else Path()
    if source.suffix.lower() in EXTENSIONS:
        members = {source.suffix.lower().removeprefix("."): source.read_bytes()}
    else:
        members = {"png": _png(to_pil(item["image"]))}
    if "segmentation" in item:
        members["seg.png"] = _png(Image.fromarray(item["segmentation"].numpy().astype(np.uint8)))
    if "class" in item:
        members["cls"] = str(int(item["class"])).encode()
    if item.get("caption"):
        members["txt"] = str(item["caption"]).encode()
    values = {key: item[key].tolist() for key in PLAIN if isinstance(item.get(key), Tensor)}
    if values:
        members["json"] = json.dumps(values).encode()
    return members


def unstored(item: dict[str, Any]) -> list[str]:
    """What of an item has no place in a shard."""
    stored = ("image", "segmentation", "class", "caption", "name", "skipped", "crop", *PLAIN)
    return [key for key in item if key not in stored]


def sample_name(dataset: PictureSet, index: int) -> str:
    """Number and name, without the dots and folders that mean something in an archive."""
    name = dataset.name(index) if hasattr(dataset, "name") else ""
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in str(name))
    return f"{index:09d}_{plain[:50]}".rstrip("_")


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
