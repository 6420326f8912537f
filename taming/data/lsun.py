"""LSUN (Yu et al. 2015, arXiv 1506.03365), as `python data.py export *_lmdb --out_dir ROOT/NAME` of
github.com/fyu/lsun unpacks it: a tree of .webp files, or a flat folder, for each database.

    ROOT/bedroom_train/a/b/0/...webp      ROOT/bedroom_val/...      also ROOT/bedroom_train_lmdb/
"""

from pathlib import Path

from taming.data.folder import find_pictures, is_data
from taming.data.records import Part, PublishedSet, Record
from taming.errors import UserError

ENDINGS = {"train": "_train", "validation": "_val"}


class LSUN(PublishedSet):
    """Scenes and objects with "class": int, the category's place in alphabetical order.

    Args:
        root: the folder that holds a folder for each category and part, such as bedroom_train.
        view: of each picture, see ImageFolder.
        split: train or validation.
        seed: of the views.
    """

    def read_records(self, root: Path, split: Part) -> list[Record]:
        folders = categories(root, split)
        if not folders:
            raise UserError(
                f"'{root}' has no folders such as bedroom{ENDINGS[split]}; export LSUN's databases"
                " there, one folder for each"
            )
        everything = {name for part in ENDINGS for name in categories(root, part)}
        self.class_names = sorted(everything)
        records = []
        for name, folder in folders.items():
            if (folder / "data.mdb").is_file():
                raise UserError(
                    f"'{folder}' holds a database, not pictures; `python data.py export {folder}"
                    f" --out_dir PICTURES/{name}{ENDINGS[split]}` of github.com/fyu/lsun unpacks it"
                )
            label = self.class_names.index(name)
            records += [Record(path, label=label) for path in find_pictures(folder, folder)]
        return records


def recognises(root: Path) -> bool:
    return any(categories(root, part) for part in ENDINGS)


def categories(root: Path, split: str) -> dict[str, Path]:
    """The folders of a part by the names of their categories."""
    folders = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        name = folder.name.removesuffix("_lmdb")
        if folder.is_dir() and is_data(folder.name) and name.endswith(ENDINGS[split]):
            folders[name.removesuffix(ENDINGS[split])] = folder
    return folders
