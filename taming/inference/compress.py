"""Pictures as files of a few bytes: a first stage's codes, coded by a range coder with the prior's
probabilities, so that the file is as long as the prior is surprised (-log2 p).

The encoder walks the decoder's own path, code after code: logits of one parallel pass differ from
the sequential ones in their last bits, and one such bit is enough to read everything after it
wrong. For the same reason a file is read by the checkpoint, on the kind of machine and with the
number of threads that it was written with; a checksum over the codes says if that went wrong. All
of it is done on the CPU, also where there is a GPU: a file that only such a GPU reads helps nobody.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming import images
from taming.data.reading import read_image, to_tensor
from taming.errors import UserError
from taming.files import check_ending, check_output, write_atomically
from taming.first_stage.interface import Codes, pad_to_multiple
from taming.formats.load import checkpoint_hash, find_checkpoint
from taming.inference.memory import check_reconstruction
from taming.inference.models import second_stage_of
from taming.inference.share import using_threads
from taming.second_stage.interface import Condition, Prior
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import reader

MAGIC = b"tamg"
VERSION = 1
MOST_THREADS = 255  # a byte holds them
MOST_PIXELS = 65_535  # of a side; two bytes hold them


@dataclass(frozen=True)
class Header:
    """The first 32 bytes of a file."""

    checkpoint: bytes  # the beginning of its SHA-256
    height: int
    width: int
    threads: int
    length: int  # of the payload in bytes
    codes: int  # checksum of the codes

    # Magic, version, the fields above, checksum of header and payload
    LAYOUT = struct.Struct("<4sB8sHHBIII")

    def packed(self, payload: bytes) -> bytes:
        values = MAGIC, VERSION, *vars(self).values()
        checksum = zlib.crc32(payload, zlib.crc32(self.LAYOUT.pack(*values, 0)))
        return self.LAYOUT.pack(*values, checksum)


def read_file(path: str | Path) -> tuple[Header, bytes]:
    """Header and payload. Raises UserError for a file that is truncated, damaged, or another."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"'{path}' can't be read ({error.strerror})") from None
    size = Header.LAYOUT.size
    if len(content) < size or content[:4] != MAGIC:
        raise UserError(
            f"'{path}' was not written by taming compress, or is cut off within its first {size}"
            " bytes"
        )
    _, version, *values, _ = Header.LAYOUT.unpack(content[:size])
    header, payload = Header(*values), content[size:]
    if version != VERSION:
        raise UserError(f"'{path}' is of version {version}, and this taming reads {VERSION}")
    if len(payload) != header.length:
        raise UserError(
            f"'{path}' should have {header.length} bytes after its header, but has {len(payload)}:"
            " it was cut off, or added to"
        )
    if header.packed(payload) != content[:size]:
        raise UserError(f"'{path}' is damaged: its checksum does not fit its content")
    if not (header.height and header.width and header.threads):
        raise UserError(
            f"'{path}' is malformed: it says {header.height}x{header.width} pixels and"
            f" {header.threads} threads"
        )
    return header, payload


@dataclass(frozen=True)
class Compressed:
    payload: bytes
    bits: float  # -log2 p(codes) by the prior
    codes: Codes


def compress_file(
    checkpoint: str | Path,
    image: str | Path,
    out: str | Path,
    config: str | None = None,
    allow: Sequence[str] = (),
) -> str:
    """Writes OUT.

    Args:
        checkpoint: a second stage: whatever `taming.load` takes.
        image: a picture of any size up to 65,535 pixels a side.
        config: the YAML that came with a published checkpoint.
        allow: packages of one's own that the checkpoint may name.

    Returns:
        A table of sizes and PSNR beside PNG, JPEG and WebP.
    """
    check_output(out, (find_checkpoint(checkpoint), image), (".tamg",))
    model, digest = _model(checkpoint, config, allow)
    original = to_tensor(read_image(Path(image)))[None]
    height, width = original.shape[-2:]
    if max(height, width) > MOST_PIXELS:
        raise UserError(f"'{image}' is {height}x{width}; sides up to 65,535 can be compressed")
    threads = min(torch.get_num_threads(), MOST_THREADS)
    with using_threads(threads):
        compressed = compress(model, original)
    payload = compressed.payload
    header = Header(digest, height, width, threads, len(payload), _checksum(compressed.codes))
    write_atomically(out, lambda file: file.write_bytes(header.packed(payload) + payload))
    decoded = model.decode(compressed.codes)[..., :height, :width].clamp(-1, 1)
    return table(model, original, decoded, compressed)


def decompress_file(
    checkpoint: str | Path,
    file: str | Path,
    out: str | Path,
    config: str | None = None,
    allow: Sequence[str] = (),
) -> Path:
    """Writes the picture as PNG, and returns its path.

    Args:
        checkpoint: the one that the file was written with.
        config, allow: as of `compress_file`.

    Raises:
        UserError: the file is truncated, damaged, or of another checkpoint.
    """
    check_ending(out, ".png")
    check_output(out, (find_checkpoint(checkpoint), file), (".png",))
    header, payload = read_file(file)
    model, digest = _model(checkpoint, config, allow)
    if digest != header.checkpoint:
        raise UserError(
            f"'{file}' was made with another checkpoint (hash {header.checkpoint.hex()}) than"
            f" '{checkpoint}' (hash {digest.hex()}); give that one"
        )
    size = header.height, header.width
    with using_threads(header.threads):
        codes = decompress(model, payload, size)
    if _checksum(codes) != header.codes:
        raise UserError(
            f"'{file}' came out otherwise than it went in: this machine computes the prior's last"
            " digits differently; read it where it was made"
        )
    images.save(model.decode(codes)[0, :, : size[0], : size[1]], out)
    return Path(out)


@torch.no_grad()
def compress(model: SecondStage, image: Tensor) -> Compressed:
    """The codes of one image (1, C, H, W) in [-1, 1], of any size. Raises UserError for anything
    else.
    """
    _check_image(image)
    check_reconstruction(model.first_stage, image)
    codes = model.first_stage.encode(pad_to_multiple(image, model.multiple))
    encoder, models, symbols, bits = constriction.stream.queue.RangeEncoder(), [], [], 0.0

    def write(probabilities: np.ndarray, level: int, place: int) -> int:
        nonlocal bits
        symbol = int(codes[level].flatten()[place])
        models.append(_categorical(probabilities))
        symbols.append(symbol)
        encoder.encode(symbol, models[-1])
        bits -= math.log2(probabilities[symbol])
        return symbol

    _walk(model, [(level.shape[1], level.shape[2]) for level in codes], write)
    return Compressed(_shortest(encoder.get_compressed(), models, symbols), bits, codes)


def _check_image(image: Any) -> None:
    if not isinstance(image, Tensor):
        raise UserError(
            f"compress takes a tensor (1, C, H, W) in [-1, 1]; this is a {type(image).__name__};"
            " taming.data.reading.to_tensor makes one of a PIL picture"
        )
    if image.ndim != 4 or len(image) != 1 or 0 in image.shape:
        raise UserError(
            f"compress takes one image at a time, a tensor (1, C, H, W) in [-1, 1]; this one is"
            f" {tuple(image.shape)}"
        )
    if not image.is_floating_point():
        raise UserError(
            f"compress takes floats in [-1, 1], and this image is {image.dtype}; image / 127.5 - 1"
            " makes them of 0 to 255"
        )


@torch.no_grad()
def decompress(model: SecondStage, payload: bytes, size: tuple[int, int]) -> Codes:
    """The codes of a picture of this size (height, width), one (1, h, w) per level. Raises
    UserError for bytes that are no payload.
    """
    decoder = _range_decoder(payload)
    rows, columns = (n + -n % model.multiple for n in size)
    grids = list(model.first_stage.grids(rows, columns))

    def read(probabilities: np.ndarray, level: int, place: int) -> int:
        return decoder.decode(_categorical(probabilities))

    try:
        return _walk(model, grids, read)
    except (AssertionError, ValueError):  # a number outside of every interval
        raise UserError("the payload holds no codes of this checkpoint; it is damaged") from None


def _walk(
    model: SecondStage, grids: list[tuple[int, int]], visit: Callable[[np.ndarray, int, int], int]
) -> Codes:
    """Code after code in the prior's order; `visit(probabilities, level, place)` returns it."""
    stride = model.first_stage.stride
    condition = null_condition(model, (grids[-1][0] * stride, grids[-1][1] * stride))
    codes: Codes = ()
    for level, (prior, grid) in enumerate(zip(model.priors, grids)):
        assert isinstance(prior, Prior)
        level_codes = torch.zeros(1, grid[0] * grid[1], dtype=torch.int64)
        with prior.decoding():
            with_coarser = model.with_coarser(condition, codes)
            decoder, order = reader(prior, with_coarser, grid, model.crop)
            for number, place in enumerate(order):
                probabilities = decoder.logits().double().softmax(dim=-1)[0].numpy()
                level_codes[0, place] = visit(probabilities, level, place)
                if number + 1 < len(order):
                    decoder.extend(level_codes[:, place : place + 1])
        codes += (level_codes.view(1, *grid),)
    return codes


def null_condition(model: SecondStage, size: tuple[int, int]) -> Condition:
    """The condition of a picture of this size about which nothing is said. Raises UserError for a
    prior that was never trained so.
    """
    key = model.conditioner.key
    if key is None:
        return model.conditioner({"count": 1})
    if not model.condition_dropout:
        raise UserError(
            f"this prior is conditioned on '{key}' and was trained without condition_dropout, so it"
            " can't tell how probable a picture alone is; take one with condition_dropout, or an"
            " unconditional one"
        )
    return model.null_condition(size)


def _categorical(probabilities: np.ndarray) -> Any:
    return constriction.stream.model.Categorical(probabilities, perfect=False)


def _range_decoder(payload: bytes) -> Any:
    """Bytes that were dropped at the end are zeros."""
    padded = payload + b"\0" * (-len(payload) % 4)
    return constriction.stream.queue.RangeDecoder(
        np.frombuffer(padded, dtype=">u4").astype(np.uint32)
    )


def _shortest(words: np.ndarray, models: list, symbols: list[int]) -> bytes:
    """The fewest bytes that are read as these symbols. A range coder ends in full words of 32 bits,
    but any number within its last interval will do, so one that ends in zeros is taken, and they
    are dropped: on 256 codes those bits would be more than 1 %.
    """
    full = words.astype(">u4").tobytes()
    shortest = full
    for length in range(len(full) - 1, max(-1, len(full) - 9), -1):
        number = int.from_bytes(full[:length], "big")
        for candidate in (number, number + 1):  # the interval may lie just below the next one
            if candidate < 256**length and _reads(
                candidate.to_bytes(length, "big"), models, symbols
            ):
                shortest = candidate.to_bytes(length, "big")
                break
        else:
            break
    return shortest


def _reads(payload: bytes, models: list, symbols: list[int]) -> bool:
    decoder = _range_decoder(payload)
    try:
        return all(decoder.decode(model) == symbol for model, symbol in zip(models, symbols))
    except (AssertionError, ValueError):  # a number outside of every interval
        return False


def table(model: SecondStage, image: Tensor, decoded: Tensor, compressed: Compressed) -> str:
    """Sizes in bytes and PSNR of the picture as it comes back, beside PNG, and JPEG and WebP at the
    quality whose size comes nearest.
    """
    payload, header = len(compressed.payload), Header.LAYOUT.size
    levels = zip(compressed.codes, model.first_stage.num_codes)
    plain_bits = sum(level.numel() * math.log2(k) for level, k in levels)
    psnr = float(images.psnr(image, images.to_uint8(decoded).float() / 127.5 - 1))
    note = f"{payload} payload ({compressed.bits:.0f} bits by the prior), {header} header"
    rows = [
        ("this file", payload + header, psnr, note),
        ("codes as they are (log2 K)", math.ceil(plain_bits / 8), psnr, ""),
        ("PNG", len(_saved(image, "PNG")), math.inf, "lossless"),
        _nearest_in_size(image, "JPEG", payload + header),
        _nearest_in_size(image, "WEBP", payload + header),
    ]
    lines = [
        f"{name:<28} {size:>9} bytes {value:>7.2f} dB  {note}" for name, size, value, note in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _nearest_in_size(image: Tensor, form: str, size: int) -> tuple[str, int, float, str]:
    files = {quality: _saved(image, form, quality) for quality in range(1, 96, 2)}
    quality = min(files, key=lambda one: abs(len(files[one]) - size))
    decoded = to_tensor(Image.open(io.BytesIO(files[quality])).convert("RGB"))[None]
    psnr = float(images.psnr(image, decoded))
    return form, len(files[quality]), psnr, f"quality {quality}"


def _saved(image: Tensor, form: str, quality: int | None = None) -> bytes:
    buffer = io.BytesIO()
    options = {} if quality is None else {"quality": quality}
    images.to_pil(image[0]).save(buffer, format=form, **options)
    return buffer.getvalue()


def _checksum(codes: Codes) -> int:
    return zlib.crc32(b"".join(level.to(torch.int32).numpy().tobytes() for level in codes))


def _model(
    checkpoint: str | Path, config: str | None, allow: Sequence[str]
) -> tuple[SecondStage, bytes]:
    """The model, and the first 8 bytes of its file's SHA-256."""
    model = second_stage_of(checkpoint, config, allow)
    return model, bytes.fromhex(checkpoint_hash(checkpoint, config))
