"""Numbers for each picture, on disk: measured in batches, by any number of processes, interrupted
and resumed, and read in the pictures' order.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from taming.data.batches import collate
from taming.data.interface import PictureSet
from taming.errors import UserError, first_line

Rows = dict[str, np.ndarray]
"""What was measured, one row per picture; arrays live on disk."""
Measurer = Callable[[dict], dict[str, Tensor]]
"""A batch -> tensors (B, ...), each row of which depends on its own picture only."""

SHAPES = "shapes.json"  # of all arrays of a folder: tells whether one is missing or damaged


@dataclass
class RowStore:
    """Where rows are stored, and how they are made.

    Args:
        folder: one for each protocol, so that rows of another one are never taken.
        batch_size: changes no number.
        shard: (i, n): only this share of the rows is measured, for machines without one disk.
        sources: folders in which others measured their shares by the same protocol.
    """

    folder: Path
    batch_size: int = 32
    shard: tuple[int, int] = (0, 1)
    sources: tuple[Path, ...] = ()

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def wait(self) -> None:
        """Until all processes are here."""
        if dist.is_initialized():
            try:
                dist.barrier()
            except RuntimeError:
                raise UserError(
                    f"process {self.rank}: another process of this evaluation stopped; its message"
                    " says why"
                ) from None


def join_processes() -> None:
    """Under torchrun: joins the others."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"WORLD_SIZE={text} in the environment should be a number of processes; torchrun sets"
            " it, else unset it"
        )
    if int(text) == 1 or dist.is_initialized():
        return
    try:
        dist.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"WORLD_SIZE={text} in the environment, but the processes can't meet"
            f" ({first_line(error)[:120]}); start them with torchrun --nproc-per-node {text}, or"
            " unset it"
        ) from None


def measure(
    name: str, dataset: PictureSet, measurer: Measurer, store: RowStore, mark: str = ""
) -> Rows:
    """The rows of every picture of a data set; pictures that are done are not measured again.

    With several processes all return the same rows, so every figure is that of one.

    Args:
        name: of the part, for the folder and the progress bar.
        dataset: of items with tensors of one size.
        measurer: what is measured.
        store: where rows are stored.
        mark: rows with another one are not taken.

    Raises:
        UserError: no pictures, pictures of different sizes, a number that is NaN or infinite, a
            full disk.
    """
    if not len(dataset):
        raise UserError(f"{name}: there are no pictures to measure")
    # 1. arrays with room for all rows
    folder = store.folder / f"{name} {mark}".strip()
    first = dataset[0]
    if store.rank == 0 and _stored(folder, len(dataset)) is None:
        shutil.rmtree(folder, ignore_errors=True)
        _reserve(folder, _measured(measurer, [first], first), len(dataset))
    store.wait()
    stored = _stored(folder, len(dataset))
    if stored is None:
        raise UserError(
            f"{name}: process {store.rank} can't read the rows in '{folder}'; all processes must"
            " see one disk"
        )
    done, rows = stored
    if store.rank == 0:
        for source in store.sources:
            _take(done, rows, _stored(source / folder.name, len(dataset)))
    store.wait()
    # 2. the rows that are missing
    rest = np.flatnonzero(done == 0)
    rest = rest[rest % store.shard[1] == store.shard[0]]
    parts = [rest[i : i + store.batch_size] for i in range(0, len(rest), store.batch_size)]
    store.wait()  # nobody marks a row before all have read which are missing
    for number, part in enumerate(_progress(parts, name, len(dataset), store)):
        if number % store.world == store.rank:
            items = [dataset[index] for index in part.tolist()]
            for key, value in _measured(measurer, items, first).items():
                rows[key][part] = value
                rows[key].flush()
            done[part] = 1
            done.flush()
    store.wait()
    if not done.all():
        return _filled(done, rows)
    # 3. every number is one
    for key, values in rows.items():
        _refuse_not_finite(values, f"{name}: {key}", dataset)
    return rows


def _progress(
    parts: list[np.ndarray], name: str, total: int, store: RowStore
) -> Iterator[np.ndarray]:
    """The parts, with a bar on a terminal that counts pictures."""
    missing = sum(map(len, parts))
    bar = tqdm(
        total=total,
        initial=total - missing,
        desc=name,
        unit="picture",
        disable=None if store.rank == 0 else True,
        file=sys.stderr,
    )
    with bar:
        for part in parts:
            yield part
            bar.update(len(part))


def _stored(folder: Path, count: int) -> tuple[np.ndarray, Rows] | None:
    """Which pictures are done, and the rows; None where nothing is there, or something damaged."""
    try:
        shapes = json.loads((folder / SHAPES).read_text(encoding="utf-8"))
        done = _open(folder / "done.npy")
        rows = {key: _open(_values(folder, key)) for key in sorted(shapes)}
    except Exception:  # numpy raises many kinds
        return None
    is_whole = done.shape == (count,) and done.dtype == np.uint8 and _shapes(rows) == shapes
    return (done, rows) if is_whole else None


def _take(done: np.ndarray, rows: Rows, stored: tuple[np.ndarray, Rows] | None) -> None:
    """What somebody else measured, and we did not."""
    if stored is None or stored[1].keys() != rows.keys():
        return
    new = np.flatnonzero((stored[0] != 0) & (done == 0))
    for key, values in rows.items():
        values[new] = stored[1][key][new]
        values.flush()
    done[new] = 1
    done.flush()


def _filled(done: np.ndarray, rows: Rows) -> Rows:
    """Rows in which those of this share stand in for the others, whose figures nobody will see."""
    there = np.flatnonzero(done)
    if not len(there):
        raise UserError("this share has no pictures; take a smaller n in --shard i/n")
    places = np.where(done != 0, np.arange(len(done)), there[np.arange(len(done)) % len(there)])
    return {key: np.asarray(values)[places] for key, values in rows.items()}


def _open(path: Path) -> np.ndarray:
    """An array to read and write; reading first, which refuses a file that is too short, where
    writing would make it longer.
    """
    np.load(path, mmap_mode="r")
    return np.load(path, mmap_mode="r+")


def _reserve(folder: Path, first: dict[str, np.ndarray], count: int) -> None:
    """Arrays of `count` rows like the one in `first`, with room on disk: a page that finds the disk
    full would kill the process.
    """
    arrays = {_values(folder, key): value for key, value in first.items()}
    temporary = folder / ".done.tmp"
    arrays[temporary] = np.zeros(1, np.uint8)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shapes = {}
        for path, value in arrays.items():
            shape = (count, *value.shape[1:])
            np.lib.format.open_memmap(path, "w+", value.dtype, shape).flush()
            if hasattr(os, "posix_fallocate"):  # not on macOS
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        for key, value in first.items():
            shapes[key] = [value.dtype.str, [count, *value.shape[1:]]]
        (folder / SHAPES).write_text(json.dumps(shapes), encoding="utf-8")
        # Last, so that a kill before it starts anew
        temporary.rename(folder / "done.npy")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"rows in '{folder}' can't be written ({error.strerror or error}); make room there, or"
            " choose another place with -o; the same command resumes with the parts that are done"
        ) from None


def _values(folder: Path, key: str) -> Path:
    return folder / f"{key}.values.npy"


def _shapes(rows: Rows) -> dict[str, list]:
    return {key: [value.dtype.str, list(value.shape)] for key, value in rows.items()}


@torch.no_grad()
def _measured(measurer: Measurer, items: list[dict], first: dict) -> dict[str, np.ndarray]:
    """The rows of a batch whose items are of the first one's size."""
    refuse_other_sizes([first, *items])
    return {key: value.detach().cpu().numpy() for key, value in measurer(collate(items)).items()}


def refuse_other_sizes(items: list[dict]) -> None:
    """Raises UserError for pictures or masks of different sizes."""
    for key, value in items[0].items():
        if not isinstance(value, Tensor) or value.ndim < 2:
            continue
        for item in items[1:]:
            one, other = value.shape[-2:], item[key].shape[-2:]
            if one != other:
                raise UserError(
                    f"'{items[0].get('name')}' is {one[0]}x{one[1]} and '{item.get('name')}'"
                    f" {other[0]}x{other[1]} (height x width); give --size HxW to bring all to one"
                    " size"
                )


def _refuse_not_finite(values: np.ndarray, what: str, dataset: PictureSet) -> None:
    if not np.issubdtype(values.dtype, np.floating):
        return
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        index = int(np.flatnonzero(~finite)[0])
        raise UserError(
            f"{what} of picture {index} ({dataset[index].get('name', 'no name')}) is NaN or"
            " infinite; does the network fit these pictures?"
        )
