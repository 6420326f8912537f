"""Frames between page and server: the length of a header, the header in JSON, and the blobs of
bytes that it names, one behind the other.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taming.errors import UserError
from taming.studio.limits import BLOBS, HEADER_BYTES

LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Frame:
    """One message, either way.

    Args:
        header: plain values; `do` names a request, `event` an answer, `id` which request it is.
        blobs: bytes by name: layouts, pictures.
    """

    header: dict[str, Any]
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the blobs."""
        return sum(map(len, self.blobs.values()))


def pack(frame: Frame) -> bytes:
    header = {**frame.header, "blobs": {name: len(blob) for name, blob in frame.blobs.items()}}
    text = json.dumps(header).encode()
    return b"".join([LENGTH.pack(len(text)), text, *frame.blobs.values()])


def unpack(content: bytes) -> Frame:
    """Raises UserError for anything that `pack` does not write."""
    if len(content) < LENGTH.size:
        raise UserError("the message is no frame: it ends before its length")
    (length,) = LENGTH.unpack_from(content)
    if length > HEADER_BYTES or LENGTH.size + length > len(content):
        raise UserError(
            f"the message's header has {length} bytes; at most {HEADER_BYTES}, and what is there"
        )
    header = _header_of(content[LENGTH.size : LENGTH.size + length])
    sizes = header.pop("blobs", {})
    if not isinstance(sizes, dict) or len(sizes) > BLOBS or not all(map(_is_size, sizes.values())):
        raise UserError(f"the message's blobs should be at most {BLOBS} names with sizes")
    return Frame(header, _blobs_of(content, LENGTH.size + length, sizes))


def _header_of(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UserError("the message's header is not JSON") from None
    if not isinstance(header, dict):
        raise UserError("the message's header should be an object")
    return header


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _blobs_of(content: bytes, start: int, sizes: Mapping[str, int]) -> dict[str, bytes]:
    if start + sum(sizes.values()) != len(content):
        raise UserError("the message's blobs are not as long as its header says")
    blobs = {}
    for name, size in sizes.items():
        blobs[name] = content[start : start + size]
        start += size
    return blobs
