"""What is looked at before a run starts: the header of every picture, or all of it on request."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from taming.data.batches import refuse_too_many
from taming.data.concatenated import Concatenated
from taming.data.folder import ImageFolder
from taming.data.header_cache import SMALLEST, read_remarks, write_remarks
from taming.data.interface import PictureSet
from taming.data.reading import CorruptImage, mask_remark

THREADS = 8


def check_pictures(sets: Mapping[str, PictureSet | None], full: bool = False) -> None:
    """Prints one line for each data set of files: how many pictures, how many are skipped and why.
    A large one that had nothing to skip is not opened again until a file of it changes.

    Args:
        sets: data sets by the names that messages use, such as `data.train`; others than those of
            files are passed over.
        full: reads whole files, labels and depths too, instead of headers.

    Raises:
        UserError: more than 1 % of the pictures can't be used.
    """
    folders = {place: part for name, data in sets.items() for place, part in _folders(name, data)}
    for name, dataset in folders.items():
        large = not full and len(dataset) >= SMALLEST
        remarks = read_remarks(dataset) if large else None
        broken: list[str] = []
        if remarks is None:
            broken, remarks = _examine(dataset, full, name)
            if large and not broken:
                write_remarks(dataset, remarks)
        line = f"{name}: {_count(len(dataset), 'picture')} in '{dataset.root}'"
        if broken:
            line += f", {len(broken)} skipped: {broken[0]}"
            line += f" (and {len(broken) - 1} more)" if broken[1:] else ""
        for remark, count in remarks.items():
            line += f"; {count} {remark}"
        print(line, file=sys.stderr)
        if remark := mask_remark(dataset.paths):
            print(f"{name}: {remark}", file=sys.stderr)
        refuse_too_many(broken, len(dataset))
    _report_shared(folders)


def _folders(name: str, dataset: PictureSet | None) -> Iterator[tuple[str, ImageFolder]]:
    """The data sets of files in one, with their places."""
    if isinstance(dataset, ImageFolder):
        yield name, dataset
    elif isinstance(dataset, Concatenated):
        for number, part in enumerate(dataset.sets):
            yield from _folders(f"{name}.sets[{number}]", part)


def _examine(dataset: ImageFolder, full: bool, name: str) -> tuple[list[str], Counter]:
    """Messages about the pictures that can't be used, and how often each remark was made."""

    def examine(index: int) -> tuple[str | None, str | None]:
        try:
            remark = dataset.check(index)
            if full:
                dataset[(index, None)]
        except CorruptImage as error:
            return str(error), None
        return None, remark

    broken, remarks = [], Counter()
    doubled = len(dataset) - len(set(dataset.paths))
    if doubled:
        remarks["listed more than once"] = doubled
    with ThreadPoolExecutor(THREADS) as threads:
        results = threads.map(examine, range(len(dataset)))
        for error, remark in tqdm(
            results, name, len(dataset), leave=False, disable=None, file=sys.stderr
        ):
            if error:
                broken.append(error)
            if remark:
                remarks[remark] += 1
    return broken, remarks


def _report_shared(folders: Mapping[str, ImageFolder]) -> None:
    """Says where pictures are in two sets."""
    for i, (name, dataset) in enumerate(folders.items()):
        for other, another in list(folders.items())[i + 1 :]:
            shared = {p.absolute() for p in dataset.paths} & {p.absolute() for p in another.paths}
            if shared:
                print(
                    f"{_count(len(shared), 'picture')} of {other}"
                    f" {'is' if len(shared) == 1 else 'are'} in {name} too",
                    file=sys.stderr,
                )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
