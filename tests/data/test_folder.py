"""Folders and lists of pictures: what counts, once each, in order; what is wrong is one line."""

import os

import pytest
import torch
from PIL import Image

from taming.data import ClassFolders, ImageFolder, SegmentedImages
from taming.data.folder import find_pictures
from taming.data.reading import CorruptImage
from taming.errors import UserError
from taming.evaluation.pictures import list_hash
from tests.conftest import paint_pairs


def folder_of(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), "red").save(tmp_path / name)
    return str(tmp_path)


def names(folder):
    return [p.relative_to(folder).as_posix() for p in find_pictures(folder, folder)]


def test_a_folder_is_read_with_its_subfolders_in_order(tmp_path):
    data = ImageFolder(folder_of(tmp_path, ["b.png", "x/a.jpg"]), 16)
    assert [data.name(i) for i in range(2)] == ["b", "a"] and data[0]["image"].shape == (3, 16, 16)
    assert torch.allclose(data[0]["image"][:, 0, 0], torch.tensor([1.0, -1, -1]))


def test_hidden_folders_and_other_files_are_no_data(tmp_path):
    hidden = [".ipynb_checkpoints/a.png", ".git/x/b.png", "__MACOSX/c.png", "x/.cache/d.png"]
    folder_of(tmp_path, [*hidden, ".hidden.png", "x/e.png"])
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    assert names(tmp_path) == ["x/e.png"]


def test_a_hidden_folder_that_is_the_root_is_read(tmp_path):
    folder_of(tmp_path / ".data" / ".pictures", ["a.png"])
    assert names(tmp_path / ".data" / ".pictures") == ["a.png"]


def test_links_are_followed_and_each_file_counts_once(tmp_path):
    folder_of(tmp_path / "elsewhere", ["a.png", "deep/b.png"])
    folder_of(tmp_path / "data", ["c.png", "deep/d.png"])
    data = tmp_path / "data"
    (data / "a_link").symlink_to(tmp_path / "elsewhere")  # a folder
    (data / "again").symlink_to(tmp_path / "elsewhere" / "deep")  # part of it once more
    (data / "before.png").symlink_to(data / "c.png")  # a file that is there already
    (data / "deep" / "up").symlink_to(data)  # a circle
    (data / "self").symlink_to("self")
    (tmp_path / "elsewhere" / "back").symlink_to(data)  # a longer circle
    Image.new("RGB", (20, 20)).save(tmp_path / "single.png")
    (data / "single.png").symlink_to(tmp_path / "single.png")
    expected = ["a_link/a.png", "a_link/deep/b.png", "c.png", "deep/d.png", "single.png"]
    assert names(data) == expected


def test_a_link_that_leads_nowhere_counts_as_a_broken_picture(tmp_path):
    data = ImageFolder(folder_of(tmp_path, ["a.png"]), 16)
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "l.txt").write_text("b")
    for data in (ImageFolder(str(tmp_path), 16), ImageFolder(str(tmp_path), 16, "l.txt")):
        with pytest.raises(CorruptImage, match="b.png' .a link to '.*nowhere.png'. does not exist"):
            data[len(data) - 1]
        assert list_hash(data)


def test_a_folder_that_can_not_be_read_is_one_line(tmp_path, monkeypatch):
    folder_of(tmp_path, ["a.png", "locked/b.png"])
    scandir = os.scandir

    def refuse(path):  # root may read anything
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="locked' can't be read .Permission denied"):
        find_pictures(tmp_path, tmp_path)


# Lists


def test_lists_name_paths_or_stems(tmp_path):
    root = folder_of(tmp_path, ["a.png", "b.jpg", "c.png", "v1.5.png"])
    (tmp_path / "l.txt").write_text("b\n\na.png\nv1.5\n")
    paths = ImageFolder(root, 16, list="l.txt").paths
    assert [p.name for p in paths] == ["b.jpg", "a.png", "v1.5.png"]
    pairs = paint_pairs(tmp_path / "pairs", 2)
    (pairs / "l.txt").write_text("images/p1.png\np0\n")
    paths = SegmentedImages(str(pairs), 16, list="l.txt").paths
    assert [p.name for p in paths] == ["p1.png", "p0.png"]


@pytest.mark.parametrize(
    "text",
    ["\ufeffgrün.png\nb\n".encode(), "grün.png\r\nb\r\n".encode(), "grün\r\n\r\n  b.png".encode()],
    ids=["byte order mark", "Windows", "blanks"],
)
def test_lists_are_utf8_whatever_wrote_them(text, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    root = folder_of(tmp_path, ["grün.png", "b.png"])
    (tmp_path / "l.txt").write_bytes(text)
    assert [p.name for p in ImageFolder(root, 16, list="l.txt").paths] == ["grün.png", "b.png"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("b\ngrün\n".encode("latin-1"), "l.txt', line 2, is not UTF-8"),
        ("b\n".encode("utf-16"), "l.txt', line 1, is not UTF-8"),
        (b"", "is empty"),
        (b"\n  \r\n", "is empty"),
        (b"b\nmissing\n", "l.txt:2 names 'missing'"),
        (b"x" * 5000, "names 'xxx"),
        (b"b\0c", "names 'b"),
        (b"../../b.png", "names"),
        (b"b.gif", "names 'b.gif'"),
    ],
)
def test_lists_that_can_not_be_used_are_one_line(text, message, tmp_path):
    root = folder_of(tmp_path, ["b.png"])
    (tmp_path / "l.txt").write_bytes(text)
    with pytest.raises(UserError, match=message):
        ImageFolder(root, 16, list="l.txt")


def test_missing_folders_and_lists_are_one_line(tmp_path):
    with pytest.raises(UserError, match="data folder '.*no' does not exist"):
        ImageFolder(str(tmp_path / "no"), 16)
    with pytest.raises(UserError, match="no pictures in"):
        ImageFolder(str(tmp_path), 16)
    with pytest.raises(UserError, match="list 'l.txt' is neither in"):
        ImageFolder(folder_of(tmp_path, ["a.png"]), 16, list="l.txt")


# Splits and classes


def test_the_automatic_split_is_a_partition_and_stays(tmp_path):
    root = folder_of(tmp_path, [f"{i}.png" for i in range(20)])
    train, other = (ImageFolder(root, 16, split=[part, 0.2]) for part in ("train", "validation"))
    assert len(other) == 4 and not set(train.paths) & set(other.paths) and len(train) == 16
    assert other.paths == ImageFolder(root, 16, split=["validation", 0.2]).paths
    assert other.paths != ImageFolder(root, 16, split=["validation", 0.2], seed=1).paths


@pytest.mark.parametrize(
    "split",
    [
        ["test", 0.2],
        ["train", 0],
        ["train", 1],
        ["train", -1],
        ["train", float("nan")],
        ["train"],
        ["train", "0.2x"],
        ["train", None],
        [0.2, "train"],
        ["train", 0.2, 3],
        [["train"], 0.5],
    ],
)
def test_splits_that_are_none_are_one_line(split, tmp_path):
    with pytest.raises(UserError, match="split"):
        ImageFolder(folder_of(tmp_path, [f"{i}.png" for i in range(4)]), 16, split=split)


def test_folders_are_classes(tmp_path):
    for i, name in enumerate(("b", "a", "c")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    dataset = ClassFolders(str(tmp_path), 16)
    classes = {dataset.name(i): dataset[i]["class"] for i in range(3)}
    assert classes == {"1": 0, "0": 1, "2": 2} and dataset[(0, 3)]["image"].shape == (3, 16, 16)
    Image.new("RGB", (20, 20)).save(tmp_path / "stray.png")
    with pytest.raises(UserError, match="no class's folder"):
        ClassFolders(str(tmp_path), 16)


def test_a_class_may_be_a_link_to_a_folder(tmp_path):
    folder_of(tmp_path / "elsewhere", ["x.png"])
    folder_of(tmp_path / "data", ["b/y.png"])
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    dataset = ClassFolders(str(tmp_path / "data"), 16)
    assert {dataset.name(i): dataset[i]["class"] for i in range(2)} == {"x": 0, "y": 1}
