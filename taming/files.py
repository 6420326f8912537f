"""Files on disk: the one atomic write, writable folders, hashes."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from taming.errors import UserError


def make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"folder '{folder}' is not writable ({error.strerror}); choose another"
        ) from None


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_atomically(path: str | Path, write: Callable) -> None:
    """Lets `write` fill a temporary file in the same folder, then renames it. Raises UserError
    where the disk is full or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"'{path}' can't be written ({error.strerror or error}); what is written so far is"
            " whole, and the same command goes on with it"
        ) from None
