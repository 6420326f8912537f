"""Work that many processes share, on any number of machines that see one folder: each part is a
file that appears whole when it is done. A part is claimed while somebody works on it; the claim of
a process that died is taken over.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from taming.files import is_alive

STALE = 120.0  # seconds without a sign of life


class Claims:
    """Claims on the parts of one piece of work.

    Args:
        folder: where the parts go, and files of claims meanwhile.
        stale: seconds after which a claim that nobody renews is void.
    """

    def __init__(self, folder: Path, stale: float = STALE):
        self.folder, self.stale = folder, stale
        self.owner = f"{socket.gethostname()} {os.getpid()}"

    def path(self, part: str) -> Path:
        return self.folder / f".{part}.claim"

    @contextmanager
    def claimed(self, part: str) -> Iterator[bool]:
        """Whether the part is ours now; it is released afterwards."""
        path = self.path(part)
        if not self._take(path):
            yield False
            return
        done = threading.Event()
        beat = threading.Thread(target=_renew, args=(path, done, self.stale / 8), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            done.set()
            beat.join()
            with suppress(OSError):
                if path.read_text() == self.owner:  # nobody took us for dead
                    path.unlink()

    def _take(self, path: Path) -> bool:
        if self.holder(path) == "" and path.exists():
            # Of several that see it void, one succeeds in moving it away
            void = path.with_suffix(f".{os.getpid()}-{threading.get_ident() % 10**6}.tmp")
            with suppress(OSError):
                os.rename(path, void)
                os.unlink(void)
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(file, "w") as stream:
            stream.write(self.owner)
        return True

    def holder(self, path: Path) -> str:
        """Who works on a part (host and process id); empty where nobody does."""
        try:
            owner, age = path.read_text(), time.time() - path.stat().st_mtime
        except OSError:
            return ""
        host, _, process = owner.rpartition(" ")
        is_here = host == socket.gethostname() and process.isdigit()
        if age > self.stale or (is_here and not is_alive(int(process))):
            return ""
        return owner or "another process"


def shared_parts(
    claims: Claims,
    parts: Sequence[str],
    is_done: Callable[[str], bool],
    rank: int,
    world: int,
    wait: bool = False,
) -> Iterator[str]:
    """The parts that this process is to make, one after the other: first those of its share, then
    whatever nobody else has made or is working on.

    Args:
        claims: of the work.
        parts: names of all.
        is_done: whether a part is there.
        rank, world: the share begins with part `rank`, and has each `world`-th.
        wait: also for what others are working on, and take over what they don't finish.
    """
    order = [*range(rank, len(parts), world)]
    # Those who help begin at different places
    rest = [number for number in range(len(parts)) if number % world != rank % world]
    start = len(rest) * rank // world
    order += rest[start:] + rest[:start]
    while True:
        missing = [parts[number] for number in order if not is_done(parts[number])]
        for part in missing:
            if is_done(part):
                continue
            with claims.claimed(part) as is_ours:
                if is_ours and not is_done(part):
                    yield part
        if not wait or all(map(is_done, parts)):
            return
        time.sleep(min(1.0, claims.stale / 8))


def _renew(path: Path, done: threading.Event, pause: float) -> None:
    while not done.wait(pause):
        with suppress(OSError):
            os.utime(path)
