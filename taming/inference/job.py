"""One picture to be drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Job:
    """One picture to be: its place among all, its file, what a PNG keeps of its condition, and what
    makes the batch of one out of that: layouts of a large folder are not all held at once.
    """

    number: int
    path: Path
    told: dict
    make: Callable[[], dict]

    @property
    def batch(self) -> dict:
        return self.make()
