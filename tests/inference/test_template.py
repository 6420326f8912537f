"""An empty layout with palettes for paint programs, and masks of photographs: both are read back as
what they mean.
"""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from taming import config
from taming.cli.main import main
from taming.data.card import Card
from taming.data.layouts import read_layout
from taming.data.legend import Legend, read_legend
from taming.formats.content import Content
from taming.formats.load import load
from taming.formats.ours import save_safetensors
from taming.inference.segment import segment
from taming.inference.template import photoshop_swatches
from tests.inference.test_known import COLOURS, carded  # noqa: F401
from tests.inference.test_sample import here  # noqa: F401


def test_a_template_is_read_back_as_it_is_meant(carded, capsys):  # noqa: F811
    assert main(["template", "carded.safetensors", "-o", "paint", "--size", "20x30"]) == 0
    names = ["layout.png", "legend.png", "legend.txt", "palette.gpl", "palette.aco"]
    assert capsys.readouterr().out.split() == [f"paint/{name}" for name in names]
    legend = Legend.of(("sky", "tree", "unknown"), COLOURS)
    layout = read_layout("paint/layout.png", legend)
    assert layout.describe("x") == "x 30x20: unknown 100 %"
    for name in ("legend.txt", "palette.gpl"):
        assert read_legend(f"paint/{name}") == legend
    assert main(["template", "carded.safetensors", "-o", "paint"]) == 2
    assert "layout.png' exists" in capsys.readouterr().err
    assert main(["template", "classes.safetensors", "-o", "other"]) == 2
    assert "reads no layouts" in capsys.readouterr().err


def test_swatches_are_as_photoshop_reads_them():
    data = photoshop_swatches(Legend.of(("sky", "old wall"), COLOURS[:2]))
    assert struct.unpack(">2H", data[:4]) == (1, 2)
    assert struct.unpack(">5H", data[4:14]) == (0, 65535, 0, 0, 0)
    rest = data[24:]
    assert struct.unpack(">2H", rest[:4]) == (2, 2)
    (length,) = struct.unpack(">I", rest[14:18])
    assert rest[18 : 18 + 2 * length].decode("utf-16-be") == "sky\0"
    assert len(rest) == 4 + 2 * (10 + 4) + 2 * len("sky\0" + "old wall\0")


@pytest.fixture
def photographs(carded):  # noqa: F811
    """A segmenter of random weights, and two pictures in folders."""
    node = {"target": "taming.segmenter.Segmenter", "params": {"labels": 3, "width": 8, "depth": 2}}
    experiment = config.from_plain({"model": node})
    torch.manual_seed(0)
    content = Content(
        "segmenter", config.to_plain(experiment), config.build(node).state_dict(), 0, {}
    )
    content.card = Card(("tree", "sky", "unknown"), COLOURS, size=(16, 16))
    save_safetensors("judge.safetensors", content)
    for name, size in (("a.jpg", (40, 30)), ("sub/b.png", (12, 20))):
        path = carded / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return carded


def test_masks_of_photographs_have_the_pictures_size_and_the_models_numbers(photographs, capsys):
    words = ["segment", "photographs", "--segmenter", "judge.safetensors"]
    assert main([*words, "-o", "own"]) == 0
    assert main([*words, "-o", "masks", "--for", "carded.safetensors"]) == 0
    assert "a.png 40x30: " in capsys.readouterr().out
    own = np.array(Image.open("own/a.png"))
    assert own.shape == (30, 40) and Image.open("own/a.png").mode == "P"
    assert np.array(Image.open("masks/sub/b.png")).shape == (20, 12)
    # tree and sky have changed places
    assert (np.array([1, 0, 2])[own] == np.array(Image.open("masks/a.png"))).all()
    assert read_legend("masks/legend.txt").names == ("sky", "tree", "unknown")
    assert main(["sample", "carded.safetensors", "--masks", "masks/sub", "--top-k", "1"]) == 0
    for wrong, message in (
        ([*words, "-o", "own"], "exists; choose another folder"),
        ([*words, "-o", "photographs/masks"], "would be confused"),
        ([*words, "-o", "c", "--for", "classes.safetensors"], "reads no masks"),
        (
            ["segment", "photographs", "-o", "d", "--segmenter", "masks.safetensors"],
            "a segmenter stage is needed",
        ),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err


def test_masks_beside_pictures_make_a_data_set(photographs, capsys):
    (photographs / "set").mkdir()
    (photographs / "photographs").rename("set/images")
    words = ["segment", "set/images", "--segmenter", "judge.safetensors", "-o"]
    assert main(["data", "set"]) == 0  # folders inside images/, so pictures alone
    (photographs / "set" / "segmentations").mkdir()
    assert main(["data", "set"]) == 2
    assert "classes.txt' does not exist; write one class per line" in capsys.readouterr().err
    assert main([*words, "set/segmentations"]) == 0
    assert read_legend("set/classes.txt").names == ("tree", "sky", "unknown")
    assert main(["data", "set"]) == 0
    said = capsys.readouterr().out
    assert "is pictures with label maps" in said and "validation: 1 picture\n" in said
    # A list that says something else stays as it is
    (photographs / "set" / "classes.txt").write_text("sky\ntree\nunknown\n")
    assert main([*words, "set/segmentations", "--overwrite"]) == 2
    assert "lists other labels than the masks" in capsys.readouterr().err
    assert main([*words, "set/segmentations", "--overwrite", "--for", "carded.safetensors"]) == 0


def test_large_pictures_are_looked_at_in_the_size_of_the_training(photographs):
    model = load("judge.safetensors")
    image = torch.rand(1, 3, 96, 128) * 2 - 1
    assert segment(model, image).shape == (1, 3, 96, 128)
    small = image[..., :20, :24]
    assert torch.equal(segment(model, small), model(small))
