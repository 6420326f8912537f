"""Pages of a mapped file, dropped once they are copied: loading a file then takes the memory of its
model, not that of file and model.
"""

import ctypes
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

DONTNEED = 4  # Linux's MADV_DONTNEED: pages of a file are read again where they are needed again
EVERY = 64 << 20  # bytes copied between two releases


class MappedPages:
    """The private mappings of a file that some tensors lie in. Those tensors are held, so that
    nothing else can come to lie there.

    Args:
        path: of the file.
        tensors: read from it; those that are not mapped do not matter.
    """

    def __init__(self, path: str | Path, tensors: Iterable[Tensor]):
        ranges = _mappings(Path(path).resolve())
        self._tensors = [
            tensor
            for tensor in tensors
            if any(start <= tensor.data_ptr() < end for start, end in ranges)
        ]
        self._ranges = [
            (start, end)
            for start, end in ranges
            if any(start <= tensor.data_ptr() < end for tensor in self._tensors)
        ]
        self._copied = 0

    def copied(self, tensor: Tensor) -> None:
        """To be called after each copy."""
        self._copied += tensor.numel() * tensor.element_size()
        if self._copied > EVERY:
            self.release()

    def release(self) -> None:
        self._copied = 0
        for start, end in self._ranges:
            _madvise(start, end - start)


def _mappings(path: Path) -> list[tuple[int, int]]:
    """Addresses, where the system tells them (Linux)."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return []
    ranges = []
    for line in lines:
        addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
        if permissions.endswith("p") and name == [str(path)]:
            start, end = addresses.split("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _madvise(start: int, length: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), DONTNEED)
