"""Whose file is this, where does it lie, and does it fit: the facade in front of all formats."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import taming
from taming.cli.main import main
from taming.errors import UserError
from taming.formats.compvis import CompVisGPT
from taming.formats.compvis.checkpoint import convert_yaml, save_published
from taming.formats.describe import describe
from taming.formats.load import SHIPPED, find_checkpoint, read_checkpoint
from taming.formats.ours import save_safetensors
from taming.formats.pretrained import inlined, pretrained
from taming.second_stage import GPT
from tests.conftest import full_disk, write_yaml
from tests.formats.published import first_tree
from tests.formats.samples import gpt_node, second_content, small_content, write_ckpt, write_small

ROOT = Path(__file__).resolve().parents[2]
LANDSCAPES = SHIPPED / "landscapes.safetensors"

# Which file is meant


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_of_its_name_does_not_hide_a_shipped_model(here):
    (here / "landscapes").mkdir()
    (here / "landscapes" / "photo.jpg").touch()
    assert find_checkpoint("landscapes") == LANDSCAPES
    (here / "landscapes" / "checkpoints").mkdir()  # but a run of that name is meant
    last = write_ckpt(here / "landscapes" / "checkpoints" / "last.ckpt")
    assert find_checkpoint("landscapes") == last.relative_to(here)


@pytest.mark.parametrize("place", ["checkpoints", "ckpts", "."])
def test_a_run_folder_means_its_last_checkpoint(here, place):
    (here / "run" / place).mkdir(parents=True, exist_ok=True)
    last = write_ckpt(here / "run" / place / "last.ckpt")
    assert find_checkpoint(here / "run").samefile(last)


MISSING = {
    "nope": "'nope' does not exist; known: intel_landscapes, landscapes",
    "landscape": "did you mean 'landscapes'",
    "../pretrained/landscapes": "does not exist",
    "": "folder without",
    ".": "folder without",
    "a\0b": "does not exist|zero byte",
    "x" * 5000: "does not exist",
    "/dev/null": "does not exist",
    None: "not by a NoneType|None should be text",
    7: "not by a int|7 should be text",
}


@pytest.mark.parametrize("path", MISSING, ids=lambda path: repr(path)[:30])
def test_no_such_checkpoint(here, path):
    for read in (taming.load, describe):
        with pytest.raises(UserError, match=MISSING[path]) as refusal:
            read(path)
        assert "\n" not in str(refusal.value)


def test_a_run_with_only_a_best_checkpoint_says_so(here):
    (here / "checkpoints").mkdir()
    write_ckpt(here / "checkpoints" / "best.ckpt")
    with pytest.raises(UserError, match=r"best.ckpt' is there"):
        taming.load(".")
    assert taming.load("checkpoints/best.ckpt")


def test_a_file_that_may_not_be_read(here):
    os.symlink("nowhere", "dangling.ckpt")
    with pytest.raises(UserError, match="does not exist"):
        taming.load("dangling.ckpt")


# Its configuration


def test_a_missing_config_is_one_line(here, capsys):
    write_small(here / "m.ckpt")
    torch.save({"encoder.conv_in.weight": torch.ones(1)}, "bare.ckpt")
    for name in ("m.ckpt", "bare.ckpt", "landscapes"):
        assert main(["inspect", name, "--config", "nope.yaml"]) == 2
        error = capsys.readouterr().err
        assert "'nope.yaml' does not exist" in error and error.count("\n") == 1


def test_a_config_for_a_file_that_has_one_is_refused_not_ignored(here):
    write_yaml({"model": first_tree()}, here / "c.yaml")
    with pytest.raises(UserError, match=r"has its configuration inside; leave 'c.yaml' out"):
        taming.load(write_small(here / "m.ckpt"), "c.yaml")


@pytest.mark.parametrize("text", ["", "[1]", "{", "\tx: 1", "model: 1", "model: {target: x.Y}"])
def test_a_config_that_is_none_of_theirs(here, text, capsys):
    torch.save({"encoder.conv_in.weight": torch.ones(1)}, "m.ckpt")
    (here / "c.yaml").write_text(text)
    for words in (["inspect", "m.ckpt", "--config", "c.yaml"], ["convert", "c.yaml", "o.yaml"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


# What it is


def test_the_stage_is_the_one_that_is_needed(here):
    path = write_small(here / "m.ckpt")
    assert type(taming.load(path, stage="first")).__name__ == "VQGAN"
    for stage, cure in (
        ("second", "train a prior"),
        ("segmenter", "train one"),
        ("thrid", "is none; known: first"),
    ):
        with pytest.raises(UserError, match=cure):
            taming.load(path, stage=stage)
    with pytest.raises(UserError, match="says that it is a second stage, but its model is a VQGAN"):
        content = small_content(stage="second")
        save_safetensors("s.safetensors", content)
        taming.load("s.safetensors")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda weights: weights.pop("quant_conv.bias"), "lacks 1 tensor, 'quant_conv.bias'"),
        (
            lambda weights: weights.update(x=torch.ones(1)),
            "has, but the model does not, 1 tensor, 'x'",
        ),
        (
            lambda weights: weights.update({"quant_conv.bias": torch.ones(9)}),
            r"'quant_conv.bias' has shape \(9,\), but its configuration says \(4,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(here, change, message):
    content = small_content()
    change(content.weights)
    save_safetensors("m.safetensors", content)
    with pytest.raises(UserError, match=message):
        taming.load("m.safetensors")


def test_inspect_says_what_there_is_without_building_it(here, monkeypatch):
    path = write_small(here / "m.safetensors")

    def resolve(*arguments):
        raise AssertionError(f"{arguments[0]} was looked up")

    monkeypatch.setattr(sys.modules["taming.config.build"], "resolve", resolve)
    with pytest.raises(AssertionError, match="was looked up"):
        taming.load(path)
    lines = describe(path)
    assert "first stage, taming.first_stage.VQGAN, 7 batches" in lines
    assert "codebook quantizer: 32 codes of 4 numbers" in lines
    assert "validation rec: 0.5" in lines
    assert "trained on taming.data.DrawnLandscapes with seed 23" in lines


def test_the_meta_device_needs_no_checkpoint(here):
    """A second stage is built from its configuration before its first stage is trained."""
    plain = small_content().config
    write_yaml(plain, here / "first.yaml")
    with torch.device("meta"):
        assert pretrained("nowhere", "first.yaml").num_codes == (32,)
    with pytest.raises(UserError, match="train it first: taming train -b first.yaml"):
        pretrained("nowhere", "first.yaml")


def test_a_shipped_model_is_a_first_stage_by_its_name_in_a_configuration_too():
    """Named with a configuration, as every shipped configuration of a prior does."""
    named = pretrained("landscapes", "landscapes_vqgan_64")
    assert named.num_codes == (2048,)


@pytest.mark.parametrize(
    "name", ["taming.first_stage.pretrained", "taming.formats.pretrained.pretrained"]
)
def test_a_pretrained_part_becomes_the_tree_of_its_model(here, name):
    content = small_content()
    path = str(write_small(here / "m.ckpt"))
    node = {"a": [{"target": name, "params": {"checkpoint": path}}]}
    assert inlined(node) == {"a": [content.config["model"]]}


# Earlier versions


def test_the_shipped_model_loads():
    assert taming.load("landscapes").first_stage.num_codes == (2048,)
    assert read_checkpoint("landscapes").config["allow"] == []


def test_a_gpt_with_a_shared_vocabulary_is_todays_class(here):
    """Earlier versions named GPT and gave it what only published models have."""
    prior = gpt_node(shared_vocabulary=9, positions=5, unmasked=1, attention_dropout=0.1)
    content = second_content(prior)
    save_safetensors("m.safetensors", content)
    model = taming.load("m.safetensors")
    assert type(model.prior) is CompVisGPT and not model.prior.knows_null
    assert model.prior.tok_emb.num_embeddings == 9 and model.prior.blocks[0].attn.unmasked == 1
    assert model.prior.blocks[0].attn.attention_dropout == 0.1
    tree = save_published(here / "out", read_checkpoint("m.safetensors"))
    again = taming.load(tree)
    assert model.state_dict().keys() == again.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_gpt_that_says_what_it_has_not_is_a_gpt(here):
    nothing = {"shared_vocabulary": None, "positions": None, "unmasked": 0}
    save_safetensors("m.safetensors", second_content(gpt_node(**nothing, attention_dropout=0.0)))
    assert type(taming.load("m.safetensors").prior) is GPT
    with pytest.raises(UserError, match="prior.params.unmasked: unknown key"):
        second_content(gpt_node(unmasked=1))


def test_only_a_shared_table_is_exported(here):
    content = second_content(gpt_node())
    with pytest.raises(UserError, match="GPT has no counterpart .* CompVisGPT has"):
        save_published(here / "out", content)
    assert not (here / "out").exists()


# Memory


@pytest.mark.slow
def test_loading_takes_little_more_memory_than_the_file():
    """At most 1.3 times a file of 1 GB, in each container (benchmarks/bench_loading.py)."""
    words = [sys.executable, "benchmarks/bench_loading.py"]
    output = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    rows = [line.split("|") for line in output.splitlines()[2:]]
    assert len(rows) == 3 and all(float(row[4]) < 1.3 for row in rows), output


# A full disk


@pytest.mark.parametrize("verb", ["convert", "export", "convert yaml"])
def test_a_full_disk_is_one_line_and_leaves_nothing(here, verb):
    content = small_content()
    content.config["model"]["params"]["quantizer"]["params"]["normalize"] = False
    tree = first_tree()
    tree["params"] |= {f"note{i}": "x" * 100 for i in range(60)}
    write_yaml({"model": tree}, here / "theirs.yaml")
    write = {
        "convert": lambda: save_safetensors("out/m.safetensors", content),
        "export": lambda: save_published("out", content),
        "convert yaml": lambda: convert_yaml("theirs.yaml", "out/ours.yaml"),
    }[verb]
    with pytest.raises(UserError, match="can't be written .*make room") as refusal:
        with full_disk(4096):
            write()
    assert "\n" not in str(refusal.value)
    assert [path for path in (here / "out").rglob("*") if path.is_file()] == []
