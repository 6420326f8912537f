"""What is looked at before a run: headers of all pictures, one line for each set."""

import numpy as np
import pytest
from PIL import Image

from taming.data import DrawnLandscapes, ImageFolder, SegmentedImages
from taming.data.checks import check_pictures
from taming.data.concatenated import Concatenated
from taming.errors import UserError
from tests.conftest import paint_pairs


def pairs(tmp_path, count=120, size=16):
    return paint_pairs(tmp_path / "pairs", count, (size, size))


def test_one_line_says_how_many_pictures_there_are(tmp_path, capsys):
    root = pairs(tmp_path, 1)
    check_pictures({"data.train": SegmentedImages(str(root), 16), "data.validation": None})
    assert capsys.readouterr().err == f"data.train: 1 picture in '{root}'\n"
    check_pictures({"data.train": DrawnLandscapes(16, 4)})
    assert capsys.readouterr().err == ""


def test_each_of_several_sets_is_looked_at(tmp_path, capsys):
    root = pairs(tmp_path, 2)
    several = Concatenated([ImageFolder(str(root / "images"), 16), SegmentedImages(str(root), 16)])
    check_pictures({"data.train": several})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"data.train.sets[0]: 2 pictures in '{root / 'images'}'"
    assert lines[1] == f"data.train.sets[1]: 2 pictures in '{root}'"


def too_small(root):
    Image.new("RGB", (8, 8)).save(root / "images" / "p7.png")


def link_to_nothing(root):
    (root / "images" / "p7.png").unlink()
    (root / "images" / "p7.png").symlink_to("nowhere.png")


def no_picture(root):
    (root / "images" / "p7.png").write_text("no picture")


def mask_of_another_size(root):
    Image.new("L", (8, 8)).save(root / "segmentations" / "p7.png")


def mask_of_colours(root):
    Image.new("RGB", (16, 16), "magenta").save(root / "segmentations" / "p7.png")


def label_out_of_range(root):
    Image.new("L", (16, 16), 9).save(root / "segmentations" / "p7.png")


def cut_off(root):
    path = root / "images" / "p7.png"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "spoil, reason, full",
    [
        (too_small, "8x8, smaller than the crop 16x16", False),
        (link_to_nothing, "(a link to 'nowhere.png') does not exist", False),
        (no_picture, "not a readable picture", False),
        (mask_of_another_size, "is 8x8, but its picture", False),
        (mask_of_colours, "in colours that the legend does not have", True),
        (label_out_of_range, "label 9, but the class list ends at 2", True),
        (cut_off, "not a readable picture", True),
    ],
)
def test_what_can_not_be_used_is_skipped_with_the_reason(spoil, reason, full, tmp_path, capsys):
    root = pairs(tmp_path)
    spoil(root)
    sets = {"data.train": SegmentedImages(str(root), 16)}
    check_pictures(sets, full)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("data.train: 120 pictures") and "1 skipped" in line
    assert "p7.png" in line and reason in line
    if full:  # a header does not say it
        check_pictures(sets)
        assert "skipped" not in capsys.readouterr().err


def test_too_many_stop_before_the_run(tmp_path, capsys):
    root = pairs(tmp_path)
    for number in (3, 5):
        (root / "images" / f"p{number}.png").write_text("no picture")
    with pytest.raises(UserError, match="2 of 120 pictures can't be used, .*p3.png.*p5.png"):
        check_pictures({"data.train": SegmentedImages(str(root), 16)})
    assert "2 skipped" in capsys.readouterr().err


def test_what_is_possible_but_unlikely_is_said(tmp_path, capsys):
    root = pairs(tmp_path, 4)
    mask = Image.fromarray(np.zeros((16, 16), np.uint8)).convert("P")
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    mask.save(root / "segmentations" / "p1.png")
    (root / "train.txt").write_text("p0\np1\np2\np0\n")
    (root / "validation.txt").write_text("p1\np3\n")
    train, validation = (
        SegmentedImages(str(root), 16, list=f"{name}.txt") for name in ("train", "validation")
    )
    check_pictures({"data.train": train, "data.validation": validation})
    first, second, third = capsys.readouterr().err.splitlines()
    assert "; 1 listed more than once; 1 with a mask that has a palette of its own" in first
    assert "palette" in second and "listed" not in second
    assert third == "1 picture of data.validation is in data.train too"


def test_hidden_folders_do_not_count(tmp_path, capsys):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in ("a.png", ".ipynb_checkpoints/a-checkpoint.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    check_pictures({"data.train": ImageFolder(str(tmp_path), 16)})
    assert "data.train: 1 picture in" in capsys.readouterr().err
