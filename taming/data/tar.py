"""Tar archives as webdataset lays them out: the members of one sample stand together, and share
their name up to its first dot (`000.jpg`, `000.seg.png`, `000.cls`, `000.txt`, `000.json`).
"""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from taming.data.reading import EXTENSIONS
from taming.data.storage import Stream, Unreachable, size_and_version
from taming.errors import UserError

BLOCK = 512
ROLES = ("image", "segmentation", "class", "caption", "json")
MASKS = ("seg.png", "mask.png", "segmentation.png")
ENDINGS = {  # of a member, after the first dot -> its role
    **{f"{word}{ending}": "image" for word in ("", ".image", ".img") for ending in EXTENSIONS},
    **{f".{ending}": "segmentation" for ending in MASKS},
    **{".cls": "class", ".txt": "caption", ".caption": "caption", ".json": "json"},
}


@dataclass
class Part:
    """What one shard holds, in the order of its samples.

    Args:
        names: of the samples, one after the other; name_lengths: bytes of each.
        starts, lengths: (samples, roles) of the bytes of each member; length 0: it is missing.
        problem: what is wrong with the shard, in one line; empty where nothing is.
        size, version: of the file.
    """

    names: bytes = b""
    name_lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: np.ndarray = field(default_factory=lambda: np.zeros((0, len(ROLES)), np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.zeros((0, len(ROLES)), np.uint32))
    problem: str = ""
    size: int = 0
    version: str = ""


def scan(name: str) -> Part:
    """The samples of a shard, from the headers of its members. A shard that is missing or damaged
    gives what can be used of it, and a problem.
    """
    part, samples = Part(), dict[str, dict[str, tuple[int, int]]]()
    try:
        part.size, part.version = size_and_version(name)
        stream = Stream(name)
        try:
            for member, start, length in members(stream, part.size):
                key, role = role_of(member)
                sample = samples.setdefault(key, {}) if role else {}
                if role in sample:
                    part.problem = part.problem or f"shard '{name}' holds '{member}' twice"
                elif role and length:
                    sample[role] = start, length
        finally:
            stream.close()
    except Unreachable as error:
        part.problem = f"shard {error}"
    except ValueError as error:
        part.problem = f"shard '{name}' is damaged ({error})"
    if not samples:
        part.problem = part.problem or f"shard '{name}' holds no samples"
    names = [key.encode("utf-8", "surrogateescape") for key in samples]
    part.names, part.name_lengths = b"".join(names), np.array([len(n) for n in names], np.int64)
    rows = [[sample.get(role, (0, 0)) for role in ROLES] for sample in samples.values()]
    table = np.array(rows, np.int64).reshape(-1, len(ROLES), 2)
    part.starts, part.lengths = table[..., 0], table[..., 1].astype(np.uint32)
    return part


def role_of(member: str) -> tuple[str, str]:
    """(name of the sample, role) of a member; role is empty for what we do not read."""
    folder, slash, file = member.removeprefix("./").rpartition("/")
    key, dot, ending = file.partition(".")
    return folder + slash + key, ENDINGS.get(dot + ending.lower(), "") if key else ""


def members(stream: Stream, size: int) -> Iterator[tuple[str, int, int]]:
    """(name, place of the first byte, length) of each file in an archive of `size` bytes. Raises
    ValueError where it is damaged or ends too early.
    """
    place, names = 0, dict[str, str]()  # names: what a header before a member says of it
    while place < size:
        header = stream.at(place, BLOCK)
        if not header.strip(b"\0"):
            return
        if len(header) < BLOCK or not _is_header(header):
            raise ValueError(f"no header of a tar archive at byte {place} of {size}")
        length, kind = _number(header[124:136]), header[156:157]
        length = int(names.pop("size", length))
        start, place = place + BLOCK, place + BLOCK + -(-length // BLOCK) * BLOCK
        if start + length > size:
            raise ValueError(f"it ends at byte {size}, in the middle of a member")
        if kind == b"x":
            names |= _extended(stream.at(start, length))
        elif kind == b"L":
            names["path"] = _text(stream.at(start, length))
        elif kind in (b"0", b"\0", b"7"):
            yield names.get("path") or member_name(header), start, length
        if kind not in (b"x", b"L", b"g"):
            names = {}
    raise ValueError(f"it ends at byte {size}, without the mark of an end")


def member_name(header: bytes) -> str:
    """The name in the header itself, at most 255 bytes of it."""
    prefix = _text(header[345:500]) if header[257:262] == b"ustar" else ""
    return f"{prefix}/{_text(header[:100])}" if prefix else _text(header[:100])


def _is_header(header: bytes) -> bool:
    """Whether the sum of the bytes is the one that it says, its own field counted as blanks."""
    try:
        return _number(header[148:156]) == sum(header[:148]) + 256 + sum(header[156:])
    except ValueError:
        return False


def _number(octal: bytes) -> int:
    if octal[0] & 0x80:  # GNU's way to write large ones
        return int.from_bytes(octal[1:], "big")
    return int(octal.strip(b" \0") or b"0", 8)


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _extended(data: bytes) -> dict[str, str]:
    """Lines `LENGTH KEY=VALUE` of a pax header."""
    values = {}
    while data:
        length = int(data.partition(b" ")[0])
        if length < 5:
            raise ValueError("a pax header of no length")
        key, _, value = data[:length].partition(b" ")[2].partition(b"=")
        values[key.decode()] = value.removesuffix(b"\n").decode("utf-8", "surrogateescape")
        data = data[length:]
    return values


def write_tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> None:
    """An archive of (name, {ending such as `jpg`: bytes}), the same bytes for the same samples."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, files in samples:
            if "." in name.rpartition("/")[2]:
                raise UserError(f"sample '{name}': a dot would end its name in an archive")
            for ending, data in files.items():
                entry = tarfile.TarInfo(f"{name}.{ending}")
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
