"""The vocabulary in which constructors declare what a parameter may be: annotations that
`config.build` checks before anything is built, and that the reference of keys prints.

    def __init__(self, num_codes: Count, commitment_weight: Weight = 0.25, ...)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, the ends included unless they are open."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        # Not math.isfinite, which fails on whole numbers that no float holds
        return abs(value) < math.inf and above and below

    def limit(self, noun: str, value: object = None) -> str:
        """`a number` -> `a number above 0`, `a number from 0 to 1`, `a finite number`. Of bounds
        that only keep numbers representable, the one that `value` breaks is named.
        """
        number = value if isinstance(value, int | float) else 0
        low = self.low > -(2**31) or number < self.low
        high = self.high < 2**31 or number > self.high
        lowest, highest = _digits(self.low), _digits(self.high)
        above = f"above {lowest}" if self.low_open else f"of at least {lowest}"
        below = f"below {highest}" if self.high_open else f"at most {highest}"
        if low and high:
            closed = not self.low_open and not self.high_open
            return f"{noun} from {lowest} to {highest}" if closed else f"{noun} {above} and {below}"
        if low:
            return f"{noun} {above}"
        if high:
            return f"{noun} {below}" if self.high_open else f"{noun} of {below}"
        return noun if "finite" in noun else noun.replace("a ", "a finite ", 1)


def _digits(number: float) -> str:
    return f"{number:.0f}" if abs(number) < 2**63 and number == int(number) else f"{number:g}"


@dataclass(frozen=True)
class Length:
    """Of a list: from `low` to `high` entries."""

    low: int = 1
    high: int = 1024

    def __contains__(self, value: list | tuple) -> bool:
        return self.low <= len(value) <= self.high

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low} entries"
        return f"{self.low} to {self.high} entries"


@dataclass(frozen=True)
class Read:
    """Of a path: the constructor reads the file. A model that comes from a file may name none."""


InputFile = Annotated[str, Read()]


@dataclass(frozen=True)
class Deferred:
    """An inner object that is not built yet. A constructor that declares `X | Deferred` builds it
    where it wants to, so that the random numbers of its parts are drawn in its own order.
    """

    build: Callable[[], Any]


Count = Annotated[int, Range(1, 2**31)]
"""How many of something; at least one."""
Index = Annotated[int, Range(0, 2**63 - 1)]
"""A place, a seed, a number of batches of which 0 means none or never."""
Number = Annotated[float, Range()]
"""Any finite number."""
Positive = Annotated[float, Range(0, low_open=True)]
Weight = Annotated[float, Range(0)]
"""A factor of a term in a sum, a decay: not negative."""
Share = Annotated[float, Range(0, 1)]
"""A part of a whole."""
Decay = Annotated[float, Range(0, 1, high_open=True)]
"""Of a running mean, a probability of dropping: below one."""
Size = Count | Annotated[list[Count], Length(2, 2)]
"""Of a picture: one side, or [height, width]; in YAML also 96x128."""
