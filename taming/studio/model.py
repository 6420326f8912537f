"""What the page may know of a checkpoint: labels or classes, sizes, settings."""

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from taming.data.legend import Legend
from taming.errors import UserError
from taming.files import file_hash
from taming.first_stage.interface import Autoencoder, FirstStage
from taming.formats.load import find_checkpoint, load
from taming.inference.record import Record
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import Sampling
from taming.studio.limits import LARGEST_AREA, LARGEST_SIDE, SMALLEST_SIDE
from taming.studio.sketches import sketches_for

LANDSCAPE = (
    "sky tree ground grass water building mountain foreground unknown snow".split()
)  # of the model that is shipped, whose file of earlier versions does not say so
NOT_ASKED = {"size", "seed", "accept", "classifier"}
"""Fields of Sampling that are no setting of a slider."""
GUIDANCE, TOP_P = 3.0, 0.9
"""What looks best, where the prior knows the null condition (docs/sampling.md)."""


@dataclass(frozen=True)
class StudioModel:
    """A loaded checkpoint.

    Args:
        name: as the user named it.
        model: a second stage, or a first stage alone.
        kind: "layout", "class", "none", or "first" for a first stage alone.
        legend: labels with names and colours, where layouts are painted.
        classes: how many, where classes are chosen.
        record: what all pictures of this checkpoint have in common.
    """

    name: str
    model: SecondStage | Autoencoder
    kind: str
    legend: Legend | None
    classes: int | None
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
        sampling = Sampling()
        settings = {field.name: getattr(sampling, field.name) for field in asked()}
        if self._knows_null():
            settings |= {"guidance": GUIDANCE, "top_p": TOP_P}
        return settings

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
            "classes": self.classes,
            "trained": [width, height],
            "smallest": self.smallest_side,
            "largest": [LARGEST_SIDE, LARGEST_AREA],
            "multiple": self.second.multiple if self.kind != "first" else self.first.multiple,
            "sketches": sketches_for(names),
            "settings": self.defaults(),
            "guidance": self._knows_null(),
            "fields": [_description(field) for field in asked()],
            "codes": list(self.first.num_codes) if isinstance(self.first, FirstStage) else [],
            "stride": self.first.stride,
        }


def asked() -> list[dataclasses.Field]:
    """The fields of Sampling that a page has a slider for."""
    hints = typing.get_type_hints(Sampling)
    return [
        field
        for field in dataclasses.fields(Sampling)
        if field.name not in NOT_ASKED and _number_type(hints[field.name]) is not None
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
    record = Record(
        checkpoint,
        file_hash(find_checkpoint(checkpoint)),
        Sampling(),
        (config, file_hash(config)) if config else None,
        device=device.type,
    )
    model.to(device)
    if isinstance(model, Autoencoder):
        legend = _legend_of(model, checkpoint) if model.key == "segmentation" else None
        return StudioModel(checkpoint, model, "first", legend, None, record)
    if not isinstance(model, SecondStage):
        raise UserError(
            f"'{checkpoint}' is a {type(model).__name__}; give the run of a first or a second stage"
        )
    key = model.conditioner.key
    kinds = {"segmentation": "layout", "class": "class", None: "none"}
    if key not in kinds:
        raise UserError(
            f"'{checkpoint}' is conditioned on '{key}', which is not painted; use taming sample"
        )
    legend = _legend_of(model.conditioner.tokenizer, checkpoint) if kinds[key] == "layout" else None
    classes = getattr(model.conditioner, "classes", None) if kinds[key] == "class" else None
    return StudioModel(checkpoint, model, kinds[key], legend, classes, record)


def _legend_of(tokenizer: Autoencoder | None, checkpoint: str) -> Legend:
    count = tokenizer.labels if tokenizer is not None else None
    if count is None:
        raise UserError(f"'{checkpoint}' does not say how many labels its layouts have")
    return Legend.of(LANDSCAPE if count == len(LANDSCAPE) else count)
