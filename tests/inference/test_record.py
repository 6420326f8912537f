"""What a PNG holds about itself: as it was written, as earlier versions wrote it, and malformed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taming import images
from taming.cli.main import main
from taming.errors import UserError
from taming.inference.record import Record, read_record
from taming.second_stage.sampling import Sampling

EARLIER = Path(__file__).parent / "earlier.png"  # sampled from `landscapes` by version 0.1.0
RECORD = Record(
    checkpoint="landscapes",
    sha256="1dfa559d9fb19626",
    sampling=Sampling(size=(32, 48), seed=3, temperature=0.9, top_p=0.5),
    known=(("a.png", "12"), ("top:0.3", "")),
    condition={"class": 4},
    number=7,
    batch=3,
    row=2,
    threads=2,
)


def write(path: Path, metadata) -> Path:
    images.save(torch.zeros(3, 4, 4), path, metadata)
    return path


def test_a_record_comes_back(tmp_path):
    metadata = RECORD.metadata()
    assert metadata["sampling"]["temperature"] == 0.9 and "condition" not in metadata
    assert read_record(write(tmp_path / "x.png", metadata)) == RECORD


def test_settings_beside_other_keys_are_read(tmp_path):
    """As versions before `sampling` wrote them, which knew fewer."""
    metadata = RECORD.metadata()
    settings = metadata.pop("sampling")
    for name in ("hop", "accept", "classifier"):
        del settings[name]
    assert read_record(write(tmp_path / "x.png", metadata | settings)) == RECORD


def test_a_png_of_an_earlier_version_is_drawn_again(tmp_path):
    assert main(["sample", "--from-png", str(EARLIER), "-o", str(tmp_path)]) == 0
    first, again = (
        np.asarray(Image.open(path)).astype(int) for path in (EARLIER, tmp_path / "earlier.png")
    )
    assert np.abs(first - again).max() <= 2  # another machine rounds otherwise
    assert read_record(tmp_path / "earlier.png") == read_record(EARLIER)


def test_batch_and_threads_do_not_make_another_picture():
    assert RECORD.difference(replace(RECORD, batch=1, row=0, threads=9)) is None
    assert RECORD.difference(replace(RECORD, number=8)) == "number 8 instead of 7"
    other = replace(RECORD, sampling=replace(RECORD.sampling, seed=4))
    assert RECORD.difference(other) == "seed 4 instead of 3"


@pytest.mark.parametrize("metadata", [None, {}, {"text": "of another program"}])
def test_a_picture_from_elsewhere_has_none(tmp_path, metadata):
    assert read_record(write(tmp_path / "x.png", metadata)) is None


def changed(**values) -> dict:
    return {**RECORD.metadata(), **values}


WRONG = {
    **{
        name: [None, [], {}, True, 1.5, -1, "x", [1], 10**30]
        for name in ("number", "batch", "row", "threads", "class")
    },
    "sampling": [None, [], 3, "x"],
    "checkpoint": [None, [], {}, 3, True],
    "sha256": [None, [], 3],
    "segmentation": [None, 3, [], {}],
    "image": [None, "x", [], ["x"], ["x", 3], ["x", "y", "z"]],
    "known": ["x", [], {}, [["a", "b"]], [["a"], ["b"]], [1, 2]],
    "config": ["x", 3, ["x"], [1, 2], {"a": "b"}],
    "device": [None, 3, "tpu", ["cpu"]],
}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_malformed_value_is_named(tmp_path, name, value):
    path = write(tmp_path / "x.png", changed(**{name: value}))
    with pytest.raises(UserError, match=f"x.png' says .* malformed .*{name}"):
        read_record(path)


@pytest.mark.parametrize("name", ["sha256", "number", "batch", "row", "threads"])
def test_a_missing_value_is_named(tmp_path, name):
    metadata = RECORD.metadata()
    del metadata[name]
    with pytest.raises(UserError, match=name):
        read_record(write(tmp_path / "x.png", metadata))


def test_a_row_beyond_its_batch_is_malformed(tmp_path):
    with pytest.raises(UserError, match="row 3 of a batch of 3"):
        read_record(write(tmp_path / "x.png", changed(row=3)))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": "big"},
        {"size": [0, 4]},
        {"size": [4]},
        {"size": [[4], 4]},
        {"seed": "x"},
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_k": 0},
        {"top_k": [3]},
        {"top_p": 2},
        {"guidance": {}},
        {"hop": 0},
        {"accept": 0},
        {"classifier": 3},
    ],
)
def test_malformed_settings_are_named(tmp_path, settings):
    (name,) = settings
    nested = write(tmp_path / "x.png", changed(sampling=settings))
    flat = {key: value for key, value in RECORD.metadata().items() if key != "sampling"}
    for path in (nested, write(tmp_path / "y.png", flat | settings)):
        with pytest.raises(UserError, match=f"malformed .*{name}"):
            read_record(path)
