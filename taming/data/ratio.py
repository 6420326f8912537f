"""Maps that are smaller than their pictures by one ratio, such as CelebAMask-HQ's masks."""

from pathlib import Path

from PIL import Image

from taming.data.reading import CorruptImage


class Ratio:
    """How many times larger the pictures of a data set are than their maps: a whole number, the
    same for all; the first pair says which.
    """

    def __init__(self) -> None:
        self.times: int | None = None

    def check(
        self, size: tuple[int, int], other: tuple[int, int], other_path: Path, path: Path
    ) -> int:
        """The ratio.

        Args:
            size: (width, height) of a picture.
            other: of its map.
            other_path, path: of both, for messages.

        Raises:
            CorruptImage: the map has another ratio.
        """
        times = self.times or max(1, round(size[0] / other[0]))
        if (other[0] * times, other[1] * times) != size:
            cure = "make them equal"
            if times > 1:
                cure = f"it should be {times} times smaller than the picture, as the others are"
            raise CorruptImage(
                f"'{other_path}' is {other[0]}x{other[1]}, but its picture '{path}' is"
                f" {size[0]}x{size[1]}; {cure}"
            )
        self.times = times
        return times

    def enlarged(
        self, map: Image.Image, size: tuple[int, int], other_path: Path, path: Path
    ) -> Image.Image:
        """A map as large as its picture, by nearest neighbour. Arguments as of `check`."""
        if self.check(size, map.size, other_path, path) == 1:
            return map
        return map.resize(size, Image.Resampling.NEAREST)
