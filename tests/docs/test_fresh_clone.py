"""The commands of README and Start, one after another, in a clone with a folder of pictures: as
they stand, but for shorter trainings, and `make`, whose steps run without another installation.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming import images
from taming.data import DrawnLandscapes
from tests.docs.test_pages import ROOT, commands

SHORT = ["trainer.max_steps=2", "trainer.validation_batches=1", "data.batch_size=2"]
NEVER_END = {"studio", "paint"}


def write_pictures(folder: Path) -> None:
    """Pictures without masks, which `taming segment` makes, and layouts to draw from."""
    scenes = DrawnLandscapes(96, 12, seed=3)
    for part in ("data/images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(12):
        images.save(images.to_pil(scenes[i]["image"]), folder / f"data/images/{i}.png")
    for i in range(2):
        mask = Image.fromarray(scenes[i]["segmentation"].numpy().astype(np.uint8))
        mask.save(folder / f"masks/{i}.png")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone") / "taming"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", folder], check=True)
    write_pictures(folder / "my")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/own_pictures.md"])
def test_commands_run_in_a_clone(page, clone):
    environment = {**os.environ, "PYTHONPATH": str(clone), "WANDB_MODE": "disabled"}
    for folder in ("runs", "samples", "painted", "small"):  # of the page before
        shutil.rmtree(clone / folder, ignore_errors=True)
    variables = (
        "variables.root=my/data data.train.params.list=null data.validation.params.list=null"
    )
    for words in commands((ROOT / page).read_text()):
        if words[0] in NEVER_END:
            continue
        if words[0] == "segment":  # the masks may be there, of the page before
            words = [*words, "--overwrite"]
        words = [
            w for word in words for w in (shlex.split(variables) if word == "$ALL" else [word])
        ]
        if words[0] == "train":
            words += SHORT
        command = [sys.executable, "-m", "taming", *words]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_demo_runs_in_a_clone(clone):
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    command = [sys.executable, "main.py", "demo", "--quick"]
    subprocess.run(command, cwd=clone, env=environment, check=True)
    assert (clone / "runs/demo/report.html").is_file()
