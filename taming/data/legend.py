"""Legends: what labels are called and which colours they are drawn in, from `classes.txt` with
optional colours, a palette file of a paint program, or a model.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taming.errors import UserError, did_you_mean
from taming.files import read_text
from taming.images import palette

Colour = tuple[int, int, int]
UNKNOWN = ("unknown", "unlabelled", "unlabeled", "void", "other", "ignore")
"""Names of a label that says nothing, best first."""

_HEX = re.compile(r"(.*?)\s*#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})")
_NUMBERS = re.compile(r"(.*?)[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})")


@dataclass(frozen=True)
class Legend:
    """Entry i of a legend is drawn in `colours[i]` and stands for label `labels[i]`.

    Args:
        names: of the labels.
        colours: of the entries; several may stand for one label.
        labels: of the entries, each in [0, len(names)).
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    labels: tuple[int, ...]

    @classmethod
    def of(
        cls, names: "Legend | Sequence[str] | int", colours: Sequence[Sequence[int]] | None = None
    ) -> "Legend":
        """Label i is names[i], or `label i` where only their number is known; in these colours or,
        by default, in those of `taming.images.palette`.
        """
        if isinstance(names, Legend):
            return names
        if isinstance(names, int):
            names = [f"label {i}" for i in range(names)]
        drawn = palette(len(names)).tolist() if colours is None else colours
        entries = tuple((int(red), int(green), int(blue)) for red, green, blue in drawn)
        return cls(tuple(names), entries, tuple(range(len(names))))

    def in_terms_of(self, names: Sequence[str], source: str) -> "Legend":
        """The same colours, standing for the labels of another list, matched by name.

        Args:
            names: of the other list.
            source: whose legend this is, for messages.

        Raises:
            UserError: the other list lacks a name.
        """
        places = {plain_name(name): label for label, name in reversed(list(enumerate(names)))}
        labels = []
        for label in self.labels:
            place = places.get(plain_name(self.names[label]))
            if place is None:
                hint = did_you_mean(plain_name(self.names[label]), names)
                raise UserError(
                    f"{source}: '{self.names[label]}' is none of the model's labels{hint}"
                )
            labels.append(place)
        return Legend(tuple(names), self.colours, tuple(labels))

    def renamed(self, same: Mapping[str, str]) -> "Legend":
        """With other names for some labels. Raises UserError for a name that none has."""
        for name in same:
            if name not in self.names:
                raise UserError(
                    f"same: no class is called '{name}'{did_you_mean(name, self.names)}"
                )
        names = tuple(same.get(name, name) for name in self.names)
        return Legend(names, self.colours, self.labels)

    @property
    def unknown(self) -> int | None:
        """The label that says nothing, where there is one."""
        names = [plain_name(name) for name in self.names]
        return next((names.index(word) for word in UNKNOWN if word in names), None)

    def label_colours(self) -> list[Colour]:
        """One for each label: the first that stands for it, else the palette's."""
        colours = [(r, g, b) for r, g, b in palette(len(self.names)).tolist()]
        for colour, label in reversed(list(zip(self.colours, self.labels))):
            colours[label] = colour
        return colours

    def table(self) -> np.ndarray:
        """The colours, int (entries, 3)."""
        return np.array(self.colours, dtype=np.int64).reshape(-1, 3)


def plain_name(name: str) -> str:
    """What counts when names are compared."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def read_legend(path: str | Path) -> Legend:
    """A legend from lines `sky`, `0 sky`, `0 sky #87beeb` or `sky 135 190 235`, or from a palette
    of GIMP (.gpl). Lines in which no colour stands have the palette's.

    Raises:
        UserError: no such file, no text, numbers out of order, two entries in one colour.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"legend '{path}' does not exist; write one class per line, in the order of the labels,"
            " for example: 0 sky #87beeb"
        )
    lines = [line.strip() for line in read_text(path).splitlines()]
    if lines and lines[0] == "GIMP Palette":
        rows = [_gimp_entry(line, path) for line in lines[1:] if line[:1].isdigit()]
    else:
        rows = []
        for line in filter(None, lines):
            rows.append(_entry(line, len(rows), path))
    if not rows:
        raise UserError(f"class list '{path}' is empty; write one class per line")
    return _legend(rows, path)


def _legend(rows: Sequence[tuple[str, Colour | None]], path: Path) -> Legend:
    """Names that occur twice are one label with two colours, where both say their colour."""
    names: list[str] = []
    labels = []
    for name, colour in rows:
        known = colour is not None and name in names
        labels.append(names.index(name) if known else len(names))
        if not known:
            names.append(name)
    defaults = palette(len(names)).tolist()
    colours = [colour or tuple(defaults[label]) for (_, colour), label in zip(rows, labels)]
    for place, colour in enumerate(colours):
        first = colours.index(colour)
        if labels[first] != labels[place]:
            raise UserError(
                f"legend '{path}': '{names[labels[first]]}' and '{names[labels[place]]}' have one"
                f" colour, {hexadecimal(colour)}; give each its own"
            )
    return Legend(tuple(names), tuple(colours), tuple(labels))


def _entry(line: str, number: int, path: Path) -> tuple[str, Colour | None]:
    """Name and colour in a line of a class list."""
    first, _, rest = line.partition(" ")
    if first.isdigit() and int(first) != number:
        raise UserError(f"class list '{path}': line '{line}' should have number {number}")
    text = rest.strip() if first.isdigit() and rest.strip() else line
    match = _HEX.fullmatch(text)
    if match and match[1]:
        digits = match[2] if len(match[2]) == 6 else "".join(d * 2 for d in match[2])
        return match[1], (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16))
    match = _NUMBERS.fullmatch(text)
    if match and match[1]:
        return match[1], _colour([match[2], match[3], match[4]], line, path)
    return text, None


def _gimp_entry(line: str, path: Path) -> tuple[str, Colour]:
    parts = line.split(None, 3)
    if len(parts) < 4:
        raise UserError(f"palette '{path}': line '{line}' has no name after its colour")
    return parts[3], _colour(parts[:3], line, path)


def _colour(words: list[str], line: str, path: Path) -> Colour:
    numbers = [int(word) if word.isdigit() else 256 for word in words]
    if max(numbers) > 255:
        raise UserError(f"legend '{path}': line '{line}' has a colour beyond 0 to 255")
    return numbers[0], numbers[1], numbers[2]


def hexadecimal(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in colour)
