"""Tensors <-> pictures, montages, PSNR, and the text inside a PNG, whoever wrote it."""

import math
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from taming import images
from taming.errors import UserError
from taming.images import (
    colour_labels,
    contact_sheet,
    montage,
    palette,
    psnr,
    read_metadata,
    save,
    save_film,
    to_pil,
    to_uint8,
)

# PSNR


def test_psnr_is_that_of_the_definition_for_each_picture():
    image = torch.zeros(3, 1, 4, 4)
    other = image.clone()
    other[1] += 0.2  # a tenth of the range
    other[2, 0, 0, 0] += 2.0  # all of the range, in a sixteenth of the pixels
    values = psnr(image, other)
    assert values.shape == (3,)
    assert values[1:].tolist() == pytest.approx([20.0, 10 * math.log10(16)], abs=1e-4)
    assert values[0] == pytest.approx(10 * math.log10(4e10))
    assert torch.equal(psnr(other, image), values)


# Colours


def test_a_label_has_the_same_colour_whatever_the_number_of_labels():
    assert torch.equal(palette(256)[:30], palette(30))
    assert len({tuple(colour) for colour in palette(60).tolist()}) == 60
    labels = torch.tensor([[[0, 2], [1, 0]]])
    coloured = to_uint8(colour_labels(labels, 3))[0]
    for row in range(2):
        for column in range(2):
            assert torch.equal(coloured[:, row, column], palette(3)[labels[0, row, column]])


def test_bytes_come_back_and_what_lies_outside_is_clamped():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(values.float() / 127.5 - 1), values)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


# Montages


def test_rows_are_pictures_and_columns_their_versions():
    a, b = torch.zeros(2, 3, 4, 5), torch.full((3, 3, 6, 5), -1.0)
    picture = montage([a, b], gap=1)
    assert picture.shape == (3, 2 * (6 + 2), 2 * (5 + 2))
    assert (picture[:, 1:5, 1:6] == 0).all() and (picture[:, 1:7, 8:13] == -1).all()
    assert (picture[:, :, 0] == 1).all() and (picture[:, 5:7, :7] == 1).all()
    enlarged = montage([a, b], scale=3, gap=1)
    assert torch.equal(enlarged[:, ::3, ::3], picture)


def test_a_contact_sheet_is_filled_row_by_row():
    pictures = torch.arange(5.0)[:, None, None, None].expand(5, 3, 1, 1) / 5
    sheet = contact_sheet(pictures, columns=3, gap=0)
    assert sheet[0].flatten().tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


# The doors

WRONG = [None, 3, "a.png", [[1.0]], np.zeros((1, 3, 4, 4)), Image.new("RGB", (4, 4))]
SHAPES = [torch.zeros(4, 4), torch.zeros(1, 1, 3, 4, 4), torch.zeros(())]


@pytest.mark.parametrize("value", [*WRONG, *SHAPES, torch.zeros(1, 3, 4, 4, dtype=torch.uint8)])
@pytest.mark.parametrize(
    "call", [lambda v: montage([v]), lambda v: psnr(v, v), contact_sheet, lambda v: to_pil(v)]
)
def test_what_is_no_tensor_of_pictures_is_one_line(call, value):
    with pytest.raises(UserError) as raised:
        call(value)
    assert "\n" not in str(raised.value) and "expected" in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: montage([]),
        lambda: montage([torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)]),
        lambda: montage([torch.zeros(1, 3, 4, 4)], scale=0),
        lambda: psnr(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)),  # would be broadcast
        lambda: to_pil(torch.zeros(4, 4, 3)),
        lambda: to_pil(torch.full((3, 4, 4), torch.nan)),
        lambda: to_pil(torch.zeros(3, 0, 4)),
    ],
)
def test_tensors_that_do_not_go_together_are_one_line(call):
    with pytest.raises(UserError):
        call()


# What a PNG says about itself


def test_metadata_comes_back_however_long(tmp_path):
    metadata = {"seed": 3, "size": [16, 20], "known": None, "long": "ü" * 1_200_000}
    save(torch.zeros(3, 4, 4), tmp_path / "a.png", metadata)
    assert read_metadata(tmp_path / "a.png") == metadata
    save(Image.new("L", (4, 4)), tmp_path / "b.png")
    assert read_metadata(tmp_path / "b.png") is None


def with_text(text, keyword="taming"):
    def write(path):
        info = PngInfo()
        info.add_text(keyword, text)
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)

    return write


def chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def with_chunk(name, content, broken=b""):
    """A PNG with a chunk of any content after its header."""

    def write(path):
        Image.new("RGB", (4, 4)).save(path)
        plain = path.read_bytes()
        path.write_bytes(
            plain[:33] + chunk(name, content)[: -len(broken) or None] + broken + plain[33:]
        )

    return write


NO_DICTIONARY = [
    "",
    "no JSON",
    "[]",
    "3",
    "null",
    '"text"',
    "true",
    "NaN",
    '{"a": NaN}',
    '{"a": Infinity}',
    "{",
    '{"a": 1',
    '{"a": 1}}',
    "{'a': 1}",
    '{"a": 1,}',
    "\x00",
    "[" * 100_000,
    '{"a":' * 50_000,
    '{"a": ' + "9" * 5000 + "}",
    "\u202e{}",
    "{} {}",
]
CHUNKS = {
    "no separator": with_chunk(b"tEXt", b"taming"),
    "empty": with_chunk(b"tEXt", b""),
    "no bytes": with_chunk(b"tEXt", b"taming\0"),
    "wrong sum": with_chunk(b"tEXt", b'taming\0{"a": 1}', broken=b"\0\0\0\0"),
    "not compressed": with_chunk(b"zTXt", b'taming\0\0{"a": 1}'),
    "another compression": with_chunk(b"zTXt", b'taming\0\7{"a": 1}'),
    "compressed, cut off": with_chunk(b"zTXt", b"taming\0\0" + zlib.compress(b'{"a": 1}')[:-6]),
    "no compression byte": with_chunk(b"zTXt", b"taming\0"),
    "bomb": with_chunk(b"zTXt", b"taming\0\0" + zlib.compress(b" " * 100_000_000)),
    "international, cut off": with_chunk(b"iTXt", b"taming\0\1"),
    "international, compressed wrongly": with_chunk(b"iTXt", b"taming\0\1\0en\0\0{}"),
    "international, no UTF-8": with_chunk(b"iTXt", b"taming\0\0\0en\0\0\xff\xfe"),
    "no name": with_chunk(b"tEXt", b'\0{"a": 1}'),
    "a length beyond the file": lambda path: path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
        + struct.pack(">I", 2**31 - 1)
        + b"tEXttaming\0{}"
    ),
    "header of another length": lambda path: path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0" * 3) + chunk(b"tEXt", b"taming\0{}")
    ),
    "no pixels": lambda path: path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
        + chunk(b"tEXt", b"taming\0[]")
        + chunk(b"IEND", b"")
    ),
    "JPEG": lambda path: Image.new("RGB", (4, 4)).save(path, format="JPEG", comment=b"taming"),
    "GIF": lambda path: Image.new("P", (4, 4)).save(path, format="GIF"),
    "no picture": lambda path: path.write_text("taming {}"),
    "nothing": lambda path: path.touch(),
    "only a mark": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "second piece only": with_text("{}", "taming1"),
    "another's text": with_text('{"a": 1}', "parameters"),
    "another case": with_text('{"a": 1}', "Taming"),
}
FOREIGN = {**{f"text {text[:12]!r}": with_text(text) for text in NO_DICTIONARY}, **CHUNKS}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN.keys())
def test_text_that_is_not_ours_is_none(write, tmp_path):
    write(tmp_path / "a.png")
    assert read_metadata(tmp_path / "a.png") is None


@pytest.mark.parametrize("cut", range(40, 400, 30))
def test_a_file_of_ours_that_is_cut_off_is_ours_or_none(cut, tmp_path):
    metadata = {"seed": 3, "text": "a" * 50}
    save(torch.zeros(3, 16, 16), tmp_path / "a.png", metadata)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:cut])
    assert read_metadata(tmp_path / "a.png") in (None, metadata)


@pytest.mark.parametrize("seed", range(30))
def test_a_file_of_ours_with_a_changed_byte_is_a_dictionary_or_none(seed, tmp_path):
    save(torch.zeros(3, 8, 8), tmp_path / "a.png", {"seed": 3})
    content = bytearray((tmp_path / "a.png").read_bytes())
    draw = np.random.default_rng(seed)
    content[draw.integers(8, len(content))] ^= 1 << draw.integers(8)
    (tmp_path / "a.png").write_bytes(content)
    assert read_metadata(tmp_path / "a.png") in (None, {"seed": 3})


# Files


def test_pictures_come_back_from_the_disk(tmp_path):
    image = torch.linspace(-1, 1, 48).reshape(3, 4, 4)
    save(image, tmp_path / "deep" / "a.png")
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "deep" / "a.png")), to_uint8(image).permute(1, 2, 0)
    )
    save(image[:1], tmp_path / "grey.png")
    assert Image.open(tmp_path / "grey.png").mode == "L"


def test_a_film_has_all_frames_and_stops_at_the_last(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (0, 100, 200)]
    save_film(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        durations = []
        for frame in range(film.n_frames):
            film.seek(frame)
            durations.append(film.info["duration"])
    assert sum(durations) == 80 * (3 + 8) and len(list(tmp_path.iterdir())) == 1


def test_a_picture_that_can_not_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    save(torch.zeros(3, 4, 4), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match="No space left"):
        images.save(torch.ones(3, 4, 4), tmp_path / "a.png")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]
