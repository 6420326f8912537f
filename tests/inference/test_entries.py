"""taming sample with text, boxes, edges, small pictures, a style, depth, and two conditions."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from taming import config
from taming.cli.main import main
from taming.data.card import Card
from taming.errors import UserError
from taming.formats.content import Content
from taming.formats.load import load
from taming.formats.ours import save_safetensors
from taming.images import read_metadata
from taming.inference.boxes import read_box_file
from taming.inference.entries import combined, numbered
from tests.data import fakes

CARD = Card(classes=("lake", "sea", "dune"), objects=("dog", "person"))


def node(name: str, **params) -> dict:
    return {"target": f"taming.{name}", "params": params}


def tokenizer(target: str = "VQGAN", **params) -> dict:
    quantizer = node("first_stage.VectorQuantizer", num_codes=16, dim=4)
    net = {"channels": 8, "blocks": 1, "latent_channels": 8, "multipliers": [1, 2]}
    return node(f"first_stage.{target}", **net, quantizer=quantizer, **params)


CLASS = node("second_stage.ClassLabel", classes=3)
TEXT = node("second_stage.Text", length=16, vocabulary=300)
MASK = node("second_stage.EncodedImage", first_stage=tokenizer("MaskVQGAN", labels=3))
CONDITIONERS = {
    "class": CLASS,
    "text": TEXT,
    "boxes": node("second_stage.Boxes", objects=4, vocabulary=64, classes=2),
    "edges": node("second_stage.Edges", first_stage=tokenizer(in_channels=1, key="edges")),
    "low-res": node("second_stage.LowResolution", first_stage=tokenizer(), factor=2),
    "style": node("second_stage.Style", first_stage=tokenizer(), size=8),
    "depth": node("second_stage.EncodedImage", first_stage=tokenizer(in_channels=1, key="depth")),
    "keypoints": node("second_stage.EncodedImage", first_stage=tokenizer(key="keypoints")),
    "coordinates": node("second_stage.Coordinates", steps=16, factor=2),
    "mask-class": node("second_stage.Together", first=MASK, second=CLASS),
    "mask-text": node("second_stage.Together", first=MASK, second=TEXT),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a picture, a layout, boxes and depth; checkpoints are made when asked for."""
    monkeypatch.chdir(tmp_path)
    fakes.picture(tmp_path / "picture.png", (16, 16))
    fakes.labels(tmp_path / "layout.png", [0, 1, 2], (16, 16))
    np.save(tmp_path / "depth.npy", np.arange(256.0).reshape(16, 16))
    (tmp_path / "boxes.json").write_text('{"scene": [["dog", 0.1, 0.2, 0.5, 0.6]]}')
    return tmp_path


def checkpoint(name: str) -> str:
    """A second stage with random weights."""
    if name in ("text", "mask-text"):
        pytest.importorskip("tokenizers")
    prior = node("second_stage.GPT", layers=1, heads=2, width=16)
    model = node(
        "second_stage.SecondStage",
        first_stage=tokenizer(),
        conditioner=CONDITIONERS[name],
        prior=prior,
        size=16,
    )
    experiment = config.from_plain({"model": model, "condition_dropout": 0.1})
    weights = config.build(experiment.model).state_dict()
    content = Content("second", config.to_plain(experiment), weights, 0, {}, card=CARD)
    save_safetensors(f"{name}.safetensors", content)
    return f"{name}.safetensors"


FLAGS = {
    "class": ["--classes", "dune,0"],
    "text": ["--text", "a lake at dusk"],
    "boxes": ["--boxes", "boxes.json"],
    "edges": ["--edges-of", "picture.png"],
    "low-res": ["--low-res", "picture.png"],
    "style": ["--style", "picture.png"],
    "depth": ["--depth", "depth.npy"],
    "keypoints": ["--images", "picture.png"],
    "coordinates": [],
    "mask-class": ["--masks", "layout.png", "--classes", "sea,lake"],
    "mask-text": ["--masks", "layout.png", "--text", "a lake", "--guidance-second", "2"],
}


@pytest.mark.parametrize("name", FLAGS)
def test_a_condition_from_the_command_line(here, name):
    assert main(["sample", checkpoint(name), *FLAGS[name], "-o", "out"]) == 0
    files = sorted(path.name for path in (here / "out").glob("*-0.png"))
    expected = {"class": 2, "mask-class": 2}.get(name, 1)
    assert len(files) == expected, files
    size = (32, 32) if name == "low-res" else (16, 16)
    first = here / "out" / files[0]
    assert Image.open(first).size == size
    # The PNG is enough to draw it again, to the pixel
    assert main(["sample", "--from-png", str(first), "-o", "again.png"]) in (0, 2)
    again = next(iter(here.rglob("again.png*")), None)
    if again is not None and again.is_file():
        assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(first)))


def test_one_of_two_conditions_is_enough(here):
    path = checkpoint("mask-class")
    assert main(["sample", path, "--classes", "sea", "-o", "a"]) == 0
    assert main(["sample", path, "--masks", "layout.png", "-o", "b"]) == 0
    assert read_metadata(here / "a" / "class1-0.png")["class"] == 1


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("class", ["--classes", "pond"], "class 'pond' is unknown"),
        ("class", ["--text", "a lake"], "takes --classes A,B; this command has --text"),
        ("class", [], "takes --classes A,B; this command has no condition"),
        ("class", ["--classes", "0", "--guidance-second", "2"], "has one; leave it out"),
        ("text", ["--text", " "], "not empty"),
        ("text", ["--text", "zq " * 30], "tokens, but this prior knows 16"),
        ("boxes", ["--boxes", "nowhere.json"], "does not exist"),
        ("boxes", ["--boxes", "layout.png"], "is not UTF-8|no complete JSON"),
        ("low-res", ["--low-res", "nowhere"], "does not exist"),
        ("mask-class", ["--text", "a lake"], "conditioned on 'segmentation' and 'class'"),
    ],
)
def test_what_does_not_fit_is_one_line(here, name, words, message, capsys):
    assert main(["sample", checkpoint(name), *words, "-o", "out"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": [["cat", 0, 0, 1, 1]]}', "object 'cat' is unknown"),
        ('{"a": [["dog", 0, 0, 2, 1]]}', "lies outside its picture"),
        ('{"a": [["dog", 0.5, 0, 0.2, 1]]}', "ends before it begins"),
        ('{"a": [["dog", 0, 0, 1]]}', "should be \\[class, left"),
        ('{"a": []}', "holds no boxes"),
        ('{"a": [["dog", 0', "no complete JSON"),
        ("[1, 2]", "should hold rows"),
        ('{"a": [[7, 0, 0, 1, 1]]}', "object class 7 is unknown"),
        (json.dumps({"a": [["dog", 0, 0, 1, 1]] * 5}), "at most 4"),
    ],
)
def test_a_file_of_boxes_that_does_not_fit(here, content, message, capsys):
    (here / "boxes.json").write_text(content)
    assert main(["sample", checkpoint("boxes"), "--boxes", "boxes.json", "-o", "out"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_boxes_in_the_published_formats(here):
    (here / "coco.json").write_text(json.dumps(fakes.coco_boxes(["a.jpg", "b.jpg"])))
    rows = read_box_file("coco.json")
    assert sorted(rows) == ["a", "b"]
    assert rows["a"][0] == ("dog", 6 / 24, 5 / 20, 18 / 24, 15 / 20, 0)
    fakes.openimages(here / "oi")
    rows = read_box_file(here / "oi" / "oidv6-train-annotations-bbox.csv")
    assert rows["000002b66c9c498e"][0] == ("/m/0bt9lr", 0.25, 0.5, 0.75, 1.0)


def test_classes_by_name_and_number():
    assert numbered(["sea", 0, "2"], CARD.classes) == [1, 0, 2]
    with pytest.raises(UserError, match="did you mean 'lake'"):
        numbered(["lak"], CARD.classes)
    with pytest.raises(UserError, match="no names of classes"):
        numbered(["lake"], ())


def test_every_condition_of_one_with_every_one_of_the_other():
    pairs = combined([[("a", {"class": 0}), ("b", {"class": 1})], [("t", {"caption": "x"})]])
    assert pairs == [("a-t", {"class": 0, "caption": "x"}), ("b-t", {"class": 1, "caption": "x"})]


def test_two_strengths_draw_another_picture(here):
    model = load(checkpoint("mask-class"), stage="second")
    torch.nn.init.normal_(model.prior.head.weight)
    batch = {"segmentation": torch.zeros(1, 16, 16).long(), "class": torch.tensor([1])}
    one = model.sample(batch, guidance=2.0)
    assert torch.equal(one, model.sample(batch, guidance=2.0, guidance_second=2.0))
    assert not torch.equal(one, model.sample(batch, guidance=2.0, guidance_second=-9.0))
