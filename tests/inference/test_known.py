"""Layouts of any shape, what stays of a picture, and what a checkpoint recommends: from the command
line to the pixels.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from taming.cli.main import main
from taming.data.card import Card
from taming.data.legend import Legend
from taming.errors import UserError
from taming.formats.load import load, read_checkpoint
from taming.formats.ours import save_safetensors
from taming.inference.known import margins_of, read_known
from taming.inference.record import read_record
from tests.inference.test_sample import here  # noqa: F401

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.fixture
def carded(here):  # noqa: F811
    """The model of masks, with a card."""
    content = read_checkpoint("masks.safetensors")
    content.card = Card(
        ("sky", "tree", "unknown"), COLOURS, size=(16, 16), sampling={"guidance": 2.0, "top_k": 5}
    )
    save_safetensors("carded.safetensors", content)
    return here


def run(*arguments, out="out"):
    return main(["sample", *arguments, "-o", out])


def pixels(path):
    return np.array(Image.open(path))


# Layouts


def test_a_layout_is_drawn_in_its_own_shape_with_the_recommended_settings(carded, capsys):
    mask = np.zeros((12, 28), np.uint8)
    mask[6:] = 1
    mask[0, :7] = 255
    Image.fromarray(mask).save("lake.png")
    assert run("carded.safetensors", "--masks", "lake.png") == 0
    assert pixels("out/lake-0.png").shape == (12, 28, 3)
    assert "lake.png 28x12: tree 50 %, sky 48 %, no label 2 %" in capsys.readouterr().err
    record = read_record("out/lake-0.png")
    assert (record.sampling.guidance, record.sampling.top_k) == (2, 5)
    assert run("carded.safetensors", "--masks", "lake.png", "--guidance", "1", out="plain") == 0
    record = read_record("plain/lake-0.png")
    assert (record.sampling.guidance, record.sampling.top_k) == (1, 5)
    model = load("carded.safetensors")
    batch = {"segmentation": torch.from_numpy(np.where(mask == 255, 2, mask)).long()[None]}
    assert torch.equal(
        ((model.sample(batch)[0] + 1) * 127.5).round().byte().permute(1, 2, 0),
        torch.from_numpy(pixels("out/lake-0.png")),
    )


def test_layouts_of_several_shapes_and_formats_are_drawn_together(carded, tmp_path):
    labels = np.zeros((16, 16), np.uint8)
    labels[8:] = 1
    (carded / "mixed").mkdir()
    Image.fromarray(labels).save("mixed/a.png")
    Image.fromarray(np.array(COLOURS, np.uint8)[labels[:, :8]]).save("mixed/b.bmp")
    np.save("mixed/c.npy", labels)
    assert run("carded.safetensors", "--masks", "mixed", "-n", "2") == 0
    shapes = {name: pixels(f"out/{name}-1.png").shape for name in "abc"}
    assert shapes == {"a": (16, 16, 3), "b": (16, 8, 3), "c": (16, 16, 3)}
    assert main(["sample", "--from-png", "out/b-1.png", "-o", "again"]) == 0
    assert (pixels("again/b-1.png") == pixels("out/b-1.png")).all()


def test_another_legend_is_matched_by_name_and_a_wrong_one_refused(carded, capsys):
    picture = np.full((16, 16, 3), 255, np.uint8)
    picture[8:] = (0, 0, 0)
    Image.fromarray(picture).save("drawn.png")
    (carded / "mine.txt").write_text("tree #000000\nsky #ffffff\n")
    words = ("carded.safetensors", "--masks", "drawn.png")
    assert run(*words, "--legend", "mine.txt") == 0
    assert "sky 50 %, tree 50 %" in capsys.readouterr().err
    assert run(*words, out="b") == 2
    assert "#000000 50 % (nearest" in capsys.readouterr().err
    (carded / "wrong.txt").write_text("lava #000000\nsky #ffffff\n")
    assert run(*words, "--legend", "wrong.txt") == 2
    assert "'lava' is none of the model's labels" in capsys.readouterr().err
    assert run("classes.safetensors", "--classes", "0", "--legend", "mine.txt") == 2
    assert "give masks too" in capsys.readouterr().err


def test_inspect_prints_the_card(carded, capsys):
    assert main(["inspect", "carded.safetensors"]) == 0
    text = capsys.readouterr().out
    assert "labels: sky #ff0000, tree #00ff00, unknown #0000ff" in text
    assert "size: 16x16" in text and "recommended: guidance 2.0, top_k 5" in text
    assert main(["convert", "carded.safetensors", "again.safetensors"]) == 0
    assert read_checkpoint("again.safetensors").card == read_checkpoint("carded.safetensors").card
    assert read_checkpoint("masks.safetensors").card == Card()


# What stays


FORMS = {
    "top": np.s_[:8],
    "bottom": np.s_[8:],
    "left": np.s_[:, :8],
    "right:0.25": np.s_[:, 12:],
    "not:right:0.25": np.s_[:, :12],
}


@pytest.mark.parametrize("form", FORMS)
def test_what_stays_stays_to_the_bit(form, carded):
    known = ("--known", "picture.png", "--known-mask", form)
    assert run("masks.safetensors", "--masks", "layouts/m0.png", *known) == 0
    same = (pixels("out/m0-0.png") == pixels("picture.png")).all(-1)
    stays = np.zeros((16, 16), bool)
    stays[FORMS[form]] = True
    assert same[stays].all() and not same[~stays].all()
    assert main(["sample", "--from-png", "out/m0-0.png", "-o", "again"]) == 0
    assert (pixels("again/m0-0.png") == pixels("out/m0-0.png")).all()


@pytest.mark.parametrize("form", ["label:tree", "not:label:tree"])
def test_a_label_of_the_layout_stays(form, carded):
    known = ("--known", "picture.png", "--known-mask", form, "--seam", "2")
    assert run("carded.safetensors", "--masks", "layouts", *known) == 0
    for name in ("m0", "m2"):
        stays = (pixels(f"layouts/{name}.png") == 1) ^ form.startswith("not")
        same = (pixels(f"out/{name}-0.png") == pixels("picture.png")).all(-1)
        assert same[stays].all()
    assert main(["sample", "--from-png", "out/m2-0.png", "-o", "again"]) == 0
    assert (pixels("again/m2-0.png") == pixels("out/m2-0.png")).all()


def test_a_picture_is_continued_beyond_its_sides(carded):
    known = ("--known", "picture.png", "--extend", "right:8,top:4")
    assert run("masks.safetensors", "--masks", "layouts/m0.png", *known) == 0
    drawn = pixels("out/m0-0.png")
    assert drawn.shape == (20, 24, 3)
    assert (drawn[4:, :16] == pixels("picture.png")).all()
    assert len(np.unique(drawn[:, 16:].reshape(-1, 3), axis=0)) > 8
    assert main(["sample", "--from-png", "out/m0-0.png", "-o", "again"]) == 0
    assert (pixels("again/m0-0.png") == drawn).all()


def test_what_can_not_stay_is_one_line(carded, capsys):
    known = ("carded.safetensors", "--masks", "layouts/m0.png", "--known", "picture.png")
    for words, message in (
        (("--known-mask", "label:lava"), "label:lava is unknown"),
        (("--known-mask", "middle"), "is no file; give a mask file, top"),
        (("--extend", "right"), "give sides with pixels"),
        (("--extend", "right:8", "--known-mask", "top"), "leave one out"),
        ((), "go together"),
    ):
        assert run(*known, *words) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="reads no layouts"):
        read_known(("picture.png", "label:sky"))
    assert read_known(("picture.png", "label:b"), Legend.of(["a", "b"])).label == 1
    assert margins_of("left:3,bottom:2,left:1") == (4, 0, 0, 2)
