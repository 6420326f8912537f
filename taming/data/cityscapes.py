"""Cityscapes (Cordts et al. 2016, arXiv 1604.01685), as github.com/mcordts/cityscapesScripts lays
it out:

    ROOT/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    ROOT/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png

Its labels.py numbers 34 ids, 19 of which are trained on (trainId 0 to 18).
"""

from pathlib import Path

import numpy as np

from taming.data.folder import find_pictures
from taming.data.records import Part, PublishedSet, Record, check_masks, folder_of

LAYOUT = "Cityscapes: leftImg8bit/train/CITY, gtFine/train/CITY"
FOLDERS = {"train": "train", "validation": "val"}
TRAINED = {  # id -> name, in the order of trainId
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
IDS = 34


class Cityscapes(PublishedSet):
    """Street scenes with label maps of 20 labels: the 19 trainIds, then `unlabelled` for all other
    ids (and for 255, the licence plates' -1).

    Args:
        root: the folder that holds leftImg8bit/ and gtFine/.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    classes = (*TRAINED.values(), "unlabelled")

    def read_records(self, root: Path, split: Part) -> list[Record]:
        images = folder_of(root, LAYOUT, f"leftImg8bit/{FOLDERS[split]}")
        masks = folder_of(root, LAYOUT, f"gtFine/{FOLDERS[split]}")
        self.labels = train_ids()
        records = []
        for path in find_pictures(images, images):
            name = path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
            records.append(Record(path, masks / path.parent.name / name))
        check_masks(records)
        return records


def recognises(root: Path) -> bool:
    return (root / "leftImg8bit").is_dir()


def train_ids() -> np.ndarray:
    """(256,): a label for each id; -1 for values that are no id."""
    labels = np.full(256, -1, np.int64)
    labels[:IDS] = labels[255] = len(TRAINED)
    for place, number in enumerate(TRAINED):
        labels[number] = place
    return labels
