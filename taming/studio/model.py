"""What the page may know of a checkpoint: labels or classes, sizes, settings."""

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from taming.data.card import Card
from taming.data.legend import Legend
from taming.errors import UserError
from taming.first_stage.interface import Autoencoder, FirstStage
from taming.formats.load import load
from taming.inference.models import labels_of
from taming.inference.record import Record, record_of
from taming.precision import Precision, resolved
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling
from taming.studio.limits import LARGEST_AREA, LARGEST_SIDE, SMALLEST_SIDE
from taming.studio.sketches import sketches_for

WITHOUT_SLIDER = {"size", "seed", "accept", "classifier"}
"""Fields of Sampling that are no setting of a slider."""
KINDS = {"segmentation": "layout", "class": "class", "caption": "caption"}
"""What is asked of a person for each entry of a condition."""


@dataclass(frozen=True)
class StudioModel:
    """A loaded checkpoint.

    Args:
        name: as the user named it.
        model: a second stage, or a first stage alone.
        kind: "layout", "class", "caption", "none", or "first" for a first stage alone.
        legend: labels with names and colours, where layouts are painted.
        classes: their names, where classes are chosen.
        record: what all pictures of this checkpoint have in common.
    """

    name: str
    model: SecondStage | Autoencoder
    kind: str
    legend: Legend | None
    classes: tuple[str, ...]
    record: Record

    @property
    def second(self) -> SecondStage:
        """Raises UserError where there is only a first stage."""
        if not isinstance(self.model, SecondStage):
            raise UserError("this checkpoint is a first stage: it draws nothing; give a prior")
        return self.model

    @property
    def first(self) -> Autoencoder:
        return self.model.first_stage if isinstance(self.model, SecondStage) else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def trained_size(self) -> tuple[int, int]:
        """Height and width; of a first stage alone, a size that is quick."""
        if isinstance(self.model, SecondStage):
            return self.model.trained_size
        return SMALLEST_SIDE, SMALLEST_SIDE

    @property
    def smallest_side(self) -> int:
        return min(SMALLEST_SIDE, *self.trained_size)

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for a canvas that is too small or too large."""
        sides, smallest = (height, width), self.smallest_side
        if not all(smallest <= side <= LARGEST_SIDE for side in sides):
            raise UserError(
                f"a picture of {width}x{height}: sides go from {smallest} to {LARGEST_SIDE} pixels"
            )
        if height * width > LARGEST_AREA:
            raise UserError(
                f"a picture of {width}x{height} has more pixels than the largest, 1280x832"
            )

    def defaults(self) -> dict[str, Any]:
        """The settings that a new tab has."""
        sampling = _card(self.model).settings()
        return {field.name: getattr(sampling, field.name) for field in slider_fields()}

    @property
    def precision(self) -> Precision:
        """As the checkpoint recommends, with what auto means here: a PNG says so."""
        return resolved(_card(self.model).settings().precision, self.device)

    def _knows_null(self) -> bool:
        if self.kind in ("first", "none"):
            return False
        try:
            self.second.check_guidance()
        except UserError:
            return False
        return True

    def description(self) -> dict[str, Any]:
        """Plain values for the page."""
        names = list(self.legend.names) if self.legend else []
        colours = self.legend.label_colours() if self.legend else []
        height, width = self.trained_size
        return {
            "name": self.name,
            "kind": self.kind,
            "labels": [
                {"name": name, "colour": list(colour)} for name, colour in zip(names, colours)
            ],
            "classes": list(self.classes),
            "trained": [width, height],
            "smallest": self.smallest_side,
            "largest": [LARGEST_SIDE, LARGEST_AREA],
            "multiple": self.second.multiple if self.kind != "first" else self.first.multiple,
            "sketches": sketches_for(names),
            "settings": self.defaults(),
            "guidance": self._knows_null(),
            "fields": [_description(field) for field in slider_fields()],
            "codes": list(self.first.num_codes) if isinstance(self.first, FirstStage) else [],
            "stride": self.first.stride,
        }


def slider_fields() -> list[dataclasses.Field]:
    """The fields of Sampling that a page has a slider for."""
    hints = typing.get_type_hints(Sampling)
    return [
        field
        for field in dataclasses.fields(Sampling)
        if field.name not in WITHOUT_SLIDER and _number_type(hints[field.name]) is not None
    ]


def _number_type(hint: Any) -> type | None:
    """int or float for a hint of numbers, optional or not."""
    options = [one for one in typing.get_args(hint) if one is not type(None)] or [hint]
    return options[0] if len(options) == 1 and options[0] in (int, float) else None


def _description(field: dataclasses.Field) -> dict[str, Any]:
    hint = typing.get_type_hints(Sampling)[field.name]
    return {
        "name": field.name,
        "help": field.metadata.get("help", ""),
        "whole": _number_type(hint) is int,
        "optional": type(None) in typing.get_args(hint),
    }


def load_model(
    checkpoint: str, config: str | None = None, allow: Sequence[str] = ()
) -> StudioModel:
    """Raises UserError for what is no first or second stage, and for a prior on what nobody can
    paint here.
    """
    model = load(checkpoint, config, allow=allow)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = record_of(checkpoint, config, None, device.type, Sampling())
    model.to(device)
    if isinstance(model, Autoencoder):
        legend = _legend_of(model) if model.key == "segmentation" else None
        return StudioModel(checkpoint, model, "first", legend, (), record)
    if not isinstance(model, SecondStage):
        raise UserError(
            f"'{checkpoint}' is a {type(model).__name__}; give the run of a first or a second stage"
        )
    keys = model.conditioner.keys
    kind = next((KINDS[key] for key in KINDS if key in keys), "none")
    if keys and kind == "none":
        raise UserError(
            f"'{checkpoint}' is conditioned on '{keys[0]}', which is not painted; use taming sample"
        )
    legend = _legend_of(model) if kind == "layout" else None
    classes = _classes_of(model) if kind == "class" else ()
    return StudioModel(checkpoint, model, kind, legend, classes, record)


def _card(model: nn.Module) -> Card:
    card = getattr(model, "card", None)
    return card if isinstance(card, Card) else Card()


def _legend_of(model: SecondStage | Autoencoder) -> Legend:
    legend = labels_of(model)
    if legend is None:
        raise UserError("this model does not say how many labels its layouts have")
    return legend


def _classes_of(model: SecondStage) -> tuple[str, ...]:
    """Their names, where the card has them, else their numbers."""
    (part, *_) = model.conditioner.parts(model.trained_size)
    names = _card(model).classes
    count = part.vocabulary
    return names if len(names) == count else tuple(f"class {i}" for i in range(count))
