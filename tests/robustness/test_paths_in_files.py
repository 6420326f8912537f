"""The model of a file opens no file of this machine, whichever class it names and wherever in its
parameters a path stands.
"""

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import taming
from taming import config
from taming.config.build import declared
from taming.errors import UserError
from taming.formats.ours import Content, save_safetensors
from tests.config.test_ranges import CLASSES, example_params
from tests.conftest import first_stage_plain, paint_pairs

MARK = "noticed_if_opened"
OPENED: list[str] = []


def notice(event: str, arguments: tuple) -> None:
    """Audit hooks stay for as long as the process, so this one only looks for our own names."""
    if event in ("open", "os.listdir", "os.scandir") and MARK in str(arguments[0]):
        OPENED.append(str(arguments[0]))


@pytest.fixture(scope="module")
def hook() -> None:
    sys.addaudithook(notice)


@pytest.fixture
def place(hook, tmp_path) -> Path:
    """A folder with what a constructor could open."""
    folder = tmp_path / MARK
    folder.mkdir()
    np.save(folder / "codes.npy", np.arange(4))
    (folder / "weights.safetensors").write_bytes(b"")
    (folder / "list.txt").write_text("secret\n")
    OPENED.clear()
    return folder


def open_hook_works(place: Path) -> bool:
    np.load(place / "codes.npy")
    return bool(OPENED)


# Data sets read their folder, and losses are built for training only, never from a checkpoint
OF_MODELS = [
    name
    for name, made in CLASSES.items()
    if not issubclass(made, Dataset) and not hasattr(made, "autoencoder")
]


@pytest.mark.parametrize("name", OF_MODELS)
def test_no_class_of_the_table_opens_a_path_of_a_file(name, place, tmp_path):
    paths = [place, *place.iterdir()]
    assert open_hook_works(place)
    OPENED.clear()
    params = example_params(name, str(paint_pairs(tmp_path / "pairs")))
    for key in declared(CLASSES[name])[0]:
        for path in paths:
            tree = {"target": name, "params": {**params, key: str(path)}}
            with suppress(UserError), torch.device("meta"):
                config.build(tree, trusted=False)
    assert OPENED == []


def remapped(used: str | int) -> dict:
    plain = first_stage_plain()
    inner = plain["model"]["params"]["quantizer"]
    outer = {
        "target": "taming.first_stage.RemappedQuantizer",
        "params": {"quantizer": inner, "used": used},
    }
    plain["model"]["params"]["quantizer"] = outer
    return plain


def test_a_list_of_codes_travels_in_the_checkpoint(place, tmp_path):
    """It was trained with a path; whoever loads it has no such file."""
    plain = remapped(str(place / "codes.npy"))
    experiment = config.from_plain(plain)
    model = config.build(experiment.model)
    file = tmp_path / "first.safetensors"
    save_safetensors(file, Content("first", plain, model.state_dict(), 0, {}))
    (place / "codes.npy").unlink()
    OPENED.clear()
    assert taming.load(file).num_codes == (4,) and OPENED == []


def test_a_path_without_the_codes_is_refused(place, tmp_path):
    model = config.build(config.from_plain(first_stage_plain()).model)
    file = tmp_path / "first.safetensors"
    plain = remapped(str(place / "codes.npy"))
    save_safetensors(file, Content("first", plain, model.state_dict(), 0, {}))
    with pytest.raises(UserError, match="quantizer.params.used: .*is not opened"):
        taming.load(file)
    assert OPENED == []
