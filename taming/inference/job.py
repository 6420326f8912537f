"""One picture to be drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taming.errors import UserError

CONDITIONS_APART = 1 << 20  # numbers between two conditions: more samples of one keep the others


@dataclass(frozen=True)
class Job:
    """Layouts of a large folder are not all held at once: a job has what a PNG holds of its
    condition, from which `conditions.batch_of` makes tensors.
    """

    number: int  # its place among all
    path: Path
    condition: dict[str, Any]


def jobs_of(out: Path, conditions: list[tuple[str, dict]], samples: int) -> list[Job]:
    """So many samples for each (name, condition). Raises UserError where their numbers would run
    into each other.
    """
    if not isinstance(samples, int) or not 1 <= samples <= CONDITIONS_APART:
        raise UserError(
            f"{samples!r} samples of each: give a whole number from 1 to {CONDITIONS_APART}"
        )
    return [
        Job(i * CONDITIONS_APART + k, out / f"{name}-{k}.png", condition)
        for i, (name, condition) in enumerate(conditions)
        for k in range(samples)
    ]
