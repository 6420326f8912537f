"""An artist's way: from an empty layout over a painted one to pictures, with the shipped models."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from taming.cli.main import main
from taming.data.legend import read_legend

pytestmark = pytest.mark.slow


def pixels(path):
    return np.array(Image.open(path))


def test_from_a_paint_program_to_a_landscape_and_beyond(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # 1. a template
    assert main(["template", "landscapes", "-o", "paint", "--size", "64x96"]) == 0
    legend = read_legend("paint/legend.txt")
    colours = dict(zip(legend.names, legend.colours))
    # 2. painted, large and softened, as paint programs do
    canvas = Image.open("paint/layout.png").resize((384, 256))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, 384, 120), fill=colours["sky"])
    draw.polygon([(0, 130), (130, 50), (260, 130)], fill=colours["mountain"])
    draw.rectangle((0, 120, 384, 256), fill=colours["water"])
    canvas.resize((96, 64), Image.Resampling.BICUBIC).save("my lake.png")
    # 3. drawn in its shape, with the recommended settings
    assert main(["sample", "landscapes", "--masks", "my lake.png", "-o", "drawn"]) == 0
    said = capsys.readouterr().err
    assert "my lake.png 96x64" in said and "water 5" in said and "other colours" not in said
    assert pixels("drawn/my lake-0.png").shape == (64, 96, 3)
    # 4. the water once more, the rest stays
    words = ["--known", "drawn/my lake-0.png", "--known-mask", "not:label:water", "--seed", "5"]
    assert main(["sample", "landscapes", "--masks", "my lake.png", *words, "-o", "again"]) == 0
    before, after = pixels("drawn/my lake-0.png"), pixels("again/my lake-0.png")
    assert main(["inspect", "landscapes"]) == 0
    assert "water #" in capsys.readouterr().out
    changed = (before != after).any(-1)
    assert changed[40:].mean() > 0.5 and not changed[:25].any()
    # 5. wider
    extend = ["--known", "drawn/my lake-0.png", "--extend", "right:32"]
    assert main(["sample", "landscapes", "--masks", "my lake.png", *extend, "-o", "wide"]) == 0
    wide = pixels("wide/my lake-0.png")
    assert wide.shape == (64, 128, 3) and (wide[:, :96] == before).all()
    # 6. a layout of what was drawn
    assert main(["segment", "drawn/my lake-0.png", "-o", "seen"]) == 0
    assert pixels("seen/my lake-0.png").shape == (64, 96)
    # 7. and the same once more from the picture alone
    assert main(["sample", "--from-png", "wide/my lake-0.png", "-o", "copy"]) == 0
    assert (pixels("copy/my lake-0.png") == wide).all()


def test_what_goes_wrong_says_what_would_help(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "magenta").save("pink.png")
    Image.new("L", (64, 64), 200).save("beyond.png")
    Image.new("RGB", (64, 64), "blue").save("photo.jpg")
    for name, message in (
        ("pink.png", "#ff00ff 100 % (nearest"),
        ("beyond.png", "label 200, but the class list ends at 9"),
        ("photo.jpg", "JPEG, whose compression changes labels"),
        ("nowhere.png", "does not exist"),
    ):
        assert main(["sample", "landscapes", "--masks", name]) == 2
        assert message in capsys.readouterr().err
