"""A dozen layouts to start from, drawn here: bands from far to near and blobs on them, in the words
of whatever labels the model has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taming.data.legend import plain_name

SYNONYMS = {  # what a label may be called, best first
    "sky": ("sky", "sky other"),
    "cloud": ("cloud", "clouds", "sky"),
    "sun": ("sun", "sky"),
    "mountain": ("mountain", "mountains", "hill", "rock"),
    "hill": ("hill", "mountain", "mountains"),
    "tree": ("tree", "trees", "forest", "bush"),
    "grass": ("grass", "field", "meadow", "plant"),
    "water": ("water", "sea", "lake", "river", "water other"),
    "sand": ("sand", "beach", "desert", "ground", "earth", "earth, ground"),
    "rock": ("rock", "stone", "cliff", "mountain"),
    "snow": ("snow", "ice", "glacier"),
}


@dataclass(frozen=True)
class Band:
    """Everything below a line.

    Args:
        label: a key of SYNONYMS.
        heights: of the line from the left to the right edge, 0 at the top, 1 at the bottom.
        rough: how far it wavers.
    """

    label: str
    heights: tuple[float, ...]
    rough: float = 0.01


@dataclass(frozen=True)
class Blob:
    """An ellipse with an uneven edge; centre and radii relative to the picture's sides."""

    label: str
    x: float
    y: float
    wide: float
    tall: float


Sketch = tuple[Band | Blob, ...]
SKETCHES: dict[str, Sketch] = {
    "mountain lake": (
        Band("sky", (0.0,)),
        Band("mountain", (0.42, 0.2, 0.38, 0.14, 0.4), 0.05),
        Band("tree", (0.5, 0.53, 0.55, 0.52, 0.48), 0.03),
        Band("water", (0.6, 0.6), 0.004),
        Band("grass", (0.82, 0.93, 1.0, 0.97, 0.9), 0.02),
    ),
    "beach": (
        Band("sky", (0.0,)),
        Band("water", (0.45, 0.45), 0.0),
        Band("sand", (0.95, 0.82, 0.72, 0.65), 0.01),
    ),
    "forest edge": (
        Band("sky", (0.0,)),
        Band("tree", (0.2, 0.32, 0.4, 0.34, 0.25), 0.07),
        Band("grass", (0.72, 0.76, 0.78, 0.74), 0.015),
    ),
    "snowy peaks": (
        Band("sky", (0.0,)),
        Band("mountain", (0.5, 0.22, 0.45, 0.16, 0.36), 0.06),
        Band("snow", (0.75, 0.5, 0.68, 0.42, 0.62), 0.06),
    ),
    "river valley": (
        Band("sky", (0.0,)),
        Band("mountain", (0.15, 0.35, 0.46, 0.33, 0.1), 0.04),
        Band("grass", (0.55, 0.55), 0.02),
        Blob("water", 0.52, 0.66, 0.07, 0.1),
        Blob("water", 0.45, 0.82, 0.15, 0.12),
        Blob("water", 0.35, 1.0, 0.32, 0.14),
        Blob("tree", 0.85, 0.62, 0.16, 0.12),
        Blob("tree", 0.1, 0.6, 0.12, 0.1),
    ),
    "desert": (
        Band("sky", (0.0,)),
        Band("rock", (0.48, 0.44, 0.5, 0.4, 0.47), 0.02),
        Band("sand", (0.56, 0.6, 0.52, 0.58), 0.01),
    ),
    "rocky coast": (
        Band("sky", (0.0,)),
        Band("water", (0.4, 0.4), 0.0),
        Blob("rock", 0.1, 0.55, 0.3, 0.28),
        Blob("rock", 0.42, 0.68, 0.1, 0.07),
        Blob("rock", 0.85, 0.9, 0.25, 0.2),
    ),
    "winter forest": (
        Band("sky", (0.0,)),
        Band("tree", (0.3, 0.22, 0.36, 0.26), 0.06),
        Band("snow", (0.68, 0.7, 0.66), 0.02),
        Blob("tree", 0.15, 0.62, 0.08, 0.24),
    ),
    "island": (
        Band("sky", (0.0,)),
        Band("water", (0.52, 0.52), 0.0),
        Blob("sand", 0.55, 0.55, 0.32, 0.06),
        Blob("tree", 0.55, 0.47, 0.24, 0.1),
    ),
    "green hills": (
        Band("sky", (0.0,)),
        Band("hill", (0.45, 0.38, 0.42, 0.36), 0.02),
        Band("grass", (0.62, 0.5, 0.6, 0.48), 0.015),
        Blob("tree", 0.3, 0.53, 0.09, 0.08),
        Blob("tree", 0.7, 0.55, 0.06, 0.06),
    ),
    "waterfall": (
        Band("sky", (0.0,)),
        Band("mountain", (0.14, 0.2, 0.24, 0.2, 0.12), 0.04),
        Blob("tree", 0.1, 0.4, 0.26, 0.22),
        Blob("tree", 0.9, 0.4, 0.26, 0.22),
        Blob("water", 0.5, 0.5, 0.06, 0.26),
        Band("water", (0.78, 0.76, 0.78), 0.01),
    ),
    "clouds over fields": (
        Band("sky", (0.0,)),
        Blob("cloud", 0.25, 0.2, 0.2, 0.1),
        Blob("cloud", 0.7, 0.3, 0.24, 0.08),
        Band("tree", (0.56, 0.58, 0.55), 0.03),
        Band("grass", (0.63, 0.61, 0.64), 0.01),
    ),
}


def label_of(word: str, names: Sequence[str]) -> int | None:
    """The model's label for a word of SYNONYMS; None where it has none."""
    plain = [plain_name(name) for name in names]
    return next((plain.index(name) for name in SYNONYMS[word] if name in plain), None)


def sketches_for(names: Sequence[str]) -> list[str]:
    """The sketches all of whose labels a model has."""
    return [
        name
        for name, shapes in SKETCHES.items()
        if all(label_of(shape.label, names) is not None for shape in shapes)
    ]


def draw_sketch(name: str, height: int, width: int, names: Sequence[str]) -> np.ndarray:
    """Labels uint8 (H, W); the same scene at every size."""
    labels = np.zeros((height, width), np.uint8)
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width)[None] + 0.5) / width
    for number, shape in enumerate(SKETCHES[name]):
        label = label_of(shape.label, names)
        assert label is not None, f"{shape.label} is none of {names}"
        random = np.random.default_rng([len(name), number])
        if isinstance(shape, Band):
            places = np.linspace(0, 1, max(2, len(shape.heights)))
            heights = np.resize(shape.heights, len(places))
            line = np.interp(x[0], places, heights) + shape.rough * _waves(x[0], random)
            labels[y > line[None]] = label
        else:
            angle = np.arctan2((y - shape.y) / shape.tall, (x - shape.x) / shape.wide)
            edge = 1 + 0.12 * _waves(angle / (2 * np.pi), random, whole=True)
            distance = np.hypot((x - shape.x) / shape.wide, (y - shape.y) / shape.tall)
            labels[distance < edge] = label
    return labels


def _waves(places: np.ndarray, random: np.random.Generator, whole: bool = False) -> np.ndarray:
    """Smooth noise in about -1 to 1: sines, the higher the weaker; whole periods where they meet
    themselves again.
    """
    total = np.zeros_like(places)
    for octave in range(1, 7):
        cycles = octave if whole else octave * random.uniform(0.8, 1.6)
        total += np.sin(2 * np.pi * (cycles * places + random.random())) / octave
    return total / 1.6
