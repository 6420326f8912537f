"""How the C library hands out the memory of a process.

glibc gives blocks above 32 MiB, at most, back to the system as soon as they are free, and takes the
next ones from it page by page. Networks on a CPU free and take maps of that size in every layer:
half of the time of a large picture in tiles was the system's. Figures: docs/sampling.md.
"""

import ctypes
import os
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8  # of malloc.h
BLOCK, FREE = 1 << 30, (1 << 31) - 1  # bytes


def keep_freed_memory() -> bool:
    """The process keeps blocks below 1 GiB that it frees for what it takes next, in all threads:
    up to 2 GiB at the end of its heap, and what lies before a block that is still in use. Where the
    user has set the allocator, or it is not glibc's, nothing changes.

    Returns:
        Whether it does so now.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = _function("mallopt")
    if mallopt is None or not mallopt(TRIM_THRESHOLD, FREE):
        return False
    mallopt(ARENA_MAX, 1)  # those of other threads have no room for large blocks
    # Earlier versions refuse thresholds above 32 MiB
    return bool(mallopt(MMAP_THRESHOLD, BLOCK) or mallopt(MMAP_MAX, 0))


def give_back_memory() -> None:
    """Whatever is free goes back to the system, so that it counts as free there, too."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """Of the C library; None where it has none: musl, macOS, Windows."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
