"""Masks in the shapes that people have them: the same labels from numbers, arrays, palettes and
colours; what is unclear is refused with what would help.
"""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from taming.data.layouts import mask_header, mask_to_tensor, read_layout, read_mask
from taming.data.legend import Legend, read_legend
from taming.data.reading import CorruptImage
from taming.errors import UserError
from taming.images import IGNORE, colour_labels, palette

NAMES = ["sky", "tree", "ground", "grass", "water"]
LEGEND = Legend.of(NAMES)


def save(image, path, **options):
    image.save(path, **options)
    return path


def labelled(count=5) -> np.ndarray:
    return np.arange(16, dtype=np.uint8).reshape(4, 4) % count


def drawn(labels=None) -> np.ndarray:
    """Labels in the legend's colours, (H, W, 3)."""
    return palette(5).numpy()[labelled() if labels is None else labels]


def palette_mask(colours, labels=None) -> Image.Image:
    mask = Image.fromarray(labelled() if labels is None else labels).convert("P")
    mask.putdata((labelled() if labels is None else labels).flatten().tolist())
    mask.putpalette(np.asarray(colours, np.uint8).flatten().tolist())
    return mask


def scene(side=64) -> np.ndarray:
    """A layout with slanted borders: sky, a hill of trees, water."""
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint8)
    labels[y > side // 2 + 0.2 * x] = 1
    labels[(y - side * 0.8) ** 2 + (x - side * 0.3) ** 2 < side * 2.5] = 4
    return labels


# One reader for every shape


def write_array(array, path):
    np.save(path, array)
    return path


SHAPES = {
    "greyscale": lambda d: save(Image.fromarray(labelled()), d / "a.png"),
    "16 bits": lambda d: save(Image.fromarray(labelled().astype(np.uint16)), d / "a.png"),
    "grey with alpha": lambda d: save(Image.fromarray(labelled()).convert("LA"), d / "a.png"),
    "float tiff": lambda d: save(Image.fromarray(labelled().astype(np.float32)), d / "a.tif"),
    "any palette": lambda d: save(palette_mask([[7, 7, 7]] * 256), d / "a.png"),
    "class palette": lambda d: save(palette_mask(palette(5)), d / "a.png"),
    "other order": lambda d: save(palette_mask(palette(5).flip(0), 4 - labelled()), d / "a.png"),
    "colours": lambda d: save(Image.fromarray(drawn()), d / "a.png"),
    "colours with alpha": lambda d: save(Image.fromarray(drawn()).convert("RGBA"), d / "a.png"),
    "bitmap": lambda d: save(Image.fromarray(drawn()), d / "a.bmp"),
    "lossless webp": lambda d: save(Image.fromarray(drawn()), d / "a.webp", lossless=True),
    "labels in three channels": lambda d: save(
        Image.fromarray(np.repeat(labelled()[..., None], 3, -1)), d / "a.png"
    ),
    "colours a little off": lambda d: save(Image.fromarray(drawn() + np.uint8(3)), d / "a.png"),
    "npy": lambda d: write_array(labelled(), d / "a.npy"),
    "npy int64": lambda d: write_array(labelled().astype(np.int64)[None], d / "a.npy"),
    "npy float": lambda d: write_array(labelled().astype(np.float64), d / "a.npy"),
    "npy colours": lambda d: write_array(drawn(), d / "a.npy"),
    "picture in memory": lambda d: Image.fromarray(drawn()),
    "array in memory": lambda d: labelled(),
    "tensor in memory": lambda d: torch.from_numpy(labelled()).long(),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_reads_as_the_same_labels(shape, tmp_path):
    layout = read_layout(SHAPES[shape](tmp_path), LEGEND)
    assert torch.equal(layout.labels(), torch.from_numpy(labelled()).long())


def test_what_may_surprise_is_said(tmp_path):
    def remarks(shape):
        return " ".join(read_layout(SHAPES[shape](tmp_path), LEGEND).remarks)

    assert "indices count, not colours" in remarks("any palette")
    assert "colours count, not indices" in remarks("other order")
    assert "its values are labels" in remarks("labels in three channels")
    assert not remarks("greyscale") and not remarks("class palette") and not remarks("colours")


def test_what_was_read_is_said_largest_first():
    labels = np.full((10, 20), 4, np.uint8)
    labels[:3] = 0
    labels[9, :10] = IGNORE
    text = read_layout(labels, LEGEND).describe("lake.png")
    assert text == "lake.png 20x10: water 65 %, sky 30 %, no label 5 %"


@pytest.mark.parametrize("mask", [np.array([[0, 1], [1, 0]], bool), np.array([[0, 255], [255, 0]])])
def test_masks_of_two_labels_may_be_black_and_white(mask, tmp_path):
    expected = torch.tensor([[0, 1], [1, 0]])
    white = (mask > 0).astype(np.uint8) * 255
    path = save(Image.fromarray(white), tmp_path / "a.png")
    for source in (mask, path, save(Image.open(path).convert("1"), tmp_path / "b.png")):
        assert torch.equal(read_layout(source, 2).labels(), expected)


def test_without_a_legend_any_numbers_are_labels():
    assert read_layout(np.array([[0, 77], [200, 3]]), None).labels().tolist() == [[0, 77], [200, 3]]


# Softened edges and strange colours


@pytest.mark.parametrize("zoom", [2, 3])
def test_softened_edges_go_to_a_label_beside_them(zoom):
    """As a paint program draws them: large and smooth, brought down. No third label appears."""
    labels = scene(64)
    large = Image.fromarray(drawn(labels)).resize((64 * zoom, 64 * zoom), Image.Resampling.NEAREST)
    soft = large.resize((100, 100), Image.Resampling.BICUBIC)
    layout = read_layout(soft, LEGEND)
    exact = Image.fromarray(labels).resize((100, 100), Image.Resampling.NEAREST)
    assert set(np.unique(layout.mask)) == {0, 1, 4}
    assert (np.asarray(layout.mask) == np.asarray(exact)).mean() > 0.97
    assert (np.asarray(soft).reshape(-1, 1, 3) != drawn(np.arange(5))).any(-1).all(1).mean() > 0.05


def test_few_strange_colours_are_told_and_many_are_refused_with_the_list():
    picture = drawn(scene(64))
    picture[20, :40] = (255, 0, 255)
    layout = read_layout(picture, LEGEND)
    assert "1.0 % in other colours went to the nearest label" in layout.describe("x")
    picture[10:20] = (255, 0, 255)
    picture[30:40] = (10, 10, 10)
    message = r"3\d % of it .*#ff00ff 17 % \(nearest: sky\), #0a0a0a 16 % .*--legend"
    with pytest.raises(CorruptImage, match=message):
        read_layout(picture, LEGEND)


def test_a_photograph_is_no_mask(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(CorruptImage, match="is it a photograph"):
        read_layout(noise, LEGEND)
    with pytest.raises(CorruptImage, match="reading them needs a legend"):
        read_layout(noise)


def test_a_palette_that_is_half_the_legends_is_refused(tmp_path):
    colours = palette(5).flip(0).clone()
    colours[0] = torch.tensor([255, 0, 255])
    path = save(palette_mask(colours), tmp_path / "a.png")
    with pytest.raises(CorruptImage, match="#ff00ff"):
        read_layout(path, LEGEND)


# No label


def test_255_and_transparent_pixels_have_no_label(tmp_path):
    labels = labelled()
    labels[0, 0] = 255
    assert read_layout(labels, LEGEND).labels()[0, 0] == IGNORE
    rgba = np.dstack([drawn(), np.full((4, 4), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    layout = read_layout(save(Image.fromarray(rgba), tmp_path / "a.png"), LEGEND)
    assert (np.asarray(layout.mask) == np.where(labels == 255, 255, labelled())).all()
    assert "6 % is transparent" in layout.describe("a")
    zero = read_layout(labelled(), LEGEND, ignore=0).labels()
    assert torch.equal(zero == IGNORE, torch.from_numpy(labelled()) == 0)
    assert read_layout(np.full((2, 2), 255), 256).labels().max() == 255  # a label of 256


def test_what_is_not_known_becomes_the_label_that_says_so():
    labels = np.array([[0, 255]])
    assert read_layout(labels, ["sky", "Unknown"]).filled().labels().tolist() == [[0, 1]]
    assert read_layout(labels, NAMES).filled().labels().tolist() == [[0, 255]]


def test_no_label_is_drawn_in_grey():
    drawn = colour_labels(torch.tensor([[[1, IGNORE]]]), 3)
    assert torch.equal(((drawn + 1) * 127.5).round()[0, :, 0, 1], torch.full((3,), 128.0))


# Conventions and legends


@pytest.mark.parametrize(
    "convention, numbers, labels",
    [
        ("ade20k", [0, 1, 150], [IGNORE, 0, 149]),
        ("coco-stuff", [0, 181, 255], [0, 181, IGNORE]),
        ("cityscapes", [0, 7, 8, 23, 33, 255], [IGNORE, 0, 1, 10, 18, IGNORE]),
    ],
)
def test_conventions_of_published_sets_are_one_word(convention, numbers, labels):
    count = {"ade20k": 150, "coco-stuff": 182, "cityscapes": 19}[convention]
    read = read_layout(np.array([numbers]), count, convention).labels()
    assert read.tolist() == [labels]


def test_classes_that_count_from_one_are_named():
    with pytest.raises(CorruptImage, match="label 5, but .* ends at 4; .*ade20k"):
        read_layout(labelled() + np.uint8(1), LEGEND)
    with pytest.raises(UserError, match="convention 'ade' is unknown; did you mean 'ade20k'"):
        read_layout(labelled(), LEGEND, "ade")


@pytest.mark.parametrize(
    "text",
    [
        "0 sky #ff0000\n1 old wall #00f\n",
        "sky 255 0 0\nold wall 0, 0, 255\n",
        "GIMP Palette\nName: mine\nColumns: 2\n#\n255   0   0\tsky\n  0   0 255\told wall\n",
    ],
)
def test_legends_say_colours(text, tmp_path):
    (tmp_path / "legend.txt").write_text(text.replace("\n  0", "\n0"))
    legend = read_legend(tmp_path / "legend.txt")
    assert legend.names == ("sky", "old wall")
    assert legend.colours == ((255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize(
    "text, message",
    [
        ("sky #ff0000\nwall #ff0000\n", "'sky' and 'wall' have one colour, #ff0000"),
        ("sky 300 0 0\n", "beyond 0 to 255"),
        ("GIMP Palette\n255 0 0\n", "has no name"),
        ("", "is empty"),
    ],
)
def test_legends_that_are_none_are_one_line(text, message, tmp_path):
    (tmp_path / "legend.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_legend(tmp_path / "legend.txt")
    with pytest.raises(UserError, match="legend '.*none.txt' does not exist"):
        read_legend(tmp_path / "none.txt")


def test_legends_of_others_are_matched_by_name(tmp_path):
    """Another order, two colours for one label, colours and numbers both."""
    (tmp_path / "mine.txt").write_text("Water #0000ff\nTREE #00ff00\ntree #008000\nsky #ffffff\n")
    with pytest.raises(UserError, match="'TREE' is none of .*; did you mean 'trees'"):
        read_legend(tmp_path / "mine.txt").in_terms_of(["sky", "water", "trees"], "mine.txt")
    legend = read_legend(tmp_path / "mine.txt").in_terms_of(NAMES, "mine.txt")
    colours = np.array([[[0, 0, 255], [0, 255, 0], [0, 128, 0], [255, 255, 255]]], np.uint8)
    assert read_layout(colours, legend).labels().tolist() == [[4, 1, 1, 0]]
    assert read_layout(np.array([[0, 1, 2, 3]]), legend).labels().tolist() == [[4, 1, 1, 0]]


# Files that are none


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_labels_of_few_bits_are_not_stretched(bits, tmp_path):
    """Written by hand, because Pillow writes 8 bits only: a row of each label."""
    count = min(2**bits, 16)
    rows = b"".join(
        b"\0" + bytes([sum(label << shift for shift in range(0, 8, bits))]) * 2
        for label in range(count)
    )
    width = 2 * 8 // bits

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    head = struct.pack(">IIBBBBB", width, count, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    mask = mask_to_tensor(read_mask(tmp_path / "a.png", 16))
    assert torch.equal(mask, torch.arange(count)[:, None].expand(count, width))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_jpeg_is_no_mask_whatever_its_ending(name, tmp_path):
    path = save(Image.fromarray(labelled()), tmp_path / name, format="JPEG")
    for read in (read_mask, mask_header):
        with pytest.raises(CorruptImage, match="JPEG, whose compression changes labels"):
            read(path, 5)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((4, 4, 2)), "shape"),
        (np.zeros((4,), np.uint8), "shape"),
        (np.full((2, 2), 0.5), "fractions"),
        (np.full((2, 2), np.nan), "fractions"),
        (np.full((2, 2), -1), "from -1"),
        (np.full((2, 2), 70_000), "70000"),
        (np.full((2, 2), 9), "label 9, but the class list ends at 4"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.array([["a", "b"]]), "not numbers"),
    ],
)
def test_arrays_that_are_no_masks_are_one_line(array, message, tmp_path):
    for source in (array, write_array(array, tmp_path / "a.npy")):
        with pytest.raises(CorruptImage, match=message) as raised:
            read_layout(source, LEGEND)
        assert "\n" not in str(raised.value)


def test_files_of_arrays_run_nothing(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x01\x00")
    for name in ("a.npy", "b.npy"):
        for read in (read_mask, mask_header):
            with pytest.raises(CorruptImage, match="is no readable array"):
                read(tmp_path / name, 5)
    with pytest.raises(CorruptImage, match="does not exist"):
        read_mask(tmp_path / "none.npy")
    with pytest.raises(UserError, match="not a dict"):
        read_layout({}, 5)


@pytest.mark.parametrize(
    "mask, remark",
    [
        (Image.fromarray(labelled()), None),
        (palette_mask(palette(5)), None),
        (palette_mask([[i, i, i] for i in range(256)]), None),
        (palette_mask([[0, 0, 0], [128, 0, 0], [0, 128, 0]]), "a palette of its own"),
        (Image.fromarray(drawn()), "in colours"),
    ],
    ids=["grey", "class colours", "grey palette", "another", "colours"],
)
def test_a_header_says_what_may_surprise(mask, remark, tmp_path):
    header = mask_header(save(mask, tmp_path / "a.png"), LEGEND)
    assert header.size == (4, 4)
    assert header.remark == remark or remark in header.remark
