"""What the page may ask for, checked field by field before anything is done."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from taming.errors import UserError, did_you_mean
from taming.inference.edit import Edit
from taming.inference.paste import WIDEST
from taming.second_stage.sampling import Sampling
from taming.studio.limits import CANDIDATES, VARIATIONS
from taming.studio.model import StudioModel, slider_fields
from taming.studio.protocol import Frame
from taming.studio.uploads import base64_png, labels_of, read_picture

LARGEST_ID = 2**53  # whole numbers that JavaScript has
LONGEST_TEXT = 1000
ENVELOPE = {"do", "id"}


class Fields:
    """A frame's header, read once; what is left unread was not expected."""

    def __init__(self, frame: Frame):
        self.frame, self.unread = frame, set(frame.header) - ENVELOPE
        self.blobs = set(frame.blobs)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self._value(name, default)
        if type(value) is not int or not low <= value <= high:
            raise UserError(f"{name} {value!r:.40} should be a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self._value(name, default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise UserError(f"{name} {value!r:.40} should be a number from {low:g} to {high:g}")
        return float(value)

    def choice(self, name: str, options: list[str]) -> str:
        value = self._value(name, None)
        if not isinstance(value, str) or value not in options:
            raise UserError(f"{name} {value!r:.40} is none of {', '.join(options) or 'nothing'}")
        return value

    def text(self, name: str) -> str:
        value = self._value(name, "")
        if not isinstance(value, str) or len(value) > LONGEST_TEXT or "\0" in value:
            raise UserError(f"{name} should be a text of at most {LONGEST_TEXT} characters")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise UserError(f"{name} should be an object, not {value!r:.40}")
        return value

    def values(self, name: str) -> Any:
        return self._value(name, None)

    def blob(self, name: str) -> bytes:
        """Raises UserError where it is missing."""
        if name not in self.frame.blobs:
            raise UserError(f"the request has no {name}")
        self.blobs.discard(name)
        return self.frame.blobs[name]

    def has_blob(self, name: str) -> bool:
        return name in self.frame.blobs

    def finish(self) -> None:
        """Raises UserError for what nobody read."""
        for name in sorted(self.unread | self.blobs):
            raise UserError(f"the request has a field '{name:.40}', which it should not have")

    def _value(self, name: str, default: Any) -> Any:
        self.unread.discard(name)
        value = self.frame.header.get(name, default)
        return default if value is None else value


@dataclass(frozen=True)
class Drawing:
    """A picture, or several variations of it.

    Args:
        sampling: with size and seed.
        condition: as a PNG holds it.
        labels: of the layout (H, W), where there is one.
        number: of the first; variation k has number + k.
        count: how many variations.
        edit: what is there, and what of it is drawn anew.
        style: the picture whose colours are wanted, how far, and from how many candidates.
    """

    sampling: Sampling
    condition: dict[str, Any]
    labels: np.ndarray | None
    number: int = 0
    count: int = 1
    edit: Edit | None = None
    style: Image.Image | None = None
    strength: float = 0.0
    candidates: int = 1

    @property
    def size(self) -> tuple[int, int]:
        assert self.sampling.size is not None
        return self.sampling.size


def size_of(fields: Fields, model: StudioModel) -> tuple[int, int]:
    """Height and width of the canvas."""
    height, width = fields.whole("height", 1, 1 << 16), fields.whole("width", 1, 1 << 16)
    model.check_size(height, width)
    return height, width


def read_drawing(frame: Frame, model: StudioModel) -> Drawing:
    """Raises UserError for the first field that is wrong."""
    fields = Fields(frame)
    size = size_of(fields, model)
    sampling = replace(read_sampling(fields, size), precision=model.precision)
    condition, labels = read_condition(fields, model, size)
    edit = read_edit(fields, size)
    style = read_picture(fields.blob("style")) if fields.has_blob("style") else None
    drawing = Drawing(
        sampling,
        condition,
        labels,
        fields.whole("number", 0, 2**31, 0),
        fields.whole("count", 1, VARIATIONS, 1),
        edit,
        style,
        fields.number("strength", 0, 1, 0.0),
        fields.whole("candidates", 1, CANDIDATES, 1),
    )
    fields.finish()
    return drawing


def read_sampling(fields: Fields, size: tuple[int, int]) -> Sampling:
    """Of all settings, those that a page has a slider for."""
    settings = fields.mapping("settings")
    names = [field.name for field in slider_fields()]
    for name in settings:
        if name not in names:
            raise UserError(f"there is no setting '{name:.40}'{did_you_mean(name, names)}")
    seed = fields.whole("seed", 0, LARGEST_ID, 0)
    return Sampling.of(**settings, size=size, seed=seed)


def read_condition(
    fields: Fields, model: StudioModel, size: tuple[int, int]
) -> tuple[dict[str, Any], np.ndarray | None]:
    """What a PNG holds of the condition, and the labels of a layout."""
    model.second  # noqa: B018 (a first stage alone draws nothing)
    if model.kind == "layout":
        assert model.legend is not None
        labels = labels_of(fields.blob("layout"), *size, len(model.legend.names))
        return {"segmentation": base64_png(Image.fromarray(labels))}, labels
    if model.kind == "class":
        return {"class": fields.whole("class", 0, len(model.classes) - 1, 0)}, None
    if model.kind == "caption":
        return {"caption": fields.text("caption")}, None
    return {}, None


def read_edit(fields: Fields, size: tuple[int, int]) -> Edit | None:
    """A region to be drawn anew, in a picture of the canvas's size."""
    if not fields.has_blob("picture"):
        return None
    height, width = size
    picture = read_picture(fields.blob("picture"), "the picture to change")
    region = labels_of(fields.blob("region"), height, width, 256)
    if picture.size != (width, height):
        raise UserError(
            f"the picture to change is {picture.width}x{picture.height}, but the canvas"
            f" {width}x{height}; paint it anew after growing the canvas"
        )
    if not region.any():
        raise UserError("nothing is selected to be drawn anew; mark a region first")
    marked = Image.fromarray((region > 0).astype(np.uint8) * 255)
    return Edit(picture, marked, fields.whole("seam", 0, WIDEST, 0))


def read_label_bytes(fields: Fields, model: StudioModel) -> np.ndarray:
    """The canvas's layout alone."""
    if model.legend is None:
        raise UserError("this model has no labels, so there is no layout")
    return labels_of(fields.blob("layout"), *size_of(fields, model), len(model.legend.names))
