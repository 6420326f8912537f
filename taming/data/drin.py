"""D-RIN: ImageNet with the depth that MiDaS saw (Esser et al. 2021, arXiv 2012.09841), as the
published code has it: beside ImageNet a folder that mirrors it, with a PNG for each JPEG whose RGBA
are the four bytes of float32 values.

    ROOT/train/n01440764/n01440764_10026.JPEG
    ROOT/imagenet_depth/train/n01440764/n01440764_10026.png       or ROOT/depth/train/...

R-IN are the animals of ImageNet, its first 398 classes.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image

from taming.config.ranges import Range
from taming.data.depth import read_depth
from taming.data.folder import ViewParameters
from taming.data.imagenet import FOLDERS, imagenet_records
from taming.data.reading import CorruptImage, image_size
from taming.data.records import Part, Record, RecordSet, Seed, check_masks, first_of, folder_of
from taming.errors import UserError, first_line

DEPTH = ("imagenet_depth", "depth")
PARTS = {"train": ("train",), "validation": ("val", "validation")}
ANIMALS = 398


class DRIN(RecordSet):
    """Pictures with "depth" float (1, H, W), each extended to [-1, 1], and "class": int.

    Args:
        root: the folder that holds train/, val/ and imagenet_depth/ (or depth/).
        view: of each picture, see ImageFolder.
        split: train or validation.
        classes: so many of ImageNet's, from the first; 398 are the animals.
        seed: of the views.
    """

    def __init__(
        self,
        root: str,
        view: ViewParameters = 256,
        split: Part = "train",
        classes: Annotated[int, Range(1, 1000)] = ANIMALS,
        seed: Seed = 0,
    ):
        records, synsets = imagenet_records(Path(root), split)
        self.class_names = synsets[:classes]
        folder = folder_of(root, "D-RIN: ImageNet and imagenet_depth/", *DEPTH)
        depths = folder_of(folder, "depth maps: train/, val/", *PARTS[split])
        pictures = first_of(Path(root), *FOLDERS[split])
        assert pictures is not None
        restricted = []
        for record in records:
            if record.label is not None and record.label < classes:
                inside = record.path.relative_to(pictures).with_suffix(".png")
                restricted.append(Record(record.path, depth=depths / inside, label=record.label))
        if not restricted:
            raise UserError(f"'{root}' has no pictures of the first {classes} classes")
        check_masks(restricted)
        super().__init__(root, restricted, view, seed)

    def distance_size(self, record: Record) -> tuple[int, int]:
        assert record.depth is not None
        return image_size(record.depth)

    def read_distance(self, record: Record) -> Image.Image:
        assert record.depth is not None
        return read_packed(record.depth)


def recognises(root: Path) -> bool:
    folder = first_of(root, *DEPTH)
    return folder is not None and first_of(folder, "train", "val") is not None


def read_packed(path: Path) -> Image.Image:
    """Depth as a PIL picture of mode F: RGBA as float32, else grey. Raises CorruptImage."""
    try:
        with Image.open(path) as file:
            packed = np.asarray(file) if file.mode == "RGBA" else None
    except Exception as error:  # Pillow raises many kinds
        raise CorruptImage(f"depth map '{path}' can't be read: {first_line(error)}") from None
    if packed is None:
        return read_depth(path)
    values = np.ascontiguousarray(packed).view("<f4")[..., 0]
    if not np.isfinite(values).all():
        raise CorruptImage(
            f"depth map '{path}' is no float32 in RGBA: it holds NaN or infinite values"
        )
    return Image.fromarray(values)
