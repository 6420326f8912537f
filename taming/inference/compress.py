"""Pictures as files of a few bytes: a first stage's codes, coded by a range coder with the prior's
probabilities, so that the file is as long as the prior is surprised (-log2 p).

The encoder walks the decoder's own path, code after code: logits of one parallel pass differ from
the sequential ones in their last bits, and one such bit is enough to read everything after it
wrong. For the same reason a file is read by the checkpoint, on the kind of machine and with the
number of threads that it was written with; a checksum over the codes says if that went wrong.
"""

import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import constriction
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming import images
from taming.data.transforms import read_image, to_tensor
from taming.errors import UserError
from taming.files import file_hash, write_atomically
from taming.first_stage.interface import Codes, pad_to_multiple
from taming.formats.load import find_checkpoint, load
from taming.second_stage.interface import Condition
from taming.second_stage.model import SecondStage
from taming.second_stage.sampling import reader

MAGIC = b"tamg"


# Magic, version, checkpoint, height, width, threads, bytes of payload, checksums of codes and of
# the file
HEADER = struct.Struct("<4sB8sHHBIII")


VERSION = 1


@dataclass
class Compressed:
    payload: bytes
    bits: float  # -log2 p(codes) by the prior
    codes: Codes


def compress_file(ckpt: str, picture: str | Path, out: str | Path) -> str:
    """Writes OUT; returns what it took, beside what other ways take."""
    model, digest = _model(ckpt)
    image = to_tensor(read_image(Path(picture)))[None]
    height, width = image.shape[-2:]
    if max(height, width) >= 1 << 16:
        raise UserError(f"'{picture}' is {height}x{width}; sides up to 65,535 can be compressed")
    found = compress(model, image)
    checksum = _codes_checksum(found.codes)
    fields = (
        MAGIC,
        VERSION,
        digest,
        height,
        width,
        torch.get_num_threads(),
        len(found.payload),
        checksum,
    )
    whole = zlib.crc32(found.payload, zlib.crc32(HEADER.pack(*fields, 0)))
    write_atomically(
        out, lambda file: file.write_bytes(HEADER.pack(*fields, whole) + found.payload)
    )
    shown = model.decode(found.codes)[..., :height, :width]
    return table(model, image, shown, found)


def decompress_file(ckpt: str, file: str | Path, out: str | Path) -> Path:
    """Writes the picture as PNG. Raises UserError for a file that is truncated, damaged, or of
    another checkpoint.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"'{file}' can't be read ({error.strerror})") from None
    if len(content) < HEADER.size or content[:4] != MAGIC:
        raise UserError(
            f"'{file}' was not written by taming compress, or is cut off within its first"
            f" {HEADER.size} bytes"
        )
    *fields, whole = HEADER.unpack(content[: HEADER.size])
    _, version, digest, height, width, threads, length, checksum = fields
    payload = content[HEADER.size :]
    if version != VERSION:
        raise UserError(f"'{file}' is of version {version}, and this taming reads {VERSION}")
    if len(payload) != length:
        raise UserError(
            f"'{file}' should have {length} bytes after its header, but has {len(payload)}: it was"
            " cut off, or added to"
        )
    if zlib.crc32(payload, zlib.crc32(HEADER.pack(*fields, 0))) != whole:
        raise UserError(f"'{file}' is damaged: its checksum does not fit its content")
    model, own = _model(ckpt)
    if own != digest:
        raise UserError(
            f"'{file}' was made with another checkpoint (hash {digest.hex()}) than '{ckpt}' (hash"
            f" {own.hex()}); give that one"
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        codes = decompress(model, payload, (height, width))
    finally:
        torch.set_num_threads(before)
    if _codes_checksum(codes) != checksum:
        raise UserError(
            f"'{file}' came out otherwise than it went in: this machine computes the prior's last"
            " digits differently; read it where it was made"
        )
    images.save(model.decode(codes)[0, :, :height, :width], out)
    return Path(out)


@torch.no_grad()
def compress(model: SecondStage, image: Tensor) -> Compressed:
    """image (1, C, H, W) in [-1, 1], any size."""
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

    _walk(model, [tuple(level.shape[1:]) for level in codes], write)
    return Compressed(_shortest(encoder.get_compressed(), models, symbols), bits, codes)


@torch.no_grad()
def decompress(model: SecondStage, payload: bytes, size: tuple[int, int]) -> Codes:
    """The codes of a picture of this size (height, width), one (1, h, w) per level."""
    decoder = _range_decoder(payload)
    rows, columns = (n + -n % model.multiple for n in size)
    return _walk(
        model,
        list(model.first_stage.grids(rows, columns)),
        lambda probabilities, level, place: decoder.decode(_categorical(probabilities)),
    )


def _walk(model: SecondStage, grids: list, visit) -> Codes:
    """Code after code in the prior's order; `visit(probabilities, level, place)` says which one it is."""
    condition, codes = (
        null_condition(model, tuple(n * model.first_stage.stride for n in grids[-1])),
        (),
    )
    for level, (prior, grid) in enumerate(zip(model.priors, grids)):
        with prior.decoding():
            decoder, order = reader(
                prior, model.level_condition(condition, codes), grid, model.crop
            )
            found = torch.zeros(1, grid[0] * grid[1], dtype=torch.int64)
            for number, place in enumerate(order):
                probabilities = decoder.logits().double().softmax(dim=-1)[0].numpy()
                found[0, place] = visit(probabilities, level, place)
                if number + 1 < len(order):
                    decoder.extend(found[:, place : place + 1])
        codes += (found.view(1, *grid),)
    return codes


def null_condition(model: SecondStage, size: tuple[int, int]) -> Condition:
    """What a prior hears of a picture of this size when nothing is said. Raises UserError for one
    that was never trained so.
    """
    key = getattr(model.conditioner, "key", None)
    if key is None:
        return model.conditioner({"count": 1})
    if not model.condition_dropout:
        raise UserError(
            f"this prior is conditioned on '{key}' and was trained without condition_dropout, so it"
            " can't tell how probable a picture alone is; take one with condition_dropout, or an"
            " unconditional one"
        )
    channels = getattr(getattr(model.conditioner, "first_stage", None), "in_channels", 1)
    made = {
        "segmentation": torch.zeros(1, *size).long(),
        "class": torch.zeros(1).long(),
        "boxes": torch.zeros(1, 1, 5),
    }
    return tuple(
        part.null()
        for part in model.conditioner({key: made.get(key, torch.zeros(1, channels, *size))})
    )


def _categorical(probabilities: np.ndarray):
    return constriction.stream.model.Categorical(probabilities, perfect=False)


def _range_decoder(payload: bytes):
    """Bytes that were left away at the end are zeros."""
    return constriction.stream.queue.RangeDecoder(
        np.frombuffer(payload + b"\0" * (-len(payload) % 4), dtype=">u4").astype(np.uint32)
    )


def _shortest(words: np.ndarray, models: list, symbols: list[int]) -> bytes:
    """The fewest bytes that are read as these symbols. A range coder ends in whole words of 32
    bits, but any number within its last interval will do, so some that ends in zeros is taken, and
    they are left away: on 256 codes those bits would be more than 1 %.
    """
    whole = words.astype(">u4").tobytes()
    shortest = whole
    for length in range(len(whole) - 1, max(-1, len(whole) - 9), -1):
        number = int.from_bytes(whole[:length], "big")
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


def table(model: SecondStage, image: Tensor, shown: Tensor, found: Compressed) -> str:
    """Sizes in bytes and PSNR of the picture as it comes back, beside PNG, and JPEG and WebP at the
    quality whose size comes nearest.
    """
    raw = (
        sum(
            level.numel() * math.log2(k)
            for level, k in zip(found.codes, model.first_stage.num_codes)
        )
        / 8
    )
    total = len(found.payload) + HEADER.size
    psnr = _psnr(image, images.to_uint8(shown).float() / 127.5 - 1)
    rows = [
        (
            "this file",
            total,
            psnr,
            (
                f"{len(found.payload)} payload ({found.bits:.0f} bits by the prior), {HEADER.size}"
                " header"
            ),
        ),
        ("codes as they are (log2 K)", math.ceil(raw), psnr, ""),
        ("PNG", len(_saved(image, "PNG")), math.inf, "lossless"),
    ]
    for form in ("JPEG", "WEBP"):
        tried = [(quality, _saved(image, form, quality)) for quality in range(1, 96, 2)]
        quality, data = min(tried, key=lambda one: abs(len(one[1]) - total))
        rows.append(
            (
                form,
                len(data),
                _psnr(image, to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))[None]),
                f"quality {quality}",
            )
        )
    return "\n".join(
        f"{name:<28} {size:>9} bytes {value:>7.2f} dB  {note}".rstrip()
        for name, size, value, note in rows
    )


def _saved(image: Tensor, form: str, quality: int | None = None) -> bytes:
    file = io.BytesIO()
    images.to_pil(image[0]).save(
        file, format=form, **({} if quality is None else {"quality": quality})
    )
    return file.getvalue()


def _psnr(image: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(4 / (image - other).square().mean().clamp(min=1e-10)))


def _codes_checksum(codes: Codes) -> int:
    return zlib.crc32(b"".join(level.to(torch.int32).numpy().tobytes() for level in codes))


def _model(ckpt: str) -> tuple[SecondStage, bytes]:
    """The model, and the first 8 bytes of its file's SHA-256."""
    return load(ckpt, stage="second"), bytes.fromhex(file_hash(find_checkpoint(ckpt)))
