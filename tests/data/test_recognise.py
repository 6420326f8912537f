"""A folder is recognised, described, drawn and configured."""

import pytest
import torch

from taming import config
from taming.cli import main
from taming.data import recognise
from taming.data.overview import crop_of, overview_of, words_of, write_pictures
from taming.errors import UserError
from tests.conftest import paint_pairs
from tests.data import fakes


@pytest.mark.parametrize("name", fakes.SETS)
def test_a_published_set_is_recognised(name, tmp_path):
    root = fakes.SETS[name](tmp_path / "my data")
    recognition = recognise.recognise(root)
    assert recognition.target == name
    text = words_of(overview_of(root))
    assert str(root) in text and f"taming.data.{name}" in text


def plain(root, *names: str):
    for name in names:
        fakes.picture(root / name)
    return root


PLAIN = {
    "ImageFolder": lambda root: plain(root, "a.jpg", "b/c.png"),
    "ClassFolders": lambda root: plain(root, "cat/a.jpg", "dog/b.png"),
    "SegmentedImages": paint_pairs,
    "DepthImages": lambda root: fakes.paired(root, "depth"),
    "PairedImages": fakes.paired,
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_folder_of_ones_own_is_recognised(name, tmp_path):
    root = tmp_path / "my data"
    root.mkdir()
    assert recognise.recognise(PLAIN[name](root) or root).target == name


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no pictures"):
        recognise.recognise(tmp_path)


def test_the_configuration_that_is_printed_builds(tmp_path):
    root = fakes.ade20k(tmp_path / "it's, my: data")
    text = words_of(overview_of(root))
    (tmp_path / "my.yaml").write_text(text[text.index("data:\n") :])
    tree = config.plain_yaml([tmp_path / "my.yaml"])["data"]
    for part, first in (("train", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        tree[part]["params"]["view"] |= {"size": 16}
        assert config.build(tree[part])[0]["name"] == first


def test_what_is_counted(tmp_path):
    overview = overview_of(fakes.ade20k(tmp_path))
    assert crop_of(overview) == 16  # what pictures of 24x20 have room for
    assert overview.counts == {"train": 2, "validation": 2}
    assert overview.sizes == [(24, 20)] * 2
    shares = {name: n / overview.labels.total() for name, n in overview.labels.items()}
    assert shares == pytest.approx({"other": 1 / 3, "thing 1": 1 / 3, "thing 150": 1 / 3}, abs=0.1)
    assert overview.classes == {"street": 1, "airport_terminal": 1}
    assert overview.cells[0].shape == (3, 128, 256)


def test_the_verb_writes_a_sheet_and_a_histogram(tmp_path, capsys):
    root = fakes.coco(tmp_path / "set")
    assert main(["data", str(root), "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "train: 2 pictures" in out and 'caption: "a dog, seen once"' in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sheet.png", "histogram.png"}


def test_a_broken_picture_is_counted_not_fatal(tmp_path):
    fakes.ffhq(tmp_path)
    (tmp_path / "images1024x1024" / "00000" / "00001.png").write_bytes(b"no picture")
    overview = overview_of(tmp_path)
    assert len(overview.cells) == 1 and "can't be used" in words_of(overview)
    write_pictures(overview, tmp_path / "out")


def test_a_missing_part_is_said(tmp_path):
    fakes.ade20k(tmp_path)
    (tmp_path / "images" / "validation" / "ADE_val_00000001.jpg").unlink()
    (tmp_path / "images" / "validation" / "ADE_val_00000002.jpg").unlink()
    text = words_of(overview_of(tmp_path))
    assert "validation: no pictures" in text and "split: validation" not in text


@pytest.mark.parametrize("words", [["data"], ["data", "nowhere"], ["data", "a", "--output", "b"]])
def test_a_mistake_is_one_line(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_cells_of_a_small_set_fit(tmp_path):
    plain(tmp_path, "a.jpg")
    overview = overview_of(tmp_path)
    assert torch.stack(overview.cells).shape[0] == 1
