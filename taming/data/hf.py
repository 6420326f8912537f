"""A data set of Hugging Face's `datasets` on disk: what `save_to_disk` writes, or the parquet files
of a downloaded repository (huggingface.co/docs/datasets, "Load a dataset from the Hub").

    ROOT/dataset_dict.json    {"splits": ["train", "validation"]}
    ROOT/train/state.json     {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], ...}
    ROOT/train/dataset_info.json   "features": {"image": ..., "label": {"names": [...]}}
    or ROOT/data/train-00000-of-00001.parquet, the features in the file's own metadata

Read by pyarrow alone: `datasets` is not needed, and nothing of the folder is run. Pictures are
{"bytes", "path"}.
"""

import json
import random
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from taming.data.folder import ViewParameters
from taming.data.interface import PictureSet
from taming.data.layouts import mask_to_tensor
from taming.data.reading import CorruptImage, Member, read_image, to_tensor
from taming.data.records import Part, Seed, read_json
from taming.data.tables import FEATURES, open_table
from taming.data.views import View
from taming.errors import UserError

IMAGES = ("image", "img", "picture")
CLASSES = ("label", "labels", "class", "fine_label")
CAPTIONS = ("caption", "captions", "text", "sentences")
MASKS = ("segmentation", "annotation", "mask", "label_map")
PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "test")}


class HFDataset(PictureSet):
    """Pictures with what the table has of "class", "caption" and "segmentation".

    Args:
        root: the folder that save_to_disk wrote, or one with parquet files.
        view: of each picture, see ImageFolder.
        split: train or validation (val, valid, test where there is no other).
        seed: of the views.
    """

    def __init__(
        self, root: str, view: ViewParameters = 256, split: Part = "train", seed: Seed = 0
    ):
        self.root, self.view, self.part = Path(root), View.of(view, seed), split
        self.shards = data_files(self.root, split)
        self.tables = [open_table(path) for path in self.shards]
        self.ends = list(accumulate(len(table) for table in self.tables))
        if not self.ends or not self.ends[-1]:
            raise UserError(f"'{root}' has no rows for {split}")
        names = self.tables[0].column_names
        self.image, self.label, self.words, self.mask = (
            next((name for name in options if name in names), "")
            for options in (IMAGES, CLASSES, CAPTIONS, MASKS)
        )
        if not self.image:
            raise UserError(
                f"'{self.shards[0]}' has the columns {', '.join(names)}; one of"
                f" {', '.join(IMAGES)} is needed"
            )
        self.class_names = self._names_of_classes()

    def __repr__(self) -> str:
        return f"HFDataset({str(self.root)!r}, {self.view!r}, {self.part!r})"

    def __len__(self) -> int:
        return self.ends[-1]

    def name(self, index: int) -> str:
        return f"{self.part}{index:07d}"

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        row = self._row(index)
        image = self._picture(row[self.image], index)
        box, flipped = self.view.box(*image.size, index, view, self.name(index))
        item: dict[str, Any] = {
            "image": to_tensor(self.view.image(image, box, flipped)),
            "name": self.name(index),
        }
        if self.mask and row[self.mask] is not None:
            mask = self._mask(row[self.mask], index, image.size)
            item["segmentation"] = mask_to_tensor(self.view.mask(mask, box, flipped))
        if self.label and isinstance(row[self.label], int):
            item["class"] = row[self.label]
        if self.words:
            item["caption"] = self._caption(row[self.words], index, view)
        return item

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect_right(self.ends, index)
        start = self.ends[shard - 1] if shard else 0
        return self.tables[shard].slice(index - start, 1).to_pylist()[0]

    def _picture(self, value: Any, index: int) -> Image.Image:
        return read_image(self._file(value, index))

    def _mask(self, value: Any, index: int, size: tuple[int, int]) -> Image.Image:
        file = self._file(value, index)
        try:
            with Image.open(file) as mask:
                labels = np.asarray(mask.convert("L") if mask.mode == "1" else mask)
        except OSError as error:
            raise CorruptImage(f"mask of {self.name(index)} can't be read: {error}") from None
        if labels.ndim != 2 or labels.max() > 255 or labels.shape != size[::-1]:
            raise CorruptImage(
                f"mask of {self.name(index)} is {labels.shape}; labels of 8 bits as large as the"
                " picture are expected"
            )
        return Image.fromarray(labels.astype(np.uint8))

    def _file(self, value: Any, index: int) -> "Member | Path":
        """What Pillow opens. Only bytes in the table, and files inside the folder."""
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return Member(content, f"{self.root}, {self.name(index)}")
        path = value.get("path") if isinstance(value, dict) else None
        inside = self.root / str(path)
        if path and self.root.resolve() in inside.resolve().parents:
            return inside
        raise CorruptImage(f"{self.name(index)} of '{self.root}' holds no picture")

    def _caption(self, value: Any, index: int, view: int | None) -> str:
        words = [str(one) for one in (value if isinstance(value, list) else [value]) if one]
        if not words:
            raise CorruptImage(f"{self.name(index)} of '{self.root}' has no caption")
        draw = random.Random(f"{self.view.seed}/{index}/{view}/words")
        return words[0] if view is None else draw.choice(words)

    def _names_of_classes(self) -> list[str]:
        info = self.shards[0].with_name("dataset_info.json")
        features = read_json(info).get("features", {}) if info.is_file() else self._features()
        feature = features.get(self.label) if isinstance(features, dict) else None
        names = feature.get("names") if isinstance(feature, dict) else None
        return [str(name) for name in names] if isinstance(names, list) else []

    def _features(self) -> Any:
        metadata = self.tables[0].schema.metadata or {}
        try:
            return json.loads(metadata[FEATURES.encode()])["info"]["features"]
        except (KeyError, TypeError, ValueError):
            return {}


def recognises(root: Path) -> bool:
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        return True
    return any(_parquet(root, name) for names in PARTS.values() for name in names)


def data_files(root: Path, split: str) -> list[Path]:
    """The files of a part, in their order. Raises UserError."""
    if not root.is_dir():
        raise UserError(f"data folder '{root}' does not exist")
    for name in PARTS[split]:
        folder = root / name
        if (folder / "state.json").is_file():
            return _of_state(folder)
        files = _parquet(root, name)
        if files:
            return files
    if (root / "state.json").is_file() and split == "train":
        return _of_state(root)
    raise UserError(
        f"'{root}' has no part {' or '.join(PARTS[split])}: neither state.json nor parquet files"
    )


def _of_state(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json")
    try:
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (LookupError, TypeError):
        raise UserError(f"'{folder / 'state.json'}' lists no data files") from None
    for name in names:
        if Path(name).name != name:
            raise UserError(f"'{folder / 'state.json'}' names '{name}', which lies elsewhere")
    return [folder / name for name in names]


def _parquet(root: Path, name: str) -> list[Path]:
    places = (root, root / "data", root / "default")
    return next((f for p in places if (f := sorted(p.glob(f"{name}-*.parquet")))), [])
