"""A large data set is checked once, and again where anything changed that the check depends on."""

import os

import pytest
from PIL import Image

from taming.data import ImageFolder, checks
from taming.data.checks import check_pictures


@pytest.fixture
def opened(tmp_path, monkeypatch) -> list[str]:
    """The names of the files whose headers are read; four pictures count as many."""
    monkeypatch.setattr(checks, "SMALLEST", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "data").mkdir()
    for name in "abcd":
        Image.new("RGB", (16, 16)).save(tmp_path / "data" / f"{name}.png")
    names, check = [], ImageFolder.check
    monkeypatch.setattr(
        ImageFolder, "check", lambda self, i: names.append(self.name(i)) or check(self, i)
    )
    return names


def check_again(root, opened: list[str], capsys, **options) -> int:
    """How many headers were read."""
    opened.clear()
    check_pictures({"data.train": ImageFolder(str(root), options.pop("view", 16))}, **options)
    assert capsys.readouterr().err.startswith("data.train: ")
    return len(opened)


def test_a_second_start_opens_nothing(tmp_path, opened, capsys):
    root = tmp_path / "data"
    assert check_again(root, opened, capsys) == 4
    assert check_again(root, opened, capsys) == 0
    assert check_again(root, opened, capsys, full=True) == 4
    assert check_again(root, opened, capsys, view=8) == 4


def grow(root):
    Image.new("RGB", (16, 16)).save(root / "e.png")


def replace(root):
    status = os.stat(root / "a.png")
    Image.new("RGB", (16, 16), "red").save(root / "a.png")
    os.utime(root / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))


def lock(root):
    os.chmod(root / "a.png", 0o600)


@pytest.mark.parametrize("change", [grow, replace, lock])
def test_a_change_is_seen(change, tmp_path, opened, capsys):
    """Also one that leaves the file's date as it was."""
    root = tmp_path / "data"
    check_again(root, opened, capsys)
    change(root)
    assert check_again(root, opened, capsys) >= 4


def test_pictures_that_are_skipped_are_named_each_time(tmp_path, opened, capsys, monkeypatch):
    monkeypatch.setattr(checks, "refuse_too_many", lambda *_: None)
    (tmp_path / "data" / "a.png").write_text("no picture")
    for _ in range(2):
        assert check_again(tmp_path / "data", opened, capsys) == 4


@pytest.mark.parametrize("text", ["", "[]", '{"a": "b"}', "\0"])
def test_a_damaged_or_missing_cache_costs_one_check(text, tmp_path, opened, capsys, monkeypatch):
    root = tmp_path / "data"
    check_again(root, opened, capsys)
    (file,) = (tmp_path / "caches" / "taming" / "headers").iterdir()
    file.write_text(text)
    assert check_again(root, opened, capsys) == 4
    assert check_again(root, opened, capsys) == 0
    (tmp_path / "no folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    assert check_again(root, opened, capsys) == 4
