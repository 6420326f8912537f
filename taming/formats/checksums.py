"""Checksums of checkpoints, so that a flipped byte is named and not sampled from.

A .ckpt is a zip archive, which has a CRC of each record that torch writes and does not look at; a
.safetensors of ours carries the same of each tensor, and of its metadata. They find what disks and
copies damage, not what somebody forges.
"""

import json
import zipfile
import zlib
from pathlib import Path

import torch
from torch import Tensor

from taming.errors import UserError


def damaged_record(path: Path) -> str | None:
    """The first record of a torch archive that is not what was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except Exception as error:  # zipfile raises many kinds
        return f"the archive itself ({' '.join(str(error).split())[:80]})"


def tensor_checksum(tensor: Tensor) -> int:
    """Of its numbers as they lie in memory, row after row."""
    numbers = tensor.detach().contiguous().reshape(-1)
    return zlib.crc32(numbers.view(torch.uint8).numpy().data) if len(numbers) else 0


def write_checksums(text: str, tensors: dict[str, Tensor]) -> str:
    """Of metadata and tensors, as JSON."""
    sums = {name: tensor_checksum(tensor) for name, tensor in tensors.items()}
    return json.dumps({"metadata": zlib.crc32(text.encode()), "tensors": sums})


def compare_checksums(sums: str, text: str, tensors: dict[str, Tensor], path: Path) -> None:
    """Raises UserError where metadata or tensors are not what `write_checksums` was given."""
    expected = parsed(sums, path)
    if expected.get("metadata") != zlib.crc32(text.encode(errors="replace")):
        raise damaged(path, "its metadata")
    listed = expected.get("tensors")
    if not isinstance(listed, dict) or listed.keys() != tensors.keys():
        raise damaged(path, "the list of its checksums")
    for name, tensor in tensors.items():
        if listed[name] != tensor_checksum(tensor):
            raise damaged(path, f"'{name}'")


def parsed(text: str, path: Path) -> dict:
    """A JSON object in a file's metadata."""
    if len(text) > 2**22:
        raise UserError(f"'{path}' has metadata of {len(text)} characters; is it a checkpoint?")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"'{path}' has metadata that are no JSON ({reason})") from None
    if not isinstance(value, dict):
        raise UserError(f"'{path}' has metadata that are a {type(value).__name__}, not a mapping")
    return value


def damaged(path: Path, part: str) -> UserError:
    return UserError(
        f"'{path}' is damaged: {part} is not what was written (its checksum differs); copy the"
        " file again, or take an earlier checkpoint"
    )
