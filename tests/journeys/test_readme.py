"""README's commands, executed in their order in a newcomer's folder."""

import shutil

import pytest
from PIL import Image

from taming.cli.main import main
from tests.data import fakes
from tests.docs.test_pages import ROOT, commands

pytestmark = pytest.mark.slow
ENDLESS = ("studio",)  # a server; tests/studio starts it
SHORT = ["trainer.max_steps=4", "trainer.validate_every=4", "trainer.checkpoint_every=4"]
SHORT += ["trainer.pictures_every=4", "data.views=1", "data.batch_size=4"]


def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for number in range(12):
        fakes.picture(tmp_path / "my" / "data" / "images" / f"{number}.jpg", (96, 72))
    done = []
    for words in commands((ROOT / "README.md").read_text()):
        if words[0] in ENDLESS:
            continue
        if "my/masks" in words:  # what people have painted
            (tmp_path / "my" / "masks").mkdir()
            shutil.copy("my/data/segmentations/3.png", "my/masks/lake.png")
        more = SHORT if words[0] == "train" else []
        assert main([*words, *more]) == 0, (words, capsys.readouterr().err)
        done.append(words[0])
    assert done == ["sample", "sample", "segment", "data", "train", "doctor", "sample"]
    assert Image.open(tmp_path / "painted" / "large_layout-0.png").size == (1280, 832)
    assert len([*(tmp_path / "small").glob("large_layout-*.png")]) == 4
