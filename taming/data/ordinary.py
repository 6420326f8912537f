"""Torch's ordinary data sets as this package reads them: map-style or iterable, items as pairs,
dictionaries or single pictures, of PIL, numpy or torch.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from taming.data.folder import ViewParameters
from taming.data.interface import PictureSet
from taming.data.layouts import read_layout
from taming.data.reading import CorruptImage, to_tensor
from taming.data.views import View
from taming.errors import UserError

ENTRIES = {  # what data sets call them, by what they are called here
    "image": ("image", "img", "images", "pixel_values", "picture", "x"),
    "segmentation": ("segmentation", "mask", "label_map", "masks", "semantic"),
    "class": ("class", "label", "target", "labels", "y", "fine_label"),
    "caption": ("caption", "text", "prompt"),
}
LOOKED_AT = 8  # items, to see in which range pictures are
MOST = 50_000  # items of an iterable set, which is held in memory


class OrdinaryDataset(PictureSet):
    """A data set of torch, torchvision or one's own: item (index, view) -> the entries that it has.

    Pictures become float (3, H, W) in [-1, 1]: of PIL, of 8-bit arrays (H, W, 3) or (3, H, W), of
    floats in [0, 1] where the first items lie there, else of floats in [-1, 1]. A number beside a
    picture is its class, a picture of labels its segmentation, text its caption. Iterable sets are
    read once and held in memory.

    Args:
        dataset: the data set; its attributes are not looked at.
        view: {size, scale, flip, upscale} of pictures of PIL or 8 bits, see View; without it they
            stay as they are, so that all need one size.
    """

    def __init__(self, dataset: Dataset, view: ViewParameters | None = None):
        in_order = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
        self._items: Any = _held(dataset) if in_order else dataset
        self._name = type(dataset).__name__
        self._view = None if view is None else View.of(view)
        classes = getattr(dataset, "classes", None)
        are_names = isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)
        self.folders = [*classes] if classes and are_names else []
        self._from_zero = self._lies_in_zero_one()

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"OrdinaryDataset({self._name}, {len(self)}, {self._view!r})"

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict[str, Any]:
        index, view = key if isinstance(key, tuple) else (key, None)
        entries = self._entries(index)
        item: dict[str, Any] = {"name": f"{index:06d}"}
        if "image" in entries:
            item["image"] = self._picture(entries["image"], index, view)
        if "segmentation" in entries:
            item["segmentation"] = self._mask(entries["segmentation"], index, view)
        if "class" in entries:
            item["class"] = int(entries["class"])
        if "caption" in entries:
            item["caption"] = entries["caption"]
        return item

    def _entries(self, index: int) -> dict[str, Any]:
        """What an item has, by our names."""
        item = self._items[index]
        if isinstance(item, Mapping):
            entries = {}
            for name, words in ENTRIES.items():
                word = next((word for word in words if word in item), None)
                if word is not None:
                    entries[name] = item[word]
            pairs = [*entries.values()]
        else:
            pairs = [*item] if isinstance(item, tuple | list) else [item]
            entries = {"image": pairs[0]} if pairs else {}
            for value in pairs[1:]:
                entries.setdefault(_kind(value), value)
            entries.pop("", None)
        if entries.get("class") is not None and _kind(entries["class"]) == "segmentation":
            entries["segmentation"] = entries.pop("class")
        if "class" in entries and _kind(entries["class"]) != "class":
            del entries["class"]
        if "image" in entries and not _is_picture(entries["image"]):
            del entries["image"]
        if "image" not in entries and "segmentation" not in entries:
            kinds = ", ".join(type(value).__name__ for value in pairs) or type(item).__name__
            raise UserError(
                f"item {index} of {self._name} has no picture ({kinds}); items are (picture,"
                " label), {'image': picture, ...} or a picture"
            )
        return entries

    def _picture(self, value: Any, index: int, view: int | None) -> Tensor:
        if isinstance(value, Image.Image) or _is_8_bits(value):
            picture = _as_pil(value, f"item {index} of {self._name}")
            if self._view is not None:
                box, flipped = self._view.box(*picture.size, index, view, f"item {index}")
                picture = self._view.image(picture, box, flipped)
            return to_tensor(picture)
        image = torch.as_tensor(value).float()
        if image.ndim == 2:
            image = image[None]
        if image.ndim == 3 and image.shape[0] not in (1, 3) and image.shape[-1] in (1, 3):
            image = image.permute(2, 0, 1)
        if image.ndim != 3:
            raise UserError(
                f"item {index} of {self._name} has shape {tuple(image.shape)}; a picture is"
                " (3, H, W)"
            )
        return (2 * image - 1 if self._from_zero else image).contiguous()

    def _mask(self, value: Any, index: int, view: int | None) -> Tensor:
        mask = read_layout(value).mask
        if self._view is not None:
            box, flipped = self._view.box(*mask.size, index, view, f"item {index}")
            mask = self._view.mask(mask, box, flipped)
        return torch.from_numpy(np.array(mask)).long()

    def _lies_in_zero_one(self) -> bool:
        """Whether pictures of floats are those of torchvision's ToTensor, from 0 to 1."""
        low, high = np.inf, -np.inf
        for index in range(min(LOOKED_AT, len(self))):
            value = self._entries(index).get("image")
            if isinstance(value, Image.Image) or value is None or _is_8_bits(value):
                return False
            image = torch.as_tensor(value).float()
            low, high = min(low, float(image.min())), max(high, float(image.max()))
        if low < -1.5 or high > 1.5:
            raise UserError(
                f"pictures of {self._name} hold {low:g} to {high:g}; floats in [-1, 1] or [0, 1],"
                " or 8-bit numbers, are expected"
            )
        return 0 <= low and high <= 1


def ordinary(dataset: Any) -> Any:
    """A data set of ours as it is; any other so that it can be read alike."""
    if dataset is None or isinstance(dataset, PictureSet):
        return dataset
    return OrdinaryDataset(dataset)


def _held(dataset: Any) -> list:
    """The items of an iterable set."""
    items = []
    for item in dataset:
        items.append(item)
        if len(items) > MOST:
            raise UserError(
                f"{type(dataset).__name__} is read in order and has more than {MOST} items; give it"
                " __getitem__ and __len__, or write shards (taming shard)"
            )
    if not items:
        raise CorruptImage(f"{type(dataset).__name__} has no items")
    print(f"{type(dataset).__name__}: {len(items)} items are held in memory", file=sys.stderr)
    return items


def _kind(value: Any) -> str:
    """Of what stands beside a picture: class, segmentation, caption, or nothing that is known."""
    if isinstance(value, str):
        return "caption"
    if isinstance(value, Image.Image):
        return "segmentation"
    if isinstance(value, bool | int | np.integer):
        return "class"
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value)
        whole = not tensor.is_floating_point()
        if tensor.numel() == 1:
            return "class" if whole else ""
        return "segmentation" if whole and value.ndim >= 2 else ""
    return ""


def _is_picture(value: Any) -> bool:
    return isinstance(value, Image.Image) or getattr(value, "ndim", 0) >= 2


def _is_8_bits(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor) and str(value.dtype).endswith("uint8")


def _as_pil(value: Any, place: str) -> Image.Image:
    """RGB."""
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[-1] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3):
        raise UserError(f"{place} has shape {array.shape}; a picture is (H, W, 3) or (3, H, W)")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
