"""A researcher's way: a folder of their own with spaces in its name, trained, interrupted, resumed,
evaluated, reported; a class and a data set of their own; and a shipped model made theirs.
"""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from taming.cli.main import main
from taming.formats.load import read_checkpoint

pytestmark = pytest.mark.slow
SHORT = ["trainer.validate_every=4", "trainer.checkpoint_every=4", "trainer.pictures_every=8"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "my own pictures"
    (folder / "images").mkdir(parents=True)
    (folder / "segmentations").mkdir()
    draw = np.random.default_rng(0)
    for number in range(24):
        base = draw.integers(0, 200, (1, 1, 3)) + draw.integers(0, 50, (72, 96, 3))
        mask = np.zeros((72, 96), np.uint8)
        mask[draw.integers(20, 50) :] = 1
        Image.fromarray(base.astype(np.uint8)).save(folder / "images" / f"a picture {number}.png")
        Image.fromarray(mask).save(folder / "segmentations" / f"a picture {number}.png")
    (folder / "classes.txt").write_text("sky\nmeadow\n")
    return tmp_path


def test_trained_resumed_evaluated_and_reported(here, capsys):
    data = "data.{0}={{target: taming.data.ImageFolder, params: {{root: my own pictures/images,"
    data += " view: {{size: 32}}, split: [{0}, 0.3]}}}}"
    sets = [data.format(part) for part in ("train", "validation")]
    base = ["train", "-b", "drawn_vqvae_32", "-n", "mine", *sets, *SHORT, "data.batch_size=4"]
    assert main([*base, "trainer.max_steps=6"]) == 0
    assert main(["train", "-r", "mine", "trainer.max_steps=8"]) == 0
    assert read_checkpoint("runs/mine").batches == 8
    words = ["--data", "my own pictures/images", "--size", "32", "-o", "figures.json"]
    assert main(["evaluate", "runs/mine", *words]) == 0
    assert json.loads((here / "figures.json").read_text())
    assert main(["report", "runs/mine", "-o", "report.html"]) == 0
    assert (here / "report.html").stat().st_size > 1000


def test_classes_of_their_own_train_from_the_working_folder(here, capsys):
    for kind, name in (("dataset", "MyPictures"), ("quantizer", "MyCodes")):
        assert main(["new", kind, name]) == 0
        yaml = f"{'my_pictures' if kind == 'dataset' else 'my_codes'}.yaml"
        assert main(["train", "-b", yaml, *SHORT, "trainer.max_steps=4"]) == 0
    capsys.readouterr()
    assert main(["inspect", "runs/my_codes"]) == 0  # which builds nothing, so needs no leave
    assert main(["convert", "runs/my_codes", "codes.safetensors"]) == 2
    assert "--allow my_codes" in capsys.readouterr().err
    assert main(["convert", "runs/my_codes", "codes.safetensors", "--allow", "my_codes"]) == 0


def test_the_shipped_model_goes_on_with_their_pictures(here, capsys):
    words = ["variables.root=my own pictures", "variables.same={meadow: grass}", *SHORT]
    words += ["trainer.max_steps=4", "data.views=1", "data.batch_size=4", "-n", "meadows"]
    assert main(["train", "--from", "landscapes", *words]) == 0
    capsys.readouterr()
    assert main(["inspect", "runs/meadows/model.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "grass #" in said and "then 22 pictures of SegmentedImages" in said
    mask = "my own pictures/segmentations/a picture 3.png"
    words = ["--masks", mask, "--size", "32x32", "--legend", "my own pictures/legend.txt"]
    (here / "my own pictures" / "legend.txt").write_text("sky\ngrass\n")
    assert main(["sample", "runs/meadows/model.safetensors", *words]) == 0
