"""Arrays in one file, read without loading them: the layout of safetensors (a header of JSON, then
the numbers), memory-mapped.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from taming.errors import UserError, first_line
from taming.files import write_atomically

KINDS = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I64": np.int64}
NO_SUM = "checksum"  # in the header until all is written, as long as one
LONGEST_HEADER = 100 * 2**20  # bytes, as safetensors has it
Chunks = Iterable[np.ndarray]
Shape = tuple[int, ...]


def write_arrays(
    path: str | Path, arrays: Mapping[str, tuple[type, Shape, Chunks]], metadata: Mapping[str, Any]
) -> None:
    """Writes arrays piece by piece, so that they need not fit into memory.

    Args:
        path: the file.
        arrays: kind of number, shape, and the pieces whose rows make up the array.
        metadata: plain types by name.

    Raises:
        UserError: the disk is full, ...
    """
    header: dict[str, Any] = {"__metadata__": {k: json.dumps(v) for k, v in metadata.items()}}
    header["__metadata__"]["crc32"] = NO_SUM
    names, end = {made: name for name, made in KINDS.items()}, 0
    for name, (kind, shape, _) in arrays.items():
        start, end = end, end + prod(shape) * np.dtype(kind).itemsize
        header[name] = {"dtype": names[kind], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            checksum = 0
            for kind, _, chunks in arrays.values():
                for chunk in chunks:
                    data = np.ascontiguousarray(chunk, kind).view(np.uint8).reshape(-1).data
                    checksum = zlib.crc32(data, checksum)
                    stream.write(data)
            stream.seek(8 + text.index(NO_SUM.encode()))
            stream.write(f"{checksum:08x}".encode())

    write_atomically(path, write)


def open_arrays(
    path: str | Path, check: bool = False
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(metadata, arrays), the arrays memory-mapped and read-only.

    Args:
        path: the file.
        check: read all of it, and compare its checksum.

    Raises:
        UserError: there is no such file, it is damaged, or something else.
    """
    try:
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > LONGEST_HEADER:
                raise ValueError("no header")
            header = json.loads(stream.read(length))
            size = stream.seek(0, 2)
        texts = header.pop("__metadata__", {})
        checksum = texts.pop("crc32", "")
        metadata = {key: json.loads(text) for key, text in texts.items()}
        numbers = np.asarray(np.memmap(path, np.uint8, "r", offset=8 + length))
        arrays, end = {}, 0
        for name, entry in header.items():
            end = max(end, entry["data_offsets"][1])
            arrays[name] = _view(numbers, entry)
        if size != 8 + length + end:
            raise ValueError(f"{size} bytes instead of {8 + length + end}")
        if check and f"{zlib.crc32(numbers.data):08x}" != checksum:
            raise ValueError("its checksum differs")
    except OSError as error:
        raise UserError(f"'{path}' can't be read ({error.strerror})") from None
    except Exception as error:  # of what is no such file: JSON, keys, shapes, ...
        reason = first_line(error)[:120] or type(error).__name__
        raise UserError(f"'{path}' is damaged ({reason}); make it anew") from None
    return metadata, arrays


def _view(numbers: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"shape {shape}")
    if not 0 <= start <= end <= len(numbers):
        raise ValueError("it ends too early")
    return numbers[start:end].view(KINDS[entry["dtype"]]).reshape(shape)
