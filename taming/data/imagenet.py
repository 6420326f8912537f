"""ImageNet, ILSVRC 2012 (Russakovsky et al. 2015, arXiv 1409.0575), as its archives unpack and as
Kaggle has it.

    ROOT/train/n01440764/n01440764_10026.JPEG
    ROOT/val/n01440764/ILSVRC2012_val_00000293.JPEG     or flat, ROOT/val/ILSVRC2012_val_*.JPEG

Flat validation pictures need the development kit (its readme.txt: ILSVRC2012_validation_ground_
truth.txt holds one ILSVRC2012_ID a line, in the order of the files' numbers; meta.mat says which
synset that is), or Kaggle's LOC_val_solution.csv.
"""

from pathlib import Path

from taming.data.folder import find_pictures, is_data
from taming.data.records import Part, PublishedSet, Record, first_of, folder_of, lines_of
from taming.data.records import read_rows as rows_of
from taming.errors import UserError, first_line

KAGGLE = "ILSVRC/Data/CLS-LOC"
FOLDERS = {
    "train": ("train", "ILSVRC2012_img_train", "ILSVRC2012_train/data", f"{KAGGLE}/train"),
    "validation": (
        "val",
        "validation",
        "ILSVRC2012_img_val",
        "ILSVRC2012_validation/data",
        f"{KAGGLE}/val",
    ),
}
LAYOUT = "ImageNet: train/ with a folder for each class, val/ likewise or flat"
KITS = ("", "ILSVRC2012_devkit_t12/data/", "devkit/data/", "data/", "*devkit*/data/")
NAMES = ("LOC_synset_mapping.txt", "synset_words.txt", "*/synset_words.txt")


class ImageNet(PublishedSet):
    """Pictures with "class": int, the synset's place in alphabetical order, 0 to 999.

    Args:
        root: the folder that holds train/ and val/.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    def read_records(self, root: Path, split: Part) -> list[Record]:
        records, self.synsets = imagenet_records(root, split)
        self.class_names = class_names(root, self.synsets)
        return records


def recognises(root: Path) -> bool:
    folder = first_of(root, *FOLDERS["train"], *FOLDERS["validation"])
    if folder is None or not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()][:50]
    return any(is_synset(name) or name.startswith("ILSVRC2012_val_") for name in names)


def imagenet_records(root: Path, split: str) -> tuple[list[Record], list[str]]:
    """Of a part, with the synsets in the order of the classes."""
    folder = folder_of(root, LAYOUT, *FOLDERS[split])
    paths = find_pictures(folder, folder)
    synsets = _synsets(root, folder)
    if all(path.parent == folder for path in paths):
        truth = _ground_truth(root, [path.stem for path in paths])
        labels = [truth[path.stem] for path in paths]
        synsets = synsets or sorted(set(labels))
    else:
        labels = [path.relative_to(folder).parts[0] for path in paths]
    places = {synset: place for place, synset in enumerate(synsets)}
    records = []
    for path, label in zip(paths, labels):
        if label not in places:
            raise UserError(f"picture '{path}' is of '{label}', which is none of the set's classes")
        records.append(Record(path, label=places[label]))
    return records, synsets


def is_synset(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()


def class_names(root: Path, synsets: list[str]) -> list[str]:
    """`tench` for n01440764, where a list of names lies in `root`; else the synset itself."""
    file = first_of(root, *NAMES)
    if file is None:
        return synsets
    pairs = (line.partition(" ") for line in lines_of(file))
    words = {synset: text.split(",")[0].strip() for synset, _, text in pairs}
    return [words.get(synset, synset) for synset in synsets]


def _synsets(root: Path, folder: Path) -> list[str]:
    """Of train/ where it is there, so that both parts number the classes alike; else of a list of
    names, else of this folder.
    """
    train = first_of(root, *FOLDERS["train"])
    for place in (train, folder):
        if place is not None and place.is_dir():
            names = sorted(p.name for p in place.iterdir() if p.is_dir() and is_data(p.name))
            if names:
                return names
    file = first_of(root, *NAMES)
    return sorted(line.split()[0] for line in lines_of(file)) if file else []


def _ground_truth(root: Path, names: list[str]) -> dict[str, str]:
    """The synset of each flat validation picture."""
    solution = first_of(root, "LOC_val_solution.csv", "*/LOC_val_solution.csv")
    if solution:
        truth = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows_of(solution)}
    else:
        truth = _of_the_kit(root)
    missing = [name for name in names if name not in truth]
    if missing:
        raise UserError(
            f"the ground truth of '{root}' does not have '{missing[0]}'"
            f"{f' and {len(missing) - 1} more' if missing[1:] else ''}"
        )
    return truth


def _of_the_kit(root: Path) -> dict[str, str]:
    file = first_of(root, *(f"{kit}ILSVRC2012_validation_ground_truth.txt" for kit in KITS))
    if file is None:
        raise UserError(
            f"'{root}' has flat validation pictures, but neither LOC_val_solution.csv nor the"
            " development kit's ILSVRC2012_validation_ground_truth.txt with meta.mat beside it"
        )
    synsets = _meta(file.with_name("meta.mat"))
    truth = {}
    for number, line in enumerate(lines_of(file), start=1):
        if not line.isdigit() or int(line) not in synsets:
            raise UserError(f"'{file}':{number}: '{line}' is no ILSVRC2012_ID of meta.mat")
        truth[f"ILSVRC2012_val_{number:08d}"] = synsets[int(line)]
    return truth


def _meta(file: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> WNID, from the kit's meta.mat."""
    from scipy.io import loadmat

    try:
        rows = loadmat(str(file), squeeze_me=True)["synsets"]
        return {int(row[0]): str(row[1]) for row in rows.ravel()}
    except Exception as error:  # SciPy raises many kinds
        raise UserError(
            f"'{file}' is no meta.mat of ImageNet's development kit ({first_line(error)})"
        ) from None
