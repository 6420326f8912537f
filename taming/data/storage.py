"""Bytes of files wherever they lie: a disk, or whatever fsspec knows (s3://, gs://, https://,
memory://). What stops answering is asked again a few times, then named in one line.
"""

import itertools
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from glob import glob
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from taming.errors import UserError, first_line

ATTEMPTS = 5
PAUSE = 0.5  # seconds before the second attempt, twice as long before each further one
MOST_OPEN = 64  # files of one process
MOST_FILES = 10**6  # that a pattern names: a hundred each for 100 M pictures
MOST_DIGITS = 18  # of a number in it
EXTRAS = {  # what fsspec itself leaves to other packages
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
T = TypeVar("T")


class Unreachable(UserError):
    """A file that is missing, or a storage that does not answer."""


def expanded(pattern: str) -> list[str]:
    """The files that a pattern names: {0000..0999} and {a,b} as in a shell, * and ? on a disk and
    where the storage lists its files. Raises UserError where it names none, or too many.
    """
    names = [name for braced in _braces(pattern) for name in _matches(braced)]
    if not names:
        raise UserError(f"no file matches '{pattern}'; correct the pattern, or add the files")
    return names


def _braces(pattern: str) -> list[str]:
    """All ways to fill the braces, the last one running fastest. Raises UserError where they are
    more than MOST_FILES.
    """
    pieces = re.split(r"\{([^{}]*)\}", pattern)  # in turn: as it stands, in braces
    choices = [_choices(text, pattern) for text in pieces[1::2]]
    count = prod(map(len, choices))
    if count > MOST_FILES:
        raise UserError(
            f"'{pattern:.100}' names {count:,} files, more than {MOST_FILES:,}; correct its"
            " numbers, or put more pictures into each shard"
        )
    names = [""]
    for text, options in zip(pieces[::2], [*choices, [""]]):
        names = [name + text + option for name, option in itertools.product(names, options)]
    return names


class _Numbers(Sequence[str]):
    """The numbers of {low..high} as they are written, made when they are asked for."""

    def __init__(self, low: str, high: str):
        self.numbers = range(int(low), int(high) + 1)
        self.width = len(low) if low.startswith("0") or len(low) == len(high) else 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):
        return f"{self.numbers[index]:0{self.width}d}"


def _choices(text: str, pattern: str) -> Sequence[str]:
    """What may stand in place of one pair of braces."""
    if not (numbers := RANGE.fullmatch(text)):
        return text.split(",")
    low, high = numbers[1], numbers[2]
    if max(len(low), len(high)) > MOST_DIGITS:
        raise UserError(
            f"'{pattern:.100}' counts with more than {MOST_DIGITS} digits; correct its numbers"
        )
    if int(high) < int(low):
        raise UserError(f"'{{{text}}}' in '{pattern}' counts down; give the lower number first")
    return _Numbers(low, high)


def _matches(name: str) -> list[str]:
    if not any(letter in name for letter in "*?"):
        return [name]
    if not is_remote(name):
        return sorted(glob(name, recursive=True))
    protocol = name.partition("://")[0]
    paths = _answered(name, lambda: _file_system(name).glob(name))
    return sorted(path if "://" in path else f"{protocol}://{path}" for path in paths)


def is_remote(name: str) -> bool:
    return "://" in name


def size_and_version(name: str) -> tuple[int, str]:
    """Bytes of a file, and what changes when it does: on a disk the date, else a tag or a date
    where the storage has one. Raises Unreachable.
    """
    if not is_remote(name):
        try:
            status = os.stat(name)
        except OSError as error:
            raise Unreachable(f"'{name}' can't be read ({error.strerror})") from None
        return status.st_size, str(status.st_mtime_ns)
    details = _answered(name, lambda: _file_system(name).info(name))
    tags = (details.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified"))
    return int(details.get("size") or 0), str(next((tag for tag in tags if tag), ""))


class Reader:
    """Ranges of bytes of many files, of which few are open at a time. Each process opens its own.

    Args:
        most_open: files that stay open.
    """

    def __init__(self, most_open: int = MOST_OPEN):
        self.most_open = most_open
        self.process, self.files = os.getpid(), OrderedDict[str, int]()

    def read(self, name: str, start: int, length: int) -> bytes:
        """Raises Unreachable; what the file lacks is missing at the end."""
        if is_remote(name):
            return _answered(
                name, lambda: _file_system(name).cat_file(name, start=start, end=start + length)
            )
        try:
            return os.pread(self._opened(name), length, start)
        except OSError as error:
            raise Unreachable(f"'{name}' can't be read ({error.strerror})") from None

    def _opened(self, name: str) -> int:
        if self.process != os.getpid():  # a forked worker shares nothing with its parent
            self.process, self.files = os.getpid(), OrderedDict()
        if name in self.files:
            self.files.move_to_end(name)
            return self.files[name]
        if len(self.files) >= self.most_open:
            os.close(self.files.popitem(last=False)[1])
        self.files[name] = os.open(name, os.O_RDONLY)
        return self.files[name]

    def __getstate__(self) -> dict:
        return {"most_open": self.most_open}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


class Stream:
    """A file from its beginning, in blocks.

    Args:
        name: a path or a URL.
        block: bytes asked for at once.
    """

    def __init__(self, name: str, block: int = 1 << 20):
        self.name, self.block, self.reader = name, block, Reader(1)
        self.start, self.buffer = 0, b""

    def at(self, place: int, length: int) -> bytes:
        """`length` bytes from `place`; fewer at the end of the file."""
        offset = place - self.start
        if not 0 <= offset <= len(self.buffer) - length:
            self.start, offset = place, 0
            # What is passed over, such as a picture, is not read from a disk
            wanted = max(length, self.block if is_remote(self.name) else 512)
            self.buffer = self.reader.read(self.name, place, wanted)
        return self.buffer[offset : offset + length]

    def close(self) -> None:
        for file in self.reader.files.values():
            os.close(file)
        self.reader.files.clear()


def _answered(name: str, ask: Callable[[], T]) -> T:
    """What a storage answers, at the latest at the last attempt."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return ask()
        except UserError:
            raise
        except (FileNotFoundError, PermissionError) as error:
            raise Unreachable(f"'{name}' can't be read ({first_line(error)})") from None
        except Exception as error:  # every storage raises its own kinds
            reason = first_line(error) or type(error).__name__
    raise Unreachable(
        f"'{name}' does not answer ({ATTEMPTS} attempts; {reason[:120]}); check the network and the"
        " name, and start again"
    )


_SYSTEMS: dict[tuple[int, str], Any] = {}


def _file_system(name: str) -> Any:
    """The fsspec file system of a URL, made anew in each process: its threads don't survive a
    fork.
    """
    protocol = name.partition("://")[0]
    key = (os.getpid(), protocol)
    if key not in _SYSTEMS:
        try:
            import fsspec

            options = {} if protocol == "memory" else {"skip_instance_cache": True}
            _SYSTEMS[key] = fsspec.filesystem(protocol, **options)
        except ValueError as error:
            raise UserError(f"'{name}': {first_line(error)}") from None
        except ImportError:
            package = EXTRAS.get(protocol, "fsspec")
            raise UserError(
                f"'{name}' needs the package {package}; install it with: pip install {package}"
            ) from None
    return _SYSTEMS[key]


def common_folder(names: Sequence[str]) -> Path | None:
    """The folder on a disk that holds all of these files; None where there is none."""
    folders = {os.path.dirname(name) for name in names}
    if len(folders) != 1 or any(map(is_remote, names)):
        return None
    return Path(folders.pop())
