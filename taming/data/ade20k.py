"""ADE20K (Zhou et al. 2017, arXiv 1608.05442): the scene parsing benchmark ADEChallengeData2016, as
its readme.txt lays it out:

    ROOT/images/training/ADE_train_00000001.jpg        ROOT/images/validation/ADE_val_*.jpg
    ROOT/annotations/training/ADE_train_00000001.png   0: other objects, 1 to 150: their places in
    ROOT/objectInfo150.txt                             this list: Idx, Ratio, Train, Val, Name
    ROOT/sceneCategories.txt                           `ADE_train_00000001 airport_terminal`
"""

from pathlib import Path

from taming.data.folder import find_pictures
from taming.data.records import (
    Part,
    PublishedSet,
    Record,
    check_masks,
    first_of,
    folder_of,
    lines_of,
    matching,
)
from taming.errors import UserError

LABELS = 150
FOLDERS = {"train": "training", "validation": "validation"}
LAYOUT = "ADEChallengeData2016: images/training, annotations/training, ..."


class ADE20K(PublishedSet):
    """Scenes with label maps of 151 labels: 0 for other objects, then the 150 of the list; with
    sceneCategories.txt also "class": int, the scene's place among all in alphabetical order.

    Args:
        root: the folder that holds images/ and annotations/.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    def read_records(self, root: Path, split: Part) -> list[Record]:
        images = folder_of(root, LAYOUT, f"images/{FOLDERS[split]}")
        masks = folder_of(root, LAYOUT, f"annotations/{FOLDERS[split]}")
        self.classes = object_list(root)
        scenes = _scenes(root)
        self.class_names = sorted(set(scenes.values()))
        places = {name: place for place, name in enumerate(self.class_names)}
        records = []
        for path in find_pictures(images, images):
            label = places.get(scenes.get(path.stem, ""))
            if scenes and label is None:
                raise UserError(f"picture '{path}' has no line in sceneCategories.txt")
            records.append(Record(path, matching(path, images, masks, ".png"), label=label))
        check_masks(records)
        return records


def recognises(root: Path) -> bool:
    return all((root / name / "training").is_dir() for name in ("images", "annotations"))


def object_list(root: Path) -> list[str]:
    """Names of the 151 labels, 0 first; `label7` where the list is not there."""
    file = first_of(root, "objectInfo150.txt")
    if file is None:
        return ["other", *(f"label{i}" for i in range(1, LABELS + 1))]
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines_of(file)[1:]]
    if len(names) != LABELS:
        raise UserError(f"'{file}' names {len(names)} objects; {LABELS} are expected")
    return ["other", *names]


def _scenes(root: Path) -> dict[str, str]:
    file = first_of(root, "sceneCategories.txt")
    pairs = [line.split() for line in lines_of(file)] if file else []
    return {pair[0]: pair[-1] for pair in pairs}
