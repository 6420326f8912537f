"""Pictures with masks."""

import numpy as np
import pytest
import torch
from PIL import Image

from taming.data import SegmentedImages
from taming.data.reading import CorruptImage
from taming.data.segmentation import read_classes
from taming.errors import UserError
from tests.conftest import paint_pairs


@pytest.fixture
def pairs(tmp_path):
    return paint_pairs(tmp_path / "p")


def test_pairs(pairs):
    item = SegmentedImages(str(pairs), [16, 20])[(0, 3)]
    assert item["image"].shape == (3, 16, 20) and item["segmentation"].shape == (16, 20)
    assert item["segmentation"].dtype == torch.int64 and "class" not in item
    (pairs / "scenes.txt").write_text("p0\nelse\n")
    assert SegmentedImages(str(pairs), 16)[0]["class"] == 0
    with pytest.raises(UserError, match="begins with 'p1', which is no line of"):
        SegmentedImages(str(pairs), 16)[1]


def test_photographs_load(shared):
    for name in ("intel_landscapes", "stanford_background"):
        view = {"size": 64, "flip": False}
        data = SegmentedImages(str(shared / "data" / name), view, list="validation.txt")
        for i in range(0, len(data), 9):
            assert torch.isfinite(data[i]["image"]).all()
            assert int(data[i]["segmentation"].max()) < len(data.classes)


def test_pictures_behind_links_have_the_masks_of_their_names(pairs, tmp_path):
    (pairs / "images" / "p0.png").rename(tmp_path / "elsewhere.png")
    (pairs / "images" / "p0.png").symlink_to(tmp_path / "elsewhere.png")
    assert SegmentedImages(str(pairs), 16)[0]["segmentation"].shape == (16, 16)
    (pairs / "images").rename(tmp_path / "pictures")
    (pairs / "images").symlink_to(tmp_path / "pictures")
    assert len(SegmentedImages(str(pairs), 16)) == 4


def test_what_is_missing_is_one_line(pairs):
    (pairs / "segmentations" / "p1.png").unlink()
    with pytest.raises(UserError, match="p1.png' has no mask '.*p1.png'; add it"):
        SegmentedImages(str(pairs), 16)
    Image.new("L", (24, 20)).save(pairs / "segmentations" / "p1.jpg")
    with pytest.raises(UserError, match="p1.jpg' is no mask, because JPEG changes labels"):
        SegmentedImages(str(pairs), 16)
    (pairs / "classes.txt").unlink()
    with pytest.raises(UserError, match="classes.txt' does not exist"):
        SegmentedImages(str(pairs), 16)
    (pairs / "images").rename(pairs / "pictures")
    with pytest.raises(UserError, match="has no folder 'images'"):
        SegmentedImages(str(pairs), 16)


def other_size(path):
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(path)


def label_out_of_range(path):
    Image.fromarray(np.full((20, 24), 7, np.uint8)).save(path)


def link_to_nothing(path):
    path.unlink()
    path.symlink_to("nowhere.png")


def no_mask(path):
    Image.new("RGB", (24, 20), "magenta").save(path)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (other_size, "p2.png' is 10x10, but its picture .* is 24x20"),
        (label_out_of_range, "p2.png' holds label 7, but the class list ends at 2"),
        (link_to_nothing, "p2.png' .a link to 'nowhere.png'. does not exist"),
        (no_mask, "p2.png': 100 % of it is in colours that the legend does not have"),
        (cut_off, "p2.png' is not a readable mask"),
    ],
)
def test_a_mask_that_can_not_be_used_counts_as_a_broken_picture(spoil, message, pairs):
    spoil(pairs / "segmentations" / "p2.png")
    data = SegmentedImages(str(pairs), 16)
    assert data[1]["name"] == "p1"
    with pytest.raises(CorruptImage, match=message):
        data[2]
    if spoil not in (label_out_of_range, no_mask, cut_off):  # what a header does not say
        with pytest.raises(CorruptImage, match=message):
            data.check(2)
    assert data.check(1) is None


@pytest.mark.parametrize(
    "text", [b"0 sky\n1 old wall\n", b"sky\r\nold wall\r\n", b"\xef\xbb\xbf0 sky\n\n1 old wall"]
)
def test_class_lists(text, tmp_path):
    (tmp_path / "classes.txt").write_bytes(text)
    assert read_classes(tmp_path / "classes.txt") == ["sky", "old wall"]


@pytest.mark.parametrize(
    "text, message",
    [
        (b"0 sky\n2 wall", "line '2 wall' should have number 1"),
        (b"", "is empty"),
        ("Büsche".encode("latin-1"), "line 1, is not UTF-8"),
    ],
)
def test_class_lists_that_are_none_are_one_line(text, message, tmp_path):
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / "classes.txt")
