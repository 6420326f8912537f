"""Pictures in tar shards, as webdataset lays them out and img2dataset writes them, on a disk or in
a storage that fsspec knows; random access by an index, so that a run resumes exactly.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image

from taming.config.ranges import Count, Index, Length
from taming.data.batches import MOST_BROKEN
from taming.data.folder import ViewParameters
from taming.data.interface import PictureSet
from taming.data.layouts import mask_to_tensor, read_mask
from taming.data.permutation import Order, ShardOrder
from taming.data.reading import CorruptImage, Member, read_image, to_tensor
from taming.data.segmentation import read_classes
from taming.data.shard_captions import MOST_OPEN, ShardCaptions
from taming.data.shard_index import ShardIndex, changes, index_of
from taming.data.storage import Reader, Unreachable, expanded
from taming.data.tar import BLOCK, member_name, role_of
from taming.data.views import View
from taming.errors import UserError, first_line

Key = Literal["segmentation", "class", "caption"]


class Shards(PictureSet):
    """Item (index, view) -> {"image": float (3, H, W) in [-1, 1], "name": str}, and of what the
    shards hold: "segmentation" int64 (H, W), "class" int, "caption" str.

    The members of a sample share their name up to its first dot: a picture (`.jpg`, `.png`, ...),
    a mask (`.seg.png`, labels as in SegmentedImages), a class (`.cls`, a number), a caption
    (`.txt`), or both in `.json` ("class" or "label", "caption"). What some samples have, all must
    have: others count as broken pictures.

    Args:
        files: the shards: data/{00000..09999}.tar, data/*.tar, s3://bucket/{000..123}.tar, ...
        view: of each picture: {size, scale, flip, upscale}, see View; or a size alone.
        keys: what to read beside pictures: segmentation, class, caption; default: all there is.
        classes: of masks, a class list as in SegmentedImages; default: classes.txt beside the
            shards, where there is one.
        captions: where captions are: in the shards, or in a parquet file beside each, as
            img2dataset writes them.
        window: training reads from so many shards at a time, in random order; default: from all.
        cache: where the index of the shards goes if it can't lie beside them.
        seed: of the views.
    """

    def __init__(
        self,
        files: str,
        view: ViewParameters,
        keys: Annotated[list[Key], Length(0, 3)] | None = None,
        classes: str | None = None,
        captions: Literal["shards", "parquet"] = "shards",
        window: Count | None = None,
        cache: str = "runs/cache",
        seed: Index = 0,
    ):
        self.shards = expanded(files)
        self.view, self.window = View.of(view, seed), window
        self.index = index_of(self.shards, cache)
        self.lost = self._lost()
        if "image" not in self.index.roles:
            raise UserError(
                f"shards '{files}' hold no pictures (looked for .jpg, .png, ...), but"
                f" {', '.join(self.index.roles) or 'empty files'}"
            )
        self.keys, self.roles = keys, _roles(self.index, keys)
        self.classes = _classes(classes, self.shards[0])
        self.tables = ShardCaptions(max(window or 0, MOST_OPEN)) if captions == "parquet" else None
        self.reader = Reader()

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        sizes = hashlib.sha256(self.index.sizes.tobytes()).hexdigest()[:16]
        return f"Shards {self.index.digest} of sizes {sizes}"

    def name(self, index: int) -> str:
        return self.index.name(index)

    def order(self, seed: int, epoch: int) -> Order:
        """The order in which training sees the samples."""
        return ShardOrder(self.index.counts, seed, epoch, self.window)

    def contents(self) -> dict[str, Any]:
        """What tells whether these are the same samples, see training/checks.py."""
        return {"count": len(self), "names": self.index.digest}

    def problems(self) -> list[str]:
        """One line for each shard that can't be used, or not in full."""
        return [*self.index.problems.values(), *self.lost.values()]

    def _lost(self) -> dict[int, str]:
        """Shards that changed or went since their index was made. Raises UserError where they hold
        more than 1 % of the samples, or where as many were missing then.
        """
        lost = changes(self.index, self.shards)
        absent = sum(1 for number in self.index.problems if not self.index.counts[number])
        mean = len(self.index) / max(1, len(self.shards) - absent)
        count = sum(int(self.index.counts[number]) for number in lost) + absent * mean
        if count > MOST_BROKEN * len(self.index):
            lines = [*self.index.problems.values(), *lost.values()]
            more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
            raise UserError(
                f"{len(lines)} of {len(self.shards)} shards can't be used, more than 1 % of the"
                f" pictures: {'; '.join(lines[:3])}{more}; mend them, then remove"
                f" '{self.index.path}'"
            )
        return lost

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        if not 0 <= index < len(self):
            raise IndexError(index)
        members = self._members(index)
        image = read_image(members["image"])
        box, flipped = self.view.box(*image.size, index, view, self._place(index))
        item = {"image": to_tensor(self.view.image(image, box, flipped)), "name": self.name(index)}
        if "segmentation" in members:
            mask = self._mask(members["segmentation"], image.size)
            item["segmentation"] = mask_to_tensor(self.view.mask(mask, box, flipped))
        return item | self._words(index, members)

    def _mask(self, member: "Member", size: tuple[int, int]) -> Image.Image:
        try:
            mask = read_mask(member, self.classes or None)
        except CorruptImage as error:
            text = str(error)
            raise CorruptImage(text if str(member) in text else f"'{member}': {text}") from None
        if mask.size != size:
            raise CorruptImage(
                f"'{member}' is {mask.width}x{mask.height}, but its picture is"
                f" {size[0]}x{size[1]}; make them equal"
            )
        return mask

    def _words(self, index: int, members: dict[str, "Member"]) -> dict[str, Any]:
        """Class and caption."""
        values = _json(members["json"]) if "json" in members else {}
        for role in ("class", "caption"):
            if role in members:
                values[role] = members[role].read().decode(errors="replace").strip()
        if self.tables is not None:
            shard = self.shards[self.index.shard(index)]
            values["caption"] = self.tables.caption(shard, self.name(index))
        label = values.get("class", values.get("label"))
        words: dict[str, Any] = {"class": label, "caption": values.get("caption")}
        words = {key: value for key, value in words.items() if value is not None}
        if "class" in words:
            if not str(label).isdecimal():
                raise CorruptImage(f"'{self._place(index)}' has class {label!r:.40}, no number")
            words["class"] = int(str(label))
        if "caption" in words:
            words["caption"] = str(words["caption"])
        if self.keys is not None:
            words = {key: value for key, value in words.items() if key in self.keys}
        return words

    def _place(self, index: int) -> str:
        """A sample, for messages."""
        return f"{self.shards[self.index.shard(index)]}: {self.name(index)}"

    def _members(self, index: int) -> dict[str, "Member"]:
        """The files of a sample by role. They lie side by side, and are read at once; their headers
        too: what changed since the index was made is not taken for what it was.
        """
        number = self.index.shard(index)
        if number in self.lost:
            raise self._broken(index, self.lost[number])
        places = {role: self.index.place(index, role) for role in self.roles}
        for role, (_, length) in places.items():
            if not length:
                raise CorruptImage(f"'{self._place(index)}' has no {role}, as other samples have")
        first = min(start for start, _ in places.values()) - BLOCK
        last = max(start + length for start, length in places.values())
        try:
            data = self.reader.read(self.shards[number], first, last - first)
        except Unreachable as error:
            raise self._broken(index, f"shard {error}") from None
        members = {}
        for role, (start, length) in places.items():
            header = data[start - BLOCK - first : start - first]
            content = data[start - first : start - first + length]
            if len(content) < length or not self._is_member(index, role, member_name(header)):
                raise self._broken(
                    index,
                    f"shard '{self.shards[number]}' changed since its index was made; remove"
                    f" '{self.index.path}', and it is made anew",
                )
            members[role] = Member(content, f"{self._place(index)} ({role})")
        return members

    def _is_member(self, index: int, role: str, member: str) -> bool:
        """Whether a header names what the index says; headers cut long names off."""
        return role_of(member) == (self.name(index), role) or len(member) > 90

    def _broken(self, index: int, message: str) -> CorruptImage:
        number = self.index.shard(index)
        self.lost[number] = message
        rest = int(self.index.ends[number]) - index - 1
        return CorruptImage(message, rest, int(self.index.counts[number]))


def _roles(index: ShardIndex, keys: Sequence[str] | None) -> list[str]:
    """The members to read. Raises UserError for one that no sample has."""
    if keys is None:
        return index.roles
    words = ("class", "caption")
    for key in keys:
        if key not in index.roles and not (key in words and "json" in index.roles):
            raise UserError(f"keys: the shards hold no {key}, but {', '.join(index.roles)}")
    wants_json = any(key in words and key not in index.roles for key in keys)
    wanted = {"image", *keys, *(["json"] if wants_json else [])}
    return [role for role in index.roles if role in wanted]


def _json(member: Member) -> dict[str, Any]:
    try:
        values = json.load(member)
    except (ValueError, RecursionError) as error:
        raise CorruptImage(f"'{member}' is no JSON ({first_line(error)[:80]})") from None
    return values if isinstance(values, dict) else {}


def _classes(path: str | None, shard: str) -> list[str]:
    beside = Path(os.path.dirname(shard), "classes.txt")
    if path is None and not ("://" not in shard and beside.is_file()):
        return []
    return read_classes(Path(path) if path is not None else beside)


def shards_problems(sets: Sequence[PictureSet | None]) -> list[str]:
    """What to say about shards before a run starts."""
    return [line for one in sets if isinstance(one, Shards) for line in one.problems()]
