"""The vocabulary in which constructors declare what a parameter may be: annotations that
`config.build` checks before anything is built, and that the reference of keys prints.

    def __init__(self, num_codes: Count, commitment_weight: Weight = 0.25, ...)
"""

import math
from dataclasses import dataclass
from typing import Annotated


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

    def words(self, value: object = None) -> str:
        """In words; of bounds that only keep numbers representable, the one that `value` breaks."""
        low = f"{'above' if self.low_open else 'at least'} {_digits(self.low)}"
        high = f"{'below' if self.high_open else 'at most'} {_digits(self.high)}"
        number = value if isinstance(value, int | float) else 0
        parts = [low] * (self.low > -(2**31) or number < self.low)
        parts += [high] * (self.high < 2**31 or number > self.high)
        return " and ".join(parts) or "finite"

    def __str__(self) -> str:
        return self.words()


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
