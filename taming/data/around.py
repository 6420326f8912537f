"""What data sets around another one share: its length, its names, its files."""

from typing import Any

from taming.data.interface import PictureSet

PASSED_ON = ("classes", "class_names", "scenes", "folders", "legend", "files")
"""What the inner data set may say about itself."""


class Around(PictureSet):
    """The items of another data set, with more in them.

    Args:
        pictures: the data set.
        parameters: of the outer one, which tell a cache what its items depend on.
    """

    def __init__(self, pictures: PictureSet, *parameters: Any):
        self.pictures, self.parameters = pictures, parameters
        for name in PASSED_ON:
            if hasattr(pictures, name):
                setattr(self, name, getattr(pictures, name))

    def __repr__(self) -> str:
        words = ", ".join(map(repr, (self.pictures, *self.parameters)))
        return f"{type(self).__name__}({words})"

    @property
    def view(self) -> tuple[Any, ...]:
        """What of the pictures is seen; printed into the fingerprint of a cache."""
        return (*self.parameters, getattr(self.pictures, "view", None))

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return self.pictures.name(index)

    def item(self, key: int | tuple[int, int | None]) -> dict[str, Any]:
        """Of the inner data set, to be added to."""
        return dict(self.pictures[key])
