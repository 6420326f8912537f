"""Files on disk: the one atomic write, folders to write into, hashes, the lock of a run folder."""

import errno
import hashlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from taming.errors import UserError, first_line

OUTPUT_ENDINGS = (".png", ".gif", ".npz", ".tamg")  # what our commands write into a folder
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How the libraries that write weights say that a write stopped short, with no error number
_STOPPED_SHORT = (
    "os error 28",
    "os error 27",
    "no space left",
    "file too large",
    "pytorchstreamwriter",
    "inline_container",
    "iostream",
)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """A file that is either complete or as it was before; missing folders are made.

    Symbolic links stay, and the file they lead to is replaced. What is no regular file (/dev/null,
    a pipe) is written into, never replaced.

    Args:
        path: the file.
        write: called with the path of a temporary file in the same folder, which it fills.

    Raises:
        UserError: the disk is full, the folder is read-only, a parent is a file, the name is empty,
            ... The temporary file is gone, an earlier file of this name whole.
    """
    path = Path(path)
    _refuse_no_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    if is_stream(path):
        return _write_into(path, write)
    target = Path(os.path.realpath(path))
    # Short, because names may be 255 bytes long; each thread has its own
    temporary = target.with_name(
        f".{target.name[:30]}.{os.getpid()}-{threading.get_ident() % 10**6}.tmp"
    )
    try:
        if os.path.islink(target):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if os.path.exists(target) and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only")
        write(temporary)
        _flush(temporary)
        if os.path.exists(target):
            with suppress(OSError):  # some disks have no permissions
                shutil.copymode(target, temporary)
        temporary.replace(target)
    except Exception as error:
        raise _disk_error(path, error, temporary) from None
    finally:
        _remove(temporary)


def _refuse_no_file(path: Path) -> None:
    if not path.name or path.name == "..":
        raise UserError(f"'{path}' is no name for a file; give one")
    if os.path.isdir(path):
        raise UserError(f"'{path}' is a folder, and a file is to be written; give a file's name")


def is_stream(path: str | Path) -> bool:
    """A device, a pipe, or a name for one of this process's open files."""
    if str(path).startswith(("/dev/std", "/dev/fd/", "/proc/")):
        return True
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


@contextmanager
def folder_beside(path: str | Path) -> Iterator[Path]:
    """The folder of a file's name without its ending, for what belongs to the file; beside a device
    a temporary one.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield Path(path).with_suffix("")


def _write_into(path: Path, write: Callable[[Path], object]) -> None:
    """Writers seek, pipes can't: by way of a file elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "file")
        try:
            write(temporary)
            with open(temporary, "rb") as source, open(path, "wb") as stream:
                shutil.copyfileobj(source, stream)
        except Exception as error:
            raise _disk_error(path, error, temporary) from None


def _flush(path: Path) -> None:
    """Some disks report that they are full only here."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    with suppress(OSError):  # its folder is no folder, or read-only: then it was never there
        path.unlink(missing_ok=True)


def _disk_error(path: Path, error: Exception, temporary: Path) -> Exception:
    """The UserError for a write that failed on the disk, else the error itself."""
    if isinstance(error, OSError):
        return _unwritable(path, error)
    if any(words in str(error).lower() for words in _STOPPED_SHORT):
        # safetensors and torch leave out the number; the next bytes have the same fate
        try:
            with open(temporary, "ab") as file:
                file.write(bytes(1 << 20))
        except OSError as reason:
            return _unwritable(path, reason)
        return _unwritable(path, OSError(errno.ENOSPC, "No space left on device"))
    return error


def _unwritable(path: Path, error: OSError) -> UserError:
    reason = error.strerror or first_line(error) or type(error).__name__
    for parent in path.parents:
        if os.path.exists(parent) and not os.path.isdir(parent):
            return UserError(f"'{path}' can't be written: '{parent}' is a file, not a folder")
    full = error.errno in _NO_SPACE or "requested and" in reason  # as NumPy says it
    cure = "make room there" if full else "choose another place"
    state = "; the file that was there is whole" if os.path.isfile(path) else ""
    return UserError(f"'{path}' can't be written ({reason}){state}; {cure} and try again")


def make_writable(folder: str | Path) -> None:
    """Makes a folder where it is missing. Raises UserError where no file can be written there."""
    folder = Path(folder)
    probe = folder / f".write{os.getpid()}-{threading.get_ident() % 10**6}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        for place in (folder, *folder.parents):
            if os.path.exists(place) and not os.path.isdir(place):
                raise UserError(
                    f"folder '{folder}' can't be made: '{place}' is a file; choose another"
                ) from None
        raise UserError(
            f"folder '{folder}' is not writable ({error.strerror}); choose another"
        ) from None


def read_text(path: str | Path) -> str:
    """A text file of UTF-8 whatever the locale, without a byte order mark. Raises UserError."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"'{path}', line {line}, is not UTF-8; save the text as UTF-8") from None
    except OSError as error:
        raise UserError(f"'{path}' can't be read ({error.strerror})") from None


def file_hash(path: str | Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256. Raises UserError where it can't be
    read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"'{path}' can't be read ({error.strerror})") from None


def size_and_date(path: str | Path) -> tuple[int, int]:
    """Bytes, and nanoseconds of the last change; (0, 0) for a link that leads nowhere."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def check_output(
    out: str | Path | None, inputs: Iterable[str | Path] = (), endings: Iterable[str] = ()
) -> None:
    """Refuses an output that would destroy something; to be asked before the work.

    Args:
        out: the file or folder that a command is to write.
        inputs: the files and folders that it reads. What is no path (a shipped model's name) is
            passed over.
        endings: what the output's name may end in where the file exists, such as `.png`.

    Raises:
        UserError: `out` is one of the inputs; a folder that holds an input folder, or the very
            folder of an input file of a kind that our commands write; or an existing file of
            another kind.
    """
    if out is None:
        return
    out, endings = Path(out), tuple(endings)
    for name in inputs:
        source = Path(name)
        if not out.exists() or not source.exists():
            continue
        if os.path.samefile(out, source):
            raise UserError(f"'{out}' is an input of this command; give another output")
        if out.is_dir() and _lies_under(out, source):
            raise UserError(
                f"output '{out}' holds the input '{source}', which could be overwritten; give a"
                " folder of its own"
            )
    is_other = out.is_file() and out.suffix.lower() not in endings and not is_stream(out)
    if endings and is_other:
        raise UserError(
            f"'{out}' exists and is no {' or '.join(endings)} file; give another output"
        )


def is_inside(name: str) -> bool:
    """Whether a name that stands in a file leads to a place in the folder that it is joined to:
    neither `/etc/x` nor `../x`, and printable.
    """
    path = PurePosixPath(name)
    return bool(name) and name.isprintable() and not path.is_absolute() and ".." not in path.parts


def check_ending(out: str | Path, *endings: str) -> None:
    """Raises UserError where an output's name ends in none of these; devices need no ending."""
    if Path(out).suffix not in endings and not is_stream(out):
        raise UserError(f"'{out}' should end in {' or '.join(endings)}")


def _lies_under(folder: Path, source: Path) -> bool:
    place = Path(os.path.realpath(folder))
    inside = Path(os.path.realpath(source))
    if source.is_dir():
        return place in inside.parents
    return place == inside.parent and inside.suffix.lower() in OUTPUT_ENDINGS


def _remove_abandoned(folder: Path) -> None:
    """The temporary files of killed processes."""
    for path in folder.rglob(".*.tmp"):
        process = path.name.split(".")[-2].partition("-")[0]
        if process.isdigit() and not is_alive(int(process)):
            _remove(path)


def is_alive(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """One process at a time in a run's folder; the system releases the lock of a killed one, and
    the next holder removes the temporary files that it was writing.

    Raises:
        UserError: another process works there (its host and process id).
    """
    folder = Path(folder)
    make_writable(folder)
    holder = folder / ".lock.holder"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            name = holder.read_text(encoding="utf-8").strip()
        except OSError:
            name = "another process"
        raise UserError(
            f"run '{folder}' is in use by {name}; wait for it or stop it, or take another folder"
        ) from None
    except OSError as error:
        raise UserError(f"run '{folder}' can't be locked ({error.strerror})") from None
    try:
        _remove_abandoned(folder)
        write_atomically(
            holder,
            lambda file: file.write_text(
                f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8"
            ),
        )
        yield
    finally:
        _remove(holder)
        lock.release()
