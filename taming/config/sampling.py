"""What a sample depends on: declared and checked as what a configuration sets, so that the command
line can list it without loading torch.
"""

import random
import sys
import typing
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from taming.config.hints import expectation, fits
from taming.config.ranges import Count, Number, Positive, Range, Share, Weight
from taming.errors import UserError, did_you_mean
from taming.precision import Precision

Seed = Annotated[int, Range(-(2**63), 2**63 - 1)]
Mass = Annotated[float, Range(0, 1, low_open=True)]
"""A share that may not be nothing."""

Fast = Literal["off", "bf16", "int8", "compile"]


@dataclass
class Sampling:
    """What a sample depends on, beside checkpoint, condition and number."""

    size: tuple[Count, Count] | None = field(
        default=None,
        metadata={
            "help": "height and width in pixels, any; default: what the prior was trained on",
            "metavar": "HxW",
        },
    )
    seed: Seed | None = field(
        default=0, metadata={"help": "of the random numbers; in Python, None draws a fresh one"}
    )
    temperature: Weight = field(
        default=1.0,
        metadata={"help": "divides the logits; below 1: more probable codes; 0: greedy"},
    )
    top_k: Count | None = field(
        default=None, metadata={"help": "draw from the k most probable codes", "metavar": "K"}
    )
    top_p: Mass | None = field(
        default=None,
        metadata={
            "help": "draw from the fewest codes that have this probability together",
            "metavar": "P",
        },
    )
    min_p: Share | None = field(
        default=None,
        metadata={
            "help": "draw from codes at least P times as probable as the most probable one",
            "metavar": "P",
        },
    )
    guidance: Number = field(
        default=1.0, metadata={"help": "1: none; above: follow the condition more closely"}
    )
    hop: Count = field(
        default=1,
        metadata={
            "help": (
                "large pictures: windows move so many codes at a time; larger is faster, 1 is the"
                " published rule"
            ),
            "metavar": "CODES",
        },
    )
    accept: Mass = field(
        default=1.0,
        metadata={
            "help": "draw 1 / A candidates of each picture and take the one the classifier prefers",
            "metavar": "A",
        },
    )
    classifier: str | None = field(
        default=None, metadata={"help": "a torchvision model, for accept", "metavar": "NAME"}
    )
    guidance_second: Number | None = field(
        default=None,
        metadata={
            "help": "of the second of two conditions, --guidance then is the first's; default: one"
            " strength for both",
            "metavar": "G",
        },
    )
    steps: Count | None = field(
        default=None,
        metadata={
            "help": "of a prior that draws many codes at once: its passes; default: the prior's",
            "metavar": "N",
        },
    )
    precision: Precision = field(
        default="32-true",
        metadata={
            "help": (
                "of a prior that draws many codes at once; auto: bfloat16 where the processor is"
                " faster at it"
            ),
            "metavar": "auto|32-true|bf16-mixed",
        },
    )
    fast: Fast = field(
        default="off",
        metadata={
            "help": (
                "of a prior that draws code after code: bf16 or int8 read its weights, on a CPU,"
                " rounded to 16 or 8 bits (other pictures, as probable to a thousandth of a nat);"
                " compile makes one program of a step first, worth it for more than a few thousand"
                " codes"
            ),
            "metavar": "off|bf16|int8|compile",
        },
    )
    guidance_schedule: Literal["constant", "linear", "cosine"] = field(
        default="constant",
        metadata={
            "help": (
                "how guidance grows while a picture is drawn: not at all, or from 1, linearly or"
                " slowly at first"
            ),
            "metavar": "constant|linear|cosine",
        },
    )
    guidance_power: Positive = field(
        default=1.0, metadata={"help": "of the cosine schedule; above 1: later", "metavar": "P"}
    )
    guidance_from: Share = field(
        default=0.0,
        metadata={"help": "guidance acts from this share of the steps on", "metavar": "SHARE"},
    )
    guidance_to: Share = field(
        default=1.0,
        metadata={"help": "guidance acts up to this share of the steps", "metavar": "SHARE"},
    )
    guidance_labels: dict[str, Number] | None = field(
        default=None,
        metadata={
            "help": "guidance over labels of the layout, by name or number: water:4,sky:1.5",
            "metavar": "LABEL:G,...",
        },
    )

    def __post_init__(self) -> None:
        """One side, lists (as in JSON) and numbers of numpy become what Python has."""
        if isinstance(self.size, int):
            self.size = (self.size, self.size)
        if isinstance(self.size, list | tuple):
            self.size = tuple(_plain(side) for side in self.size)  # type: ignore[assignment]
        for name in (one.name for one in fields(self) if one.name != "size"):
            setattr(self, name, _plain(getattr(self, name)))

    @classmethod
    def of(cls, sampling: "Sampling | None" = None, **changes: Any) -> "Sampling":
        """`sampling` with these fields changed, checked. Raises UserError for an unknown field."""
        names = [one.name for one in fields(cls)]
        for name in changes:
            if name not in names:
                raise UserError(f"sampling has no '{name}'{did_you_mean(name, names)}")
        changed = replace(sampling or cls(), **changes)
        changed.check()
        return changed

    @property
    def guides(self) -> bool:
        """Whether the null condition has to be read, too."""
        others = self.guidance_second is not None or bool(self.guidance_labels)
        return self.guidance != 1.0 or others

    @property
    def passes(self) -> int:
        """How often each code is read: with its condition, and with what guidance compares."""
        return 1 + self.guides + (self.guidance_second is not None)

    def check(self) -> None:
        """Raises UserError for a value of another kind or out of its range."""
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            if not fits(value, hint, type):
                raise UserError(f"{name} {value!r:.60} should be {expectation(hint)}")

    def seeded(self) -> "Sampling":
        """The same with a seed: a fresh one, which is printed, where there is none."""
        if self.seed is not None:
            return self
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}", file=sys.stderr)
        return replace(self, seed=seed)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
