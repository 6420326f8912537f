"""The part of a picture that training sees: resized, cropped and flipped, a function of (seed,
index, view) alone.
"""

import random
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Annotated, Any

from PIL import Image, ImageOps

from taming.config.ranges import Count, Index, Range, Size
from taming.data.reading import CorruptImage
from taming.errors import UserError, did_you_mean

LONGEST_SIDE = 16384  # a float picture of this size squared takes 3 GB
PARAMETERS = ("size", "scale", "flip", "upscale", "seed")

Box = tuple[float, float, float, float]


def as_pair(size: int | str | Sequence[int]) -> tuple[int, int]:
    """Height and width of 64, [64, 96] or "64x96". Raises UserError."""
    sides: Sequence = size if isinstance(size, Sequence) else (size, size)
    if isinstance(size, str):
        sides = [int(side) if side.isdecimal() else 0 for side in size.lower().split("x")]
        sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise UserError(
            f"size {size} should be one number from 1 to {LONGEST_SIDE}, or [height, width]"
        )
    return int(sides[0]), int(sides[1])


def _is_side(value: object) -> bool:
    return (
        isinstance(value, Integral)
        and not isinstance(value, bool)
        and 1 <= int(value) <= LONGEST_SIDE
    )


class View:
    """Resizes a picture so that its short side is a random number of times, from 1 to `scale`, what
    just covers `size`, then takes a crop of `size`. Pixels of the source are never enlarged, but
    with `upscale`.

    Args:
        size: of the crop: one side, [height, width], or "96x128".
        scale: the largest factor; 1 crops as much of the picture as there is.
        flip: mirror half of the random views.
        upscale: enlarge pictures smaller than the crop; else they can't be used.
        seed: random views draw factor, place and flip from (seed, index, view).
    """

    def __init__(
        self,
        size: Size | tuple[Count, Count] | str,
        scale: Annotated[float, Range(1, 100)] = 1.5,
        flip: bool = True,
        upscale: bool = False,
        seed: Index = 0,
    ):
        self.size = as_pair(size)
        self.scale, self.flip, self.upscale, self.seed = scale, flip, upscale, seed
        if not isinstance(scale, int | float) or not 1 <= scale <= 100:
            raise UserError(
                f"scale {scale} should be at least 1, at most 100: how much larger than the crop"
                " the resized picture may be"
            )

    @classmethod
    def of(
        cls, value: "View | Mapping[str, Any] | Size | tuple[int, int] | str", seed: int = 0
    ) -> "View":
        """The View that a data set's parameter describes: one, its parameters, or a size alone."""
        if isinstance(value, View):
            return value
        if isinstance(value, Mapping):
            for key in value:
                if key not in PARAMETERS:
                    raise UserError(f"view.{key}: unknown key{did_you_mean(key, PARAMETERS)}")
            if "size" not in value:
                raise UserError("view.size: missing; say the size of the crop")
            return cls(**{"seed": seed, **value})
        return cls(value, seed=seed)

    def __repr__(self) -> str:
        return (
            f"View(size={self.size}, scale={self.scale}, flip={self.flip},"
            f" upscale={self.upscale}, seed={self.seed})"
        )

    def check_size(self, width: int, height: int, name: str) -> None:
        """Raises CorruptImage where a picture is smaller than the crop and may not be enlarged."""
        rows, columns = self.size
        if (width < columns or height < rows) and not self.upscale:
            raise CorruptImage(
                f"'{name}' is {width}x{height}, smaller than the crop {columns}x{rows} (width x"
                " height); take a smaller size, or set upscale: true"
            )

    def box(
        self, width: int, height: int, index: int, view: int | None, name: str
    ) -> tuple[Box, bool]:
        """The part of a picture that is seen.

        Args:
            width, height: of the picture.
            index: of the picture in its data set.
            view: the number of the random view; None is the fixed one: scale 1, centre, not
                flipped.
            name: of the picture, for messages.

        Returns:
            (left, top, right, bottom), and whether it is flipped.
        """
        self.check_size(width, height, name)
        rows, columns = self.size
        draw = random.Random(f"{self.seed}/{index}/{view}")
        zoom = 1.0 if view is None else draw.uniform(1.0, self.scale)
        cover = min(width / columns, height / rows)  # source pixels per output pixel at scale 1
        source = max(cover / zoom, min(1.0, cover))  # never enlarge the source, unless it must be
        # Min: rounding may exceed by one last digit
        w, h = min(columns * source, width), min(rows * source, height)
        x, y = (0.5, 0.5) if view is None else (draw.random(), draw.random())
        left, top = (width - w) * x, (height - h) * y
        flipped = self.flip and view is not None and draw.random() < 0.5
        return (left, top, left + w, top + h), flipped

    def image(self, image: Image.Image, box: Box, flipped: bool) -> Image.Image:
        return self._cut(image, box, flipped, Image.Resampling.BICUBIC)

    def mask(self, mask: Image.Image, box: Box, flipped: bool) -> Image.Image:
        """Nearest neighbour: labels are names, not amounts."""
        return self._cut(mask, box, flipped, Image.Resampling.NEAREST)

    def _cut(self, image: Image.Image, box: Box, flipped: bool, resample: int) -> Image.Image:
        cut = image.resize((self.size[1], self.size[0]), resample, box=box)
        return ImageOps.mirror(cut) if flipped else cut
