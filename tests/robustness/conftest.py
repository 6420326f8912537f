"""A folder with a small model of every kind and files of every kind, good and bad, in which bad
commands are given.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from taming import config, images
from taming.cli.main import main
from taming.formats.ours import Content, save_safetensors
from taming.inference.compress import compress_file
from taming.inference.record import record_of
from taming.second_stage.sampling import Sampling
from tests.conftest import first_stage_plain, gpt_plain, mask_stage_plain, paint_pairs, write_yaml


def second_stage(first: dict, conditioner: dict, part: dict) -> dict:
    params = {"first_stage": first["model"], "conditioner": conditioner, "prior": gpt_plain(part)}
    model = {"target": "taming.second_stage.SecondStage", "params": params}
    return {"model": model, "condition_dropout": 0.1}


def save_model(name: str, stage: str, plain: dict) -> None:
    experiment = config.from_plain(plain)
    model = config.build(experiment.model)
    content = Content(stage, config.to_plain(experiment), model.state_dict(), 0, {})
    save_safetensors(name, content)


def make_models() -> None:
    first, masks = first_stage_plain(), mask_stage_plain()
    reader = {
        "target": "taming.second_stage.EncodedImage",
        "params": {"first_stage": masks["model"]},
    }
    classes = {"target": "taming.second_stage.ClassLabel", "params": {"classes": 3}}
    nothing = {"target": "taming.second_stage.Unconditional"}
    save_model("first.safetensors", "first", first)
    save_model("masks.safetensors", "first", masks)
    for name, conditioner, part in (
        ("layouts", reader, {"vocabulary": 16, "grid": [8, 8]}),
        ("classes", classes, {"vocabulary": 3, "length": 1}),
        ("free", nothing, {"vocabulary": 1, "length": 1}),
    ):
        save_model(f"{name}.safetensors", "second", second_stage(first, conditioner, part))
    write_yaml(first, Path("first.yaml"))


def make_bad_files() -> None:
    bad = Path("bad")
    bad.mkdir()
    noise = np.random.default_rng(0).bytes(4000)
    for ending in ("ckpt", "safetensors", "png", "tamg", "npz", "yaml", "json", "npy", "csv"):
        (bad / f"empty.{ending}").touch()
        (bad / f"text.{ending}").write_text("this is\nno such file\n")
        (bad / f"noise.{ending}").write_bytes(noise)
        os.symlink("nowhere", bad / f"dangling.{ending}")
    for path, ending in (
        ("first.safetensors", "safetensors"),
        ("pairs/images/p0.png", "png"),
        ("free.tamg", "tamg"),
    ):
        content = Path(path).read_bytes()
        (bad / f"cut.{ending}").write_bytes(content[: len(content) // 2])
        (bad / f"renamed.{ending}").write_bytes(Path("first.yaml").read_bytes())
    (bad / "folder").mkdir()


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[Path]:
    folder, before = tmp_path_factory.mktemp("lab"), os.getcwd()
    os.chdir(folder)
    torch.manual_seed(0)
    try:
        make_models()
        paint_pairs(Path("pairs"), 3, (16, 16))
        compress_file("free.safetensors", "pairs/images/p0.png", "free.tamg")
        record = record_of("free.safetensors", None, None, "cpu", Sampling())
        images.save(torch.zeros(3, 16, 16), "sample.png", record.metadata())
        Path("notes.txt").write_text("mine")
        make_bad_files()
    finally:
        os.chdir(before)
    yield folder


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and date of every file; locks of run folders stay behind, empty."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir() and path.name != ".lock"
    }


@pytest.fixture
def refuses(lab, monkeypatch, capsys):
    """Gives a command, and asserts that it is refused in one line and changes no file."""
    monkeypatch.chdir(lab)

    def check(words: list[str], notes: bool = False) -> str:
        before = state(lab)
        capsys.readouterr()
        code = main(words)
        error = capsys.readouterr().err
        assert code == 2, f"code {code}, {error}"
        *before_it, line = error.splitlines()
        assert line.startswith("taming: ") and (notes or not before_it), error
        assert "Traceback" not in error and len(error) < 2000, error
        assert state(lab) == before
        return error

    return check
