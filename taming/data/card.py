"""What a checkpoint says about itself beside weights and configuration: labels with names and
colours, classes, the size and the data it was trained on, and the settings that suit it.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from taming.config.sampling import Sampling
from taming.data.interface import PictureSet
from taming.data.legend import Colour, Legend
from taming.errors import UserError

LONGEST = 4000  # characters of a text
MOST = 2**16  # names


@dataclass(frozen=True)
class Card:
    """All of it may be missing: earlier versions wrote none.

    Args:
        labels: names of the labels of masks.
        colours: of the labels, as layouts are drawn.
        classes: names of the classes of pictures.
        objects: names of the classes of objects in boxes.
        size: height and width of the pictures of the training.
        data: what the model learned from, in words.
        sampling: fields of Sampling that suit the model.
    """

    labels: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    classes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    data: str = ""
    objects: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: Any) -> "Card":
        """From plain types, as a file holds them. Raises UserError for what is no card."""
        if not isinstance(plain, dict):
            raise UserError(f"the card is a {type(plain).__name__}, not a mapping of keys")
        for name in plain.keys() - CHECKS.keys():
            raise UserError(f"the card has an unknown entry {name!r:.60}")
        for name, value in plain.items():
            if not CHECKS[name](value):
                raise UserError(f"the card's {name} is malformed")
        card = cls(
            tuple(plain.get("labels", ())),
            tuple((red, green, blue) for red, green, blue in plain.get("colours", ())),
            tuple(plain.get("classes", ())),
            tuple(plain["size"]) if plain.get("size") else None,
            plain.get("data", ""),
            tuple(plain.get("objects", ())),
            dict(plain.get("sampling", {})),
        )
        if len(card.colours) not in (0, len(card.labels)):
            raise UserError(f"the card has {len(card.labels)} labels, {len(card.colours)} colours")
        Sampling.of(**card.sampling)
        return card

    def plain(self) -> dict[str, Any]:
        """What is there, in plain types."""
        values = {name: value for name, value in asdict(self).items() if value}
        for name in values.keys() & {"labels", "classes", "objects", "size"}:
            values[name] = list(values[name])
        if "colours" in values:
            values["colours"] = [list(colour) for colour in self.colours]
        return values

    def merged(self, other: "Card") -> "Card":
        """With what another card says."""
        changes = {name: value for name, value in vars(other).items() if value}
        return replace(self, **changes)

    def legend(self, count: int | None) -> Legend | None:
        """Of a model with so many labels; without names where the card has others or none."""
        if count is None:
            return None
        if len(self.labels) != count:
            return Legend.of(count)
        return Legend.of(self.labels, self.colours or None)

    def settings(self) -> Sampling:
        """That suit the model."""
        return Sampling.of(**self.sampling)


def classes_of(dataset: PictureSet | None) -> tuple[str, ...]:
    """Names of the classes of pictures, as a data set has them; none where it has none."""
    for name in ("class_names", "scenes", "folders"):
        classes = getattr(dataset, name, None)
        if classes:
            return tuple(map(str, classes))
    return ()


def card_of(dataset: PictureSet | None, labels: int | None = None) -> Card:
    """What a data set says about its labels and classes.

    Args:
        dataset: the pictures to learn from.
        labels: of the model; None where it reads no masks.
    """
    dataset = getattr(dataset, "source", dataset)
    names = [*map(str, getattr(dataset, "classes", None) or ())]
    classes = classes_of(dataset)
    objects = tuple(map(str, getattr(dataset, "object_names", None) or ()))
    if not labels:
        return Card(classes=classes or tuple(names), objects=objects)
    legend = getattr(dataset, "legend", None)
    if not isinstance(legend, Legend):
        legend = Legend.of(names)
    colours = [*legend.label_colours(), *Legend.of(labels).colours[len(names) :]]
    names = [*legend.names, *(f"label {i}" for i in range(len(names), labels))]
    return Card(tuple(names), tuple(colours), classes, objects=objects)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST and "\0" not in value


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST and all(map(_is_text, value))


def _are_sides(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(side) is int and 0 < side < 2**31 for side in value)
    )


def _are_colours(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(colour, list)
        and len(colour) == 3
        and all(type(part) is int and 0 <= part < 256 for part in colour)
        for colour in value
    )


def _are_settings(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= MOST and all(map(_is_text, value))


CHECKS = {
    "labels": _are_names,
    "colours": _are_colours,
    "classes": _are_names,
    "objects": _are_names,
    "size": _are_sides,
    "data": _is_text,
    "sampling": _are_settings,
}
