"""Odd but valid files load with the right colours and the right way up;
what can't be used is one line, and never the wrong picture.
"""

import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from taming.data.layouts import mask_to_tensor, read_mask
from taming.data.reading import CorruptImage, image_size, mask_remark, read_image, to_tensor
from taming.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Corrupt EXIF"),
    pytest.mark.filterwarnings("ignore:Truncated File"),
]
RED = (200, 30, 60)


def save(image, path, **options):
    image.save(path, **options)
    return path


def half_red() -> Image.Image:
    """8 x 4, its left half red, the rest blue."""
    image = Image.new("RGB", (8, 4), "blue")
    image.paste(RED, (0, 0, 4, 4))
    return image


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


# Pictures


@pytest.mark.parametrize(
    "make",
    [
        lambda d: save(Image.new("RGB", (8, 4), RED), d / "a.png"),
        lambda d: save(
            Image.new("RGB", (8, 4), RED).convert("P", palette=Image.Palette.ADAPTIVE), d / "a.png"
        ),
        lambda d: save(Image.new("RGBA", (8, 4), (*RED, 255)), d / "a.png"),
        lambda d: save(Image.new("CMYK", (8, 4), (55, 225, 195, 0)), d / "a.tif"),
        lambda d: save(Image.new("RGB", (8, 4), RED).convert("YCbCr"), d / "a.jpg", quality=98),
        lambda d: save(Image.new("RGB", (8, 4), RED), d / "a.webp", lossless=True),
    ],
    ids=["rgb", "palette", "rgba", "cmyk", "ycbcr", "webp"],
)
def test_colours(make, tmp_path):
    assert np.abs(np.asarray(read_image(make(tmp_path))).astype(int) - RED).max() <= 2


@pytest.mark.parametrize(
    "image, value",
    [
        (Image.new("L", (4, 4), 77), 77),
        (Image.new("1", (4, 4), 1), 255),
        (Image.new("LA", (4, 4), (0, 0)), 255),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), 255),
        (Image.fromarray(np.full((4, 4), 77 * 257, np.uint16)), 77),
        (Image.fromarray(np.full((4, 4), 77 * 257, np.int32)), 77),
        (Image.fromarray(np.full((4, 4), 0.5, np.float32)), 128),
        (Image.fromarray(np.full((4, 4), 1.04, np.float32)), 255),
        (Image.fromarray(np.full((4, 4), 77.0, np.float32)), 77),
        (Image.fromarray(np.full((4, 4), -0.02, np.float32)), 0),
    ],
)
def test_grey_deep_float_and_transparent(image, value, tmp_path):
    path = save(image, tmp_path / "a.tif" if image.mode in "FI" else tmp_path / "a.png")
    assert np.asarray(read_image(path)).tolist() == [[[value] * 3] * 4] * 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.0, 1.5, 40_000.0])
def test_floats_that_are_neither_0_to_1_nor_0_to_255_are_refused(value, tmp_path):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 2] = value
    path = save(Image.fromarray(values), tmp_path / "a.tif")
    with pytest.raises(CorruptImage, match="0 to 1 or 0 to 255"):
        read_image(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_put_upright(orientation, ending, tmp_path):
    stored = half_red()
    for _ in range(8):  # whatever turns back: the flag undoes what made the stored picture
        path = save(stored, tmp_path / f"a.{ending}", exif=exif(orientation))
        upright = np.asarray(read_image(path)).astype(int)
        if upright.shape == (4, 8, 3) and np.abs(upright[0, 0] - RED).max() < 60:
            break
        stored = stored.transpose(Image.Transpose.ROTATE_90)
    assert np.abs(upright[1:3, 1:3] - RED).max() < 60 and upright[1:3, 5:7, 2].min() > 180
    assert ending == "png" or image_size(path) == (8, 4)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_broken_exif_block_does_not_cost_the_picture(seed, ending, tmp_path):
    """Bytes of the block are replaced or cut off; the picture stays."""
    draw = random.Random(f"{seed}/{ending}")
    block = bytearray(exif(6).tobytes())
    for _ in range(seed):
        block[draw.randrange(6, len(block))] = draw.randrange(256)
    block = bytes(block[: draw.randrange(8, len(block) + 1)]) if seed % 2 else bytes(block)
    path = save(half_red(), tmp_path / f"a.{ending}", exif=block)
    assert sorted(read_image(path).size) == sorted(image_size(path)) == [4, 8]


def broken_files(folder):
    random_picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for ending in ("jpg", "png", "webp", "tif", "bmp", "ppm"):
        path = save(Image.fromarray(random_picture), folder / f"cut.{ending}")
        path.write_bytes(path.read_bytes()[:2000])
        path.with_stem("start").write_bytes(path.read_bytes()[:20])
        path.with_stem("empty").touch()
        path.with_stem("text").write_text("not a picture")
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    (folder / "bomb.png").write_bytes(bomb + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 64)
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")


def test_what_is_no_picture_is_named_in_one_line(tmp_path):
    broken_files(tmp_path)
    paths = [*tmp_path.iterdir(), tmp_path / "missing.png"]
    for path in paths:
        for read in (read_image, read_mask):
            with pytest.raises(CorruptImage) as raised:
                read(path)
            assert path.name in str(raised.value) and "\n" not in str(raised.value)
    assert len(paths) == 29


def test_the_header_says_the_size_without_the_pixels(tmp_path):
    path = save(Image.new("RGB", (300, 200)), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:60])
    assert image_size(path) == (300, 200)
    with pytest.raises(CorruptImage):
        read_image(path)


# The doors of tensors


@pytest.mark.parametrize("convert", [to_tensor, mask_to_tensor])
@pytest.mark.parametrize(
    "value",
    [None, [1, 2], np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), "a.png", Image.new("F", (4, 4))],
)
def test_what_is_no_pil_picture_is_one_line(convert, value):
    with pytest.raises(UserError, match="is expected, not"):
        convert(value)


def test_label_maps_among_pictures_are_remarked_on(tmp_path):
    """By a few values, in a palette or nearly black; greyscale and black pictures are pictures."""
    labels = np.arange(64 * 48).reshape(48, 64) % 7
    grey = np.linspace(0, 255, 64 * 48).reshape(48, 64)
    kinds = {
        "labels": Image.fromarray(labels.astype(np.uint8)),
        "ignored": Image.fromarray(np.where(labels == 6, 255, labels).astype(np.uint8)),
        "palette": Image.fromarray((labels * 30).astype(np.uint8)).convert("P"),
        "grey": Image.fromarray(grey.astype(np.uint8)),
        "black": Image.new("L", (64, 48)),
        "colour": Image.fromarray(labels.astype(np.uint8)).convert("RGB"),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in (*kinds, "broken"):
        remark = mask_remark([tmp_path / f"{name}.png"] * 9)
        assert (remark is not None) == (name in ("labels", "ignored", "palette")), name
    assert mask_remark([tmp_path / "labels.png", tmp_path / "grey.png"]) is None
    assert mask_remark([]) is None
