"""Where each sample of many shards lies: made once, memory-mapped by every process, so that a
hundred million samples take a few pages of memory.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from taming.data.arrays import open_arrays, write_arrays
from taming.data.storage import Unreachable, common_folder, is_remote, size_and_version
from taming.data.tar import ROLES, Part, scan
from taming.errors import UserError
from taming.files import make_writable

VERSION = 1
THREADS = 16  # a storage answers many at once


class ShardIndex:
    """The samples of a list of shards, numbered through.

    Args:
        path: of the file that `write_index` wrote.

    Raises:
        UserError: it is damaged, or of another version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        metadata, arrays = open_arrays(path)
        try:
            if metadata["version"] != VERSION:
                raise KeyError("version")
            self.roles: list[str] = metadata["roles"]
            self.digest: str = metadata["digest"]
            self.starts, self.lengths = arrays["starts"], arrays["lengths"]
            self.names, self.name_ends = arrays["names"], arrays["name_ends"]
            self.counts, self.sizes = arrays["counts"], arrays["sizes"]
            self.problems = {int(k): v for k, v in metadata["problems"].items()}
        except KeyError as error:
            raise UserError(
                f"index '{path}' has no {error}; remove it, and it is made anew"
            ) from None
        self.ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return len(self.starts)

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def shard(self, index: int) -> int:
        """The number of the shard that holds a sample."""
        return int(self.ends.searchsorted(index, side="right"))

    def first(self, shard: int) -> int:
        """The number of its first sample."""
        return int(self.ends[shard] - self.counts[shard])

    def name(self, index: int) -> str:
        start = self.name_ends[index - 1] if index else 0
        return self.names[start : self.name_ends[index]].tobytes().decode("utf-8", "replace")

    def place(self, index: int, role: str) -> tuple[int, int]:
        """(first byte, length) of a member of a sample; length 0: there is none."""
        column = self.roles.index(role)
        return int(self.starts[index, column]), int(self.lengths[index, column])


def index_of(shards: Sequence[str], cache: str | Path) -> ShardIndex:
    """The index of these shards, in their folder or else in `cache`, made where it is missing or
    damaged. Of several processes one makes it, the others wait.
    """
    names = [name if is_remote(name) else os.path.basename(name) for name in shards]
    digest = hashlib.sha256(json.dumps([VERSION, names]).encode()).hexdigest()[:16]
    where = hashlib.sha256(os.path.abspath(shards[0]).encode()).hexdigest()[:8]
    elsewhere = f"{digest}" if is_remote(shards[0]) else f"{digest}-{where}"
    path, folder = Path(cache) / f".shards-{elsewhere}.index", common_folder(shards)
    if folder and ((folder / f".shards-{digest}.index").is_file() or os.access(folder, os.W_OK)):
        path = folder / f".shards-{digest}.index"
    index = _opened(path)
    if index is None:
        make_writable(path.parent)
        with _only_one(path.with_suffix(".lock")):
            index = _opened(path)
            if index is None:
                write_index(path, shards, digest)
                index = ShardIndex(path)
    return index


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """One process at a time; the file of the lock goes with it. Who had opened it already takes the
    new one (filelock looks), and two at once would write the same index, each whole.
    """
    with FileLock(path):
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _opened(path: Path) -> ShardIndex | None:
    if not path.is_file():
        return None
    try:
        return ShardIndex(path)
    except UserError as error:
        print(f"{error}; it is made anew", file=sys.stderr)
        return None


def write_index(
    path: Path, shards: Sequence[str], digest: str, parts: Sequence[Part] | None = None
) -> None:
    """Looks through all shards, and writes what is where.

    Args:
        path: of the index.
        shards: their files.
        digest: of the list.
        parts: what they hold, where that is known already.

    Raises:
        UserError: none of them holds a sample.
    """
    # 1. what the shards hold
    if parts is None:
        with ThreadPoolExecutor(THREADS) as threads:
            bar = tqdm(
                threads.map(scan, shards), "index", len(shards), disable=None, file=sys.stderr
            )
            parts = list(bar)
    count = sum(len(part.starts) for part in parts)
    problems = {number: part.problem for number, part in enumerate(parts) if part.problem}
    if not count:
        raise UserError(
            f"no sample in {len(shards)} shards; first: {next(iter(problems.values()))}"
        )
    # 2. the roles that there are, and where each part's numbers come from
    present = np.array([part.lengths.any(axis=0) for part in parts]).any(axis=0)
    columns = np.flatnonzero(present)

    def pieces(of: Callable[[Part], np.ndarray]) -> Iterator[np.ndarray]:
        return (of(part) for part in parts)

    def name_ends() -> Iterator[np.ndarray]:
        end = 0
        for part in parts:
            ends = end + np.cumsum(part.name_lengths)
            end = int(ends[-1]) if len(ends) else end
            yield ends

    # 3. the file, an array after the other
    length = sum(len(part.names) for part in parts)
    shape = (count, len(columns))
    write_arrays(
        path,
        {
            "starts": (np.int64, shape, pieces(lambda part: part.starts[:, columns])),
            "name_ends": (np.int64, (count,), name_ends()),
            "counts": (np.int64, (len(parts),), pieces(lambda part: np.array([len(part.starts)]))),
            "sizes": (np.int64, (len(parts),), pieces(lambda part: np.array([part.size]))),
            "lengths": (np.uint32, shape, pieces(lambda part: part.lengths[:, columns])),
            "names": (
                np.uint8,
                (length,),
                pieces(lambda part: np.frombuffer(part.names, np.uint8)),
            ),
        },
        {
            "version": VERSION,
            "roles": [ROLES[column] for column in columns],
            "digest": digest,
            "problems": problems,
        },
    )


def changes(index: ShardIndex, shards: Sequence[str]) -> dict[int, str]:
    """Which shards on a disk are no longer what the index says: number -> one line. Those of a
    storage elsewhere are looked at when they are read.
    """
    lines = {}
    for number, name in enumerate(shards):
        if is_remote(name) or not index.counts[number]:
            continue
        try:
            size = size_and_version(name)[0]
        except Unreachable as error:
            lines[number] = f"shard {error}"
            continue
        if size != index.sizes[number]:
            lines[number] = (
                f"shard '{name}' changed since its index was made; remove '{index.path}', and it is"
                " made anew"
            )
    return lines
