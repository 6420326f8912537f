"""FFHQ (Karras et al. 2019, arXiv 1812.04948), as github.com/NVlabs/ffhq-dataset lays it out:

    ROOT/images1024x1024/00000/00000.png      or thumbnails128x128/, or flat
    ROOT/ffhq-dataset-v2.json                 "category" of each picture: training, validation

Its README: the first 60,000 are for training, the last 10,000 for validation; so it is here where
the JSON is not there.
"""

from pathlib import Path

from taming.data.folder import find_pictures
from taming.data.records import Part, PublishedSet, Record, first_of, folder_of, read_json

FOLDERS = ("images1024x1024", "images*", "thumbnails128x128")
TRAINING = 60_000


class FFHQ(PublishedSet):
    """Faces.

    Args:
        root: the folder that holds images1024x1024/ (or thumbnails128x128/), or this one itself.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    def read_records(self, root: Path, split: Part) -> list[Record]:
        return ffhq_records(root, split)


def recognises(root: Path) -> bool:
    if first_of(root, "ffhq-dataset-v2.json"):
        return True
    folder = first_of(root, "images1024x1024", "thumbnails128x128")
    return folder is not None and first_of(folder, "00000*", "*/00000.png") is not None


def ffhq_records(root: Path, split: str) -> list[Record]:
    folder = first_of(root, *FOLDERS)
    if folder is None or not folder.is_dir():
        folder = folder_of(root, "FFHQ: images1024x1024/", ".")
    file = first_of(root, "ffhq-dataset-v2.json")
    categories = read_json(file) if file else {}
    records = []
    for path in find_pictures(folder, folder):
        if _part(path.stem, categories) == split:
            records.append(Record(path))
    return records


def _part(name: str, categories: object) -> str | None:
    if not name.isdigit():
        return "train"
    entry = categories.get(str(int(name))) if isinstance(categories, dict) else None
    if isinstance(entry, dict) and "category" in entry:
        return "validation" if entry["category"] == "validation" else "train"
    return "train" if int(name) < TRAINING else "validation"
