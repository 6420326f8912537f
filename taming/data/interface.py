"""The seam of data sets: what a run relies on. Data sets of other packages that have these two
methods serve as well.
"""

from typing import Any

from torch.utils.data import Dataset


class PictureSet(Dataset):
    """Items are dictionaries with any of image, segmentation, depth, class, caption, name."""

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has no __len__")

    def __getitem__(self, key: Any) -> dict[str, Any]:
        """The item of an index in its fixed view, or of (index, view)."""
        raise NotImplementedError(f"{type(self).__name__} has no __getitem__")
