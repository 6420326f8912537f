"""Pictures on disk: a folder, or a text list of paths or of names without ending."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from taming.data.transforms import EXTENSIONS, View, as_pair, read_image, to_tensor
from taming.errors import UserError


class ImageFolder(torch.utils.data.Dataset):
    """All pictures under `root`, or those of `list`; item (index, view) -> {"image": float (3, H,
    W) in [-1, 1], "name": str}.

    list: a text file, one picture per line: a path, or a name whose ending is looked for. It is
    searched for in `root`, then from the working folder. split: [part, share] such as [validation,
    0.05]: without a list, the share of the files (drawn by `seed` from their names) that is
    "validation"; "train" is the others. size: int or [height, width]. scale, flip, upscale: see
    View.
    """

    def __init__(
        self,
        root: str,
        size: int | list[int],
        list: str | None = None,
        split: list | None = None,
        scale: float = 1.5,
        flip: bool = True,
        upscale: bool = False,
        seed: int = 0,
    ):
        self.root = Path(root)
        self.view = View(as_pair(size), scale, flip, upscale, seed)
        if not self.root.is_dir():
            raise UserError(
                f"data folder '{root}' does not exist; give the folder that holds the pictures"
            )
        self.paths = (
            listed((self.picture_folder(), self.root, Path()), find_list(self.root, list))
            if list
            else found(self.picture_folder(), root)
        )
        if split:
            self.paths = part_of(self.paths, split, seed)

    def picture_folder(self) -> Path:
        return self.root

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index].stem

    def files(self, index: int) -> list[Path]:
        """The files that an item is made of; their sizes and dates tell a cache whether it still holds."""
        return [self.paths[index]]

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        path = self.paths[index]
        image = read_image(path)
        box, flipped = self.view.box(*image.size, index, view, str(path))
        return {"image": to_tensor(self.view.image(image, box, flipped)), "name": self.name(index)}


def found(folder: Path, asked: str | Path, endings: Sequence[str] = EXTENSIONS) -> list[Path]:
    """Every picture under a folder, sorted."""
    paths = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in endings and not p.name.startswith(".")
    )
    if not paths:
        raise UserError(
            f"no pictures in '{asked}' (looked for {', '.join(endings)}, in subfolders too)"
        )
    return paths


def find_list(root: Path, name: str) -> Path:
    for candidate in (root / name, Path(name)):
        if candidate.is_file():
            return candidate
    raise UserError(f"list '{name}' is neither in '{root}' nor in the working folder")


def listed(folders: Sequence[Path], file: Path) -> list[Path]:
    """The pictures that a text file names, in its order. Raises UserError for a line that names none."""
    paths = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if line.strip():
            paths.append(locate(folders, line.strip(), f"{file}:{number}"))
    if not paths:
        raise UserError(f"list '{file}' is empty")
    return paths


def locate(folders: Sequence[Path], name: str, place: str) -> Path:
    """The picture `name` in the first of `folders` that has it, its ending guessed where it has none."""
    for base in folders:
        direct = base / name
        candidates = (
            [direct]
            if direct.suffix.lower() in EXTENSIONS
            else [direct.with_name(direct.name + e) for e in EXTENSIONS]
        )
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    raise UserError(
        f"{place} names '{name}', but there is no such picture in '{folders[0]}'; correct the list,"
        " or add the file"
    )


def part_of(paths: list[Path], split: Sequence, seed: int) -> list[Path]:
    """The part `train` or `validation` of an automatic split; the same for every run with this seed
    and these files.
    """
    if len(split) != 2 or split[0] not in ("train", "validation") or not 0 < float(split[1]) < 1:
        raise UserError(
            f"split: {list(split)} should be [train, share] or [validation, share], with the"
            " validation share between 0 and 1"
        )
    order = random.Random(seed).sample(range(len(paths)), len(paths))
    held_out = set(order[: max(1, round(len(paths) * float(split[1])))])
    part = [p for i, p in enumerate(paths) if (i in held_out) == (split[0] == "validation")]
    if not part:
        raise UserError(f"split {list(split)} of {len(paths)} pictures leaves none; add pictures")
    return part


class ClassFolders(ImageFolder):
    """As ImageFolder, with a folder for each class right under `root` (as ImageNet has it); items
    also have "class": int, the folder's place in alphabetical order.
    """

    def __init__(
        self,
        root: str,
        size: int | list[int],
        list: str | None = None,
        split: list | None = None,
        scale: float = 1.5,
        flip: bool = True,
        upscale: bool = False,
        seed: int = 0,
    ):
        super().__init__(root, size, list, split, scale, flip, upscale, seed)
        self.folders = sorted(
            p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(".")
        )
        for path in self.paths:
            if path.parent.absolute() == self.root.absolute() or not path.absolute().is_relative_to(
                self.root.absolute()
            ):
                raise UserError(
                    f"picture '{path}' lies in no class's folder; '{root}' should hold one folder"
                    " for each class"
                )

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index = key[0] if isinstance(key, tuple) else key
        folder = self.paths[index].absolute().relative_to(self.root.absolute()).parts[0]
        return {**super().__getitem__(key), "class": self.folders.index(folder)}
