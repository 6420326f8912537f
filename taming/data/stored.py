"""Pictures in the tars of a folder, as if they were files."""

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from taming.data.reading import Member
from taming.data.shard_index import ShardIndex, index_of
from taming.data.storage import Reader


@dataclass(frozen=True)
class Stored:
    """A picture in an archive; its path on the disk is the archive's."""

    index: ShardIndex
    reader: Reader
    archive: str
    number: int

    @property
    def name(self) -> str:
        return f"{PurePosixPath(self.index.name(self.number)).name}.png"

    def relative_to(self, folder: Path) -> PurePosixPath:
        del folder
        return PurePosixPath(f"{self.index.name(self.number)}.png")

    def open(self, role: str = "image") -> Member:
        """Its bytes, or those of another member of its sample."""
        start, length = self.index.place(self.number, role)
        return Member(self.reader.read(self.archive, start, length), str(self))

    def metadata(self) -> dict[str, Any] | None:
        """What stands beside the picture as JSON; None where nothing does."""
        if "json" not in self.index.roles or not self.index.place(self.number, "json")[1]:
            return None
        try:
            values = json.load(self.open("json"))
        except (ValueError, RecursionError):
            return None
        return values if isinstance(values, dict) else None

    def __fspath__(self) -> str:
        return self.archive

    def __str__(self) -> str:
        return f"{self.archive}: {self.index.name(self.number)}"


def stored_pictures(folder: Path) -> list[Stored]:
    """The pictures in the tars of a folder, in order; none where it has no tars."""
    archives = sorted(str(path) for path in folder.glob("*.tar"))
    if not archives:
        return []
    index, reader = index_of(archives, folder), Reader()
    return [
        Stored(index, reader, archives[index.shard(number)], number)
        for number in range(len(index))
        if os.path.isfile(archives[index.shard(number)])
    ]
