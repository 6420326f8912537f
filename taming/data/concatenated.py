"""Several data sets as one."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from taming.config.ranges import Count, Length
from taming.data.interface import PictureSet
from taming.errors import UserError

Key = int | tuple[int, int | None]


class Concatenated(PictureSet):
    """The pictures of all sets, one set after the other; items hold the entries that are asked for.

    Args:
        sets: data sets whose items are dictionaries; labels mean the same in all of them, and the
            first one's class names count.
        entries: of an item that every set has.
        repeat: how often each set is in it, so that a small one is seen more; default: once.
    """

    def __init__(
        self,
        sets: Sequence[PictureSet],
        entries: Annotated[Sequence[str], Length(1)] = ("image", "segmentation"),
        repeat: Annotated[Sequence[Count], Length(1)] | None = None,
    ):
        if not sets:
            raise UserError("sets: none is listed; name at least one data set")
        repeat = repeat or [1] * len(sets)
        if len(repeat) != len(sets):
            raise UserError(f"repeat: {len(repeat)} numbers for {len(sets)} sets; give one a set")
        self.sets, self.entries = list(sets), list(entries)
        parts = [part for part, count in zip(sets, repeat) for _ in range(count)]
        # Every repetition has views of its own: it shifts the number of the view
        turns = [turn for count in repeat for turn in range(count)]
        self._parts = list(zip(parts, turns))
        self._ends = list(accumulate(len(part) for part in parts))
        names = [getattr(part, "classes", None) for part in sets]
        self.classes: list[str] | None = names[0]
        for part, other in zip(sets, names):
            if self.classes and other and len(other) > len(self.classes):
                raise UserError(
                    f"sets: {_place(part)} has {len(other)} labels and {_place(sets[0])}"
                    f" {len(self.classes)}; put the set that knows all labels first"
                )

    @property
    def root(self) -> str:
        return "', '".join(_place(part) for part in self.sets)

    @property
    def paths(self) -> list[Path]:
        """Of every picture, once."""
        return [path for part in self.sets for path in getattr(part, "paths", [])]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: Key) -> dict[str, Any]:
        index, view = key if isinstance(key, tuple) else (key, None)
        part, turn, inside = self._located(index)
        view = None if view is None else view * len(self._parts) + turn
        item = part[inside, view]
        missing = [entry for entry in self.entries if entry not in item]
        if missing:
            raise UserError(
                f"entries: {_place(part)} has no {missing[0]}, only {', '.join(item)}; leave it"
                " out, or the set"
            )
        return {entry: item[entry] for entry in self.entries} | {"name": self.name(index)}

    def name(self, index: int) -> str:
        part, _, inside = self._located(index)
        name = getattr(part, "name", None)
        return name(inside) if name else str(inside)

    def files(self, index: int) -> Sequence[Path]:
        part, _, inside = self._located(index)
        files = getattr(part, "files", None)
        return files(inside) if files else []

    def check(self, index: int) -> str | None:
        part, turn, inside = self._located(index)
        check = getattr(part, "check", None)
        return check(inside) if check and turn == 0 else None

    def _located(self, index: int) -> tuple[Any, int, int]:
        """The set that holds picture `index`, its repetition, and the index in it."""
        place = bisect_right(self._ends, index)
        part, turn = self._parts[place]
        return part, turn, index - (self._ends[place] - len(part))


def _place(part: object) -> str:
    return str(getattr(part, "root", type(part).__name__))
