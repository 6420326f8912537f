"""Pictures on disk: a folder, or a text list of paths or of names without ending."""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from taming.config.ranges import Index, Share, Size
from taming.data.interface import PictureSet
from taming.data.reading import EXTENSIONS, image_size, read_image, to_tensor
from taming.data.views import View
from taming.errors import UserError
from taming.files import read_text

NO_DATA = ("__MACOSX",)  # what archives of a Mac hold beside the pictures
Split = tuple[Literal["train", "validation"], Share]
ViewParameters = View | dict[str, Any] | Size | str


class ImageFolder(PictureSet):
    """All pictures under `root`, or those of `list`; item (index, view) -> {"image": float (3, H,
    W) in [-1, 1], "name": str}.

    Hidden folders are passed over, links are followed, each folder and file counts once.

    Args:
        root: the folder.
        view: of each picture: {size, scale, flip, upscale}, see View; or a size alone.
        list: a text file, one picture per line: a path, or a name whose ending is looked for. It
            and its pictures are searched for in `root`, then from the working folder.
        split: [part, share] such as [validation, 0.05]: the share of the files, random by their
            names and `seed`, that is "validation"; "train" is the others.
        seed: of the split and of the views.
    """

    def __init__(
        self,
        root: str,
        view: ViewParameters,
        list: str | None = None,
        split: Split | None = None,
        seed: Index = 0,
    ):
        self.root = Path(root)
        self.view = View.of(view, seed)
        if not self.root.is_dir():
            raise UserError(
                f"data folder '{root}' does not exist; give the folder that holds the pictures"
            )
        if list:
            folders = (self.picture_folder(), self.root, Path())
            self.paths = listed_pictures(folders, find_list(self.root, list))
        else:
            self.paths = find_pictures(self.picture_folder(), root)
        if split:
            self.paths = part_of(self.paths, split, seed)

    def picture_folder(self) -> Path:
        return self.root

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index].stem

    def files(self, index: int) -> Sequence[Path]:
        """The files that an item is made of; their sizes and dates tell a cache whether it still
        holds.
        """
        return [self.paths[index]]

    def check(self, index: int) -> str | None:
        """Reads headers only. Returns a remark on what is possible but unlikely; raises
        CorruptImage where the item can't be used.
        """
        self._checked_size(index)

    def _checked_size(self, index: int) -> tuple[int, int]:
        """Of a picture, by its header, held against the crop."""
        size = image_size(self.paths[index])
        self.view.check_size(*size, str(self.paths[index]))
        return size

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        path = self.paths[index]
        image = read_image(path)
        box, flipped = self.view.box(*image.size, index, view, str(path))
        return {"image": to_tensor(self.view.image(image, box, flipped)), "name": self.name(index)}


class ClassFolders(ImageFolder):
    """As ImageFolder, with a folder for each class right under `root` (as ImageNet has it); items
    also have "class": int, the folder's place in alphabetical order.

    Args:
        root, view, list, split, seed: as of ImageFolder.
    """

    def __init__(
        self,
        root: str,
        view: ViewParameters,
        list: str | None = None,
        split: Split | None = None,
        seed: Index = 0,
    ):
        super().__init__(root, view, list, split, seed)
        self.folders = sorted(p.name for p in self.root.iterdir() if p.is_dir() and is_data(p.name))
        for path in self.paths:
            inside = path_inside(path, self.root)
            if inside is None or inside.parent == Path():
                raise UserError(
                    f"picture '{path}' lies in no class's folder; '{root}' should hold one folder"
                    " for each class"
                )

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index = key[0] if isinstance(key, tuple) else key
        folder = self.paths[index].absolute().relative_to(self.root.absolute()).parts[0]
        return {**super().__getitem__(key), "class": self.folders.index(folder)}


def is_data(name: str) -> bool:
    """False for hidden files and folders (.ipynb_checkpoints, .git), and what a Mac adds."""
    return not name.startswith(".") and name not in NO_DATA


def find_pictures(
    folder: Path, name: str | Path, endings: Sequence[str] = EXTENSIONS
) -> list[Path]:
    """Every picture under a folder, sorted. Links to folders and files are followed; where several
    paths lead to one file, it counts once.

    Args:
        folder: where to look.
        name: what the user calls the folder, for messages.
        endings: of the files that count, in small letters.

    Raises:
        UserError: there are none.
    """
    paths = {}  # real path -> the path that counts
    for path, real in _files(folder):
        if path.suffix.lower() in endings:
            paths.setdefault(real, path)
    if not paths:
        raise UserError(
            f"no pictures in '{name}' (looked for {', '.join(endings)}, in subfolders too)"
        )
    return sorted(paths.values())


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files under a folder with where they really lie: first those that no link leads to, then
    those behind links, each folder once, so that links in a circle end.
    """
    folders, linked_folders, links = [folder], [], []
    visited = set()
    while folders or linked_folders:
        place = folders.pop() if folders else linked_folders.pop(0)
        real = os.path.realpath(place)
        if real in visited:
            continue
        visited.add(real)
        for entry in _entries(place):
            path = place / entry.name
            if entry.is_symlink():
                (linked_folders if os.path.isdir(path) else links).append(path)
            elif entry.is_dir():
                folders.append(path)
            elif entry.is_file():
                yield path, os.path.join(real, entry.name)
    for path in sorted(links):
        if os.path.isfile(path) or not os.path.exists(path):  # no pipes; what is missing is named
            yield path, os.path.realpath(path)


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if is_data(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"folder '{folder}' can't be read ({error.strerror})") from None


def path_inside(path: Path, folder: Path) -> Path | None:
    """A path relative to a folder, by the names that lead to it, else by where links lead; None
    where it lies elsewhere.
    """
    for follow in (os.path.abspath, os.path.realpath):
        try:
            return Path(follow(path)).relative_to(follow(folder))
        except ValueError:
            continue
    return None


def find_list(root: Path, name: str) -> Path:
    for candidate in (root / name, Path(name)):
        if os.path.isfile(candidate):
            return candidate
    raise UserError(f"list '{name}' is neither in '{root}' nor in the working folder")


def listed_pictures(folders: Sequence[Path], file: Path) -> list[Path]:
    """The pictures that a text file names, in its order.

    Raises:
        UserError: a line that names none, an empty list, text that is not UTF-8.
    """
    paths = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if line.strip():
            paths.append(locate(folders, line.strip(), f"{file}:{number}"))
    if not paths:
        raise UserError(f"list '{file}' is empty")
    return paths


def locate(folders: Sequence[Path], name: str, place: str) -> Path:
    """The picture `name` in the first of `folders` that has it, its ending looked for where it has
    none. A link that leads nowhere is there: it counts as a broken picture.
    """
    for base in folders:
        direct = base / name
        candidates = [direct]
        if direct.suffix.lower() not in EXTENSIONS:
            candidates = [Path(f"{direct}{ending}") for ending in EXTENSIONS]
        for candidate in candidates:
            if os.path.isfile(candidate) or os.path.islink(candidate):
                return candidate
    raise UserError(
        f"{place} names '{name}', but there is no such picture in '{folders[0]}'; correct the list,"
        " or add the file"
    )


def part_of(paths: list[Path], split: Sequence, seed: int) -> list[Path]:
    """The part `train` or `validation` of an automatic split; the same for every run with this seed
    and these files.
    """
    share = split[1] if len(split) == 2 else None
    if not isinstance(share, int | float) or split[0] not in ("train", "validation"):
        share = None
    if share is None or not 0 < share < 1:
        raise UserError(
            f"split: {list(split)} should be [train, share] or [validation, share], with the"
            " validation share between 0 and 1"
        )
    order = random.Random(seed).sample(range(len(paths)), len(paths))
    held_out = set(order[: max(1, round(len(paths) * share))])
    part = [p for i, p in enumerate(paths) if (i in held_out) == (split[0] == "validation")]
    if not part:
        raise UserError(f"split {list(split)} of {len(paths)} pictures leaves none; add pictures")
    return part
