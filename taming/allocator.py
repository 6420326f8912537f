"""How the C library hands out the memory of a process.

glibc gives blocks above 32 MiB, at most, back to the system as soon as they are free, and takes the
next ones from it page by page. Networks on a CPU free and take maps of that size in every layer:
half of the time of a large picture in tiles was the system's. Measured in docs/measurements.md.
"""

import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of malloc.h
BLOCK, FREE = 1 << 30, (1 << 31) - 1  # bytes


def keep_freed_memory() -> bool:
    """The process keeps what it frees for what it takes next: blocks below 1 GiB, up to 2 GiB in
    all. Where the user has set the allocator, or it is not glibc's, nothing changes.

    Returns:
        Whether it does so now.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(MMAP_THRESHOLD, BLOCK)) and bool(mallopt(TRIM_THRESHOLD, FREE))
