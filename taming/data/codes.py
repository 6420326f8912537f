"""The codes of many pictures on a disk: one file for each part of a data set, 16 bits a code,
memory-mapped, so that training holds none of them in memory.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taming.config.ranges import Count
from taming.data.arrays import open_arrays, write_arrays
from taming.data.interface import PictureSet
from taming.data.permutation import Order, ShardOrder, listed_order
from taming.errors import UserError
from taming.files import write_atomically

ABOUT, ENDING = "codes.json", ".codes"
VERSION = 1
MOST_OPEN = 1024  # files of one process that stay mapped
LISTED = 2**20  # so many samples are put into order as a list
Grid = tuple[int, int]


@dataclass(frozen=True)
class About:
    """What a folder of codes is made of; folders of the same have the same `key`.

    Args:
        first_stage: hash of the weights that made the codes.
        conditioner: likewise of the tokens of the condition; empty where there are none.
        num_codes, grids: of each level.
        parts: (vocabulary, grid) of each part of the condition.
        view: how pictures are resized and cropped.
        views: how many random views of each picture; None: the fixed one.
        source: what tells the data set from others.
        ends: where each file's samples end in the data set.
    """

    first_stage: str
    conditioner: str
    num_codes: list[int]
    grids: list[list[int]]
    parts: list[tuple[int, list[int] | None]]
    view: str
    views: int | None
    source: str
    ends: list[int]
    version: int = VERSION

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    @property
    def files(self) -> list[str]:
        return [f"{number:05d}{ENDING}" for number in range(len(self.ends))]

    def samples(self, file: str) -> range:
        """The samples of a file."""
        number = int(file.removesuffix(ENDING))
        return range(self.ends[number - 1] if number else 0, self.ends[number])

    def write(self, folder: Path) -> None:
        """Raises UserError where the folder holds codes of something else."""
        path = folder / ABOUT
        if path.is_file():
            refuse_other(read_about(folder), self, folder)
            return
        text = json.dumps(asdict(self), indent=1)
        write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def refuse_other(before: About, now: About, folder: Path) -> None:
    """Raises UserError where two are not of the same, and says in what."""
    for name, value in asdict(now).items():
        other = asdict(before)[name]
        if json.dumps(other) != json.dumps(value):
            if name == "first_stage":
                raise UserError(
                    f"'{folder}' holds codes of another first stage ({other}, not {value}); encode"
                    " anew into another folder, or name the first stage that they are of"
                )
            brief = f"{other!r:.60} there, {value!r:.60} here"
            raise UserError(f"'{folder}' holds other codes ({name}: {brief}); take another folder")


def read_about(folder: str | Path) -> About:
    """Raises UserError for a folder without codes."""
    path = Path(folder) / ABOUT
    if not path.is_file():
        raise UserError(f"'{folder}' holds no codes ({ABOUT} is missing); make them: taming encode")
    try:
        about = About(**json.loads(path.read_text(encoding="utf-8")))
        if about.version != VERSION or not about.ends or not about.grids:
            raise ValueError(f"version {about.version}")
        if sorted(about.ends) != about.ends:
            raise ValueError("its ends are in disorder")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged ({error}); encode anew") from None
    return about


@dataclass
class Rows:
    """What a file holds of its samples.

    Args:
        codes: of each level (samples, views, h, w).
        condition: tokens of each part of the condition (samples, views, M).
        names: of the samples.
        labels: their classes, where they have some.
        captions: likewise.
        broken: how many are stood in for by another picture.
    """

    codes: list[np.ndarray]
    condition: list[np.ndarray]
    names: list[str]
    labels: list[int] | None = None
    captions: list[str] | None = None
    broken: int = 0


def write_rows(path: Path, about: About, rows: Rows) -> None:
    """A file of codes, whole or not at all: that it is there is the mark that it is done."""
    arrays = {}
    for name, levels, sizes in (
        ("codes", rows.codes, about.num_codes),
        ("condition", rows.condition, [vocabulary for vocabulary, _ in about.parts]),
    ):
        for number, (level, size) in enumerate(zip(levels, sizes)):
            arrays[f"{name}.{number}"] = (_kind(size), level.shape, [level])
    if rows.labels is not None:
        arrays["class"] = (np.int64, (len(rows.labels),), [np.array(rows.labels, np.int64)])
    for name, words in (("name", rows.names), ("caption", rows.captions)):
        if words is not None:
            texts = [word.encode() for word in words]
            ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
            arrays[f"{name}.ends"] = (np.int64, ends.shape, [ends])
            blob = np.frombuffer(b"".join(texts), np.uint8)
            arrays[name] = (np.uint8, blob.shape, [blob])
    # Whole numbers of 8 bytes first, so that all are aligned
    arrays = dict(sorted(arrays.items(), key=lambda entry: -np.dtype(entry[1][0]).itemsize))
    write_arrays(path, arrays, {"key": about.key, "broken": rows.broken})


def _kind(size: int) -> type:
    return np.uint16 if size <= 2**16 else np.uint32


class CodeFile:
    """One file of codes, memory-mapped.

    Args:
        path: the file.
        about: what it should be of.
        check: compare its checksum, too.

    Raises:
        UserError: it is damaged or of another set.
    """

    def __init__(self, path: Path, about: About, check: bool = False):
        metadata, arrays = open_arrays(path, check)
        if metadata.get("key") != about.key:
            raise UserError(
                f"'{path}' was made with another first stage, view or source; remove it"
            )
        count, views = len(about.samples(path.name)), about.views or 1
        levels = [(f"codes.{number}", tuple(grid)) for number, grid in enumerate(about.grids)]
        for name, grid in levels:
            if name not in arrays or arrays[name].shape != (count, views, *grid):
                raise UserError(f"'{path}' is damaged ({name} is not as expected); encode anew")
        self.path, self.arrays, self.broken = path, arrays, int(metadata.get("broken", 0))
        self.codes = [arrays[name] for name, _ in levels]
        self.condition = [arrays[f"condition.{number}"] for number in range(len(about.parts))]

    def text(self, name: str, row: int) -> str:
        """A row of names or captions."""
        ends = self.arrays[f"{name}.ends"]
        start = int(ends[row - 1]) if row else 0
        return self.arrays[name][start : int(ends[row])].tobytes().decode("utf-8", "replace")


class Codes(PictureSet):
    """What `taming encode` wrote. Item (index, view) -> {"codes": one int64 (h, w) per level,
    "name": str}, and of what the pictures had: "class" int, "caption" str, "condition": tokens (M,)
    of each part.

    Args:
        folder: of the codes.
        window: training reads from so many files at a time, in random order; default: from all.
    """

    def __init__(self, folder: str, window: Count | None = None):
        self.folder, self.window = Path(folder), window
        self.about = read_about(folder)
        missing = [name for name in self.about.files if not (self.folder / name).is_file()]
        if missing:
            raise UserError(
                f"'{folder}' lacks {len(missing)} of {len(self.about.files)} files of codes, first"
                f" '{missing[0]}'; finish them with the command that made the others"
            )
        self.ends = np.array(self.about.ends)
        self.opened = OrderedDict[str, CodeFile]()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __repr__(self) -> str:
        return f"Codes {self.about.key}"

    def order(self, seed: int, epoch: int) -> Order:
        """The order in which training sees the samples."""
        if self.window is None and len(self) <= LISTED:
            return listed_order(len(self), seed, epoch)
        return ShardOrder(np.diff(self.ends, prepend=0), seed, epoch, self.window)

    def contents(self) -> dict[str, Any]:
        """What tells whether these are the same samples, see training/checks.py."""
        return {"count": len(self), "names": self.about.key}

    def name(self, index: int) -> str:
        file, row = self._place(index)
        return file.text("name", row)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        if not 0 <= index < len(self):
            raise IndexError(index)
        file, row = self._place(index)
        column = (view or 0) % (self.about.views or 1)
        levels = zip(file.codes, self.about.num_codes)
        item: dict[str, Any] = {
            "codes": tuple(_tokens(level[row, column], size, file.path) for level, size in levels),
            "name": file.text("name", row),
        }
        if file.condition:
            parts = zip(file.condition, self.about.parts)
            item["condition"] = tuple(
                _tokens(part[row, column], size + 1, file.path) for part, (size, _) in parts
            )
        if "class" in file.arrays:
            item["class"] = int(file.arrays["class"][row])
        if "caption" in file.arrays:
            item["caption"] = file.text("caption", row)
        return item

    def broken(self) -> int:
        """Pictures that could not be read, and have another one's codes."""
        return sum(CodeFile(self.folder / name, self.about).broken for name in self.about.files)

    def _place(self, index: int) -> tuple[CodeFile, int]:
        number = int(self.ends.searchsorted(index, side="right"))
        name = f"{number:05d}{ENDING}"
        file = self.opened.get(name)
        if file is None:
            file = CodeFile(self.folder / name, self.about)
            if len(self.opened) >= MOST_OPEN:
                self.opened.popitem(last=False)
            self.opened[name] = file
        return file, index - (int(self.ends[number - 1]) if number else 0)

    def __getstate__(self) -> dict:
        return {"folder": str(self.folder), "window": self.window}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


def _tokens(row: np.ndarray, size: int, path: Path) -> torch.Tensor:
    """int64. Raises UserError where a damaged file holds what no codebook has."""
    tokens = row.astype(np.int64)
    if tokens.max() >= size:
        raise UserError(
            f"'{path}' holds code {int(tokens.max())}, but there are {size}; the file is damaged:"
            " remove it, and encode again"
        )
    return torch.from_numpy(tokens)


def part_ends(dataset: PictureSet, samples: int) -> list[int]:
    """Where the files of a data set's codes end: with its shards, where it has some, else each
    after so many samples.
    """
    index = getattr(dataset, "index", None)
    ends: Sequence[int] = getattr(index, "ends", [])
    if len(ends):
        return sorted({int(end) for end in ends if end})
    return [min(start + samples, len(dataset)) for start in range(0, len(dataset), samples)]
