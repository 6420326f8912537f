"""Which data set is this folder? Each reader says what it recognises; the most particular is asked
first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taming.data import (
    ade20k,
    captions,
    celebahq,
    cityscapes,
    coco,
    drin,
    ffhq,
    flickr,
    hf,
    imagenet,
    lsun,
    openimages,
)
from taming.data.folder import find_pictures, is_data
from taming.data.paired import PairedImages
from taming.data.reading import EXTENSIONS
from taming.data.segmentation import IMAGES, MASKS
from taming.errors import UserError


@dataclass(frozen=True)
class Recognition:
    """What a folder is.

    Args:
        title: in words.
        target: the class that reads it.
        train, validation: the parameters beside `root` and `view`; None where there is no such
            part.
    """

    title: str
    target: str
    train: dict | None
    validation: dict | None


PUBLISHED: list[tuple[str, str, Callable[[Path], bool]]] = [
    ("CelebAMask-HQ, faces with label maps", "CelebAMaskHQ", celebahq.recognises_masks),
    ("CelebA-HQ, faces", "CelebAHQ", celebahq.recognises),
    ("FFHQ, faces", "FFHQ", ffhq.recognises),
    ("ADE20K, scenes with label maps", "ADE20K", ade20k.recognises),
    ("Cityscapes, streets with label maps", "Cityscapes", cityscapes.recognises),
    ("Open Images with boxes", "OpenImages", openimages.recognises),
    ("COCO", "COCO", coco.recognises),
    ("S-FLCKR, landscapes with label maps", "SFLCKR", flickr.recognises),
    ("D-RIN, ImageNet with depth", "DRIN", drin.recognises),
    ("ImageNet", "ImageNet", imagenet.recognises),
    ("a data set of Hugging Face", "HFDataset", hf.recognises),
    ("LSUN", "LSUN", lsun.recognises),
]
SHARE = 0.05  # of a folder that has no parts of its own, for validation


def recognise(folder: str | Path) -> Recognition:
    """Raises UserError for a folder that does not exist or holds no pictures."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"'{folder}' is no folder; give the folder of a data set")
    for title, target, is_it in PUBLISHED:
        if is_it(root):
            parts = {"split": "train"}, {"split": "validation"}
            return Recognition(title, target, *(_split() if target == "SFLCKR" else parts))
    if captions.recognises(root):
        return Recognition("pictures with a table of captions", "CaptionTable", *_split())
    return _plain(root)


def _plain(root: Path) -> Recognition:
    """Folders of one's own: with masks, depth, a second picture, classes, or pictures alone."""
    lists = (root / "train.txt").is_file(), (root / "validation.txt").is_file()
    parts = ({"list": "train.txt"}, {"list": "validation.txt"}) if all(lists) else _split()
    if (root / IMAGES).is_dir():
        if (root / MASKS).is_dir():
            return Recognition("pictures with label maps", "SegmentedImages", *parts)
        if (root / "depth").is_dir():
            return Recognition("pictures with depth maps", "DepthImages", *parts)
        for key in PairedImages.KEYS:
            if (root / key).is_dir():
                keyed = tuple({"key": key, **part} for part in parts)
                return Recognition(f"pictures with {key}", "PairedImages", *keyed)
    folders = [path for path in root.iterdir() if path.is_dir() and is_data(path.name)]
    loose = any(p.suffix.lower() in EXTENSIONS for p in root.iterdir())
    if len(folders) > 1 and not loose and all(_has_pictures(path) for path in folders):
        return Recognition("a folder for each class", "ClassFolders", *parts)
    find_pictures(root, root)
    return Recognition("a folder of pictures", "ImageFolder", *parts)


def _split() -> tuple[dict, dict]:
    return {"split": ["train", SHARE]}, {"split": ["validation", SHARE]}


def _has_pictures(folder: Path) -> bool:
    try:
        return bool(find_pictures(folder, folder))
    except UserError:
        return False
